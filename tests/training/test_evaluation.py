"""The evaluation's figures: known answers for balls, a photo against itself, and one page out of it all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from inference import checkpoints
from inference.alignment import AlignedPortrait, align
from inference.bake import TexturedHead
from inference.camera import camera_from_vector, camera_rays, orbit_camera
from inference.encoders import portrait_input
from inference.face_networks import FACE_WEIGHTS_FOLDER, FaceNetworks, load_face_networks
from inference.photo import load_photo
from inference.progress import Progress, silent
from inference.surface import Mesh, extract
from tests.neck_and_sphere import ENCODER
from training.dataset import colours_in_view
from training.evaluate import Evaluation, encoded_fields, evaluate, nearest_view
from training.evaluation_bounds import Bound, bounds
from training.evaluation_page import without_nan
from training.ghost_face import shows_face
from training.head_measures import (
    CHIN_Y,
    HEAD_MM,
    HeadMeasures,
    chamfer,
    draw_coloured,
    face_region,
    match,
    measure_head,
)
from training.head_records import HeadRecord, excess_over_single, groups, hair_length, worst_excess
from training.hidden_colours import hidden_colours
from training.identity import embed, gallery_rank, identity_distance, load_identity_network
from training.run import config_from_arguments

SHARED = Path(__file__).resolve().parents[3] / "shared"
IDENTITY_WEIGHTS = SHARED / "face_nets" / "dlib_face_resnet_fp16.safetensors"
RADIUS = 0.2
ALBEDO = 100  # sRGB byte of the true ball


class Ball:
    """A field that is a ball of one grey."""

    level, box_side = 0.0, 0.7

    def __init__(self, radius: float, grey: float) -> None:
        self.radius, self.grey = radius, grey

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        return (self.radius - np.linalg.norm(points, axis=1)).astype(np.float32)

    def colour(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        return np.full((len(points), 3), self.grey, np.float32)


def ball_mesh(radius: float) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return Mesh(np.asarray(sphere.vertices), np.asarray(sphere.faces, dtype=np.int64))


def ball_head(radius: float = RADIUS) -> dict[str, NDArray]:
    """A true "head" that is a ball, with the arrays of a head's file."""
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(20_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    uniform = rng.uniform(-0.35, 0.35, (16_000, 3))
    azimuths_deg = (0.0, 30.0, -60.0)
    depths, mattes = [], []
    for azimuth_deg in azimuths_deg:
        origins, directions = camera_rays(orbit_camera(azimuth_deg), ENCODER.input_size)
        along = (origins * directions).sum(-1)
        inside = along**2 - (origins**2).sum(-1) + radius**2
        depths.append(np.where(inside > 0, -along - np.sqrt(np.maximum(inside, 0)), 0))
        mattes.append(inside > 0)
    matte = np.stack(mattes) * np.uint8(255)
    return {
        "surface_points": normals * radius,
        "surface_normals": np.rint(normals * 127).astype(np.int8),
        "surface_colour": np.full((len(normals), 3), ALBEDO, np.uint8),
        "uniform_points": uniform,
        "uniform_distance": np.linalg.norm(uniform, axis=1) - radius,
        "depths": np.stack(depths).astype(np.float16),
        "mattes": matte,
        "images": np.repeat(matte[..., None], 3, axis=3) // 2,
        "cameras": np.stack([orbit_camera(azimuth_deg).vector for azimuth_deg in azimuths_deg]),
        "azimuth_elevation": np.array([[azimuth_deg, 0.0] for azimuth_deg in azimuths_deg], np.float32),
        "gains": np.ones((len(azimuths_deg), 3), np.float32),
        "view_materials": np.zeros((*matte.shape, 2), np.uint8),
        "landmarks": np.full((len(azimuths_deg), 468, 3), np.nan, np.float16),
        "near_points": normals * radius,
        "near_distance": np.zeros(len(normals)),
        **{f"{kind}_materials": np.zeros((20_000, 2), np.uint8) for kind in ("near", "uniform", "surface")},
        **{f"{kind}_colour": np.full((20_000, 3), ALBEDO, np.uint8) for kind in ("near", "uniform")},
    }


@pytest.fixture(scope="module")
def face() -> FaceNetworks:
    return load_face_networks(FACE_WEIGHTS_FOLDER, torch.device("cpu"))


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory, face: FaceNetworks) -> AlignedPortrait:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return align(load_photo(path), face)


def measured(radius: float, grey: float, head: dict[str, NDArray], face: FaceNetworks) -> HeadMeasures:
    mesh = ball_mesh(radius)
    colours = np.full((len(mesh.vertices), 3), grey)
    return measure_head(mesh, colours, Ball(radius, grey), head, 0, orbit_camera(0), face)


def test_ball_against_larger_ball_differs_by_their_radii(face: FaceNetworks) -> None:
    grey = ALBEDO / 255 + 0.1
    figures = measured(1.1 * RADIUS, grey, ball_head(), face)
    height, difference = RADIUS - CHIN_Y, 0.1 * RADIUS
    # The nearest of the samples lies up to .003 beside the nearest point.
    for value in (figures.chamfer, figures.chamfer_visible, figures.chamfer_hidden):
        assert value == pytest.approx(100 * difference / height, rel=0.03)
    assert figures.face_mm == pytest.approx(HEAD_MM * difference / height, rel=0.03)
    assert figures.normals == pytest.approx(1, abs=0.005)
    # 16,000 points in the box, 1,600 of them in the ball, tell volumes to some 1 %.
    assert figures.iou == pytest.approx(1 / 1.1**3, abs=0.03)
    assert figures.iou_box == pytest.approx(figures.iou)  # nothing lies below the cut
    for l1, psnr in ((figures.l1_visible, figures.psnr_visible), (figures.l1_hidden, figures.psnr_hidden)):
        assert l1 == pytest.approx(0.1, abs=1e-4)
        assert psnr == pytest.approx(20, abs=0.01)
    assert figures.ghost == 0


def test_what_the_view_did_not_see_is_judged_apart(face: FaceNetworks) -> None:
    head = ball_head()
    behind = head["surface_points"][:, 2] < 0
    head["surface_colour"][behind] = 0
    figures = measured(RADIUS, ALBEDO / 255, head, face)
    # From 2.7 away the camera sees a little less than the front half, and the rim is grazing.
    assert figures.l1_visible < 1e-4  # the table of sRGB values is that fine
    assert figures.l1_hidden == pytest.approx(ALBEDO / 255, rel=0.25)


def test_true_colours_are_those_of_the_view(face: FaceNetworks) -> None:
    head = ball_head()
    head["gains"][0] = (0.5, 1.0, 2.0)
    wanted = colours_in_view(head["surface_colour"][:1], head["gains"][0])[0]
    # sRGB 100 is .127 of linear light; half, once and twice of that, in sRGB again.
    np.testing.assert_allclose(wanted, [0.280, 0.392, 0.541], atol=0.002)
    figures = measured(RADIUS, ALBEDO / 255, head, face)
    assert figures.l1_visible == pytest.approx(np.abs(wanted - ALBEDO / 255).mean(), rel=1e-3)


def test_identical_clouds_are_no_distance_apart() -> None:
    points = np.random.default_rng(0).normal(size=(500, 3))
    assert chamfer(match(points, points), np.ones(500, bool)) == 0


def test_chamfer_is_the_mean_of_both_directions() -> None:
    truth, made = np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 0], [1, 0, 0], [1, 3, 0]])
    assert chamfer(match(truth, made), np.array([True, True])) == pytest.approx(0.5)  # (0 + 3 / 3) / 2
    assert chamfer(match(truth, made), np.array([True, False])) == 0
    assert chamfer(match(truth, made), np.array([False, True])) == pytest.approx(0.75)  # (0 + 3 / 2) / 2
    assert np.isnan(chamfer(match(truth, made), np.array([False, False])))


def test_fringe_is_not_face() -> None:
    points = np.array([[0.0, -0.08, 0.2], [0.05, -0.1, 0.18], [0.0, 0.0, 0.2], [0.0, 0.1, 0.2], [0.2, -0.1, 0.1]])
    skin, black = (200, 150, 120), (20, 15, 10)
    albedo = np.array([skin, skin, black, skin, skin], np.uint8)
    # Two of skin; a fringe over the brows; the forehead; the ear.
    assert face_region(points, albedo).tolist() == [True, True, False, False, False]


def test_face_seen_from_the_front_is_a_face_and_a_ball_is_none(portrait: AlignedPortrait, face: FaceNetworks) -> None:
    model = checkpoints.load("starter")
    given = portrait_input(
        portrait.image,
        portrait.matte,
        portrait.landmarks,
        portrait.camera,
        face.template.points_head,
        model.visible.config.input_size,
        torch.device("cpu"),
    )
    field = encoded_fields(model, given, portrait.camera)["visible"]
    mesh = extract(field, 128, 40_000, silent)
    assert shows_face(draw_coloured(mesh, field.colour(mesh.vertices), orbit_camera(0), 512), face)
    ball = ball_mesh(RADIUS)
    assert not shows_face(draw_coloured(ball, np.full((len(ball.vertices), 3), 0.6), orbit_camera(0), 512), face)


@pytest.mark.skipif(not IDENTITY_WEIGHTS.exists(), reason="the identity network's weights are in ../shared")
def test_picture_is_nearest_to_itself_then_to_its_mirror_image(portrait: AlignedPortrait, face: FaceNetworks) -> None:
    network = load_identity_network(IDENTITY_WEIGHTS)
    own = embed(portrait.image, portrait.landmarks, network)
    assert identity_distance(own, embed(portrait.image, portrait.landmarks, network)) == 0
    # Mirrored by hand: subject's left and right change places.
    flipped = portrait.landmarks.copy()
    flipped[:, 0] = portrait.image.shape[1] - flipped[:, 0]
    flipped[[33, 133, 263, 362]] = flipped[[263, 362, 33, 133]]
    mirrored = embed(np.ascontiguousarray(portrait.image[:, ::-1]), flipped, network)
    assert 0 < identity_distance(own, mirrored) < 0.35
    other_photo = align(load_photo(SHARED / "photos" / "px006.jpg"), face)
    other = embed(other_photo.image, other_photo.landmarks, network)
    assert identity_distance(own, other) > 0.56  # the 1st percentile of different people
    gallery = np.stack([other, mirrored])
    assert (gallery_rank(own, gallery, 1), gallery_rank(own, gallery, 0)) == (1, 2)


def painted_ball(hair_behind: tuple[int, int, int]) -> TexturedHead:
    """A ball with skin below and dark hair above; behind, the hair is of another colour. The front half was seen."""
    mesh = ball_mesh(0.22)
    x, y, z = mesh.vertices.T
    uv = np.stack([np.arctan2(x, z) / (2 * np.pi) + 0.5, 0.5 - y / 0.5], axis=1)
    albedo = np.empty((256, 256, 3), np.uint8)
    albedo[:] = (200, 150, 120)
    albedo[:154, :57] = albedo[:154, 199:] = hair_behind  # y above -.05, farther round than 100 degrees
    albedo[:118, 57:75] = albedo[:118, 181:199] = (60, 45, 35)  # y above .02, over the ears
    albedo[:77, 57:199] = (60, 45, 35)  # y above .1
    visibility = (z > -0.02).astype(np.float32)
    return TexturedHead(mesh, uv, albedo, visibility, np.zeros((256, 256), np.uint8), {}, "ball", visibility)


def test_hair_that_changes_its_colour_behind_is_noticed() -> None:
    grey = (130, 130, 130)
    found = hidden_colours(painted_ball(grey))
    front, back = (rgb2lab(np.array(colour, np.float64) / 255) for colour in ((60, 45, 35), grey))
    assert found.hair.ciede2000 == pytest.approx(float(deltaE_ciede2000(front, back)), abs=0.5)
    assert found.skin.ciede2000 == pytest.approx(0, abs=0.5)
    assert hidden_colours(painted_ball((60, 45, 35))).hair.ciede2000 == pytest.approx(0, abs=0.5)


def test_hats_and_bald_heads_have_no_hair_to_compare() -> None:
    head = painted_ball((60, 45, 35))
    assert hidden_colours(head, "hat").hair.note == "hat"
    bald = replace(head, albedo=np.full_like(head.albedo, 150))
    assert hidden_colours(bald).hair.note == "bald or shaved"


FIGURES = HeadMeasures(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0)


def record(row: str, chamfer_hidden: float, **meta: object) -> HeadRecord:
    return HeadRecord("", row, 0, 0.0, dict(meta), replace(FIGURES, chamfer_hidden=chamfer_hidden))


def test_stitched_is_compared_with_the_better_encoder() -> None:
    records = [record("visible", 3), record("occluded", 2), record("stitched", 2.1)]
    assert excess_over_single(records, "chamfer_hidden") == pytest.approx(0.05)


def test_worst_group_is_told_against_the_mean_of_the_groups() -> None:
    figures = (("light", 1.0), ("light", 1.0), ("dark", 3.0))
    records = [record("stitched", value, skin_tone=tone) for tone, value in figures]
    members = groups([*records, record("stitched", 99.0)])["skin tone"]
    assert list(members) == ["dark", "light", "unknown"]
    assert worst_excess(members, "chamfer_hidden") == ("dark", pytest.approx(0.5))  # 3 against (1 + 3) / 2


def test_people_are_grouped_by_what_their_heads_say() -> None:
    records = [record("stitched", 1, age=age, gender=age, style="strands_long") for age in (0.45, 0.5, 0.7, 1.0)]
    found = groups(records)
    assert {name: len(members) for name, members in found["sex"].items()} == {"female": 2, "male": 2}
    assert list(found["age"]) == ["1 up to 0.50", "2 up to 0.70", "3 over 0.70"]
    assert list(found["hair"]) == ["long"]
    styles = ("bald", "short02", "bob01", "strands_bun", "braid01", "strands_curly_long")
    lengths = ["none", "short", "chin length", "tied", "tied", "long"]
    assert [hair_length({"style": style}) for style in styles] == lengths
    assert hair_length({}) == "unknown"


def test_bounds_hold_or_not_or_were_not_measured() -> None:
    assert Bound("", 1.0, 1.2).holds is True
    assert Bound("", 1.0, 1.2, at_least=True).holds is False
    assert Bound("", float("nan"), 1.2).holds is None
    assert {bound.holds for bound in bounds([], [])} == {None}
    assert without_nan({"a": [float("nan"), 1.5]}) == {"a": [None, 1.5]}


def test_nearest_view_looks_from_either_side() -> None:
    head = ball_head()
    assert [nearest_view(head, azimuth_deg) for azimuth_deg in (0, 30, 60)] == [0, 1, 2]
    assert camera_from_vector(head["cameras"][2]).position[0] < 0  # the third is at -60


def test_one_command_writes_page_figures_and_sheet(tmp_path: Path, simple_model: str) -> None:
    heads = tmp_path / "heads"
    heads.mkdir()
    meta = {"style": "bald", "age": 0.5, "gender": 0.0, "skin_tone": "light"}
    np.savez(heads / "00003.npz", meta=json.dumps(meta), **ball_head())
    compare = (f"no discriminator={simple_model}",)
    settings = Evaluation(tmp_path / "out", simple_model, heads=heads, compare=compare, views=1)
    page = evaluate(settings)
    assert (tmp_path / "out" / "evaluation.md").read_text() == page
    for words in ("| Chamfer |", "| all | stitched |", "| skin tone | light | 1 |", "| no discriminator | stitched |"):
        assert words in page
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert len(figures["heads"]) == 3 + 2  # rows of the model and of the compared one
    assert figures["photos"] == []
    sheet = np.asarray(Image.open(tmp_path / "out" / "heads_1.png"))
    assert sheet.shape == (320, 1760, 3)


def test_photos_without_a_head_are_listed_with_the_reason(tmp_path: Path, simple_model: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(skimage.data.astronaut()).save(photos / "astronaut.png")
    Image.new("RGB", (400, 300), (90, 120, 150)).save(photos / "sky.png")
    settings = Evaluation(
        tmp_path / "out",
        simple_model,
        photos=photos,
        without_hair=("astronaut=helmet",),
        grid=64,
        faces=2000,
        texture=256,
        timed_threads=1,
    )
    page = evaluate(settings)
    assert "1 of 2 photos" in page
    assert "- sky: NoFaceFound" in page
    astronaut, _ = json.loads((tmp_path / "out" / "evaluation.json").read_text())["photos"]
    assert astronaut["colours"]["hair"] == {"ciede2000": None, "note": "helmet"}
    assert astronaut["ghost"] is False
    assert astronaut["tri_grid"]["wall_s"] > 0
    assert np.asarray(Image.open(tmp_path / "out" / "photos_1.png")).shape == (320, 1280, 3)


def test_flags_take_several_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["evaluate", "--out", "here", "--compare", "no discriminator=a.b", "on images=c.d"]
    monkeypatch.setattr("sys.argv", words)
    settings = config_from_arguments(Evaluation, "")
    assert settings == Evaluation(Path("here"), compare=("no discriminator=a.b", "on images=c.d"))
