"""What an encoder is shown for another version: still a portrait, of somebody a little different."""

from __future__ import annotations

import pytest
import torch

from inference.camera import orbit_camera
from inference.encoders import PortraitInput
from inference.versions import altered

SIZE = 64


@pytest.fixture
def given() -> PortraitInput:
    """A red disc, left of the middle, on the grey behind every portrait."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    matte = (((x + 0.3) ** 2 + y**2) < 0.16).float()[None, None]
    colour = torch.tensor([0.7, 0.3, 0.2]).view(1, 3, 1, 1) * matte + 0.5 * (1 - matte)
    cameras = torch.from_numpy(orbit_camera(0.0).vector)[None]
    return PortraitInput(torch.cat([colour, matte], dim=1), cameras, torch.zeros(1, 468, 3))


def test_the_same_seed_shows_the_same_and_others_show_something_else(given):
    shown = [altered(given, seed).portraits for seed in (1, 2, 3)]
    assert torch.equal(shown[0], altered(given, 1).portraits)
    assert all(float((a - b).abs().max()) > 0.1 for a in shown for b in shown if a is not b)


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_person_keeps_size_and_colour_about_and_stands_before_grey(given, seed):
    made = altered(given, seed)
    colour, matte = made.portraits[0, :3], made.portraits[0, 3]
    assert float(matte.min()) >= 0 and float(matte.max()) <= 1
    assert float((colour[:, matte == 0] - 0.5).abs().max()) < 1e-6
    assert float(matte.sum()) == pytest.approx(float(given.portraits[0, 3].sum()), rel=0.45)
    red, green, blue = colour[:, matte > 0.99].mean(dim=1).tolist()
    assert red > green > blue and red == pytest.approx(0.7, rel=0.4)
    assert made.cameras.shape == given.cameras.shape and not torch.equal(made.cameras, given.cameras)


def test_some_are_mirrored_and_some_are_not(given):
    left = [float(altered(given, seed).portraits[0, 3, :, : SIZE // 2].sum()) for seed in range(1, 17)]
    total = float(given.portraits[0, 3].sum())
    assert any(share > 0.8 * total for share in left) and any(share < 0.3 * total for share in left)
