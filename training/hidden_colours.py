"""Does the unseen side carry the photo's colours? Hair and skin of a finished head, seen against unseen.

Which vertices are hair and which skin is told by where they lie on the head, since the texture has no labels:

- hair seen: the top above the hairline, and the sides above the ears; hair unseen: the back of the head;
- skin seen: nose and cheeks; skin unseen: the cheek that a turned face hides, or else the jaw's underside and the neck.

Hair, beards and collars may cover the neck. A vertex there counts as skin only when its colour is nearer to the seen
skin's than to the seen hair's, and the measure is skipped when most are not. That flatters a model which paints necks
in hair colour and skin in turn, so the share that counted is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from inference.bake import TexturedHead
from inference.raster import sample_image

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

SEEN, UNSEEN = 0.3, 0.02  # of a vertex's visibility: much of the photo's pixel; the model's colour alone
FEWEST = 30  # vertices; a median of less says nothing
# Regions in the head frame, box units.
HAIRLINE_Y = 0.14  # the mean forehead ends at .08, hairlines lie up to .05 higher
SIDE_Z, SIDE_Y = 0.03, 0.02  # seen hair also lies behind the temples and above the ears
BACK_Z, BACK_Y = -0.08, -0.05  # unseen hair: behind the ears and above the nape
CHEEK_Z, CHEEK_HALF_WIDTH, CHEEK_Y = 0.10, 0.11, (-0.13, -0.04)  # below the eyes, above the lips
NECK_Z, NECK_Y = 0.10, (-0.29, -0.18)  # below and behind the jaw, above most collars
ALIKE = 8.0  # CIEDE2000: a top of the head that near the skin's colour is bald or shaved
FEWEST_SKIN = 0.3  # share of the unseen neck that must be skin


@dataclass(frozen=True)
class ColourDifference:
    """CIEDE2000 between the median colours seen and unseen; None when it cannot be told.

    note: why not, or where the unseen colour was looked for.
    """

    ciede2000: float | None
    note: str = ""


@dataclass(frozen=True)
class HiddenColours:
    """Hair and skin of one head."""

    hair: ColourDifference
    skin: ColourDifference


def hidden_colours(head: TexturedHead, hairless_because: str = "") -> HiddenColours:
    """Compare the unseen side's hair and skin with the seen ones.

    hairless_because: why the photo shows no hair (a hat, a headscarf), "" if it does; nothing here recognises hats.
    """
    lab = vertex_lab(head)
    x, y, z = head.mesh.vertices.T
    seen, unseen = head.visibility > SEEN, head.visibility < UNSEEN
    top = lab[seen & ((y > HAIRLINE_Y) | ((z < SIDE_Z) & (y > SIDE_Y)))]
    back = lab[unseen & (z < BACK_Z) & (y > BACK_Y)]
    cheeks = (z > CHEEK_Z) & (np.abs(x) < CHEEK_HALF_WIDTH) & (y > CHEEK_Y[0]) & (y < CHEEK_Y[1])
    neck = (z < NECK_Z) & (y > NECK_Y[0]) & (y < NECK_Y[1])
    skin = lab[seen & cheeks]
    if len(skin) < FEWEST:
        lost = "no skin seen"
        return HiddenColours(ColourDifference(None, hairless_because or lost), ColourDifference(None, lost))
    skin_colour = np.median(skin, axis=0)
    top_colour = np.median(top, axis=0) if len(top) >= FEWEST else None
    return HiddenColours(
        hair_difference(top_colour, back, skin_colour, hairless_because),
        skin_difference(skin_colour, lab[unseen & cheeks], lab[unseen & neck], top_colour),
    )


def hair_difference(
    top_colour: FloatArray | None, back: FloatArray, skin_colour: FloatArray, hairless_because: str
) -> ColourDifference:
    """The seen hair's colour (3,) against the back of the head (n, 3); all CIELAB."""
    if hairless_because:
        return ColourDifference(None, hairless_because)
    if top_colour is None:
        return ColourDifference(None, "no hair seen")
    if len(back) < FEWEST:
        return ColourDifference(None, "the back was seen")
    if difference(top_colour, skin_colour) < ALIKE:
        return ColourDifference(None, "bald or shaved")
    return ColourDifference(difference(top_colour, np.median(back, axis=0)))


def skin_difference(
    skin_colour: FloatArray, cheek: FloatArray, neck: FloatArray, top_colour: FloatArray | None
) -> ColourDifference:
    """The seen skin's colour (3,) against the unseen cheek (n, 3), or else the unseen neck (m, 3); all CIELAB."""
    if len(cheek) >= FEWEST:
        return ColourDifference(difference(skin_colour, np.median(cheek, axis=0)), "cheek")
    if len(neck) < FEWEST:
        return ColourDifference(None, "no skin unseen")
    is_skin = np.ones(len(neck), bool)
    if top_colour is not None and difference(top_colour, skin_colour) >= ALIKE:
        is_skin = differences(neck, skin_colour) < differences(neck, top_colour)
    share = float(is_skin.mean())
    if share < FEWEST_SKIN:
        return ColourDifference(None, f"neck covered, {share:.0%} skin")
    return ColourDifference(difference(skin_colour, np.median(neck[is_skin], axis=0)), f"neck, {share:.0%} skin")


def vertex_lab(head: TexturedHead) -> FloatArray:
    """(v, 3) CIELAB of the texture at each vertex."""
    size = np.array(head.albedo.shape[1::-1])
    return rgb2lab(sample_image(head.albedo, head.uv * size)[None] / 255)[0]


def difference(one: FloatArray, other: FloatArray) -> float:
    """CIEDE2000 between two colours (3,), CIELAB."""
    return float(deltaE_ciede2000(one, other))


def differences(many: FloatArray, one: FloatArray) -> FloatArray:
    """(n,) CIEDE2000 between colours (n, 3) and one (3,), CIELAB."""
    return deltaE_ciede2000(many, np.broadcast_to(one, many.shape))
