from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.errors import OutOfMemory
from inference.field import SMALLEST_CHUNK, Field
from inference.generator import STARTER, TriPlaneGenerator
from inference.tri_grid import TriGrid

SMALL = replace(STARTER, channel_base=64, planes_resolution=8, z_dim=16, w_dim=16)


class CrampedGenerator(TriPlaneGenerator):
    """A device that has room for `room` points at a time."""

    room = 1 << 30

    def features(self, planes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        if points.shape[1] > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().features(planes, points)


@pytest.fixture
def generator() -> CrampedGenerator:
    torch.manual_seed(0)
    return CrampedGenerator(SMALL).requires_grad_(False)


@pytest.fixture
def tri_grid(generator: CrampedGenerator) -> TriGrid:
    planes = generator.synthesise_planes(generator.map_latents(torch.randn(1, SMALL.z_dim)))
    return TriGrid(planes[0], SMALL.box_side)


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.35, 0.35, (40_000, 3)).astype(np.float32)


def test_a_field_is_its_generator_asked_point_by_point(
    generator: CrampedGenerator, tri_grid: TriGrid, points: np.ndarray
) -> None:
    field = Field(generator, tri_grid)
    sigma, colour = generator.query(tri_grid.planes[None], torch.from_numpy(points)[None])
    density = field.density(points)
    assert density.dtype == np.float32 and density.shape == (40_000,)
    np.testing.assert_allclose(density, sigma[0].numpy(), atol=1e-3)  # of values around 10; rounding only
    np.testing.assert_allclose(field.colour(points), colour[0].numpy(), atol=1e-5)
    assert field.level == SMALL.surface_sigma and field.box_side == SMALL.box_side


def test_chunks_are_halved_until_they_fit(generator: CrampedGenerator, tri_grid: TriGrid, points: np.ndarray) -> None:
    expected = Field(generator, tri_grid).density(points)
    generator.room = 3000
    np.testing.assert_allclose(Field(generator, tri_grid).density(points), expected, atol=1e-3)


def test_no_memory_even_for_a_small_chunk_is_told(
    generator: CrampedGenerator, tri_grid: TriGrid, points: np.ndarray
) -> None:
    generator.room = SMALLEST_CHUNK // 2
    with pytest.raises(OutOfMemory):
        Field(generator, tri_grid).density(points)


def test_other_failures_are_not_taken_for_lack_of_memory(
    generator: CrampedGenerator, tri_grid: TriGrid, points: np.ndarray
) -> None:
    generator.decoder = generator.decoder.double()
    with pytest.raises(RuntimeError, match="Double"):
        Field(generator, tri_grid).density(points)


def test_progress_reaches_the_end_and_can_stop_the_work(
    generator: CrampedGenerator, tri_grid: TriGrid, points: np.ndarray
) -> None:
    fractions: list[float] = []
    Field(generator, tri_grid).colour(points, lambda fraction, label: fractions.append(fraction))
    assert fractions == sorted(fractions) and fractions[-1] == 1.0

    def cancel(fraction: float, label: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Field(generator, tri_grid).density(points, cancel)


def test_no_points_give_no_values(generator: CrampedGenerator, tri_grid: TriGrid) -> None:
    field = Field(generator, tri_grid)
    assert field.density(np.empty((0, 3))).shape == (0,)
    assert field.colour(np.empty((0, 3))).shape == (0, 3)


def test_features_become_colours_through_the_latent() -> None:
    panohead_like = replace(
        SMALL,
        c_dim=0,
        decoder_features=6,
        decoder_output="sigma",
        colour_activation="none",
        superresolution=True,
        superresolution_input=8,
        superresolution_channels=(4, 4),
    )
    generator = TriPlaneGenerator(panohead_like).requires_grad_(False)
    w_plus = generator.map_latents(torch.randn(1, SMALL.z_dim))
    tri_grid = TriGrid(generator.synthesise_planes(w_plus)[0], SMALL.box_side)
    points = np.zeros((5, 3))
    colour = Field(generator, tri_grid, w_plus[0, -1]).colour(points)
    assert colour.shape == (5, 3) and colour.min() >= 0.0 and colour.max() <= 1.0
    with pytest.raises(ValueError, match="latent"):
        Field(generator, tri_grid).colour(points)
