"""A mesh on its way to the worker: binary PLY, which needs nothing but numpy to write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEADER = """ply
format binary_little_endian 1.0
element vertex {vertices}
property double x
property double y
property double z
property double s
property double t
element face {faces}
property list uchar int vertex_indices
end_header
"""


def write_ply(path: Path, points: NDArray[np.floating], corners: NDArray[np.integer], uv: NDArray[np.floating]) -> None:
    """Write triangles with texture coordinates.

    points:  (v, 3). corners: (3 f,) point of each triangle's corners, one triangle after the other.
    uv:      (3 f, 2) of each corner, v running up. A point is written once for each coordinate it has.
    """
    rows = np.column_stack([corners.astype(np.float64), uv.astype(np.float64)])
    split, index = np.unique(rows, axis=0, return_inverse=True)
    vertices = np.column_stack([points[split[:, 0].astype(np.int64)], split[:, 1:]]).astype("<f8")
    triangles = np.empty(len(corners) // 3, dtype=[("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"] = 3
    triangles["corners"] = index.reshape(-1, 3)
    header = HEADER.format(vertices=len(vertices), faces=len(triangles))
    path.write_bytes(header.encode("ascii") + vertices.tobytes() + triangles.tobytes())
