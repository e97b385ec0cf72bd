"""A z-buffer for pictures of heads from all around."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from inference.camera import Camera, project

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class Fragments:
    """What each pixel of a square picture sees.

    face (size, size): -1 for nothing; weights (size, size, 3) perspective-correct barycentrics;
    depth (size, size) along the optical axis, 0 for nothing.
    """

    face: IntArray
    weights: FloatArray
    depth: FloatArray


def rasterise(vertices: FloatArray, faces: IntArray, camera: Camera, size: int) -> Fragments:
    """Front faces of a mesh (head frame) in a size x size picture."""
    pixels, depth = project(vertices, camera)
    on_screen = np.concatenate([pixels * size, 1 / depth[:, None]], axis=1).astype(np.float32)
    inverse_depth = np.zeros((size, size), np.float32)
    face = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 3), np.float32)
    _fill(on_screen, faces, inverse_depth, face, weights)
    return Fragments(face, weights, np.where(face >= 0, 1 / np.maximum(inverse_depth, 1e-6), 0).astype(np.float32))


@numba.njit(cache=True, fastmath=True)
def _fill(points, faces, inverse_depth, face, weights):  # type: ignore[no-untyped-def]  # numba infers them
    """points (v, 3): pixel x, y (down) and 1 / depth, which is linear on the screen."""
    height, width = face.shape
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        x0, y0, w0 = points[a, 0], points[a, 1], points[a, 2]
        x1, y1, w1 = points[b, 0], points[b, 1], points[b, 2]
        x2, y2, w2 = points[c, 0], points[c, 1], points[c, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area >= -1e-12:  # y runs down: faces turned to the camera are clockwise
            continue
        left, right = max(0, int(np.ceil(min(x0, x1, x2) - 0.5))), min(width - 1, int(np.floor(max(x0, x1, x2) - 0.5)))
        top, bottom = max(0, int(np.ceil(min(y0, y1, y2) - 0.5))), min(height - 1, int(np.floor(max(y0, y1, y2) - 0.5)))
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                x, y = column + 0.5, row + 0.5
                u = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                v = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                s = 1 - u - v
                if u < 0 or v < 0 or s < 0:
                    continue
                nearness = u * w0 + v * w1 + s * w2
                if nearness > inverse_depth[row, column]:
                    inverse_depth[row, column] = nearness
                    face[row, column] = t
                    weights[row, column, 0] = u * w0 / nearness
                    weights[row, column, 1] = v * w1 / nearness
                    weights[row, column, 2] = s * w2 / nearness
