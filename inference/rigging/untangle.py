"""Faces that pass through each other or lie over their neighbours are brought apart again.

Around them, what the fit has added to the template's mean head is evened out, as far as it takes: the mean head has no
such faces, and an even displacement makes none. Mostly these are lips, which a scan shows as one. Where upper and lower
lip have come too far to be evened out each on its own, both follow one map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..sparse_systems import factorised, stiffness_and_area
from ..template import MOUTH, RigTemplate, triangles
from .intersections import intersecting_pairs, turned_over

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

RINGS = (1, 2, 3, 4, 6, 8)  # of faces around, one round after the other
COTANGENTS = (0.05, 20.0)  # bounds, as in `surface_fit`


@dataclass(frozen=True)
class Tangles:
    """pairs (n, 2) of triangles that pass through each other and do not in the template; turned (m,) turned over."""

    pairs: IntArray
    turned: IntArray

    @property
    def count(self) -> int:
        """How many there are of both."""
        return len(self.pairs) + len(self.turned)

    @property
    def faces(self) -> IntArray:
        """The triangles concerned, each once."""
        return np.unique(np.concatenate([self.pairs.ravel(), self.turned]))


class TangleFinder:
    """Looks for what a bent template has tangled in skin and mouth that the template itself has not."""

    def __init__(self, template: RigTemplate) -> None:
        self.faces = triangles(template.faces[template.part <= MOUTH])
        self._rest = template.vertices
        self._known = self._keys(intersecting_pairs(template.vertices, self.faces))

    def find(self, vertices: FloatArray) -> Tangles:
        """Tangles of a bent template with vertices (v, 3)."""
        pairs = intersecting_pairs(vertices, self.faces)
        pairs = pairs[~np.isin(self._keys(pairs), self._known)]
        return Tangles(pairs, np.flatnonzero(turned_over(vertices, self._rest, self.faces)))

    def _keys(self, pairs: IntArray) -> IntArray:
        return pairs[:, 0] * len(self.faces) + pairs[:, 1]


def untangled(
    finder: TangleFinder, mean: FloatArray, vertices: FloatArray, finishes: Sequence[Callable[[FloatArray], FloatArray]]
) -> FloatArray:
    """(v, 3) vertices with as few tangles as can be had; the same where there were none.

    mean:     (v, 3) the template's mean head, in place.
    finishes: what is done to evened vertices (v, 3) in each round; the second only if the first does not do, and so on.
              Evening out parts or crosses what does not hang together, such as lips.
    """
    tangles = finder.find(vertices)
    if not tangles.count:
        return vertices
    count = int(finder.faces.max()) + 1
    stiffness = stiffness_and_area(mean[:count], finder.faces, *COTANGENTS)[0].tocsr()
    best, fewest = vertices, tangles.count
    for finished in finishes:
        working, found = vertices, tangles
        for rings in RINGS:
            region = _rings_away(stiffness, finder.faces[found.faces], rings) <= rings
            working = finished(_evened(stiffness, region, mean, working))
            found = finder.find(working)
            if found.count < fewest:
                best, fewest = working, found.count
            if not found.count:
                return best
    for rings in RINGS:
        working = _as_one(_rings_away(stiffness, finder.faces[tangles.faces], 2 * rings) / rings, mean, vertices)
        found = finder.find(working)
        if found.count < fewest:
            best, fewest = working, found.count
        if not found.count:
            break
    return best


def _rings_away(graph: sparse.csr_matrix, faces: IntArray, most: int) -> IntArray:
    """(count,) how many sides vertices are away from those of faces (n, 3); most + 1 where it is more than most."""
    away = np.full(graph.shape[0], most + 1)
    away[faces] = 0
    joined = abs(graph)
    for ring in range(1, most + 1):
        reached = joined @ (away < ring).astype(float) > 0
        away[reached & (away > ring)] = ring
    return away


def _evened(
    stiffness: sparse.csr_matrix, region: NDArray[np.bool_], mean: FloatArray, vertices: FloatArray
) -> FloatArray:
    """(v, 3) vertices whose displacement from the mean head is harmonic within a region, and stays around it."""
    free, fixed = np.flatnonzero(region), np.flatnonzero(~region)
    displacement = (vertices - mean)[: len(region)]
    rows = stiffness[free]
    inner = factorised(rows[:, free].tocsc()).solve(-(rows[:, fixed] @ displacement[fixed]))
    even = vertices.copy()
    even[free] = mean[free] + inner
    return even


def _as_one(away: FloatArray, mean: FloatArray, vertices: FloatArray) -> FloatArray:
    """(v, 3) vertices near the tangles taken from the mean head by one affine map, so that none is tangled there.

    away: (count,) up to 1 all of a vertex is, beyond 2 nothing.
    """
    share = np.clip(2.0 - away, 0.0, 1.0)[:, None]
    near = np.flatnonzero(share)
    corners = np.column_stack([mean[near], np.ones(len(near))])
    mapped = corners @ np.linalg.lstsq(corners, vertices[near], rcond=None)[0]
    joined = vertices.copy()
    joined[near] += share[near] * (mapped - vertices[near])
    return joined
