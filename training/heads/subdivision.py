"""Loop subdivision as one sparse matrix, and vertex normals."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]


def loop_subdivision(faces: IntArray, vertex_count: int) -> tuple[sp.csr_matrix, IntArray]:
    """One step of Loop subdivision (C. Loop, 1987; Warren's weights), with creases along open boundaries.

    faces (f, 3). Returns the (new vertices, vertex_count) matrix and the (4 f, 3) new faces: the three corner
    triangles of all faces, then the middle ones.
    """
    n = len(faces)
    half_edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, edge_of, uses = np.unique(half_edges, axis=0, return_inverse=True, return_counts=True)
    edge_of = edge_of.ravel()
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    edge_count = len(edges)

    ends = sp.coo_matrix(
        (np.ones(2 * edge_count), (np.repeat(np.arange(edge_count), 2), edges.ravel())), (edge_count, vertex_count)
    ).tocsr()
    wings = sp.coo_matrix((np.ones(len(half_edges)), (edge_of, opposite)), (edge_count, vertex_count)).tocsr()
    inner = uses == 2
    edge_rows = sp.diags(np.where(inner, 3 / 8, 1 / 2)) @ ends + sp.diags(np.where(inner, 1 / 8, 0)) @ wings

    def adjacency(pairs: IntArray) -> sp.csr_matrix:
        rows = np.concatenate([pairs[:, 0], pairs[:, 1]])
        columns = np.concatenate([pairs[:, 1], pairs[:, 0]])
        return sp.coo_matrix((np.ones(len(rows)), (rows, columns)), (vertex_count, vertex_count)).tocsr()

    boundary_edges = edges[uses == 1]
    on_boundary = np.zeros(vertex_count, bool)
    on_boundary[boundary_edges.ravel()] = True
    neighbours = adjacency(edges)
    valence = np.maximum(np.asarray(neighbours.sum(1)).ravel(), 1)
    beta = np.where(valence == 3, 3 / 16, 3 / (8 * valence))
    vertex_rows = (
        sp.diags(np.where(on_boundary, 3 / 4, 1 - valence * beta))
        + sp.diags(np.where(on_boundary, 0, beta)) @ neighbours
        + sp.diags(np.where(on_boundary, 1 / 8, 0)) @ adjacency(boundary_edges)
    )
    middle = edge_of.reshape(3, n).T + vertex_count  # (f, 3): new vertices on edges 01, 12, 20
    a, b, c = middle.T
    new_faces = np.concatenate(
        [
            np.stack([faces[:, 0], a, c], 1),
            np.stack([faces[:, 1], b, a], 1),
            np.stack([faces[:, 2], c, b], 1),
            np.stack([a, b, c], 1),
        ]
    )
    return sp.vstack([vertex_rows, edge_rows]).tocsr(), new_faces


def subdivide_corners(corners: FloatArray) -> FloatArray:
    """Split per-corner values (f, 3, k), such as UVs, in the face order of `loop_subdivision`: (4 f, 3, k)."""
    a, b, c = (corners + np.roll(corners, -1, axis=1)).transpose(1, 0, 2) / 2
    return np.concatenate(
        [
            np.stack([corners[:, 0], a, c], 1),
            np.stack([corners[:, 1], b, a], 1),
            np.stack([corners[:, 2], c, b], 1),
            np.stack([a, b, c], 1),
        ]
    )


def vertex_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """(v, 3) unit normals, the area-weighted mean of the faces around each vertex."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros((len(vertices), 3))
    for corner in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], face_normals[:, axis], len(vertices))
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def neighbour_mean(faces: IntArray, vertex_count: int) -> sp.csr_matrix:
    """(v, v) matrix that replaces each vertex's value by the mean of its neighbours'."""
    rows = np.concatenate([faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()])
    columns = np.concatenate([faces[:, [1, 2, 0]].ravel(), faces[:, [0, 1, 2]].ravel()])
    links = sp.coo_matrix((np.ones(len(rows)), (rows, columns)), (vertex_count, vertex_count)).tocsr()
    return sp.diags(1 / np.maximum(np.asarray(links.sum(1)).ravel(), 1)) @ links
