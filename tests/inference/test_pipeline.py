from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from inference import pipeline
from inference.camera import Camera, project
from inference.errors import BadOption, DeviceUnavailable, OutOfMemory
from inference.field import Field
from inference.messages import Options
from inference.photo import load_photo
from inference.pipeline import Models, load_models, reconstruct
from inference.progress import Cancelled, Stages, silent
from inference.refinement import Misfit, Refinement
from inference.surface import METRES_PER_UNIT, NECK_CUT_Y
from inference.w_plus_optimisation import optimise_w_plus
from tests.neck_and_sphere import HEAD_RADIUS, write_pliable_weights

ROOT = Path(__file__).resolve().parents[2]
KEYS = {  # what issue 2 lists; None: any content
    "synthetic": None,
    "made_by": None,
    "model": {"name", "sha256"},
    "options": {
        "model",
        "device",
        "grid",
        "faces",
        "texture",
        "seed",
        "refinement",
        "neck",
        "detail",
        "symmetry",
        "mirror_face",
        "delight",
    },
    "device": None,
    "portrait": {"yaw_deg", "pitch_deg", "roll_deg", "landmark_score", "inter_ocular_px", "faces_found"},
    "latents": {"found_by", "steps", "colour_loss", "mask_loss"},
    "quality": {"visible_share", "matte_iou", "landmark_nme"},
    "refinement": {"level", "steps", "outline_m", "landmarks_m"},
    "mesh": {"vertices", "faces", "watertight", "openings", "height_m"},
    "anchors_m": None,
    "camera": {"cam2world", "intrinsics", "head_from_mesh", "photo_from_crop"},
    "seconds": set(pipeline.SHARES),
    "peak_memory_mb": None,
    "warnings": None,
}


@pytest.fixture(scope="module")
def models(simple_model: str) -> Models:
    return load_models(simple_model, "cpu")


@pytest.fixture(scope="module")
def small(simple_model: str) -> Options:
    # Without refinement, which would bend the known head until it is no longer known.
    return Options(simple_model, "cpu", grid=64, faces=2000, texture=128, refinement="off")


@pytest.fixture(scope="module")
def result(astronaut: Path, models: Models, small: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one reconstruction."""
    out_dir = tmp_path_factory.mktemp("results") / "astronaut"
    reconstruct(astronaut, out_dir, small, models)
    return out_dir


@pytest.fixture(scope="module")
def report(result: Path) -> dict[str, Any]:
    return json.loads((result / "head.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def glb(result: Path) -> trimesh.Trimesh:
    """The mesh as any viewer sees it: metres, +y up."""
    return trimesh.load_mesh(result / "head.glb", process=False)


def test_the_report_holds_what_it_promises(report, small):
    assert set(report) == set(KEYS)
    for key, inner in KEYS.items():
        assert inner is None or set(report[key]) == inner, key
    assert report["synthetic"] is True and report["model"]["name"] == "neck and sphere"
    assert report["options"] == vars(small)
    assert len(report["model"]["sha256"]) == 64
    assert report["latents"] == {"found_by": "encoders", "steps": 0, "colour_loss": None, "mask_loss": None}
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert report["mesh"]["watertight"] and report["mesh"]["openings"] == 0
    assert abs(report["mesh"]["faces"] - 2000) < 100
    assert report["portrait"]["faces_found"] == 1 and report["portrait"]["landmark_score"] > 0.9


def test_the_known_head_is_measured_right(report):
    # A sphere with its middle at the origin, cut off in the neck; the planes' resolution takes 3 % of the radius.
    height_m = (HEAD_RADIUS - NECK_CUT_Y) * METRES_PER_UNIT
    assert report["mesh"]["height_m"] == pytest.approx(height_m, rel=0.02)
    assert 0.2 < report["quality"]["visible_share"] < 0.6  # a camera sees at most half of a sphere, and a little rim
    assert 0.3 < report["quality"]["matte_iou"] < 0.95
    assert report["quality"]["landmark_nme"] is None  # there is no face on a sphere


def test_the_camera_of_the_report_puts_the_exported_head_onto_the_portrait(report, glb, result):
    camera = Camera(*(np.array(report["camera"][key]) for key in ("cam2world", "intrinsics")))
    head_from_mesh = np.array(report["camera"]["head_from_mesh"])
    points = trimesh.transform_points(glb.vertices, head_from_mesh)
    assert points[:, 1].min() == pytest.approx(NECK_CUT_Y, abs=1e-4)
    assert np.abs(points[:, 0]).max() == pytest.approx(HEAD_RADIUS, rel=0.04)
    picture, depth = project(points, camera)
    middle = (picture.min(0) + picture.max(0))[0] / 2
    assert middle == pytest.approx(0.5, abs=0.02) and (depth > 0).all()
    assert glb.vertices[:, 1].min() == pytest.approx(0.0, abs=1e-5)  # origin at the base of the neck


def test_anchors_lie_on_the_surface_the_subjects_left_at_positive_x(report, glb):
    points = np.array(list(report["anchors_m"].values()))
    assert len(points) >= 4
    distance, _ = cKDTree(glb.vertices).query(points)
    assert distance.max() < 0.02  # vertices of so coarse a mesh are 1 cm apart
    anchors = report["anchors_m"]
    assert anchors["eye_left"][0] > anchors["eye_right"][0] and anchors["nose_tip"][1] > anchors["chin"][1]


def test_the_crop_leads_back_to_the_photo(report, result, astronaut):
    photo = load_photo(astronaut).rgb
    portrait = np.asarray(Image.open(result / "portrait.png"))
    assert portrait.shape == (512, 512, 4)
    matrix = np.array(report["camera"]["photo_from_crop"])
    for x, y in ((200, 200), (256, 256), (310, 240)):
        u, v, _ = matrix @ [x + 0.5, y + 0.5, 1.0]
        seen = portrait[y - 2 : y + 3, x - 2 : x + 3, :3].mean((0, 1))
        column, row = int(u), int(v)
        assert seen == pytest.approx(photo[row - 1 : row + 2, column - 1 : column + 2].mean((0, 1)), abs=25)
    assert portrait[256, 256, 3] == 255 and portrait[5, 5, 3] < 60  # the face is the astronaut, the corner is not


def test_the_same_photo_and_seed_give_the_same_files(astronaut, models, small, result, tmp_path):
    reconstruct(astronaut, tmp_path / "again", small, models)
    for name in ("head.glb", "head.safetensors", "portrait.png", "preview.png"):
        assert (tmp_path / "again" / name).read_bytes() == (result / name).read_bytes(), name


def test_cancelling_at_any_moment_leaves_the_earlier_result(astronaut, models, small, tmp_path):
    small = dataclasses.replace(small, refinement="fast")
    calls = 0
    last_call = 10**9

    def progress(fraction: float, label: str) -> None:
        nonlocal calls
        calls += 1
        if calls > last_call:
            raise Cancelled

    reconstruct(astronaut, tmp_path / "out", small, models, progress)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    total, moments = calls, 6
    for moment in range(moments):
        calls, last_call = 0, total * moment // moments
        with pytest.raises(Cancelled):
            reconstruct(astronaut, tmp_path / "out", small, models, progress)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "shortage",
    [
        MemoryError("Unable to allocate 12.0 GiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=["numpy", "torch", "mps", "cuda"],
)
def test_every_shortage_of_memory_is_told_as_one(astronaut, models, small, tmp_path, monkeypatch, shortage):
    def short(self: Field, *arguments: object) -> None:
        raise shortage

    monkeypatch.setattr(Field, "density", short)
    with pytest.raises(OutOfMemory):
        reconstruct(astronaut, tmp_path / "out", small, models)
    assert list(tmp_path.iterdir()) == []


def test_other_failures_keep_their_name(astronaut, models, small, tmp_path, monkeypatch):
    def broken(self: Field, *arguments: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Field, "density", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        reconstruct(astronaut, tmp_path / "out", small, models)


@pytest.mark.parametrize("change", [{"grid": 31}, {"faces": 2**40}, {"texture": 0}, {"seed": -1}, {"device": "tpu"}])
def test_an_option_out_of_range_is_refused_before_any_work(models, tmp_path, change):
    with pytest.raises(BadOption):
        reconstruct(tmp_path / "none.jpg", tmp_path / "out", Options(**change), models)


@pytest.mark.parametrize("refinement", ["Best", "", "slow", 1])
def test_a_refinement_that_does_not_exist_is_refused_with_the_choices(models, tmp_path, refinement):
    with pytest.raises(BadOption) as refused:
        reconstruct(tmp_path / "none.jpg", tmp_path / "out", Options(refinement=refinement), models)
    assert all(level in refused.value.hint for level in ("off", "fast", "best"))


@pytest.mark.parametrize("change", [{"neck": "Open"}, {"neck": ""}, {"symmetry": "x"}, {"symmetry": None}, {"neck": 1}])
def test_a_neck_or_symmetry_that_does_not_exist_is_refused_with_the_choices(models, tmp_path, change):
    with pytest.raises(BadOption) as refused:
        reconstruct(tmp_path / "none.jpg", tmp_path / "out", Options(**change), models)
    assert any(word in refused.value.hint for word in ("closed, open", "off, average, mirror"))


@pytest.mark.parametrize("symmetry", ["off", "mirror"])
def test_an_open_neck_goes_all_the_way_to_the_file(astronaut, models, small, tmp_path, report, symmetry):
    options = dataclasses.replace(small, neck="open", symmetry=symmetry)
    opened = reconstruct(astronaut, tmp_path / "out", options, models)
    assert not opened["mesh"]["watertight"] and opened["mesh"]["openings"] == 1
    assert opened["mesh"]["height_m"] == pytest.approx(report["mesh"]["height_m"], rel=0.005)
    assert opened["camera"]["head_from_mesh"] == report["camera"]["head_from_mesh"]
    # The outline may be mirrored too, and the cap was part of the surface.
    for measure, tolerance in (("matte_iou", 0.02), ("visible_share", 0.05)):
        assert opened["quality"][measure] == pytest.approx(report["quality"][measure], abs=tolerance)
    whole = trimesh.load_mesh(tmp_path / "out" / "head.glb", process=False)
    whole.merge_vertices(merge_tex=True, merge_norm=True)
    edges, counts = np.unique(whole.edges_sorted, axis=0, return_counts=True)
    rim = edges[counts == 1]
    assert len(rim) > 8 and set(counts) == {1, 2}
    np.testing.assert_allclose(whole.vertices[rim.ravel(), 1], 0.0, atol=1e-6)  # the origin lies in the cut
    assert whole.body_count == 1
    normals = whole.vertex_normals[np.unique(rim)]
    assert np.abs(normals[:, 1]).max() < 0.7  # out of the neck, not downwards as beside a cap


def test_without_refinement_the_head_is_what_the_encoders_made(astronaut, models, small, monkeypatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("nothing was to be refined")

    monkeypatch.setattr(pipeline, "refine", forbidden)
    made = pipeline.make_head(astronaut, small, models, Stages(pipeline.SHARES, silent))
    assert made.refinement is None
    report = pipeline.make_report(small, models, made, {})
    assert report["refinement"] == {"level": "off", "steps": 0, "outline_m": None, "landmarks_m": None}


def test_the_report_says_what_refining_did(astronaut, models, small, tmp_path):
    report = reconstruct(astronaut, tmp_path / "out", dataclasses.replace(small, refinement="fast"), models)
    told = report["refinement"]
    assert told["level"] == "fast" and told["steps"] == 3
    before_m, after_m = told["outline_m"]
    assert 0 < after_m < before_m < 0.02
    assert told["landmarks_m"] is None  # there is no face on a sphere


def test_auto_finds_a_device_and_a_missing_one_is_told():
    assert pipeline.choose_device("auto").type in pipeline.DEVICES
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(DeviceUnavailable, match=missing):
        pipeline.choose_device(missing)


def test_several_faces_are_told_and_the_largest_is_taken(astronaut, models, small, tmp_path):
    one = Image.open(astronaut)
    two = Image.new("RGB", (1024, 512), (128, 128, 128))
    two.paste(one, (0, 0))
    two.paste(one.resize((384, 384)), (600, 60))
    two.save(tmp_path / "two.png")
    report = reconstruct(tmp_path / "two.png", tmp_path / "out", small, models)
    assert report["portrait"]["faces_found"] == 2
    assert any("2 faces" in warning for warning in report["warnings"])
    middle = np.array(report["camera"]["photo_from_crop"]) @ [256, 256, 1]
    assert middle[0] < 512  # the left one is larger


def test_the_starter_makes_a_head_that_fits_its_photo(astronaut, tmp_path):
    report = reconstruct(astronaut, tmp_path / "out", Options(device="cpu"), load_models("starter", "cpu"))
    assert report["model"]["name"] == "starter"
    assert report["mesh"]["watertight"] and 0.20 < report["mesh"]["height_m"] < 0.32
    assert report["mesh"]["faces"] == pytest.approx(30_000, rel=0.05)
    assert report["quality"]["matte_iou"] > pipeline.LOW_MATTE_IOU
    assert report["quality"]["landmark_nme"] is not None, "the model's own colours show no face"
    assert report["peak_memory_mb"] is None or report["peak_memory_mb"] < 4000  # of the whole test run, even


@pytest.fixture(scope="module")
def pliable_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`Options.model` of a generator that came without encoders."""
    return str(write_pliable_weights(tmp_path_factory.mktemp("weights") / "pliable.safetensors"))


def test_a_generator_alone_makes_a_head_by_w_plus_optimisation(astronaut, pliable_model, small, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "optimise_w_plus", partial(optimise_w_plus, steps=40))
    told: list[float] = []
    options = dataclasses.replace(small, model=pliable_model)
    models = load_models(pliable_model, "cpu")
    report = reconstruct(astronaut, tmp_path / "out", options, models, lambda fraction, _: told.append(fraction))
    assert set(report) == set(KEYS) and set(report["latents"]) == KEYS["latents"]
    assert report["latents"]["found_by"] == "w_plus_optimisation" and report["latents"]["steps"] == 40
    for before, after in (report["latents"]["colour_loss"], report["latents"]["mask_loss"]):
        assert 0 < after < 0.9 * before
    assert report["mesh"]["watertight"] and report["model"]["name"] == "pliable"
    assert json.loads((tmp_path / "out" / "head.json").read_text(encoding="utf-8")) == report
    assert np.diff(told).min() > -1e-9 and told[-1] == pytest.approx(1.0)  # it never goes back, but for rounding


def test_an_optimisation_given_up_leaves_nothing(astronaut, pliable_model, small, tmp_path):
    def give_up(fraction: float, label: str) -> None:
        if fraction > 0.1:  # most of the whole is the search for the latents
            assert label == "Searching the model for this head"
            raise Cancelled

    with pytest.raises(Cancelled):
        reconstruct(
            astronaut,
            tmp_path / "out",
            dataclasses.replace(small, model=pliable_model),
            load_models(pliable_model, "cpu"),
            give_up,
        )
    assert list(tmp_path.iterdir()) == []


def test_stages_share_the_progress_and_keep_their_seconds():
    told: list[tuple[float, str]] = []
    stages = Stages({"first": 1.0, "second": 3.0}, lambda fraction, label: told.append((fraction, label)))
    with stages.stage("first", "First") as step:
        step(0.5)
    with stages.stage("second", "Second") as step:
        step(0.5, "A part of it")
    assert told == [
        (0.0, "First"),
        (0.125, "First"),
        (0.25, "First"),
        (0.25, "Second"),
        (0.625, "A part of it"),
        (1.0, "A part of it"),
    ]
    assert list(stages.seconds) == ["first", "second"]


def test_a_reconstruction_needs_no_network(astronaut, simple_model, tmp_path):
    code = (
        "import sys\n"
        "def forbid(event, arguments):\n"
        "    assert not event.startswith('socket.connect') and event != 'socket.getaddrinfo', (event, arguments)\n"
        "sys.addaudithook(forbid)\n"
        "from inference.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = ["--model", simple_model, "--device", "cpu", "--grid", "48", "--faces", "1500", "--texture", "128"]
    command = [sys.executable, "-c", code, "reconstruct", str(astronaut), "--out", str(tmp_path / "out"), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_outline_far_from_the_photos_is_told(astronaut, models, small):
    made = pipeline.make_head(astronaut, small, models, Stages(pipeline.SHARES, silent))
    near, far = Misfit(0.005, None), Misfit(0.02, None)
    for before, told in ((near, 0), (far, 1)):
        fits = dataclasses.replace(made.quality, matte_iou=0.95)
        refinement = Refinement(torch.zeros(1, 3, 2, 2, 2), 0.7, 3, before, near)
        warnings = pipeline.warnings_of(dataclasses.replace(made, quality=fits, refinement=refinement))
        assert len(warnings) == told and all("outline" in warning for warning in warnings)
    unlike = dataclasses.replace(made, quality=dataclasses.replace(made.quality, matte_iou=0.6))
    assert any("outline" in warning for warning in pipeline.warnings_of(unlike))
