"""Synthetic heads: known shapes through the parts, then one real head held to what its file promises."""

# ruff: noqa: E402  # the imports below need packages that only training has
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

for _package in ("anny", "embreex", "numba"):
    pytest.importorskip(_package, reason="makes training heads; see training/README.md")

from inference.camera import camera_from_vector, orbit_camera, project
from inference.face_networks import load_face_networks
from training.heads.beard import STYLES as BEARDS
from training.heads.beard import Beard, beard_hair, growth_region
from training.heads.build import build_one, draw_head, head_path
from training.heads.eyes import turned, wet_normals
from training.heads.glasses import SHAPES, build_glasses
from training.heads.hair import HIDDEN_TAILS, STYLES, HairPoints, over_ears, solidify
from training.heads.head import HAIR, build_head
from training.heads.headwear import COLLARS, HEADWEAR
from training.heads.lighting import draw_light
from training.heads.mouth import open_mouth
from training.heads.people import draw_person, mean_person
from training.heads.raster import rasterise
from training.heads.rays import RayScene, VoxelGrid, closing, fill_holes, grow, solid_voxels
from training.heads.rig import Rig, load_rig
from training.heads.samples import (
    BOX_HALF,
    FARTHEST,
    SurfaceSample,
    audit,
    sample_head,
    sample_surface,
    signed_distances,
)
from training.heads.skin import lab_from_linear, linear_from_lab, tone_name, typology_angle_deg
from training.heads.subdivision import loop_subdivision, vertex_normals

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASSETS = Path(__file__).resolve().parents[2].parent / "shared" / "heads"
needs_assets = pytest.mark.skipif(
    not (ASSETS / "makehuman").is_dir(), reason=f"no head assets in {ASSETS}; see training/README.md"
)
SEED = 9  # any; this one has short hair and builds quickly


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(ASSETS)


@pytest.fixture(scope="module")
def arrays(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray]:
    """The file of one head, as training reads it."""
    folder = tmp_path_factory.mktemp("heads")
    build_one(rig, SEED, folder, load_face_networks())
    with np.load(head_path(folder, SEED)) as file:
        return dict(file)


def icosphere(radius: float) -> tuple[NDArray, NDArray]:
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return np.asarray(sphere.vertices), np.asarray(sphere.faces)


def test_loop_subdivision_moves_a_tetrahedrons_corners_to_a_quarter():
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    matrix, new_faces = loop_subdivision(faces, 4)
    assert matrix.shape == (4 + 6, 4) and new_faces.shape == (16, 3)
    # Valence 3: 7/16 of itself and 3/16 of each of the others, which sum to its opposite: 7/16 - 3/16 = 1/4.
    np.testing.assert_allclose((matrix @ corners)[:4], corners / 4)


def test_voxels_of_a_sphere_fill_its_volume():
    grid = VoxelGrid(64, 0.36)
    solid = solid_voxels(RayScene(*icosphere(0.3)), grid)
    volume = solid.sum() * (2 * grid.half / grid.count) ** 3
    assert volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.02)
    assert solid[32, 32, 32] and not solid[0, 0, 0]


def test_the_nearer_of_two_triangles_is_seen_where_the_camera_projects_it():
    triangle = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [0, 0.1, 0]])
    vertices = np.concatenate([triangle, triangle + [0, 0, 0.2]])
    camera = orbit_camera(20, 10)
    seen = rasterise(vertices, np.array([[0, 1, 2], [3, 4, 5]], np.int32), camera, 128)
    centre = vertices[3:].mean(0)
    pixel, depth = project(centre, camera)
    column, row = (pixel * 128).astype(int)
    assert seen.face[row, column] == 1
    assert seen.depth[row, column] == pytest.approx(float(depth), abs=2e-3)  # a pixel is 5e-3 wide, seen at a slant


def test_distances_to_a_sphere_are_those_of_geometry():
    radius, rng = 0.2, np.random.default_rng(0)
    directions = rng.normal(size=(100_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colours, materials = np.zeros((100_000, 3), np.uint8), np.zeros((100_000, 2), np.uint8)
    surface = SurfaceSample(directions * radius, directions, directions, colours, materials)
    grid = VoxelGrid(128, 0.36)
    x, y, z = np.meshgrid(grid.centres, grid.centres, grid.centres, indexing="ij")
    ball = SimpleNamespace(solid=x**2 + y**2 + z**2 < radius**2)
    points = rng.uniform(-BOX_HALF, BOX_HALF, (20_000, 3))
    distance, _, agreement = signed_distances(ball, surface, points)
    truth = np.clip(np.linalg.norm(points, axis=1) - radius, -FARTHEST, FARTHEST)
    # Samples lie 2e-3 apart: the plane takes most of that away near the surface, little is left far from it.
    np.testing.assert_allclose(distance, truth, atol=1.5e-3)
    assert agreement > 0.99


def test_a_head_with_an_empty_skull_is_rejected():
    points = np.random.default_rng(0).uniform(-BOX_HALF, BOX_HALF, (16_000, 3))
    radius = np.linalg.norm(points, axis=1)
    ball_and_neck = (radius < 0.2) | ((np.hypot(points[:, 0], points[:, 2]) < 0.12) & (points[:, 1] < 0))
    assert audit(points, ball_and_neck, agreement=0.98) == ""
    assert "skull" in audit(points, ball_and_neck & (radius > 0.08), agreement=0.98)
    assert "sides" in audit(points, ball_and_neck, agreement=0.8)


def style_share() -> dict[str, float]:
    """Of heads in all, men and women in equal numbers."""
    numbers = np.array([(style.men, style.women) for style in STYLES.values()])
    return dict(zip(STYLES, (numbers / numbers.sum(0)).mean(1), strict=True))


def test_somewhat_more_than_half_of_all_hair_is_short_and_hidden_tails_are_rare():
    share = style_share()
    assert len(STYLES) >= 30
    assert sum(share[name] for name in HIDDEN_TAILS) <= 0.04
    long = ("long", "bob", "lob", "coily", "layered", "shag", "half_up", "afro_large", "afro01", "bun", "knot", "tail")
    medium_or_long = sum(share[name] for name in STYLES if any(word in name for word in (*long, "braid")))
    assert 0.40 < medium_or_long < 0.50


def test_a_closing_fills_a_narrow_gap_and_keeps_a_wide_one():
    walls = np.zeros((40, 24, 24), bool)
    walls[[0, 1, 2, 3, 9, 10, 11, 12, 36, 37, 38, 39]] = True  # gaps of 5 and of 23 voxels
    closed = closing(walls, 3)
    assert closed[4:9].all() and not closed[16:33].any()
    assert (closed >= walls).all()


def test_growing_makes_about_a_ball():
    point = np.zeros((31, 31, 31), bool)
    point[15, 15, 15] = True
    x, y, z = np.nonzero(grow(point, 8))
    radius = np.sqrt((x - 15.0) ** 2 + (y - 15.0) ** 2 + (z - 15.0) ** 2)
    assert len(x) == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.15)
    assert 8 <= radius.max() < 9.2


def test_only_air_without_a_way_out_is_filled():
    shell = np.zeros((9, 9, 9), bool)
    shell[2:7, 2:7, 2:7] = True
    shell[4, 4, 4] = False
    assert fill_holes(shell)[4, 4, 4] and fill_holes(shell).sum() == 5**3
    shell[4, 4, 5:] = False  # a tunnel to the outside
    assert not fill_holes(shell)[4, 4, 4]


def cloth_and_hair(count: int = 40_000) -> HairPoints:
    """A ball of hair with a cap of cloth from y = 0.05 upwards."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(count, 3))
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.uniform(0.14, 0.17, (count, 1))
    is_cloth = points[:, 1] > 0.05
    colours = np.where(is_cloth[:, None], [[0.8, 0.1, 0.1]], [[0.1, 0.1, 0.1]])
    return HairPoints(points.astype(np.float32), colours.astype(np.float32), (~is_cloth).astype(np.float32))


def test_a_solid_of_hair_points_is_closed_and_knows_its_cloth():
    import trimesh

    grid = VoxelGrid(128, 0.36)
    x, y, z = np.meshgrid(grid.centres, grid.centres, grid.centres, indexing="ij")
    solid = solidify(cloth_and_hair(), x**2 + y**2 + z**2 < 0.13**2, grid)
    assert solid is not None
    assert trimesh.Trimesh(solid.vertices, solid.faces, process=False).is_watertight
    radius = np.linalg.norm(solid.vertices, axis=1)
    outer = radius > 0.15
    assert np.median(radius[outer]) == pytest.approx(0.17, abs=0.006)  # a voxel
    assert (solid.vertex_hair_share[outer & (solid.vertices[:, 1] > 0.06)] < 0.1).all()
    assert (solid.vertex_hair_share[outer & (solid.vertices[:, 1] < 0.04)] > 0.9).all()
    assert len(solid.hair_share) == len(solid.colours) == solid.tree.n


def test_white_and_mid_grey_have_the_lightness_of_cielab():
    np.testing.assert_allclose(lab_from_linear(np.ones(3)), [100, 0, 0], atol=0.05)
    assert lab_from_linear(np.full(3, 0.1842))[0] == pytest.approx(50, abs=0.05)
    colour = np.array([0.4, 0.25, 0.17])
    np.testing.assert_allclose(linear_from_lab(lab_from_linear(colour)), colour, atol=1e-9)


def test_the_typology_angle_is_45_degrees_where_lightness_exceeds_50_by_the_yellowness():
    assert typology_angle_deg(linear_from_lab(np.array([65.0, 10.0, 15.0]))) == pytest.approx(45)
    assert [tone_name(angle) for angle in (45, 0, -40)] == ["light", "medium", "dark"]


def test_people_are_balanced_in_gender_and_tone_and_a_third_show_teeth():
    rng = np.random.default_rng(0)
    people = [draw_person([], rng) for _ in range(1500)]
    assert 0.45 < np.mean([person.is_male for person in people]) < 0.55
    assert 0.3 < np.mean([person.shows_teeth for person in people]) < 0.4
    tones = [tone_name(person.tone_deg) for person in people]
    for tone in ("light", "medium", "dark"):
        assert 0.22 < tones.count(tone) / len(tones) < 0.45


def test_eyes_turned_to_the_left_bring_their_fronts_to_the_left():
    ball = icosphere(0.024)[0]
    both = np.concatenate([ball + [0.06, 0, 0], ball - [0.06, 0, 0]])
    looking = turned(both, (90.0, 0.0))
    front = np.argmax(both[: len(ball), 2])
    np.testing.assert_allclose(looking[front], [0.06 + 0.024, 0, 0], atol=2e-3)
    normals = wet_normals(both, (0.0, 0.0))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(normals[front], [0, 0, 1], atol=1e-3)


def test_light_keeps_to_exposures_of_portraits():
    rng = np.random.default_rng(0)
    lights = [draw_light(rng) for _ in range(200)]
    assert all(np.isfinite(light.harmonics).all() and (light.lamp >= 0).all() for light in lights)
    mean = np.array([light.harmonics[0].mean() * 0.282095 for light in lights])
    assert 0.7 < np.median(mean) < 1.2 and mean.min() > 0.3
    assert 0.2 < np.mean([light.lamp.any() for light in lights]) < 0.55


@needs_assets
def test_glasses_sit_before_the_eyes_and_reach_the_ears(rig: Rig):
    mean = rig.body.mean
    frame = rig.body.head_frame(mean)
    skin, eyeballs = rig.subdivide(frame(mean)), frame(rig.eyes.fit(mean))
    ears = skin[rig.ears > 0.5]
    for shape in SHAPES:
        glasses = build_glasses(rig, skin, eyeballs, shape, False, np.random.default_rng(0))
        assert glasses.vertices.dtype == np.float32 and glasses.faces.max() == len(glasses.vertices) - 1
        assert len(glasses.colours) == len(glasses.opacity) == len(glasses.vertices)
        lens = glasses.vertices[glasses.opacity < 0.5]
        assert lens[:, 2].min() > eyeballs[:, 2].max()  # the lenses clear both eyes
        assert glasses.vertices[:, 2].min() < ears[:, 2].max()
        assert np.abs(glasses.vertices[:, 0]).max() < np.abs(ears[:, 0]).max() + 0.02


@needs_assets
def test_teeth_of_a_smile_are_between_the_lips_and_behind_them(rig: Rig):
    person = mean_person()
    person.expression.update({"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7, "jawOpen": 0.15})
    base = rig.body.vertices(person)
    frame = rig.body.head_frame(base)
    skin = rig.subdivide(frame(base))
    teeth = open_mouth(rig.mouth, base, frame, skin, np.random.default_rng(0)).vertices
    upper = teeth[np.intersect1d(rig.mouth.crowns, np.flatnonzero(rig.mouth.is_upper))]
    front = upper[np.abs(upper[:, 0]) < 0.016]
    upper_lip, lower_lip = (skin[rim].mean(0) for rim in (rig.mouth.upper_rim, rig.mouth.lower_rim))
    assert lower_lip[1] - 1e-3 < front[:, 1].min() < upper_lip[1]
    assert front[:, 2].max() < min(upper_lip[2], lower_lip[2])


@needs_assets
def test_beards_keep_off_lips_ears_and_forehead_and_only_long_ones_are_solids(rig: Rig):
    mean = rig.body.mean
    skin = rig.subdivide(rig.body.head_frame(mean)(mean))
    normals = vertex_normals(skin, rig.faces)
    for style, (_, lengths, _) in BEARDS.items():
        rng = np.random.default_rng(0)
        share = growth_region(rig, style, rng)
        assert share.max() > 0.6 and share[rig.rest[:, 1] > 0.02].max() < 0.05
        assert share[rig.lips > 0.6].max() < 0.05 and share[rig.ears > 0.5].max() < 0.05
        grown = beard_hair(rig, Beard(style, lengths[1], 0.8, share, np.full(3, 0.1)), skin, normals, rng)
        assert (grown is None) == (lengths[1] < 0.006)


@needs_assets
def test_the_subjects_left_ear_is_at_positive_x_and_the_nose_in_front(rig: Rig):
    mean = rig.body.mean
    frame = rig.body.head_frame(mean)
    person = mean_person()
    person.sliders["l-ear-scale-incr"] = 1.0
    moved = np.linalg.norm(rig.body.vertices(person) - mean, axis=1) > 0.002
    assert frame(mean)[moved, 0].min() > 0.08
    skin = rig.subdivide(frame(mean))
    nose = skin[skin[:, 2].argmax()]
    np.testing.assert_allclose(nose, [0, -0.1, 0.24], atol=0.03)
    eyes = frame(rig.eyes.fit(mean))
    np.testing.assert_allclose(eyes[eyes[:, 0] > 0].mean(0), [0.06, -0.02, 0.173], atol=0.012)


@needs_assets
@pytest.mark.parametrize(("style", "covered"), [("undercut", 0.02), ("crop", 0.2), ("long_behind_ears", 0.4)])
def test_ears_are_free_in_short_and_tucked_styles(rig: Rig, style: str, covered: float):
    head = build_head(rig, np.random.default_rng(3), style, headwear="", collar="")
    assert head.hair is not None
    skin = head.vertices[: len(rig.rest)]
    for side in (1, -1):
        ear = np.flatnonzero((rig.ears > 0.9) & (rig.rest[:, 0] * side > 0.15))
        aside = np.tile([[side, 0, 0]], (len(ear), 1))
        hit = head.scene.hits(skin[ear] + 0.003 * aside, aside)["primID"]
        assert (head.part[hit[(hit >= 0) & (hit < len(head.part))]] == HAIR).sum() <= covered * len(ear)
    assert over_ears(rig, skin, head.hair.vertices).mean() < 0.03


@needs_assets
@pytest.mark.parametrize("style", ["horseshoe", "afro_large", "bob_fringe", "ponytail_high", "long_wavy"])
def test_every_kind_of_growth_gives_one_closed_solid(rig: Rig, style: str):
    import trimesh

    head = build_head(rig, np.random.default_rng(5), style, headwear="", collar="")
    assert head.hair is not None and head.look.style == style
    assert trimesh.Trimesh(head.hair.vertices, head.hair.faces, process=False).is_watertight
    assert (head.hair.hair_share == 1).all()


@needs_assets
@pytest.mark.parametrize("headwear", list(HEADWEAR))
def test_headwear_is_cloth_over_the_forehead_and_hair_is_hair(rig: Rig, headwear: str):
    head = build_head(rig, np.random.default_rng(6), "short", headwear=headwear, collar="")
    assert head.look.headwear == headwear and head.hair is not None
    is_cloth = head.hair.vertex_hair_share < 0.5
    above_forehead = (head.hair.vertices[:, 2] > 0.15) & (head.hair.vertices[:, 1] > 0.08)
    assert is_cloth[above_forehead].mean() > 0.5
    behind_the_neck = (head.hair.vertices[:, 1] < -0.09) & (head.hair.vertices[:, 1] > -0.15)
    if headwear != "headscarf":  # which hides all hair
        assert is_cloth[behind_the_neck].mean() < 0.2  # at the edge of a deep one


@needs_assets
@pytest.mark.parametrize("collar", list(COLLARS))
def test_collars_are_cloth_at_the_neck(rig: Rig, collar: str):
    head = build_head(rig, np.random.default_rng(7), "bald", headwear="", collar=collar)
    assert head.look.collar == collar and head.hair is not None
    cloth = head.hair.vertex_hair_share < 0.5
    assert cloth[head.hair.vertices[:, 1] < -0.27].all()
    assert head.hair.vertices[cloth, 1].max() < -0.1


@needs_assets
def test_a_seed_always_gives_the_same_head(rig: Rig, arrays: dict[str, NDArray]):
    head, rng = draw_head(rig, SEED)
    again, fault = sample_head(head, SEED, rng, load_face_networks())
    assert fault == ""
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)


@needs_assets
def test_surface_samples_lie_on_the_surface_with_normals_to_the_outside(rig: Rig):
    head, rng = draw_head(rig, SEED)
    surface = sample_surface(head, rng)
    on_it, _, _ = signed_distances(head, surface, surface.points[::20])
    assert np.abs(on_it).max() < 1e-4
    step = 0.004  # box units, 2 mm; thin rims such as the ears' may be crossed
    outside, _, _ = signed_distances(head, surface, (surface.points + step * surface.normals)[::20])
    inside, _, _ = signed_distances(head, surface, (surface.points - step * surface.normals)[::20])
    assert (outside > 0).mean() > 0.98 and (inside < 0).mean() > 0.98
    assert np.median(outside) == pytest.approx(step, rel=0.1) and np.median(inside) == pytest.approx(-step, rel=0.1)


@needs_assets
def test_depths_are_where_cameras_project_the_surface(arrays: dict[str, NDArray]):
    points = arrays["surface_points"].astype(float)
    normals = arrays["surface_normals"].astype(float) / 127
    for vector, depths in zip(arrays["cameras"], arrays["depths"].astype(float), strict=True):
        camera = camera_from_vector(vector)
        pixels, _ = project(points, camera)
        distance = np.linalg.norm(points - camera.position, axis=1)
        facing = ((camera.position - points) * normals).sum(1) / distance > 0.6
        column, row = (pixels * 128).astype(int).T
        chosen = facing & (pixels > 0).all(1) & (pixels < 1).all(1)
        chosen[chosen] &= depths[row[chosen], column[chosen]] > 0
        error = distance[chosen] - depths[row[chosen], column[chosen]]
        # A file's depth is rounded to 2e-3, a pixel is 5e-3 wide and its nearest quarter counts.
        assert np.median(np.abs(error)) < 4e-3
        assert (error < -0.01).mean() < 0.005  # nothing in sight is nearer than the depth says


@needs_assets
def test_pictures_are_empty_exactly_where_nothing_is(arrays: dict[str, NDArray]):
    empty = arrays["mattes"] == 0
    assert 0.2 < empty.mean() < 0.8
    assert not json.loads(str(arrays["meta"]))["glasses"]  # they would stand before the head's outline
    np.testing.assert_array_equal(arrays["depths"] == 0, empty)
    assert not arrays["images"][empty].any()
    # Straight colour: outlines are no darker than what they outline, as they would be if premultiplied.
    outline, full = (arrays["mattes"] > 0) & (arrays["mattes"] < 255), arrays["mattes"] == 255
    assert arrays["images"][outline].mean() > 0.7 * arrays["images"][full].mean()


@needs_assets
def test_a_file_holds_what_training_reads(arrays: dict[str, NDArray]):
    assert arrays["near_points"].shape == (31_000, 3) and arrays["uniform_points"].shape == (11_000, 3)
    assert np.abs(arrays["surface_points"].astype(float)).max() <= BOX_HALF + 2e-4  # float16
    assert 0.4 < (arrays["near_distance"] < 0).mean() < 0.6
    azimuth = arrays["azimuth_elevation"][:, 0]
    assert np.abs(azimuth[:3]).tolist() == [0, 30, 60]  # a held-out head
    assert len(azimuth) == 6 and (np.abs(azimuth) <= 75).all()
    assert arrays["gains"].min() > 0.3 and arrays["gains"].max() < 4
    hair, skin = arrays["surface_materials"].astype(int).T
    assert (hair + skin <= 256).all() and (hair > 50).mean() > 0.1 and (skin > 250).mean() > 0.1
    assert json.loads(str(arrays["meta"]))["seed"] == SEED


@needs_assets
def test_landmarks_lie_on_the_face_where_the_camera_projects_it(arrays: dict[str, NDArray]):
    seen, on_face = arrays["landmarks"][0].astype(float), arrays["landmarks_head"].astype(float)
    known = ~np.isnan(on_face[:, 0])
    assert known.mean() > 0.8
    pixels, _ = project(on_face[known], camera_from_vector(arrays["cameras"][0]))
    assert np.abs(pixels - seen[known, :2]).max() < 2e-3  # half precision
    mean_face = load_face_networks().template.points_head
    assert np.median(np.linalg.norm(on_face - mean_face, axis=1)[known]) < 0.02
