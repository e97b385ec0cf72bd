"""The full-size bench, run on sizes that take a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.generator import PANOHEAD, TriPlaneGenerator
from inference.surface import Mesh
from tests.full_size_bench import (
    Row,
    Table,
    box_lattice,
    clay_views,
    dense_volume,
    farthest_apart,
    filled_generator,
    fit_head,
    largest_difference,
    measure_extraction,
    measure_synthesis,
)

TINY = replace(
    PANOHEAD,
    z_dim=16,
    w_dim=16,
    channel_base=128,
    channel_max=16,
    planes_resolution=16,
    plane_channels=8,
    superresolution_input=16,
    superresolution_channels=(4, 4),
    render_resolution=8,
)
RADIUS = 0.25


@pytest.fixture
def generator() -> TriPlaneGenerator:
    return filled_generator(TINY)


def ball(points: np.ndarray) -> np.ndarray:
    return (np.linalg.norm(points, axis=1) - RADIUS).astype(np.float32)


def test_synthesis_is_measured_row_by_row(generator: TriPlaneGenerator) -> None:
    assert torch.isfinite(torch.cat([value.flatten() for value in generator.parameters()])).all()
    table = Table()
    measure_synthesis(table, generator, (8, 16))
    names = [row.name for row in table.rows]
    timed = ["tri-grid", "dense density at 8^3", "dense density at 16^3", "image of 64 px"]
    assert names == [*timed[:3], "dense density over the published way", *timed[3:]]
    assert all(row.wall_s is not None and row.wall_s > 0 for row in table.rows if row.name in timed)
    assert table.rows[3].value > 0


def test_a_fitted_head_has_its_surface_where_the_distance_is_0(generator: TriPlaneGenerator) -> None:
    tri_grid = fit_head(generator, ball, stages=((8, 60, 1024), (16, 30, 1024)))
    assert tri_grid.planes.shape == (3, 8, 3, 16, 16)
    table = Table()
    mesh = measure_extraction(table, generator, tri_grid, compared=64, grids=(64,))
    assert table.kept and table.rows[0].value < 1e-6  # the same numbers, so the same surface but for rounding
    # Coarse planes and few steps: within a tenth of the radius.
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), RADIUS, atol=0.1 * RADIUS)
    views = np.asarray(clay_views(mesh, 32))
    assert views.shape == (32, 128) and views.max() > 200


def test_dense_density_lies_where_the_lattice_says() -> None:
    class Height:
        level, box_side = 0.5, 1.0

        def density(self, points: np.ndarray) -> np.ndarray:
            return points @ [100.0, 10.0, 1.0]

    lattice = box_lattice(1.0, 4)
    volume = dense_volume(Height(), lattice)
    assert volume.shape == (6, 6, 6)
    for index in ((1, 1, 1), (4, 2, 3)):
        assert volume[index] == pytest.approx(lattice.points(np.array(index)) @ [100.0, 10.0, 1.0] - 0.5, abs=1e-4)


def test_other_faces_are_another_surface() -> None:
    triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    assert largest_difference(triangle, Mesh(np.eye(3) + [0, 0, 0.5], triangle.faces)) == 0.5
    assert largest_difference(triangle, Mesh(np.eye(3), np.array([[0, 2, 1]]))) == float("inf")


def test_the_farthest_vertex_of_either_mesh_counts() -> None:
    triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    more = Mesh(np.concatenate([np.eye(3), [[2.0, 0.0, 0.0]]]), np.array([[0, 1, 2], [0, 1, 3]]))
    assert farthest_apart(triangle, more) == farthest_apart(more, triangle) == 1.0


def test_a_broken_limit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    table.add(Row("within", 1.0, "CPU s", 2.0))
    assert table.kept
    table.add(Row("beyond", 3.0, "CPU s", 2.0))
    assert not table.kept
    assert "BROKEN" in capsys.readouterr().out.splitlines()[1]
