"""Space in which the face is larger: decimated there, a head keeps more faces where people look.

Decimation by quadrics spends faces where they save most error, wherever that is; it knows no weights. It is given a
head whose features are magnified instead, and what comes out is put back. A lens moves each point x away from its
centre c by (m - 1) d / sqrt(1 + |d|^2 / R^2), d = x - c: near the centre that magnifies m times, beyond the radius R it
shifts what is there. Each is the gradient of a convex function, so any sum of them with x itself is the gradient of a
strictly convex one: space never folds, and the way back is unique.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.floating]

NEWTON_STEPS = 8  # at most; three are the rule
EXACT = 1e-10  # box units that a point put back may be off


@dataclass(frozen=True)
class Lens:
    """One magnified place.

    centre:        (x, y, z) head frame.
    magnification: at the centre, 1 or more.
    radius:        box units within which it is felt.
    """

    centre: tuple[float, float, float]
    magnification: float
    radius: float


# Where the landmark template has eyes, nose and mouth, and where the training heads have ears. At a magnification of 4
# the face gains nothing more, and the back of the head is the worse for it.
MAGNIFICATION = 3.0
RADIUS = 0.04  # box units, 2 cm
FEATURES = (
    (-0.064, -0.020, 0.185),  # right eye
    (0.064, -0.020, 0.185),  # left eye
    (0.0, -0.100, 0.235),  # nose
    (0.0, -0.155, 0.205),  # mouth
    (-0.150, -0.050, 0.010),  # right ear
    (0.150, -0.050, 0.010),  # left ear
)
FACE_LENSES = tuple(Lens(centre, MAGNIFICATION, RADIUS) for centre in FEATURES)


def mirrored_below(lenses: tuple[Lens, ...], height: float) -> tuple[Lens, ...]:
    """The lenses, and each once more on the other side of the plane y = height: so that plane stays flat."""
    below = (
        Lens((x, 2 * height - y, z), lens.magnification, lens.radius) for lens in lenses for x, y, z in [lens.centre]
    )
    return (*lenses, *below)


def magnified(points: FloatArray, lenses: tuple[Lens, ...]) -> FloatArray:
    """(n, 3) where the lenses move points (n, 3) of the head frame."""
    moved = np.array(points, dtype=np.float64)
    for lens in lenses:
        offset = points - np.asarray(lens.centre)
        stretch = np.sqrt(1 + np.einsum("ni,ni->n", offset, offset) / lens.radius**2)
        moved += (lens.magnification - 1) / stretch[:, None] * offset
    return moved


def put_back(moved: FloatArray, lenses: tuple[Lens, ...], known: FloatArray, known_moved: FloatArray) -> FloatArray:
    """(n, 3) the points that `magnified` moves to `moved` (n, 3), by Newton's method.

    known, known_moved: (m, 3) points spread among those looked for, before and after; the nearest is the first guess.
    """
    points = known[cKDTree(known_moved).query(moved)[1]].astype(np.float64)
    for _ in range(NEWTON_STEPS):
        missing = moved - magnified(points, lenses)
        if np.abs(missing).max(initial=0.0) < EXACT:
            break
        points = points + np.linalg.solve(_jacobian(points, lenses), missing[..., None])[..., 0]
    return points


def _jacobian(points: FloatArray, lenses: tuple[Lens, ...]) -> FloatArray:
    """(n, 3, 3) how `magnified` changes with the points: symmetric, with no eigenvalue below 1."""
    total = np.broadcast_to(np.eye(3), (len(points), 3, 3)).copy()
    for lens in lenses:
        offset = points - np.asarray(lens.centre)
        stretch = np.sqrt(1 + np.einsum("ni,ni->n", offset, offset) / lens.radius**2)[:, None, None]
        outer = offset[:, :, None] * offset[:, None, :] / lens.radius**2
        total += (lens.magnification - 1) * (np.eye(3) / stretch - outer / stretch**3)
    return total
