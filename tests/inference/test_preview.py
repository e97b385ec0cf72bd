"""What the preview shows of a head with coloured sides."""

from __future__ import annotations

import numpy as np
import pytest

from inference.alignment import AlignedPortrait, FacePose
from inference.bake import TexturedHead, fill_uncovered
from inference.camera import orbit_camera, project
from inference.preview import VIEW_SIZE, contact_rows, draw_view, preview_sheet
from inference.progress import silent
from inference.raster import fragments
from inference.surface import extract
from inference.unwrap import unwrap

from .analytic_fields import AnalyticField, head_on_neck

FRONT, LEFT, RIGHT, BACK = (220, 180, 160), (200, 0, 0), (0, 0, 200), (0, 150, 0)


@pytest.fixture(scope="module")
def head() -> TexturedHead:
    """Its left side red, its right side blue, its back green, its face pale."""
    unwrapped = unwrap(extract(AnalyticField(head_on_neck()), 64, 3000, silent), silent)
    size = 512
    cover = fragments(unwrapped.uv * size, unwrapped.mesh.faces, (size, size))
    x, _, z = cover.interpolate(unwrapped.mesh.vertices, unwrapped.mesh.faces).T[..., None]
    albedo = np.zeros((size, size, 3), dtype=np.uint8)
    side = np.where(x > 0, LEFT, RIGHT)
    albedo[cover.row, cover.column] = np.where(np.abs(x) > np.abs(z), side, np.where(z > 0, FRONT, BACK))
    covered = np.zeros((size, size), dtype=bool)
    covered[cover.row, cover.column] = True
    albedo = fill_uncovered(albedo, covered)
    seen = np.ones(len(unwrapped.uv), np.float32)
    return TexturedHead(unwrapped.mesh, unwrapped.uv, albedo, seen, albedo[..., 0], {}, "someone.jpg", seen)


@pytest.fixture(scope="module")
def portrait() -> AlignedPortrait:
    image = np.full((512, 512, 3), 77, dtype=np.uint8)
    pose = FacePose(0.0, 0.0, 0.0, 1.0, 80.0, 1)
    return AlignedPortrait(image, np.ones((512, 512), np.float32), orbit_camera(0), np.eye(3), np.zeros((478, 3)), pose)


@pytest.mark.parametrize(("azimuth_deg", "colour"), [(0, FRONT), (90, LEFT), (180, BACK), (270, RIGHT)])
def test_each_side_of_the_head_shows_its_colour(head: TexturedHead, azimuth_deg: float, colour: tuple) -> None:
    view = draw_view(head, orbit_camera(azimuth_deg), 128)
    np.testing.assert_allclose(view[60:68, 60:68].reshape(-1, 3), np.tile(colour, (64, 1)), atol=1)


def test_background_is_grey_and_the_head_stands_where_the_camera_sees_it(head: TexturedHead) -> None:
    camera = orbit_camera(30, 10)
    view = draw_view(head, camera, 128)
    drawn = np.argwhere((view != 128).any(axis=2))[:, ::-1] / 128
    seen = project(head.mesh.vertices, camera)[0]
    np.testing.assert_allclose(drawn.min(axis=0), seen.min(axis=0), atol=0.01)
    np.testing.assert_allclose(drawn.max(axis=0) + 1 / 128, np.minimum(seen.max(axis=0), 1), atol=0.01)


def test_shading_is_brightest_where_the_surface_faces_the_light(head: TexturedHead) -> None:
    clay = draw_view(head, orbit_camera(0), 128, textured=False, shaded=True).astype(int)
    flat = draw_view(head, orbit_camera(0), 128, textured=False)
    assert len(np.unique(flat[50:70, 50:70])) == 1
    assert clay[44, 76].sum() > clay[80, 44].sum() + 30  # upper right against lower left


def test_sheet_has_the_portrait_and_eight_views(head: TexturedHead, portrait: AlignedPortrait) -> None:
    sheet = np.asarray(preview_sheet(head, portrait, silent))
    assert sheet.shape == (3 * VIEW_SIZE, 3 * VIEW_SIZE, 3)
    assert (sheet[:VIEW_SIZE, :VIEW_SIZE] == 77).all()
    middle = VIEW_SIZE // 2
    left_profile = sheet[VIEW_SIZE + middle, middle]
    back = sheet[VIEW_SIZE + middle, 2 * VIEW_SIZE + middle]
    assert left_profile.argmax() == 0 and back.argmax() == 1


def test_contact_rows_show_eight_pictures_of_texture_over_eight_of_shape(
    head: TexturedHead, portrait: AlignedPortrait
) -> None:
    rows = np.asarray(contact_rows(head, portrait, 64))
    assert rows.shape == (128, 8 * 64, 3)
    grey = rows[64:, 64:]
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
