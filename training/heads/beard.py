"""Beards: from a shadow on the skin over stubble, which lifts it a little, to hair with a shape of its own.

Regions are painted on the mean bust with soft, irregular edges, so that a beard thins out into skin. Lengths are in box
units (0.5 m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .assets import scatter_on_mesh
from .hair import COLOURS, HairPoints, as_hair, noise
from .hair import chosen as picked
from .people import Person
from .rig import Rig, ramp

FloatArray = NDArray[np.floating]

WITH_BEARD = 0.48  # share of men
# Relative numbers of bearded men, the range of lengths, and that of how much hair colour the skin takes on.
STYLES: dict[str, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "shadow": (0.26, (0.0, 0.0), (0.18, 0.42)),
    "stubble": (0.24, (0.001, 0.003), (0.45, 0.75)),
    "moustache": (0.07, (0.005, 0.012), (0.7, 0.95)),
    "goatee": (0.11, (0.003, 0.014), (0.7, 0.95)),
    "chin_strap": (0.04, (0.002, 0.005), (0.6, 0.9)),
    "boxed": (0.14, (0.003, 0.009), (0.7, 0.95)),
    "full": (0.10, (0.012, 0.024), (0.8, 1.0)),
    "long": (0.04, (0.04, 0.08), (0.85, 1.0)),
}
SHORTEST_SOLID = 0.006  # below it hair is colour and a lift of the skin: voxels are as large
SOLID_FROM = 0.6  # share of the skin covered where hair stands out
MOST_LIFT = 0.003
ROOTS = 9_000
POINT_SPACING = 0.005  # along a hair; voxels are as large
EDGE_BLUR = 8  # rounds over neighbours, 2 mm apart
EDGE_NOISE = 0.010  # how far the edge of a beard wanders
OTHER_COLOUR_SHARE = 0.25  # of beards are redder, lighter or greyer than the head's hair

# Upper edge on the cheek above the mouth's height, by distance from the midline: it rises towards the sideburns.
CHEEK_X = (0.0, 0.04, 0.07, 0.10, 0.125, 0.14, 0.2)
CHEEK_RISE = (-0.014, -0.012, -0.006, 0.012, 0.05, 0.14, 0.15)


@dataclass(frozen=True)
class Beard:
    """share (v,) of the bust's skin that hair covers, 0..1; colour (3,) linear RGB; strength of its tint."""

    style: str
    length: float
    strength: float
    share: FloatArray
    colour: FloatArray

    @property
    def tint(self) -> FloatArray:
        """(v,) how much of its colour shows on the skin: all of it before a solid begins, so that none has an edge."""
        solid = self.length >= SHORTEST_SOLID
        return (np.clip(self.share / SOLID_FROM, 0, 1) ** 1.3 if solid else self.share) * self.strength

    @property
    def lift(self) -> FloatArray:
        """(v,) how far hair too short for a solid raises the skin."""
        return self.share * min(self.length, MOST_LIFT)


def draw_beard(rig: Rig, person: Person, hair_colour: FloatArray, rng: np.random.Generator) -> Beard | None:
    """A beard at random; None for women and for shaved men."""
    if not person.is_male or rng.random() > WITH_BEARD:
        return None
    shares = np.array([share for share, _, _ in STYLES.values()])
    style = str(rng.choice(list(STYLES), p=shares / shares.sum()))
    _, lengths, strengths = STYLES[style]
    patchy = np.clip(0.85 + 0.35 * noise(rig.rest, 7, 3, rng), 0.45, 1).astype(np.float32)
    share = growth_region(rig, style, rng) * (patchy if style in ("shadow", "stubble", "chin_strap") else 1)
    colour = hair_colour
    if rng.random() < OTHER_COLOUR_SHARE:
        other = "grey" if person.age > 0.62 else str(rng.choice(["red", "light_brown", "dark_brown"]))
        share_of_other = rng.uniform(0.2, 0.6)
        colour = (1 - share_of_other) * hair_colour + share_of_other * np.array(COLOURS[other])
    colour = colour * rng.uniform(0.65, 1.0)
    return Beard(style, rng.uniform(*lengths), rng.uniform(*strengths), share.astype(np.float32), colour)


def growth_region(rig: Rig, style: str, rng: np.random.Generator) -> FloatArray:
    """(v,) where the style grows, falling off over about a centimetre."""
    mouth = rig.mouth_height
    wander = EDGE_NOISE * noise(rig.rest, 6, 3, rng)
    x = np.abs(rig.rest[:, 0]) + 0.5 * wander
    y = rig.rest[:, 1] - mouth + wander
    z = rig.rest[:, 2]
    thin = rng.uniform(0.0, 0.008)
    moustache = ramp(0.047, 0.030, y + 0.25 * x) * ramp(-0.014, -0.002, y) * ramp(0.066, 0.046, x) * (z > 0.12)
    chin = ramp(0.058, 0.030, x) * ramp(-0.022, -0.034, y) * ramp(-0.15, -0.11, y) * ramp(0.02, 0.08, z)
    patch = ramp(0.024, 0.008, x) * ramp(-0.06, -0.03, y) * (y < 0)
    beside = ramp(0.034, 0.050, x) * ramp(0.078, 0.060, x) * ramp(-0.08, -0.05, y) * ramp(0.03, 0.012, y)
    lowered = rng.uniform(0.0, 0.022) + {"boxed": 0.012, "chin_strap": 0.05}.get(style, 0.0)
    edge = np.interp(x, CHEEK_X, CHEEK_RISE) - lowered * ramp(0.13, 0.10, x) * ramp(0.03, 0.06, x)
    lowest = -0.145 if style in ("shadow", "stubble", "full", "long") else -0.11
    jaw = ramp(0, 0.028, edge - y) * ramp(lowest, lowest + 0.035, y) * ramp(-0.005, 0.035, z)
    jaw = np.maximum(jaw, patch * jaw.max())
    regions = {
        "moustache": moustache,
        "goatee": np.maximum.reduce([moustache * (rng.random() < 0.75), chin, patch, beside]),
        "chin_strap": np.maximum(jaw, chin * 0.8) if rng.random() < 0.5 else jaw,
    }
    region = regions.get(style, np.maximum.reduce([moustache, jaw, beside]))
    bare = (1 - ramp(0.15, 0.5, rig.lips)) * (1 - np.clip(rig.ears * 3, 0, 1)) * (rig.inside_mouth < 0.3)
    region = region * bare
    for _ in range(EDGE_BLUR):
        region = 0.4 * region + 0.6 * (rig.spread @ region)
    return np.clip(region - 10 * thin * (1 - region), 0, 1) * bare


def beard_hair(
    rig: Rig, beard: Beard, skin: FloatArray, normals: FloatArray, rng: np.random.Generator
) -> HairPoints | None:
    """Hair of a beard long enough to be a solid, shorter towards its edge; None for the others."""
    if beard.length < SHORTEST_SOLID:
        return None
    density = beard.share[rig.faces].mean(1)
    growing = np.flatnonzero(density > SOLID_FROM)
    roots, chosen, weights = scatter_on_mesh(skin, rig.faces[growing], ROOTS, rng)
    face = growing[chosen]
    outward = (normals[rig.faces[face]] * weights[..., None]).sum(1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-9
    rest = (rig.rest[rig.faces[face]] * weights[..., None]).sum(1) - np.array([0, rig.mouth_height, 0])
    is_moustache = (rest[:, 1] > -0.012) & (np.abs(rest[:, 0]) < 0.06)
    fall_off = ramp(SOLID_FROM - 0.05, 0.95, density[face])
    below = ramp(0.02, -0.10, rest[:, 1])  # the chin's hair is the longest
    most = np.where(is_moustache, min(0.8 * beard.length, 0.012), beard.length * (0.45 + 0.75 * below))
    length = (most * fall_off * np.exp(rng.normal(0, 0.2, ROOTS)))[:, None]
    aside = np.sign(rest[:, :1]) * np.array([[1.0, 0, 0]]) * is_moustache[:, None]
    direction = 0.45 * outward + np.array([0, -0.75, 0.12]) + 0.8 * aside
    shade = np.exp(rng.normal(0, 0.28, ROOTS))[:, None]
    steps = int(np.clip(np.ceil(beard.length / POINT_SPACING), 3, 12))
    points, colours = [], []
    for step in range(steps):
        along = (step + rng.random((ROOTS, 1))) / steps
        tips = (
            roots + direction * length * along - np.array([1.0, 0, 0]) * roots[:, :1] * 0.25 * along * (length / 0.05)
        )
        points.append(tips)
        colours.append(beard.colour * shade * (0.8 + 0.3 * along))
    hair = as_hair(np.concatenate(points), np.concatenate(colours))
    upper_lip = skin[rig.mouth.upper_rim, 1].mean() + 0.004
    over_lips = np.tile(is_moustache & (np.abs(rest[:, 0]) < 0.04), steps) & (hair.points[:, 1] < upper_lip)
    return picked(hair, ~over_lips)
