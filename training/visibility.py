"""What an input view shows of a head, by its true depth: points, and cells of a tri-grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.camera import project_tensor
from inference.encoders import PortraitEncoder, SeenPlanes
from inference.generator import TriPlaneGenerator
from inference.stitching import visibility_mask
from inference.tri_grid import TriGrid

from .dataset import Batch, Views

SEEN_SLACK = 0.03  # box units (16 mm) behind the depth map that still count as seen


def seen_by(views: Views, points: Tensor) -> Tensor:
    """(n, m) 1 for points (n, m, 3) that lie on or before the surface the view shows, 0 for those behind it."""
    pixels, distance = project_tensor(points, views.given.cameras)
    seen_to = F.grid_sample(
        views.depths[:, None], pixels[:, None] * 2 - 1, mode="nearest", padding_mode="border", align_corners=False
    )[:, 0, 0]
    return (distance < seen_to + SEEN_SLACK).float()


def seen_planes(generator: TriPlaneGenerator, visible: PortraitEncoder, batch: Batch) -> SeenPlanes:
    """The visible encoder's tri-grids of a batch, and where the true surface is seen, as stitching measures it."""
    with torch.no_grad():
        planes = visible(batch.views.given, generator).planes
        shown = seen_by(batch.views, batch.surface.points)
        masks = [
            visibility_mask(points, values, TriGrid(grid, generator.config.box_side))
            for points, values, grid in zip(batch.surface.points, shown, planes, strict=True)
        ]
    return SeenPlanes(planes, torch.stack(masks))
