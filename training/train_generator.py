"""Train the tri-grid generator on synthetic heads.

Every training head has a learnable latent w; generator, decoder and latents are trained together on signed distance
and colour at points (an auto-decoder, Park et al. 2019, arXiv 1901.05103): nine times cheaper than volume rendering.
Afterwards the mapping network is fitted so that random z give heads too: z are the whitened latents (as in generative
latent optimisation, Bojanowski et al. 2018, arXiv 1707.05776), and the network learns to lead them back to w.

    python -m training.train_generator --heads HEADS --run RUN
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.generator import STARTER, TriPlaneGenerator

from .dataset import HeadSet
from .losses import normal_loss, plane_variation, point_losses
from .run import Run, config_from_arguments, learning_rate, seed_everything

MAX_HEADS = 4096  # rows of the latent table
LATENT_SPREAD = 0.3  # standard deviation of the latents before training
LATENT_PRIOR = 1e-4  # weight of their mean square: keeps the space of heads compact
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class GeneratorTraining:
    """Settings of the generator's training."""

    heads: Path  # folder of *.npz
    run: Path  # folder of this run
    steps: int = 8000
    batch: int = 4  # heads a step
    points: int = 8000  # supervised points a head
    normals: int = 400  # surface points a head for the normal loss
    rate: float = 1.2e-3  # learning rate of the synthesis network
    decoder_rate: float = 4e-3
    latent_rate: float = 2e-2
    mean_rate: float = 1e-2
    colour_weight: float = 2.0
    normal_weight: float = 0.15
    variation_weight: float = 0.01
    refresh: int = 200  # steps between looks for new heads
    mapping_steps: int = 3000  # of the mapping network's own fit at the end
    threads: int = 1
    seed: int = 0


def train(settings: GeneratorTraining) -> None:
    """Run, or resume, the training; leaves `state.pt` with generator and latents in the run's folder."""
    torch.set_num_threads(settings.threads)
    run = Run(settings.run)
    run.note_config(settings)
    heads = HeadSet(settings.heads)
    torch.manual_seed(settings.seed)
    generator = TriPlaneGenerator(STARTER)
    latents = nn.Parameter(torch.randn(MAX_HEADS, STARTER.w_dim) * LATENT_SPREAD)
    optimiser = _optimiser(generator, latents, settings)
    step = 0
    if state := run.resume():
        generator.load_state_dict(state["generator"])
        latents.data.copy_(state["latents"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        for seed in state["seeds"]:  # a latent belongs to a head by its place in this order
            heads.read(seed)
    rates = [group["base"] for group in optimiser.param_groups]
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
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate(step, settings.steps)

        w = latents[torch.from_numpy(indices)]
        planes = generator.synthesise_planes(w[:, None].expand(-1, generator.num_ws, -1))
        distance, colour = point_losses(generator, planes, heads.points(indices, settings.points, rng))
        normal = normal_loss(generator, planes, heads.surface(indices, settings.normals, rng), noise)
        variation = plane_variation(planes)
        loss = (
            distance
            + settings.colour_weight * colour
            + settings.normal_weight * normal
            + settings.variation_weight * variation
            + LATENT_PRIOR * w.square().mean()
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 5.0)
        optimiser.step()

        step += 1
        values = {"distance": distance, "colour": colour, "normal": normal, "variation": variation}
        written = run.record(step, {name: value.item() for name, value in values.items()} | {"heads": len(heads.heads)})
        if written or step == settings.steps:
            run.save(_state(generator, latents, optimiser, step, heads.seeds))
    fit_mapping(generator, latents.detach()[: len(heads.heads)], settings.seed, settings.mapping_steps)
    run.save(_state(generator, latents, optimiser, step, heads.seeds))


def fit_mapping(generator: TriPlaneGenerator, latents: Tensor, seed: int, steps: int) -> None:
    """Teach the mapping network to lead the whitened latents back to the latents (heads, w_dim)."""
    torch.manual_seed(seed)
    mapping = generator.backbone.mapping
    centre = latents.mean(dim=0)
    _, spread, axes = torch.linalg.svd(latents - centre, full_matrices=False)
    kept = min(len(latents) - 1, generator.config.z_dim)
    whitened = (latents - centre) @ axes[:kept].T / spread[:kept] * len(latents) ** 0.5
    optimiser = torch.optim.Adam(mapping.parameters(), lr=2e-3, betas=BETAS)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * learning_rate(step, steps)
        pick = torch.randint(len(latents), (64, 2))
        # Every other step asks for mixtures of two heads, so that the space between them is filled as well.
        share = torch.rand(64, 1) if step % 2 else torch.ones(64, 1)
        z = torch.randn(64, generator.config.z_dim) * 0.1
        z[:, :kept] += whitened[pick[:, 0]] * share + whitened[pick[:, 1]] * (1 - share)
        target = latents[pick[:, 0]] * share + latents[pick[:, 1]] * (1 - share)
        loss = F.mse_loss(mapping(z)[:, 0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mapping.w_avg.copy_(centre)
    error, spread = loss.item() ** 0.5, latents.square().mean().item() ** 0.5
    print(f"mapping network: rms error {error:.4f} of latents with rms {spread:.4f}")


def _optimiser(generator: TriPlaneGenerator, latents: nn.Parameter, settings: GeneratorTraining) -> torch.optim.Adam:
    groups = [
        ([latents], settings.latent_rate),
        ([generator.mean_planes], settings.mean_rate),
        (list(generator.decoder.parameters()), settings.decoder_rate),
        (list(generator.backbone.synthesis.parameters()), settings.rate),
    ]
    return torch.optim.Adam([{"params": params, "lr": rate, "base": rate} for params, rate in groups], betas=BETAS)


def _state(
    generator: TriPlaneGenerator, latents: Tensor, optimiser: torch.optim.Adam, step: int, seeds: list[int]
) -> dict[str, object]:
    return {
        "generator": generator.state_dict(),
        "latents": latents.detach(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "seeds": seeds,
    }


if __name__ == "__main__":
    train(config_from_arguments(GeneratorTraining, "Train the tri-grid generator on synthetic heads."))
