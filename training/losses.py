"""What a tri-grid is told about a head: signed distance, colour and normals at points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.camera import FOCAL, RADIUS
from inference.generator import DISTANCE_UNIT, TriPlaneGenerator

from .dataset import EMPTY_DEPTH, Batch, Points, Surface, Views

COLOUR_BAND = 0.015  # box units (8 mm): only near the surface does colour mean anything
NORMAL_STEP = 0.007  # box units: two thirds of a plane's cell, so that a difference spans real texels
NORMAL_JITTER = 0.0035  # box units: normals are right a little off the surface too
TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0), (1.0, 1.0, 1.0))


def point_losses(
    generator: TriPlaneGenerator, planes: Tensor, batch: Points, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean absolute error of the distance (in `DISTANCE_UNIT`, both clamped there) and of the colour near the surface.

    planes:  (n, 3, channels, depth, res, res). weights: (n, m) of the points, all 1 when None.
    """
    distance, colour = generator.query_distance(planes, batch.points)
    weights = torch.ones_like(distance) if weights is None else weights
    target = batch.distance.clamp(-DISTANCE_UNIT, DISTANCE_UNIT)
    error = (distance - target).abs() / DISTANCE_UNIT
    # Far away only the side matters: a prediction beyond the clamp on the right side is right.
    beyond = (target.abs() >= DISTANCE_UNIT) & (distance * target.sign() > DISTANCE_UNIT)
    error = torch.where(beyond, 0, error)
    near = weights * (batch.distance.abs() < COLOUR_BAND)
    colour_error = (colour - batch.colour).abs().mean(dim=-1)
    return (error * weights).sum() / weights.sum(), (colour_error * near).sum() / near.sum().clamp(min=1)


def normal_loss(
    generator: TriPlaneGenerator,
    planes: Tensor,
    surface: Surface,
    noise: torch.Generator,
    weights: Tensor | None = None,
) -> Tensor:
    """Distance between the field's gradient, by a tetrahedron of differences, and the surface's normal.

    weights: (n, m) of the surface's points, all 1 when None.
    """
    corners = surface.points.new_tensor(TETRAHEDRON)
    jitter = torch.randn(surface.points.shape, generator=noise) * NORMAL_JITTER
    points = (surface.points + jitter)[:, :, None] + NORMAL_STEP * corners
    distance, _ = generator.query_distance(planes, points.flatten(1, 2))
    gradient = (distance.view(*surface.points.shape[:2], 4, 1) * corners).sum(dim=2) / (4 * NORMAL_STEP)
    error = (gradient - surface.normals).norm(dim=-1)
    weights = torch.ones_like(error) if weights is None else weights
    return (error * weights).sum() / weights.sum()


@dataclass(frozen=True)
class LossWeights:
    """How much each kind of supervision counts beside the distance."""

    colour: float = 2.0
    normal: float = 0.2
    variation: float = 0.01


def alike(points: Tensor) -> Tensor:
    """(n, m) weights of points (n, m, 3): all the same."""
    return torch.ones_like(points[..., 0])


def head_losses(
    generator: TriPlaneGenerator,
    planes: Tensor,
    batch: Batch,
    weigh: Callable[[Tensor], Tensor],
    noise: torch.Generator,
    weights: LossWeights,
) -> tuple[Tensor, dict[str, float]]:
    """What tri-grids are told of their heads, in one number, and its parts.

    weigh: from points (n, m, 3) to their weights (n, m).
    """
    distance, colour = point_losses(generator, planes, batch.points, weigh(batch.points.points))
    normal = normal_loss(generator, planes, batch.surface, noise, weigh(batch.surface.points))
    total = distance + weights.colour * colour + weights.normal * normal + weights.variation * plane_variation(planes)
    return total, {"distance": distance.item(), "colour": colour.item(), "normal": normal.item()}


def surface_loss(surfaces: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Mean absolute errors of both surfaces along the rays, in `DISTANCE_UNIT`, and of the shown one's slopes.

    surfaces: (n, 2, h, w) distances from the camera. Slopes are of distance over width.
    """
    n, _, height, width = surfaces.shape
    # Where a pixel holds the outline it holds two depths: it is left out.
    pieces = views.depths.view(n, height, 2, width, 2)
    front = torch.where((pieces < EMPTY_DEPTH).all(4).all(2), pieces.mean((2, 4)), EMPTY_DEPTH)
    truth = torch.stack([front, torch.where(front < EMPTY_DEPTH, views.backs, EMPTY_DEPTH)], dim=1)
    error = surfaces - truth
    pixel = RADIUS / FOCAL / width
    slopes = []
    for axis in (-1, -2):
        # A step of more than three pixels is the edge of something before something else.
        smooth = front.diff(dim=axis).abs() < 3 * pixel
        slopes.append(error[:, 0].diff(dim=axis)[smooth & (front < EMPTY_DEPTH).narrow(axis, 1, width - 1)].abs())
    return error[truth < EMPTY_DEPTH].abs().mean() / DISTANCE_UNIT, torch.cat(slopes).mean() / pixel


def plane_variation(planes: Tensor) -> Tensor:
    """Mean squared difference of neighbouring cells: keeps what no point speaks of smooth."""
    return planes.diff(dim=-1).square().mean() + planes.diff(dim=-2).square().mean()
