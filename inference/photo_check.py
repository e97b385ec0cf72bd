"""What in a photo may spoil the head though one can be made: told as warnings, with what to do about each.

Cheap measures on the aligned portrait. The limits lie well beyond what plain portraits reach, in 20 photographs of
people of many skin tones, with beards, spectacles, hats, fringes and hard light: a false alarm teaches people not to
read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab

from .alignment import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, AlignedPortrait, inter_ocular
from .silhouette import INSIDE, face_region, in_photo

# Landmarks of the 478-point face mesh, from the subject's point of view
CHEEKS = (280, 50)  # left, right
CHIN = [18, 200, 199, 175, 421, 201, 152, 32, 262]  # below the lips
LUMA = np.array([0.299, 0.587, 0.114])

STEEP_YAW_DEG = 45.0  # beyond, the landmark fit, and with it the camera, is unreliable
STEEP_PITCH_DEG = 30.0  # beyond, nostrils or crown fill the picture; portraits stay within 15
LOW_LANDMARK_SCORE = 0.7  # the landmark network is this unsure of faces that are covered or blurred
FEW_EYE_PX = 36.0  # distance of the eyes in the photo; at 30 the photo is refused
SHARPNESS_PX = 256  # side of the crop at which sharpness is measured: finer than that the model sees nothing
BLURRED = 0.006  # variance of the Laplacian over that of luma; photos have 0.08 and more, blurred by 4 px of 512 0.004
DARK = 0.3  # luma, sRGB, that 19 of 20 face pixels stay below; well lit, the darkest skins reach 0.58
LENS_RADIUS = 0.3  # eye distances, of the disc around each eye in which sunglasses are looked for
LENS_CONTRAST = 25.0  # CIELAB: a pixel this far from the cheek's colour may be lens,
LENS_CHROMA = 12.0  # if its hue differs too
LENS_SHARE = 0.75  # of both discs; eyes, make-up and shadow under a hat reach 0.64, mirrored sunglasses 0.87
CHIN_CHROMA = 20.0  # a, b of CIELAB between cheeks and chin; without a beard 15 at most
BEARD_DARKER = 20.0  # L of CIELAB: what is so much darker than the cheek may be a beard,
BEARD_SHARE = 0.5  # whose hue counts by half: beards differ from skin by 25
EDGE_PX = 8  # of 512: width of the strip along the photo's edges where the head may be cut
CUT_WIDTH = 0.5  # eye distances of the edge that the head covers


@dataclass(frozen=True)
class Looks:
    """Measures of one portrait; the constants above say what is usual.

    sharpness:      of the face.
    brightness:     luma of the brightest skin, sRGB in [0, 1].
    lens_share:     share of both eyes' surroundings that looks unlike the cheek in lightness and hue.
    chin_chroma:    difference of hue between chin and cheeks, less where the chin is dark as a beard.
    cut_width:      how much of the photo's edge the head covers above the eyes, eye distances.
    """

    sharpness: float
    brightness: float
    lens_share: float
    chin_chroma: float
    cut_width: float


def photo_warnings(portrait: AlignedPortrait, photo_size: tuple[int, int]) -> list[str]:
    """What may go wrong with this photo, for people; photo_size is (height, width) px."""
    pose, looks, warnings = portrait.pose, measure(portrait, photo_size), []
    if pose.faces_found > 1:
        warnings.append(f"{pose.faces_found} faces were found; the largest was taken. Crop to choose another.")
    if abs(pose.yaw_deg) > STEEP_YAW_DEG:
        warnings.append("The face is turned more than 45 degrees; the shape may be off. A more frontal photo is safer.")
    if abs(pose.pitch_deg) > STEEP_PITCH_DEG:
        warnings.append("The face looks far up or down; the shape may be off. Take it at the height of the eyes.")
    if pose.landmark_score < LOW_LANDMARK_SCORE:
        warnings.append(
            "The face is hard to make out; covered or blurred parts may be wrong. Use one with nothing before it."
        )
    if looks.cut_width > CUT_WIDTH:
        warnings.append("The photo cuts the head off; what is missing is made up. Leave room above the hair.")
    if pose.inter_ocular_px < FEW_EYE_PX:
        warnings.append("The face is small in the photo; its texture will be blurred. Use a closer or larger photo.")
    elif looks.sharpness < BLURRED:
        warnings.append("The face is blurred, and so will its texture be. Use a photo that is in focus.")
    if looks.brightness < DARK:
        warnings.append("The face is very dark; shape and colours may be off. Use a photo with more light on the face.")
    if looks.lens_share > LENS_SHARE:
        warnings.append("The eyes seem to be behind dark glasses, which will be painted on. Use a photo without them.")
    if looks.chin_chroma > CHIN_CHROMA:
        warnings.append("Mouth or chin seem to be covered, which will be painted on. Use a photo without a mask.")
    return warnings


def measure(portrait: AlignedPortrait, photo_size: tuple[int, int]) -> Looks:
    """Look at a portrait; photo_size is (height, width) px."""
    side = len(portrait.image)
    colour = portrait.image.astype(np.float64) / 255
    luma, lab = colour @ LUMA, rgb2lab(colour)
    points, eyes_px = portrait.landmarks[:, :2], inter_ocular(portrait.landmarks)
    face = face_region(portrait.landmarks, side)

    block = side // SHARPNESS_PX
    small = luma.reshape(SHARPNESS_PX, block, SHARPNESS_PX, block).mean(axis=(1, 3))
    inner = ndimage.binary_erosion(face[::block, ::block], iterations=4)  # its outline is sharp in any photo
    varied = small[inner].var() if inner.any() else 0.0
    sharpness = ndimage.laplace(small)[inner].var() / varied if varied > 0 else 0.0

    cheeks = [_disc(points[cheek], 0.15 * eyes_px, side) for cheek in CHEEKS]
    skin = np.median(np.concatenate([lab[cheek] for cheek in cheeks]), axis=0)
    lens = []
    for corners in (LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS):
        apart = lab[_disc(points[corners].mean(axis=0), LENS_RADIUS * eyes_px, side)] - skin
        alike = (np.linalg.norm(apart, axis=1) < LENS_CONTRAST) | (np.linalg.norm(apart[:, 1:], axis=1) < LENS_CHROMA)
        lens.append(1 - alike.mean())
    chin = np.median(lab[_disc(points[CHIN].mean(axis=0), 0.3 * eyes_px, side)], axis=0) - skin

    shown = in_photo(portrait.photo_from_crop, photo_size, side)
    edge = shown & ~ndimage.binary_erosion(shown, iterations=EDGE_PX, border_value=1)
    edge[int(points[RIGHT_EYE_CORNERS + LEFT_EYE_CORNERS, 1].mean()) :] = False  # below, shoulders may touch
    return Looks(
        sharpness=float(sharpness),
        brightness=float(np.percentile(luma[face], 95)) if face.any() else 0.0,
        lens_share=float(min(lens)),
        chin_chroma=float(np.hypot(chin[1], chin[2]) * (BEARD_SHARE if chin[0] < -BEARD_DARKER else 1.0)),
        cut_width=float((edge & (portrait.matte > INSIDE)).sum() / (EDGE_PX * eyes_px)),
    )


def _disc(centre: NDArray[np.floating], radius: float, side: int) -> NDArray[np.bool_]:
    """(side, side) pixels within a radius, at least the nearest one."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    x, y = np.clip(centre, 0.5, side - 0.5)
    return np.hypot(columns - x, rows - y) < max(radius, 1.0)
