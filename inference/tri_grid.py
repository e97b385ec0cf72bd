"""Three stacks of feature planes around the head, and how a point of the head frame reads them.

A tri-grid (An et al. 2023, arXiv 2303.13071) is three planes, each with a few slices along its own normal:

    plane 0: columns x, rows y, slices z        plane 1: columns x, rows z, slices y
    plane 2: columns y, rows z, slices x

Index 0 lies at coordinate -box_side / 2 on every axis, so y grows with the row index of plane 0: shown as a picture,
that plane stands on its head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PlaneMerge = Literal["mean", "concat"]

PLANE_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # which of x, y, z runs along columns, rows and slices of each plane


@dataclass(frozen=True)
class TriGrid:
    """Features around one head.

    planes:   (3, channels, depth, resolution, resolution).
    box_side: side of the cube of the head frame they cover, box units; it is centred on the origin.
    """

    planes: Tensor
    box_side: float


def slice_weights(coordinate: Tensor, depth: int) -> Tensor:
    """Share of each of `depth` slices at coordinates in [-1, 1]: (..., m) to (..., depth, m).

    The slices are centres of equal cells; beyond the outermost centre the features fade to zero.
    """
    position = ((coordinate + 1.0) * depth - 1.0) / 2.0
    index = torch.arange(depth, device=coordinate.device, dtype=coordinate.dtype)
    return (1.0 - (position[..., None, :] - index[:, None]).abs()).clamp(min=0.0)


def sample_planes_apart(planes: Tensor, points: Tensor, box_side: float) -> Tensor:
    """What each of the three planes says at each point, before they are merged: (n, 3, channels, m).

    planes: (n, 3, channels, depth, resolution, resolution).
    points: (n, m, 3) head frame, box units; outside the box all features are zero.

    Equal to a trilinear 5-D grid_sample with zero padding and align_corners False. Sampling all slices in two
    dimensions and weighing them costs a fraction of it where gradients are wanted.
    """
    n, _, channels, depth, rows, columns = planes.shape
    normalised = points * (2.0 / box_side)
    features = []
    for k, (column_axis, row_axis, slice_axis) in enumerate(PLANE_AXES):
        # grid_sample wants (x, y): columns first.
        grid = torch.stack([normalised[..., column_axis], normalised[..., row_axis]], dim=-1)
        stack = planes[:, k].reshape(n, channels * depth, rows, columns)
        sampled = F.grid_sample(stack, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled.view(n, channels, depth, -1)
        weights = slice_weights(normalised[..., slice_axis], depth)  # (n, depth, m)
        features.append((sampled * weights[:, None]).sum(dim=2))
    return torch.stack(features, dim=1)


def sample_planes(planes: Tensor, points: Tensor, box_side: float, merge: PlaneMerge) -> Tensor:
    """Features of the tri-grid at points.

    planes:  (n, 3, channels, depth, resolution, resolution); many points are read fastest after `cell_by_cell`.
    points:  (n, m, 3) head frame, box units; outside the box all features are zero.
    merge:   'mean' averages the three planes, 'concat' puts them side by side.
    Returns: (n, m, channels) or (n, m, 3 * channels).
    """
    if is_cell_by_cell(planes):
        return torch.stack([look_up(*head, box_side, merge) for head in zip(planes, points, strict=True)])
    features = sample_planes_apart(planes, points, box_side)  # (n, 3, channels, m)
    merged = features.mean(dim=1) if merge == "mean" else features.flatten(1, 2)
    return merged.transpose(1, 2)


def cell_by_cell(planes: Tensor) -> Tensor:
    """The same planes (n, 3, channels, depth, resolution, resolution) with each cell's channels side by side in memory.

    For reading on a CPU, without gradients: a copy costs what some 200,000 points cost with PanoHead's sizes. Elsewhere
    the planes are returned as they are; grid_sample is what GPUs do best.
    """
    if planes.device.type != "cpu":
        return planes
    return planes.permute(0, 1, 3, 4, 5, 2).contiguous().permute(0, 1, 5, 2, 3, 4)


def is_cell_by_cell(planes: Tensor) -> bool:
    """Whether planes (n, 3, channels, depth, resolution, resolution) lie in memory as `cell_by_cell` leaves them."""
    return planes.shape[2] > 1 and planes[0].permute(0, 2, 3, 4, 1).is_contiguous()


def look_up(planes: Tensor, points: Tensor, box_side: float, merge: PlaneMerge) -> Tensor:
    """Features of one tri-grid at points, as `sample_planes`: the weighted sum of the eight cells around each of them.

    planes:  (3, channels, depth, resolution, resolution), cell by cell.
    points:  (m, 3).
    Returns: (m, channels) or (m, 3 * channels).

    grid_sample walks each channel on its own, and so reads a line of memory for every number. Here a cell is one piece
    of memory: with PanoHead's sizes this is ten times as fast, with the starter's as fast.
    """
    _, channels, depth, rows, columns = planes.shape
    normalised = (points * (2.0 / box_side)).t()  # (axis, m)
    across, across_share = neighbours(normalised, rows)  # (2, axis, m); planes are square
    along, along_share = neighbours(normalised, depth)
    if merge == "mean":
        along_share = along_share / len(PLANE_AXES)
    along = along * (rows * columns)
    first_cell = torch.arange(0, 3 * depth * rows * columns, depth * rows * columns, dtype=along.dtype)

    def corners(of_columns: Tensor, of_rows: Tensor, of_slices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(2, axis, m) each, to those of every plane's axes: (plane, slice, row, column, m) with 1 where they agree."""
        column, row, piece = (
            torch.stack([values[:, axes[place]] for axes in PLANE_AXES])
            for place, values in enumerate((of_columns, of_rows, of_slices))
        )
        return column[:, None, None], row[:, None, :, None], piece[:, :, None, None]

    column, row, piece = corners(across, across * columns, along)
    cells = (piece + first_cell[:, None, None, None, None]) + (row + column)
    column_share, row_share, piece_share = corners(across_share, across_share, along_share)
    shares = piece_share * (row_share * column_share)
    # A bag is what is summed up: the 24 cells of a point, or the 8 of each plane.
    bag = (-1, 24) if merge == "mean" else (-1, 8)
    summed = F.embedding_bag(
        cells.view(24, -1).t().reshape(bag),
        planes.permute(0, 2, 3, 4, 1).reshape(-1, channels),  # no copy
        per_sample_weights=shares.view(24, -1).t().reshape(bag),
        mode="sum",
    )
    return summed.view(len(points), -1)


def resampled(plane: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """One plane on rows and columns of its own choice, slice by slice: (depth, len(rows), len(columns), channels).

    plane:         (channels, depth, resolution, resolution), fastest after `cell_by_cell`.
    columns, rows: coordinates in [-1, 1] along the plane's axes; beyond the outermost cells features fade to zero.
    """
    cells = plane.permute(1, 2, 3, 0)
    # The shorter one first: the second has less to do then.
    for axis, coordinate in sorted(((1, rows), (2, columns)), key=lambda along: len(along[1])):
        lower, upper = (
            cells.index_select(axis, cell) * share.view((-1, 1, 1) if axis == 1 else (-1, 1))
            for cell, share in zip(*neighbours(coordinate, plane.shape[-1]), strict=True)
        )
        cells = lower + upper
    return cells


def neighbours(coordinate: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The two cells whose centres are next to coordinates in [-1, 1], and their shares: (...) to twice (2, ...).

    A cell beyond the last one is given as the last one, with share 0.
    """
    position = ((coordinate + 1.0) * cells - 1.0) / 2.0
    lower = position.floor()
    upper_share = position - lower
    index = torch.stack([lower, lower + 1.0])
    within = index.clamp(0.0, cells - 1.0)
    share = torch.stack([1.0 - upper_share, upper_share]) * (index == within)
    return within.int(), share


def plane_points(resolution: int, samples: int, box_side: float) -> Tensor:
    """Where the cells of the three planes lie: points along each cell's normal, through the whole box.

    samples: points a cell, evenly spaced along the axis of the slices.
    Returns: (3, samples, resolution, resolution, 3) head frame.
    """
    cell = ((torch.arange(resolution) + 0.5) / resolution - 0.5) * box_side
    along = ((torch.arange(samples) + 0.5) / samples - 0.5) * box_side
    points = torch.empty(3, samples, resolution, resolution, 3)
    for k, (column_axis, row_axis, slice_axis) in enumerate(PLANE_AXES):
        points[k, ..., column_axis] = cell
        points[k, ..., row_axis] = cell[:, None]
        points[k, ..., slice_axis] = along[:, None, None]
    return points


def plane_votes(points: Tensor, values: Tensor, tri_grid: TriGrid) -> Tensor:
    """Add each point's value to the cells it reads, by the weights it reads them with: the transpose of sampling.

    points:  (m, 3) head frame. values: (m,).
    Returns: (3, depth, resolution, resolution).
    """
    _, _, depth, rows, columns = tri_grid.planes.shape
    empty = tri_grid.planes.new_zeros(1, 3, 1, depth, rows, columns).requires_grad_()
    with torch.enable_grad():
        read = sample_planes_apart(empty, points[None], tri_grid.box_side)  # (1, 3, 1, m)
        (votes,) = torch.autograd.grad(read, empty, values.expand_as(read))
    return votes[0, :, 0]


def plane_means(planes: Tensor) -> Tensor:
    """For each cell of each plane, what the two other planes hold of its place, as means along the axis it lacks.

    planes: (n, 3, channels, res, res). Returns (n, 3, 2 * channels, res, res): for each plane the other two in order.
    """
    rows, columns = planes.mean(dim=-2, keepdim=True), planes.mean(dim=-1, keepdim=True)
    answers = []
    for plane, (column_axis, row_axis, _) in enumerate(PLANE_AXES):
        told = []
        for other, (other_column, _, _) in enumerate(PLANE_AXES):
            if other == plane:
                continue
            # Both share one axis: the mean of the other plane leaves it, along its columns or its rows.
            shared = ({column_axis, row_axis} & set(PLANE_AXES[other][:2])).pop()
            line = rows[:, other] if shared == other_column else columns[:, other].transpose(-1, -2)
            line = line if shared == column_axis else line.transpose(-1, -2)
            told.append(line.expand(planes[:, plane].shape))
        answers.append(torch.cat(told, dim=1))
    return torch.stack(answers, dim=1)
