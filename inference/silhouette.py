"""The photo's outline as a limit of the shape: nothing of the head may show where the photo shows background.

A visual hull (Laurentini 1994) of one view. The networks have seen synthetic hair only and put strands where a person
has none; the matte knows better. It can only take away: what the head lacks inside the outline stays lacking.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from skimage.morphology import convex_hull_image

from .alignment import AlignedPortrait
from .camera import Camera, project
from .progress import Progress, silent
from .surface import density_on_lattice, lattice_points

INSIDE = 0.5  # matte from which a pixel belongs to the person
OUTLINE_BLUR_PX = 5.0  # of 512; single strands and steps of the matte make no walls
MARGIN = 0.006  # box units (3 mm) that may stand beyond the outline: the matte's own error, and what rounding takes
ROUNDING = 0.012  # box units: the edge where outline and head meet is a bend of this width, not a crease
FALL = 2000.0  # density per box unit beyond the outline, as steep as the starter's own surface
FRAME_MARGIN_PX = 6.0  # of 512; nearer to the photo's edge the matte is not to be trusted


class ColouredField(Protocol):
    """What surface and texture need to know of a model (see `field.Field`)."""

    level: float
    box_side: float

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]: ...

    def colour(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]: ...


class CarvedField:
    """A field without what would show outside the outline; colours are the field's own.

    beyond_px: (s, s) signed distance of each pixel from the outline, px, positive outside.
    """

    def __init__(self, field: ColouredField, beyond_px: NDArray[np.floating], camera: Camera) -> None:
        self._field = field
        self._beyond = beyond_px / len(beyond_px)  # in picture coordinates, whose side is 1
        self._camera = camera
        self.level = field.level
        self.box_side = field.box_side

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m,) density at points (m, 3) of the head frame: the field's, or less the farther outside the outline."""
        return self._carved(self._field.density(points, progress), points)

    def density_on_lattice(
        self, x: NDArray[np.floating], y: NDArray[np.floating], z: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """(len(x), len(y), len(z)) the same at every point of a lattice, see `surface.density_on_lattice`."""
        own = density_on_lattice(self._field, x, y, z)
        return self._carved(own.ravel(), lattice_points(x, y, z)).reshape(own.shape)

    def _carved(self, density: NDArray[np.float32], points: NDArray[np.floating]) -> NDArray[np.float32]:
        """The field's density (m,) at points (m, 3) without what lies outside the outline."""
        own = (self.level - density) / FALL  # as if it were a distance
        outline = self.distance(points) - MARGIN
        bend = np.maximum(ROUNDING - np.abs(own - outline), 0.0)
        return (self.level - FALL * (np.maximum(own, outline) + bend**2 / (4 * ROUNDING))).astype(np.float32)

    def colour(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m, 3) sRGB at points (m, 3) of the head frame."""
        return self._field.colour(points, progress)

    def distance(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """(m,) distance of points (m, 3) from the cone through the outline, box units, positive outside it."""
        pixels, depth = project(points, self._camera)
        side = len(self._beyond)
        where = pixels[:, ::-1].T * side - 0.5  # rows, columns of pixel centres
        beyond = map_coordinates(self._beyond, where, order=1, mode="nearest")
        return (beyond * depth / self._camera.intrinsics[0, 0]).astype(np.float32)


def carve(field: ColouredField, portrait: AlignedPortrait, photo_size: tuple[int, int]) -> CarvedField:
    """Limit a field to the outline of the person in the photo.

    photo_size: (height, width) px of the photo; beyond its edges nothing is known, so nothing is taken away there.
    """
    return CarvedField(field, outline_distance(portrait, photo_size), portrait.camera)


def outline_distance(portrait: AlignedPortrait, photo_size: tuple[int, int]) -> NDArray[np.float64]:
    """(s, s) signed distance of the crop's pixels from the person's outline, px of the crop, positive outside."""
    side = len(portrait.matte)
    person = gaussian_filter(portrait.matte, OUTLINE_BLUR_PX) >= INSIDE
    person |= face_region(portrait.landmarks, side)
    person |= ~in_photo(portrait.photo_from_crop, photo_size, side)
    if person.all():
        return np.full((side, side), -float(side))  # the person fills the crop: there is no outline
    outside = distance_transform_edt(~person)
    inside = distance_transform_edt(person)
    return np.where(person, 0.5 - inside, outside - 0.5)  # the outline runs between the pixels


def face_region(landmarks: NDArray[np.floating], side: int) -> NDArray[np.bool_]:
    """(side, side) pixels among the landmarks: the face itself is the person, whatever the matte says."""
    points = np.zeros((side, side), dtype=bool)
    columns, rows = np.rint(landmarks[:, :2].T).astype(int)
    within = (columns >= 0) & (columns < side) & (rows >= 0) & (rows < side)
    points[rows[within], columns[within]] = True
    return convex_hull_image(points) if points.any() else points


def in_photo(photo_from_crop: NDArray[np.floating], photo_size: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """(side, side) pixels of the crop that lie in the photo, a little away from its edges."""
    height, width = photo_size
    rows, columns = np.mgrid[:side, :side] + 0.5
    x, y, w = np.tensordot(photo_from_crop, np.stack([columns, rows, np.ones_like(rows)]), axes=1)
    margin = FRAME_MARGIN_PX * np.sqrt(abs(np.linalg.det(photo_from_crop[:2, :2])))  # px of the photo
    x, y = x / w, y / w
    return (x > margin) & (x < width - margin) & (y > margin) & (y < height - margin)
