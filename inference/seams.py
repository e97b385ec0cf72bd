"""Where a head is cut so that it can be laid flat: behind the ears, at the back of the head, around the neck's cap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from .surface import Mesh, vertex_normals

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

BEHIND_EARS_Z = -0.07  # head frame, box units, at the ears' height and below
LEAN_TO_CROWN = 0.25  # above the eyes the seam comes forward by this much of each unit up: two even halves
NORMAL_PULL = 0.03  # box units that the seam gives way so as to run along the back of an ear, out of sight
NORMAL_BLUR = 0.01  # box units over which normals are evened out for that
INNER_SHARE = (0.25, 0.75)  # of the mesh's depth and width: a seam stays within, whatever the mesh is
SEAM_BAND = 0.015  # box units to either side within which a seam may take the shortest way
CUT_UNITS = 100  # whole numbers to the mean length of a side, in which ways are compared
FLAT_HEIGHT = 1e-3  # of the mesh's height: a cap's corners lie no higher
LEAST_REGION = 0.01  # of the mesh's area: smaller pieces go to a neighbour
NOSE = np.array([0.0, -0.08, 0.2])  # head frame, box units, about
FACE_REACH = 0.16  # box units around the nose: brows, cheeks, mouth and chin lie within
FACE_DETOUR = 20.0  # a cut takes a way so many times longer so as not to cross the face
FRONT, LEFT, RIGHT, CAP = range(4)
SMOOTHING_PASSES = 100


@dataclass(frozen=True)
class Sides:
    """The sides at which two faces meet; n of them.

    face:   (n, 2) the two faces.
    corner: (n, 2, 2) for either face, the corners (3 * face + 0, 1 or 2) at the first and at the second end.
    vertex: (n, 2) the ends.
    length: (n,) box units.
    """

    face: IntArray
    corner: IntArray
    vertex: IntArray
    length: FloatArray

    @classmethod
    def of(cls, mesh: Mesh) -> Sides:
        start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
        key = np.minimum(start, end) * len(mesh.vertices) + np.maximum(start, end)
        order = np.argsort(key, kind="stable")
        pair = np.flatnonzero(key[order][1:] == key[order][:-1])
        here, there = order[pair], order[pair + 1]
        here_end, there_end = (corner - corner % 3 + (corner + 1) % 3 for corner in (here, there))
        # Faces that wind alike walk a shared side in opposite directions.
        corner = np.stack([np.stack([here, here_end], axis=1), np.stack([there_end, there], axis=1)], axis=1)
        vertex = np.stack([start[here], end[here]], axis=1)
        length = np.linalg.norm(mesh.vertices[vertex[:, 0]] - mesh.vertices[vertex[:, 1]], axis=1)
        return cls(np.stack([here // 3, there // 3], axis=1), corner, vertex, length)

    def inside(self, part: IntArray, faces: int) -> Sides:
        """Those between two faces of `part`, with faces and corners counted within it. faces: of the mesh."""
        place = np.full(faces, -1)
        place[part] = np.arange(len(part))
        at = np.flatnonzero((place[self.face] >= 0).all(axis=1))
        face = place[self.face[at]]
        corner = 3 * face[..., None] + self.corner[at] % 3
        return Sides(face, corner, self.vertex[at], self.length[at])


def head_regions(mesh: Mesh, sides: Sides) -> IntArray:
    """(f,) which region each face is in, counted from 0.

    The front, the two halves of the back, the neck's cap, and whatever large pieces lie apart; each is connected.
    """
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    inner = low + np.outer(INNER_SHARE, high - low)
    seam_z = np.clip(BEHIND_EARS_Z + LEAN_TO_CROWN * np.maximum(centres[:, 1], 0.0), inner[0, 2], inner[1, 2])
    before_seam = centres[:, 2] - seam_z + NORMAL_PULL * _soft_normals(mesh)[:, 2]
    left_of_seam = centres[:, 0] - np.clip(0.0, inner[0, 0], inner[1, 0])
    labels = np.full(len(mesh.faces), FRONT)
    cap = neck_cap(mesh, sides)
    around = np.setdiff1d(np.arange(len(mesh.faces)), cap)
    front = straight_cut(before_seam[around], sides.inside(around, len(mesh.faces)))
    back = around[~front]
    left = straight_cut(left_of_seam[back], sides.inside(back, len(mesh.faces)))
    labels[back] = np.where(left, LEFT, RIGHT)
    labels[around] = shorten_borders(labels[around], sides.inside(around, len(mesh.faces)))
    labels[cap] = CAP
    area = face_areas(mesh)
    return connected_regions(labels, area, sides, LEAST_REGION * area.sum())


def straight_cut(height: FloatArray, sides: Sides) -> BoolArray:
    """(f,) which faces lie above the shortest cut along the level 0 of a height (f,), box units, over the faces.

    The cut stays within SEAM_BAND of that level; it is the least that parts what is higher from what is lower (Boykov
    and Kolmogorov, "Computing geodesics and minimal surfaces via graph cuts", ICCV 2003).
    """
    free = np.flatnonzero(np.abs(height) < SEAM_BAND)
    above = height > 0
    place = np.full(len(height), -1)
    place[free] = np.arange(len(free))
    at = place[sides.face]
    source, sink = len(free), len(free) + 1
    # What lies outside the band is one with the source above, and with the sink below.
    ends = np.where(at >= 0, at, np.where(above[sides.face], source, sink))
    crossing = np.flatnonzero((at >= 0).any(axis=1) & (ends[:, 0] != ends[:, 1]))
    if len(free) == 0 or len(crossing) == 0:
        return above
    a, b = ends[crossing].T
    units = np.maximum(np.rint(sides.length[crossing] / sides.length.mean() * CUT_UNITS), 1).astype(np.int64)
    capacity = sparse.csr_matrix(
        (np.concatenate([units, units]), (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(len(free) + 2,) * 2
    ).astype(np.int32)
    left_over = capacity - csgraph.maximum_flow(capacity, source, sink).flow
    left_over.data = np.maximum(left_over.data, 0)
    left_over.eliminate_zeros()
    reached = csgraph.breadth_first_order(left_over, source, return_predecessors=False)
    above[free] = np.isin(np.arange(len(free)), reached)
    return above


def neck_cap(mesh: Mesh, sides: Sides) -> IntArray:
    """(n,) faces of the flat cap at the bottom, in one piece; none where the mesh does not end flat."""
    corners = mesh.vertices[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    low, high = mesh.vertices[:, 1].min(), mesh.vertices[:, 1].max()
    at = np.flatnonzero((corners[..., 1].max(axis=1) < low + FLAT_HEIGHT * (high - low)) & (cross[:, 1] < 0))
    if len(at) == 0:
        return at
    piece = pieces(len(at), sides.inside(at, len(mesh.faces)).face)
    return at[piece == np.bincount(piece, -cross[at, 1]).argmax()]


def connected_regions(labels: IntArray, area: FloatArray, sides: Sides, least_area: float) -> IntArray:
    """(f,) regions, counted from 0: the connected pieces of labels (f,).

    Those below `least_area` have gone to the neighbour they have the longest border with; what touches none remains.
    """
    while True:
        alike = labels[sides.face[:, 0]] == labels[sides.face[:, 1]]
        regions = pieces(len(labels), sides.face[alike])
        size = np.bincount(regions, area)
        a, b = regions[sides.face[~alike]].T
        touching = sparse.csr_matrix(
            (np.tile(sides.length[~alike], 2), (np.r_[a, b], np.r_[b, a])), shape=(len(size), len(size))
        )
        small = np.flatnonzero((size < least_area) & (np.diff(touching.indptr) > 0))
        if len(small) == 0:
            return regions
        # One after the other, the smallest first: two that touch must not change places for ever.
        smallest = small[size[small].argmin()]
        row = touching[[smallest]]
        labels = regions.copy()
        labels[regions == smallest] = row.indices[row.data.argmax()]


def cut_open(mesh: Mesh, part: IntArray, sides: Sides) -> tuple[IntArray, IntArray]:
    """A connected part of a mesh as a disc: cut along short ways between its borders and around its handles.

    part:    (n,) faces, not all of a closed surface.
    sides:   those inside the part, as `Sides.inside` gives them.
    Returns: (n, 3) the part's faces with vertices counted from 0, and (v,) which vertex of the mesh each is.

    The ways are the shortest there are, away from the face, each made of two that come from the border: a greedy system
    of arcs (Erickson and Whittlesey, "Greedy optimal homotopy and homology generators", SODA 2005).
    """
    if len(sides.face) == 0:
        return sewn(mesh, part, sides.corner)
    used, vertex = np.unique(sides.vertex, return_inverse=True)
    vertex = vertex.reshape(-1, 2)
    border = np.isin(used, _open_ends(mesh, part, sides))
    middle = mesh.vertices[sides.vertex].mean(axis=1)
    on_face = np.exp(-(np.linalg.norm(middle - NOSE, axis=1) ** 2) / FACE_REACH**2)
    cost = np.maximum(sides.length, 1e-9) * (1 + FACE_DETOUR * on_face)
    graph = sparse.csr_matrix((cost, (vertex[:, 0], vertex[:, 1])), shape=(len(used), len(used)))
    distance, before, _ = csgraph.dijkstra(
        graph, directed=False, indices=np.flatnonzero(border), min_only=True, return_predecessors=True
    )
    in_forest = (before[vertex[:, 0]] == vertex[:, 1]) | (before[vertex[:, 1]] == vertex[:, 0])
    # The faces hang together across sides the forest does not use, the remotest first; the rest close the arcs.
    free = np.flatnonzero(~in_forest)
    arc_cost = distance[vertex].sum(axis=1) + cost
    ranked = free[np.argsort(-arc_cost[free], kind="stable")]
    tree = csgraph.minimum_spanning_tree(
        sparse.csr_matrix((np.arange(1.0, len(ranked) + 1), sides.face[ranked].T), shape=(len(part), len(part)))
    )
    crossed = ranked[tree.data.astype(np.int64) - 1]
    closing = np.setdiff1d(free, crossed)

    is_cut = np.zeros(len(sides.face), dtype=bool)
    is_cut[closing] = True
    towards_border = np.zeros(len(used), dtype=bool)
    walk = vertex[closing].ravel()
    while len(walk):
        towards_border[walk] = True
        walk = np.unique(before[walk])
        walk = walk[(walk >= 0)]
        walk = walk[~towards_border[walk]]
    is_cut |= (before[vertex[:, 0]] == vertex[:, 1]) & towards_border[vertex[:, 0]]
    is_cut |= (before[vertex[:, 1]] == vertex[:, 0]) & towards_border[vertex[:, 1]]

    return sewn(mesh, part, sides.corner[~is_cut])


def sewn(mesh: Mesh, part: IntArray, corner: IntArray) -> tuple[IntArray, IntArray]:
    """The faces of a part, sewn together along some sides only.

    part:    (n,) faces.
    corner:  (k, 2, 2) of these sides, as in `Sides`, counted within the part.
    Returns: (n, 3) the part's faces with vertices counted from 0, and (v,) which vertex of the mesh each is.
    """
    corner_vertex = mesh.faces[part].ravel()
    vertex = pieces(len(corner_vertex), corner.transpose(0, 2, 1).reshape(-1, 2))
    source = np.zeros(vertex.max() + 1, dtype=np.int64)
    source[vertex] = corner_vertex
    return vertex.reshape(-1, 3), source


def halves(mesh: Mesh, part: IntArray, sides: Sides) -> list[IntArray]:
    """Two or more connected parts of a part, of at least two faces, that would not lie flat in one.

    sides: those inside the part. The face and what surrounds it are parted from what is farther away; parts without
    the face are halved across their longest extent.
    """
    centres = mesh.vertices[mesh.faces[part]].mean(axis=1)
    area = face_areas(mesh)[part]
    from_nose = np.linalg.norm(centres - NOSE, axis=1)
    height = centres[:, np.ptp(centres, axis=0).argmax()]
    if has_face(mesh, part) and from_nose.max() > FACE_REACH:
        height = np.maximum(from_nose, FACE_REACH)
    order = np.argsort(height, kind="stable")
    middle = np.searchsorted(np.cumsum(area[order]), area.sum() / 2)
    upper = height > height[order[min(middle, len(order) - 1)]]
    if upper.all() or not upper.any():
        upper = np.isin(np.arange(len(part)), order[len(order) // 2 :])
    labels = upper.astype(np.int64)
    shorter = shorten_borders(labels, sides)
    if np.ptp(shorter) > 0:  # of few faces, one side may have gone over whole
        labels = shorter
    regions = connected_regions(labels, area, sides, LEAST_REGION * area.sum())
    if regions.max() == 0:
        regions = connected_regions(labels, area, sides, 0.0)
    return [part[regions == region] for region in range(regions.max() + 1)]


def has_face(mesh: Mesh, part: IntArray) -> bool:
    """Whether the face nearest to the nose is one of (n,) these."""
    from_nose = np.linalg.norm(mesh.vertices[mesh.faces].mean(axis=1) - NOSE, axis=1)
    return bool((part == from_nose.argmin()).any())


def pieces(count: int, pairs: IntArray) -> IntArray:
    """(count,) which connected piece each thing is in, counted from 0, where (n, 2) pairs of them are joined."""
    graph = sparse.coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def face_areas(mesh: Mesh) -> FloatArray:
    """(f,) square box units."""
    corners = mesh.vertices[mesh.faces]
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


def _open_ends(mesh: Mesh, part: IntArray, sides: Sides) -> IntArray:
    """Vertices of the mesh on the border of a part."""
    is_open = np.ones(3 * len(part), dtype=bool)
    # A side belongs to the corner it starts from, which is the first end for one face and the second for the other.
    is_open[sides.corner[:, 0, 0]] = False
    is_open[sides.corner[:, 1, 1]] = False
    faces = mesh.faces[part]
    return np.unique(np.stack([faces.ravel()[is_open], np.roll(faces, -1, axis=1).ravel()[is_open]]))


def _soft_normals(mesh: Mesh) -> FloatArray:
    """(f, 3) normals evened out over NORMAL_BLUR."""
    normals = vertex_normals(mesh)
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
    count = len(mesh.vertices)
    touching = sparse.csr_matrix((np.ones(len(start)), (start, end)), shape=(count, count))
    mean = sparse.diags(1 / np.maximum(np.asarray(touching.sum(axis=1)).ravel(), 1)) @ touching
    length = np.linalg.norm(mesh.vertices[start] - mesh.vertices[end], axis=1).mean()
    # Random steps of one side go as far as the root of their number.
    for _ in range(int(np.ceil((NORMAL_BLUR / length) ** 2))):
        normals = (normals + mean @ normals) / 2
    return normals[mesh.faces].mean(axis=1)


def shorten_borders(labels: IntArray, sides: Sides) -> IntArray:
    """Labels (f,) where faces went over to a neighbour's label as long as that made the borders shorter."""
    labels = labels.copy()
    a, b = np.concatenate([sides.face, sides.face[:, ::-1]]).T
    length = np.tile(sides.length, 2)
    for _ in range(SMOOTHING_PASSES):
        other = labels[a] != labels[b]
        own = np.bincount(a[~other], length[~other], len(labels))
        # A face has three sides: a label is worth the lengths of up to three of them.
        kinds = int(labels.max()) + 1
        worth = sparse.csr_matrix((length[other], (a[other], labels[b[other]])), shape=(len(labels), kinds))
        at_border = np.flatnonzero(np.diff(worth.indptr))
        if len(at_border) == 0:
            break
        gain = np.zeros(len(labels))
        gain[at_border] = worth[at_border].max(axis=1).toarray().ravel() - own[at_border]
        better = np.flatnonzero(gain > 1e-9 * length.mean())
        # Neighbours must not change at once: the one that gains most goes first, of equals the first.
        rank = np.full(len(labels), -1)
        rank[better[np.lexsort((-better, gain[better]))]] = np.arange(len(better))
        highest = np.full(len(labels), -1)
        np.maximum.at(highest, a, rank[b])
        moving = better[rank[better] > highest[better]]
        if len(moving) == 0:
            break
        labels[moving] = np.asarray(worth[moving].argmax(axis=1)).ravel()
    return labels
