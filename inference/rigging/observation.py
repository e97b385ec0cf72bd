"""What a rig is fitted to: the scan, where it is skin, and the photo's landmarks as rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..alignment import inter_ocular
from ..camera import Camera, unproject
from ..raster import sample_image
from ..surface import Mesh, weld
from .nearest import NearestPoints

FloatArray = NDArray[np.floating]

CONTOUR = (  # landmarks around the face, from the forehead's middle over the subject's left
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
CONTOUR_TRUST = 0.15  # the outline of the face slides along cheek and hairline: its points are no fixed points of skin


@dataclass(frozen=True)
class Observation:
    """The reconstructed head as the rig's fit sees it; head frame, box units.

    scan:         welded mesh; colour (v, 3) sRGB in [0, 1] of its vertices.
    visibility:   (v,) in [0, 1] how plainly the photo shows them.
    nearest:      the nearest point of that mesh.
    picture:      (478, 2) landmarks in the portrait, 0 to 1.
    rays:         (478, 3) unit directions from the camera through the landmarks.
    trust:        (478,) in (0, 1] of each landmark, before the head's turn is known.
    eye_distance: between the eye centres in the portrait, of its side.
    """

    scan: Mesh
    colour: FloatArray
    visibility: FloatArray
    nearest: NearestPoints
    camera: Camera
    picture: FloatArray
    rays: FloatArray
    trust: FloatArray
    eye_distance: float


def observe(
    mesh: Mesh,
    uv: FloatArray,
    albedo: NDArray[np.uint8],
    landmarks_px: FloatArray,
    camera: Camera,
    side_px: int,
    visibility: FloatArray | None = None,
) -> Observation:
    """Prepare a finished head.

    mesh, uv:     as in head.safetensors: vertices on seams once per island, v running down.
    albedo:       (t, t, 3) uint8 sRGB.
    landmarks_px: (478, 2 or more) portrait pixels; side_px is the portrait's side.
    visibility:   (v,) in [0, 1] as `TexturedHead.visibility`; None where nobody knows, as if nothing was seen.
    """
    whole, merged = weld(mesh)
    first = np.unique(merged, return_index=True)[1]
    colour = sample_image(albedo, uv[first] * len(albedo)).astype(np.float64) / 255
    picture = np.asarray(landmarks_px, dtype=np.float64)[:, :2] / side_px
    rays = unproject(picture, np.ones(len(picture)), camera) - camera.position
    trust = np.ones(len(picture))
    trust[list(CONTOUR)] = CONTOUR_TRUST
    return Observation(
        scan=whole,
        colour=colour,
        visibility=np.zeros(len(first)) if visibility is None else np.asarray(visibility, dtype=np.float64)[first],
        nearest=NearestPoints(whole),
        camera=camera,
        picture=picture,
        rays=rays / np.linalg.norm(rays, axis=1, keepdims=True),
        trust=trust,
        eye_distance=inter_ocular(picture),
    )
