"""Train the occluded encoder against the frozen generator: it completes what the visible encoder made.

It starts as a copy of the visible encoder and is given, besides the portrait, that encoder's tri-grid where the view
shows it. It is judged by the stitched tri-grid, which is what users get, and by its own. With --judged hidden the
occlusion-aware discriminator of Bilecen et al. (NeurIPS 2024, arXiv 2409.20530) judges it too, where the view shows
nothing. That is off by default: measured with the paper's weight it brought nothing, with ten times that all got worse.

    python -m training.train_occluded --heads HEADS --generator RUN --run RUN
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from inference import checkpoints
from inference.encoders import STARTER_ENCODER, EncoderConfig, OccludedEncoder, PortraitEncoder, VisibleEncoder
from inference.generator import STARTER, TriPlaneGenerator

from .dataset import Batch, HeadSet
from .discriminator import OcclusionAwareDiscriminator, discriminator_loss, encoder_loss
from .fleet import Fleet, launch, require_meetings
from .losses import LossWeights, alike, head_losses
from .run import Run, config_from_arguments, learning_rate, seed_everything
from .train_generator import MOST_GRADIENT, SEEDS_APART
from .validation import Validation, validate
from .visibility import seen_by, seen_planes

BETAS = (0.9, 0.99)
CRITIC_BETAS = (0.0, 0.99)  # as StyleGAN's discriminators

Judged = Literal["nothing", "hidden", "everything"]


@dataclass(frozen=True)
class OccludedTraining:
    """Settings of the occluded encoder's training."""

    heads: Path  # folder of *.npz
    generator: Path  # run that left generator and visible encoder
    run: Path  # folder of this run
    start: Path | None = None  # state.pt of an earlier run, or an exported model; a copy of the visible encoder without
    steps: int = 6000
    batch: int = 4  # views a step
    points: int = 6000  # supervised points a head
    normals: int = 1000  # surface points a head for the normal loss
    rate: float = 8e-4
    own_weight: float = 0.5  # of the encoder's own tri-grid beside the stitched one
    seen_side: float = 0.3  # weight there of points the view shows
    style_prior: float = 1e-3  # weight of the mean square offset from the average w
    completes: int = 1  # 0 gives it the portrait alone, to measure what the visible tri-grid brings
    judged: str = "nothing"  # what the discriminator sees: hidden (occlusion-aware), everything or nothing
    adversarial_weight: float = 0.001  # of its opinion, as in the paper
    discriminator_rate: float = 5e-4
    r1_weight: float = 0.1
    r1_every: int = 8  # steps; the penalty counts as many times
    adversarial_start: int = 300  # steps; before that the tri-grids are far too easily told apart
    half: int = 1  # 1 computes convolutions in bfloat16
    refresh: int = 200
    check: int = 1000
    seconds: float = 0.0  # CPU seconds after which the run saves and stops, 0 for none
    threads: int = 1  # of each process
    processes: int = 1  # that train together, each with its own batches
    meet: int = 10  # steps after which they go on from their mean
    seed: int = 0


def train(settings: OccludedTraining) -> None:
    """Run, or resume, the training; leaves `state.pt` with the encoder in the run's folder.

    Raises ValueError for a judge that is none, and where looks for heads, and the end, do not fall on steps at which
    processes meet.
    """
    if settings.judged not in ("nothing", "hidden", "everything"):
        raise ValueError(f"--judged must be nothing, hidden or everything, not {settings.judged!r}")
    require_meetings(settings.processes, settings.meet, refresh=settings.refresh, steps=settings.steps)
    Run(settings.run).note_config(settings)
    launch(train_as_one_of, settings, settings.processes, settings.meet)


def train_as_one_of(fleet: Fleet, settings: OccludedTraining) -> None:
    """One process's part of the training."""
    torch.set_num_threads(settings.threads)
    judged = cast(Judged, settings.judged)
    run = Run(settings.run)
    heads, held_out = HeadSet(settings.heads), HeadSet(settings.heads, held_out=True)
    generator, visible = load_visible(settings.generator)
    torch.manual_seed(settings.seed)
    encoder = new_occluded(visible, generator, completes=bool(settings.completes))
    if settings.start is not None:
        encoder.load_state_dict(weights_of(settings.start))
    discriminator = OcclusionAwareDiscriminator(STARTER.plane_channels, STARTER.planes_depth)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=settings.rate, betas=BETAS, fused=True)
    critic = torch.optim.Adam(discriminator.parameters(), lr=settings.discriminator_rate, betas=CRITIC_BETAS)
    step = 0
    if state := run.resume():
        encoder.load_state_dict(state["encoder"])
        discriminator.load_state_dict(state["discriminator"])
        optimiser.load_state_dict(state["optimiser"])
        critic.load_state_dict(state["critic"])
        step = state["step"]
    learned = [*encoder.parameters(), *(discriminator.parameters() if judged != "nothing" else ())]
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
        optimiser.param_groups[0]["lr"] = settings.rate * learning_rate(step, settings.steps)

        batch = heads.draw(indices, settings.points, settings.normals, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.half)):
            seen = seen_planes(generator, visible, batch)
            made = encoder(batch.views.given, generator, seen)
        stitched = torch.lerp(made.planes, seen.planes, seen.visibility[:, :, None])

        def weigh(points: Tensor, batch: Batch = batch) -> Tensor:
            return (1 - seen_by(batch.views, points)).clamp(min=settings.seen_side)

        loss, values = head_losses(generator, stitched, batch, alike, noise, weights)
        own, own_values = head_losses(generator, made.planes, batch.thinned(2), weigh, noise, weights)
        loss = loss + settings.own_weight * own + settings.style_prior * (made.w_plus - encoder.w_avg).square().mean()
        values |= {f"own {name}": value for name, value in own_values.items()}
        adversarial = judged != "nothing" and step >= settings.adversarial_start
        if adversarial:
            occlusion = 1 - seen.visibility if judged == "hidden" else torch.ones_like(seen.visibility)
            opinion = encoder_loss(discriminator, made.planes, occlusion)
            loss = loss + settings.adversarial_weight * opinion
            real = random_planes(generator, settings.batch)
            r1 = settings.r1_weight * settings.r1_every if step % settings.r1_every == 0 else 0.0
            critic_loss = discriminator_loss(discriminator, real, made.planes, occlusion, r1)
            values |= {"opinion": opinion.item(), "critic": critic_loss.item()}
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), MOST_GRADIENT)
        optimiser.step()
        if adversarial:
            critic.zero_grad()
            critic_loss.backward()
            critic.step()

        step += 1
        out_of_time = fleet.meet(step, learned, stop=0 < settings.seconds < time.process_time() - started)
        last = step == settings.steps or out_of_time
        if not fleet.leads:
            if out_of_time:
                break
            continue
        written = run.record(step, values | {"heads": len(heads.heads)})
        if step % settings.check == 0 or last:
            run.note_check(step, validate(Validation(generator, encoder, visible), held_out))
        if written or last:
            run.save(
                {
                    "encoder": encoder.state_dict(),
                    "discriminator": discriminator.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "critic": critic.state_dict(),
                    "step": step,
                }
            )
        if out_of_time:
            break


def load_visible(run: Path) -> tuple[TriPlaneGenerator, VisibleEncoder]:
    """The frozen generator and visible encoder of a run."""
    state = torch.load(run / "state.pt", weights_only=True)
    generator = TriPlaneGenerator(STARTER)
    generator.load_state_dict(state["generator"])
    config = replace(STARTER_ENCODER, landmarks=EncoderConfig.landmarks if "face.0.weight" in state["encoder"] else 0)
    encoder = VisibleEncoder(config, generator.config, generator.num_ws)
    encoder.load_state_dict(state["encoder"])
    return generator.requires_grad_(False).eval(), encoder.requires_grad_(False).eval()


def weights_of(path: Path) -> dict[str, Tensor]:
    """State dictionary of an occluded encoder, from a run's state.pt or an exported .safetensors."""
    if path.suffix != checkpoints.SUFFIX:
        return torch.load(path, weights_only=True)["encoder"]
    model = checkpoints.load(path)
    if model.occluded is None:
        raise SystemExit(f"error: {path} holds no occluded encoder to begin with")
    return model.occluded.state_dict()


def new_occluded(visible: PortraitEncoder, generator: TriPlaneGenerator, completes: bool = True) -> OccludedEncoder:
    """An occluded encoder that so far does what the visible one does."""
    config = replace(visible.config, completes=completes)
    encoder = OccludedEncoder(config, generator.config, generator.num_ws)
    missing, unexpected = encoder.load_state_dict(visible.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("lift.known") for name in missing)
    return encoder


def random_planes(generator: TriPlaneGenerator, count: int) -> Tensor:
    """Real tri-grids for the discriminator: the generator's, from random z."""
    with torch.no_grad():
        return generator.synthesise_planes(generator.map_latents(torch.randn(count, generator.config.z_dim))).float()


if __name__ == "__main__":
    train(config_from_arguments(OccludedTraining, "Train the occluded encoder against the frozen generator."))
