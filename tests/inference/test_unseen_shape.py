"""Vertices that no photo sees follow another surface; the rest of the mesh stays to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from inference.camera import orbit_camera
from inference.progress import silent
from inference.surface import Mesh, is_watertight
from inference.unseen_shape import BORDER_WIDTH, follow_unseen, seen_vertices

RADIUS = 0.2  # box units


class Ball:
    """A ball whose back is drawn out or pressed in: signed distance, about, with the density's sign."""

    level, box_side = 0.0, 1.0

    def __init__(self, growth: float) -> None:
        self._growth = growth

    def density(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        radius = np.linalg.norm(points, axis=1)
        back = np.clip(-points[:, 2] / np.maximum(radius, 1e-9), 0, 1)
        return RADIUS * (1 + self._growth * back**2) - radius


@pytest.fixture(scope="module")
def ball() -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    return Mesh(np.asarray(made.vertices), np.asarray(made.faces))


@pytest.mark.parametrize("growth", [0.3, -0.3])
def test_the_back_follows_and_what_is_seen_stays(ball: Mesh, growth: float) -> None:
    seen = ball.vertices[:, 2] > 0
    moved = follow_unseen(ball, seen, Ball(growth), silent)
    assert np.array_equal(moved.vertices[seen], ball.vertices[seen]) and np.array_equal(moved.faces, ball.faces)
    free = ball.vertices[:, 2] < -1.2 * BORDER_WIDTH
    free &= ball.vertices[:, 1] > -0.9 * RADIUS  # the lowest vertices stand for the neck's cut
    assert np.abs(Ball(growth).density(moved.vertices[free])).max() < 0.004  # 2 mm, of 30 that the back moves
    assert is_watertight(moved)
    before, after = (np.cross(*(m.vertices[m.faces[:, k]] - m.vertices[m.faces[:, 0]] for k in (1, 2)))
                     for m in (ball, moved))  # fmt: skip
    assert (np.einsum("ij,ij->i", before, after) > 0).all()


def test_near_what_is_seen_the_way_begins_smoothly(ball: Mesh) -> None:
    seen = ball.vertices[:, 2] > 0
    moved = follow_unseen(ball, seen, Ball(0.3), silent)
    way = np.linalg.norm(moved.vertices - ball.vertices, axis=1)
    first_ring = (~seen) & (ball.vertices[:, 2] > -0.01)
    assert way[first_ring].max() < 0.05 * way.max()


def test_the_same_surface_moves_nothing_visibly(ball: Mesh) -> None:
    moved = follow_unseen(ball, ball.vertices[:, 2] > 0, Ball(0.0), silent)
    assert np.linalg.norm(moved.vertices - ball.vertices, axis=1).max() < 2e-4


def test_with_everything_seen_nothing_moves(ball: Mesh) -> None:
    moved = follow_unseen(ball, np.ones(len(ball.vertices), bool), Ball(0.3), silent)
    assert np.array_equal(moved.vertices, ball.vertices)


def test_what_the_camera_sees_counts_as_seen_also_without_a_texel_of_the_photo(ball: Mesh) -> None:
    uv = np.full((len(ball.vertices), 2), 0.5)
    seen = seen_vertices(ball, uv, np.zeros((8, 8), np.uint8), orbit_camera(0.0))
    assert seen[ball.vertices[:, 2] > 0.05].all() and not seen[ball.vertices[:, 2] < -0.05].any()


def test_vertices_of_a_face_with_a_texel_of_the_photo_are_seen(ball: Mesh) -> None:
    behind = np.flatnonzero((ball.vertices[ball.faces][:, :, 2] < -0.1).all(axis=1))[0]
    uv = np.full((len(ball.vertices), 2), -1.0)  # elsewhere
    uv[ball.faces[behind]] = [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]
    visibility = np.zeros((8, 8), np.uint8)
    visibility[3, 4] = 1
    seen = seen_vertices(ball, uv, visibility, orbit_camera(0.0))
    assert seen[ball.faces[behind]].all() and not seen[ball.vertices[:, 2] < -0.1].all()
