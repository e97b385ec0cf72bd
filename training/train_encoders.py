"""Train one of the two encoders against the frozen generator.

    python -m training.train_encoders --which visible  --heads HEADS --generator RUN_G --run RUN_V
    python -m training.train_encoders --which occluded --heads HEADS --generator RUN_G --run RUN_O

Both see a lit, photograph-like view of a head and must give its tri-grid. The visible encoder's points weigh most where
the view saw the surface, the occluded encoder's where it did not; the latter also plays against the occlusion-aware
discriminator (Bilecen et al., NeurIPS 2024, arXiv 2409.20530), whose real tri-grids are the generator's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inference.camera import project_tensor
from inference.encoders import EncoderConfig, OccludedEncoder, PortraitEncoder, VisibleEncoder
from inference.generator import STARTER, TriPlaneGenerator
from inference.stitching import visibility_mask
from inference.tri_grid import TriGrid

from .dataset import HeadSet, Surface, Views
from .discriminator import OcclusionAwareDiscriminator, discriminator_loss, encoder_loss
from .losses import normal_loss, plane_variation, point_losses
from .run import Run, config_from_arguments, learning_rate, seed_everything

SEEN_SLACK = 0.03  # box units (16 mm) behind the depth map that still count as seen
SEEN_DEPTH_STEPS = 4096  # surface points a head that vote for the occlusion mask
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class EncoderTraining:
    """Settings of an encoder's training."""

    which: str  # visible or occluded
    heads: Path  # folder of *.npz
    generator: Path  # run of the generator
    run: Path  # folder of this run
    steps: int = 8000
    batch: int = 4  # views a step
    points: int = 8000  # supervised points a head
    normals: int = 400  # surface points a head for the normal loss
    rate: float = 1.2e-3
    colour_weight: float = 2.0
    normal_weight: float = 0.15
    variation_weight: float = 0.01
    style_prior: float = 1e-3  # weight of the mean square offset from the average w
    latent_weight: float = 0.3  # of the distance to the head's own latent, at the start; falls to 0 half-way
    other_side: float = 0.3  # weight of points on the side the encoder is not for
    adversarial_weight: float = 0.003  # of the discriminator's opinion, occluded encoder only; 0 trains without it
    discriminator_rate: float = 1e-3
    r1_weight: float = 0.1  # times r1_every
    r1_every: int = 8
    adversarial_start: int = 500  # steps; before that the tri-grids are far too easily told apart
    refresh: int = 200
    threads: int = 1
    seed: int = 0


def train(settings: EncoderTraining) -> None:
    """Run, or resume, the training; leaves `state.pt` with the encoder in the run's folder."""
    torch.set_num_threads(settings.threads)
    run = Run(settings.run)
    run.note_config(settings)
    heads = HeadSet(settings.heads)
    generator, latents, latent_seeds = load_generator(settings.generator)
    latent_of = {seed: row for row, seed in enumerate(latent_seeds)}
    torch.manual_seed(settings.seed)
    encoder = new_encoder(settings.which, generator)
    discriminator = OcclusionAwareDiscriminator(STARTER.plane_channels, STARTER.planes_depth)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=settings.rate, betas=BETAS)
    critic = torch.optim.Adam(discriminator.parameters(), lr=settings.discriminator_rate, betas=(0.0, 0.99))
    step = 0
    if state := run.resume():
        encoder.load_state_dict(state["encoder"])
        discriminator.load_state_dict(state["discriminator"])
        optimiser.load_state_dict(state["optimiser"])
        critic.load_state_dict(state["critic"])
        step = state["step"]
    adversarial = settings.which == "occluded" and settings.adversarial_weight > 0
    noise = torch.Generator().manual_seed(settings.seed + step)
    rng = seed_everything(settings.seed, step)
    order: list[int] = []
    heads.refresh()
    while step < settings.steps:
        if step % settings.refresh == 0:
            heads.refresh()
        if len(order) < settings.batch:
            order = list(rng.permutation(len(heads.heads)))
        indices = np.array([order.pop() for _ in range(settings.batch)])
        optimiser.param_groups[0]["lr"] = settings.rate * learning_rate(step, settings.steps)

        views = heads.views(indices, rng)
        points = heads.points(indices, settings.points, rng)
        surface = heads.surface(indices, SEEN_DEPTH_STEPS, rng)
        latent = encoder(views.portraits, views.cameras)
        planes = generator.synthesise_planes(latent.w_plus) + latent.residual
        weights = side_weights(views, points.points, settings.which, settings.other_side)
        distance, colour = point_losses(generator, planes, points, weights)
        few = Surface(*(a[:, : settings.normals] for a in (surface.points, surface.normals, surface.colour)))
        normal = normal_loss(generator, planes, few, noise)
        loss = (
            distance
            + settings.colour_weight * colour
            + settings.normal_weight * normal
            + settings.variation_weight * plane_variation(planes)
            + settings.style_prior * (latent.w_plus - encoder.w_avg).square().mean()
        )
        values = {"distance": distance.item(), "colour": colour.item(), "normal": normal.item()}
        # The generator's training left a latent for each of its heads: the shortest way to a good start. Only a start,
        # because a head's latent knows what the view does not show.
        guidance = settings.latent_weight * max(0.0, 1 - 2 * step / settings.steps)
        known = [(i, latent_of[heads.seeds[k]]) for i, k in enumerate(indices) if heads.seeds[k] in latent_of]
        if guidance and known:
            rows, places = zip(*known, strict=True)
            offset = latent.w_plus[list(rows)] - latents[list(places)][:, None]
            loss = loss + guidance * offset.square().mean()
            values["latent"] = offset.square().mean().item()
        if adversarial and step >= settings.adversarial_start:
            occlusion = 1 - seen_cells(views, surface.points, planes)
            opinion = encoder_loss(discriminator, planes, occlusion)
            loss = loss + settings.adversarial_weight * opinion
            real = random_planes(generator, latents, settings.batch)
            r1 = settings.r1_weight * settings.r1_every if step % settings.r1_every == 0 else 0.0
            critic_loss = discriminator_loss(discriminator, real, planes, occlusion, r1)
            values |= {"opinion": opinion.item(), "critic": critic_loss.item()}
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 5.0)
        optimiser.step()
        if adversarial and step >= settings.adversarial_start:
            critic.zero_grad()
            critic_loss.backward()
            critic.step()

        step += 1
        if run.record(step, values | {"heads": len(heads.heads)}) or step == settings.steps:
            run.save(
                {
                    "encoder": encoder.state_dict(),
                    "discriminator": discriminator.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "critic": critic.state_dict(),
                    "step": step,
                }
            )


def load_generator(run: Path) -> tuple[TriPlaneGenerator, Tensor, list[int]]:
    """The frozen generator of a run, and the latents (heads, w_dim) and seeds of the heads it was trained on."""
    state = torch.load(run / "state.pt", weights_only=True)
    generator = TriPlaneGenerator(STARTER)
    generator.load_state_dict(state["generator"])
    generator.requires_grad_(False).eval()
    return generator, state["latents"][: len(state["seeds"])], state["seeds"]


def new_encoder(which: str, generator: TriPlaneGenerator) -> PortraitEncoder:
    """An untrained encoder that starts at the generator's average head."""
    kinds = {"visible": VisibleEncoder, "occluded": OccludedEncoder}
    if which not in kinds:
        raise ValueError(f"--which must be one of {sorted(kinds)}, not {which!r}")
    encoder = kinds[which](EncoderConfig(), generator.config, generator.num_ws)
    encoder.w_avg.copy_(generator.backbone.mapping.w_avg)
    return encoder


def seen(views: Views, points: Tensor) -> Tensor:
    """(n, m) 1 for points (n, m, 3) that lie on or before the surface the view shows, 0 for those behind it."""
    pixels, distance = project_tensor(points, views.cameras)
    seen_to = nn.functional.grid_sample(
        views.depths[:, None], pixels[:, None] * 2 - 1, mode="nearest", padding_mode="border", align_corners=False
    )[:, 0, 0]
    return (distance < seen_to + SEEN_SLACK).float()


def side_weights(views: Views, points: Tensor, which: str, other_side: float) -> Tensor:
    """(n, m) weights of supervised points: 1 on the side the encoder is for, `other_side` on the other."""
    shown = seen(views, points)
    own = shown if which == "visible" else 1 - shown
    return own + (1 - own) * other_side


def seen_cells(views: Views, surface: Tensor, planes: Tensor) -> Tensor:
    """(n, 3, depth, res, res) visibility of the tri-grids' cells, as stitching measures it."""
    shown = seen(views, surface)
    masks = [
        visibility_mask(points, values, TriGrid(grid, STARTER.box_side))
        for points, values, grid in zip(surface, shown, planes.detach(), strict=True)
    ]
    return torch.stack(masks)


def random_planes(generator: TriPlaneGenerator, latents: Tensor, count: int) -> Tensor:
    """Real tri-grids for the discriminator: half from random z, half between two training heads."""
    with torch.no_grad():
        random = generator.map_latents(torch.randn(count, generator.config.z_dim))
        first, second = latents[torch.randint(len(latents), (2, count))]
        between = torch.lerp(first, second, torch.rand(count, 1))[:, None].expand_as(random)
        pick = torch.arange(count)[:, None, None] % 2 == 0
        return generator.synthesise_planes(torch.where(pick, random, between))


if __name__ == "__main__":
    train(config_from_arguments(EncoderTraining, "Train one encoder against the frozen generator."))
