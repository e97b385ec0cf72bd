"""W+ optimisation: a head that is known is found again from its picture alone, the same each time, until given up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from inference import checkpoints, conversion
from inference.camera import orbit_camera
from inference.errors import OutOfMemory
from inference.generator import TriPlaneGenerator
from inference.progress import Cancelled, silent
from inference.refinement import LOWEST_Y
from inference.render import render_view
from inference.w_plus_optimisation import (
    BACKGROUND,
    RAYS_PER_CHUNK,
    SMALLEST_CHUNK,
    Target,
    latent_spread,
    optimise_w_plus,
    portrait_target,
    rate_share,
)
from tests.inference import published_pickle
from tests.inference.test_silhouette import SIDE, portrait_of_a_disc
from tests.neck_and_sphere import PLIABLE_CONFIG, pliable_generator

STEPS = 60  # a twentieth of a second each
CAMERAS = torch.from_numpy(orbit_camera(10.0).vector)[None]
RESOLUTION = PLIABLE_CONFIG.render_resolution
FULL_SIZE_LIKE = replace(  # its colours are features, turned into colours by the latent's last row, as PanoHead's
    PLIABLE_CONFIG, superresolution=True, superresolution_input=RESOLUTION, superresolution_channels=(8, 8)
)


@pytest.fixture(scope="module", params=[PLIABLE_CONFIG, FULL_SIZE_LIKE], ids=["colours", "colour features"])
def generator(request) -> TriPlaneGenerator:
    return pliable_generator(request.param)


@pytest.fixture(scope="module")
def simple() -> TriPlaneGenerator:
    return pliable_generator()


def known_latents(generator: TriPlaneGenerator) -> Tensor:
    """A head whose every row of w_plus lies a random spread from the average."""
    chance = torch.Generator().manual_seed(5)
    offset = torch.randn((1, generator.num_ws, generator.config.w_dim), generator=chance)
    return generator.backbone.mapping.w_avg + offset * latent_spread(generator, chance)


class Painted(TriPlaneGenerator):
    """A generator whose samples are colours before they are composited, as a plain renderer would have them."""

    w: Tensor

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        sigma, colour = super().decode(features)
        return sigma, self.raw_colours(colour, self.w)


def picture_of(generator: TriPlaneGenerator, w_plus: Tensor) -> Target:
    """The head in front of mid grey."""
    painted = Painted(generator.config).requires_grad_(False)
    painted.load_state_dict(generator.state_dict())
    painted.w = w_plus[:, -1]
    view = render_view(painted, painted.synthesise_planes(w_plus), CAMERAS)
    known = torch.ones(view.mask.shape[2:], dtype=torch.bool)
    return Target(view.features + 0.5 * (1 - view.mask), view.mask, known, CAMERAS)


def overlap(generator: TriPlaneGenerator, w_plus: Tensor, wanted: Tensor) -> float:
    """Intersection over union of a head's silhouette and the wanted one."""
    found = render_view(generator, generator.synthesise_planes(w_plus), CAMERAS).mask > 0.5
    return float((found & (wanted > 0.5)).sum() / (found | (wanted > 0.5)).sum())


def test_a_known_head_is_found_again_from_its_picture(generator):
    target = picture_of(generator, known_latents(generator))
    inversion, fit = optimise_w_plus(generator, target, 0, silent, STEPS)
    assert fit.steps == STEPS
    # The average head is plainly another one, so that standing still fails.
    average = generator.backbone.mapping.w_avg.expand(1, generator.num_ws, -1)
    assert overlap(generator, average, target.matte) < 0.9
    assert fit.before.colour > 0.005 and fit.before.mask > 0.02
    assert overlap(generator, inversion.w_plus, target.matte) > 0.96
    assert fit.after.colour < 0.3 * fit.before.colour and fit.after.mask < 0.1 * fit.before.mask
    # What it tells is what an independent render shows.
    shown = picture_of(generator, inversion.w_plus)
    assert float((shown.matte - target.matte).square().mean()) == pytest.approx(fit.after.mask, rel=1e-3)
    inside = target.matte * (shown.colour - target.colour).square()
    assert float(inside.sum() / 3 / target.matte.sum()) == pytest.approx(fit.after.colour, rel=1e-3)


def test_a_converted_generator_can_be_searched_without_its_encoders(tmp_path):
    source, out = tmp_path / "easy-khair.pkl", tmp_path / "model.safetensors"
    source.write_bytes(published_pickle.dumps(published_pickle.published_content()))
    conversion.convert([source], out, False, silent)
    model = checkpoints.load(out)
    assert model.visible is None and model.generator.config.c_dim == 25  # its mapping network wants a camera
    target = picture_of(model.generator, known_latents(model.generator))
    _, fit = optimise_w_plus(model.generator, target, 0, silent, 20)
    assert fit.after.colour < 0.5 * fit.before.colour and fit.after.mask < 0.5 * fit.before.mask


def test_the_planes_are_the_generators_own(simple):
    inversion, _ = optimise_w_plus(simple, picture_of(simple, known_latents(simple)), 0, silent, 2)
    assert inversion.w_plus.shape == (1, simple.num_ws, simple.config.w_dim)
    torch.testing.assert_close(inversion.planes, simple.synthesise_planes(inversion.w_plus))
    assert torch.equal(inversion.base, inversion.planes) and not inversion.planes.requires_grad
    assert all(parameter.grad is None for parameter in simple.parameters())


def test_the_same_seed_gives_the_same_latents_and_another_seed_others(simple):
    target = picture_of(simple, known_latents(simple))
    first, again, other = (optimise_w_plus(simple, target, seed, silent, 3)[0].w_plus for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_pixels_that_are_not_known_have_no_say(simple):
    target = picture_of(simple, known_latents(simple))
    known = target.known.clone()
    known[:, : RESOLUTION // 3] = False
    spoilt = replace(target, colour=target.colour.clone(), matte=target.matte.clone(), known=known)
    spoilt.colour[..., : RESOLUTION // 3] = 1.0
    spoilt.matte[..., : RESOLUTION // 3] = 1.0
    clean = optimise_w_plus(simple, replace(target, known=known), 0, silent, 3)
    assert torch.equal(clean[0].w_plus, optimise_w_plus(simple, spoilt, 0, silent, 3)[0].w_plus)


def test_it_is_told_at_every_step_and_can_be_given_up_there(simple):
    target = picture_of(simple, known_latents(simple))
    told: list[float] = []
    optimise_w_plus(simple, target, 0, lambda fraction, _: told.append(fraction), 4)
    assert set(told) >= {0.0, 0.25, 0.5, 0.75} and told == sorted(told)

    def give_up(fraction: float, label: str) -> None:
        if fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        optimise_w_plus(simple, target, 0, give_up, 4)


class CrampedGenerator(TriPlaneGenerator):
    """A generator on a device with room for so many points at once."""

    room = 10**9

    def query(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        if points.shape[1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().query(planes, points)


def test_chunks_are_halved_until_they_fit_or_the_shortage_is_told(simple):
    cramped = CrampedGenerator(PLIABLE_CONFIG).requires_grad_(False)
    cramped.load_state_dict(simple.state_dict())
    target = picture_of(simple, known_latents(simple))
    # Samples lie elsewhere in other chunks, but nothing else may change.
    expected = optimise_w_plus(simple, target, 0, silent, 3)[1].after
    cramped.room = RAYS_PER_CHUNK // 4 * PLIABLE_CONFIG.coarse_samples
    assert vars(optimise_w_plus(cramped, target, 0, silent, 3)[1].after) == pytest.approx(vars(expected), rel=0.1)
    cramped.room = SMALLEST_CHUNK * PLIABLE_CONFIG.coarse_samples - 1
    with pytest.raises(OutOfMemory):
        optimise_w_plus(cramped, target, 0, silent, 3)


def test_the_rate_rises_holds_and_falls_to_nothing():
    shares = [rate_share(done) for done in (0.0, 0.025, 0.05, 0.5, 0.75, 0.875, 1.0)]
    assert shares == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_target_counts_what_the_photo_shows_above_the_chin():
    portrait = portrait_of_a_disc(SIDE / 4)
    # The photo ends two thirds to the right of the crop, whose pixels are the photo's own here.
    assert np.array_equal(portrait.photo_from_crop, np.eye(3))
    target = portrait_target(portrait, (SIDE, SIDE * 2 // 3), 32, torch.device("cpu"))
    assert target.colour.shape == (1, 3, 32, 32) and target.matte.shape == (1, 1, 32, 32)
    columns, rows = target.known.any(0), target.known.any(1)
    assert columns[2:20].all() and not columns[21:].any()
    # The picture shows 0.633 box units at the origin's distance, its middle at height 0.
    last = int(rows.nonzero().max())
    assert (15.5 - last) / 32 * 2.7 / 4.2647 == pytest.approx(LOWEST_Y, abs=0.02)
    assert float(target.colour[0, 0, 0, 4]) == pytest.approx(BACKGROUND, abs=1e-6)
