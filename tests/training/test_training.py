"""Training: batches say what heads are, the discriminator is blind to what the photo shows, runs resume and export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inference import checkpoints
from inference.camera import FOCAL, RADIUS, camera_from_vector, camera_rays, orbit_camera, project, project_tensor
from inference.encoders import STARTER_ENCODER, EncoderConfig, PortraitInput, SeenPlanes, VisibleEncoder
from inference.face_networks import load_landmark_template
from inference.generator import STARTER, TriPlaneGenerator
from inference.progress import silent
from inference.stitching import seen_surface, stitch
from inference.tri_grid import TriGrid
from training.dataset import (
    EMPTY_DEPTH,
    HELD_OUT_SEEDS,
    NO_TINT,
    HeadSet,
    colours_in_view,
    draw_slip,
    draw_tint,
    mirror_pairs,
)
from training.discriminator import OcclusionAwareDiscriminator, discriminator_loss, encoder_loss
from training.export import Export, export
from training.grow_encoder import grow
from training.losses import surface_loss
from training.run import learning_rate
from training.train_generator import GeneratorTraining, weights_of
from training.train_generator import train as train_generator
from training.train_occluded import OccludedTraining, load_visible, new_occluded
from training.train_occluded import train as train_occluded
from training.train_occluded import weights_of as occluded_weights_of
from training.visibility import seen_by, seen_planes

SEEDS = (3, 70, 71, 72, 73, 74)  # one of them held out
GAIN = 0.5  # linear light, of the ball's views


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
        near_materials=hair_above(near),
        uniform_materials=hair_above(uniform),
        surface_materials=hair_above(surface),
        images=images,
        mattes=mattes,
        depths=depths.astype(np.float16),
        view_materials=np.zeros((*mattes.shape, 2), np.uint8),
        gains=np.full((len(mattes), 3), GAIN, np.float32),
        landmarks=np.stack([mean_face(camera) for camera in cameras]).astype(np.float16),
        landmarks_head=load_landmark_template().points_head.astype(np.float16),
        cameras=cameras,
        azimuth_elevation=angles.astype(np.float32),
        meta=json.dumps({"seed": seed}),
    )


def hair_above(points: np.ndarray) -> np.ndarray:
    """Hair on the upper half, skin below."""
    return np.where(points[:, 1:2] > 0, [[255, 0]], [[0, 255]]).astype(np.uint8)


def mean_face(camera: np.ndarray) -> np.ndarray:
    """Landmarks of somebody who looks like the mean face."""
    pixels, depth = project(load_landmark_template().points_head, camera_from_vector(camera))
    return np.column_stack([pixels, depth * FOCAL / RADIUS])


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
    few = {"batch": 2, "points": 500, "normals": 50, "mapping_steps": 20, "half": 0}
    train_generator(GeneratorTraining(heads, folder / "generator", steps=2, check=2, **few))
    train_occluded(
        OccludedTraining(
            heads,
            folder / "generator",
            folder / "occluded",
            steps=2,
            batch=2,
            points=500,
            judged="hidden",
            adversarial_start=1,
            half=0,
            check=2,
        )
    )
    return folder


def test_held_out_heads_are_never_trained_on(heads: Path) -> None:
    training, held_out = HeadSet(heads), HeadSet(heads, held_out=True)
    training.refresh(), held_out.refresh()
    assert all(seed >= HELD_OUT_SEEDS for seed in training.seeds) and held_out.seeds == [3]


def test_new_heads_join_behind_the_known_ones(heads: Path, tmp_path: Path) -> None:
    ball(tmp_path, 80)
    growing = HeadSet(tmp_path)
    growing.refresh()
    ball(tmp_path, 75)
    assert growing.refresh() == 2 and growing.seeds == [80, 75]


def test_a_batch_says_the_distance_and_colour_of_its_points(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    batch = ball_set.batch_of(1, 0, 1000, 200, np.random.default_rng(0))
    radius = np.linalg.norm(ball_set.heads[1]["surface_points"].astype(float), axis=1).mean()
    expected = (batch.points.points.norm(dim=-1) - radius).clamp(-0.06, 0.06)
    assert (batch.points.distance - expected).abs().max() < 2e-3  # half precision of points and distance
    albedo = (batch.points.points / 0.7 + 0.5).clamp(0, 1)
    linear = torch.where(albedo <= 0.04045, albedo / 12.92, ((albedo + 0.055) / 1.055) ** 2.4) * GAIN
    expected = torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert (batch.points.colour - expected).abs().max() < 8e-3  # 8 bits


def test_a_mirrored_head_is_the_head_in_a_mirror(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    draws = [ball_set.row(0, 2, 400, 50, np.random.default_rng(seed), photographic=True) for seed in range(30)]
    straight = ball_set.row(0, 2, 400, 50, np.random.default_rng(0), photographic=False)
    camera_x = np.array([row[1][3] for row in draws])
    assert np.allclose(np.abs(camera_x), abs(straight[1][3]), atol=0.3) and 5 < (camera_x > 0).sum() < 25
    for row, x in zip(draws, camera_x, strict=True):
        # The surface and its normals still point the same way; the ball's red grows to its left.
        places, normals, colours = row[8:]
        assert ((places * normals).sum(1) / np.linalg.norm(places, axis=1)).min() > 0.98
        red_to_the_left = np.corrcoef(places[:, 0], colours[:, 0])[0, 1]
        assert abs(red_to_the_left) > 0.7 and (red_to_the_left > 0) == (x * straight[1][3] > 0)


def test_a_slipped_photo_shows_the_moved_head(heads: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.2, 0.2, (200, 3))
    size = 128
    for _ in range(20):
        slip = draw_slip(rng)
        camera, given = orbit_camera(*rng.uniform(-40, 40, 2)), orbit_camera(*rng.uniform(-40, 40, 2))
        move = slip.movement(camera, given)
        seen, _ = project(points, camera)
        moved, _ = project(move(points), given)
        matrix, offset = slip.affine(size)
        columns_rows = moved * size - 0.5
        back = columns_rows[:, ::-1] @ matrix.T + offset
        assert np.abs((seen * size - 0.5)[:, ::-1] - back).max() < 0.8  # pixels; the slip itself is several
        assert np.abs(np.linalg.norm(move.turned(points), axis=1) - np.linalg.norm(points, axis=1)).max() < 1e-6


def test_the_moved_surface_is_what_the_moved_depth_shows(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    rng = np.random.default_rng(3)
    for _ in range(10):
        batch = ball_set.draw(np.array([0, 1]), 300, 600, rng)
        cameras = batch.views.given.cameras
        pixels, distance = project_tensor(batch.surface.points, cameras)
        depth = F.grid_sample(batch.views.depths[:, None], pixels[:, None] * 2 - 1, "nearest", align_corners=False)
        towards = cameras[:, None, [3, 7, 11]] - batch.surface.points
        faces = (F.normalize(towards, dim=-1) * batch.surface.normals).sum(-1) > 0.5
        error = (distance - depth[:, 0, 0])[faces].abs()
        assert error.median() < 0.003 and error.quantile(0.99) < 0.02


def test_landmarks_of_the_mean_face_are_nothing_to_mention(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    assert ball_set.portrait_input(0, 1).landmarks.abs().max() < 0.05  # half precision, times 20


def test_every_landmark_is_the_mirror_image_of_its_pair() -> None:
    template = load_landmark_template().points_head
    pairs = mirror_pairs(template)
    np.testing.assert_array_equal(pairs[pairs], np.arange(len(template)))
    np.testing.assert_allclose(template[pairs] * [-1, 1, 1], template, atol=2e-3)


def test_colours_in_a_view_are_the_albedo_under_its_light() -> None:
    albedo = np.array([[188, 188, 188], [255, 0, 128]], np.uint8)  # 188 is half the light of white
    np.testing.assert_allclose(colours_in_view(albedo, np.ones(3)), albedo / 255, atol=2e-3)
    np.testing.assert_allclose(colours_in_view(albedo, np.full(3, 2.0))[0], 1.0, atol=5e-3)


def test_bare_ears_get_points_of_their_own_and_covered_ones_none(tmp_path: Path) -> None:
    ball(tmp_path, 80)
    drawn = {}
    for name, hair in (("bare", 0), ("covered", 255)):
        folder = tmp_path / name
        folder.mkdir()
        with np.load(tmp_path / "00080.npz") as arrays:
            changed = dict(arrays)
        for kind in ("near", "surface", "uniform"):
            changed[f"{kind}_materials"] = np.full_like(changed[f"{kind}_materials"], (hair, 255 - hair))
        np.savez(folder / "00080.npz", **changed)
        head = HeadSet(folder)
        head.refresh()
        batch = head.batch_of(0, 0, 4000, 2000, np.random.default_rng(0))
        drawn[name] = [
            ((p[0, :, 0].abs() > 0.13) & (p[0, :, 1].abs() < 0.08) & (p[0, :, 2].abs() < 0.055)).sum().item()
            for p in (batch.points.points, batch.surface.points)
        ]
    for bare, covered, total in zip(drawn["bare"], drawn["covered"], (4000 * 0.85, 2000), strict=True):
        assert 0.02 * total < bare - covered < 0.1 * total


def test_a_tint_changes_picture_and_surface_alike() -> None:
    rng = np.random.default_rng(0)
    colours, light = rng.integers(20, 120, (50, 3)).astype(np.uint8), np.ones(3)
    hair = np.tile(np.array([255, 0], np.uint8), (50, 1))
    tint = draw_tint(np.random.default_rng(3))
    np.testing.assert_allclose(NO_TINT(colours, hair, light), colours / 255, atol=2e-3)
    # The same albedo in half the light, or half the albedo, give the same colour.
    np.testing.assert_array_equal(tint(colours[None], hair[None], light)[0], tint(colours, hair, light))
    assert np.abs(tint(colours, hair, light) - tint(colours, 255 - hair, light)).max() > 0.02


def test_the_far_side_of_the_ball_is_not_seen(heads: Path) -> None:
    ball_set = HeadSet(heads)
    ball_set.refresh()
    batch = ball_set.batch_of(0, 1, 100, 3000, np.random.default_rng(0))
    shown = seen_by(batch.views, batch.surface.points)[0]
    towards = batch.surface.points[0] @ batch.views.given.cameras[0, [3, 7, 11]] / 2.7
    assert (shown[towards > 0.05] == 1).all() and (shown[towards < -0.1] == 0).all()


def test_rays_leave_the_ball_as_far_behind_its_middle_as_they_enter_it_before(heads: Path) -> None:
    held_out = HeadSet(heads, held_out=True)
    held_out.refresh()
    views = held_out.batch_of(0, 1, 100, 10, np.random.default_rng(0)).views
    fronts, backs = F.avg_pool2d(views.depths, 2)[0], views.backs[0]
    both = (fronts < EMPTY_DEPTH) & (backs < EMPTY_DEPTH)
    assert both.sum() > 500  # of 64 x 64 pixels
    middle = torch.tensor(camera_rays(orbit_camera(30.0), 64)[0]).norm(dim=-1)
    middle = middle * torch.tensor((camera_rays(orbit_camera(30.0), 64)[1] @ -orbit_camera(30.0).position) / RADIUS)
    gap = (backs + fronts)[both] / 2 - middle[both].float()
    assert gap.abs().median() < 0.005


def test_true_surfaces_are_without_error_and_an_even_shift_has_no_slope(heads: Path) -> None:
    held_out = HeadSet(heads, held_out=True)
    held_out.refresh()
    views = held_out.batch_of(0, 0, 100, 10, np.random.default_rng(0)).views
    truth = torch.stack([F.avg_pool2d(views.depths, 2), views.backs], dim=1)
    error, slope = surface_loss(truth, views)
    assert error < 1e-6 and slope < 1e-4
    error, slope = surface_loss(truth + 0.05, views)
    assert error == pytest.approx(1, abs=1e-4) and slope < 1e-4
    tilted = truth + torch.arange(64) * 0.01
    assert surface_loss(tilted, views)[1] > 0.1


def test_a_grown_encoder_does_what_it_did() -> None:
    torch.manual_seed(0)
    generator = TriPlaneGenerator(STARTER).requires_grad_(False)
    old = VisibleEncoder(EncoderConfig(landmarks=0), STARTER, STARTER.num_ws).requires_grad_(False)
    old.lift.place[:] = torch.randn(3, 32, 1, 1)  # even: the grown one's is coarser
    new = VisibleEncoder(STARTER_ENCODER, STARTER, STARTER.num_ws).requires_grad_(False)
    new.load_state_dict(grow(old.state_dict()))
    camera = torch.from_numpy(orbit_camera(20.0).vector)[None]
    given = PortraitInput(torch.rand(1, 4, 128, 128), camera, torch.zeros(1, 468, 3))
    before, after = old(given, generator), new(given, generator)
    torch.testing.assert_close(after.w_plus, before.w_plus, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.planes, before.planes, atol=1e-4, rtol=1e-4)
    assert before.surfaces is None and after.surfaces is not None
    with pytest.raises(ValueError, match="another design"):
        grow({"trunk.weight": torch.zeros(1)})


def test_the_occluded_encoder_starts_as_the_visible_one(heads: Path, runs: Path) -> None:
    generator, visible = load_visible(runs / "generator")
    occluded = new_occluded(visible, generator)
    held_out = HeadSet(heads, held_out=True)
    held_out.refresh()
    batch = held_out.batch_of(0, 0, 100, 1000, np.random.default_rng(0))
    seen = seen_planes(generator, visible, batch)
    with torch.no_grad():
        made = occluded(batch.views.given, generator, seen).planes
    torch.testing.assert_close(made, seen.planes)
    assert 0 < seen.visibility.mean() < 1


def test_what_marks_the_seen_cells_knows_nothing_of_the_true_shape(heads: Path, runs: Path) -> None:
    """Or the occluded encoder reads the hidden side out of the marks, which the product cannot give it."""
    generator, visible = load_visible(runs / "generator")
    ball_set = HeadSet(heads)
    ball_set.refresh()
    batch, other = (ball_set.batch_of(index, 0, 100, 1000, np.random.default_rng(0)) for index in (0, 1))
    truth_of_another = replace(other, views=replace(other.views, given=batch.views.given))
    marks, same = (seen_planes(generator, visible, given).visibility for given in (batch, truth_of_another))
    assert torch.equal(marks, same)
    # They are the product's own, but for a coarser look and a guessed depth.
    camera = camera_from_vector(batch.views.given.cameras[0].numpy())
    planes = visible(batch.views.given, generator).planes[0]
    product = seen_surface(generator, TriGrid(planes, generator.config.box_side), camera, silent).cells
    assert (marks[0] - product).abs().mean() < 0.15


def test_training_stitches_as_the_product_does() -> None:
    torch.manual_seed(0)
    seen, made = SeenPlanes(torch.randn(1, 3, 2, 3, 8, 8), torch.rand(1, 3, 3, 8, 8)), torch.randn(1, 3, 2, 3, 8, 8)
    product = stitch(TriGrid(seen.planes[0], 0.7), TriGrid(made[0], 0.7), seen.visibility[0])
    torch.testing.assert_close(torch.lerp(made, seen.planes, seen.visibility[:, :, None])[0], product.planes)


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
    assert before["step"] == 2
    few = {"batch": 2, "points": 500, "normals": 50, "mapping_steps": 20, "half": 0}
    train_generator(GeneratorTraining(heads, runs / "generator", steps=3, check=3, **few))
    after = torch.load(runs / "generator" / "state.pt", weights_only=True)
    assert after["step"] == 3
    # One step moves little; a run that started anew would share nothing.
    weights = [state["encoder"]["style.0.weight"] for state in (before, after)]
    torch.testing.assert_close(*weights, atol=5e-3, rtol=0)
    assert not torch.equal(*weights)


@pytest.mark.thorough
def test_two_processes_train_one_occluded_encoder(heads: Path, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "together"
    sizes = {"steps": 2, "batch": 2, "points": 500, "normals": 50}
    with pytest.raises(ValueError, match="multiples of --meet"):
        train_occluded(OccludedTraining(heads, runs / "generator", run, **sizes, processes=2))
    train_occluded(
        OccludedTraining(
            heads, runs / "generator", run, **sizes, judged="everything", adversarial_start=0, processes=2, meet=1
        )
    )
    state = torch.load(run / "state.pt", weights_only=True)
    begun = torch.load(runs / "generator" / "state.pt", weights_only=True)["encoder"]["lift.place"]
    assert state["step"] == 2 and not torch.equal(state["encoder"]["lift.place"], begun)
    assert len((run / "checks.jsonl").read_text().splitlines()) == 1  # only the first process writes


@pytest.mark.thorough
def test_two_processes_train_one_model(heads: Path, runs: Path, tmp_path: Path) -> None:
    settings = GeneratorTraining(
        heads,
        tmp_path / "together",
        start=runs / "generator" / "state.pt",
        steps=2,
        batch=2,
        points=500,
        normals=50,
        processes=2,
        meet=1,
    )
    train_generator(settings)
    begun = torch.load(runs / "generator" / "state.pt", weights_only=True)["encoder"]["lift.place"]
    state = torch.load(settings.run / "state.pt", weights_only=True)
    assert state["step"] == 2 and not torch.equal(state["encoder"]["lift.place"], begun)
    assert len((settings.run / "checks.jsonl").read_text().splitlines()) == 1  # only the first process writes


def test_held_out_heads_are_measured_while_training_goes_on(runs: Path) -> None:
    for run in ("generator", "occluded"):
        check = json.loads((runs / run / "checks.jsonl").read_text().splitlines()[0])
        assert check["step"] == 2 and 0 <= check["IoU"] <= 1 and check["colour seen"] > 0


def test_an_exported_model_loads_and_says_how_it_was_trained(runs: Path, tmp_path: Path) -> None:
    for run in ("generator", "occluded"):  # too short a run for a line of the curve
        line = {"step": 2, "cpu_s": 5, "distance": 0.1}
        (runs / run / "curve.jsonl").write_text(json.dumps(line) + "\n")
    out = tmp_path / "tiny.safetensors"
    digest = export(Export(runs / "generator", runs / "occluded", out))
    model = checkpoints.load(out)
    assert model.sha256 == digest and model.name == "tiny"
    assert model.config["training"]["generator"]["cpu_s"] == 5
    assert "CC0" in model.config["licence"] and model.occluded.config.completes
    begun, exported = weights_of(runs / "generator" / "state.pt"), weights_of(out)
    for part in ("generator", "encoder"):  # a later run can start from the product's own file
        assert exported[part].keys() == begun[part].keys()
    torch.testing.assert_close(exported["encoder"]["lift.place"], begun["encoder"]["lift.place"], atol=1e-3, rtol=1e-3)
    state, exported = occluded_weights_of(runs / "occluded" / "state.pt"), occluded_weights_of(out)
    assert exported.keys() == state.keys()
    torch.testing.assert_close(exported["style.0.weight"], state["style.0.weight"], atol=1e-3, rtol=1e-3)
