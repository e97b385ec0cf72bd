"""A quick look at held-out heads while training goes on: errors at points, seen and hidden apart, without any mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from inference.encoders import PortraitEncoder, SeenPlanes
from inference.generator import DISTANCE_UNIT, TriPlaneGenerator

from .dataset import Arrays, Batch, HeadSet
from .losses import COLOUR_BAND, normal_loss
from .visibility import seen_by, seen_planes

HEADS, VIEWS = 16, 3  # held-out heads, and the first views of each: seen from 0, 30 and 60 degrees
POINTS, SURFACE_POINTS = 8000, 4000
NECK = -0.27  # box units: below it are neck and shoulders, which the product cuts off


@dataclass(frozen=True)
class Validation:
    """What is measured: an encoder's tri-grids; with `first`, the encoder it completes, the two stitched."""

    generator: TriPlaneGenerator
    encoder: PortraitEncoder
    first: PortraitEncoder | None = None


def validate(what: Validation, held_out: HeadSet) -> dict[str, float]:
    """Means over heads and views: distance and colour errors, IoU of the head, error of normals, by what the view saw.

    Distances are in `DISTANCE_UNIT`, colours in [0, 1].
    """
    rng = np.random.default_rng(1)
    noise = torch.Generator().manual_seed(1)
    rows = []
    with torch.no_grad():
        for index in range(min(HEADS, len(held_out.heads))):
            for view in range(VIEWS):
                batch = held_out.batch_of(index, view, POINTS, SURFACE_POINTS, rng)
                rows.append(_measure(what, batch, noise, held_out.heads[index]))
    return {name: round(float(np.nanmean([row[name] for row in rows])), 5) for name in rows[0]} if rows else {}


def _measure(what: Validation, batch: Batch, noise: torch.Generator, head: Arrays) -> dict[str, float]:
    generator, given = what.generator, batch.views.given
    seen: SeenPlanes | None = None
    if what.first is not None:
        seen = seen_planes(generator, what.first, batch)
    planes = what.encoder(given, generator, seen).planes
    if seen is not None:
        planes = torch.lerp(planes, seen.planes, seen.visibility[:, :, None])
    points = batch.points
    distance, colour = generator.query_distance(planes, points.points)
    error = (distance - points.distance).clamp(-DISTANCE_UNIT, DISTANCE_UNIT).abs() / DISTANCE_UNIT
    shade = (colour - points.colour).abs().mean(dim=-1)
    shown = seen_by(batch.views, points.points) > 0
    wanted = (points.distance.abs() < COLOUR_BAND) & (points.points[..., 1] > NECK)
    even = torch.from_numpy(head["uniform_points"].astype(np.float32))
    above = even[:, 1] > NECK
    inside = (generator.query_distance(planes, even[None])[0][0] < 0) & above
    truth = torch.from_numpy(head["uniform_distance"] < 0) & above
    values = {"IoU": ((inside & truth).sum() / (inside | truth).sum()).item()}
    for side, rows in (("seen", shown), ("hidden", ~shown)):
        values[f"distance {side}"] = error[rows & wanted].mean().item()
        values[f"colour {side}"] = shade[rows & wanted].mean().item()
    values["normal"] = normal_loss(generator, planes, batch.surface, noise).item()
    return values
