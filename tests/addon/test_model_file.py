"""Model files read by the add-on, written by hand: no torch is needed to say what is wrong with one."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from headcast.addon import model_file
from headcast.addon.model_file import ModelFile, ModelUnusable, inspect_model, place_for, read_model_file
from safetensors import safe_open

from inference import checkpoints

CONFIG = {"format": 1, "name": "tiny", "licence": "CC BY-NC-SA 4.0", "commercial_use": False, "encoders": {}}
TENSORS: dict[str, Any] = {
    "generator.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "generator.none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [24, 24]},
    "visible.weight": {"dtype": "F16", "shape": [5], "data_offsets": [24, 34]},
    "occluded.count": {"dtype": "I64", "shape": [], "data_offsets": [34, 42]},
}
CONTENT_BYTES = 42


def write(path: Path, config: Any, tensors: Any = TENSORS, content: bytes = bytes(CONTENT_BYTES)) -> Path:
    """A file in safetensors' format with these words and tensors."""
    text = config if isinstance(config, str) else json.dumps(config)
    header = json.dumps({"__metadata__": {"headcast": text}, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    return path


def test_a_model_tells_its_size_licence_and_whether_its_heads_may_be_sold(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.safetensors", CONFIG)
    with safe_open(path, framework="np") as file:  # the file is one by the format's own library
        assert sorted(file.keys()) == sorted(TENSORS)
    assert read_model_file(path) == ModelFile(path, path.stat().st_size, "CC BY-NC-SA 4.0", False, True)


def test_what_a_file_does_not_say_is_not_made_up(tmp_path: Path) -> None:
    told = read_model_file(write(tmp_path / "a.safetensors", {"format": 1, "encoders": {}, "commercial_use": "yes"}))
    assert told.licence == "" and told.commercial_use is None


def test_a_generator_alone_is_told_apart(tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "encoders"}
    alone = {key: value for key, value in TENSORS.items() if key.startswith("generator.")}
    assert not read_model_file(write(tmp_path / "a.safetensors", config, alone, bytes(24))).has_encoders
    with pytest.raises(ModelUnusable, match="damaged"):  # its words promise encoders
        read_model_file(write(tmp_path / "a.safetensors", CONFIG, alone, bytes(24)))


def test_the_bundled_model_is_read_as_the_engine_reads_it() -> None:
    path = checkpoints.find("starter")
    told = read_model_file(path)
    assert told.has_encoders and told.size == path.stat().st_size
    assert told.licence == checkpoints.read(path)[0]["licence"]


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**TENSORS, name: {**TENSORS[name], **fields}}


@pytest.mark.parametrize(
    ("config", "tensors", "content", "said"),
    [
        (CONFIG, TENSORS, bytes(CONTENT_BYTES - 1), "damaged"),
        (CONFIG, TENSORS, bytes(CONTENT_BYTES + 1), "damaged"),
        (CONFIG, changed("generator.weight", shape=[2, 4]), bytes(CONTENT_BYTES), "damaged"),
        (CONFIG, changed("generator.weight", shape=[2**40, 2**40]), bytes(CONTENT_BYTES), "damaged"),
        (CONFIG, changed("visible.weight", data_offsets=[20, 30]), bytes(CONTENT_BYTES), "damaged"),
        (CONFIG, changed("visible.weight", dtype="F99"), bytes(CONTENT_BYTES), "damaged"),
        (CONFIG, changed("visible.weight", data_offsets="no"), bytes(CONTENT_BYTES), "damaged"),
        (CONFIG, {**TENSORS, "visible.weight": 3}, bytes(CONTENT_BYTES), "damaged"),
        ("{", TENSORS, bytes(CONTENT_BYTES), "damaged"),
        ("[1]", TENSORS, bytes(CONTENT_BYTES), "damaged"),
        ("[" * 100_000, TENSORS, bytes(CONTENT_BYTES), "damaged"),
        ({**CONFIG, "format": 2}, TENSORS, bytes(CONTENT_BYTES), "another version"),
    ],
    ids=[
        "short", "long", "shape", "huge", "overlap", "type", "offsets", "no tensor", "no JSON", "list", "nested",
        "format",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_refused_by_its_name(
    config: Any, tensors: Any, content: bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnusable, match=said) as refused:
        read_model_file(write(tmp_path / "bad.safetensors", config, tensors, content))
    assert "bad.safetensors" in refused.value.message and refused.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", struct.pack("<Q", 2**63), struct.pack("<Q", 2) + b"[]", b"<!DOCTYPE html><html>", b"\x80\x04." * 9],
    ids=["empty", "one byte", "endless header", "list", "web page", "pickle"],
)
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelUnusable, match="damaged"):
        read_model_file(path)


def test_a_model_of_another_program_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ModelUnusable, match="no Headcast model"):
        read_model_file(path)


def test_a_file_that_changes_is_read_again_and_one_that_vanishes_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", CONFIG)
    told = inspect_model(path)
    assert isinstance(told, ModelFile) and inspect_model(path) is told
    write(path, {**CONFIG, "licence": "another licence"})
    again = inspect_model(path)
    assert isinstance(again, ModelFile) and again.licence == "another licence"
    path.unlink()
    gone = inspect_model(path)
    assert isinstance(gone, ModelUnusable) and str(path) in gone.message


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("", ["mine.safetensors"], "mine.safetensors"),
        ("", ["visible_net.pt", "easy-khair.v2.pkl", "latent_avg.npy"], "easy-khair.v2.safetensors"),
        ("  PanoHead ", ["easy-khair.pkl"], "PanoHead.safetensors"),
        ("PanoHead.safetensors", ["easy-khair.pkl"], "PanoHead.safetensors"),
        ("../Zoë: 1/2", ["easy-khair.pkl"], "_Zoë_ 1_2.safetensors"),
    ],
)
def test_a_model_is_named_as_asked_or_as_its_generator(
    name: str, files: list[str], expected: str, tmp_path: Path
) -> None:
    assert place_for(name, [Path(file) for file in files], tmp_path) == tmp_path / expected


def test_names_that_are_taken_and_files_without_a_generator_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    with pytest.raises(ModelUnusable, match="named mine already"):
        place_for("", [Path("mine.safetensors")], tmp_path)
    with pytest.raises(ModelUnusable, match="generator"):
        place_for("", [Path("visible_net.pt"), Path("occluded_net.pt")], tmp_path)


def test_a_published_model_has_a_checksum_that_the_engine_accepts_and_is_removed_with_it(tmp_path: Path) -> None:
    (tmp_path / "passing").mkdir()
    fresh, place = write(tmp_path / "passing" / "a.safetensors", CONFIG), tmp_path / "a.safetensors"
    digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
    model_file.publish(fresh, digest, place)
    assert model_file.noted_sha256(place) == checkpoints.checked_sha256(place) == digest
    assert list((tmp_path / "passing").iterdir()) == []
    model_file.remove(place)
    assert [path.name for path in tmp_path.iterdir()] == ["passing"]
    assert model_file.noted_sha256(place) == ""


def test_a_model_that_cannot_be_moved_leaves_no_checksum_behind(tmp_path: Path) -> None:
    (tmp_path / "passing").mkdir()
    fresh, place = write(tmp_path / "passing" / "a.safetensors", CONFIG), tmp_path / "a.safetensors"
    place.mkdir()  # a folder in its place
    with pytest.raises(OSError):
        model_file.publish(fresh, "0" * 64, place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "passing"]
