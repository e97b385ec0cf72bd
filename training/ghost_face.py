"""Ghost faces: a second face on the back of the head, painted by a model that only ever saw fronts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.alignment import NEAR_SCORE, find_faces
from inference.camera import orbit_camera
from inference.face_networks import FaceNetworks
from inference.resampling import build_pyramid

BACK_CAMERA = orbit_camera(180.0)
PICTURE_SIZE = 512  # px of the back view: the detectors see it as they see photos


def shows_face(picture: NDArray[np.uint8], face: FaceNetworks) -> bool:
    """Whether the product's own face detectors are sure of a face.

    picture: (h, w, 3) sRGB.

    What they keep below NEAR_SCORE convinced nobody: it is kept at a photo's edge, to tell half a face from none.
    """
    return any(detection.score >= NEAR_SCORE for detection in find_faces(build_pyramid(picture), face))
