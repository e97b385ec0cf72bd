"""Cutting a turned, scaled rectangle out of a picture without aliasing.

Positions are continuous pixels: the centre of the first pixel is (0.5, 0.5), so a position does not shift when a
picture is scaled. Maps between pictures are (3, 3) matrices named target_from_source, for positions (x, y, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

SAMPLES_PER_PIXEL = 2  # along each axis of the output: enough to average what halving leaves over
SMALLEST_LEVEL_PX = 128  # nothing looks at a whole photo with fewer pixels than the short-range detector


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


@dataclass(frozen=True)
class Pyramid:
    """A picture and its halvings, so that looking at a large photo from afar is cheap.

    levels: (h, w) or (h, w, 3) uint8 or (h, w) float32; each the 2 x 2 means of the one before, the odd last row and
            column averaging what there is: a position on level k is that on the first divided by 2**k.
    """

    levels: tuple[NDArray, ...]

    @property
    def height(self) -> int:
        """Of the picture itself, pixels."""
        return int(self.levels[0].shape[0])

    @property
    def width(self) -> int:
        """Of the picture itself, pixels."""
        return int(self.levels[0].shape[1])


def build_pyramid(picture: NDArray) -> Pyramid:
    """Halve a picture until its longer side is at most SMALLEST_LEVEL_PX."""
    levels = [picture]
    while max(levels[-1].shape[:2]) > SMALLEST_LEVEL_PX:
        levels.append(np.asarray(Image.fromarray(levels[-1]).reduce(2)))
    return Pyramid(tuple(levels))


def resample(
    picture: Pyramid, source_from_target: NDArray, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a picture anew, each output pixel averaging the area it covers.

    source_from_target: (3, 3) affine, from positions in the output to positions in the picture.
    size:               (height, width) of the output.
    Returns: the output, (height, width[, 3]) float32 in the units of the picture, whose edge is extended outside;
             and its coverage, (height, width) in [0, 1]: the share of each pixel that lies inside the picture.
    """
    height, width = size
    shrink = math.sqrt(abs(np.linalg.det(source_from_target[:2, :2])))
    level = min(int(math.log2(max(shrink, 1.0))), len(picture.levels) - 1)
    source = picture.levels[level]
    h, w = source.shape[:2]

    y, x = np.meshgrid(_sample_positions(height), _sample_positions(width), indexing="ij")
    matrix = source_from_target.astype(np.float32)
    source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    inside = (source_x >= 0) & (source_x <= picture.width) & (source_y >= 0) & (source_y <= picture.height)

    # Of a large picture only the part that is needed is touched, and at least its nearest pixel when all is outside.
    source_x, source_y = source_x / 2**level, source_y / 2**level
    left = int(np.clip(np.floor(source_x.min()) - 1, 0, w - 1))
    top = int(np.clip(np.floor(source_y.min()) - 1, 0, h - 1))
    right = int(np.clip(np.ceil(source_x.max()) + 1, left + 1, w))
    bottom = int(np.clip(np.ceil(source_y.max()) + 1, top + 1, h))
    part = source[top:bottom, left:right].astype(np.float32)
    grid = np.stack([(source_x - left) / (right - left), (source_y - top) / (bottom - top)], axis=-1) * 2 - 1
    drawn = F.grid_sample(
        torch.from_numpy(part).reshape(*part.shape[:2], -1).permute(2, 0, 1)[None],
        torch.from_numpy(grid)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    drawn = F.avg_pool2d(drawn, SAMPLES_PER_PIXEL)[0].permute(1, 2, 0)
    coverage = F.avg_pool2d(torch.from_numpy(inside.astype(np.float32))[None, None], SAMPLES_PER_PIXEL)[0, 0]
    return drawn.reshape(height, width, *part.shape[2:]).numpy(), coverage.numpy()


def _sample_positions(size: int) -> NDArray[np.float32]:
    """Along one axis of the output, positions of the samples that are averaged."""
    return (np.arange(size * SAMPLES_PER_PIXEL, dtype=np.float32) + np.float32(0.5)) / SAMPLES_PER_PIXEL
