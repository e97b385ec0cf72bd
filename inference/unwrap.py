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

PACKING_SIZE = 1024  # texels along a side of the whole layout, about; finer packing wastes less
EXPECTED_FILL = 0.5  # share of the layout that islands cover; measured .35 to .42, so the layout comes out larger
WIDTHS_TRIED = 60
MAX_PART_FACES = 4000  # half a second, or two on a busy machine; a cancel waits for no more
PADDING = 6  # texels between islands: 10 at 2048, so the bake pads by 8 without mixing


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

    The sides of the head are laid out one after the other, then put beside each other: xatlas hears no cancel, and the
    time it takes for one side grows faster than the number of its faces.
    """
    layout = xatlas.PackOptions()
    layout.padding = PADDING
    layout.bruteForce = True  # few charts a side: a seventh more of the texture used for little time
    layout.texels_per_unit = PACKING_SIZE * np.sqrt(EXPECTED_FILL / surface_area(mesh))
    uv_of_part, faces_of_part, source_of_part, sizes = [], [], [], []
    parts = sides(mesh)
    vertices = 0
    for index, part in enumerate(parts):
        progress(index / len(parts), "Unwrapping")
        used, corners = np.unique(mesh.faces[part], return_inverse=True)
        atlas = xatlas.Atlas()
        atlas.add_mesh(mesh.vertices[used].astype(np.float32), corners.reshape(-1, 3).astype(np.uint32))
        atlas.generate(xatlas.ChartOptions(), layout)
        split, faces, uv = atlas[0]
        size = np.array([atlas.width, atlas.height])
        uv_of_part.append(uv * size)
        sizes.append(size + PADDING)
        faces_of_part.append(faces.astype(np.int64) + vertices)
        source_of_part.append(used[split])
        vertices += len(split)
    corners_px, side = arrange(np.array(sizes))
    uv = np.concatenate([(part + corner) / side for part, corner in zip(uv_of_part, corners_px, strict=True)])
    source = np.concatenate(source_of_part)
    in_order = np.argsort(np.concatenate(parts))
    return UnwrappedMesh(Mesh(mesh.vertices[source], np.concatenate(faces_of_part)[in_order]), uv, source)


def arrange(sizes: IntArray) -> tuple[FloatArray, float]:
    """Put rectangles beside each other in the smallest square that this finds.

    sizes:   (n, 2) width and height.
    Returns: (n, 2) lower corner of each, and the square's side.

    Largest first, each as low as it goes (bottom-left rule), for several widths. xatlas would pack all islands anew,
    and closer, but now and then lays one on another (add_uv_mesh, 0.0.11).
    """
    best: tuple[FloatArray, float] | None = None
    orders = [
        np.argsort(-key, kind="stable") for key in (sizes[:, 1], sizes[:, 0], sizes.max(axis=1), sizes.prod(axis=1))
    ]
    widest = max(sizes[:, 0].max(), 1.5 * np.sqrt(sizes.prod(axis=1).sum()))  # beyond, the square is too wide anyhow
    for width in np.linspace(sizes[:, 0].max(), widest, WIDTHS_TRIED):
        for order in orders:
            corners = np.zeros(sizes.shape)
            placed: list[int] = []
            for index in order:
                lefts = [0.0, *(corners[other, 0] + sizes[other, 0] for other in placed)]
                spots = []
                for left in lefts:
                    if left + sizes[index, 0] > width and left > 0:
                        continue
                    below = [
                        corners[other, 1] + sizes[other, 1]
                        for other in placed
                        if corners[other, 0] < left + sizes[index, 0] and corners[other, 0] + sizes[other, 0] > left
                    ]
                    spots.append((max(below, default=0.0), left))
                corners[index, 1], corners[index, 0] = min(spots)
                placed.append(index)
            side = float((corners + sizes).max())
            if best is None or side < best[1]:
                best = corners, side
    assert best is not None
    return best


def surface_area(mesh: Mesh) -> float:
    """Area of a mesh, square box units."""
    corners = mesh.vertices[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(cross, axis=1).sum() / 2)


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
