"""What an input view shows of a head: points, by its true depth, and cells of a tri-grid, by the guessed surface."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.camera import camera_from_vector, project_tensor
from inference.encoders import PortraitEncoder, SeenPlanes
from inference.generator import TriPlaneGenerator
from inference.progress import silent
from inference.stitching import EMPTY_DEPTH, scout, surface_points, visibility, visibility_mask
from inference.tri_grid import TriGrid

from .dataset import Batch, Views

SCOUT_CELLS = 32  # a side: an eighth of the product's samples, since this is done for every head of every step
SEEN_SLACK = 0.03  # box units (16 mm) behind the depth map that still count as seen


def seen_by(views: Views, points: Tensor) -> Tensor:
    """(n, m) 1 for points (n, m, 3) that lie on or before the surface the view shows, 0 for those behind it."""
    pixels, distance = project_tensor(points, views.given.cameras)
    seen_to = F.grid_sample(
        views.depths[:, None], pixels[:, None] * 2 - 1, mode="nearest", padding_mode="border", align_corners=False
    )[:, 0, 0]
    return (distance < seen_to + SEEN_SLACK).float()


def seen_planes(generator: TriPlaneGenerator, visible: PortraitEncoder, batch: Batch) -> SeenPlanes:
    """The visible encoder's tri-grids of a batch, and where it takes their surface to be seen, as in the product.

    Nothing of the true shape may enter: marked by the true surface, the cells tell what the photo hides. An occluded
    encoder trained with them was ahead while it was given them (IoU .910 against .900 of the visible encoder alone),
    and behind in the product, where they come from the visible encoder's own surface (.893).
    """
    with torch.no_grad():
        made = visible(batch.views.given, generator)  # in half precision where the training asks for it
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        if made.surfaces is None:
            raise ValueError("the visible encoder guesses no surfaces, which tell what it takes to be seen")
        matte = batch.views.given.portraits[:, 3]
        front = F.interpolate(made.surfaces[:, :1], matte.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        depths = torch.where(matte > 0.5, front, EMPTY_DEPTH)
        masks = []
        for planes, camera, depth in zip(made.planes, batch.views.given.cameras, depths, strict=True):
            grid = TriGrid(planes, generator.config.box_side)
            points = surface_points(scout(generator, grid, silent, SCOUT_CELLS))
            shown = visibility(points, camera_from_vector(camera.numpy()), depth)
            masks.append(visibility_mask(points, shown, grid))
    return SeenPlanes(made.planes, torch.stack(masks))
