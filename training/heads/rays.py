"""Ray casting against a triangle mesh, and solid voxels from a closed one (Embree)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

MOST_LAYERS = 40  # surfaces a column of voxels can cross; ears, hair and lips stay far below
PAST_HIT = 2e-4  # box units a ray restarts behind a hit


@dataclass(frozen=True)
class VoxelGrid:
    """`count`^3 voxels in a cube of +-`half` box units around the head frame's origin, indexed [x, y, z]."""

    count: int
    half: float

    @property
    def centres(self) -> FloatArray:
        """(count,) voxel centres along any axis."""
        return (((np.arange(self.count) + 0.5) / self.count * 2 - 1) * self.half).astype(np.float32)

    def index(self, points: FloatArray) -> IntArray:
        """(n, 3) voxels that hold points (n, 3); points outside go to the border voxel."""
        return np.clip(((points / self.half + 1) / 2 * self.count).astype(int), 0, self.count - 1)


class RayScene:
    """A triangle mesh to shoot rays at."""

    def __init__(self, vertices: FloatArray, faces: IntArray) -> None:
        self._scene = rtcore_scene.EmbreeScene()
        self._mesh = TriangleMesh(
            self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
        )

    def hits(self, origins: FloatArray, directions: FloatArray) -> dict[str, NDArray]:
        """First hits: primID (-1 for none), tfar, and the geometric normal Ng."""
        return self._scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32), output=1
        )

    def escapes(self, origins: FloatArray, directions: FloatArray) -> BoolArray:
        """(n,) whether a ray meets nothing."""
        found = self._scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32), query="OCCLUDED"
        )
        return ~found if found.dtype == bool else found < 0


def solid_voxels(scene: RayScene, grid: VoxelGrid) -> BoolArray:
    """Voxels inside a mesh, by the winding number along columns in z; open ends beyond the grid do no harm."""
    n = grid.count
    x, y = np.meshgrid(grid.centres, grid.centres, indexing="ij")
    start = -2.0  # well before any geometry, box units
    origins = np.stack([x.ravel(), y.ravel(), np.full(n * n, start, np.float32)], 1)
    forward = np.tile(np.array([[0, 0, 1]], np.float32), (n * n, 1))
    crossings = np.zeros((n * n, n + 1), np.int32)
    column, travelled = np.arange(n * n), np.zeros(n * n)
    for _ in range(MOST_LAYERS):
        from_here = origins[column]
        from_here[:, 2] += travelled[column]
        hit = scene.hits(from_here, forward[column])
        found = hit["primID"] >= 0
        if not found.any():
            break
        column = column[found]
        distance = travelled[column] + hit["tfar"][found]
        travelled[column] = distance + PAST_HIT
        layer = np.ceil((start + distance + grid.half) / (2 * grid.half) * n - 0.5).astype(int).clip(0, n)
        np.add.at(crossings, (column, layer), np.where(hit["Ng"][found][:, 2] > 0, -1, 1))
    return (np.cumsum(crossings[:, :n], axis=1) > 0).reshape(n, n, n)


def grow(solid: BoolArray, voxels: int) -> BoolArray:
    """Dilation by about a ball of that radius, as shifted ORs, which beat any filter: two crosses, then a cube."""
    for step in range(voxels):
        cross = step % 3 != 2
        grown = solid.copy()
        for axis in range(3):
            source = solid if cross else grown.copy()
            before, after = [slice(None)] * 3, [slice(None)] * 3
            before[axis], after[axis] = slice(None, -1), slice(1, None)
            grown[tuple(after)] |= source[tuple(before)]
            grown[tuple(before)] |= source[tuple(after)]
        solid = grown
    return solid


def shrink(solid: BoolArray, voxels: int) -> BoolArray:
    """Erosion by the same ball as `grow`; beyond the array all counts as solid."""
    return ~grow(~solid, voxels)


def closing(solid: BoolArray, voxels: int) -> BoolArray:
    """Morphological closing: gaps narrower than twice the radius are filled."""
    return shrink(grow(solid, voxels), voxels)


def fill_holes(solid: BoolArray) -> BoolArray:
    """Fill air with no way to the array's border."""
    air, _ = ndi.label(~solid)
    outside = np.zeros(air.max() + 1, bool)
    for axis in range(air.ndim):
        for end in (0, -1):
            outside[np.take(air, end, axis)] = True
    outside[0] = False  # the solid itself
    return ~outside[air]
