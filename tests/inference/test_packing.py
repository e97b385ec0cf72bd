"""Islands packed into a square."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.packing import enclosed_area, pack
from inference.progress import silent

PADDING = 0.01


def no_progress(share: float) -> None:
    silent(share, "")


def ellipse(width: float, height: float) -> NDArray:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1) / 2


def test_area_of_a_square_is_known() -> None:
    assert enclosed_area(np.array([[1.0, 1], [3, 1], [3, 3], [1, 3]])) == 4.0


def test_islands_keep_the_padding_from_each_other_and_half_of_it_from_the_square() -> None:
    borders = [ellipse(2, 3), ellipse(1, 3), ellipse(3, 1), ellipse(0.5, 0.5), ellipse(1, 2)]
    places, side = pack(borders, PADDING, no_progress)
    placed = [border + place for border, place in zip(borders, places, strict=True)]
    for i, border in enumerate(placed):
        assert border.min() >= PADDING / 2 * side and border.max() <= (1 - PADDING / 2) * side
        for other in placed[:i]:
            assert np.linalg.norm(border[:, None] - other[None], axis=2).min() >= PADDING * side
    assert sum(map(enclosed_area, borders)) > 0.5 * side**2


def test_small_island_lies_in_the_hollow_of_a_large_one() -> None:
    """A square that fills the gap of a U needs no room of its own."""
    cup = np.array([[0.0, 0], [3, 0], [3, 3], [2, 3], [2, 1], [1, 1], [1, 3], [0, 3]])
    square = np.array([[0.0, 0], [0.8, 0], [0.8, 0.8], [0, 0.8]])
    assert pack([cup, square], PADDING, no_progress)[1] < 3.2
