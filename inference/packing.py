"""Put flat islands beside each other in the smallest square that is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

CELLS = 160  # along a square as large as all islands together
WIDTHS_TRIED = 10
WIDEST = 1.6  # times the side of that square; the smallest layout is never so wide
ALL_ORDERS_UP_TO = 4  # islands: they are tried in every order, more of them in four orders of size
SAMPLE = 0.25  # cells between two points at which a border is read
EXPECTED_FILL = 0.6  # share of the square that islands cover, measured: the first guess at its side


@dataclass(frozen=True)
class _Profile:
    """An island with half the padding around it, in columns one cell wide.

    low, high: (columns,) its lower and upper edge, cells above `origin`.
    origin:    (2,) lower corner of the first column in the island's own coordinates, in cells.
    """

    low: FloatArray
    high: FloatArray
    origin: FloatArray


def pack(
    borders: Sequence[FloatArray], padding: float, progress: Callable[[float], None]
) -> tuple[list[FloatArray], float]:
    """Where islands go, as they lie: nothing is turned.

    borders:  of each island, (n, 2) points along it, in order and closed; any unit of length.
    padding:  distance that islands keep from each other, and twice that from the square's sides, as a share of the
              square's side.
    progress: called with the share done.
    Returns:  what to add to each island's points, (2,), and the side of the square, which starts at (0, 0).

    The islands fall one after the other onto those that lie already, each to where it comes to lie lowest, as in the
    game of Tetris (Levy et al., "Least Squares Conformal Maps for Automatic Texture Atlas Generation", SIGGRAPH 2002,
    section 4): in several orders, into boxes of several widths, along either axis.
    """
    area = sum(enclosed_area(border) for border in borders)
    cell = np.sqrt(area) / CELLS
    side = np.sqrt(area / EXPECTED_FILL)
    while True:
        gap = padding * side
        found = [
            _pack_upwards([border[:, axes] / cell for border in borders], gap / cell, progress)
            for axes in ([0, 1], [1, 0])
        ]
        across = found[1][1] < found[0][1]
        places, cells = found[across]
        if cells * cell <= side:
            return [(place[::-1] if across else place) * cell for place in places], cells * cell
        side = cells * cell * 1.001  # the padding was a share of too small a square


def _pack_upwards(
    borders: Sequence[FloatArray], gap: float, progress: Callable[[float], None]
) -> tuple[list[FloatArray], float]:
    """As `pack`, all in cells, islands falling along the second axis."""
    profiles = [_profile(border, gap / 2) for border in borders]
    columns = np.array([len(profile.low) for profile in profiles])
    heights = np.array([profile.high.max() for profile in profiles])
    widths = np.unique(np.linspace(columns.max(), max(WIDEST * CELLS, columns.max()), WIDTHS_TRIED).astype(int))
    best: tuple[float, list[FloatArray]] = (np.inf, [])
    for done, width in enumerate(widths):
        progress(done / len(widths))
        for order in _orders(columns, heights):
            side, places = _drop(profiles, order, int(width), best[0])
            if side < best[0]:
                best = side, places
    return [place - profile.origin for place, profile in zip(best[1], profiles, strict=True)], best[0]


def _orders(columns: IntArray, heights: FloatArray) -> list[IntArray]:
    if len(columns) <= ALL_ORDERS_UP_TO:
        return [np.array(order) for order in permutations(range(len(columns)))]
    keys = (columns, heights, np.maximum(columns, heights), columns * heights)
    return [np.argsort(-key, kind="stable") for key in keys]


def _drop(profiles: Sequence[_Profile], order: IntArray, width: int, limit: float) -> tuple[float, list[FloatArray]]:
    """The side of the square that holds the islands dropped in this order into a box so wide, and their places.

    The side is infinite as soon as it is no less than `limit`.
    """
    ground = np.zeros(width)
    places = [np.zeros(2)] * len(profiles)
    right = 0
    for index in order:
        profile = profiles[index]
        columns = len(profile.low)
        windows = np.lib.stride_tricks.sliding_window_view(ground, columns)
        rests_at = (windows - profile.low).max(axis=1)
        column = int(rests_at.argmin())
        places[index] = np.array([column, rests_at[column]])
        under = ground[column : column + columns]
        np.maximum(under, rests_at[column] + profile.high, out=under)
        right = max(right, column + columns)
        if max(right, ground.max()) >= limit:
            return np.inf, places
    return float(max(right, ground.max())), places


def _profile(border: FloatArray, margin: float) -> _Profile:
    ahead = np.roll(border, -1, axis=0) - border
    steps = np.maximum(np.ceil(np.abs(ahead).max(axis=1) / SAMPLE), 1).astype(int)
    segment = np.repeat(np.arange(len(border)), steps)
    share = (np.arange(len(segment)) - np.repeat(np.cumsum(steps) - steps, steps)) / steps[segment]
    points = border[segment] + share[:, None] * ahead[segment]
    margin += SAMPLE  # the border between two samples
    reach = int(np.ceil(margin)) + 1  # a sample may lie at either side of its column
    lowest = points.min(axis=0)
    column = np.floor(points[:, 0] - lowest[0]).astype(int) + reach
    low = np.full(column.max() + 1 + reach, np.inf)
    high = np.full(len(low), -np.inf)
    np.minimum.at(low, column, points[:, 1])
    np.maximum.at(high, column, points[:, 1])
    wide_low, wide_high = low.copy(), high.copy()
    for offset in range(1, reach + 1):
        rise = np.sqrt(max(margin**2 - (offset - 1) ** 2, 0.0)) if offset - 1 <= margin else -np.inf
        for here, there in ((slice(offset, None), slice(None, -offset)), (slice(None, -offset), slice(offset, None))):
            wide_low[here] = np.minimum(wide_low[here], low[there] - rise)
            wide_high[here] = np.maximum(wide_high[here], high[there] + rise)
    wide_low, wide_high = np.minimum(wide_low, low - margin), np.maximum(wide_high, high + margin)
    used = np.flatnonzero(np.isfinite(wide_low))
    wide_low, wide_high = wide_low[used[0] : used[-1] + 1], wide_high[used[0] : used[-1] + 1]
    origin = np.array([lowest[0] - reach + used[0], wide_low.min()])
    return _Profile(wide_low - origin[1], wide_high - origin[1], origin)


def enclosed_area(border: FloatArray) -> float:
    """Area within a closed line through (n, 2) points."""
    following = np.roll(border, -1, axis=0)
    return float(np.abs(np.sum(border[:, 0] * following[:, 1] - border[:, 1] * following[:, 0])) / 2)
