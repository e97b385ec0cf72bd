"""Training: batches say what heads are, the discriminator is blind to what the photo shows, runs resume and export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import checkpoints
from inference.camera import camera_rays, orbit_camera
from training.dataset import HELD_OUT_SEEDS, HeadSet
from training.discriminator import OcclusionAwareDiscriminator, discriminator_loss, encoder_loss
from training.export import Export, export
from training.run import learning_rate
from training.train_encoders import EncoderTraining, seen
from training.train_encoders import train as train_encoder
from training.train_generator import GeneratorTraining
from training.train_generator import train as train_generator

SEEDS = (3, 40, 41, 42, 43, 44)  # one of them held out


def ball(path: Path, seed: int) -> None:
    """A "head" that is a ball, coloured by position, in the format of the training heads."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(0.15, 0.22)
    normals = rng.normal(size=(5000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    surface = normals * radius
    near = surface + rng.normal(size=surface.shape) * 0.01
    uniform = rng.uniform(-0.35, 0.35, (3000, 3))
    views = []
    for azimuth_deg in (0.0, 30.0, -60.0, 180.0):
        camera = orbit_camera(azimuth_deg)
        origins, directions = camera_rays(camera, 128)
        along = (origins * directions).sum(-1)
        inside = along**2 - (origins**2).sum(-1) + radius**2
        depth = np.where(inside > 0, -along - np.sqrt(np.maximum(inside, 0)), 0)
        hits = origins + directions * depth[..., None]
        views.append((colour_at(hits), (inside > 0) * np.uint8(255), depth, camera.vector, (azimuth_deg, 0.0)))
    images, mattes, depths, cameras, angles = (np.stack(column) for column in zip(*views, strict=True))
    np.savez(
        path / f"{seed:05d}.npz",
        near_points=near.astype(np.float16),
        near_distance=distance(near, radius),
        near_colour=colour_at(near),
        uniform_points=uniform.astype(np.float16),
        uniform_distance=distance(uniform, radius),
        uniform_colour=colour_at(uniform),
        surface_points=surface.astype(np.float16),
        surface_normals=(normals * 127).astype(np.int8),
        surface_colour=colour_at(surface),
        images=images,
        mattes=mattes,
        depths=depths.astype(np.float16),
        cameras=cameras,
        azimuth_elevation=angles.astype(np.float32),
        meta="{}",
    )


def distance(points: np.ndarray, radius: float) -> np.ndarray:
    return (np.linalg.norm(points, axis=1) - radius).clip(-0.06, 0.06).astype(np.float16)


def colour_at(points: np.ndarray) -> np.ndarray:
    return (np.clip(points / 0.7 + 0.5, 0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for seed in SEEDS:
        ball(folder, seed)
    return folder


@pytest.fixture(scope="module")
def runs(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator and both encoders, trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    settings = GeneratorTraining(heads, folder / "generator", 2, batch=2, points=500, normals=50, mapping_steps=20)
    train_generator(settings)
    for which in ("visible", "occluded"):
        encoder = EncoderTraining(which, heads, folder / "generator", folder / which, steps=2, batch=2, points=500)
        train_encoder(replace(encoder, normals=50, adversarial_start=1))
    return folder


def test_held_out_heads_are_never_trained_on(heads: Path) -> None:
    training, held_out = HeadSet(heads), HeadSet(heads, held_out=True)
    training.refresh(), held_out.refresh()
    assert all(seed >= HELD_OUT_SEEDS for seed in training.seeds) and held_out.seeds == [3]


def test_new_heads_join_behind_the_known_ones(heads: Path, tmp_path: Path) -> None:
    ball(tmp_path, 50)
    growing = HeadSet(tmp_path)
    growing.refresh()
    ball(tmp_path, 40)
    assert growing.refresh() == 2 and growing.seeds == [50, 40]


def test_a_batch_says_the_distance_and_colour_of_its_points(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    batch = ball_set.points(np.array([0, 1]), 1000, np.random.default_rng(0))
    radius = [np.linalg.norm(head["surface_points"].astype(float), axis=1).mean() for head in ball_set.heads[:2]]
    expected = (batch.points.norm(dim=-1) - torch.tensor(radius)[:, None]).clamp(-0.06, 0.06)
    assert (batch.distance - expected).abs().max() < 2e-3  # half precision of points and distance
    assert (batch.colour - (batch.points / 0.7 + 0.5)).abs().max() < 6e-3  # 8 bits


def test_the_far_side_of_the_ball_is_not_seen(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    views = ball_set.views(np.array([0]), np.random.default_rng(0), photographic=False)
    surface = torch.from_numpy(ball_set.heads[0]["surface_points"].astype(np.float32))[None]
    shown = seen(views, surface)[0]
    towards = surface[0] @ views.cameras[0, [3, 7, 11]] / 2.7
    assert (shown[towards > 0.05] == 1).all() and (shown[towards < -0.1] == 0).all()


def test_the_discriminator_is_blind_to_what_the_photo_shows() -> None:
    torch.manual_seed(0)
    discriminator = OcclusionAwareDiscriminator(4, 3)
    occlusion = (torch.rand(1, 3, 3, 16, 16) > 0.5).float()
    planes = torch.randn(1, 3, 4, 3, 16, 16)
    changed = planes + torch.randn_like(planes) * (1 - occlusion[:, :, None])
    assert torch.equal(discriminator(planes, occlusion), discriminator(changed, occlusion))
    planes.requires_grad_()
    encoder_loss(discriminator, planes, occlusion).backward()
    assert planes.grad is not None
    assert (planes.grad * (1 - occlusion[:, :, None])).abs().max() == 0
    assert planes.grad.abs().max() > 0


def test_the_discriminator_learns_to_tell_two_kinds_apart() -> None:
    torch.manual_seed(0)
    discriminator = OcclusionAwareDiscriminator(2, 1, widths=(8, 8, 8, 8))
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    occlusion = torch.ones(8, 3, 1, 16, 16)
    losses = []
    for _ in range(40):
        real, fake = torch.randn(2, 8, 3, 2, 1, 16, 16) + torch.tensor([0.5, -0.5]).view(2, 1, 1, 1, 1, 1, 1)
        loss = discriminator_loss(discriminator, real, fake, occlusion, r1_weight=0.01)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < losses[0]


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    assert learning_rate(0, 1000) < 0.03
    assert learning_rate(60, 1000) > 0.98
    assert learning_rate(1000, 1000) == pytest.approx(0.02)


def test_a_run_goes_on_where_it_stopped(heads: Path, runs: Path) -> None:
    before = torch.load(runs / "generator" / "state.pt", weights_only=True)
    assert before["step"] == 2 and before["seeds"] == [seed for seed in SEEDS if seed >= HELD_OUT_SEEDS]
    train_generator(GeneratorTraining(heads, runs / "generator", 3, batch=2, points=500, normals=50, mapping_steps=20))
    after = torch.load(runs / "generator" / "state.pt", weights_only=True)
    assert after["step"] == 3 and after["seeds"] == before["seeds"]
    # One step at the end of the cosine moves little; a run that started anew would share nothing.
    torch.testing.assert_close(after["latents"], before["latents"], atol=0.05, rtol=0)
    assert not torch.equal(after["latents"], before["latents"])


def test_an_exported_model_loads_and_says_how_it_was_trained(runs: Path, tmp_path: Path) -> None:
    for which in ("generator", "visible", "occluded"):  # too short a run for a line of the curve
        line = {"step": 2, "cpu_s": 5, "distance": 0.1}
        (runs / which / "curve.jsonl").write_text(json.dumps(line) + "\n")
    out = tmp_path / "tiny.safetensors"
    digest = export(Export(runs / "generator", runs / "visible", runs / "occluded", out))
    model = checkpoints.load(out)
    assert model.sha256 == digest and model.name == "tiny"
    assert model.config["training"]["visible"]["cpu_s"] == 5
    assert "CC0" in model.config["licence"]
    state = torch.load(runs / "visible" / "state.pt", weights_only=True)["encoder"]
    torch.testing.assert_close(model.visible.style[0].weight, state["style.0.weight"], atol=1e-3, rtol=1e-3)
