"""Where in the crop the face is: its outline, its eyes and brows, and what of it is bare skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from .alignment import MESH_POINTS, AlignedPortrait
from .facing import smoothstep

FloatMap = NDArray[np.float32]

# Closed outlines on the 478-point face mesh, as MediaPipe draws them.
EYE_OUTLINES = [  # the subject's right, then left
    [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246],
    [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466],
]
BROW_OUTLINES = [
    [70, 63, 105, 66, 107, 55, 65, 52, 53, 46],
    [300, 293, 334, 296, 336, 285, 295, 282, 283, 276],
]
LIPS_OUTLINE = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
NOSTRILS = [98, 97, 2, 326, 327, 290, 250, 20, 60]
UPPER_LIP = 0  # above it, a face wears no beard

OUTLINE_FEATHER = 4.0  # px of the crop, standard deviation: landmarks are no surer
EYE_MARGIN = 6  # px of the crop: lashes and lids around the outline of an eye
FEATURE_MARGIN = 4  # px of the crop
SKIN_BLUR = 4.0  # px of the crop, 3 mm: pores, stubble and noise are not colours of their own
SKIN_CHROMA = (0.06, 0.12)  # distance from the skin's mean share of red and green: from skin to surely something else
SKIN_STOPS = (1.0, 1.8)  # powers of two darker or lighter than the skin's median, between which skin ends
GAMMA = 2.2  # of sRGB, about
DARK = 1e-3  # linear light below which a pixel has no chroma


@dataclass(frozen=True)
class FaceRegion:
    """Soft maps of the crop, (s, s) float32 from 0 to 1.

    face:     inside the outline of the face.
    eyes:     each eye with its lids and lashes: the subject's right, then left.
    features: eyes, brows, nostrils and lips.
    skin:     of the colour that the face's skin has, anywhere in the crop.
    bald:     the part of the face above the upper lip, where what is not skin and no feature is hair, or an object.
    """

    face: FloatMap
    eyes: tuple[FloatMap, FloatMap]
    features: FloatMap
    skin: FloatMap
    bald: FloatMap

    @classmethod
    def of(cls, portrait: AlignedPortrait, trust: FloatMap) -> FaceRegion:
        """The maps of a portrait; trust (s, s) tells which pixels surely show the person."""
        size = len(portrait.image)
        points = portrait.landmarks[:, :2]

        def soft(outline: list[int], margin: int) -> FloatMap:
            return _polygon(points[outline], size, margin)

        eyes = (soft(EYE_OUTLINES[0], EYE_MARGIN), soft(EYE_OUTLINES[1], EYE_MARGIN))
        others = [soft(outline, FEATURE_MARGIN) for outline in (*BROW_OUTLINES, LIPS_OUTLINE)] + [soft(NOSTRILS, 0)]
        features = np.maximum.reduce([*eyes, *others])
        # The hull, not the mesh's own rim: on turned faces the nose stands out beyond that. QJ: points on a line are no
        # error, but a face without area.
        face = soft(ConvexHull(points[:MESH_POINTS], qhull_options="QJ").vertices.tolist(), 0)
        # Rows of the picture stand for height on the face: the crop is upright.
        rows = np.arange(size, dtype=np.float32)[:, None] + 0.5
        bald = smoothstep(points[UPPER_LIP, 1] - rows, -OUTLINE_FEATHER, 3 * OUTLINE_FEATHER)
        bald = np.broadcast_to(bald, face.shape).astype(np.float32)
        return cls(face, eyes, features, _skin(portrait.image, face * bald * (1 - features) * trust), bald)


def _polygon(corners_px: NDArray[np.floating], size: int, margin: int) -> FloatMap:
    """A filled outline, grown by `margin` px and feathered."""
    picture = Image.new("L", (size, size))
    ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners_px.tolist()], fill=255)
    inside = np.asarray(picture) > 0
    if margin:
        inside = ndimage.binary_dilation(inside, iterations=margin)
    return ndimage.gaussian_filter(inside.astype(np.float32), OUTLINE_FEATHER)


def _skin(image: NDArray[np.uint8], sample: FloatMap) -> FloatMap:
    """(s, s) how much a pixel has the colour of skin, which is what most of the sample (s, s) shows."""
    chosen = sample > 0.5
    if not chosen.any():
        return np.zeros(sample.shape, np.float32)
    linear = ndimage.gaussian_filter((image / np.float32(255)) ** GAMMA, (SKIN_BLUR, SKIN_BLUR, 0))
    light = linear.sum(axis=2)
    chroma = linear[..., :2] / np.maximum(light, DARK)[..., None]
    stops = np.log2(np.maximum(light, DARK))
    off = np.linalg.norm(chroma - np.median(chroma[chosen], axis=0), axis=2)
    apart = np.abs(stops - np.median(stops[chosen]))
    return ((1 - smoothstep(off, *SKIN_CHROMA)) * (1 - smoothstep(apart, *SKIN_STOPS))).astype(np.float32)
