from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.camera import (
    RADIUS,
    camera_from_vector,
    camera_rays,
    orbit_camera,
    pinhole_intrinsics,
    project,
    project_tensor,
    ray_tensor,
    unproject,
)
from inference.render import rays

VIEWS = [(0.0, 0.0), (40.0, 15.0), (-90.0, -30.0), (180.0, 60.0)]


@pytest.mark.parametrize(("azimuth_deg", "elevation_deg"), VIEWS)
def test_unproject_undoes_project(azimuth_deg: float, elevation_deg: float) -> None:
    camera = orbit_camera(azimuth_deg, elevation_deg)
    points = np.random.default_rng(0).uniform(-0.35, 0.35, (100, 3))
    pixels, depth = project(points, camera)
    np.testing.assert_allclose(unproject(pixels, depth, camera), points, atol=1e-12)


@pytest.mark.parametrize(("azimuth_deg", "elevation_deg"), VIEWS)
def test_every_orbit_camera_looks_at_the_origin_upright(azimuth_deg: float, elevation_deg: float) -> None:
    camera = orbit_camera(azimuth_deg, elevation_deg)
    pixel, depth = project(np.zeros(3), camera)
    np.testing.assert_allclose(pixel, [0.5, 0.5], atol=1e-12)
    assert depth == pytest.approx(RADIUS)
    above, _ = project(np.array([0.0, 0.1, 0.0]), camera)
    assert above[0] == pytest.approx(0.5) and above[1] < 0.5  # straight up in the picture
    rotation = camera.cam2world[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_the_subjects_left_ear_is_on_the_right_of_a_frontal_picture_and_faces_the_camera_at_90_degrees() -> None:
    left_ear = np.array([0.15, 0.0, 0.0])
    pixel, _ = project(left_ear, orbit_camera(0.0))
    assert pixel[0] > 0.5
    _, depth = project(left_ear, orbit_camera(90.0))
    assert depth == pytest.approx(RADIUS - 0.15)


def test_a_camera_survives_its_vector() -> None:
    camera = orbit_camera(25.0, -10.0, radius=2.75, focal=4.0)
    again = camera_from_vector(camera.vector)
    np.testing.assert_allclose(again.cam2world, camera.cam2world, atol=1e-6)  # the vector is float32
    np.testing.assert_allclose(again.intrinsics, pinhole_intrinsics(4.0), atol=1e-6)


def test_rays_pass_through_their_pixels_centres() -> None:
    camera = orbit_camera(30.0, 20.0)
    origins, directions = camera_rays(camera, 8)
    pixels, _ = project(origins + 2.5 * directions, camera)
    centres = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(pixels[..., 0], np.broadcast_to(centres, (8, 8)), atol=1e-12)
    np.testing.assert_allclose(pixels[..., 1], np.broadcast_to(centres[:, None], (8, 8)), atol=1e-12)


def test_the_renderer_casts_the_same_rays() -> None:
    camera = orbit_camera(-70.0, 35.0)
    expected_origins, expected = camera_rays(camera, 8)
    origins, directions = rays(torch.from_numpy(camera.vector)[None], 8)
    np.testing.assert_allclose(directions[0].view(8, 8, 3).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(origins[0].numpy(), expected_origins[0, 0], atol=1e-6)


def test_the_batched_projection_agrees_with_the_single_one() -> None:
    camera = orbit_camera(55.0, 5.0)
    points = np.random.default_rng(1).uniform(-0.35, 0.35, (20, 3))
    expected, _ = project(points, camera)
    pixels, distance = project_tensor(torch.from_numpy(points)[None].float(), torch.from_numpy(camera.vector)[None])
    np.testing.assert_allclose(pixels[0].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(distance[0].numpy(), np.linalg.norm(points - camera.position, axis=1), atol=1e-6)


def test_the_networks_rays_are_the_same() -> None:
    cameras = [orbit_camera(*view) for view in VIEWS]
    nearest, directions = ray_tensor(torch.from_numpy(np.stack([camera.vector for camera in cameras])), 8)
    for camera, points, ways in zip(cameras, nearest, directions, strict=True):
        origins, expected = camera_rays(camera, 8)
        np.testing.assert_allclose(ways.permute(1, 2, 0).numpy(), expected, atol=1e-6)
        foot = origins - (origins * expected).sum(-1, keepdims=True) * expected
        np.testing.assert_allclose(points.permute(1, 2, 0).numpy(), foot, atol=1e-5)
