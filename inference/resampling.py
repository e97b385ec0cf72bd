"""Cutting a turned, scaled rectangle out of a picture without aliasing.

Positions are continuous pixels: the centre of the first pixel is (0.5, 0.5), so a position does not shift when a
picture is scaled. Maps between pictures are (3, 3) matrices named target_from_source, for positions (x, y, 1).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

SAMPLES_PER_PIXEL = 2  # along each axis of the output: enough to average what reducing by whole numbers leaves over
BILINEAR_REACH_PX = 2  # neighbours that interpolation may touch outside the rectangle


def similarity_matrix(scale: float, angle_rad: float, centre_from: NDArray, centre_to: NDArray) -> NDArray[np.float64]:
    """(3, 3) that scales, turns by angle_rad, and moves one point (x, y) onto another.

    Turning goes from x towards y: clockwise in a picture.
    """
    cosine, sine = scale * math.cos(angle_rad), scale * math.sin(angle_rad)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.asarray(centre_to) - linear @ np.asarray(centre_from)
    return matrix


def window_matrix(left: float, top: float, right: float, bottom: float, size: int) -> NDArray[np.float64]:
    """(3, 3) source_from_target of an upright window stretched onto a size x size picture."""
    return np.array([[(right - left) / size, 0.0, left], [0.0, (bottom - top) / size, top], [0.0, 0.0, 1.0]])


def transform_points(matrix: NDArray, points: NDArray) -> NDArray[np.float64]:
    """(n, 2) positions through a (3, 3) map without perspective."""
    return np.asarray(points, dtype=np.float64) @ matrix[:2, :2].T + matrix[:2, 2]


def resample(
    picture: NDArray, source_from_target: NDArray, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a picture anew, each output pixel averaging the area it covers.

    picture:            (h, w) or (h, w, 3), uint8 or float32.
    source_from_target: (3, 3) affine, from positions in the output to positions in `picture`.
    size:               (height, width) of the output.
    Returns: the output, float32 in the units of `picture`, the edge's colour extended outside of it;
             and its coverage, (height, width) in [0, 1]: the share of each pixel that lies inside `picture`.
    """
    height, width = size
    h, w = picture.shape[:2]
    corners = transform_points(source_from_target, np.array([[0, 0], [width, 0], [0, height], [width, height]]))
    shrink = math.sqrt(abs(np.linalg.det(source_from_target[:2, :2])))
    factor = max(1, int(shrink))
    reach = BILINEAR_REACH_PX * factor
    # Of a large photo only the part that is needed is touched, and at least its nearest pixel when all is outside.
    left, top = (np.clip(np.floor(corners.min(0)) - reach, 0, [w - 1, h - 1])).astype(int)
    right, bottom = (np.clip(np.ceil(corners.max(0)) + reach, [left + 1, top + 1], [w, h])).astype(int)
    part = np.asarray(picture[top:bottom, left:right])
    reduced = np.asarray(Image.fromarray(part).reduce(factor)) if factor > 1 else part
    pixels = torch.from_numpy(reduced.astype(np.float32)).reshape(*reduced.shape[:2], -1).permute(2, 0, 1)[None]

    fine_from_target = SAMPLES_PER_PIXEL
    y, x = np.meshgrid(
        (np.arange(height * fine_from_target) + 0.5) / fine_from_target,
        (np.arange(width * fine_from_target) + 0.5) / fine_from_target,
        indexing="ij",
    )
    source_x = source_from_target[0, 0] * x + source_from_target[0, 1] * y + source_from_target[0, 2]
    source_y = source_from_target[1, 0] * x + source_from_target[1, 1] * y + source_from_target[1, 2]
    inside = (source_x >= 0) & (source_x <= w) & (source_y >= 0) & (source_y <= h)
    # The last reduced pixel may stand for fewer source pixels; positions count whole ones.
    grid = np.stack(
        [
            (source_x - left) / (factor * reduced.shape[1]) * 2 - 1,
            (source_y - top) / (factor * reduced.shape[0]) * 2 - 1,
        ],
        axis=-1,
    )
    drawn = F.grid_sample(
        pixels, torch.from_numpy(grid.astype(np.float32))[None], mode="bilinear", padding_mode="border",
        align_corners=False,
    )  # fmt: skip
    drawn = F.avg_pool2d(drawn, fine_from_target)[0].permute(1, 2, 0)
    coverage = F.avg_pool2d(torch.from_numpy(inside.astype(np.float32))[None, None], fine_from_target)[0, 0]
    return drawn.reshape(height, width, *picture.shape[2:]).numpy(), coverage.numpy()
