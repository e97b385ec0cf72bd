from __future__ import annotations

import numpy as np
import pytest
import trimesh

from inference.alignment import AlignedPortrait, align, inter_ocular
from inference.camera import camera_rays, orbit_camera, project
from inference.face_networks import load_face_networks
from inference.photo import load_photo
from inference.progress import silent
from inference.quality import landmark_nme, matte_iou, visible_share
from inference.raster import sample_image
from inference.surface import Mesh

RADIUS = 0.2  # box units
CUT_Y = -0.15  # box units; the ball is cut flat there, as a head is in the neck


@pytest.fixture(scope="module")
def cut_ball() -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    return Mesh(np.maximum(ball.vertices, [-1, CUT_Y, -1]), np.asarray(ball.faces, np.int64))


def ball_matte(camera, radius: float) -> np.ndarray:
    """(512, 512) exact silhouette of a whole ball."""
    origins, directions = camera_rays(camera, 512)
    along = (origins * directions).sum(-1)
    return (along**2 - (origins**2).sum(-1) + radius**2 > 0).astype(np.float32)


@pytest.mark.parametrize("elevation", [-30.0, 0.0, 30.0])
def test_the_outline_of_a_ball_covers_its_own_matte_though_the_mesh_ends_at_the_neck(cut_ball, elevation):
    camera = orbit_camera(20.0, elevation)
    # Pixels of the outline are all that may differ: a thin ring.
    assert matte_iou(cut_ball, camera, ball_matte(camera, RADIUS)) > 0.98


def test_a_matte_twice_as_wide_gives_the_share_known_from_geometry():
    ball = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    camera = orbit_camera(0.0, 0.0, radius=100.0, focal=100.0)  # so far away that outlines are plain circles
    # Above the ball's lowest point lies the circle of twice its radius without the segment beyond half of that radius.
    segment = 4 * (np.pi / 3 - np.sin(np.pi / 3) * np.cos(np.pi / 3))
    expected = np.pi / (4 * np.pi - segment)
    iou = matte_iou(Mesh(ball.vertices, np.asarray(ball.faces, np.int64)), camera, ball_matte(camera, 2 * RADIUS))
    assert iou == pytest.approx(expected, abs=0.01)  # a row of pixels is 1 % of the ball's height


def test_a_matte_that_is_elsewhere_gives_nothing(cut_ball):
    empty = np.zeros((512, 512), np.float32)
    assert matte_iou(cut_ball, orbit_camera(0.0), empty) == 0.0


def test_the_visible_share_counts_area_not_vertices():
    # A cube, finely divided on its front only: many vertices, one sixth of the area.
    cube = trimesh.creation.box()
    front = np.flatnonzero(cube.face_normals[:, 2] > 0.9)
    fine = cube.subdivide(face_index=front).subdivide()
    seen = (fine.vertices[:, 2] > 0.499).astype(float)
    share = visible_share(Mesh(fine.vertices, fine.faces), seen)
    assert 1 / 6 < share < 1 / 6 + 4 * 0.25 / 6 + 1e-6  # the front, and the triangles of the sides that touch it


class PhotoOnSurface:
    """A field with the portrait's own colours, as if the model knew the person."""

    def __init__(self, portrait: AlignedPortrait, shift_px: float) -> None:
        self._portrait = portrait
        self._shift = np.array([shift_px, 0.0])

    def colour(self, points: np.ndarray) -> np.ndarray:
        picture, _ = project(points, self._portrait.camera)
        return sample_image(self._portrait.image.astype(np.float32), picture * 512 + self._shift) / 255


@pytest.mark.parametrize("shift_px", [0.0, 15.0])
def test_the_landmark_error_is_the_distance_between_the_faces_in_eye_distances(astronaut, shift_px):
    face = load_face_networks()
    portrait = align(load_photo(astronaut), face, silent)
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.3)
    screen = Mesh(ball.vertices, np.asarray(ball.faces, np.int64))
    field = PhotoOnSurface(portrait, shift_px)
    error = landmark_nme(screen, field, portrait, face)
    # The second look is at half the resolution: landmarks wander by 3 % of the eye distance.
    assert error == pytest.approx(shift_px / inter_ocular(portrait.landmarks), abs=0.03)
