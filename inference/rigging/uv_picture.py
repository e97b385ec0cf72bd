"""Pictures in the template's texture coordinates, painted by what lies where on the head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..bake import fill_uncovered
from ..raster import Fragments, fragment_chunks
from ..surface import METRES_PER_UNIT
from ..template import RigTemplate, triangles

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

NOISE_CELLS = 32  # of the table, along each axis; it repeats beyond


def painted(
    template: RigTemplate, parts: tuple[int, ...], side: int, shade: Callable[[Fragments, IntArray], FloatArray]
) -> NDArray[np.uint8]:
    """(side, side, 3) colours of some parts in their texture coordinates, filled beyond the islands.

    shade: gives colours (n, 3) in [0, 1] of fragments, whose faces are (f, 3) indices of the template's vertices.
    """
    chosen = np.isin(template.part, parts)
    faces, uv_faces = triangles(template.faces[chosen]), triangles(template.uv_faces[chosen])
    picture = np.zeros((side, side, 3), np.uint8)
    covered = np.zeros((side, side), bool)
    for _, cover in fragment_chunks(template.uv * side, uv_faces, (side, side)):
        picture[cover.row, cover.column] = np.rint(np.clip(shade(cover, faces), 0, 1) * 255)
        covered[cover.row, cover.column] = True
    return fill_uncovered(picture, covered)


def sampled(template: RigTemplate, picture: NDArray[np.uint8], parts: tuple[int, ...]) -> FloatArray:
    """(v, 3) colours in [0, 1] of a picture at the vertices of some parts; 0 elsewhere.

    Of a vertex on a seam, the place in one of its islands counts.
    """
    chosen = np.isin(template.part, parts)
    vertex, first = np.unique(template.faces[chosen], return_index=True)
    place = template.uv[template.uv_faces[chosen].ravel()[first]] * len(picture)
    column, row = np.clip(place.astype(np.int64), 0, len(picture) - 1).T
    colour = np.zeros((len(template.vertices), 3))
    colour[vertex] = picture[row, column] / 255
    return colour


def noise(points: FloatArray, grain_mm: float, seed: int) -> FloatArray:
    """(n,) in [0, 1], the same for the same place, at points (n, 3) in box units; it varies over `grain_mm`."""
    table = np.random.default_rng(seed).random((NOISE_CELLS,) * 3)
    place = points * (METRES_PER_UNIT * 1000 / grain_mm)
    return ndimage.map_coordinates(table, place.T, order=1, mode="grid-wrap")
