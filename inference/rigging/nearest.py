"""The nearest point of a triangle mesh, for many points at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..surface import Mesh, vertex_normals

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

CANDIDATES = 10  # faces with the nearest middles that are looked at: enough where faces are of similar size


@dataclass(frozen=True)
class Nearest:
    """For n points: points (n, 3) on the mesh, face (n,), barycentric (n, 3), smooth unit normal (n, 3) there."""

    points: FloatArray
    face: IntArray
    barycentric: FloatArray
    normals: FloatArray

    def signed_distance(self, of: FloatArray) -> FloatArray:
        """(n,) distance of the points asked for, (n, 3), from the mesh; negative inside."""
        offset = of - self.points
        side = np.where(np.einsum("ij,ij->i", offset, self.normals) < 0, -1.0, 1.0)
        return side * np.linalg.norm(offset, axis=1)


class NearestPoints:
    """Answers for one mesh, of `faces` (f, 3)."""

    @property
    def faces(self) -> IntArray:
        """As of the mesh."""
        return self._mesh.faces

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._normals = vertex_normals(mesh)
        self._tree = cKDTree(mesh.vertices[mesh.faces].mean(axis=1))

    def __call__(self, points: FloatArray) -> Nearest:
        """points: (n, 3). The nearest point of the CANDIDATES faces whose middles are nearest."""
        count = min(CANDIDATES, len(self._mesh.faces))
        _, candidates = self._tree.query(points, k=count)
        candidates = candidates.reshape(len(points), count)
        corners = self._mesh.vertices[self._mesh.faces[candidates]]
        weights = closest_barycentric(points[:, None], corners)
        on_face = np.einsum("nck,nckd->ncd", weights, corners)
        best = np.linalg.norm(on_face - points[:, None], axis=2).argmin(axis=1)
        row = np.arange(len(points))
        face, barycentric = candidates[row, best], weights[row, best]
        normals = np.einsum("nk,nkd->nd", barycentric, self._normals[self._mesh.faces[face]])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return Nearest(on_face[row, best], face, barycentric, normals)


def closest_barycentric(points: FloatArray, corners: FloatArray) -> FloatArray:
    """(..., 3) weights of the point of each triangle nearest to a point.

    After Ericson, Real-Time Collision Detection, 2005, section 5.1.5.
    points: (..., 3), corners: (..., 3, 3); both broadcast.
    """
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    ab, ac, ap = b - a, c - a, points - a
    bp, cp = points - b, points - c

    def dot(x: FloatArray, y: FloatArray) -> FloatArray:
        return np.einsum("...i,...i->...", x, y)

    d1, d2, d3, d4, d5, d6 = dot(ab, ap), dot(ac, ap), dot(ab, bp), dot(ac, bp), dot(ab, cp), dot(ac, cp)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    tiny = 1e-30
    inner = np.stack([va, vb, vc], axis=-1) / np.maximum(va + vb + vc, tiny)[..., None]
    along_ab = d1 / np.where(np.abs(d1 - d3) > tiny, d1 - d3, 1.0)
    along_ac = d2 / np.where(np.abs(d2 - d6) > tiny, d2 - d6, 1.0)
    towards = (d4 - d3) + (d5 - d6)
    along_bc = (d4 - d3) / np.where(np.abs(towards) > tiny, towards, 1.0)
    zero, one = np.zeros_like(d1), np.ones_like(d1)
    regions = [
        ((d1 <= 0) & (d2 <= 0), (one, zero, zero)),
        ((d3 >= 0) & (d4 <= d3), (zero, one, zero)),
        ((d6 >= 0) & (d5 <= d6), (zero, zero, one)),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), (1 - along_ab, along_ab, zero)),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), (1 - along_ac, zero, along_ac)),
        ((va <= 0) & (d4 >= d3) & (d5 >= d6), (zero, 1 - along_bc, along_bc)),
    ]
    weights = inner
    for where, value in reversed(regions):
        weights = np.where(where[..., None], np.stack(value, axis=-1), weights)
    return weights
