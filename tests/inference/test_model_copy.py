from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference import checkpoints, model_copy
from inference.errors import (
    OutputNotWritable,
    SourceMissing,
    WeightsDamaged,
)
from inference.progress import Cancelled, silent

from .published_encoders import write_published


@pytest.fixture
def source(simple_model: str, tmp_path: Path) -> Path:
    """A model of the user's own, somewhere on their disk."""
    path = tmp_path / "downloads" / "mine.safetensors"
    path.parent.mkdir()
    path.write_bytes(Path(simple_model).read_bytes())
    return path


def rewritten(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The same words with other tensors, whole by the format's own rules."""
    config, _ = checkpoints.read(path)
    save_file(tensors, path, metadata={checkpoints.METADATA_KEY: json.dumps(config)})


def test_a_finished_model_is_copied_to_the_byte_with_rising_progress(source: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "copy.safetensors", []
    made = model_copy.convert_or_copy([source], out, lambda fraction, label: told.append((fraction, label)))
    assert out.read_bytes() == source.read_bytes()
    assert made.sha256 == checkpoints.sha256_of(source) and made.size == source.stat().st_size
    assert made.licence == "CC0-1.0"
    assert told == sorted(told) and told[-1] == (1.0, "Copying the model")


def test_published_files_become_a_model_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "panohead.safetensors"
    made = model_copy.convert_or_copy(write_published(tmp_path), out, silent)
    model = checkpoints.load(out)
    assert model.sha256 == made.sha256 and model.config["commercial_use"] is False


def test_a_generator_alone_is_a_model_too_converted_or_finished(tmp_path: Path) -> None:
    bare, copy = tmp_path / "bare.safetensors", tmp_path / "copy.safetensors"
    made = model_copy.convert_or_copy([write_published(tmp_path)[0]], bare, silent)
    assert model_copy.convert_or_copy([bare], copy, silent).sha256 == made.sha256
    model = checkpoints.load(copy)
    assert model.visible is None and model.occluded is None


def test_tensors_of_other_shapes_and_names_are_listed(source: Path, tmp_path: Path) -> None:
    _, tensors = checkpoints.read(source)
    key = "generator.decoder.net.0.bias"
    first, *_ = (name for name in tensors if name.startswith("occluded."))
    for change, said in (
        ({key: torch.zeros(7)}, f"1 of another shape: {key} is 7, not"),
        ({"visible.new": torch.zeros(2)}, "1 unknown: visible.new"),
    ):
        rewritten(source, {**tensors, **change})
        with pytest.raises(WeightsDamaged, match=said):
            model_copy.copy_model(source, tmp_path / "out.safetensors", silent)
    rewritten(source, {name: value for name, value in tensors.items() if name != first})
    with pytest.raises(WeightsDamaged, match=f"1 missing: {first}"):
        model_copy.copy_model(source, tmp_path / "out.safetensors", silent)
    assert not (tmp_path / "out.safetensors").exists()


def test_shapes_are_checked_without_taking_the_memory_they_claim(source: Path, tmp_path: Path) -> None:
    config, tensors = checkpoints.read(source)
    config["generator"]["channel_max"] = config["generator"]["channel_base"] = 2**24  # 10^15 numbers a layer
    save_file(tensors, source, metadata={checkpoints.METADATA_KEY: json.dumps(config)})
    with pytest.raises(WeightsDamaged, match="of another shape"):
        model_copy.copy_model(source, tmp_path / "out.safetensors", silent)


def test_a_model_that_differs_from_its_makers_checksum_is_refused(source: Path, tmp_path: Path) -> None:
    beside = source.with_name(source.name + ".sha256")
    beside.write_text(f"{checkpoints.sha256_of(source)}  {source.name}\n")
    model_copy.copy_model(source, tmp_path / "one.safetensors", silent)
    content = bytearray(source.read_bytes())
    content[-1] ^= 1  # one bit of one weight: every shape is as it was
    source.write_bytes(content)
    with pytest.raises(WeightsDamaged, match="checksum"):
        model_copy.copy_model(source, tmp_path / "two.safetensors", silent)


def test_what_is_no_model_is_refused_in_words(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(SourceMissing, match="nowhere"):
        model_copy.copy_model(tmp_path / "nowhere.safetensors", out, silent)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsDamaged, match="no Headcast model"):
        model_copy.copy_model(tmp_path / "other.safetensors", out, silent)
    save_file({"weight": torch.zeros(3)}, tmp_path / "list.safetensors", metadata={checkpoints.METADATA_KEY: "[1]"})
    with pytest.raises(WeightsDamaged, match="damaged"):
        model_copy.copy_model(tmp_path / "list.safetensors", out, silent)
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(WeightsDamaged, match="damaged"):
        model_copy.copy_model(source, out, silent)
    assert not out.exists()


def test_a_folder_that_is_not_there_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritable, match=r"mine\.safetensors cannot be copied"):
        model_copy.copy_model(source, tmp_path / "nowhere" / "out.safetensors", silent)


def test_copying_can_be_cancelled_between_chunks(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_copy, "CHUNK", 1024)
    told: list[float] = []

    def cancelled(fraction: float, label: str) -> None:
        told.append(fraction)
        if label == "Copying the model" and fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        model_copy.copy_model(source, tmp_path / "out.safetensors", cancelled)
    assert len(told) > 5 and told[-1] < 0.7
