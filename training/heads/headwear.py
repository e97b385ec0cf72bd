"""Headwear and collars: cloth as coloured points that go through the same solid as hair.

Points lie in the head frame (box units); colours are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .assets import linear_from_srgb, scatter_on_mesh
from .hair import HairPoints, chosen, join, noise
from .rig import Rig, ramp

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

HEADWEAR_SHARE = 0.06  # of heads
COLLAR_SHARE = 0.35
# Relative numbers of men and women.
HEADWEAR = {
    "cap": (3, 1.0),
    "beanie": (2, 1.2),
    "headscarf": (0, 2.0),
    "hat": (0.7, 0.6),
    "headband": (0.3, 0.9),
    "turban": (0.8, 0.4),
}
COLLARS = {"crew": (3, 2.5), "shirt": (3, 1.5), "turtleneck": (1, 1.6), "hood": (1.2, 0.8), "scarf": (0.8, 1.2)}
POINTS_PER_AREA = 75_000  # per layer and square box unit: two or three per voxel
LAYER = 0.006  # box units between layers of cloth points, about a voxel
CLOTHS = (  # sRGB
    (0.10, 0.10, 0.12),
    (0.92, 0.91, 0.88),
    (0.15, 0.20, 0.38),
    (0.55, 0.12, 0.13),
    (0.45, 0.45, 0.47),
    (0.33, 0.36, 0.25),
    (0.75, 0.62, 0.45),
    (0.80, 0.45, 0.52),
)
FOLD = 0.014  # box units a beanie is thicker where it is turned up
PRESSED = 0.07  # box units below the edge within which headwear holds hair to the head
NECK_AXIS_Z = -0.045  # depth of the neck's middle


@dataclass(frozen=True)
class Bust:
    """What cloth is put on: rig, skin (v, 3) and unit normals (v, 3) in the head frame."""

    rig: Rig
    skin: FloatArray
    normals: FloatArray


def draw_headwear(is_male: bool, rng: np.random.Generator) -> str:
    """A name of HEADWEAR, mostly ''."""
    return _draw(HEADWEAR, HEADWEAR_SHARE, is_male, rng)


def draw_collar(is_male: bool, rng: np.random.Generator) -> str:
    """A name of COLLARS, mostly ''."""
    return _draw(COLLARS, COLLAR_SHARE, is_male, rng)


def _draw(kinds: dict[str, tuple[float, float]], share: float, is_male: bool, rng: np.random.Generator) -> str:
    numbers = np.array([number[0 if is_male else 1] for number in kinds.values()], float)
    kind = str(rng.choice(list(kinds), p=numbers / numbers.sum()))
    return kind if rng.random() < share else ""


def draw_cloth(rng: np.random.Generator) -> FloatArray:
    """(3,) linear RGB."""
    srgb = np.array(CLOTHS[rng.integers(len(CLOTHS))]) * rng.uniform(0.8, 1.1) + rng.normal(0, 0.04, 3)
    return linear_from_srgb(np.clip(srgb, 0.03, 0.95).astype(np.float32))


def put_on(
    kind: str, hair: HairPoints | None, bust: Bust, rng: np.random.Generator
) -> tuple[HairPoints, HairPoints | None]:
    """Headwear of a kind, and the hair that still shows below it."""
    cloth = draw_cloth(rng)
    rest = bust.rig.rest
    tilt = rng.normal(0, 0.05)
    if kind == "headscarf":
        return _headscarf(bust, cloth, rng), None
    if kind == "headband":
        half_width = rng.uniform(0.012, 0.03)

        def from_middle(points: FloatArray) -> FloatArray:
            return points[:, 1] - (0.10 + 0.25 * (points[:, 2] - 0.15) + tilt * points[:, 0])

        band = np.abs(from_middle(rest)) < half_width
        if hair is not None:  # the band presses it to the head
            hair = chosen(hair, np.abs(from_middle(hair.points)) > half_width - LAYER)
        return _shell(bust, band, np.full(len(rest), 0.03), cloth, rng), hair
    # Edge of the headwear: lower behind than at the forehead.
    front = {"cap": 0.085, "beanie": 0.075, "hat": 0.085, "turban": 0.075}[kind] + rng.uniform(-0.012, 0.015)
    slope = {"cap": 0.30, "beanie": 0.42, "hat": 0.22, "turban": 0.42}[kind] + rng.uniform(-0.06, 0.06)
    edge = front + slope * (rest[:, 2] - 0.16) + tilt * rest[:, 0]
    height = rest[:, 1] - edge
    on_head = (height > 0) & (bust.rig.ears < 0.3)
    up = ramp(0, 0.12, height)
    if kind == "cap":
        thickness = 0.012 + 0.022 * up + 0.02 * up * ramp(0, 0.14, rest[:, 2])
        parts = [_shell(bust, on_head, thickness, cloth, rng), _visor(bust, front, tilt, cloth, rng)]
    elif kind == "beanie":
        slouch = rng.uniform(0, 0.05) * np.square(up) * ramp(0.1, -0.15, rest[:, 2])
        fold = FOLD * ramp(0.001, 0, height - rng.uniform(0.04, 0.07))
        ribs = 1 + 0.12 * np.sin(70 * np.arctan2(rest[:, 0], rest[:, 2] + 0.02))
        parts = [_shell(bust, on_head, 0.014 + fold + 0.02 * up + slouch, cloth, rng, ribs)]
    elif kind == "hat":
        crown = _shell(bust, on_head, 0.014 + 0.03 * up + 0.03 * ramp(0.05, 0.11, height), cloth, rng)
        parts = [crown, _brim(bust, front, slope, tilt, cloth, rng)]
    else:
        turns = np.sin(55 * (height - 0.6 * np.abs(rest[:, 0])) + 3 * rest[:, 2])
        thickness = 0.03 + 0.03 * np.sin(np.pi * np.clip(height / 0.2, 0, 1)) + 0.03 * up + 0.006 * turns
        parts = [_shell(bust, on_head, thickness, cloth, rng, 1 + 0.15 * turns)]
    if hair is not None:
        # Hair under cloth is pressed flat; what lies above the edge is out of sight.
        level = front + slope * (hair.points[:, 2] - 0.16) + tilt * hair.points[:, 0]
        shows = hair.points[:, 1] < level - 0.004
        pressed = shows & (hair.points[:, 1] > level - PRESSED)
        off_skin, _ = cKDTree(bust.skin[::4]).query(hair.points[pressed], distance_upper_bound=2 * PRESSED)
        shows[pressed] = off_skin < 0.012 + 0.6 * (level - hair.points[:, 1])[pressed]
        hair = chosen(hair, shows)
    return join(parts), hair


def _shell(
    bust: Bust,
    covered: BoolArray,
    thickness: FloatArray,
    cloth: FloatArray,
    rng: np.random.Generator,
    shade: FloatArray | None = None,
) -> HairPoints:
    """Cloth on the covered vertices (v,), `thickness` (v,) high from the skin outwards; shade (v,) of its colour."""
    faces = bust.rig.faces[covered[bust.rig.faces].all(1)]
    corners = bust.skin[faces]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    layers = np.clip(thickness[covered].max(initial=0) / LAYER, 3, 6)
    count = int(area * POINTS_PER_AREA * layers) + 3
    points, chosen, weights = scatter_on_mesh(bust.skin, faces, count, rng)
    corner = faces[chosen]

    def mean(values: FloatArray) -> FloatArray:
        return (values[corner] * weights).sum(1)[:, None]

    normals = (bust.normals[corner] * weights[..., None]).sum(1)
    points = points + normals * mean(thickness) * rng.random((count, 1)) ** 0.6
    tone = np.ones((count, 1)) if shade is None else mean(shade)
    return _as_cloth(points, cloth * tone * np.exp(0.05 * noise(points, 12, 3, rng))[:, None])


def _fitted(
    bust: Bust,
    covered: BoolArray,
    thickness: FloatArray,
    cloth: FloatArray,
    rng: np.random.Generator,
    shade: FloatArray | None = None,
) -> tuple[HairPoints, FloatArray]:
    """As `_shell`, and (v,) its thickness on the skin."""
    return _shell(bust, covered, thickness, cloth, rng, shade), np.where(covered, thickness, 0).astype(np.float32)


def _visor(bust: Bust, front: float, tilt: float, cloth: FloatArray, rng: np.random.Generator) -> HairPoints:
    """A cap's brim: a curved plate before the forehead."""
    count = 14_000
    forehead = bust.skin[np.abs(bust.rig.rest[:, 1] - front) < 0.01, 2].max()
    length, half_width = rng.uniform(0.09, 0.13), rng.uniform(0.10, 0.12)
    across = rng.uniform(-1, 1, count)
    out = rng.random(count)
    reach = length * np.sqrt(np.clip(1 - across**2, 0, 1)) ** 0.7
    x = half_width * across
    start = forehead - 0.35 * half_width * across**2 - 0.05 * np.abs(across) ** 3
    z = start + 0.01 + reach * out
    drop, bend = rng.uniform(0.1, 0.45), rng.uniform(0.01, 0.045)
    y = front + 0.012 + tilt * x - drop * reach * out - bend * across**2 + LAYER * rng.uniform(-0.9, 0.9, count)
    colour = cloth if rng.random() < 0.7 else draw_cloth(rng)
    return _as_cloth(np.stack([x, y, z], 1), np.tile(colour, (count, 1)))


def _brim(
    bust: Bust, front: float, slope: float, tilt: float, cloth: FloatArray, rng: np.random.Generator
) -> HairPoints:
    """A hat's brim all around, and its band."""
    count = 60_000
    turn = rng.random(count) * 2 * np.pi
    at_edge = np.abs(bust.rig.rest[:, 1] - front - slope * (bust.rig.rest[:, 2] - 0.16)) < 0.01
    ring = bust.skin[at_edge]
    half = np.array([np.abs(ring[:, 0]).max(), np.ptp(ring[:, 2]) / 2])
    middle = (ring[:, 2].max() + ring[:, 2].min()) / 2
    reach = rng.uniform(0.05, 0.13) * np.sqrt(rng.random(count))
    x = (half[0] + reach) * np.sin(turn)
    z = middle + (half[1] + reach) * np.cos(turn)
    curl = rng.uniform(-0.5, 1.5)
    y = front + slope * (z - 0.16) + tilt * x + curl * reach * np.abs(np.sin(turn)) ** 2 * 0.5 - 0.15 * reach
    y = y + 0.006 + LAYER * rng.uniform(-0.9, 0.9, count)
    return _as_cloth(np.stack([x, y, z], 1), np.tile(cloth, (count, 1)))


def _headscarf(bust: Bust, cloth: FloatArray, rng: np.random.Generator) -> HairPoints:
    """A scarf around head and neck that leaves the face free."""
    rest = bust.rig.rest
    x, y, z = rest.T
    half_width, top, chin = rng.uniform(0.105, 0.12), rng.uniform(0.085, 0.105), -0.235 + rng.uniform(-0.01, 0.015)
    middle = (top + chin) / 2
    face = (np.abs(x) / half_width) ** 2.3 + (np.abs(y - middle) / (top - middle)) ** 2.3 < 1
    covered = ~(face & (z > 0.03)) & (y > -0.5)
    folds = noise(rest * np.array([1, 0.45, 1]), 9, 2, rng)
    on_neck = ramp(-0.16, -0.24, y)
    thickness = 0.016 + 0.014 * ramp(0.0, 0.12, y) * ramp(0.1, -0.1, z) + on_neck * 0.03 + 0.007 * folds
    thickness = np.where(bust.rig.ears > 0.2, 0.006, thickness)
    shade = 1 + 0.12 * folds
    shell = _shell(bust, covered, thickness, cloth, rng, shade)
    # From the chin the cloth falls to the chest instead of following the throat.
    count = 40_000
    turn, fall = rng.uniform(-1.9, 1.9, count), rng.random(count)
    radius_x = 0.125 + 0.10 * fall
    depth = np.where(np.cos(turn) > 0, 0.175 - 0.05 * fall, 0.13 + 0.06 * fall)
    sheet = np.stack(
        [radius_x * np.sin(turn), chin + 0.03 - 0.24 * fall - 0.02 * np.cos(turn), depth * np.cos(turn) - 0.01], 1
    )
    waves = noise(sheet * np.array([1, 0.3, 1]), 8, 2, rng)[:, None]
    sheet = sheet * (1 + np.array([1, 0, 1]) * (0.05 * waves + 0.04 * rng.uniform(-1, 1, (count, 1))))
    return join([shell, _as_cloth(sheet, cloth * (1 + 0.12 * waves))])


def collar(
    kind: str, bust: Bust, neckline: float, slope: float, shirt: FloatArray, rng: np.random.Generator
) -> tuple[HairPoints, FloatArray]:
    """Cloth at the neck, and (v,) how thick it lies on the skin.

    Its edge lies at y = neckline - slope * (z + 0.05), as the painted shirt's on the skin.
    """
    rest, skin = bust.rig.rest, bust.skin
    above = skin[:, 1] - (neckline - slope * (skin[:, 2] + 0.05))
    x, y, z = rest.T
    on_neck = (y < -0.13) & (np.hypot(x, z - NECK_AXIS_Z) < 0.2) & (bust.rig.ears < 0.2)
    under_jaw = ramp(-0.24, -0.28, y) + (z < 0.06)  # never on chin or jaw
    if kind == "crew":
        thickness = 0.016 * ramp(-0.03, -0.006, above)
        return _fitted(bust, (above > -0.05) & (above < 0.008), thickness, shirt * 0.93, rng)
    if kind == "turtleneck":
        top = rng.uniform(0.07, 0.13)
        folds = 0.004 * np.sin(160 * y + 4 * noise(rest, 4, 1, rng))
        covered = on_neck & (above < top) & (under_jaw > 0) & (above > -0.05)
        return _fitted(bust, covered, 0.018 + folds + 0.008 * (above > top - 0.03), shirt, rng, 1 + 8 * folds)
    if kind == "shirt":
        high: FloatArray = 0.02 + 0.035 * ramp(0.05, -0.12, z)
        is_open = (np.abs(x) < 0.022 + 0.6 * above) & (z > 0)
        covered = on_neck & (above < high) & (above > -0.04) & (under_jaw > 0) & ~is_open
        stand, padding = _fitted(bust, covered, np.full(len(rest), 0.018), shirt, rng)
        return join([stand, _lapels(bust, neckline, slope, shirt, rng)]), padding
    cloth = shirt if kind == "hood" else draw_cloth(rng)
    folds = noise(rest * np.array([1, 1.8, 1]), 7, 2, rng)
    if kind == "hood":
        behind = ramp(0.06, -0.10, z)
        high = 0.015 + 0.07 * behind
        thickness = (0.02 + 0.07 * behind) * ramp(-0.14, -0.02, above) * np.clip((high - above) / 0.04, 0, 1) + 0.008
    else:
        high = np.full(len(rest), rng.uniform(0.06, 0.11))
        roll = np.sin(np.pi * np.clip((above + 0.09) / (high + 0.09), 0.05, 1)) ** 0.7
        thickness = (0.045 + 0.018 * folds) * roll + 0.008
    covered = (np.hypot(x, z - NECK_AXIS_Z) < 0.26) & (above < high) & (above > -0.13) & (under_jaw > 0)
    covered &= (bust.rig.ears < 0.2) & (y < -0.13)
    return _fitted(bust, covered, np.maximum(thickness, 0.006), cloth, rng, 1 + 0.12 * folds)


def _lapels(bust: Bust, neckline: float, slope: float, shirt: FloatArray, rng: np.random.Generator) -> HairPoints:
    """The two points of a shirt's collar, turned down before the neck."""
    rest = bust.rig.rest
    above = bust.skin[:, 1] - (neckline - slope * (bust.skin[:, 2] + 0.05))
    x, z = np.abs(rest[:, 0]), rest[:, 2]
    # Leaves hang lower towards the front and end in a point beside the middle.
    low = -0.02 - 0.06 * ramp(-0.05, 0.06, z) * ramp(0.012, 0.05, x) * ramp(0.13, 0.05, x)
    leaf = (above > low) & (above < 0.03) & (np.hypot(x, z - NECK_AXIS_Z) < 0.2) & (rest[:, 1] < -0.24) & (x > 0.012)
    return _shell(bust, leaf, np.full(len(rest), 0.026), shirt * 1.04, rng)


def _as_cloth(points: FloatArray, colours: FloatArray) -> HairPoints:
    return HairPoints(points.astype(np.float32), colours.astype(np.float32), np.zeros(len(points), np.float32))
