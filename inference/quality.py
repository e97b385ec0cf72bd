"""How well a head fits its photo: the figures of head.json's `quality`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .alignment import AlignedPortrait, find_faces, find_landmarks, inter_ocular
from .bake import ColourField
from .camera import Camera, project
from .face_networks import FaceNetworks
from .raster import rasterise_view
from .resampling import build_pyramid
from .surface import Mesh

SILHOUETTE_SIZE = 256  # px; 2 mm a pixel on the head, finer than the matte
MATTE_EDGE = 0.5  # a pixel counts as head from half a matte on
OWN_PICTURE_SIZE = 256  # px; the landmark network looks at no more
BACKGROUND = 0.5  # mid grey behind the model's own picture, as behind the portrait the encoders see


@dataclass(frozen=True)
class Quality:
    """Figures of one head.

    visible_share: of the surface, by area, that the photo saw.
    matte_iou:     how well the head's outline covers the person's, 1 is perfect.
    landmark_nme:  how far the model's own face lies from the photo's, in eye distances; None without a face on it.
    """

    visible_share: float
    matte_iou: float
    landmark_nme: float | None


def visible_share(mesh: Mesh, visibility: NDArray[np.floating]) -> float:
    """Share of the head's surface, by area, that the photo saw; visibility (v,) in [0, 1] per vertex."""
    corners = mesh.vertices[mesh.faces]  # (face, corner, 3)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return float((area * visibility[mesh.faces].mean(axis=1)).sum() / area.sum())


def matte_iou(mesh: Mesh, camera: Camera, matte: NDArray[np.floating]) -> float:
    """Intersection over union of the mesh's silhouette in the photo's camera and the matte (s, s).

    Only rows above the neck cut count, the same for both: the mesh ends there by design, and the matte goes on into the
    shoulders. The limit is the highest picture point of the cut's rim, so no row holds a part of the cut.
    """
    covered = rasterise_view(mesh.vertices, mesh.faces, camera, SILHOUETTE_SIZE).covered
    head = _shrink(matte, SILHOUETTE_SIZE) >= MATTE_EDGE
    rim = mesh.vertices[:, 1] <= mesh.vertices[:, 1].min() + 1e-6
    picture, _ = project(mesh.vertices[rim], camera)
    last_row = int(np.clip(picture[:, 1].min() * SILHOUETTE_SIZE, 0, SILHOUETTE_SIZE))
    covered, head = covered[:last_row], head[:last_row]
    union = (covered | head).sum()
    return float((covered & head).sum() / union) if union else 0.0


def landmark_nme(mesh: Mesh, field: ColourField, portrait: AlignedPortrait, face: FaceNetworks) -> float | None:
    """Mean distance between the photo's landmarks and those of the model's head in the same camera, in eye distances.

    The head wears the model's own colours here: with the photo's pixels on it every shape would look right from where
    the photo was taken. None when the landmark networks find no face on it.
    """
    picture = build_pyramid(own_picture(mesh, field, portrait.camera))
    detections = find_faces(picture, face)
    if not detections:
        return None
    found = find_landmarks(picture, detections[0], face).points[:, :2] * (len(portrait.image) / OWN_PICTURE_SIZE)
    wanted = portrait.landmarks[:, :2]
    return float(np.linalg.norm(found - wanted, axis=1).mean() / inter_ocular(portrait.landmarks))


def own_picture(mesh: Mesh, field: ColourField, camera: Camera) -> NDArray[np.uint8]:
    """(OWN_PICTURE_SIZE, OWN_PICTURE_SIZE, 3) sRGB: the surface in the model's colours, on mid grey."""
    raster = rasterise_view(mesh.vertices, mesh.faces, camera, OWN_PICTURE_SIZE)
    picture = np.full((OWN_PICTURE_SIZE, OWN_PICTURE_SIZE, 3), BACKGROUND, dtype=np.float32)
    picture[raster.covered] = field.colour(raster.interpolate(mesh.vertices, mesh.faces))
    return np.round(picture.clip(0, 1) * 255).astype(np.uint8)


def _shrink(picture: NDArray[np.floating], size: int) -> NDArray[np.floating]:
    """Mean over square blocks: (s, s) to (size, size), s a multiple of size."""
    block = len(picture) // size
    return picture.reshape(size, block, size, block).mean(axis=(1, 3))
