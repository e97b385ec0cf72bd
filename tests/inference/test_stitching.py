"""Stitching: which cells the photo decides, and that it leaves the rest alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.camera import orbit_camera
from inference.stitching import (
    DEPTH_SIZE,
    EMPTY_DEPTH,
    SCOUT_GRID,
    Scout,
    input_depth,
    stitch,
    surface_points,
    visibility,
    visibility_mask,
)
from inference.tri_grid import TriGrid, plane_votes, sample_planes_apart

RADIUS = 0.2  # box units, of the ball that stands for a head
SIDE = 0.7


@pytest.fixture(scope="module")
def ball() -> Scout:
    centres = ((torch.arange(SCOUT_GRID) + 0.5) / SCOUT_GRID - 0.5) * SIDE
    x, y, z = torch.meshgrid(centres, centres, centres, indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt() - RADIUS
    return Scout(10 - 2000 * distance, 10.0, SIDE)


def grids() -> tuple[TriGrid, TriGrid]:
    torch.manual_seed(0)
    return TriGrid(torch.randn(3, 4, 3, 16, 16), SIDE), TriGrid(torch.randn(3, 4, 3, 16, 16), SIDE)


def test_everything_visible_returns_the_first_tri_grid_bit_for_bit() -> None:
    first, second = grids()
    assert torch.equal(stitch(first, second, torch.ones(3, 3, 16, 16)).planes, first.planes)


def test_nothing_visible_returns_the_second_tri_grid_bit_for_bit() -> None:
    first, second = grids()
    assert torch.equal(stitch(first, second, torch.zeros(3, 3, 16, 16)).planes, second.planes)


def test_half_visible_is_the_mean_of_both() -> None:
    first, second = grids()
    stitched = stitch(first, second, torch.full((3, 3, 16, 16), 0.5))
    torch.testing.assert_close(stitched.planes, (first.planes + second.planes) / 2)


def test_surface_points_lie_on_the_ball(ball: Scout) -> None:
    radius = surface_points(ball).norm(dim=1)
    assert (radius - RADIUS).abs().max() < 2e-4  # linear interpolation of a curved distance over an 11e-3 cell


def test_depth_of_the_input_view_is_where_the_ray_meets_the_ball(ball: Scout) -> None:
    camera = orbit_camera(30, 10)
    depth = input_depth(ball, camera)
    middle = depth[DEPTH_SIZE // 2 - 1 : DEPTH_SIZE // 2 + 1, DEPTH_SIZE // 2 - 1 : DEPTH_SIZE // 2 + 1]
    assert (middle - (2.7 - RADIUS)).abs().max() < 2e-3
    assert depth[0, 0] == EMPTY_DEPTH


@pytest.mark.parametrize("azimuth_deg", [0.0, 60.0, 180.0])
def test_the_half_of_the_ball_that_faces_the_camera_is_seen(ball: Scout, azimuth_deg: float) -> None:
    camera = orbit_camera(azimuth_deg)
    points = surface_points(ball)
    seen = visibility(points, camera, input_depth(ball, camera))
    facing = points @ torch.from_numpy(camera.position).float() / (RADIUS * 2.7)
    assert (seen[facing > 0.2] == 1).all()  # nearer the rim a pixel of the depth map spans more than the slack
    assert (seen[facing < -0.3] == 0).all()  # beyond slack and ramp behind the rim


def test_front_cells_are_seen_and_back_cells_are_not(ball: Scout) -> None:
    camera = orbit_camera(0)
    points = surface_points(ball)
    grid = TriGrid(torch.zeros(3, 4, 3, 32, 32), SIDE)
    mask = visibility_mask(points, visibility(points, camera, input_depth(ball, camera)), grid)
    assert mask[0, 2, 16, 16] > 0.99 and mask[0, 0, 16, 16] < 0.01  # plane 0: slices along z, the last in front
    assert mask[1, 1, 30, 16] > 0.99 and mask[1, 1, 1, 16] < 0.01  # plane 1: rows along z
    assert mask.min() >= 0 and mask.max() <= 1


def test_all_points_seen_gives_a_mask_of_exactly_one(ball: Scout) -> None:
    points = surface_points(ball)
    mask = visibility_mask(points, torch.ones(len(points)), TriGrid(torch.zeros(3, 4, 3, 32, 32), SIDE))
    assert torch.equal(mask, torch.ones_like(mask))


def test_votes_are_the_transpose_of_sampling() -> None:
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(-0.3, 0.3, (50, 3))).float()
    values = torch.from_numpy(rng.normal(size=50)).float()
    grid = TriGrid(torch.randn(3, 1, 3, 16, 16), SIDE)
    read = sample_planes_apart(grid.planes[None], points[None], SIDE).sum(dim=(1, 2))[0]  # (m,) over planes
    votes = plane_votes(points, values, grid)
    torch.testing.assert_close((votes * grid.planes[:, 0]).sum(), (read * values).sum(), rtol=1e-4, atol=1e-4)
