"""Two tri-grids become one: what the photo saw from the first, what it did not see from the second.

Bilecen et al. (NeurIPS 2024, arXiv 2409.20530) find the visible points by back-projecting the depth of the input view,
and stitch in tri-grid space. The paper leaves open how points fall onto plane and depth slices. Here every surface
point, seen or hidden, votes for the cells it reads, with the weights it reads them by; a cell's visibility is the mean
of its votes. A cell that serves both sides (the planes hold front and back of a head in neighbouring slices) is blended
in that measure, and cells no surface reads follow their neighbours, so that the mask has no hard edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import Camera, camera_rays, project_tensor
from .generator import TriPlaneGenerator
from .tri_grid import TriGrid, cell_by_cell, plane_votes

SCOUT_GRID = 64  # cells a side of the grid that finds the surface; 5 mm, well under the slack of the depth test
DEPTH_SIZE = 128  # px, side of the input view's depth map
DEPTH_SLACK = 0.02  # box units (10 mm): the surface itself, and a nostril's depth, still count as seen
DEPTH_RAMP = 0.02  # box units: over this distance behind the slack visibility falls to 0
MIN_VOTES = 1e-3  # a cell with less weight than this has no opinion of its own
SPREAD_STEPS = 24  # rounds of filling silent cells from their neighbours; enough to cross an empty corner of 64 cells
EMPTY_DEPTH = 1e3  # box units; stands for a ray that meets nothing


@dataclass(frozen=True)
class Scout:
    """A coarse look at the surface of a head, on the device of the model.

    sigma:  (SCOUT_GRID,) * 3 density at cell centres, indexed x, y, z.
    level:  density of the surface.
    side:   of the box, box units.
    """

    sigma: Tensor
    level: float
    side: float


def scout(
    generator: TriPlaneGenerator, tri_grid: TriGrid, progress: Callable[[float, str], None], cells: int = SCOUT_GRID
) -> Scout:
    """Sample the density on a coarse grid over the tri-grid's box: cells^3 samples, interpolated to SCOUT_GRID^3."""
    side = tri_grid.box_side
    centres = ((torch.arange(cells, device=tri_grid.planes.device) + 0.5) / cells - 0.5) * side
    y, z = torch.meshgrid(centres, centres, indexing="ij")
    slabs = []
    with torch.no_grad():
        planes = cell_by_cell(tri_grid.planes[None])
        for index, x in enumerate(centres):
            points = torch.stack([x.expand_as(y), y, z], dim=-1).reshape(1, -1, 3)
            slabs.append(generator.query_sigma(planes, points).view(cells, cells))
            progress((index + 1) / cells, "Looking for the surface")
    sigma = torch.stack(slabs)
    if cells != SCOUT_GRID:
        sigma = F.interpolate(sigma[None, None], (SCOUT_GRID,) * 3, mode="trilinear", align_corners=False)[0, 0]
    return Scout(sigma, generator.config.surface_sigma, side)


def input_depth(look: Scout, camera: Camera) -> Tensor:
    """Distance along each ray of the input view to the first surface.

    Returns: (DEPTH_SIZE, DEPTH_SIZE) box units, `EMPTY_DEPTH` where the ray meets nothing.
    """
    device = look.sigma.device
    origins, directions = (torch.from_numpy(a.copy()).float().to(device) for a in camera_rays(camera, DEPTH_SIZE))
    reach = look.side * 3**0.5 / 2  # half the box's diagonal
    distance = float((camera.position**2).sum() ** 0.5)
    steps = torch.linspace(distance - reach, distance + reach, 3 * SCOUT_GRID, device=device)
    points = origins[..., None, :] + directions[..., None, :] * steps[:, None]  # (h, w, step, 3)
    inside = look_up(look, points.view(-1, 3)).view(DEPTH_SIZE, DEPTH_SIZE, -1) - look.level
    entered = inside > 0
    first = entered.float().argmax(dim=-1, keepdim=True)
    before = (first - 1).clamp(min=0)
    after_value, before_value = inside.gather(-1, first), inside.gather(-1, before)
    fraction = (before_value / (before_value - after_value).clamp(max=-1e-6)).clamp(0, 1)
    depth = steps[before] + fraction * (steps[first] - steps[before])
    return torch.where(entered.any(dim=-1), depth[..., 0], depth.new_tensor(EMPTY_DEPTH))


def surface_points(look: Scout) -> Tensor:
    """(m, 3) points of the head frame where the density crosses the surface's level along x, y or z."""
    cell = look.side / SCOUT_GRID
    found = []
    for axis in range(3):
        low = look.sigma.narrow(axis, 0, SCOUT_GRID - 1) - look.level
        high = look.sigma.narrow(axis, 1, SCOUT_GRID - 1) - look.level
        index = ((low > 0) != (high > 0)).nonzero()
        start, end = low[tuple(index.T)], high[tuple(index.T)]
        points = index.float()
        points[:, axis] += start / (start - end)
        found.append((points + 0.5) * cell - look.side / 2)
    return torch.cat(found)


def visibility(points: Tensor, camera: Camera, depth: Tensor) -> Tensor:
    """Weigh each point by how plainly the photo's camera sees it.

    points:  (m, 3) head frame.
    depth:   (h, w) distance along each ray to the first surface, box units.
    Returns: (m,) in [0, 1]: 1 on that surface or before it, 0 well behind it.

    A ramp, not a step: a step would print the visibility edge on the cheek as a seam.
    """
    cameras = torch.from_numpy(camera.vector)[None].to(points.device)
    pixels, distance = project_tensor(points[None], cameras)
    # The farthest surface around a pixel: a silhouette's pixel holds both the rim and what lies behind it.
    around = F.max_pool2d(torch.where(depth < EMPTY_DEPTH, depth, 0)[None, None], 3, 1, 1)
    seen_to = F.grid_sample(around, pixels[:, None] * 2 - 1, mode="nearest", padding_mode="border", align_corners=False)
    behind = distance[0] - seen_to[0, 0, 0]
    return (1 - (behind - DEPTH_SLACK) / DEPTH_RAMP).clamp(0, 1)


def visibility_mask(points: Tensor, seen: Tensor, tri_grid: TriGrid) -> Tensor:
    """How much of what each cell holds is seen by the photo.

    points:  (m, 3) surface points, head frame. seen: (m,) their visibility in [0, 1].
    Returns: (3, depth, res, res) in [0, 1].
    """
    votes = plane_votes(points, seen, tri_grid)
    weights = plane_votes(points, torch.ones_like(seen), tri_grid)
    spread_votes, spread_weights = votes, weights
    known = weights > MIN_VOTES
    mask = torch.where(known, votes / weights.clamp(min=MIN_VOTES), 0)
    for _ in range(SPREAD_STEPS):
        spread_votes = F.avg_pool2d(spread_votes, 3, 1, 1)
        spread_weights = F.avg_pool2d(spread_weights, 3, 1, 1)
        newly = ~known & (spread_weights > MIN_VOTES)
        mask = torch.where(newly, spread_votes / spread_weights.clamp(min=MIN_VOTES), mask)
        known = known | newly
    return mask.clamp(0, 1)


@dataclass(frozen=True)
class SeenSurface:
    """The surface of the visible encoder's head, and what the photo shows of it.

    points: (m, 3) on the surface, head frame.
    depth:  (DEPTH_SIZE, DEPTH_SIZE) of the input view, as `input_depth` gives it.
    cells:  (3, depth, res, res) visibility of its tri-grid's cells in [0, 1].
    """

    points: Tensor
    depth: Tensor
    cells: Tensor


def seen_surface(
    generator: TriPlaneGenerator, visible: TriGrid, camera: Camera, progress: Callable[[float, str], None]
) -> SeenSurface:
    """Find the surface of the visible encoder's tri-grid and what the photo's camera sees of it."""
    look = scout(generator, visible, progress)
    depth, points = input_depth(look, camera), surface_points(look)
    return SeenSurface(points, depth, visibility_mask(points, visibility(points, camera, depth), visible))


def occlusion_mask(
    generator: TriPlaneGenerator,
    seen: SeenSurface,
    occluded: TriGrid,
    camera: Camera,
    progress: Callable[[float, str], None],
) -> Tensor:
    """The visibility of every tri-grid cell in the input view; its complement is the paper's occlusion mask O.

    The occluded encoder's surface votes too: cells that only it reads belong to it.

    Returns: (3, depth, res, res) in [0, 1]: 1 where the photo decides, 0 where it shows nothing.
    """
    points = torch.cat([seen.points, surface_points(scout(generator, occluded, progress))])
    return visibility_mask(points, visibility(points, camera, seen.depth), occluded)


def stitch(visible: TriGrid, occluded: TriGrid, mask: Tensor) -> TriGrid:
    """Blend two tri-grids by the visibility mask (3, depth, res, res).

    Where the mask is exactly 1 (or 0) the cell is the first's (or the second's) bit for bit.
    """
    weight = mask[:, None]  # the same for every channel
    blended = torch.lerp(occluded.planes, visible.planes, weight)
    planes = torch.where(weight >= 1, visible.planes, torch.where(weight <= 0, occluded.planes, blended))
    return TriGrid(planes, visible.box_side)


def look_up(look: Scout, points: Tensor) -> Tensor:
    """(m,) density at (m, 3) points, trilinear from the scout's grid; far outside the surface beyond the box."""
    grid = (points * (2 / look.side)).flip(-1)[None, None, None]  # grid_sample wants the last axis first
    inside = F.grid_sample(
        (look.sigma - look.level)[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0, 0, 0]
    beyond = (points.abs() > look.side / 2).any(dim=-1)
    return torch.where(beyond, inside.clamp(max=-1.0), inside) + look.level
