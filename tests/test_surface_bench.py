"""The starter's surface bench, run on a known head and sizes that take a second."""

from __future__ import annotations

import numpy as np
import pytest

from inference.messages import Options
from inference.surface import Mesh
from tests.bench import ASTRONAUT
from tests.full_size_bench import Table
from tests.inference.analytic_fields import AnalyticField, sphere
from tests.surface_bench import fitted_field, measure_surface, needles_per_cent


def test_every_figure_is_a_row_and_a_ball_keeps_its_promises() -> None:
    table = Table()
    measure_surface(table, AnalyticField(sphere(0.24)), 64, (96,), (10_000,))
    names = [row.name for row in table.rows]
    assert names[0] == "surface at 96^3" and names[-1] == "coarse to fine against dense at 64^3"
    assert len(names) == len(set(names)) == 7
    assert table.kept and table.rows[-1].value < 1e-7


def test_the_field_that_is_measured_is_the_head_of_the_photo() -> None:
    field = fitted_field(ASTRONAUT, Options(refinement="off"))
    points = np.array([[0, 0, 0], [0, -0.1, 0.1], [0.3, 0.3, 0.3]], dtype=np.float32)  # skull, throat, air
    assert ((field.density(points) > field.level) == [True, True, False]).all()


def test_one_face_of_two_is_a_needle() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1.0, 1], [0.5, 1.05, 1]])
    assert needles_per_cent(Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]))) == pytest.approx(50)
