"""Teeth and the dark of an open mouth, as one mesh behind the lips.

The body's mesh has a deep cavity that voxels cannot hold; what is to be learnt of an open mouth is the teeth and, just
behind them, a dark sheet. Points lie in the head frame (box units).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .assets import IntArray, Proxy, linear_from_srgb, read_proxy, read_texture, sample_texture
from .body import HeadFrame

FloatArray = NDArray[np.floating]

TEXTURE_SIZE = 512
PARTING_HEIGHT = 6.222  # decimetres: between the mesh's rows of teeth, in front
PARTING_RISE = 0.2  # per decimetre backwards
SHEET_TEXEL = (28, 345)  # column and row of the teeth's texture that nothing uses
SHEET_COLOUR = np.array([0.05, 0.012, 0.012])  # linear: throat and tongue in the dark
MIDLINE = 0.016  # box units about the middle of the face where lips and teeth are compared
RIM_WIDTH = 0.006  # box units between the rims of the lips and what lies in the mouth
BEHIND_LIPS = 0.009  # box units between the lips' rims and the foremost tooth
SHEET_BEHIND_TEETH = 0.018  # box units: the edges of front teeth are seen, their backs are not
SHEET_HALF_WIDTH, SHEET_BEYOND_LIPS = 0.058, 0.022  # box units
SHEET_CELLS = (16, 12)
UNCOVERED = (0.0, 0.35)  # share of the gap between the lips below the upper teeth
ENAMEL = (0.42, 0.72)  # linear albedo of front teeth


@dataclass(frozen=True)
class MouthParts:
    """Teeth and gums as a proxy with their texture.

    is_upper (n,) of its vertices, crowns those of teeth alone; the rims where the lips meet, as vertices of the bust.
    """

    teeth: Proxy
    is_upper: NDArray[np.bool_]
    crowns: IntArray
    texture: FloatArray
    upper_rim: IntArray
    lower_rim: IntArray


@dataclass(frozen=True)
class OpenMouth:
    """vertices (v, 3), faces (f, 3), corner_uv (f, 3, 2), texture (512, 512, 3) linear RGB."""

    vertices: FloatArray
    faces: IntArray
    corner_uv: FloatArray
    texture: FloatArray


def read_mouth(folder: Path, rest: FloatArray, inside_mouth: FloatArray, lips: FloatArray) -> MouthParts:
    """The teeth's files, and the rims of the lips on the mean bust: rest (v, 3), painted regions (v,)."""
    teeth = read_proxy(folder / "teeth_base.mhclo")
    texture = linear_from_srgb(read_texture(folder / "teeth.webp", TEXTURE_SIZE))
    corners = teeth.mesh.uv[teeth.mesh.uv_faces].mean(1)
    height = teeth.mesh.vertices[:, 1]
    parting = PARTING_HEIGHT - PARTING_RISE * (teeth.mesh.vertices[:, 2] - teeth.mesh.vertices[:, 2].max())
    is_upper = height > parting
    faces = teeth.mesh.faces
    crowns = _single_teeth(faces, len(height))
    for single in crowns:
        is_upper[single] = (height[single] > parting[single]).mean() > 0.5
    is_crown = np.isin(teeth.mesh.faces[:, 0], np.concatenate(crowns))
    texture /= np.percentile(sample_texture(texture, corners[is_crown]).mean(1), 70)  # their backs are darker
    column, row = SHEET_TEXEL
    texture[row - 6 : row + 7, column - 6 : column + 7] = SHEET_COLOUR
    inner = cKDTree(rest[inside_mouth > 0.5])
    front = np.flatnonzero((lips > 0.3) & (inside_mouth < 0.5) & (np.abs(rest[:, 0]) < MIDLINE))
    front = front[inner.query(rest[front])[0] < RIM_WIDTH]
    where_they_meet = np.median(rest[front, 1])
    is_above = rest[front, 1] > where_they_meet
    return MouthParts(teeth, is_upper, np.concatenate(crowns), texture, front[is_above], front[~is_above])


def _single_teeth(faces: IntArray, count: int) -> list[IntArray]:
    """Vertices of each tooth; gums and tongue are one large piece."""
    edges = sp.coo_matrix((np.ones(faces.size), (faces.ravel(), np.roll(faces, 1, 1).ravel())), (count, count))
    piece = connected_components(edges, directed=False)[1]
    pieces = [np.flatnonzero(piece == k) for k in range(piece.max() + 1)]
    return [vertices for vertices in pieces if len(vertices) < count / 4]


def open_mouth(
    parts: MouthParts, base_vertices: FloatArray, frame: HeadFrame, skin: FloatArray, rng: np.random.Generator
) -> OpenMouth:
    """Teeth behind this person's lips: the upper ones reach into the gap, the lower ones meet them or stay below."""
    teeth = frame(parts.teeth.fit(base_vertices))
    upper_lip, lower_lip = skin[parts.upper_rim].mean(0), skin[parts.lower_rim].mean(0)
    central = np.abs(teeth[:, 0]) < MIDLINE
    front = central & (teeth[:, 2] > teeth[central, 2].max() - 0.02)
    gap = max(0.0, float(upper_lip[1] - lower_lip[1]))
    in_row = np.zeros(len(teeth), bool)
    in_row[parts.crowns] = True
    front &= in_row  # not the gums
    edge = lower_lip[1] + gap * rng.uniform(*UNCOVERED)  # of the upper teeth
    teeth[parts.is_upper, 1] += np.clip(edge - teeth[front & parts.is_upper, 1].min(), -0.025, 0.01)
    edge = teeth[front & parts.is_upper, 1].min()
    lower_top = teeth[front & ~parts.is_upper, 1].max()
    teeth[~parts.is_upper, 1] += np.clip(edge - 0.001 - lower_top, -0.03, 0.0)
    teeth[~parts.is_upper, 2] -= 0.004  # the upper ones bite before them
    foremost = min(upper_lip[2], lower_lip[2]) - BEHIND_LIPS
    teeth[:, 2] += np.clip(foremost - teeth[front, 2].max(), -0.03, 0.01)
    sheet, sheet_faces = _sheet(
        teeth[parts.is_upper], lower_lip[1] - SHEET_BEYOND_LIPS, upper_lip[1] + SHEET_BEYOND_LIPS
    )
    column, row = SHEET_TEXEL
    uv_of_sheet = np.array([(column + 0.5) / TEXTURE_SIZE, 1 - (row + 0.5) / TEXTURE_SIZE])
    mesh = parts.teeth.mesh
    tint = rng.uniform(*ENAMEL) * np.array([1, 1 - rng.uniform(0, 0.06), 1 - rng.uniform(0.02, 0.22)])
    texture = parts.texture * tint.astype(np.float32)
    return OpenMouth(
        np.concatenate([teeth, sheet]).astype(np.float32),
        np.concatenate([mesh.faces, sheet_faces + len(teeth)]),
        np.concatenate([mesh.uv[mesh.uv_faces], np.broadcast_to(uv_of_sheet, (len(sheet_faces), 3, 2))]),
        texture,
    )


def _sheet(upper_teeth: FloatArray, bottom: float, top: float) -> tuple[FloatArray, IntArray]:
    """A curved wall that follows the arch of the teeth, facing forwards."""
    outer = np.abs(upper_teeth[:, 0]) < 0.04
    x, z = upper_teeth[outer, 0], upper_teeth[outer, 2]
    column = np.round(np.abs(x) / 0.004).astype(int)
    foremost = np.full(column.max() + 1, -np.inf)
    np.maximum.at(foremost, column, z)
    at = np.flatnonzero(np.isfinite(foremost))
    bend, foremost_z = np.polyfit((at * 0.004) ** 2, foremost[at], 1)
    columns, rows = SHEET_CELLS
    u, v = np.meshgrid(np.linspace(-1, 1, columns + 1), np.linspace(bottom, top, rows + 1))
    across, up = u.ravel() * SHEET_HALF_WIDTH, v.ravel()
    sheet = np.stack([across, up, foremost_z - SHEET_BEHIND_TEETH + bend * across**2], 1)
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    a, b, c, d = corner, corner + 1, corner + columns + 2, corner + columns + 1
    return sheet, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
