"""A head that is the same on both sides, made in the density: so its surface is as clean as any other.

Both kinds read the field at a point and at its mirror image and mix the two. Averaged, the weights are a half
everywhere. Mirrored, the side that the photo shows better counts alone, except near the middle, where the weights cross
over smoothly: taken at |x|, a nose that leans would get a crease along its ridge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .progress import Progress, silent
from .silhouette import ColouredField

SYMMETRIES = ("off", "average", "mirror")
CROSSING = 0.04  # box units (2 cm) on each side of the middle over which one side takes over from the other
MIRROR = np.array([-1.0, 1.0, 1.0], dtype=np.float32)


class SymmetricField:
    """A field made the same on both sides of x = 0, the middle of the head frame; colours too.

    side: +1 or -1: the sign of x on the side that counts. 0: both count the same.
    """

    def __init__(self, field: ColouredField, side: int) -> None:
        self._field = field
        self._side = side
        self.level = field.level
        self.box_side = field.box_side

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m,) density at points (m, 3) of the head frame."""
        own = self.weight(points)
        density = np.zeros(len(points), dtype=np.float32)
        for weight, at, start in ((own, points, 0.0), (1 - own, points * MIRROR, 0.5)):
            counts = weight > 0
            if counts.any():
                density[counts] += weight[counts] * self._field.density(at[counts], _half(progress, start))
        return density

    def colour(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m, 3) sRGB at points (m, 3) of the head frame."""
        own = self.weight(points)
        colour = np.zeros((len(points), 3), dtype=np.float32)
        for weight, at, start in ((own, points, 0.0), (1 - own, points * MIRROR, 0.5)):
            counts = weight > 0
            if counts.any():
                colour[counts] += weight[counts, None] * self._field.colour(at[counts], _half(progress, start))
        return colour

    def weight(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """(m,) how much of a point is its own, of 1; its mirror image has the rest."""
        ramp = np.clip(self._side * points[:, 0] / CROSSING, -1, 1)
        # Odd, and level where it ends, so that neither the middle nor the ends of the crossing show.
        return (0.5 + ramp * (3 - ramp**2) / 4).astype(np.float32)


def symmetric(field: ColouredField, symmetry: str, camera: Camera) -> ColouredField:
    """The field as an option of SYMMETRIES wants it.

    camera: of the photo. It sees the side better that it stands on.
    """
    if symmetry == "off":
        return field
    side = 0 if symmetry == "average" else (1 if camera.position[0] >= 0 else -1)
    return SymmetricField(field, side)


def _half(progress: Progress, start: float) -> Progress:
    """Progress of one of two readings."""
    return lambda fraction, label: progress(start + fraction / 2, label)
