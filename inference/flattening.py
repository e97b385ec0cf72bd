"""Flatten a piece of surface with as little stretch as can be had, without ever turning a triangle over.

The start is Tutte's embedding, which has no turned triangle whatever the piece looks like ("How to draw a graph",
Proc. London Math. Soc. s3-13, 1963; Floater's mean value weights, CAGD 20(1), 2003). From there the symmetric Dirichlet
energy, which is infinite for a triangle without area and so lets none turn over, together with a barrier that keeps the
border off itself (Smith and Schaefer, "Bijective Parameterization with Free Boundaries", SIGGRAPH 2015), is taken down
by L-BFGS. Its first guess of the curvature is a Laplacian (Kovalsky et al., "Accelerated Quadratic Proxy", SIGGRAPH
2016; Zhu et al., "Blended Cured Quasi-Newton", SIGGRAPH 2018), stiffer where triangles are squeezed: these would
otherwise shorten every step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial import cKDTree

from .progress import Progress
from .sparse_systems import factorised

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

FLATTEST_REST = 0.05  # height of a triangle over its longest side: thinner ones count as this thick, or they rule all
MEMORY = 6  # pairs of steps and changes of gradient L-BFGS keeps
MAX_STEPS = 300
WINDOW = 8  # steps over which the energy must still fall ..
LEAST_FALL = 0.02  # .. by this share, or it is low enough
UNDISTORTED = 1 + 1e-4  # energy that is low enough at once
CLOSEST_TO_FLIP = 0.8  # share of the way to the first triangle without area that a step may go
SHORTEST_STEP = 1e-9  # of the longest that could be taken: below, rounding hides what a step brings
SUFFICIENT = 1e-4  # share of the fall the gradient promises that a step must bring (Armijo)
REFACTOR = 10  # steps after which the guess of the curvature is made anew
STIFFEST = 0.1  # stretch: where triangles are squeezed more, the guess counts them as squeezed so
FLAT_ENOUGH = 1.001  # energy below which a projection will do
SHORTEST_OF_THREE = 0.1  # of a triangle's longest side: Tutte's embedding would lay corners that are closer onto one
BLUNTEST = 0.999  # cosine: needles and blunt triangles count as no worse, for their weights to be of use
SHORTEST_SIDE = 1e-3  # of the mean side of the border: shorter ones count as this long
GAP = 0.2  # of the shorter sides about there: border that comes nearer to border is pushed off
PIN = 1e-9  # against the Laplacian's diagonal: fixes where the piece lies, which the energy does not care about


class NotFlattened(Exception):
    """No start without turned triangles in double precision: the piece is too deep for its border."""


@dataclass(frozen=True)
class _Rest:
    """The shape that triangles should keep.

    across, along: (f, v) sparse derivatives, in a frame of each triangle, of values at the vertices.
    area:          (f,) shares of the piece's area; they sum to 1.
    """

    across: sparse.csr_matrix
    along: sparse.csr_matrix
    area: FloatArray

    def jacobian(self, uv: FloatArray) -> FloatArray:
        """(4, f) derivatives of (v, 2): u and v across the triangle, u and v along it."""
        return np.concatenate([(self.across @ uv).T, (self.along @ uv).T])


@dataclass(frozen=True)
class _Pair:
    """What L-BFGS remembers of a step.

    moved, change: (v, 2) the step, and how the gradient changed.
    curvature:     their product, positive.
    softness:      the Laplacian's curvature along the step against that.
    """

    moved: FloatArray
    change: FloatArray
    curvature: float
    softness: float


def flatten(vertices: FloatArray, faces: IntArray, progress: Progress) -> FloatArray:
    """Lay a disc out flat: (v, 2), u right and v UP, anticlockwise triangles stay so, lengths about as they were.

    vertices: (v, 3), all of them used.
    faces:    (f, 3) one piece with one border and no handle.
    Raises:   NotFlattened.
    """
    rest = _rest(vertices, faces)
    (start,) = borders(faces)
    length = np.linalg.norm(vertices[np.roll(start, -1)] - vertices[start], axis=1)
    length = np.maximum(length, SHORTEST_SIDE * length.mean())
    uv = _tutte(vertices, faces, start, length)
    jacobian = rest.jacobian(uv)
    determinant = jacobian[0] * jacobian[3] - jacobian[1] * jacobian[2]
    if not (determinant > 0).all():
        raise NotFlattened()
    return _relax(uv / np.sqrt(rest.area @ determinant), rest, _Rim(start, length, 1 / len(faces)), progress)


@dataclass(frozen=True)
class _Rim:
    """The border of the disc, which must not cross itself, and keeps off itself.

    start:  (n,) its vertices in order.
    length: (n,) of the side from each to the next.
    share:  what a pair of sides counts against the mean energy of the triangles.
    """

    start: IntArray
    length: FloatArray
    share: float

    def energy(self, uv: FloatArray) -> tuple[float, FloatArray]:
        """Barrier, infinite where border touches border, and its gradient (v, 2) for (v, 2)."""
        begin, end = uv[self.start], uv[np.roll(self.start, -1)]
        count = len(self.start)
        gradient = np.zeros_like(uv)
        middle, half = (begin + end) / 2, np.linalg.norm(end - begin, axis=1) / 2
        # Sides that meet, or hold a point near each other, have their middles no farther apart than this.
        near = cKDTree(middle).query_pairs((2 + GAP) * max(half.max(), self.length.max() / 2), output_type="ndarray")
        i, j = near.T
        apart = (np.abs(i - j) > 1) & (np.abs(i - j) < count - 1)
        a, b = i[apart], j[apart]
        here, there = end[a] - begin[a], end[b] - begin[b]
        across_here = _cross(here, begin[b] - begin[a]) * _cross(here, end[b] - begin[a])
        across_there = _cross(there, begin[a] - begin[b]) * _cross(there, end[a] - begin[b])
        if ((across_here <= 0) & (across_there <= 0)).any():
            return np.inf, gradient
        shorter = np.minimum(self.length, np.roll(self.length, 1))
        point, side = np.concatenate([near, near[:, ::-1]]).T
        meeting = (point == side) | (point == (side + 1) % count)
        point, side = point[~meeting], side[~meeting]
        along = end[side] - begin[side]
        to_point = begin[point] - begin[side]
        share = np.einsum("ni,ni->n", to_point, along) / np.maximum(np.einsum("ni,ni->n", along, along), 1e-300)
        share = np.clip(share, 0.0, 1.0)[:, None]
        offset = to_point - share * along
        distance = np.linalg.norm(offset, axis=1)
        gap = GAP * np.minimum(shorter[point], self.length[side])
        close = np.flatnonzero(distance < gap)
        if len(close) == 0:
            return 0.0, gradient
        distance, gap, offset, share = distance[close], gap[close], offset[close], share[close]
        with np.errstate(divide="ignore"):
            excess = gap / distance - 1
        if not np.isfinite(excess).all():
            return np.inf, gradient
        push = (-2 * self.share * excess * gap / distance**3)[:, None] * offset
        np.add.at(gradient, self.start[point[close]], push)
        np.add.at(gradient, self.start[side[close]], -(1 - share) * push)
        np.add.at(gradient, np.roll(self.start, -1)[side[close]], -share * push)
        return self.share * float(excess @ excess), gradient


def project_flat(vertices: FloatArray, faces: IntArray) -> FloatArray | None:
    """(v, 2) as `flatten` gives them, of a piece that is flat as it is; None where it is not. It may have holes."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).sum(axis=0)
    length = np.linalg.norm(normal)
    if length == 0:
        return None
    normal /= length
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    uv = vertices @ np.stack([first, np.cross(normal, first)], axis=1)
    rest = _rest(vertices, faces)
    return uv if rest.area @ _energies(rest.jacobian(uv))[0] < FLAT_ENOUGH else None


def borders(faces: IntArray) -> list[IntArray]:
    """The closed borders of a piece of surface, each as its vertices in the order that the triangles walk them.

    faces: (f, 3); no two borders share a vertex.
    """
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    base = faces.max() + 1
    open_side = ~np.isin(start * base + end, end * base + start)
    following = np.full(base, -1)
    following[start[open_side]] = end[open_side]
    found = []
    for first in np.flatnonzero(following >= 0):
        walk = []
        while (vertex := int(following[first])) >= 0:
            walk.append(int(first))
            following[first] = -1
            first = vertex
        if walk:
            found.append(np.array(walk))
    return found


def distortion(vertices: FloatArray, faces: IntArray, uv: FloatArray) -> FloatArray:
    """(f,) symmetric Dirichlet energy of each triangle, 1 where it kept its shape and size."""
    return _energies(_rest(vertices, faces).jacobian(uv))[0]


def _rest(vertices: FloatArray, faces: IntArray) -> _Rest:
    corners = vertices[faces]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    base = np.maximum(np.linalg.norm(first, axis=1), 1e-12)
    x = np.einsum("fi,fi->f", first, second) / base
    height = np.linalg.norm(np.cross(first, second), axis=1) / base
    longest = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max(axis=1)
    height = np.maximum(height, FLATTEST_REST * np.maximum(longest, 1e-12))
    # Corners at (0, 0), (base, 0), (x, height).
    across = np.stack([-1 / base, 1 / base, np.zeros(len(faces))], axis=1)
    along = np.stack([(x / base - 1) / height, -x / base / height, 1 / height], axis=1)
    rows = np.arange(0, faces.size + 1, 3)
    shape = (len(faces), len(vertices))
    area = base * height / 2
    return _Rest(
        sparse.csr_matrix((across.ravel(), faces.ravel(), rows), shape),
        sparse.csr_matrix((along.ravel(), faces.ravel(), rows), shape),
        area / area.sum(),
    )


def _tutte(vertices: FloatArray, faces: IntArray, rim: IntArray, length: FloatArray) -> FloatArray:
    """(v, 2) the border on the unit circle, every other vertex a mean of its neighbours by mean value weights.

    rim, length: (n,) vertices of the border in order, and of the side from each to the next.
    """
    angle = 2 * np.pi * np.concatenate([[0.0], np.cumsum(length)[:-1]]) / length.sum()
    count = len(vertices)
    uv = np.zeros((count, 2))
    uv[rim] = np.stack([np.cos(angle), np.sin(angle)], axis=1)

    corners = vertices[faces]
    sides = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
    sides = np.maximum(sides, SHORTEST_OF_THREE * np.maximum(sides.max(axis=1, keepdims=True), 1e-12))
    rows, columns, weights = [], [], []
    for corner in range(3):
        at, left, right = (faces[:, (corner + step) % 3] for step in range(3))
        to_left, opposite, to_right = (sides[:, (corner + step) % 3] for step in range(3))
        cosine = np.clip((to_left**2 + to_right**2 - opposite**2) / (2 * to_left * to_right), -BLUNTEST, BLUNTEST)
        half_tangent = np.sqrt((1 - cosine) / (1 + cosine))
        rows += [at, at]
        columns += [left, right]
        weights += [half_tangent / to_left, half_tangent / to_right]
    pulls = sparse.csr_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)
    )
    pulls = sparse.diags(1 / np.asarray(pulls.sum(axis=1)).ravel()) @ pulls
    inside = np.setdiff1d(np.arange(count), rim)
    if len(inside):
        inner = pulls[inside]
        system = sparse.identity(len(inside)) - inner[:, inside]
        uv[inside] = splu(system.tocsc()).solve(inner[:, rim] @ uv[rim])
    return uv


def _relax(uv: FloatArray, rest: _Rest, rim: _Rim, progress: Progress) -> FloatArray:
    """(v, 2) with little symmetric Dirichlet energy, reached from (v, 2) without turning a triangle.

    The border does not cross itself on the way either, so nothing comes to lie on anything else.
    """
    pairs: deque[_Pair] = deque(maxlen=MEMORY)
    jacobian = rest.jacobian(uv)
    energy, gradient = _energy(rest, jacobian, rim, uv)
    history = [energy]
    for step_number in range(MAX_STEPS):
        progress(step_number / MAX_STEPS, "Unwrapping")
        if step_number % REFACTOR == 0:
            laplacian = _stiffness(rest, jacobian)
            factors = factorised(laplacian)
        direction = _descent(gradient, pairs, factors)
        slope = float(np.vdot(gradient, direction))
        if slope >= 0:  # rounding has spoilt the memory, or nothing is left to gain
            if not pairs:
                break
            pairs.clear()
            continue
        turn = rest.jacobian(direction)
        longest = min(1.0, CLOSEST_TO_FLIP * _first_flip(jacobian, turn))
        step = longest
        while True:
            moved_jacobian = jacobian + step * turn
            moved_energy, moved_gradient = _energy(rest, moved_jacobian, rim, uv + step * direction)
            if moved_energy <= energy + SUFFICIENT * step * slope:
                break
            step /= 2
            if step < SHORTEST_STEP * longest:
                return uv
        moved, change = step * direction, moved_gradient - gradient
        curvature = float(np.vdot(moved, change))
        if curvature > 0:
            pairs.append(_Pair(moved, change, curvature, float(np.vdot(moved, laplacian @ moved)) / curvature))
        uv, jacobian, energy, gradient = uv + moved, moved_jacobian, moved_energy, moved_gradient
        history.append(energy)
        if energy < UNDISTORTED:
            break
        if len(history) > WINDOW and history[-1 - WINDOW] - energy < LEAST_FALL * (energy - 1):
            break
    return uv


def _stiffness(rest: _Rest, jacobian: FloatArray) -> sparse.csc_matrix:
    """(v, v) Laplacian whose triangles are as stiff as the energy where they are squeezed most."""
    _, determinant, squares = _energies(jacobian)
    # The square of the lesser stretch: s^2 + (det / s)^2 = squares.
    lesser = (squares - np.sqrt(np.maximum(squares**2 - 4 * determinant**2, 0.0))) / 2
    weight = sparse.diags(rest.area * (1 + 3 / np.maximum(lesser, STIFFEST**2) ** 2) / 4)
    stiffness = rest.across.T @ weight @ rest.across + rest.along.T @ weight @ rest.along
    return (stiffness + sparse.diags(PIN * stiffness.diagonal())).tocsc()


def _energies(jacobian: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(f,) the energy of each triangle, its determinant and the sum of its squared stretches."""
    determinant = jacobian[0] * jacobian[3] - jacobian[1] * jacobian[2]
    squares = np.einsum("kf,kf->f", jacobian, jacobian)
    with np.errstate(divide="ignore"):
        energy = np.where(determinant > 0, squares * (1 + 1 / determinant**2) / 4, np.inf)
    return energy, determinant, squares


def _energy(rest: _Rest, jacobian: FloatArray, rim: _Rim, uv: FloatArray) -> tuple[float, FloatArray]:
    """The mean energy of the triangles with the border's, and (v, 2) its gradient."""
    energies, determinant, squares = _energies(jacobian)
    total = float(rest.area @ energies)
    if not np.isfinite(total):
        return np.inf, np.zeros_like(uv)
    barrier, push = rim.energy(uv)
    if not np.isfinite(barrier):
        return np.inf, push
    keep = rest.area * (1 + 1 / determinant**2) / 2
    turn = rest.area * squares / determinant**3 / 2
    across_u, across_v, along_u, along_v = jacobian
    to_across = np.stack([keep * across_u - turn * along_v, keep * across_v + turn * along_u], axis=1)
    to_along = np.stack([keep * along_u + turn * across_v, keep * along_v - turn * across_u], axis=1)
    return total + barrier, rest.across.T @ to_across + rest.along.T @ to_along + push


def _descent(gradient: FloatArray, pairs: deque[_Pair], factors: SuperLU) -> FloatArray:
    """(v, 2) the two loops of L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithm 7.4)."""
    direction = -gradient
    shares = []
    for pair in reversed(pairs):
        shares.append(float(np.vdot(pair.moved, direction)) / pair.curvature)
        direction -= shares[-1] * pair.change
    direction = factors.solve(direction)
    if pairs:
        direction *= pairs[-1].softness
    for pair, share in zip(pairs, reversed(shares), strict=True):
        direction += (share - float(np.vdot(pair.change, direction)) / pair.curvature) * pair.moved
    return direction


def _first_flip(jacobian: FloatArray, turn: FloatArray) -> float:
    """How many times `turn` may be added to the Jacobians before the first of them is singular; at most 1e9."""
    constant = jacobian[0] * jacobian[3] - jacobian[1] * jacobian[2]
    linear = jacobian[0] * turn[3] + turn[0] * jacobian[3] - jacobian[1] * turn[2] - turn[1] * jacobian[2]
    square = turn[0] * turn[3] - turn[1] * turn[2]
    discriminant = linear**2 - 4 * square * constant
    # The form without cancellation; the smaller positive root of square t^2 + linear t + constant.
    half = -(linear + np.copysign(np.sqrt(np.maximum(discriminant, 0)), linear)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = np.stack([half / square, constant / half])
        ahead = (roots > 0) & (discriminant >= 0)
    return float(np.min(roots, initial=1e9, where=ahead))


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
