"""Untangling: lips pushed through each other come apart, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest

from inference.rigging import untangle
from inference.rigging.untangle import TangleFinder, untangled
from inference.template import SKIN, RigTemplate, load_rig_template

MM = 1 / 520  # box units


@pytest.fixture(scope="module")
def template() -> RigTemplate:
    return load_rig_template()


@pytest.fixture(scope="module")
def finder(template: RigTemplate) -> TangleFinder:
    return TangleFinder(template)


def around_mouth(template: RigTemplate, reach_mm: float) -> np.ndarray:
    """(v,) 1 at the middle of the lips, less the farther from it."""
    lips = template.vertices[template.lips > 0.5]
    middle = (lips.min(axis=0) + lips.max(axis=0)) / 2
    return np.exp(-np.square(np.linalg.norm(template.vertices - middle, axis=1) / (reach_mm * MM)))


def jaw_drop(template: RigTemplate) -> np.ndarray:
    """(v, 3) what opens the mouth."""
    return template.expressions[template.expression_names.index("jawOpen")].astype(np.float64)


def test_the_template_itself_is_not_tangled_and_comes_back_as_it_is(
    template: RigTemplate, finder: TangleFinder
) -> None:
    assert finder.find(template.vertices).count == 0
    assert untangled(finder, template.vertices, template.vertices, (np.copy,)) is template.vertices


@pytest.mark.parametrize("share", [0.05, 0.15])
def test_lips_that_pass_through_each_other_come_apart(
    template: RigTemplate, finder: TangleFinder, share: float
) -> None:
    crossed = template.vertices - share * jaw_drop(template)
    before = finder.find(crossed)
    assert len(before.pairs) > 10
    apart = untangled(finder, template.vertices, crossed, (np.copy,))
    assert finder.find(apart).count == 0
    far = around_mouth(template, 40) < 0.01
    assert far[template.vertices_of(SKIN)].mean() > 0.3
    np.testing.assert_array_equal(apart[far], crossed[far])


def test_the_second_finish_is_tried_where_the_first_does_not_do(
    template: RigTemplate, finder: TangleFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untangle, "RINGS", (2, 3))
    crossed = template.vertices - 0.05 * jaw_drop(template)
    asked = []

    def spoilt(vertices: np.ndarray) -> np.ndarray:
        asked.append("spoilt")
        return crossed.copy()

    def good(vertices: np.ndarray) -> np.ndarray:
        asked.append("good")
        return vertices

    apart = untangled(finder, template.vertices, crossed, (spoilt, good))
    assert finder.find(apart).count == 0
    assert asked[:3] == ["spoilt", "spoilt", "good"]
