"""The file that a head can be made again from: nothing is lost in it, and damage is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from inference import head_file
from inference.alignment import AlignedPortrait, FacePose
from inference.camera import orbit_camera
from inference.checkpoints import HeadModel
from inference.errors import HeadFileDamaged, HeadFileMissing, HeadFileNewer, HeadOfOtherModel
from inference.generator import TriPlaneGenerator
from inference.head_file import FinishedMesh
from inference.head_source import HeadSource, UnseenSide, kept_precision, part_of_photo
from inference.photo import Photo
from inference.refinement import WARP_GRID, Misfit, Refinement
from inference.surface import Mesh
from inference.tri_grid import TriGrid
from inference.w_plus_optimisation import PictureLoss, WPlusFit
from tests.neck_and_sphere import CONFIG

PLANES = (3, CONFIG.plane_channels, CONFIG.planes_depth, 8, 8)
LATENT = (1, 10, 8)


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return HeadModel(TriPlaneGenerator(CONFIG), None, None, {}, "a" * 64, "made up")


@pytest.fixture
def source() -> HeadSource:
    """Random numbers of the right shapes; what they mean does not matter to a file."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    portrait = AlignedPortrait(
        image=rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        matte=rng.random((64, 64), dtype=np.float32),
        camera=orbit_camera(17.0, -3.0),
        photo_from_crop=np.array([[1.1, 0.2, 30.0], [-0.2, 1.1, 41.5], [0, 0, 1]]),
        landmarks=rng.random((478, 3)),
        pose=FacePose(1.0, 2.0, 3.0, 0.9, 80.0, 1),
    )
    photo = Photo(rng.integers(0, 256, (150, 140, 3), dtype=np.uint8), None, 1234.5, Path("folder") / "Zoë 写真.jpg")
    part, corner_px = part_of_photo(photo, portrait)
    planes = [kept_precision(torch.randn(PLANES)) for _ in range(2)]
    unseen = UnseenSide(
        planes[1], torch.rand(3, CONFIG.planes_depth, 8, 8), torch.randn(LATENT), torch.randn(LATENT), seed=3
    )
    shift = torch.randn(1, 3, WARP_GRID, WARP_GRID, WARP_GRID)
    refinement = Refinement(shift, 0.7, 3, Misfit(0.3, None), Misfit(0.1, 0.2))
    fit = WPlusFit(7, PictureLoss(0.3, 0.2), PictureLoss(0.1, 0.05))
    visible = TriGrid(planes[0], 0.7)
    return HeadSource(
        part, corner_px, (150, 140), portrait, torch.randn(LATENT), visible, unseen, fit, refinement, "fast"
    )


@pytest.fixture
def finished() -> FinishedMesh:
    rng = np.random.default_rng(1)
    mesh = Mesh(rng.random((5, 3)), np.array([[0, 1, 2], [2, 3, 4]]))
    seen = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    return FinishedMesh(mesh, rng.random((5, 2)), rng.random(5, dtype=np.float32), seen)


def equal(one: object, other: object) -> bool:
    """Whether two values are the same to the last bit, looking into dataclasses."""
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def test_what_is_written_is_read_to_the_last_bit_but_for_the_photos_folder(source, finished, model, tmp_path):
    head_file.write(tmp_path, source, finished, model)
    found = head_file.read(tmp_path)
    photo = dataclasses.replace(source.photo, path=Path("Zoë 写真.jpg"))
    assert equal(found.source, dataclasses.replace(source, photo=photo)) and equal(found.finished, finished)
    head_file.check_model(tmp_path, model)


def test_what_a_head_may_lack_is_lacking_when_it_is_read(source, finished, model, tmp_path):
    plain = dataclasses.replace(source, unseen=None, fit=None, refinement=None, level="off")
    head_file.write(tmp_path, plain, finished, model)
    found = head_file.read(tmp_path).source
    assert (found.unseen, found.fit, found.refinement, found.level) == (None, None, None, "off")


def test_planes_take_half_precision_only_where_nothing_is_lost(source, finished, model, tmp_path):
    sizes = []
    for planes in (source.visible.planes, source.visible.planes + 1e-5):
        head_file.write(tmp_path, dataclasses.replace(source, visible=TriGrid(planes, 0.7)), finished, model)
        with safe_open(tmp_path / head_file.FILE_NAME, framework="pt") as file:
            sizes.append(file.get_tensor("visible.planes").dtype)
        assert torch.equal(head_file.read(tmp_path).source.visible.planes, planes)
    assert sizes == [torch.float16, torch.float32]
    assert torch.equal(kept_precision(torch.tensor([1e9])), torch.tensor([1e9]))  # too large for half precision


def test_the_part_of_the_photo_is_what_the_portrait_shows(source):
    height, width = source.photo_size
    left, top = source.corner_px
    rows, columns = source.photo.rgb.shape[:2]
    assert left >= 0 and top >= 0 and left + columns <= width and top + rows <= height
    rng = np.random.default_rng(0)
    crop = np.column_stack([rng.random((100, 2)) * 64, np.ones(100)])
    whole = (crop @ source.portrait.photo_from_crop.T)[:, :2]
    part = (crop @ source.portrait_of_part.photo_from_crop.T)[:, :2]
    assert np.allclose(part + [left, top], whole)
    in_photo = (whole >= 0).all(1) & (whole < [width, height]).all(1)
    assert in_photo.any() and (part[in_photo] >= 0).all() and (part[in_photo] < [columns, rows]).all()


def rewritten(folder: Path, change: dict[str, object], tensors: dict[str, torch.Tensor] | None = None) -> None:
    """The file with some of its words changed."""
    path = folder / head_file.FILE_NAME
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()[head_file.METADATA_KEY])
        held = {name: file.get_tensor(name).clone() for name in file.keys()}
    save_file({**held, **(tensors or {})}, path, metadata={head_file.METADATA_KEY: json.dumps({**told, **change})})


def test_a_missing_a_newer_and_another_models_file_are_told(source, finished, model, tmp_path):
    with pytest.raises(HeadFileMissing, match=r"head\.safetensors"):
        head_file.read(tmp_path)
    head_file.write(tmp_path, source, finished, model)
    with pytest.raises(HeadOfOtherModel, match="made up"):
        head_file.check_model(tmp_path, dataclasses.replace(model, sha256="b" * 64))
    rewritten(tmp_path, {"format": head_file.FORMAT + 1})
    with pytest.raises(HeadFileNewer):
        head_file.read(tmp_path)


@pytest.mark.parametrize("how", ["cut", "bit", "shape", "words", "not finite", "no head", "no tensors", "picture"])
def test_damage_is_told_and_never_taken_for_a_head(source, finished, model, tmp_path, how):
    head_file.write(tmp_path, source, finished, model)
    path = tmp_path / head_file.FILE_NAME
    content = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(content[:-100])
        case "bit":
            path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
        case "shape" | "not finite" | "picture":
            name, tensor = {
                "shape": ("unseen.mask", torch.zeros(3, 1, 8, 8)),
                "not finite": ("visible.planes", torch.full(PLANES, float("nan"))),
                "picture": ("photo", torch.zeros(100, dtype=torch.uint8)),
            }[how]
            with safe_open(path, framework="pt") as file:
                told = json.loads(file.metadata()[head_file.METADATA_KEY])
            sums = {**told["sha256"], name: head_file._digest(tensor)}
            rewritten(tmp_path, {"sha256": sums}, {name: tensor})
        case "words":
            rewritten(tmp_path, {"cam2world": [[1, 2], [3, 4]]})
        case "no head":
            save_file({"x": torch.zeros(1)}, path)
        case "no tensors":
            rewritten(tmp_path, {"sha256": {}})
    with pytest.raises(HeadFileDamaged):
        head_file.read(tmp_path)
