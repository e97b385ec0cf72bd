from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference import checkpoints
from inference.encoders import EncoderConfig, OccludedEncoder, VisibleEncoder
from inference.errors import WeightsDamaged, WeightsMissing
from inference.generator import STARTER, TriPlaneGenerator

SMALL = replace(STARTER, channel_base=64, planes_resolution=8, z_dim=16, w_dim=16)
SMALL_ENCODER = EncoderConfig(
    input_size=16, channels=(8, 16), feature_channels=8, lift_channels=4, lift_width=8, lift_samples=2, style_width=8
)


@pytest.fixture
def generator() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(SMALL)


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the bundled weights."""
    monkeypatch.setattr(checkpoints, "WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(checkpoints, "INDEX_FILE", tmp_path / "index.json")
    return tmp_path


@pytest.fixture
def saved(generator: TriPlaneGenerator, weights_folder: Path) -> Path:
    path = weights_folder / "small.safetensors"
    visible = VisibleEncoder(SMALL_ENCODER, SMALL, SMALL.num_ws)
    occluded = OccludedEncoder(SMALL_ENCODER, SMALL, SMALL.num_ws)
    checkpoints.save(path, generator, visible, occluded, "small", {"licence": "CC0-1.0"})
    return path


def test_a_model_survives_its_file(saved: Path, generator: TriPlaneGenerator) -> None:
    model = checkpoints.load("small")
    assert model.name == "small" and model.config["licence"] == "CC0-1.0"
    assert model.sha256 == checkpoints.sha256_of(saved)
    assert model.generator.config == SMALL and model.visible.config == SMALL_ENCODER
    loaded = model.generator.state_dict()
    for key, value in generator.state_dict().items():
        assert loaded[key].dtype == torch.float32
        # Half precision keeps eleven bits; below 6e-8 it keeps nothing.
        torch.testing.assert_close(loaded[key], value, rtol=2**-11, atol=6e-8)
    assert not any(parameter.requires_grad for parameter in model.occluded.parameters())
    assert not model.visible.training


def test_a_model_is_found_by_its_path_too(saved: Path) -> None:
    assert checkpoints.load(saved).name == "small"
    assert checkpoints.load(str(saved)).name == "small"


def test_a_missing_model_is_named(weights_folder: Path) -> None:
    with pytest.raises(WeightsMissing, match="portraitist"):
        checkpoints.load("portraitist")
    with pytest.raises(WeightsMissing):
        checkpoints.load(weights_folder / "nowhere.safetensors")


def test_a_bundled_file_that_changed_is_refused(saved: Path) -> None:
    checkpoints.note_bundled(saved)
    checkpoints.load("small")
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    saved.write_bytes(content)
    with pytest.raises(WeightsDamaged, match="checksum"):
        checkpoints.load("small")


def test_a_file_that_differs_from_the_checksum_beside_it_is_refused(
    generator: TriPlaneGenerator, weights_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("models") / "mine.safetensors"
    visible = VisibleEncoder(SMALL_ENCODER, SMALL, SMALL.num_ws)
    occluded = OccludedEncoder(SMALL_ENCODER, SMALL, SMALL.num_ws)
    digest = checkpoints.save(path, generator, visible, occluded, "mine", {})
    beside = path.with_name("mine.safetensors.sha256")
    beside.write_text(f"{digest.upper()} *mine.safetensors\r\n")
    assert checkpoints.load(path).sha256 == digest
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    path.write_bytes(content)
    with pytest.raises(WeightsDamaged, match=r"mine\.safetensors is damaged: its checksum"):
        checkpoints.load(path)
    beside.write_text("<!DOCTYPE html>")
    with pytest.raises(WeightsDamaged, match="no SHA-256"):
        checkpoints.load(path)
    beside.unlink()
    assert checkpoints.load(path).sha256 != digest


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_a_file_that_ends_early_is_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(WeightsDamaged, match=r"small\.safetensors"):
        checkpoints.load("small")


def test_a_file_of_something_else_is_refused(weights_folder: Path) -> None:
    save_file({"weight": torch.zeros(3)}, weights_folder / "other.safetensors")
    with pytest.raises(WeightsDamaged, match="no Headcast model"):
        checkpoints.load("other")


def test_a_file_of_a_later_format_is_refused(
    saved: Path, generator: TriPlaneGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    with pytest.raises(WeightsDamaged, match="another version"):
        checkpoints.load("small")


def test_tensors_that_do_not_fit_the_sizes_are_refused(saved: Path) -> None:
    config, tensors = checkpoints.read(saved)
    tensors.pop("generator.decoder.net.0.bias")
    save_file(tensors, saved, metadata={checkpoints.METADATA_KEY: json.dumps(config)})
    with pytest.raises(WeightsDamaged, match="fit together"):
        checkpoints.load("small")


def test_a_generator_without_encoders_is_a_model_too(generator: TriPlaneGenerator, weights_folder: Path) -> None:
    checkpoints.save(weights_folder / "bare.safetensors", generator, None, None, "bare", {})
    assert checkpoints.load_generator("bare").config == SMALL
    model = checkpoints.load("bare")
    assert model.generator.config == SMALL and model.visible is None and model.occluded is None
    assert not any(parameter.requires_grad for parameter in model.generator.parameters())


def test_encoders_that_are_announced_and_missing_are_refused(
    generator: TriPlaneGenerator, saved: Path, weights_folder: Path
) -> None:
    config, tensors = checkpoints.read(saved)
    bare = {key: value for key, value in tensors.items() if key.startswith("generator.")}
    save_file(bare, saved, metadata={checkpoints.METADATA_KEY: json.dumps(config)})
    with pytest.raises(WeightsDamaged, match="fit together"):
        checkpoints.load(saved)


def test_a_weight_too_large_for_half_precision_is_not_written(
    generator: TriPlaneGenerator, weights_folder: Path
) -> None:
    with torch.no_grad():
        generator.mean_planes[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match="mean_planes"):
        checkpoints.save(weights_folder / "large.safetensors", generator, None, None, "large", {})
