"""The picture of teeth, gums and tongue, which no portrait shows: painted by part and by place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..facing import smoothstep
from ..photo_check import LUMA
from ..raster import Fragments
from ..seams import pieces
from ..template import BONES, GUMS, TEETH_LOWER, TEETH_UPPER, RigTemplate
from .eyes import pixels_within
from .shape_fit import MM
from .uv_picture import noise, painted

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

SIDE = 1024  # texels
SEED = 11  # of the grain

ENAMEL = np.array([0.87, 0.82, 0.73])  # sRGB, Vita shade A1 to A2
ROOT = np.array([0.80, 0.71, 0.57])  # the neck of a tooth
GAP = np.array([0.62, 0.49, 0.39])  # between teeth
EDGE = np.array([0.82, 0.81, 0.79])  # cutting edges are greyer
GUM = np.array([0.74, 0.40, 0.38])  # light skin's
DARK_GUM = np.array([0.45, 0.25, 0.24])  # dark skin's
TONGUE = np.array([0.79, 0.50, 0.48])
BACK_SHADE, BACK = 0.55, (10 * MM, 32 * MM)  # what cheeks and lips keep of the light, so far behind the front teeth
THROAT = np.array([0.30, 0.10, 0.10])  # little light comes back from there
SKIN_LUMA = (0.25, 0.65)  # of dark and of light skin, between which gums go over
PAPILLA_MM, PATCH_MM = 0.7, 6.0  # grain of tongue and gums
# Reading the teeth in the photo, so that they are no lighter than the face around them
INNER_LIPS = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
LEAST_OPEN = 0.12  # height between the lips, of the mouth's width
FEWEST_PIXELS = 40
MOST_SATURATION = 0.45  # (most - least) / most of the channels: above, it is gum or tongue
LEAST_EXPOSURE = 0.55  # of enamel in full light: below, it is the mouth's shade, which a rig's mouth makes itself
INSIDE_ROW = (4 * MM, 8 * MM)  # from the lower teeth inwards, where gums end and the tongue lies


def read_teeth(image: FloatArray, landmarks_px: FloatArray) -> float | None:
    """How light the teeth are in a portrait, of enamel in full light, from LEAST_EXPOSURE to 1; None if none are seen.

    image: (s, s, 3) in [0, 1]; landmarks_px: (478, 2).
    """
    outline = landmarks_px[INNER_LIPS]
    width, height = np.ptp(outline, axis=0)
    y, x = pixels_within(outline, len(image))
    if len(y) < FEWEST_PIXELS or height < LEAST_OPEN * width:
        return None
    pixels = image[y, x]
    luma = pixels @ LUMA
    light = pixels[luma >= np.median(luma)]
    pale = (np.ptp(light, axis=1) / np.maximum(light.max(axis=1), 1e-6)) < MOST_SATURATION
    if pale.mean() < 0.5:
        return None
    return float(np.clip(np.median(light[pale] @ LUMA) / (ENAMEL @ LUMA), LEAST_EXPOSURE, 1.0))


def paint_mouth(
    template: RigTemplate, skin_colour: FloatArray, exposure: float = 1.0, side: int = SIDE
) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 sRGB of teeth, gums and tongue.

    skin_colour: (3,) sRGB of the face; gums are darker where skin is.
    exposure:    how light the teeth are, of enamel in full light.
    """
    points = template.vertices
    teeth = tooth_places(template)
    is_tooth = np.zeros(len(points))
    is_tooth[template.vertices_of(TEETH_UPPER, TEETH_LOWER)] = 1.0
    tongue = tongue_share(template)
    values = np.column_stack([points, teeth, is_tooth, tongue])
    throat_z = np.quantile(points[template.vertices_of(GUMS), 2], (0.0, 0.6))
    light = float(smoothstep(np.array([skin_colour @ LUMA]), *SKIN_LUMA)[0])
    gum = exposure * (DARK_GUM + light * (GUM - DARK_GUM))
    front_z = points[template.vertices_of(TEETH_UPPER), 2].max()

    def colour(cover: Fragments, faces: IntArray) -> FloatArray:
        at = cover.interpolate(values, faces)
        place, to_root, to_side, tooth, tongue = at[:, :3], at[:, 3], at[:, 4], at[:, 5], at[:, 6]
        grain = noise(place, PAPILLA_MM, SEED)[:, None]
        patch = noise(place, PATCH_MM, SEED + 1)[:, None]
        enamel = _mixed(ENAMEL, ROOT, smoothstep(to_root, 0.45, 1.0))
        enamel = _mixed(enamel, EDGE, 0.6 * (1 - smoothstep(to_root, 0.0, 0.2)))
        enamel = _mixed(enamel, GAP, 0.6 * smoothstep(to_side, 0.8, 1.1))
        soft = gum * (0.92 + 0.16 * patch)
        # Papillae cover the tongue but for its furrow.
        furrow = 1 - 0.18 * np.exp(-((place[:, :1] / (1.2 * MM)) ** 2))
        muscle = exposure * TONGUE * furrow * (0.86 + 0.28 * grain)
        soft = soft + tongue[:, None] * (muscle * (0.94 + 0.12 * patch) - soft)
        soft = _mixed(THROAT, soft, smoothstep(place[:, 2], *throat_z))
        shade = 1 - BACK_SHADE * smoothstep(front_z - place[:, 2], *BACK)[:, None]
        return shade * (soft + (tooth > 0.5)[:, None] * (exposure * enamel * (0.98 + 0.04 * patch) - soft))

    return painted(template, (TEETH_UPPER, TEETH_LOWER, GUMS), side, colour)


def tooth_places(template: RigTemplate) -> FloatArray:
    """(v, 2) how far each vertex of a tooth lies from its cutting edge to its root, and from its middle to its side.

    Both from 0 to 1; the side is along the row of teeth. 0 on all that is not a tooth.
    """
    faces = template.faces[np.isin(template.part, (TEETH_UPPER, TEETH_LOWER))]
    count = len(template.vertices)
    sides = np.stack([faces.ravel(), np.roll(faces, -1, axis=1).ravel()], axis=1)
    tooth_of = pieces(count, sides)
    upper = template.vertices_of(TEETH_UPPER)
    middle = template.vertices[template.vertices_of(TEETH_UPPER, TEETH_LOWER)].mean(axis=0)
    places = np.zeros((count, 2))
    for tooth in np.unique(tooth_of[faces]):
        own = np.flatnonzero(tooth_of == tooth)
        points = template.vertices[own]
        height = (points[:, 1] - points[:, 1].min()) / np.ptp(points[:, 1])
        outward = (points.mean(axis=0) - middle) * [1, 0, 1]
        along = np.cross([0.0, 1.0, 0.0], outward / np.linalg.norm(outward))
        aside = np.abs((points - points.mean(axis=0)) @ along)
        places[own] = np.column_stack([height if own[0] in upper else 1 - height, aside / aside.max()])
    return places


def tongue_share(template: RigTemplate) -> FloatArray:
    """(v,) in [0, 1] which vertices are the tongue's: of what is soft and goes with the jaw, that inside its teeth."""
    soft, teeth = template.vertices_of(GUMS), template.vertices_of(TEETH_LOWER)
    soft = soft[template.weights[soft, BONES.index("jaw")] > 0.5]
    row = template.vertices[teeth] * [1, 0, 1]
    flat = template.vertices[soft] * [1, 0, 1]
    nearest = row[cKDTree(row).query(flat)[1]]
    inwards = row.mean(axis=0) - nearest
    inwards /= np.linalg.norm(inwards, axis=1, keepdims=True)
    share = np.zeros(len(template.vertices))
    share[soft] = smoothstep(np.einsum("ij,ij->i", flat - nearest, inwards), *INSIDE_ROW)
    return share


def _mixed(one: FloatArray, other: FloatArray, share: FloatArray) -> FloatArray:
    """(n, 3) from one colour to another, (3,) or (n, 3), by share (n,)."""
    return one + share[:, None] * (other - one)
