"""MakeHuman's base mesh as quads, and the bust that is cut out of it along a ring of edges."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from inference.template import MOUTH, SKIN, SOCKET

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

SHOULDER_RINGS = 9  # rings of faces kept below the ring of edges around the neck
NECK_Y = -0.29  # head frame, mean head: height of that ring in front

# Where the islands of the skin's picture go: middle of the box they are scaled into, and the box's sides; x to the
# right, v down. MakeHuman's layout is that of a whole body, in which the face lies on its side.
FACE_BOX = ((0.5, 0.262), (0.99, 0.515))
NECK_BOX = ((0.345, 0.765), (0.68, 0.45))
MOUTH_BOX = ((0.845, 0.645), (0.29, 0.22))
SOCKET_BOXES = (((0.765, 0.885), (0.13, 0.22)), ((0.915, 0.885), (0.13, 0.22)))


@dataclass(frozen=True)
class QuadMesh:
    """vertices (v, 3) as in the file, uv (t, 2) with v up, faces and uv_faces (f, 4), group (f,) names."""

    vertices: FloatArray
    uv: FloatArray
    faces: IntArray
    uv_faces: IntArray
    group: NDArray[np.str_]


@dataclass(frozen=True)
class Bust:
    """faces, uv_faces (f, 4) into the base mesh's vertices and into uv (t, 2), v down; part (f,)."""

    faces: IntArray
    uv_faces: IntArray
    uv: FloatArray
    part: NDArray[np.uint8]


def read_quads(path: Path) -> QuadMesh:
    """Read an .obj file of quads. Raises ValueError for any other face."""
    vertices, uv, faces, uv_faces, groups = [], [], [], [], []
    group = ""
    for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == ["vt"]:
            uv.append([float(word) for word in words[1:3]])
        elif words[:1] == ["g"]:
            group = words[1] if len(words) > 1 else ""
        elif words[:1] == ["f"]:
            corners = [word.split("/") for word in words[1:]]
            faces.append([int(corner[0]) - 1 for corner in corners])
            uv_faces.append([int(corner[1]) - 1 for corner in corners])
            groups.append(group)
    return QuadMesh(
        np.array(vertices), np.array(uv), np.array(faces, np.int64), np.array(uv_faces, np.int64), np.array(groups)
    )


def cut_bust(base: QuadMesh, mean: FloatArray) -> Bust:
    """Head, neck and shoulders of the body. mean: (19158, 3) the mean head in the head frame."""
    body = base.group == "body"
    faces, uv_faces = base.faces[body], base.uv_faces[body]
    kept = _above_ring(faces, _ring_around_neck(faces, mean), mean)
    faces, uv_faces = faces[kept], uv_faces[kept]
    edges = np.stack([uv_faces, np.roll(uv_faces, -1, axis=1)], axis=2).reshape(-1, 2)
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(len(base.uv),) * 2)
    island = connected_components(graph, directed=False)[1][uv_faces[:, 0]]
    return _laid_out(base, faces, uv_faces, island, mean)


def _ring_around_neck(faces: IntArray, mean: FloatArray) -> list[int]:
    """The closed ring of edges that runs straight through all its vertices, from the front of the neck."""
    neighbours, faces_of_edge = defaultdict(set), defaultdict(set)
    for number, corners in enumerate(faces.tolist()):
        for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
            neighbours[a].add(b)
            neighbours[b].add(a)
            faces_of_edge[frozenset((a, b))].add(number)
    used = np.unique(faces)
    in_front = used[(np.abs(mean[used, 0]) < 1e-4) & (mean[used, 2] > 0)]
    start = int(in_front[np.argmin(np.abs(mean[in_front, 1] - NECK_Y))])
    ring = [start, min(neighbours[start], key=lambda vertex: abs(mean[vertex, 1] - mean[start, 1]) - mean[vertex, 0])]
    while ring[-1] != start:
        beside = faces_of_edge[frozenset(ring[-2:])]
        onward = [n for n in neighbours[ring[-1]] if not faces_of_edge[frozenset((ring[-1], n))] & beside]
        if len(onward) != 1:
            raise ValueError("the edges around the neck form no ring")
        ring.append(onward[0])
    return ring[:-1]


def _above_ring(faces: IntArray, ring: list[int], mean: FloatArray) -> NDArray[np.bool_]:
    """Faces on the head's side of the ring, and SHOULDER_RINGS rings of faces on the other."""
    count = int(faces.max()) + 1
    on_ring = np.zeros(count, bool)
    on_ring[ring] = True
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    free = edges[~on_ring[edges].any(axis=1)]
    piece = connected_components(sparse.coo_matrix((np.ones(len(free)), free.T), shape=(count,) * 2), directed=False)[1]
    crown = int(np.unique(faces)[np.argmax(mean[np.unique(faces), 1])])
    inside = piece == piece[crown]
    inside |= on_ring
    kept = inside[faces].all(axis=1)
    for _ in range(SHOULDER_RINGS):
        touched = np.zeros(count, bool)
        touched[faces[kept]] = True
        kept |= touched[faces].any(axis=1)
    return kept


def _laid_out(base: QuadMesh, faces: IntArray, uv_faces: IntArray, island: IntArray, mean: FloatArray) -> Bust:
    """Each island in its own box, the face upright."""
    numbers = np.unique(island)
    middle = {n: mean[faces[island == n]].reshape(-1, 3) for n in numbers}
    face = max(numbers, key=lambda n: middle[n][:, 1].max())
    neck = min(numbers, key=lambda n: middle[n][:, 1].min())
    sockets = sorted((n for n in numbers if np.abs(middle[n][:, 0]).min() > 0.01), key=lambda n: middle[n][0, 0])
    mouth = next(n for n in numbers if n not in (face, neck, *sockets))
    if len(numbers) != 5 or len(sockets) != 2:
        raise ValueError("the islands of the base mesh's picture are not the known ones")
    uv = np.zeros_like(base.uv)
    part = np.full(len(faces), SKIN, np.uint8)
    boxes = [(face, FACE_BOX), (neck, NECK_BOX), (mouth, MOUTH_BOX), *zip(sockets, SOCKET_BOXES, strict=True)]
    for number, (centre, sides) in boxes:
        used = np.unique(uv_faces[island == number])
        flat = base.uv[used] * [1, -1]
        if number == face:
            flat = np.column_stack([base.uv[used, 1], base.uv[used, 0]])  # a turn to the right
        low, high = flat.min(0), flat.max(0)
        uv[used] = (flat - (low + high) / 2) * (np.array(sides) / (high - low)).min() + centre
        part[island == number] = MOUTH if number == mouth else SOCKET if number in sockets else SKIN
    return Bust(faces, uv_faces, uv, part)
