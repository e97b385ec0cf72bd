"""Pixels counted by hand, and a sphere whose picture is known."""

from __future__ import annotations

import numpy as np
import pytest

from inference.camera import camera_rays, orbit_camera
from inference.raster import NO_FACE, fragment_chunks, fragments, rasterise, rasterise_view, sample_image


def grid_of_triangles(cells: int, size: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A square cut into triangles with shaken inner corners: (v, 2) pixels and (f, 3)."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(0, size, cells + 1)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    points[1:-1, 1:-1] += rng.uniform(-0.3, 0.3, points[1:-1, 1:-1].shape) * size / cells
    corner = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 2), faces


def test_square_of_two_triangles_covers_its_pixels_once() -> None:
    # Corners on pixel centres: left and top sides belong to the square, right and bottom ones to its neighbours.
    points = np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 2.5], [0.5, 2.5]])
    cover = fragments(points, np.array([[0, 1, 2], [0, 2, 3]]), (4, 5))
    pixels = sorted(zip(cover.row.tolist(), cover.column.tolist(), strict=True))
    assert pixels == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_neighbouring_triangles_leave_no_crack_and_overlap_nowhere() -> None:
    points, faces = grid_of_triangles(40, 200.0)
    cover = fragments(points, faces, (200, 200))
    times = np.bincount(cover.row * 200 + cover.column, minlength=200 * 200)
    assert (times == 1).all()


def test_interpolation_is_exact_for_what_is_linear_in_the_picture() -> None:
    points, faces = grid_of_triangles(7, 64.0)
    raster = rasterise(points, faces[:, ::-1], (64, 64))  # winding does not matter
    row, column = np.nonzero(raster.covered)
    np.testing.assert_allclose(
        raster.interpolate(points, faces[:, ::-1]), np.stack([column, row], axis=1) + 0.5, atol=1e-4
    )


def test_what_lies_outside_the_picture_is_clipped() -> None:
    points = np.array([[-50.0, -50.0], [150.0, -50.0], [-50.0, 150.0]])
    raster = rasterise(points, np.array([[0, 1, 2]]), (20, 30))
    assert raster.covered.all()
    beside = rasterise(points + 500, np.array([[0, 1, 2]]), (20, 30))
    assert (beside.face == NO_FACE).all() and np.isinf(beside.depth).all()


def test_nearer_triangle_hides_the_farther_one_in_either_order() -> None:
    points = np.array([[0, 0], [10, 0], [0, 10], [0, 0], [10, 0], [0, 10]], dtype=float)
    depth = np.array([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])
    for faces in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        raster = rasterise(points, np.array(faces), (10, 10), depth)
        assert {faces[face][0] for face in raster.face[raster.covered]} == {3}
        np.testing.assert_allclose(raster.depth[raster.covered], 1.0, rtol=1e-6)


def test_camera_sees_a_tilted_plane_where_its_rays_meet_it() -> None:
    # z = .3 x + .1: perspective shows in depth and in interpolated positions.
    corners = np.array([[x, y, 0.3 * x + 0.1] for x in (-0.2, 0.2) for y in (-0.2, 0.2)])
    faces = np.array([[0, 1, 2], [2, 1, 3]])
    camera = orbit_camera(20, 10)
    raster = rasterise_view(corners, faces, camera, 128)
    seen = raster.interpolate(corners, faces)
    origins, directions = camera_rays(camera, 128)
    origin, direction = origins[raster.covered], directions[raster.covered]
    normal = np.array([-0.3, 0.0, 1.0])
    along = (0.1 - origin @ normal) / (direction @ normal)
    np.testing.assert_allclose(seen, origin + along[:, None] * direction, atol=2e-6)
    forward = camera.cam2world[:3, 2]
    np.testing.assert_allclose(raster.depth[raster.covered], (seen - camera.position) @ forward, atol=2e-6)


def test_chunks_are_the_fragments_in_order() -> None:
    points, faces = grid_of_triangles(30, 1200.0)
    whole = fragments(points, faces, (1200, 1200))
    chunks = [chunk for _, chunk in fragment_chunks(points, faces, (1200, 1200))]
    assert len(chunks) > 2
    for name in ("face", "row", "column", "barycentric"):
        np.testing.assert_array_equal(np.concatenate([getattr(chunk, name) for chunk in chunks]), getattr(whole, name))


@pytest.mark.parametrize("shape", [(4, 6, 1), (1, 5, 2), (3, 1, 2)])
def test_sampling_at_pixel_centres_returns_the_pixels(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).random(shape).astype(np.float32)
    row, column = np.indices(shape[:2])
    points = np.stack([column, row], axis=-1).reshape(-1, 2) + 0.5
    np.testing.assert_allclose(sample_image(image, points), image.reshape(-1, shape[2]), atol=1e-7)


def test_sampling_is_linear_between_pixels_and_constant_outside() -> None:
    ramp = np.arange(5, dtype=np.float32).reshape(1, 5, 1).repeat(3, axis=0)
    found = sample_image(ramp, np.array([[1.25, 1.0], [4.9, 2.9], [-7.0, 1.0]]))
    np.testing.assert_allclose(found[:, 0], [0.75, 4.0, 0.0], atol=1e-6)
