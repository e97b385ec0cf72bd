"""From the portrait to latents without encoders: W+ is found by gradient steps through the generator itself.

A generator that comes alone is inverted as the papers' baseline does it (PanoHead's projector, An et al., CVPR 2023,
arXiv 2303.13071; "W+ optimisation" in Bilecen et al., NeurIPS 2024, arXiv 2409.20530): from the average w, every row of
w_plus moves by Adam until the head, rendered with the photo's camera, matches the portrait. It takes minutes where an
encoder takes a second, and what the photo does not show is only held by a pull towards the average head.

Of the paper's losses the L2 of colours is here, and its mask. The perceptual one (LPIPS) and the identity are not: they
need networks of picture features and of face recognition, and none of either comes with Headcast. PanoHead's camera
self-adaptation is not used, as with the encoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import AlignedPortrait
from .camera import orbit_camera, ray_tensor
from .chunks import Chunks
from .encoders import Inversion, portrait_tensor
from .generator import TriPlaneGenerator
from .progress import Progress
from .refinement import LOWEST_Y
from .render import rays, render_rays
from .silhouette import in_photo

STEPS = 200  # measured with the starter's generator: half as many leave twice the colour loss, and the outline loose
RATE = 0.1  # of Adam, in spreads of w; PanoHead's projector takes as much of w itself
RAMP_UP, RAMP_DOWN = 0.05, 0.25  # shares of the steps in which the rate rises and falls, as in PanoHead's projector
COLOUR_WEIGHT = 1.0
MASK_WEIGHT = 1.0
AVERAGE_WEIGHT = 1e-3  # of the squared distance from the average w, in spreads
SPREAD_SAMPLES = 1000  # random heads; the spread is then known to some 2 %
RAYS_PER_CHUNK = 1 << 9  # rendered at once with all that their gradients need: PanoHead then stays below 2 GB in all
SMALLEST_CHUNK = 1 << 6  # where even this does not fit, halving further will not help
BACKGROUND = 0.5  # mid grey, as behind the portrait


@dataclass(frozen=True)
class Target:
    """What the head shall look like, on the device of the generator, float32.

    colour:  (1, 3, r, r) sRGB in [0, 1], composited on mid grey by the matte.
    matte:   (1, 1, r, r) in [0, 1].
    known:   (r, r) bool, pixels that count.
    cameras: (1, 25) as `Camera.vector`.
    """

    colour: Tensor
    matte: Tensor
    known: Tensor
    cameras: Tensor


@dataclass(frozen=True)
class PictureLoss:
    """How far a rendered head is from its target.

    colour: mean squared difference of sRGB inside the matte.
    mask:   mean squared difference of the head's opacity and the matte.
    """

    colour: float
    mask: float


@dataclass(frozen=True)
class WPlusFit:
    """What the steps achieved: losses of the average head, and of the one that was found."""

    steps: int
    before: PictureLoss
    after: PictureLoss


def portrait_target(
    portrait: AlignedPortrait, photo_size: tuple[int, int], resolution: int, device: torch.device
) -> Target:
    """The portrait as a target of `resolution` px, a divisor of the portrait's side.

    photo_size: (height, width) px of the photo; beyond its edges nothing is asked of the head.
    """
    picture = portrait_tensor(portrait.image, portrait.matte, resolution, device)
    cameras = torch.from_numpy(portrait.camera.vector)[None].to(device)
    shown = in_photo(portrait.photo_from_crop, photo_size, len(portrait.matte)).astype(np.float32)
    whole = F.interpolate(torch.from_numpy(shown)[None, None], (resolution, resolution), mode="area")[0, 0] == 1
    # Below the chin the matte goes on into collars and shoulders, which are not the head's.
    nearest, _ = ray_tensor(cameras, resolution)
    known = whole.to(device) & (nearest[0, 1] > LOWEST_Y)
    return Target(picture[:, :3], picture[:, 3:], known, cameras)


def optimise_w_plus(
    generator: TriPlaneGenerator, target: Target, seed: int, progress: Progress, steps: int = STEPS
) -> tuple[Inversion, WPlusFit]:
    """Find the head of a generator that looks like the target.

    generator: without gradients of its own (`requires_grad_(False)`), on the target's device.
    seed:      of the random heads that measure the spread of w, and of where samples lie on their rays. On a CPU, equal
               arguments give equal latents; on a GPU they differ by rounding.
    progress:  called for every chunk of every step; what it raises (Cancelled) ends the search.
    Returns:   an Inversion whose planes are the generator's own, without a residual, and what the steps achieved.
    Raises:    OutOfMemory.
    """
    chance = torch.Generator(target.cameras.device).manual_seed(seed)
    average = generator.backbone.mapping.w_avg
    spread = latent_spread(generator, chance)
    comparison = Comparison(generator, target)
    with torch.enable_grad():
        # In spreads of w, so that one rate and one weight serve generators whose latents differ in size.
        offset = torch.zeros((1, generator.num_ws, len(average)), dtype=torch.float32, device=average.device)
        offset.requires_grad_(True)
        adam = torch.optim.Adam([offset], lr=RATE)
        before = comparison.loss(average + spread * offset)
        for step in range(steps):

            def told(fraction: float, label: str, step: int = step) -> None:
                progress((step + fraction) / steps, label)

            adam.param_groups[0]["lr"] = RATE * rate_share((step + 0.5) / steps)
            adam.zero_grad()
            w_plus = average + spread * offset
            planes = generator.synthesise_planes(w_plus)
            by_planes, by_last = comparison.gradients(planes, w_plus, chance, told)
            pull = AVERAGE_WEIGHT * offset.square().mean()
            torch.autograd.backward([planes, w_plus[:, -1], pull], [by_planes, by_last, torch.ones_like(pull)])
            adam.step()
    with torch.no_grad():
        w_plus = average + spread * offset
        planes = generator.synthesise_planes(w_plus)
    return Inversion(w_plus, planes, planes), WPlusFit(steps, before, comparison.loss(w_plus))


def latent_spread(generator: TriPlaneGenerator, chance: torch.Generator) -> Tensor:
    """(w_dim,) how far random heads, seen from the front, lie from the average w: root mean squares."""
    average, config = generator.backbone.mapping.w_avg, generator.config
    shape = (SPREAD_SAMPLES, config.z_dim)
    z = torch.randn(shape, generator=chance, device=average.device, dtype=torch.float32)
    front = torch.from_numpy(orbit_camera(0.0).vector).to(average.device)
    with torch.no_grad():
        w = generator.map_latents(z, front.expand(SPREAD_SAMPLES, -1) if config.c_dim else None)[:, 0]
    return (w - average).square().mean(dim=0).sqrt()


def rate_share(done: float) -> float:
    """Share of the learning rate when `done` in [0, 1] of the steps is behind: linear up, cosine down."""
    down = min(1.0, (1.0 - done) / RAMP_DOWN)
    return min(1.0, done / RAMP_UP) * (0.5 - 0.5 * math.cos(math.pi * down))


class Comparison:
    """A target beside what its camera sees of heads, chunk by chunk: no more than a chunk's rays are in memory."""

    def __init__(self, generator: TriPlaneGenerator, target: Target) -> None:
        self._generator = generator
        self._chunks = Chunks(RAYS_PER_CHUNK, SMALLEST_CHUNK)
        known = target.known.flatten()
        self._origins, directions = rays(target.cameras, len(target.known))
        self._directions = directions[:, known]
        self._colour = target.colour.flatten(2).transpose(1, 2)[:, known]  # (1, ray, 3)
        self._matte = target.matte.flatten(2).transpose(1, 2)[:, known]  # (1, ray, 1)

    def loss(self, w_plus: Tensor) -> PictureLoss:
        """Of latents (1, num_ws, w_dim), without chance."""
        with torch.no_grad():
            planes = self._generator.synthesise_planes(w_plus)
            colour, mask = self._in_chunks(
                lambda part: self._differences(planes, w_plus[:, -1], part, None), lambda *_: None
            )
        return PictureLoss(float(colour), float(mask))

    def gradients(
        self, planes: Tensor, w_plus: Tensor, chance: torch.Generator, progress: Progress
    ) -> tuple[Tensor, Tensor]:
        """Of the weighted loss by the tri-grids `planes`, and by the last row of w_plus (1, w_dim)."""
        # Cut off from the synthesis network, through which one pass back then serves all chunks.
        inputs = (planes.detach().requires_grad_(True), w_plus[:, -1].detach().requires_grad_(True))

        def backward(part: slice) -> tuple[Tensor, ...]:
            colour, mask = self._differences(*inputs, part, chance)
            loss = COLOUR_WEIGHT * colour + MASK_WEIGHT * mask
            # Not every generator reads the last row for its colours.
            return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)

        by_planes, by_last = self._in_chunks(backward, progress)
        return by_planes, by_last

    def _differences(
        self, planes: Tensor, last: Tensor, part: slice, jitter: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """What some rays contribute to `PictureLoss`."""
        generator, config = self._generator, self._generator.config
        features, _, mask = render_rays(
            generator,
            planes,
            self._origins,
            self._directions[:, part],
            config.coarse_samples,
            config.fine_samples,
            jitter,
        )
        # Colours are affine in the rendered features, which hold a share `mask` of light; the rest comes from behind.
        black = generator.raw_colours(torch.zeros_like(features[:, :1]), last)
        picture = generator.raw_colours(features, last) + (1 - mask) * (BACKGROUND - black)
        matte = self._matte[:, part]
        colour = (matte * (picture - self._colour[:, part]).square()).mean(dim=-1).sum()
        return colour / self._matte.sum().clamp(min=1.0), (mask - matte).square().sum() / max(1, self._matte.shape[1])

    def _in_chunks(self, evaluate: Callable[[slice], tuple[Tensor, ...]], progress: Progress) -> Sequence[Tensor]:
        """Sums over all rays; a chunk that does not fit in memory is halved. Raises OutOfMemory."""
        count = self._directions.shape[1]

        def evaluated(part: slice) -> tuple[Tensor, ...]:
            progress(part.start / count, "Searching the model for this head")
            return evaluate(part)

        sums: list[Tensor] = []
        for _, values in self._chunks.over(count, evaluated):
            sums = [total + value for total, value in zip(sums, values, strict=True)] if sums else list(values)
        return sums
