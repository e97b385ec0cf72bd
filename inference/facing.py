"""How plainly a camera sees each part of a surface: what decides which picture paints it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from .camera import Camera, project
from .raster import rasterise_view
from .surface import Mesh, vertex_normals

FloatArray = NDArray[np.floating]

DEPTH_SIZE = 1024  # px of the depth picture: .3 mm on the head
OUTLINE_MARGIN = 3  # px of DEPTH_SIZE around nearer parts of the head: the fitted shape is not better known, 1 mm
DEPTH_SLACK = 0.02  # box units, 1 cm: what lies less deep behind an outline is the same part of the head
UNSEEN_COSINE = 0.12  # cosine of the angle between normal and ray: below, a pixel smears over 4 mm and more
PLAIN_COSINE = 0.35  # from here on a picture is trusted fully
WRINKLE_WIDTH = 0.012  # box units, 6 mm: normals are averaged over it, so that lids and nostrils hide nothing
FOLD_WIDTH = 0.012  # box units: narrower hidden strips are painted from the picture, smeared but of its colours
FEATHER_WIDTH = 0.012  # box units, 6 mm: over which trust rises from a border


class Facing:
    """A surface that cameras look at.

    mesh:    welded, so that nothing computed on the surface knows of seams.
    normals: (v, 3) unit, averaged over wrinkles.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._neighbours = _neighbours(mesh)
        counts = np.asarray(self._neighbours.sum(axis=1)).ravel()
        self._average = sparse.diags(1 / np.maximum(counts, 1)) @ self._neighbours
        self._ring = np.linalg.norm(mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]], axis=1).mean()
        normals = vertex_normals(mesh)
        for _ in self._rings(WRINKLE_WIDTH):
            normals = self._average @ normals
        self.normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)

    def cosine(self, camera: Camera) -> FloatArray:
        """(v,) cosine of the angle between the normal, averaged over wrinkles, and the ray to the camera."""
        towards = camera.position - self.mesh.vertices
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        return np.einsum("ij,ij->i", self.normals, towards)

    def weight(self, camera: Camera, depth_map: NDArray[np.float32]) -> FloatArray:
        """(v,) how plainly a camera sees each vertex, from 0 to 1.

        depth_map: (s, s) what the camera sees of the mesh, box units along the optical axis, infinite beside it.
        It is 0 on every vertex of a face that is hidden in part, and rises over FEATHER_WIDTH from there.
        """
        size = len(depth_map)
        nearest = ndimage.minimum_filter(depth_map, size=2 * OUTLINE_MARGIN + 1, mode="constant", cval=np.inf)
        picture, depth = project(self.mesh.vertices, camera)
        column, row = np.clip((picture * size).astype(np.int64), 0, size - 1).T
        cosine = self.cosine(camera)
        in_picture = ((picture >= 0) & (picture <= 1)).all(axis=1)
        seen = in_picture & (depth <= nearest[row, column] + DEPTH_SLACK) & (cosine > UNSEEN_COSINE)
        # Grow and shrink: strips that are hidden in a narrow fold take the picture's pixels from beside them.
        for _ in self._rings(FOLD_WIDTH / 2):
            seen = seen | (self._neighbours @ seen > 0)
        for _ in self._rings(FOLD_WIDTH / 2):
            seen = self._inner(seen)

        weight = np.where(self._inner(seen), smoothstep(cosine, UNSEEN_COSINE, PLAIN_COSINE), 0.0)
        return self.faded(weight, FEATHER_WIDTH)

    def faded(self, weight: FloatArray, width: float) -> FloatArray:
        """(v,) weights that rise over about `width`, box units, from where they are 0, and are nowhere more."""
        # Averaging spreads zeros inwards; the minimum keeps trust from growing outwards.
        for _ in self._rings(width):
            weight = np.minimum(weight, self._average @ weight)
        return weight

    def averaged(self, values: FloatArray, width: float) -> FloatArray:
        """Values per vertex (v, ...) averaged over neighbours within about `width`, box units."""
        for _ in self._rings(width):
            values = self._average @ values
        return values

    def _rings(self, width: float) -> range:
        """One step for each ring of vertices in `width`, box units."""
        return range(max(1, round(width / self._ring)))

    def _inner(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of the chosen vertices (v,) whose neighbours are all chosen."""
        return chosen & ~(self._neighbours @ ~chosen > 0)


def depth_map_of(mesh: Mesh, camera: Camera) -> NDArray[np.float32]:
    """(DEPTH_SIZE, DEPTH_SIZE) what a camera sees of a mesh, as `Facing.weight` takes it."""
    return rasterise_view(mesh.vertices, mesh.faces, camera, DEPTH_SIZE).depth


def smoothstep(values: FloatArray, low: float, high: float) -> FloatArray:
    """0 up to `low`, 1 from `high` on, and smooth between."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _neighbours(mesh: Mesh) -> sparse.csr_matrix:
    """(v, v) with a 1 where two vertices share a side."""
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
    pairs = (np.concatenate([start, end]), np.concatenate([end, start]))
    matrix = sparse.csr_matrix((np.ones(len(pairs[0])), pairs), shape=[len(mesh.vertices)] * 2)
    matrix.data[:] = 1.0
    return matrix
