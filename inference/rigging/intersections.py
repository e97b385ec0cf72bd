"""Triangles of a mesh that pass through each other, and faces that have turned over."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

SLACK = 1e-9  # of a triangle's own coordinates: touching is not passing through


def turned_over(vertices: FloatArray, rest: FloatArray, faces: IntArray) -> BoolArray:
    """(f,) triangles whose normal has turned by more than a right angle against the same triangle at rest."""
    return np.einsum("ij,ij->i", _crosses(vertices, faces), _crosses(rest, faces)) < 0


def intersecting_pairs(vertices: FloatArray, faces: IntArray) -> IntArray:
    """(n, 2) pairs of triangles without a common corner of which a side of one passes through the other."""
    corners = vertices[faces]
    middle = corners.mean(axis=1)
    radius = np.linalg.norm(corners - middle[:, None], axis=2).max(axis=1)
    pairs = _near_pairs(middle, radius)
    shared = (faces[pairs[:, 0], :, None] == faces[pairs[:, 1], None, :]).any(axis=(1, 2))
    pairs = pairs[~shared]
    low, high = corners.min(axis=1), corners.max(axis=1)
    first, second = pairs.T
    overlap = ((low[first] <= high[second]) & (low[second] <= high[first])).all(axis=1)
    pairs = pairs[overlap]
    first, second = corners[pairs[:, 0]], corners[pairs[:, 1]]
    crossed = np.zeros(len(pairs), dtype=bool)
    for start in range(3):
        end = (start + 1) % 3
        crossed |= _segment_through(first[:, start], first[:, end], second)
        crossed |= _segment_through(second[:, start], second[:, end], first)
    return pairs[crossed]


def _near_pairs(middle: FloatArray, radius: FloatArray) -> IntArray:
    """(n, 2) pairs i < j whose bounding spheres overlap; large triangles are few, so sizes are taken one by one."""
    order = np.argsort(radius, kind="stable")
    bounds = np.unique(np.linspace(0, len(order), 9).astype(int))
    groups = [order[a:b] for a, b in pairwise(bounds) if b > a]
    trees = [cKDTree(middle[group]) for group in groups]
    found = []
    for i, (own, own_tree) in enumerate(zip(groups, trees, strict=True)):
        for other, other_tree in zip(groups[i:], trees[i:], strict=True):
            near = own_tree.query_ball_tree(other_tree, float(radius[own].max() + radius[other].max()))
            lengths = np.fromiter((len(one) for one in near), dtype=np.int64, count=len(near))
            flat = np.fromiter((index for one in near for index in one), dtype=np.int64, count=int(lengths.sum()))
            found.append(np.stack([np.repeat(own, lengths), other[flat]], axis=1))
    first, second = np.concatenate(found).T
    near = np.linalg.norm(middle[first] - middle[second], axis=1) < radius[first] + radius[second]
    near &= first != second
    first, second = first[near], second[near]
    # As one number a pair: rows would take five times as long to be told apart.
    keys = np.unique(np.minimum(first, second) * len(middle) + np.maximum(first, second))
    return np.stack(np.divmod(keys, len(middle)), axis=1)


def _segment_through(start: FloatArray, end: FloatArray, triangle: FloatArray) -> BoolArray:
    """(n,) whether segments pass through triangles (n, 3, 3): Moeller and Trumbore 1997."""
    direction = end - start
    side, other = triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0]
    across = np.cross(direction, other)
    determinant = np.einsum("ij,ij->i", side, across)
    usable = np.abs(determinant) > 1e-18
    inverse = 1.0 / np.where(usable, determinant, 1.0)
    offset = start - triangle[:, 0]
    u = np.einsum("ij,ij->i", offset, across) * inverse
    turned = np.cross(offset, side)
    v = np.einsum("ij,ij->i", direction, turned) * inverse
    t = np.einsum("ij,ij->i", other, turned) * inverse
    inside = (u > SLACK) & (v > SLACK) & (u + v < 1 - SLACK) & (t > SLACK) & (t < 1 - SLACK)
    return usable & inside


def _crosses(vertices: FloatArray, faces: IntArray) -> FloatArray:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)
