"""Train the tri-grid generator and the visible encoder together on synthetic heads.

The encoder reads a latent w+ and a residual from a view, the generator makes the tri-grid, and both learn from signed
distance, colour and normals at points: nine times cheaper than volume rendering. The generator's own tri-grid of w+ is
held to the same head, so that w+ alone is already a head. Learning them together is what a CPU can afford: a table of
latents, one a head, needs some forty visits of each head before it says anything of it.

Afterwards the mapping network is fitted so that random z give heads too: z are the whitened latents (as in generative
latent optimisation, Bojanowski et al. 2018, arXiv 1707.05776), and the network learns to lead them back to w.

    python -m training.train_generator --heads HEADS --run RUN
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference import checkpoints
from inference.encoders import STARTER_ENCODER, EncoderConfig, Inversion, VisibleEncoder
from inference.generator import STARTER, TriPlaneGenerator

from .dataset import Batch, HeadSet
from .fleet import Fleet, launch, require_meetings
from .losses import LossWeights, alike, head_losses, surface_loss
from .run import Run, config_from_arguments, learning_rate, seed_everything
from .validation import Validation, validate
from .visibility import seen_by

BETAS = (0.9, 0.99)
MOST_GRADIENT = 5.0  # norm at which gradients are cut
SEEDS_APART = 1_000_003  # between the draws of processes, more than a run has steps
MAPPING_RATE, MAPPING_BATCH = 2e-3, 64


@dataclass(frozen=True)
class GeneratorTraining:
    """Settings of the training of generator and visible encoder."""

    heads: Path  # folder of *.npz
    run: Path  # folder of this run
    start: Path | None = None  # state.pt of a run, or an exported model, to start from
    steps: int = 12000
    batch: int = 4  # views a step, each of another head
    points: int = 6000  # supervised points a head
    normals: int = 1000  # surface points a head for the normal loss
    rate: float = 1.2e-3  # learning rate of encoder and synthesis network
    decoder_rate: float = 2e-3
    mean_rate: float = 5e-3  # of the mean tri-grid
    other_side: float = 0.3  # weight of points the view does not show
    base_weight: float = 0.3  # of the generator's own tri-grid of w+
    style_prior: float = 1e-3  # weight of the mean square offset from the average w
    surface_weight: float = 0.3  # of the guessed surfaces' distances along the rays
    slope_weight: float = 0.1  # and of the shown one's slopes
    frozen: int = 0  # 1 keeps the generator as it is
    landmarks: int = 0  # 1 gives the encoder the landmarks too; measured, they lost
    lift: int = 1  # 0 trains without the residual, to measure what it brings
    half: int = 1  # 1 computes convolutions in bfloat16
    refresh: int = 200  # steps between looks for new heads
    mapping_steps: int = 3000  # of the mapping network, in the end
    check: int = 1000  # steps between measurements on held-out heads
    seconds: float = 0.0  # CPU seconds after which the run saves and stops, 0 for none: to be resumed later
    threads: int = 1  # of each process
    processes: int = 1  # that train together, each with its own batches
    meet: int = 10  # steps after which they go on from their mean
    seed: int = 0


def train(settings: GeneratorTraining) -> None:
    """Run, or resume, the training; leaves `state.pt` with generator and encoder in the run's folder.

    Raises ValueError where looks for heads, and the end, do not fall on steps at which processes meet.
    """
    require_meetings(settings.processes, settings.meet, refresh=settings.refresh, steps=settings.steps)
    Run(settings.run).note_config(settings)
    launch(train_as_one_of, settings, settings.processes, settings.meet)


def train_as_one_of(fleet: Fleet, settings: GeneratorTraining) -> None:
    """One process's part of the training."""
    torch.set_num_threads(settings.threads)
    run = Run(settings.run)
    heads = HeadSet(settings.heads)
    held_out = HeadSet(settings.heads, held_out=True)
    torch.manual_seed(settings.seed)
    generator = TriPlaneGenerator(STARTER)
    config = replace(STARTER_ENCODER, landmarks=EncoderConfig.landmarks if settings.landmarks else 0)
    encoder = VisibleEncoder(config, generator.config, generator.num_ws)
    if settings.start is not None:
        begun = weights_of(settings.start)
        generator.load_state_dict(begun["generator"])
        encoder.load_state_dict(begun["encoder"])
    optimiser = _optimiser(generator, encoder, settings)
    step = 0
    if state := run.resume():
        generator.load_state_dict(state["generator"])
        encoder.load_state_dict(state["encoder"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    generator.requires_grad_(not settings.frozen)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    rates = [group["base"] for group in optimiser.param_groups]
    weights = LossWeights()
    own_seed = settings.seed + fleet.rank * SEEDS_APART
    noise = torch.Generator().manual_seed(own_seed + step)
    rng = seed_everything(own_seed, step)
    order: list[int] = []
    heads.refresh(), held_out.refresh()
    started = time.process_time()
    while step < settings.steps:
        if step % settings.refresh == 0:
            heads.refresh()
        if len(order) < settings.batch:
            order = list(rng.permutation(len(heads.heads)))
        indices = np.array([order.pop() for _ in range(settings.batch)])
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate(step, settings.steps)

        batch = heads.draw(indices, settings.points, settings.normals, rng)
        made = invert(generator, encoder, batch, settings)

        def weigh(points: Tensor, batch: Batch = batch) -> Tensor:
            return seen_by(batch.views, points).clamp(min=settings.other_side)

        loss, values = head_losses(generator, made.planes, batch, weigh, noise, weights)
        if settings.base_weight and settings.lift:
            base, base_values = head_losses(generator, made.base, batch.thinned(3), alike, noise, weights)
            loss = loss + settings.base_weight * base
            values["base"] = base_values["distance"]
        if made.surfaces is not None:
            surface, slope = surface_loss(made.surfaces, batch.views)
            loss = loss + settings.surface_weight * surface + settings.slope_weight * slope
            values |= {"surface": surface.item(), "slope": slope.item()}
        loss = loss + settings.style_prior * (made.w_plus - encoder.w_avg).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)
        optimiser.step()

        step += 1
        out_of_time = fleet.meet(step, parameters, stop=0 < settings.seconds < time.process_time() - started)
        last = step == settings.steps or out_of_time
        if not fleet.leads:
            if out_of_time:
                break
            continue
        written = run.record(step, values | {"heads": len(heads.heads)})
        if step % settings.check == 0 or last:
            run.note_check(step, validate(Validation(generator, encoder), held_out))
        if written or last:
            run.save(_state(generator, encoder, optimiser, step))
        if out_of_time:
            break
    if not fleet.leads:
        return
    if not settings.frozen:
        fit_mapping(generator, latents_of(encoder, heads), settings.mapping_steps, settings.seed)
    run.save(_state(generator, encoder, optimiser, step))


def weights_of(path: Path) -> dict[str, dict[str, Tensor]]:
    """State dictionaries of `generator` and visible `encoder`, from a run's state.pt or an exported .safetensors."""
    if path.suffix != checkpoints.SUFFIX:
        return torch.load(path, weights_only=True)
    model = checkpoints.load(path)
    if model.visible is None:
        raise SystemExit(f"error: {path} holds no encoder to begin with")
    return {"generator": model.generator.state_dict(), "encoder": model.visible.state_dict()}


def invert(
    generator: TriPlaneGenerator, encoder: VisibleEncoder, batch: Batch, settings: GeneratorTraining
) -> Inversion:
    """The encoder's answer for a batch's views, without the residual where settings say so."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.half)):
        made = encoder(batch.views.given, generator)
    return made if settings.lift else Inversion(made.w_plus, made.base, made.base)


def latents_of(encoder: VisibleEncoder, heads: HeadSet) -> Tensor:
    """(heads, w_dim) the mean row of w+ that the encoder sees in each head's first view."""
    with torch.no_grad():
        rows = [encoder.look(heads.portrait_input(index, 0))[0].mean(dim=1) for index in range(len(heads.heads))]
    return torch.cat(rows)


def fit_mapping(generator: TriPlaneGenerator, latents: Tensor, steps: int, seed: int) -> None:
    """Teach the mapping network to lead the whitened latents back to the latents (heads, w_dim)."""
    torch.manual_seed(seed)
    mapping = generator.backbone.mapping.requires_grad_(True)
    centre = latents.mean(dim=0)
    _, spread, axes = torch.linalg.svd(latents - centre, full_matrices=False)
    kept = min(len(latents) - 1, generator.config.z_dim)
    whitened = (latents - centre) @ axes[:kept].T / spread[:kept].clamp(min=1e-6) * len(latents) ** 0.5
    optimiser = torch.optim.Adam(mapping.parameters(), lr=MAPPING_RATE, betas=BETAS)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = MAPPING_RATE * learning_rate(step, steps)
        pick = torch.randint(len(latents), (MAPPING_BATCH, 2))
        # Every other step asks for mixtures of two heads, so that the space between them is filled as well.
        share = torch.rand(MAPPING_BATCH, 1) if step % 2 else torch.ones(MAPPING_BATCH, 1)
        z = torch.randn(MAPPING_BATCH, generator.config.z_dim) * 0.1
        z[:, :kept] += whitened[pick[:, 0]] * share + whitened[pick[:, 1]] * (1 - share)
        target = latents[pick[:, 0]] * share + latents[pick[:, 1]] * (1 - share)
        loss = F.mse_loss(mapping(z)[:, 0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mapping.w_avg.copy_(centre)
    error, spread = loss.item() ** 0.5, (latents - centre).square().mean().item() ** 0.5
    print(f"mapping network: rms error {error:.4f} of latents with a spread of {spread:.4f}")


def _optimiser(
    generator: TriPlaneGenerator, encoder: VisibleEncoder, settings: GeneratorTraining
) -> torch.optim.Optimizer:
    groups: list[tuple[list[nn.Parameter], float]] = [(list(encoder.parameters()), settings.rate)]
    if not settings.frozen:
        groups += [
            ([generator.mean_planes], settings.mean_rate),
            (list(generator.decoder.parameters()), settings.decoder_rate),
            (list(generator.backbone.synthesis.parameters()), settings.rate),
        ]
    rows = [{"params": params, "lr": rate, "base": rate} for params, rate in groups]
    return torch.optim.Adam(rows, betas=BETAS, fused=True)


def _state(
    generator: TriPlaneGenerator, encoder: VisibleEncoder, optimiser: torch.optim.Optimizer, step: int
) -> dict[str, object]:
    return {
        "generator": generator.state_dict(),
        "encoder": encoder.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
    }


if __name__ == "__main__":
    train(config_from_arguments(GeneratorTraining, "Train generator and visible encoder on synthetic heads."))
