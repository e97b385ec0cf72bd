"""Encoders: sizes, the frame the lifting works in, and what portraits look like to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from inference.camera import FOCAL, RADIUS, orbit_camera, project, project_tensor
from inference.encoders import (
    LANDMARK_GAIN,
    STARTER_ENCODER,
    SURFACE_REACH,
    EncoderConfig,
    OccludedEncoder,
    PictureFeatures,
    PlaneLift,
    PortraitInput,
    SeenPlanes,
    VisibleEncoder,
    landmark_offsets,
    portrait_tensor,
)
from inference.face_networks import load_landmark_template
from inference.generator import STARTER, TriPlaneGenerator
from inference.tri_grid import plane_points, sample_planes_apart


@pytest.fixture(scope="module")
def encoder() -> VisibleEncoder:
    torch.manual_seed(0)
    return VisibleEncoder(EncoderConfig(), STARTER, STARTER.num_ws).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(STARTER).eval().requires_grad_(False)


def some_portrait(azimuth_deg: float = 20) -> PortraitInput:
    torch.manual_seed(1)
    camera = torch.from_numpy(orbit_camera(azimuth_deg).vector)[None]
    return PortraitInput(torch.rand(1, 4, 128, 128), camera, torch.randn(1, 468, 3))


def test_an_inversion_has_the_sizes_the_generator_makes(encoder: VisibleEncoder, generator: TriPlaneGenerator) -> None:
    made = encoder(some_portrait(), generator)
    assert made.w_plus.shape == (1, STARTER.num_ws, STARTER.w_dim)
    res = STARTER.planes_resolution
    assert made.planes.shape == (1, 3, STARTER.plane_channels, STARTER.planes_depth, res, res)
    assert torch.equal(made.base, generator.synthesise_planes(made.w_plus))


def test_landmarks_move_the_latent(encoder: VisibleEncoder) -> None:
    given = some_portrait()
    other = PortraitInput(given.portraits, given.cameras, given.landmarks + 1)
    assert not torch.allclose(encoder.look(given)[0], encoder.look(other)[0])


def test_only_an_encoder_that_completes_reads_what_was_seen(generator: TriPlaneGenerator) -> None:
    given, res = some_portrait(), STARTER.planes_resolution
    shape = (1, 3, STARTER.plane_channels, STARTER.planes_depth, res, res)
    seen = SeenPlanes(torch.randn(shape), torch.zeros(1, 3, STARTER.planes_depth, res, res))
    hidden = SeenPlanes(torch.randn(shape), seen.visibility)
    shown = SeenPlanes(seen.planes, torch.ones_like(seen.visibility))
    with torch.no_grad():
        for completes in (False, True):
            torch.manual_seed(2)
            encoder = OccludedEncoder(EncoderConfig(completes=completes), STARTER, STARTER.num_ws)
            if encoder.lift.known is not None:
                torch.nn.init.normal_(encoder.lift.known.weight)  # as after some training
            made = [encoder(given, generator, one).planes for one in (seen, hidden, shown)]
            assert torch.equal(made[0], made[1])  # what the photo does not show is not read
            assert torch.equal(made[0], made[2]) is not completes


def test_landmark_offsets_are_zero_for_the_mean_face_and_follow_a_shift() -> None:
    template, camera = load_landmark_template().points_head, orbit_camera(25, -5)
    pixels, depth = project(template, camera)
    face = np.column_stack([pixels, depth * FOCAL / RADIUS + 3])  # the networks' z has no origin
    np.testing.assert_allclose(landmark_offsets(face, camera, template), 0, atol=1e-5)
    moved = landmark_offsets(face + [0.01, 0, 0], camera, template)
    np.testing.assert_allclose(moved, np.tile([0.01 * LANDMARK_GAIN, 0, 0], (468, 1)), atol=1e-5)


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


def test_surfaces_begin_about_the_head_and_steer_the_lifting(generator: TriPlaneGenerator) -> None:
    torch.manual_seed(3)
    encoder = VisibleEncoder(STARTER_ENCODER, STARTER, STARTER.num_ws).requires_grad_(False)
    made = encoder(some_portrait(), generator)
    assert made.surfaces is not None and made.surfaces.shape == (1, 2, 64, 64)
    front, back = made.surfaces[0].mean((1, 2))
    assert RADIUS - 0.35 < front < RADIUS < back < RADIUS + 0.35
    assert encoder.lift.measure is not None
    torch.nn.init.normal_(encoder.lift.measure)  # as after some training
    assert encoder.surfaces is not None
    before = encoder(some_portrait(), generator).planes
    encoder.surfaces[-1].bias += 1
    assert not torch.allclose(encoder(some_portrait(), generator).planes, before)


def test_a_sample_knows_how_far_it_lies_behind_one_surface_and_before_the_other() -> None:
    lift = PlaneLift(STARTER_ENCODER, STARTER)
    front, back = RADIUS - 0.1, RADIUS + 0.15
    surfaces = torch.tensor([front, back]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    matte = torch.ones(1, 1, 8, 8)
    matte[..., 4:] = 0  # nothing to the right
    picture = PictureFeatures(torch.ones(1, 16, 8, 8), matte, surfaces)
    grid = torch.tensor([[-0.5, 0.0], [-0.5, 0.0], [0.5, 0.0]]).view(1, 1, 3, 2)
    distances = torch.tensor([front, RADIUS, RADIUS]).view(1, 1, 1, 3)
    *near, shown, behind, ahead = lift.measures(picture.features, picture, grid, distances)[0, :, 0].numpy()
    for channel in near:
        assert channel[0] == pytest.approx(1) and 0 < channel[1] < 0.1  # the picture belongs to what it shows
    assert shown.tolist() == [1, 1, 0]
    np.testing.assert_allclose(behind, [0, np.tanh(0.1 / SURFACE_REACH), 0], atol=1e-5)
    np.testing.assert_allclose(ahead, [np.tanh(0.25 / SURFACE_REACH), np.tanh(0.15 / SURFACE_REACH), 0], atol=1e-5)


def test_the_same_portrait_gives_the_same_planes(encoder: VisibleEncoder, generator: TriPlaneGenerator) -> None:
    assert torch.equal(encoder(some_portrait(), generator).planes, encoder(some_portrait(), generator).planes)


def test_background_is_grey_whatever_the_photo_holds_there() -> None:
    matte = np.zeros((512, 512), np.float32)
    matte[128:384, 128:384] = 1
    image = np.full((512, 512, 3), 255, np.uint8)
    tensor = portrait_tensor(image, matte, 128, torch.device("cpu"))
    assert tensor[0, :3, 0, 0].tolist() == [0.5, 0.5, 0.5] and tensor[0, 3, 0, 0] == 0
    assert tensor[0, :3, 64, 64].tolist() == [1, 1, 1] and tensor[0, 3, 64, 64] == 1


def test_config_survives_json() -> None:
    config = EncoderConfig(channels=(16, 32, 48, 64, 80))
    for one in (config, STARTER_ENCODER):
        assert EncoderConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one
