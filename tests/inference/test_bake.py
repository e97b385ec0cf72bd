"""A mesh coloured by position must come back coloured by position, whoever brings the colour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from inference.alignment import AlignedPortrait, FacePose
from inference.bake import (
    ANCHOR_LANDMARKS,
    Palette,
    TexturedHead,
    bake,
    doubt_of,
    fill_uncovered,
    fit_tone,
    matte_trust,
    spread_over_surface,
    subdivide,
)
from inference.camera import orbit_camera, project
from inference.facing import Facing, depth_map_of
from inference.model_views import DIRECTIONS, ModelView, ModelViews
from inference.photo import Photo
from inference.progress import Cancelled, silent
from inference.raster import fragments, rasterise_view
from inference.surface import Mesh, extract, weld
from inference.unwrap import UnwrappedMesh, unwrap

from .analytic_fields import AnalyticField, Distance, head_on_neck, position_colour, sphere, union

SIZE = 512
CROP = 512
LANDMARKS_HEAD = {  # where the head of head_on_neck has its features
    "eye_left": (0.06, 0.0, 0.17),
    "eye_right": (-0.06, 0.0, 0.17),
    "nose_tip": (0.0, -0.05, 0.225),
}


@pytest.fixture(scope="module")
def unwrapped() -> UnwrappedMesh:
    return unwrap(extract(AnalyticField(head_on_neck()), 96, 6000, silent), silent)


def picture_of(
    mesh: Mesh, paint: Distance = position_colour, azimuth_deg: float = 15.0, scale: float = 1.5
) -> tuple[AlignedPortrait, Photo]:
    """(AlignedPortrait, Photo) of a mesh painted by position; the photo is larger than the crop and shifted."""
    camera = orbit_camera(azimuth_deg, 5.0)
    photo_side = int(CROP * scale)
    photo_from_crop = np.array([[scale, 0, 40.0], [0, scale, 25.0], [0, 0, 1]])

    def render(side: int) -> tuple[np.ndarray, np.ndarray]:
        raster = rasterise_view(mesh.vertices, mesh.faces, camera, side)
        seen = raster.interpolate(mesh.vertices, mesh.faces)
        picture = np.zeros((side, side, 3))
        picture[..., 1] = 1.0  # a green wall behind
        picture[raster.covered] = paint(seen)
        return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), raster.covered

    crop, covered = render(CROP)
    rgb = np.zeros((photo_side + 60, photo_side + 70, 3), dtype=np.uint8)
    rgb[..., 1] = 255
    rgb[25 : 25 + photo_side, 40 : 40 + photo_side] = render(photo_side)[0]
    landmarks = np.full((478, 3), CROP / 2)
    for name, point in LANDMARKS_HEAD.items():
        landmarks[ANCHOR_LANDMARKS[name], :2] = project(np.array(point), camera)[0] * CROP
    pose = FacePose(-azimuth_deg, -5.0, 0.0, 1.0, 80.0, 1)
    portrait = AlignedPortrait(crop, covered.astype(np.float32), camera, photo_from_crop, landmarks, pose)
    return portrait, Photo(rgb, None, None, Path("folder/someone.jpg"))


def texel_positions(head: TexturedHead) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and surface points of all covered texels."""
    size = len(head.albedo)
    cover = fragments(head.uv * size, head.mesh.faces, (size, size))
    return cover.row, cover.column, cover.interpolate(head.mesh.vertices, head.mesh.faces)


@pytest.fixture(scope="module")
def baked(unwrapped: UnwrappedMesh) -> TexturedHead:
    portrait, photo = picture_of(unwrapped.mesh)
    return bake(unwrapped.mesh, unwrapped.uv, portrait, photo, AnalyticField(head_on_neck()), SIZE, silent)


def test_mesh_coloured_by_position_returns_positions(baked: TexturedHead) -> None:
    row, column, points = texel_positions(baked)
    error = np.abs(baked.albedo[row, column] / 255 - position_colour(points))
    # Half a step of 1/255 in the photo, half in the texture, and a pixel's size (.002 units) of the photo.
    assert np.quantile(error, 0.99) < 0.006
    assert error.max() < 0.03  # at outlines the crop's soft edge


def test_photo_is_used_where_the_camera_looks_and_the_model_behind(baked: TexturedHead) -> None:
    row, column, points = texel_positions(baked)
    seen = baked.visibility_map[row, column]
    forehead = np.linalg.norm(points - [0.03, 0.08, 0.18], axis=1) < 0.03
    assert (seen[forehead] == 255).all()
    assert (seen[points[:, 2] < -0.05] == 0).all()
    np.testing.assert_array_equal(baked.visibility[baked.mesh.vertices[:, 2] < -0.05], 0)
    assert baked.visibility.max() == 1
    assert baked.visibility.shape == (len(baked.mesh.vertices),)


def test_wrong_model_colours_give_way_to_the_photo_and_follow_its_tone(unwrapped: UnwrappedMesh) -> None:
    """A model that is 20 % darker and redder than the photo: seen texels exact, unseen ones matched."""
    portrait, photo = picture_of(unwrapped.mesh)
    field = AnalyticField(head_on_neck(), lambda points: position_colour(points) * 0.8 + [0.1, 0.0, 0.0])
    head = bake(unwrapped.mesh, unwrapped.uv, portrait, photo, field, SIZE, silent)
    row, column, points = texel_positions(head)
    error = np.abs(head.albedo[row, column] / 255 - position_colour(points)).max(axis=1)
    seen = head.visibility_map[row, column]
    assert np.quantile(error[seen == 255], 0.99) < 0.01
    assert error[seen == 0].mean() < 0.06  # 0.13 before matching


def test_no_step_shows_across_the_border_of_what_was_seen(unwrapped: UnwrappedMesh) -> None:
    """Under flat light neighbouring texels differ as the true colours do, though model and photo disagree a lot."""
    portrait, photo = picture_of(unwrapped.mesh, paint=lambda points: np.full((len(points), 3), 0.7))
    field = AnalyticField(head_on_neck(), lambda points: np.full((len(points), 3), [0.4, 0.5, 0.6]))
    head = bake(unwrapped.mesh, unwrapped.uv, portrait, photo, field, SIZE, silent)
    row, column, _ = texel_positions(head)
    albedo = head.albedo.astype(int)
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[row, column] = True
    both = inside[:, 1:] & inside[:, :-1]
    step = np.abs(np.diff(albedo, axis=1)).max(axis=2)
    assert step[both].max() <= 4
    assert np.abs(albedo[row, column] - 0.7 * 255).max() < 12


def test_background_never_reaches_the_head(unwrapped: UnwrappedMesh) -> None:
    """A head that is larger than the photo's: the model's outline lies on the green wall there."""
    slim = replace(unwrapped.mesh, vertices=unwrapped.mesh.vertices * [0.85, 0.95, 1.0])
    portrait, photo = picture_of(slim, paint=lambda points: np.full((len(points), 3), [0.8, 0.4, 0.4]))
    field = AnalyticField(head_on_neck(), lambda points: np.full((len(points), 3), [0.8, 0.4, 0.4]))
    head = bake(unwrapped.mesh, unwrapped.uv, portrait, photo, field, SIZE, silent)
    assert np.abs(head.albedo / 255 - [0.8, 0.4, 0.4]).max() < 0.02


def stripes(points: np.ndarray) -> np.ndarray:
    """Upright stripes 8 mm wide: finer than a field of 64 cells shows, and than the mesh's vertices."""
    bright = 0.5 + 0.2 * np.sin(points[:, 0] * (np.pi / 0.015))
    return np.repeat(bright[:, None], 3, axis=1)


def views_of(mesh: Mesh, paint: Distance, shift: float = 0.0) -> ModelViews:
    """Pictures of a mesh painted by position; the model's head stands `shift` to the left of the finished one."""
    views = []
    for azimuth, elevation in DIRECTIONS:
        camera = orbit_camera(15.0 + azimuth, elevation)  # the photo is taken from 15 degrees
        raster = rasterise_view(mesh.vertices + [shift, 0, 0], mesh.faces, camera, CROP)
        picture = np.ones((CROP, CROP, 3), np.float32) * [0.0, 1.0, 0.0]  # a green wall behind
        picture[raster.covered] = paint(raster.interpolate(mesh.vertices, mesh.faces))
        # As soft as what 64 px of volume rendering tell of the outline.
        head = ndimage.gaussian_filter(raster.covered.astype(np.float32), 4.0)
        views.append(ModelView(camera, np.dstack([picture, head]).astype(np.float32)))
    return ModelViews(views, lambda points: points + [shift, 0, 0])


@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_pictures_of_the_model_paint_the_unseen_side_sharply(unwrapped: UnwrappedMesh, shift: float) -> None:
    """A field without the stripes that the model's own pictures show, also where fitting has bent the head."""
    portrait, photo = picture_of(unwrapped.mesh, paint=stripes)
    grey = AnalyticField(head_on_neck(), lambda points: np.full((len(points), 3), 0.5))
    views = views_of(unwrapped.mesh, stripes, shift)
    blurred, sharp = (
        bake(unwrapped.mesh, unwrapped.uv, portrait, photo, grey, 2 * SIZE, silent, given) for given in (None, views)
    )
    row, column, points = texel_positions(sharp)
    head = (sharp.visibility_map[row, column] == 0) & (points[:, 1] > -0.2)  # below, neck and cap face no camera
    rows, columns, truth = row[head], column[head], stripes(points[head])
    errors = [np.abs(baked.albedo[rows, columns] / 255 - truth).max(axis=1) for baked in (blurred, sharp)]
    assert errors[0].mean() > 0.1
    assert errors[1].mean() < 0.015
    green = sharp.albedo[row, column].astype(int)
    assert (green[:, 1] - green[:, 0]).max() < 25  # nothing of the wall


def test_what_is_hidden_behind_the_nose_does_not_get_the_noses_colour(unwrapped: UnwrappedMesh) -> None:
    def red_nose(points: np.ndarray) -> np.ndarray:
        nose = np.linalg.norm(points - [0.0, -0.05, 0.19], axis=1) < 0.04
        return np.where(nose[:, None], [1.0, 0.1, 0.1], [0.6, 0.6, 0.6])

    portrait, photo = picture_of(unwrapped.mesh, red_nose, azimuth_deg=50.0)
    head = bake(unwrapped.mesh, unwrapped.uv, portrait, photo, AnalyticField(head_on_neck(), red_nose), SIZE, silent)
    row, column, points = texel_positions(head)
    cheeks = np.linalg.norm(points - [0.0, -0.05, 0.19], axis=1) > 0.055
    red = head.albedo[row, column, 0].astype(int) - head.albedo[row, column, 1]
    assert red[cheeks].max() < 50  # the nose's is 230


def test_same_place_has_the_same_colour_on_both_sides_of_a_seam(baked: TexturedHead) -> None:
    whole, merged = weld(baked.mesh)
    texel = np.clip((baked.uv * SIZE).astype(int), 0, SIZE - 1)
    colour = baked.albedo[texel[:, 1], texel[:, 0]].astype(float)
    count = np.bincount(merged)
    for channel in range(3):
        mean = np.bincount(merged, colour[:, channel]) / count
        difference = np.abs(colour[:, channel] - mean[merged])
        # Positions differ by up to a texel, .006 units. Islands of less than a texel hold the colour beside them.
        assert np.quantile(difference, 0.99) < 4
    assert (count > 1).sum() > 100  # there are seams
    assert len(whole.vertices) == len(count)


def test_islands_are_padded_by_more_than_eight_texels_at_2048(baked: TexturedHead) -> None:
    row, column, _ = texel_positions(baked)
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[row, column] = True
    distance, (near_row, near_column) = ndimage.distance_transform_edt(~inside, return_indices=True)
    ring = (distance > 0) & (distance <= 8 * SIZE / 2048 + 1)
    difference = np.abs(baked.albedo[ring].astype(int) - baked.albedo[near_row[ring], near_column[ring]])
    assert np.quantile(difference, 0.99) <= 6


def test_anchors_lie_on_the_features_of_the_face(baked: TexturedHead) -> None:
    assert set(baked.anchors) == set(ANCHOR_LANDMARKS)
    for name, point in LANDMARKS_HEAD.items():
        # The eyes' (x, y) are exact, their depth is that of the surface on the ray.
        np.testing.assert_allclose(baked.anchors[name], point, atol=0.012)
    assert baked.anchors["eye_left"][0] > 0 > baked.anchors["eye_right"][0]


def test_source_names_the_file_without_its_folder(baked: TexturedHead) -> None:
    assert baked.source == "someone.jpg"


def test_bake_stops_when_cancelled(unwrapped: UnwrappedMesh) -> None:
    def cancel(fraction: float, label: str) -> None:
        if fraction >= 0.4:
            raise Cancelled

    portrait, photo = picture_of(unwrapped.mesh)
    with pytest.raises(Cancelled):
        bake(unwrapped.mesh, unwrapped.uv, portrait, photo, AnalyticField(head_on_neck()), SIZE, cancel)


def test_camera_does_not_see_what_another_part_hides() -> None:
    """A small ball before a large one hides a disc of it."""
    mesh = extract(AnalyticField(union(sphere(0.15, (0, 0, -0.1)), sphere(0.05, (0, 0, 0.07)))), 96, 10**6, silent)
    camera = orbit_camera(0.0)
    weight = Facing(mesh).weight(camera, depth_map_of(mesh, camera))
    behind = (np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 1]) < 0.045) & (mesh.vertices[:, 2] < 0.04)
    beside = (np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 1]) > 0.1) & (mesh.vertices[:, 2] > 0.0)
    assert behind.any() and (weight[behind] == 0).all()
    assert beside.any() and (weight[beside] > 0.99).all()
    assert (weight[mesh.vertices[:, 2] < -0.1] == 0).all()


def test_subdividing_keeps_shape_and_texture() -> None:
    mesh = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 2, 1], [0, 1, 3]]))
    uv = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    fine, fine_uv = subdivide(mesh, uv, 32)
    assert len(fine.faces) == 32 and len(fine.vertices) == 25
    np.testing.assert_array_equal(fine.vertices[:4], mesh.vertices)
    corners = fine.vertices[fine.faces]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    np.testing.assert_allclose(crosses.sum(axis=0) / 2, [0, -0.5, -0.5])  # area and direction of both faces
    np.testing.assert_allclose(np.linalg.norm(crosses, axis=1), 1 / 16)
    np.testing.assert_allclose(fine_uv[:, 0], fine.vertices[:, 0] + fine.vertices[:, 2])


def test_tone_of_a_known_mix_is_found_and_one_colour_turns_nothing() -> None:
    rng = np.random.default_rng(0)
    model = rng.random((500, 3))
    photo = model @ np.diag([0.8, 0.9, 1.0]) + [0.1, 0.0, -0.05]
    np.testing.assert_allclose(fit_tone(model, photo, np.ones(500)).apply(model), photo, atol=0.03)
    flat = np.tile([0.5, 0.4, 0.3], (500, 1))
    tone = fit_tone(flat, flat + 0.1, np.ones(500))
    np.testing.assert_allclose(tone.matrix, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(tone.apply(flat), flat + 0.1, atol=1e-9)
    np.testing.assert_array_equal(fit_tone(model, photo, np.zeros(500)).apply(model), model)


def test_unseen_colours_become_those_the_photo_shows() -> None:
    rng = np.random.default_rng(0)
    hair, skin = np.array([0.15, 0.1, 0.08]), np.array([0.8, 0.6, 0.5])
    photo = np.concatenate([rng.normal(hair, 0.02, (500, 3)), rng.normal(skin, 0.02, (500, 3))])
    palette = Palette.of(photo, np.ones(1000))
    np.testing.assert_allclose(palette.nearest(np.stack([hair, skin])), [hair, skin], atol=0.02)
    green_hair, red_skin = [0.1, 0.3, 0.1], [0.9, 0.35, 0.3]
    np.testing.assert_allclose(palette.nearest(np.array([green_hair, red_skin])), [hair, skin], atol=0.06)
    anywhere = palette.nearest(rng.uniform(-0.2, 1.2, (1000, 3)))
    assert (anywhere > hair - 0.1).all() and (anywhere < skin + 0.1).all()
    # What is not trusted adds nothing, and without a photo colours stay as they are.
    trusted = Palette.of(photo, np.repeat([1.0, 0.0], 500)).nearest(skin[None])
    np.testing.assert_allclose(trusted, hair[None], atol=0.03)
    np.testing.assert_allclose(Palette.of(photo, np.zeros(1000)).nearest(skin[None]), skin[None], atol=1e-9)


def test_a_model_is_doubted_as_much_as_it_missed_what_is_seen() -> None:
    photo = np.full((10, 3), 0.5)
    seen = np.repeat([1.0, 0.0], 5)
    assert doubt_of(photo, photo, seen) == 0
    wrong_behind = photo + 0.3 * (1 - seen)[:, None]
    assert doubt_of(wrong_behind, photo, seen) == 0  # nobody can know
    small, large = (doubt_of(photo + error, photo, seen) for error in (0.02, 0.15))
    assert small < 0.2 and large > 0.85
    assert doubt_of(wrong_behind, photo, np.zeros(10)) == 0


def test_correction_follows_trusted_values_fades_behind_and_never_overshoots() -> None:
    mesh = extract(AnalyticField(sphere(0.2)), 64, 10**6, silent)
    z = mesh.vertices[:, 2]
    spread = spread_over_surface(mesh, np.full((len(z), 1), 0.3), (z > 0.05).astype(float))[:, 0]
    assert spread.min() > 0 and spread.max() <= 0.3 + 1e-9
    np.testing.assert_allclose(spread[z > 0.1], 0.3, atol=0.01)
    assert spread[z < -0.19].mean() < 0.5 * spread[np.abs(z) < 0.02].mean()


def test_trust_in_the_matte_ends_inside_its_border() -> None:
    matte = np.zeros((512, 512), dtype=np.float32)
    matte[100:, 150:350] = 1.0  # a body that goes on below the crop
    image = np.where(matte[..., None] > 0, [200, 150, 120], [60, 80, 200]).astype(np.uint8)
    trust = matte_trust(matte, image)
    assert (trust[matte == 0] == 0).all()
    assert (trust[:, 150:154] == 0).all() and (trust[509:] == 0).all()
    assert (trust[120:490, 170:330] == 1).all()


def test_gap_in_the_hair_that_the_matte_bridged_is_not_trusted() -> None:
    matte = np.zeros((512, 512), dtype=np.float32)
    matte[100:400, 150:350] = 1.0
    image = np.where(matte[..., None] > 0, [90, 60, 40], [60, 80, 200]).astype(np.uint8)
    image[200:220, 150:163] = [60, 80, 200]  # 13 px of sky inside the matte
    trust = matte_trust(matte, image)
    assert trust[200:220, 150:163].max() < 0.2
    assert trust[300:320, 162].min() > 0.9


def test_filling_colours_everything_and_keeps_what_was_there() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 255, (37, 50, 4), dtype=np.uint8)
    covered = np.zeros((37, 50), dtype=bool)
    covered[5:9, 5:9] = covered[20:30, 30:45] = True
    image[:15, :15], image[15:, 20:] = 40, 200
    filled = fill_uncovered(image, covered)
    np.testing.assert_array_equal(filled[covered], image[covered])
    assert (filled[2:12, 2:12] == 40).all() and (filled[18:, 28:] == 200).all()
    assert ((filled >= 40) & (filled <= 200)).all()
