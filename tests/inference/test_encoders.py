"""Encoders: sizes, the frame the lifting works in, and what portraits look like to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from inference.camera import orbit_camera, project, project_tensor
from inference.encoders import EncoderConfig, PlaneLift, VisibleEncoder, portrait_tensor
from inference.generator import STARTER
from inference.tri_grid import plane_points, sample_planes_apart


@pytest.fixture(scope="module")
def encoder() -> VisibleEncoder:
    torch.manual_seed(0)
    return VisibleEncoder(EncoderConfig(), STARTER, STARTER.num_ws).eval()


def test_latents_have_the_sizes_the_generator_takes(encoder: VisibleEncoder) -> None:
    camera = torch.from_numpy(orbit_camera(20).vector)[None]
    latents = encoder(torch.rand(1, 4, 128, 128), camera)
    assert latents.w_plus.shape == (1, STARTER.num_ws, STARTER.w_dim)
    res = STARTER.planes_resolution
    assert latents.residual.shape == (1, 3, STARTER.plane_channels, STARTER.planes_depth, res, res)


def test_each_cell_reads_itself_at_its_own_points() -> None:
    res = 8
    points = plane_points(res, 3, 0.7)  # as many samples as slices: they fall onto the slices' centres
    planes = torch.randn(1, 3, 2, 3, res, res)
    for plane in range(3):
        read = sample_planes_apart(planes, points[plane].reshape(1, -1, 3), 0.7)[0, plane]
        torch.testing.assert_close(read.view(2, 3, res, res), planes[0, plane])


def test_lifting_reads_the_picture_where_the_camera_projects_the_cell() -> None:
    lift = PlaneLift(EncoderConfig(), STARTER)
    camera = orbit_camera(35, -5)
    point = lift.points[0, 70_000]
    expected, _ = project(point.numpy(), camera)
    # A picture that holds its own coordinates answers with the place it was read at.
    centres = (torch.arange(64) + 0.5) / 64
    ramp = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))[None]
    pixels, _ = project_tensor(point[None, None], torch.from_numpy(camera.vector)[None])
    read = torch.nn.functional.grid_sample(ramp, pixels[:, None] * 2 - 1, align_corners=False)[0, :, 0, 0]
    np.testing.assert_allclose(read.numpy(), expected, atol=1e-5)


def test_the_same_portrait_gives_the_same_latents(encoder: VisibleEncoder) -> None:
    torch.manual_seed(1)
    portrait, camera = torch.rand(1, 4, 128, 128), torch.from_numpy(orbit_camera(0).vector)[None]
    assert torch.equal(encoder(portrait, camera).residual, encoder(portrait, camera).residual)


def test_background_is_grey_whatever_the_photo_holds_there() -> None:
    matte = np.zeros((512, 512), np.float32)
    matte[128:384, 128:384] = 1
    image = np.full((512, 512, 3), 255, np.uint8)
    tensor = portrait_tensor(image, matte, 128, torch.device("cpu"))
    assert tensor[0, :3, 0, 0].tolist() == [0.5, 0.5, 0.5] and tensor[0, 3, 0, 0] == 0
    assert tensor[0, :3, 64, 64].tolist() == [1, 1, 1] and tensor[0, 3, 64, 64] == 1


def test_config_survives_json() -> None:
    config = EncoderConfig(channels=(16, 32, 48, 64, 80))
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
