"""A generator with super-resolution is looked at from all around; what counts where is tested with the bake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.camera import orbit_camera
from inference.generator import STARTER, TriPlaneGenerator
from inference.model_views import DIRECTIONS, ModelView, look_around, softened
from inference.progress import Cancelled, silent
from inference.render import render_image
from inference.tri_grid import TriGrid

CONFIG = replace(
    STARTER,
    channel_base=256,
    channel_max=16,
    superresolution=True,
    superresolution_input=16,
    superresolution_channels=(8, 8),
    render_resolution=8,
    coarse_samples=8,
    fine_samples=8,
    planes_resolution=16,
)


@pytest.fixture(scope="module")
def generator() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(CONFIG).eval().requires_grad_(False)


def test_each_picture_is_the_generators_own_of_the_given_tri_grid(generator: TriPlaneGenerator) -> None:
    w_plus = torch.randn(1, generator.num_ws, CONFIG.w_dim)
    planes = torch.randn(1, 3, CONFIG.plane_channels, CONFIG.planes_depth, 16, 16)  # a stitched one is nobody's w_plus
    views = look_around(generator, TriGrid(planes[0], CONFIG.box_side), w_plus, orbit_camera(-20.0, 10.0), silent)
    assert len(views) == len(DIRECTIONS)
    azimuths = [np.degrees(np.arctan2(*view.camera.position[[0, 2]])) % 360 for view in views]
    np.testing.assert_allclose(azimuths[:5], [40, 100, 160, 220, 280], atol=1e-6)  # none from where the photo was taken
    camera = orbit_camera(DIRECTIONS[3][0] - 20.0, DIRECTIONS[3][1])
    made = render_image(generator, w_plus, torch.from_numpy(camera.vector)[None], planes)
    assert views[3].pixels.shape == (64, 64, 4)
    expected = ((made.image[0] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(views[3].pixels[..., :3], expected, atol=1e-6)
    assert views[3].pixels[..., 3].mean() == pytest.approx(made.view.mask.mean().item(), abs=1e-3)


def test_looking_around_can_be_given_up_between_pictures(generator: TriPlaneGenerator) -> None:
    def give_up(fraction: float, label: str) -> None:
        if fraction > 0.3:
            raise Cancelled

    w_plus, planes = torch.zeros(1, generator.num_ws, CONFIG.w_dim), torch.zeros(3, 8, CONFIG.planes_depth, 16, 16)
    with pytest.raises(Cancelled):
        look_around(generator, TriGrid(planes, CONFIG.box_side), w_plus, orbit_camera(0.0), give_up)


def test_softening_mixes_the_heads_pixels_only() -> None:
    pixels = np.zeros((32, 32, 4), np.float32)
    pixels[:, 16:, :3] = 1.0  # a white wall beside a black head
    pixels[:, :16, 3] = 1.0
    soft = softened(ModelView(orbit_camera(0.0), pixels), 3.0)
    assert soft.pixels[:, :16, :3].max() < 1e-3
    np.testing.assert_array_equal(soft.pixels[..., 3], pixels[..., 3])
