"""Density fields with a known surface and known colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOPE = 2000.0  # density per box unit: what the starter model makes of its distances

Distance = Callable[[NDArray], NDArray]


@dataclass
class AnalyticField:
    """Inside where `distance` (n, 3) -> (n,) is negative; coloured by `paint` (n, 3) -> (n, 3)."""

    distance: Distance
    paint: Distance = lambda points: position_colour(points)
    level: float = 10.0
    box_side: float = 0.7
    points_read: int = 0

    def density(self, points: NDArray) -> NDArray:
        self.points_read += len(points)
        return (self.level - SLOPE * self.distance(points.astype(np.float64))).astype(np.float32)

    def colour(self, points: NDArray) -> NDArray:
        return self.paint(points.astype(np.float64)).astype(np.float32)


def position_colour(points: NDArray) -> NDArray:
    """Head frame position as a colour: the box from -.5 to .5 becomes 0 to 1."""
    return points + 0.5


def sphere(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Distance:
    return lambda points: np.linalg.norm(points - centre, axis=1) - radius


def ellipsoid(radii: tuple[float, float, float]) -> Distance:
    """Near the surface the distance, to first order."""

    def distance(points: NDArray) -> NDArray:
        inside = np.linalg.norm(points / radii, axis=1)
        return inside * (inside - 1) / np.maximum(np.linalg.norm(points / np.square(radii), axis=1), 1e-9)

    return distance


def upright_cylinder(radius: float, top: float) -> Distance:
    return lambda points: np.maximum(np.hypot(points[:, 0], points[:, 2]) - radius, points[:, 1] - top)


def union(*distances: Distance) -> Distance:
    return lambda points: np.min([distance(points) for distance in distances], axis=0)


def head_on_neck() -> Distance:
    """Crown at .25, a nose at +z, ears at +-x, and a neck that goes on below the box."""
    return union(
        ellipsoid((0.16, 0.25, 0.19)),
        sphere(0.035, (0.0, -0.05, 0.19)),
        sphere(0.04, (0.16, 0.0, 0.0)),
        sphere(0.04, (-0.16, 0.0, 0.0)),
        upright_cylinder(0.09, 0.0),
    )
