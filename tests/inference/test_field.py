from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.errors import OutOfMemory
from inference.field import SMALLEST_CHUNK, Field
from inference.generator import PANOHEAD, STARTER, GeneratorConfig, TriPlaneGenerator
from inference.surface import lattice_points
from inference.tri_grid import TriGrid

SMALL = replace(STARTER, channel_base=64, planes_resolution=8, z_dim=16, w_dim=16)


SMALL_PANOHEAD = replace(
    PANOHEAD,
    channel_base=128,
    planes_resolution=16,
    z_dim=16,
    w_dim=16,
    background=False,
    superresolution=False,
)


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


@pytest.mark.parametrize(
    "config",
    [SMALL, SMALL_PANOHEAD, replace(SMALL, decoder_layers=0)],
    ids=["planes side by side", "mean of planes", "no hidden layer"],
)
def test_a_lattice_read_as_a_whole_is_its_points_one_by_one(config: GeneratorConfig) -> None:
    torch.manual_seed(0)
    planes = torch.randn(3, config.plane_channels, config.planes_depth, *[config.planes_resolution] * 2)
    generator = TriPlaneGenerator(config).requires_grad_(False)
    torch.nn.init.normal_(generator.decoder.first_layer.bias)
    field = Field(generator, TriGrid(planes, config.box_side))
    # All three differ, so that none can be taken for another; x takes more than one round, and all leave the box.
    x, y, z = (
        np.linspace(low, high, count) for low, high, count in ((-0.5, 0.4, 150), (-0.3, 0.6, 21), (-0.6, 0.2, 34))
    )
    fractions: list[float] = []
    density = field.density_on_lattice(x, y, z, lambda fraction, label: fractions.append(fraction))
    expected = field.density(lattice_points(x, y, z)).reshape(150, 21, 34)
    assert density.dtype == np.float32 and np.ptp(expected) > 1
    np.testing.assert_allclose(density, expected, atol=1e-5 * np.ptp(expected))
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_a_lattice_is_read_in_fewer_rows_where_memory_is_short(
    generator: CrampedGenerator, tri_grid: TriGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = np.linspace(-0.3, 0.3, 40)
    expected = Field(generator, tri_grid).density_on_lattice(axis, axis, axis)
    decode, asked = generator.decoder.raw_after_first, []

    def cramped(sums: torch.Tensor) -> torch.Tensor:
        asked.append(len(sums))
        if len(sums) > room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(sums)

    monkeypatch.setattr(generator.decoder, "raw_after_first", cramped)
    room = 15
    density = Field(generator, tri_grid).density_on_lattice(axis, axis, axis)
    np.testing.assert_allclose(density, expected, atol=1e-2)
    assert max(asked) > room and asked[-1] <= room
    room = 0
    with pytest.raises(OutOfMemory):
        Field(generator, tri_grid).density_on_lattice(axis, axis, axis)
