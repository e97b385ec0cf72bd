"""The template fitted to heads that are known: bent out of the template itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference import head_file
from inference.camera import RADIUS, orbit_camera, project
from inference.cli import main
from inference.errors import LandmarksMissing
from inference.messages import Options
from inference.pipeline import load_models, reconstruct
from inference.progress import Cancelled, silent
from inference.raster import rasterise_view
from inference.rigging.expression import find_expression
from inference.rigging.fit import RigFit, fit_rig
from inference.rigging.hair import Hair
from inference.rigging.intersections import intersecting_pairs, turned_over
from inference.rigging.make_rig import make_rig
from inference.rigging.nearest import NearestPoints
from inference.rigging.neutral import Eyeball, lid_rim, lip_rim, neutralise
from inference.rigging.observation import Observation, observe
from inference.rigging.rig_file import (
    EYES_NAME,
    HAIR_NAME,
    MOUTH_NAME,
    NORMAL_NAME,
    RIG_NAME,
    SKIN_NAME,
    SURFACE_NAME,
    rig_arrays,
)
from inference.rigging.shape_fit import MM
from inference.rigging.skin import lab_from_srgb
from inference.rigging.untangle import TangleFinder
from inference.surface import Mesh, metres_from_head
from inference.template import (
    EYE_LEFT,
    EYE_RIGHT,
    GUMS,
    MOUTH,
    SKIN,
    TEETH_LOWER,
    TEETH_UPPER,
    RigTemplate,
    load_rig_template,
    triangles,
)
from tests.neck_and_sphere import write_varied_weights

SKIN_COLOUR, HAIR_COLOUR = np.array([205, 160, 135]), np.array([40, 30, 25])
PORTRAIT_PX = 512
ACTIONS = {"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7, "browInnerUp": 0.6}
HAIR_THICKNESS = 20 * MM


@dataclass(frozen=True)
class KnownHead:
    """A scan made of the template, what it was made from, and how it is seen."""

    vertices: np.ndarray
    seen: Observation


@pytest.fixture(scope="module")
def template() -> RigTemplate:
    return load_rig_template()


@pytest.fixture(scope="module")
def known(template: RigTemplate) -> KnownHead:
    """Somebody smiling, turned a little, with thick hair on the scalp and a dent that no mode knows."""
    vertices = template.vertices + 1.2 * template.modes[1] - 0.9 * template.modes[3]
    for name, weight in ACTIONS.items():
        vertices = vertices + weight * template.expressions[template.expression_names.index(name)]
    dent = np.exp(-((np.linalg.norm(vertices - [0.05, 0.08, 0.2], axis=1) / 0.04) ** 2))
    vertices = vertices - dent[:, None] * [0, 0, 3 * MM]
    return KnownHead(vertices, _look_at(template, vertices))


def _look_at(template: RigTemplate, vertices: np.ndarray) -> Observation:
    quads = template.faces[template.part == SKIN]
    used, numbered = np.unique(triangles(quads), return_inverse=True)
    outward = vertices[used] - [0, 0.02, 0]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    hair = template.scalp[used, None]
    mesh = Mesh(vertices[used] + HAIR_THICKNESS * hair * outward, numbered.reshape(-1, 3))
    # A picture with a texel for each vertex.
    side = int(np.ceil(np.sqrt(len(used))))
    place = np.arange(len(used))
    albedo = np.zeros((side, side, 3), np.uint8)
    albedo[place // side, place % side] = np.rint(SKIN_COLOUR + hair * (HAIR_COLOUR - SKIN_COLOUR))
    uv = (np.stack([place % side, place // side], axis=1) + 0.5) / side
    camera = orbit_camera(8.0, 3.0)
    landmarks = project(template.landmarks(vertices), camera)[0] * PORTRAIT_PX
    return observe(mesh, uv, albedo, landmarks, camera, PORTRAIT_PX)


@pytest.fixture(scope="module")
def fit(template: RigTemplate, known: KnownHead) -> RigFit:
    return fit_rig(template, known.seen, silent)


def test_the_rig_lies_on_the_skin_it_was_fitted_to(fit, known):
    assert fit.quality.skin_mean_mm < 0.3
    assert fit.quality.skin_p95_mm < 1.2
    assert fit.quality.skin_share > 0.3


def test_its_vertices_find_their_own_places_on_the_face(template, fit, known):
    face = np.flatnonzero((fit.skin > 0.5) & (template.vertices[:, 2] > 0.1))
    assert np.median(np.linalg.norm(fit.photographed[face] - known.vertices[face], axis=1)) < 2 * MM


def test_landmarks_fall_where_the_photo_has_them(fit):
    assert fit.quality.landmarks < 0.015


def test_the_expression_is_found_and_taken_off(template, fit, known):
    found = dict(zip(template.expression_names, fit.actions, strict=True))
    assert ((fit.actions >= 0) & (fit.actions <= 1)).all()
    for name, weight in ACTIONS.items():
        assert abs(found[name] - weight) < 0.35, name
    assert sum(found.values()) - sum(found[name] for name in ACTIONS) < 1.2
    corners = template.landmark_vertices[[61, 291], 0]  # of the mouth: a smile draws them up
    smiling = known.vertices[corners, 1].mean()
    assert fit.head.vertices[corners, 1].mean() < smiling - 2 * MM
    assert abs(fit.photographed[corners, 1].mean() - smiling) < 2.5 * MM


def test_neutral_lips_touch_and_eyes_lie_behind_their_lids(template, fit):
    upper, lower = lip_rim(template)
    middle = np.abs(template.vertices[upper, 0]) < 10 * MM
    across = np.linalg.norm(fit.head.vertices[upper[middle]][:, None] - fit.head.vertices[lower], axis=2).min(axis=1)
    assert across.max() < 3 * MM  # of rims: lips touch in front of them
    for part in (EYE_LEFT, EYE_RIGHT):
        ball = Eyeball.of(template, fit.head.vertices, part)
        assert ball.radii(fit.head.vertices[lid_rim(template, part)]).min() > 0.99
    assert fit.quality.eye_through_lid == 0


def test_closed_lips_show_next_to_nothing_of_the_mouth(template, fit):
    camera, side = orbit_camera(0.0), 1200
    faces, part = triangles(template.faces), np.tile(template.part, 2)
    raster = rasterise_view(fit.head.vertices, faces, camera, side)
    inside = np.isin(part[raster.face[raster.covered]], [MOUTH, TEETH_UPPER, TEETH_LOWER, GUMS])
    pixel_mm = RADIUS / camera.intrinsics[0, 0] / side / MM
    assert inside.sum() * pixel_mm**2 < 10  # the lips are 50 mm wide


def test_neutral_has_no_faces_turned_over_and_none_that_cross(fit):
    assert fit.quality.turned_over == 0
    assert fit.quality.intersections == 0


def test_the_scalp_stays_below_the_hair_and_near_the_skull(template, fit, known):
    # Away from the hairline, where hair begins with a step and inside is not told by the nearest face.
    crown = np.flatnonzero((template.scalp > 0.95) & (template.vertices[:, 1] > 0.05) & (template.vertices[:, 2] < 0.1))
    near = known.seen.nearest(fit.photographed[crown])
    assert near.signed_distance(fit.photographed[crown]).max() < 0
    assert np.linalg.norm(fit.photographed[crown] - known.vertices[crown], axis=1).max() < 15 * MM


def test_a_blink_of_this_head_closes_its_lids_without_touching_the_ball(template, fit):
    for part, side in ((EYE_LEFT, "Left"), (EYE_RIGHT, "Right")):
        k = template.expression_names.index(f"eyeBlink{side}")
        shut = fit.head.vertices + fit.head.expressions[k]
        rim = lid_rim(template, part)
        way = np.linalg.norm(template.expressions[k, rim], axis=1)
        upper, lower = rim[way > 0.3 * way.max()], rim[way <= 0.3 * way.max()]
        line = lower[np.argsort(shut[lower, 0])]
        inner = upper[(shut[upper, 0] > shut[line[0], 0] + 4 * MM) & (shut[upper, 0] < shut[line[-1], 0] - 4 * MM)]
        assert (shut[inner, 1] - np.interp(shut[inner, 0], shut[line, 0], shut[line, 1])).max() < 0.5 * MM
        assert Eyeball.of(template, fit.head.vertices, part).radii(shut[rim]).min() > 0.97


def test_uneven_lids_become_alike_and_what_closed_one_of_them_an_action(template, known, fit):
    """A scan whose left upper lid hangs 1.5 mm lower, and lies a millimetre off to the side."""
    bent = fit.shape.vertices(template)
    eye = Eyeball.of(template, bent, EYE_LEFT)
    near = np.exp(-((np.linalg.norm(bent - eye.centre, axis=1) / (1.4 * eye.radius)) ** 4))
    near[template.vertices_of(EYE_LEFT)] = 0.0
    bent[:, 0] += near * MM
    bent[:, 1] -= near * 1.5 * MM * (bent[:, 1] > eye.centre[1])
    head = neutralise(template, fit.shape, bent, TangleFinder(template))
    balls = [Eyeball.of(template, head.vertices, part) for part in (EYE_LEFT, EYE_RIGHT)]
    assert balls[0].radius == pytest.approx(balls[1].radius, rel=0.005)
    over = fit.shape.turn @ np.diag([-1.0, 1.0, 1.0]) @ fit.shape.turn.T
    names = template.expression_names
    for name in ("Blink", "Squint", "Wide", "LookUp", "LookDown", "LookIn", "LookOut"):
        left, right = (head.expressions[names.index(f"eye{name}{side}")] for side in ("Left", "Right"))
        assert np.abs(left - right[template.mirror] @ over).max() < 0.05 * np.abs(left).max(), name
    found = dict(zip(names, find_expression(template, head, fit.shape.actions, bent, known.seen), strict=True))
    closed = [found[f"eyeBlink{side}"] - found[f"eyeWide{side}"] for side in ("Left", "Right")]
    assert closed[0] > closed[1] + 0.05


def test_the_same_head_gives_the_same_rig(template, known, fit):
    again = fit_rig(template, known.seen, silent)
    np.testing.assert_array_equal(again.head.vertices, fit.head.vertices)
    np.testing.assert_array_equal(again.actions, fit.actions)


def test_what_is_written_is_metres_and_plain_arrays(template, fit):
    point = fit.head.vertices[:4] + [0, 0, 1.0]  # far before the face: no hair that would follow it
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    uv = np.random.default_rng(0).random((4, 2))
    hair = Hair(Mesh(point, tetrahedron), uv, tetrahedron, np.zeros(3), np.zeros(len(template.vertices)))
    arrays = rig_arrays(template, fit, hair)
    kinds = {name: (str(array.dtype), array.ndim) for name, array in arrays.items()}
    assert kinds["hair_vertices"] == kinds["hair_uv"] == kinds["vertices"] == ("float32", 2)
    assert kinds["hair_faces"] == kinds["hair_uv_faces"] == kinds["faces"] == ("int32", 2)
    assert kinds["lips"] == kinds["skin"] == ("float32", 1)
    assert arrays["lips"].max() <= 1
    assert arrays["lips"].min() >= 0
    assert all(array.dtype != object for array in arrays.values())
    to_metres = metres_from_head()
    np.testing.assert_allclose(arrays["hair_vertices"], point @ to_metres[:3, :3].T + to_metres[:3, 3], atol=1e-5)
    np.testing.assert_allclose(
        arrays["vertices"], fit.head.vertices @ to_metres[:3, :3].T + to_metres[:3, 3], atol=1e-5
    )
    start, offsets = arrays["expression_start"], np.zeros((len(arrays["vertices"]), 3))
    k = list(arrays["expression_names"]).index("jawOpen")
    chosen = slice(start[k], start[k + 1])
    offsets[arrays["expression_vertex"][chosen]] = arrays["expression_offset"][chosen]
    np.testing.assert_allclose(offsets, fit.head.expressions[k] * to_metres[0, 0], atol=2e-6)
    np.testing.assert_allclose(arrays["bone_weight"].sum(axis=1), 1, atol=1e-5)


# --- tools ----------------------------------------------------------------------------------------------------------


def _sphere(count: int = 24) -> Mesh:
    u, v = np.meshgrid(np.arange(count), np.arange(1, count // 2), indexing="ij")
    azimuth, polar = u * 2 * np.pi / count, v * 2 * np.pi / count
    ring = np.stack([np.sin(polar) * np.cos(azimuth), np.cos(polar), -np.sin(polar) * np.sin(azimuth)], axis=-1)
    rows = count // 2 - 1
    at = np.arange(count * rows).reshape(count, rows)
    after = np.roll(at, -1, axis=0)
    quads = np.stack([at[:, :-1], at[:, 1:], after[:, 1:], after[:, :-1]], axis=-1).reshape(-1, 4)
    return Mesh(ring.reshape(-1, 3), triangles(quads))


def test_the_nearest_point_of_a_sphere_is_towards_its_middle():
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(200, 3)) * [1, 0.3, 1]  # away from the poles, where it is open
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    nearest = NearestPoints(_sphere(96))
    for radius in (0.5, 1.7):
        found = nearest(radius * directions)
        np.testing.assert_allclose(found.points, directions, atol=0.04)
        np.testing.assert_allclose(found.signed_distance(radius * directions), radius - 1, atol=2e-3)


def test_two_spheres_cross_where_they_overlap_and_one_alone_nowhere():
    one = _sphere()
    assert not len(intersecting_pairs(one.vertices, one.faces))
    count = len(one.vertices)
    faces = np.concatenate([one.faces, one.faces + count])
    apart = np.concatenate([one.vertices, one.vertices + [2.1, 0, 0]])
    assert not len(intersecting_pairs(apart, faces))
    overlapping = np.concatenate([one.vertices, one.vertices + [1.3, 0.01, 0.02]])
    pairs = intersecting_pairs(overlapping, faces)
    assert len(pairs)
    assert ((pairs[:, 0] < len(one.faces)) & (pairs[:, 1] >= len(one.faces))).all()
    np.testing.assert_allclose(overlapping[faces[pairs]].mean(axis=(1, 2))[:, 0], 0.65, atol=0.2)


def test_a_face_pushed_through_its_neighbours_has_turned_over():
    one = _sphere()
    bent = one.vertices.copy()
    bent[5] *= -1
    around = (one.faces == 5).any(axis=1)
    assert turned_over(bent, one.vertices, one.faces)[~around].sum() == 0
    assert turned_over(bent, one.vertices, one.faces)[around].any()


def test_lab_of_known_colours():
    lab = lab_from_srgb(np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.2, 80.1, 67.2]], atol=0.3)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished head: a sphere on a neck, with a real photo's landmarks."""
    weights = write_varied_weights(tmp_path_factory.mktemp("weights") / "varied.safetensors")
    out_dir = tmp_path_factory.mktemp("heads") / "astronaut"
    options = Options(str(weights), "cpu", grid=48, faces=2500, texture=256)
    reconstruct(astronaut, out_dir, options, load_models(options.model, "cpu"))
    return out_dir


def test_the_command_writes_the_rig_beside_the_head(folder, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["rig", str(folder), "--texture", "128"]) == 0
    written = capsys.readouterr().out.split()
    always = {RIG_NAME, SKIN_NAME, NORMAL_NAME, SURFACE_NAME, EYES_NAME, MOUTH_NAME}
    assert always <= {Path(line).name for line in written} <= {*always, HAIR_NAME}
    assert {path.name for path in folder.iterdir()} == {*before, *(Path(line).name for line in written)}
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    with np.load(folder / RIG_NAME, allow_pickle=False) as rig:
        assert len(rig["expression_names"]) == 52
        assert np.isfinite(rig["vertices"]).all()
        assert set(json.loads(str(rig["quality"]))) >= {"skin_mean_mm", "landmarks", "intersections"}
        assert (len(rig["hair_faces"]) > 0) == (folder / HAIR_NAME).is_file()
        assert rig["hair_faces"].shape == rig["hair_uv_faces"].shape
        assert rig["hair_faces"].max(initial=-1) < len(rig["hair_vertices"])
        assert rig["hair_uv_faces"].max(initial=-1) < len(rig["hair_uv"])
    for name, side in (
        (SKIN_NAME, 128),
        (NORMAL_NAME, 128),
        (SURFACE_NAME, 128),
        (EYES_NAME, 1024),
        (MOUTH_NAME, 1024),
    ):
        with Image.open(folder / name) as picture:
            assert (picture.size, picture.mode) == ((side, side), "RGB"), name


def test_the_same_folder_gives_the_same_files_byte_for_byte(folder):
    before = {path.name: path.read_bytes() for path in folder.glob("rig*")}
    assert before
    assert main(["rig", str(folder), "--texture", "128"]) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("rig*")} == before


def test_a_head_without_landmarks_is_refused_clearly(folder, monkeypatch):
    options = Options(json.loads((folder / "head.json").read_text(encoding="utf-8"))["options"]["model"], "cpu")
    models = load_models(options.model, "cpu")
    kept = head_file.read(folder)
    blind = replace(kept.source.portrait, landmarks=np.full((478, 3), np.nan))
    monkeypatch.setattr(head_file, "read", lambda *_: replace(kept, source=replace(kept.source, portrait=blind)))
    with pytest.raises(LandmarksMissing, match="no landmarks"):
        make_rig(folder, options, models)


def test_cancelled_leaves_the_folder_as_it_was(folder):
    options = Options(json.loads((folder / "head.json").read_text(encoding="utf-8"))["options"]["model"], "cpu")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    def give_up(fraction: float, label: str) -> None:
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        make_rig(folder, options, load_models(options.model, "cpu"), give_up)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
