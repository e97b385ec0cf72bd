"""The eyes' picture: iris in the photo's colour, pupil, limbal ring, and a white that is not quite white.

Painted by the angle from the gaze's axis and around it, so it fits whatever layout the eyeballs have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..alignment import AlignedPortrait
from ..face_region import EYE_OUTLINES
from ..facing import smoothstep
from ..photo_check import LUMA
from ..raster import Fragments
from ..template import EYE_LEFT, RigTemplate
from .neutral import Eyeball
from .uv_picture import painted

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

SIDE = 1024  # texels; the iris has about 400 across
SEED = 7  # of fibres and veins

# The human eye: the visible iris is 11.7 mm wide (Rufer et al., Cornea 24, 2005), the ball 24 mm (Bekerman et al.,
# Journal of Ophthalmology 2014). Heads differ in size, eyes hardly: as an angle it holds for every ball.
IRIS_OF_BALL = 11.7 / 24
IRIS_ANGLE = float(np.arcsin(IRIS_OF_BALL))  # radians from the gaze's axis
PUPIL = 0.34  # of the iris' radius: in a lit room

# Reading the iris in the photo
IRISES = ((468, (469, 470, 471, 472)), (473, (474, 475, 476, 477)))  # centre and rim: the subject's right, then left
RING = (0.4, 0.85)  # of its radius: between the pupil and the limbal ring
WHITE_RING = (1.25, 2.2)  # where the white is, inside the lids
MIDDLE_HALF = (0.25, 0.75)  # quantiles of lightness that count: lashes are darker, highlights lighter
FEWEST_PIXELS = 12
SMALLEST_RADIUS_PX = 3.0  # of the crop
LEAST_OPEN = 0.45  # height between the lids, of the iris' width
LEAST_CONTRAST, LEAST_WHITE = 0.06, 0.15  # lightness of the white above the iris' and at all: not behind dark glasses
MOST_GAIN = 2.0  # eyes lie in the brows' shade: by so much the iris may become lighter when the white becomes white
# How light the eyes are painted, of eyes in full light. Skin keeps much of the photo's light, and full white beside it
# stares; lids and brows of the rig give shade of their own, which takes the rest.
OWN_SHADE = 0.85
LEAST_EXPOSURE, GUESSED_EXPOSURE = 0.45, 0.65
BROWN = np.array([0.36, 0.22, 0.13])  # sRGB: the commonest iris

WHITE = np.array([0.91, 0.88, 0.85])  # sRGB of the white in front
WHITE_LUMA = float(WHITE @ LUMA)
BEHIND = np.array([0.87, 0.76, 0.71])  # towards the lids' corners
VEIN = np.array([0.70, 0.24, 0.20])
PUPIL_COLOUR = 0.012


@dataclass(frozen=True)
class IrisColour:
    """srgb (3,) in [0, 1] in full light; known: False where the photo did not show it and brown stands for it.

    exposure: how light the eyes are painted, white and all, of eyes in full light.
    """

    srgb: FloatArray
    known: bool
    exposure: float = GUESSED_EXPOSURE


def read_iris(portrait: AlignedPortrait) -> IrisColour:
    """The colour of the irises in a portrait, of the eyes that show it plainly; brown where none does."""
    found = [read_eye(portrait.image / 255, portrait.landmarks[:, :2], eye) for eye in range(len(IRISES))]
    colours = [one for one in found if one is not None]
    if not colours:
        return IrisColour(BROWN, False)
    weight = np.array([count for _, _, count in colours], dtype=float)
    colour = np.average([colour for colour, _, _ in colours], axis=0, weights=weight)
    white = np.average([white for _, white, _ in colours], weights=weight)
    return IrisColour(colour, True, float(np.clip(white / (OWN_SHADE * WHITE_LUMA), LEAST_EXPOSURE, 1.0)))


def read_eye(image: FloatArray, landmarks_px: FloatArray, eye: int) -> tuple[FloatArray, float, int] | None:
    """(3,) sRGB of one iris in full light, lightness of the white as it is, and by how many pixels of the iris.

    None where the eye is closed, small, or hidden.

    image: (s, s, 3) in [0, 1]; landmarks_px: (478, 2); eye: place in IRISES.
    """
    centre, rim = IRISES[eye]
    middle = landmarks_px[centre]
    radius = float(np.linalg.norm(landmarks_px[list(rim)] - middle, axis=1).mean())
    outline = landmarks_px[EYE_OUTLINES[eye]]
    if radius < SMALLEST_RADIUS_PX or np.ptp(outline[:, 1]) < LEAST_OPEN * 2 * radius:
        return None
    y, x = pixels_within(outline, len(image))
    away = np.hypot(x + 0.5 - middle[0], y + 0.5 - middle[1]) / radius
    iris = _middle_of(image[y, x][(away > RING[0]) & (away < RING[1])])
    white = _middle_of(image[y, x][(away > WHITE_RING[0]) & (away < WHITE_RING[1])])
    if iris is None or white is None:
        return None
    lightness, darkness = white[0] @ LUMA, iris[0] @ LUMA
    if lightness < max(LEAST_WHITE, darkness + LEAST_CONTRAST):
        return None
    gain = np.clip(WHITE_LUMA / lightness, 1.0, MOST_GAIN)
    return np.clip(iris[0] * gain, 0.02, 0.9), lightness, iris[1]


def pixels_within(outline_px: FloatArray, side: int) -> tuple[IntArray, IntArray]:
    """Rows and columns (n,) of a square picture's pixels within a polygon (k, 2) of x and y."""
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon([tuple(corner) for corner in outline_px.tolist()], fill=255)
    rows, columns = np.nonzero(np.asarray(mask))
    return rows, columns


def _middle_of(pixels: FloatArray) -> tuple[FloatArray, int] | None:
    """The median of those (n, 3) that are neither dark nor bright among them, and how many there are."""
    if len(pixels) < FEWEST_PIXELS:
        return None
    luma = pixels @ LUMA
    low, high = np.quantile(luma, MIDDLE_HALF)
    return np.median(pixels[(luma >= low) & (luma <= high)], axis=0), len(pixels)


def paint_eyes(template: RigTemplate, iris: IrisColour, side: int = SIDE) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 sRGB of both eyeballs, which share one layout."""
    ball = Eyeball.of(template, template.vertices, EYE_LEFT)
    pupil = template.vertices[template.vertices_of(EYE_LEFT)[0]]
    gaze = (pupil - ball.centre) / ball.radius
    right = np.cross([0.0, 1.0, 0.0], gaze)
    right /= np.linalg.norm(right)
    up = np.cross(gaze, right)

    def shade(cover: Fragments, faces: IntArray) -> FloatArray:
        ray = (cover.interpolate(template.vertices, faces) - ball.centre).astype(np.float32)
        ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12)
        along, upwards, aside = (ray @ np.stack([gaze, up, right], axis=1).astype(np.float32)).T
        return iris.exposure * eye_colour(np.arccos(np.clip(along, -1, 1)), np.arctan2(upwards, aside), iris.srgb)

    return painted(template, (EYE_LEFT,), side, shade)


def eye_colour(angle: FloatArray, around: FloatArray, iris: FloatArray) -> FloatArray:
    """(n, 3) sRGB of an eyeball at angles (n,) from the gaze's axis and around it, radians."""
    random = np.random.default_rng(SEED)
    from_centre = angle / IRIS_ANGLE
    depth = np.clip((from_centre - PUPIL) / (1 - PUPIL), 0, 1)  # 0 at the pupil's rim, 1 at the limbus

    # Fibres run outwards and waver; fine ones lie on coarse ones.
    fibres = np.zeros_like(angle)
    for waves, strength in ((23, 0.30), (47, 0.35), (91, 0.25), (163, 0.2)):
        phase, sway, turns = random.uniform(0, 2 * np.pi), random.uniform(0.3, 0.8), random.uniform(3, 7)
        fibres += strength * np.sin(waves * around + phase + sway * np.sin(turns * depth + phase))
    flecks = np.zeros_like(angle)
    for waves in (3, 5, 8):
        flecks += np.sin(waves * around + random.uniform(0, 2 * np.pi) + 4 * depth) / 3
    collarette = np.exp(-(((depth - 0.25) / 0.12) ** 2))
    light = 1 + 0.28 * fibres * (0.4 + 0.6 * (1 - depth)) + 0.10 * flecks + 0.22 * collarette - 0.10 * depth
    warm = np.array([1.12, 1.0, 0.82])  # the collarette is browner than the rest
    coloured = iris * (1 + collarette[:, None] * (warm - 1)) * light[:, None]
    coloured *= (1 - 0.62 * smoothstep(from_centre, 0.80, 1.0))[:, None]  # limbal ring
    coloured *= smoothstep(from_centre, PUPIL - 0.02, PUPIL + 0.10)[:, None] * 0.75 + 0.25
    is_iris = smoothstep(from_centre, PUPIL - 0.03, PUPIL + 0.03)
    inside = PUPIL_COLOUR + is_iris[:, None] * (coloured - PUPIL_COLOUR)

    outwards = smoothstep(angle, 1.1 * IRIS_ANGLE, 3.2 * IRIS_ANGLE)
    white = WHITE + outwards[:, None] * (BEHIND - WHITE)
    # Veins are the zero lines of a few waves that are drawn out towards the iris.
    course = np.zeros_like(angle)
    for waves, along in ((9, 1.5), (17, 3.0), (31, 5.0)):
        course += np.sin(waves * around + random.uniform(0, 2 * np.pi) + 1.2 * np.sin(along * angle + waves))
    vein = np.exp(-((course / 0.09) ** 2)) * smoothstep(angle, 1.35 * IRIS_ANGLE, 3.0 * IRIS_ANGLE)
    white += 0.3 * vein[:, None] * (VEIN - white)
    return inside + smoothstep(from_centre, 0.95, 1.06)[:, None] * (white - inside)
