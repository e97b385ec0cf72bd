"""Lay the surface out flat: texture coordinates without overlaps, in few islands that an artist can paint on.

The head is cut behind the ears, at the back and around the neck's cap (`seams`), each part is flattened (`flattening`),
stood upright and put beside the others (`packing`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .flattening import NotFlattened, borders, distortion, flatten, project_flat
from .packing import enclosed_area, pack
from .progress import Progress
from .seams import FACE_REACH, NOSE, Sides, cut_open, face_areas, halves, has_face, head_regions, sewn
from .surface import Mesh

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

PADDING = 6 / 1024  # of the texture's side: 12 texels of 2048 between islands, so the bake pads by 8 without mixing
FACE_MAGNIFICATION = 1.5  # texels along a length on the island with the face, against the others
MOST_DISTORTION = 1.5  # symmetric Dirichlet energy, 1 at none: islands that are stretched more are cut again
MOST_ISLANDS = 12  # from so many on, islands are cut again only where there is no other way
CLEAR_SLOPE = 0.3  # rise of height across an island from which on it has an upper end
FLATTENING_SHARE = 0.95  # of the time that unwrapping takes


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


@dataclass(frozen=True)
class _Island:
    """A part of the mesh laid flat.

    part:   (f,) which faces of the mesh.
    faces:  (f, 3) with vertices counted within the island.
    source: (v,) which vertex of the mesh each is.
    uv:     (v, 2) u right and v up, box units.
    """

    part: IntArray
    faces: IntArray
    source: IntArray
    uv: FloatArray


def unwrap(mesh: Mesh, progress: Progress) -> UnwrappedMesh:
    """Texture coordinates for a closed mesh.

    The face stands upright and as one sees it from the front; the whole of it is one island, whose texels are finer
    than those of the others by FACE_MAGNIFICATION: the photo's pixels are there, and the model has less detail.
    """
    progress(0.0, "Unwrapping")
    sides = Sides.of(mesh)
    regions = head_regions(mesh, sides)
    waiting: list[IntArray] = [np.flatnonzero(regions == region) for region in range(regions.max() + 1)]
    islands: list[_Island] = []
    done = 0
    while waiting:
        part = waiting.pop()
        # A part may fall into three when it is cut.
        limit = MOST_DISTORTION if len(islands) + len(waiting) + 3 <= MOST_ISLANDS else np.inf
        step = _within(progress, done / len(mesh.faces), len(part) / len(mesh.faces))
        island = _lay_flat(mesh, part, sides, limit, step)
        if island is None:
            waiting += halves(mesh, part, sides.inside(part, len(mesh.faces)))
        else:
            islands.append(island)
            done += len(part)
    places, side = pack(
        [max((island.uv[line] for line in borders(island.faces)), key=enclosed_area) for island in islands],
        PADDING,
        lambda step: progress(FLATTENING_SHARE + (1 - FLATTENING_SHARE) * step, "Unwrapping"),
    )
    uv = np.concatenate([island.uv + place for island, place in zip(islands, places, strict=True)]) / side
    source = np.concatenate([island.source for island in islands])
    first_vertex = np.cumsum([0, *(len(island.source) for island in islands)])
    faces = np.empty_like(mesh.faces)
    for island, first in zip(islands, first_vertex, strict=False):
        faces[island.part] = island.faces + first
    uv = np.clip(np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), 0.0, 1.0)
    return UnwrappedMesh(Mesh(mesh.vertices[source], faces), uv, source)


def _within(progress: Progress, begun: float, share: float) -> Progress:
    """Progress of one part, which takes a share of the flattening."""
    return lambda step, label: progress(FLATTENING_SHARE * (begun + share * step), label)


def _lay_flat(mesh: Mesh, part: IntArray, sides: Sides, limit: float, progress: Progress) -> _Island | None:
    """The part as one island, or None where it is closed or its distortion would be more than `limit`."""
    within = sides.inside(part, len(mesh.faces))
    if 2 * len(within.face) == 3 * len(part):
        return None  # closed
    faces, source = sewn(mesh, part, within.corner)
    uv = project_flat(mesh.vertices[source], faces)
    if uv is None:
        faces, source = cut_open(mesh, part, within)
        try:
            uv = flatten(mesh.vertices[source], faces, progress)
        except NotFlattened:
            return None
    vertices = mesh.vertices[source]
    area = face_areas(Mesh(vertices, faces))
    if area @ distortion(vertices, faces, uv) > limit * area.sum():
        return None
    uv *= np.sqrt(area.sum() / _flat_area(uv, faces))
    upright_by = np.ones(len(vertices), dtype=bool)
    if has_face(mesh, part):
        uv *= FACE_MAGNIFICATION
        on_face = np.linalg.norm(vertices - NOSE, axis=1) < FACE_REACH
        upright_by = on_face if on_face.any() else upright_by
    uv = _upright(uv, vertices, upright_by)
    return _Island(part, faces, source, uv)


def _upright(uv: FloatArray, vertices: FloatArray, where: BoolArray) -> FloatArray:
    """(v, 2) turned so that the head's up is the picture's up, by the vertices (v, 3) chosen by (v,).

    What lies level, as the neck's cap does, has the front up.
    """
    flat = uv[where] - uv[where].mean(axis=0)
    spread = vertices[where] - vertices[where].mean(axis=0)
    # How height and depth rise along u and v; at most 1, since lengths are kept.
    slopes = np.linalg.lstsq(flat, spread[:, 1:], rcond=None)[0]
    rise = slopes[:, 0] if np.linalg.norm(slopes[:, 0]) > CLEAR_SLOPE else slopes[:, 1]
    length = np.linalg.norm(rise)
    if length == 0:
        return uv
    cosine, sine = rise[1] / length, rise[0] / length
    return uv @ np.array([[cosine, sine], [-sine, cosine]])


def _flat_area(uv: FloatArray, faces: IntArray) -> float:
    first, second = uv[faces[:, 1]] - uv[faces[:, 0]], uv[faces[:, 2]] - uv[faces[:, 0]]
    return float(np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sum() / 2)
