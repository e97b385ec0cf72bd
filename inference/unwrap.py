"""Lay the surface out flat: texture coordinates without overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xatlas
from numpy.typing import NDArray

from .progress import Progress
from .surface import Mesh

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

PACKING_SIZE = 1024  # texels along a side while packing
MAX_PART_FACES = 4000  # half a second, or two on a busy machine; a cancel waits for no more
PADDING = 6  # texels of PACKING_SIZE between islands: 12 at 2048, enough for the bake to pad by 8 without mixing


@dataclass(frozen=True)
class UnwrappedMesh:
    """A mesh whose vertices are split where the layout is cut.

    mesh:   the same triangles in the same places; a vertex on a seam is there once per island.
    uv:     (v, 2) in [0, 1]: u to the right and v DOWN the texture, so that texel (row, column) of a texture of t
            texels is centred at ((column + .5) / t, (row + .5) / t).
    source: (v,) which vertex of the mesh before unwrapping each vertex is.
    """

    mesh: Mesh
    uv: FloatArray
    source: IntArray


def unwrap(mesh: Mesh, progress: Progress) -> UnwrappedMesh:
    """Texture coordinates for a closed mesh.

    The sides of the head are laid out one after the other, then packed together: xatlas hears no cancel, and the time
    it takes for one side grows faster than the number of its faces.
    """
    uv_of_part, faces_of_part, source_of_part = [], [], []
    parts = sides(mesh)
    vertices = 0
    for index, part in enumerate(parts):
        progress(index / len(parts), "Unwrapping")
        used, corners = np.unique(mesh.faces[part], return_inverse=True)
        atlas = xatlas.Atlas()
        atlas.add_mesh(mesh.vertices[used].astype(np.float32), corners.reshape(-1, 3).astype(np.uint32))
        atlas.generate()
        split, faces, uv = atlas[0]
        # Laid out alone, each part has a scale of its own; in box units all have the same.
        uv_of_part.append(uv * np.array([atlas.width, atlas.height]) / atlas.texels_per_unit)
        faces_of_part.append(faces.astype(np.int64) + vertices)
        source_of_part.append(used[split])
        vertices += len(split)
    source = np.concatenate(source_of_part)
    in_order = np.argsort(np.concatenate(parts))
    packed, faces, uv = pack(np.concatenate(uv_of_part), np.concatenate(faces_of_part)[in_order])
    return UnwrappedMesh(Mesh(mesh.vertices[source[packed]], faces), uv, source[packed])


def pack(uv: FloatArray, faces: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Arrange islands, whose size is right but not their place, in the unit square.

    Returns: which vertex each new one is, faces, and uv in [0, 1].
    """
    packing = xatlas.PackOptions()
    packing.resolution = PACKING_SIZE
    packing.padding = PADDING
    atlas = xatlas.Atlas()
    atlas.add_uv_mesh(uv.astype(np.float32), faces.astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), packing)
    vertices, faces, uv = atlas[0]
    # xatlas grows the picture beyond the asked size in one direction; keep texels square.
    uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
    return vertices.astype(np.int64), faces.astype(np.int64), uv


def sides(mesh: Mesh) -> list[IntArray]:
    """Indices of the faces on each side of the head: front, back, left, right, top and bottom, large ones halved."""
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    outward = centres - (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    axis = np.abs(outward).argmax(axis=1)
    side = 2 * axis + (np.take_along_axis(outward, axis[:, None], axis=1)[:, 0] > 0)
    waiting = [np.flatnonzero(side == k) for k in range(6)]
    done: list[IntArray] = []
    while waiting:
        part = waiting.pop()
        if len(part) <= MAX_PART_FACES:
            done += [part] if len(part) else []
            continue
        longest = np.ptp(centres[part], axis=0).argmax()
        ordered = part[np.argsort(centres[part, longest])]
        waiting += [ordered[: len(part) // 2], ordered[len(part) // 2 :]]
    return done
