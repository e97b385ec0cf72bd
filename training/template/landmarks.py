"""Where on MakeHuman's face the landmark network sees its points: measured on synthetic heads, in the rest pose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.alignment import MESH_POINTS
from inference.camera import orbit_camera
from inference.face_networks import FaceNetworks

from ..heads.build import draw_head
from ..heads.head import SKIN, Head
from ..heads.lighting import sky_visibility
from ..heads.raster import rasterise
from ..heads.rig import Rig
from ..heads.samples import find_view_landmarks, render_view

FloatArray = NDArray[np.floating]

AZIMUTHS_DEG = (12.0, -12.0)
VIEW_SIZE = 320  # px; landmarks are looked for in a picture twice as large
HIT_SIZE = 1280  # px of the picture that tells which face lies under a landmark
LEAST_SIGHTINGS = 3  # of one landmark on skin


def landmarks_at_rest(rig: Rig, seeds: range, face: FaceNetworks) -> FloatArray:
    """(468, 3) the median place of each landmark on the mean head, head frame.

    Every sighting is a face of the bust and its barycentric weights: expression and shape of the heads do not matter.
    Raises ValueError if a landmark was never seen on skin.
    """
    sightings = [seen for seed in seeds for seen in _sightings(rig, seed, face)]
    stacked = np.stack(sightings)
    counted = np.isfinite(stacked[..., 0]).sum(0)
    if counted.min() < LEAST_SIGHTINGS:
        raise ValueError(f"landmark {int(counted.argmin())} was seen {int(counted.min())} times")
    return np.nanmedian(stacked, axis=0)


def _sightings(rig: Rig, seed: int, face: FaceNetworks) -> list[FloatArray]:
    """One (468, 3) for each view with a sure face; NaN where hair, an eye or nothing lies under a landmark."""
    head, rng = draw_head(rig, seed)
    if head.overlay is not None or head.look.headwear:
        return []
    found = []
    visibility = sky_visibility(head, rng)
    for azimuth_deg in AZIMUTHS_DEG:
        view = render_view(head, visibility, azimuth_deg, 0.0, rng, VIEW_SIZE)
        camera = orbit_camera(azimuth_deg, 0.0)
        landmarks = find_view_landmarks(view, camera, face)
        if np.isfinite(landmarks).all():
            found.append(_on_rest(rig, head, landmarks, azimuth_deg))
    return found


def _on_rest(rig: Rig, head: Head, landmarks: FloatArray, azimuth_deg: float) -> FloatArray:
    seen = rasterise(head.vertices, head.faces, orbit_camera(azimuth_deg, 0.0), HIT_SIZE)
    column, row = np.clip((landmarks[:MESH_POINTS, :2] * HIT_SIZE).astype(int), 0, HIT_SIZE - 1).T
    face, weights = seen.face[row, column], seen.weights[row, column]
    on_skin = (face >= 0) & (head.part[face] == SKIN)
    places = np.full((MESH_POINTS, 3), np.nan)
    corners = rig.rest[head.faces[face[on_skin]]]  # the skin's vertices come first in a head, as in the rig
    places[on_skin] = (corners * weights[on_skin, :, None]).sum(1)
    return places
