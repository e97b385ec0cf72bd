"""Hair: cards or grown strands as coloured points, made into one solid with a smooth surface.

Points lie in the head frame (box units); colours are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from .assets import ALPHA_CUT, IntArray, linear_from_srgb, sample_texture, scatter_on_mesh
from .body import HeadFrame
from .people import Person
from .rays import VoxelGrid, closing, grow, shrink
from .rig import Rig, ramp

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

COLOURS = {
    "black": (0.025, 0.021, 0.020),
    "dark_brown": (0.060, 0.040, 0.030),
    "brown": (0.130, 0.080, 0.050),
    "light_brown": (0.250, 0.160, 0.095),
    "blond": (0.500, 0.370, 0.200),
    "light_blond": (0.680, 0.560, 0.380),
    "red": (0.360, 0.130, 0.050),
    "grey": (0.380, 0.370, 0.360),
    "white": (0.720, 0.710, 0.690),
}
NATURAL = ("black", "dark_brown", "brown", "light_brown", "blond", "light_blond", "red")
NATURAL_SHARE_CAUCASIAN = (0.14, 0.20, 0.20, 0.16, 0.14, 0.08, 0.08)
NATURAL_SHARE_OTHERS = (0.64, 0.20, 0.08, 0.03, 0.02, 0.01, 0.02)  # dyed hair is not rare

COMBS = ("round", "forward", "back", "side", "up", "fall")  # `round` is how hair grows: away from the crown
DYED = (  # linear RGB
    (0.20, 0.02, 0.03),
    (0.03, 0.05, 0.16),
    (0.42, 0.10, 0.20),
    (0.10, 0.03, 0.14),
    (0.04, 0.12, 0.12),
)
Range = tuple[float, float]  # drawn evenly for each head


@dataclass(frozen=True)
class Cut:
    """How a style is cut, combed and gathered. Lengths and heights in box units of the head frame.

    length:      of strands on top; `sides` is the share of it at sides and nape.
    thickness:   of the layer of hair on top; `side_thickness` is the share of it at the sides.
    comb:        one of COMBS; lift: how far roots stand up.
    curl:        radius of curls; wave: how far falling locks swing.
    ends:        height y where falling hair is cut; None leaves it as long as its strands.
    layers:      how unevenly ends are cut, box units.
    fringe:      height y of a fringe's ends; None keeps hair off the forehead.
    partings:    x of the parting to choose from.
    tucked:      probability that hair lies behind the ears; 1 for all cuts that leave ears free.
    in_front:    probability that long hair falls before the shoulders.
    front_line:  z where hair begins on the forehead; temples: how much farther back it begins there.
    crown:       radius of a bald patch around the crown.
    shaved:      height y below which sides are shaved and the scalp only shows stubble.
    gathered:    where hair is drawn to: "", "bun", "tail", "braid"; knot (y, z) of it.
    half:        whether only the hair of the top is gathered.
    """

    length: Range
    thickness: Range
    comb: str = "round"
    sides: float = 1.0
    side_thickness: float = 0.7
    lift: float = 1.0
    curl: Range = (0.0, 0.0)
    wave: Range = (0.0, 0.0)
    ends: Range | None = None
    layers: float = 0.015
    fringe: Range | None = None
    partings: tuple[float, ...] = (0.0,)
    tucked: float = 1.0
    in_front: float = 0.0
    front_line: Range = (0.15, 0.2)
    temples: Range = (0.0, 0.05)
    crown: Range = (0.0, 0.0)
    shaved: Range | None = None
    gathered: str = ""
    knot: tuple[Range, Range] = ((0, 0), (0, 0))
    half: bool = False


@dataclass(frozen=True)
class Style:
    """Relative numbers of men and women with a style, times `when_old` beyond middle age, and how it is made.

    card: the name of MakeHuman's cards; else `cut` is grown; neither is no hair with a volume.
    """

    men: float
    women: float
    when_old: float = 1.0
    cut: Cut | None = None
    card: str = ""


LONG = (0.45, 0.66)  # longer than any `ends`, which then decide
ASIDE, ANYWHERE = (-0.06, 0.06), (-0.06, 0.0, 0.06)
BACK_LINE, BALD_LINE = (-0.02, 0.09), (-0.5, -0.4)

STYLES = {
    "bald": Style(4.5, 0.5, 1.6),
    "buzz": Style(4.5, 0.6),
    "buzz_long": Style(4, 0.5, cut=Cut((0.008, 0.016), (0.004, 0.007), side_thickness=0.8, lift=1.2)),
    "crop": Style(6, 1, cut=Cut((0.02, 0.045), (0.008, 0.018), "forward", 0.6, 0.45, 1.6)),
    "short": Style(7, 2.5, cut=Cut((0.04, 0.08), (0.014, 0.03), "round", 0.5, 0.5, 0.9)),
    "side_part": Style(7, 2, cut=Cut((0.07, 0.12), (0.016, 0.034), "side", 0.4, 0.4, 0.8, partings=ASIDE)),
    "slicked_back": Style(4.5, 1.5, cut=Cut((0.09, 0.15), (0.012, 0.026), "back", 0.45, 0.45, 0.5, temples=(0, 0.07))),
    "quiff": Style(5, 0.5, 0.4, Cut((0.07, 0.11), (0.035, 0.06), "up", 0.25, 0.22, 1.8)),
    "pompadour": Style(2, 0.5, 0.5, Cut((0.10, 0.15), (0.05, 0.08), "up", 0.25, 0.2, 1.6)),
    "textured_fringe": Style(
        5, 1.5, 0.4, Cut((0.06, 0.10), (0.022, 0.04), "forward", 0.35, 0.35, 1.3, (0.002, 0.01), fringe=(0.05, 0.09))
    ),
    "bowl": Style(
        2,
        0.8,
        0.3,
        Cut((0.10, 0.14), (0.022, 0.038), "forward", 0.9, 0.9, 0.6, fringe=(0.04, 0.07), ends=(-0.04, -0.01)),
    ),
    "undercut": Style(
        4, 0.8, 0.3, Cut((0.07, 0.13), (0.022, 0.045), "back", 1, 1, 0.9, shaved=(0.055, 0.095), ends=(0.02, 0.05))
    ),
    "fade": Style(5, 0.3, 0.5, Cut((0.03, 0.06), (0.012, 0.028), "round", 1, 0.8, 1.3, shaved=(0.03, 0.08))),
    "receding": Style(
        5, 0.2, 2.5, Cut((0.03, 0.07), (0.008, 0.02), "back", 0.6, 0.7, 0.8, front_line=BACK_LINE, temples=(0.02, 0.10))
    ),
    "thinning_crown": Style(
        2.5,
        0.1,
        2.5,
        Cut((0.02, 0.05), (0.008, 0.016), "round", 0.8, 0.8, 0.9, temples=(0, 0.08), crown=(0.045, 0.095)),
    ),
    "horseshoe": Style(2.5, 0, 3.5, Cut((0.02, 0.05), (0.008, 0.02), "round", 1, 1, 0.8, front_line=BALD_LINE)),
    "curly_short": Style(4, 2, cut=Cut((0.05, 0.10), (0.02, 0.042), "round", 0.8, 0.7, 1.3, (0.012, 0.022))),
    "curly_top": Style(4, 0.5, 0.4, Cut((0.06, 0.12), (0.03, 0.06), "round", 0.2, 0.2, 1.6, (0.012, 0.024))),
    "curly_fade": Style(
        2.5, 0.3, 0.4, Cut((0.05, 0.10), (0.025, 0.05), "round", 1, 0.9, 1.5, (0.01, 0.02), shaved=(0.04, 0.09))
    ),
    "afro_small": Style(2.5, 2, cut=Cut((0.03, 0.06), (0.03, 0.055), "round", 1, 0.9, 2.5, (0.008, 0.014))),
    "afro_large": Style(1, 2.2, 0.5, Cut((0.08, 0.13), (0.075, 0.13), "round", 1, 1, 3.0, (0.012, 0.02), tucked=0.0)),
    "coily_long": Style(
        0.6,
        2.2,
        cut=Cut(
            (0.22, 0.34),
            (0.04, 0.075),
            "fall",
            1,
            1,
            1.2,
            (0.016, 0.028),
            ends=(-0.27, -0.14),
            tucked=0.1,
            layers=0.05,
            partings=ANYWHERE,
        ),
    ),
    "pixie": Style(
        0.8, 4.5, 1.3, Cut((0.06, 0.10), (0.02, 0.036), "side", 0.7, 0.6, 1.0, partings=ASIDE, fringe=(0.045, 0.085))
    ),
    "bob_chin": Style(
        0.3, 4, cut=Cut(LONG, (0.014, 0.034), "fall", lift=0.5, ends=(-0.22, -0.15), tucked=0.3, partings=ANYWHERE)
    ),
    "bob_long": Style(
        0.3,
        4,
        cut=Cut(
            LONG, (0.014, 0.034), "fall", lift=0.5, ends=(-0.31, -0.23), tucked=0.3, partings=ANYWHERE, layers=0.025
        ),
    ),
    "bob_fringe": Style(
        0.1, 3, cut=Cut(LONG, (0.016, 0.032), "fall", lift=0.5, ends=(-0.26, -0.14), tucked=0.1, fringe=(0.035, 0.06))
    ),
    "bob_curly": Style(
        0.3,
        2.5,
        cut=Cut(
            LONG,
            (0.03, 0.055),
            "fall",
            lift=1.0,
            curl=(0.014, 0.026),
            ends=(-0.27, -0.15),
            tucked=0.1,
            layers=0.04,
            partings=ANYWHERE,
        ),
    ),
    "lob_wavy": Style(
        0.5,
        5,
        cut=Cut(
            LONG,
            (0.02, 0.04),
            "fall",
            lift=0.7,
            wave=(0.008, 0.018),
            ends=(-0.36, -0.28),
            tucked=0.3,
            in_front=0.3,
            layers=0.04,
            partings=ANYWHERE,
        ),
    ),
    "long_centre": Style(1.2, 5, 0.6, Cut(LONG, (0.008, 0.026), "fall", lift=0.35, tucked=0.25, in_front=0.4)),
    "long_side": Style(
        0.5, 5, 0.6, Cut(LONG, (0.01, 0.03), "fall", lift=0.4, tucked=0.25, in_front=0.4, partings=ASIDE)
    ),
    "long_fringe": Style(
        0.1, 4, 0.6, Cut(LONG, (0.01, 0.026), "fall", lift=0.4, tucked=0.1, in_front=0.4, fringe=(0.035, 0.065))
    ),
    "long_behind_ears": Style(1, 4, 0.6, Cut(LONG, (0.008, 0.022), "fall", lift=0.3, partings=ANYWHERE)),
    "long_in_front": Style(
        0.2, 4, 0.6, Cut(LONG, (0.01, 0.028), "fall", lift=0.4, tucked=0.3, in_front=1, partings=ANYWHERE)
    ),
    "long_wavy": Style(
        0.8,
        6,
        0.6,
        Cut(
            LONG,
            (0.018, 0.04),
            "fall",
            lift=0.6,
            wave=(0.01, 0.022),
            tucked=0.2,
            in_front=0.5,
            layers=0.04,
            partings=ANYWHERE,
        ),
    ),
    "long_curly": Style(
        0.8,
        4,
        0.6,
        Cut(
            LONG,
            (0.03, 0.06),
            "fall",
            lift=1.1,
            curl=(0.016, 0.03),
            tucked=0.15,
            in_front=0.4,
            layers=0.05,
            partings=ANYWHERE,
        ),
    ),
    "layered": Style(
        0.4,
        4,
        cut=Cut(
            LONG,
            (0.02, 0.042),
            "fall",
            lift=0.8,
            wave=(0.004, 0.012),
            ends=(-0.38, -0.2),
            layers=0.09,
            tucked=0.2,
            partings=ASIDE,
        ),
    ),
    "shag": Style(
        1.2,
        2.5,
        0.6,
        Cut(
            LONG,
            (0.022, 0.045),
            "fall",
            lift=1.0,
            wave=(0.008, 0.018),
            ends=(-0.3, -0.16),
            layers=0.1,
            tucked=0.2,
            fringe=(0.045, 0.08),
        ),
    ),
    "bun_low": Style(
        0.05, 0.6, cut=Cut((0.26, 0.26), (0.01, 0.018), lift=0.0, gathered="bun", knot=((-0.12, 0.02), (-0.25, -0.22)))
    ),
    "bun_high": Style(
        0.1, 0.9, cut=Cut((0.26, 0.26), (0.01, 0.02), lift=0.0, gathered="bun", knot=((0.18, 0.24), (-0.15, -0.10)))
    ),
    "top_knot": Style(
        0.4, 0.5, cut=Cut((0.26, 0.26), (0.01, 0.02), lift=0.0, gathered="bun", knot=((0.23, 0.26), (-0.05, 0.0)))
    ),
    "ponytail_low": Style(
        0.15,
        0.8,
        cut=Cut((0.26, 0.26), (0.01, 0.018), lift=0.0, gathered="tail", knot=((-0.12, -0.02), (-0.22, -0.20))),
    ),
    "ponytail_high": Style(
        0.05, 0.8, cut=Cut((0.26, 0.26), (0.01, 0.02), lift=0.0, gathered="tail", knot=((0.08, 0.2), (-0.22, -0.17)))
    ),
    "half_up": Style(
        0.1,
        0.7,
        cut=Cut(
            LONG,
            (0.01, 0.022),
            "fall",
            lift=0.3,
            gathered="bun",
            half=True,
            tucked=0.7,
            knot=((0.08, 0.16), (-0.22, -0.18)),
        ),
    ),
    "braid": Style(
        0.02,
        0.5,
        cut=Cut((0.26, 0.26), (0.01, 0.018), lift=0.0, gathered="braid", knot=((-0.12, -0.06), (-0.2, -0.18))),
    ),
    "short01": Style(1.5, 0.7, card="short01"),
    "short02": Style(1.5, 1.2, card="short02"),
    "short03": Style(1.5, 1.5, card="short03"),
    "short04": Style(1.5, 1.2, card="short04"),
    "afro01": Style(0.8, 1.5, card="afro01"),
    "bob01": Style(0.1, 2.2, card="bob01"),
    "bob02": Style(0.1, 2.2, card="bob02"),
    "long01": Style(0.3, 2.5, card="long01"),
    "ponytail01": Style(0.1, 0.4, card="ponytail01"),
    "braid01": Style(0, 0.2, card="braid01"),
}
# Knots and tails show nothing from the front: more than some 3 % of them and the model grows one on everybody.
HIDDEN_TAILS = ("bun_low", "ponytail_low", "ponytail_high", "half_up", "braid", "ponytail01", "braid01")
SHAVED_TINTS = ("buzz", "buzz_long")
LONG_CARDS = ("long01", "bob01", "bob02", "ponytail01", "braid01")
CROWN = np.array([0.0, 0.165, -0.085])  # where hair turns around, on the mean head
OLD = 0.7  # MakeHuman's age, middle-aged

STRANDS = 11_000
STEPS = 12  # along a strand
POINT_SPACING = 0.008  # box units between points of a strand, about; voxels are a little finer
CLUMPS = 1_000
CARD_POINTS = 220_000
STREAKED_LENGTH = 0.2  # box units; shorter hair shows no streaks
STRAY_COUNT = 0.2  # points per voxel, blurred, that make a hair voxel
SMALLEST_LOCK = 150  # voxels; less floats in the air
SURFACE_LEVEL = 0.42  # of the blurred solid; below half keeps thin locks
GAP_CLOSED = 5  # voxels between hair and head that are filled
NEAR_HAIR = 3  # voxels about hair where gaps are filled
STRAY_THREAD = 2  # voxels: half the width of grown locks that are dropped
BLOCK_MARGIN = 8  # voxels about the hair's bounding box: closing and blurring reach no farther
COLOUR_DEPTH = 3  # voxels below the surface whose colours still count


@dataclass(frozen=True)
class HairPoints:
    """points (n, 3), their colours (n, 3), and is_hair (n,): 1 for hair, 0 for the cloth of headwear and collars."""

    points: FloatArray
    colours: FloatArray
    is_hair: FloatArray


@dataclass(frozen=True)
class HairSolid:
    """Closed surface of hair and cloth: vertices (v, 3), faces (f, 3), voxels, and the points for look-ups.

    colours, hair_share:               (p, 3), (p,) at the points of `tree`; a share of 1 is hair, 0 is cloth.
    vertex_colours, vertex_hair_share: (v, 3), (v,) the same on vertices, smoothed.
    """

    vertices: FloatArray
    faces: IntArray
    voxels: BoolArray
    colours: FloatArray
    vertex_colours: FloatArray
    hair_share: FloatArray
    vertex_hair_share: FloatArray
    tree: cKDTree


@dataclass(frozen=True)
class Dye:
    """Colours of one head of hair in linear RGB: roots, ends, streaks (their share of clumps), grey temples (0..1)."""

    name: str
    base: FloatArray
    root: FloatArray
    end: FloatArray
    streak: FloatArray
    streak_share: float
    temple: float
    grey: FloatArray

    def __call__(self, roots: FloatArray, along: FloatArray, is_streak: FloatArray) -> FloatArray:
        """(n, 3) colours at `along` (n, 1) 0..1 of strands with roots (n, 3) and is_streak (n, 1) 0..1."""
        colour = self.base + (self.root - self.base) * ramp(0.2, 0.0, along)
        colour = colour + (self.end - colour) * ramp(0.45, 0.95, along)
        colour = colour + (self.streak - colour) * is_streak * ramp(0.05, 0.25, along)
        at_temple = ramp(0.07, 0.0, roots[:, 1:2]) * ramp(-0.12, 0.0, roots[:, 2:])
        return colour + (self.grey - colour) * self.temple * at_temple


@dataclass(frozen=True)
class Hairdo:
    """Hair of a head before it is made solid: points, None if it has no volume, and how it colours the scalp (v,)."""

    points: HairPoints | None
    tint: FloatArray
    thread: int = 1  # half the width of locks too thin to keep, voxels; cards are thin sheets and stay


def noise(points: FloatArray, frequency: float, octaves: int, rng: np.random.Generator) -> FloatArray:
    """(n,) smooth noise of about unit size: a sum of sine waves in random directions."""
    total = np.zeros(len(points), np.float32)
    for octave in range(octaves):
        for _ in range(4):
            direction = rng.normal(size=3)
            wave = direction / np.linalg.norm(direction) * frequency * 2**octave * 2 * np.pi
            total += np.sin(points @ wave.astype(np.float32) + rng.random() * 2 * np.pi) / 2**octave
    return total / (4 * 1.4)


def style_shares(person: Person) -> FloatArray:
    """(len(STYLES),) probabilities for a person's gender and age."""
    shares = np.array([style.men if person.is_male else style.women for style in STYLES.values()], float)
    if person.age > OLD:
        shares *= [style.when_old for style in STYLES.values()]
    return shares / shares.sum()


def draw_style(person: Person, rng: np.random.Generator) -> str:
    """A hair style: old men are bald or receding more often."""
    return str(rng.choice(list(STYLES), p=style_shares(person)))


def draw_dye(person: Person, rng: np.random.Generator) -> Dye:
    """Colours of hair: natural, greying with age, sometimes with highlights, grown-out roots, an ombre, or dyed."""
    share = NATURAL_SHARE_CAUCASIAN if person.origin[2] > 0.4 else NATURAL_SHARE_OTHERS
    name = str(rng.choice(NATURAL, p=share))
    tint = np.exp(rng.normal(0, 0.18) + 0.06 * rng.normal() * np.array([1, 0, -1]))
    base = np.array(COLOURS[name]) * tint
    greyness = float(np.clip(ramp(0.68, 0.98, np.array(person.age)) * rng.uniform(0.1, 1.2), 0, 1))
    if rng.random() < 0.02:
        greyness = max(greyness, 0.85)  # young and grey, or bleached
    grey = np.array(COLOURS[str(rng.choice(["grey", "white"]))])
    base = base * (1 - greyness) + grey * greyness
    if greyness >= 0.5:
        name = "grey"
    if rng.random() < 0.03:
        name, base = "dyed", np.array(DYED[rng.integers(len(DYED))]) * tint
    root, end, streak, streak_share, temple = base * rng.uniform(0.6, 1.0), base * rng.uniform(0.9, 1.2), base, 0.0, 0.0
    changed = rng.random()
    if changed < 0.06 and name != "grey":
        root = np.array(COLOURS["dark_brown"])
    elif changed < 0.12 and not person.is_male:
        end = base + (np.array(COLOURS["blond"]) - base) * rng.uniform(0.4, 1)
    elif changed < 0.25:
        lighter = np.array(COLOURS["light_blond"]) if not person.is_male else base * 1.5
        streak, streak_share = base + (lighter - base) * rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.45)
    if person.age > 0.55 and rng.random() < 0.45:
        temple = rng.uniform(0.1, 0.5)
    if 0.1 < greyness < 0.9:  # single locks turn grey, not all hair a little
        streak, streak_share = grey, greyness * 0.6
    return Dye(name, base, root, end, streak, streak_share, temple, grey)


def dress(
    rig: Rig,
    style: str,
    base_vertices: FloatArray,
    frame: HeadFrame,
    skin: FloatArray,
    normals: FloatArray,
    padding: FloatArray,
    dye: Dye,
    rng: np.random.Generator,
) -> Hairdo:
    """Hair of a style on a head.

    skin, normals: (v, 3) the bust's vertices in the head frame and their unit normals.
    padding:       (v,) thickness of clothes on the skin, which hair lies on.
    """
    made = STYLES[style]
    patchy = np.clip(0.5 + 0.5 * noise(skin, 9, 3, rng), 0, 1)
    if made.card:
        points = card_hair(rig, style, base_vertices, frame, dye, rng)
        return Hairdo(keep_face_free(points, rng), rig.hairline * 0.8)
    if made.cut is None:
        stubble = rig.hairline * rng.uniform(0.7, 1.1) if style == "buzz" else np.zeros(len(skin), np.float32)
        return Hairdo(None, stubble * (0.75 + 0.25 * patchy))
    cut = made.cut
    roots, shaved = _root_density(rig, cut, rng)
    points = strand_hair(rig, cut, skin, normals, padding, roots, dye, rng)
    if cut.fringe is None:
        points = keep_face_free(points, rng)
    tint = np.maximum(roots * 0.85, shaved * rng.uniform(0.3, 0.8) * (0.75 + 0.25 * patchy))
    return Hairdo(points, tint.astype(np.float32), STRAY_THREAD)


def card_hair(
    rig: Rig, style: str, base_vertices: FloatArray, frame: HeadFrame, dye: Dye, rng: np.random.Generator
) -> HairPoints:
    """MakeHuman's cards, with random volume, length, side and waves."""
    proxy, texture = rig.hair_cards[style]
    points, face, weights = scatter_on_mesh(frame(proxy.fit(base_vertices)), proxy.mesh.faces, CARD_POINTS, rng)
    texels = sample_texture(texture, (proxy.mesh.uv[proxy.mesh.uv_faces[face]] * weights[..., None]).sum(1))
    opaque = texels[:, 3] > ALPHA_CUT
    points, brightness = points[opaque], linear_from_srgb(texels[opaque, :3]).mean(1)
    brightness = np.clip(brightness / np.median(brightness), 0.4, 2) ** 0.6
    along = ramp(0.2, -0.35 if style in LONG_CARDS else -0.1, points[:, 1:2])
    is_streak = np.full((len(points), 1), dye.streak_share)
    if style in LONG_CARDS and dye.streak_share > 0:  # they run down the cards: they hang together along y
        streaks = noise(points * np.array([1, 0.1, 1]), 18, 2, rng)[:, None]
        is_streak = 0.6 * ramp(-0.05, 0.25, streaks - np.quantile(streaks, 1 - dye.streak_share))
    colours = dye(points, along, is_streak) * brightness[:, None]
    volume = rng.uniform(-0.03, 0.07)
    points = points + points * volume * ramp(-0.3, 0, points[:, 1:2])
    if style in LONG_CARDS:
        shoulder = -0.1  # below here hair hangs freely
        stretched = shoulder + (points[:, 1] - shoulder) * rng.uniform(0.7, 1.15)
        points[:, 1] = np.where(points[:, 1] < shoulder, stretched, points[:, 1])
    if rng.random() < 0.5:
        points[:, 0] *= -1  # parted on the other side
    wave, frequency = rng.uniform(0, 0.012), rng.uniform(3, 8)
    for axis in range(3):
        points[:, axis] += wave * noise(points, frequency, 2, rng)
    return as_hair(points, colours)


def _root_density(rig: Rig, cut: Cut, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(v,) where strands grow, and (v,) where hair is shaved to stubble, both 0..1; no two heads have one hairline."""
    x, y, z = np.abs(rig.rest[:, 0]), rig.rest[:, 1], rig.rest[:, 2]
    on_forehead = ramp(0.05, 0.09, z)
    uneven = 0.006 * noise(rig.rest, 7, 2, rng) + rng.normal(0, 0.006)
    peak = rng.choice([0, 0.018], p=[0.7, 0.3]) * np.exp(-((x / 0.02) ** 2)) * on_forehead
    sideburn = rng.uniform(-0.01, 0.06) * ramp(0.01, 0.025, z) * ramp(0.06, 0.045, z) * (x > 0.1)
    height = rig.above_hairline + uneven + peak + sideburn - rng.uniform(-0.012, 0.02) * on_forehead
    density = ramp(-0.01, 0.012, height) * (1 - np.clip(rig.ears * 3, 0, 1))
    # The front retreats more at the temples than in the middle; sides below them stay.
    temple = ramp(0.03, 0.08, x) * rng.uniform(*cut.temples)
    line = rng.uniform(*cut.front_line) - temple + 0.008 * noise(rig.rest, 9, 2, rng)
    top = ramp(0.05, 0.085, y + uneven)
    density = density * (1 - ramp(-0.012, 0.012, z - line) * top)
    radius = rng.uniform(*cut.crown)
    if radius > 0:
        from_crown = np.linalg.norm(rig.rest - CROWN, axis=1) + 0.012 * noise(rig.rest, 8, 2, rng)
        density = density * ramp(radius - 0.015, radius + 0.015, from_crown)
    shaved = np.zeros_like(density)
    if cut.shaved is not None:
        low = rng.uniform(*cut.shaved) + ramp(0, -0.15, rig.rest[:, 2]) * rng.uniform(-0.06, 0.02) + uneven
        shaved = density * ramp(0.01, -0.01, y - low)
        density = density - shaved
        shaved = shaved * (0.35 + 0.65 * ramp(-0.17, 0.04, y))  # fades towards neck and ears
    return density.astype(np.float32), shaved.astype(np.float32)


def strand_hair(
    rig: Rig,
    cut: Cut,
    skin: FloatArray,
    normals: FloatArray,
    padding: FloatArray,
    root_density: FloatArray,
    dye: Dye,
    rng: np.random.Generator,
) -> HairPoints:
    """Strands grown from the scalp in STEPS steps, combed, falling or drawn to a knot, never into the skin.

    skin, normals: (v, 3) the bust's vertices in the head frame and their unit normals; padding (v,) of clothes;
    root_density (v,) 0..1.
    """
    density = root_density[rig.faces].mean(1)
    growing = np.flatnonzero(density > 0.3)
    roots, root_face, weights = scatter_on_mesh(skin, rig.faces[growing], STRANDS, rng)
    corners = rig.faces[growing[root_face]]
    root_normals = _unit((normals[corners] * weights[..., None]).sum(1))
    at_rim = np.clip((density[growing[root_face]] - 0.3) / 0.5, 0.15, 1)[:, None]  # shorter at the hairline
    # Thin at the hairline: full height there would look like the rim of a helmet.
    rise = (rig.above_hairline[corners] * weights).sum(1)[:, None]
    body = 0.2 + 0.8 * ramp(0, 0.03 if cut.comb == "up" else 0.07, rise)
    on_top = ramp(0.06, 0.13, roots[:, 1:2])

    clump = cKDTree(roots[:CLUMPS]).query(roots)[1]
    shade = (np.exp(rng.normal(0, 0.10, STRANDS)) * np.exp(rng.normal(0, 0.16, CLUMPS))[clump])[:, None]
    # Streaks of short or curled hair would be spots: there all strands change a little instead of some clumps much.
    if sum(cut.length) > 2 * STREAKED_LENGTH and sum(cut.curl) == 0:
        is_streak = 0.6 * ramp(0, 0.3, dye.streak_share - rng.random(CLUMPS))[clump][:, None]
    else:
        is_streak = dye.streak_share * rng.uniform(0.5, 1.2, CLUMPS)[clump][:, None]
    to_clump = roots[clump] - roots
    layer = (0.15 + 0.85 * rng.random(CLUMPS))[clump][:, None]
    phase = rng.random(CLUMPS)[clump] * 2 * np.pi + rng.normal(0, 0.2, STRANDS)
    spread = np.exp(rng.normal(0, 0.08, STRANDS) + rng.normal(0, 0.10, CLUMPS)[clump])[:, None]
    full_length, full_thickness = rng.uniform(*cut.length), rng.uniform(*cut.thickness)
    curl, wave = rng.uniform(*cut.curl), rng.uniform(*cut.wave)
    length = full_length * spread * (0.4 + 0.6 * at_rim) * (cut.sides + (1 - cut.sides) * on_top)
    lopsided = 1 + rng.normal(0, 0.12) * np.sign(roots[:, :1]) * ramp(0, 0.1, np.abs(roots[:, :1]))
    thickness = full_thickness * (cut.side_thickness + (1 - cut.side_thickness) * on_top) * lopsided
    fall = _draw_fall(cut, rng)
    knot = np.array([0, rng.uniform(*cut.knot[0]), rng.uniform(*cut.knot[1])])
    gathered = np.full((STRANDS, 1), bool(cut.gathered)) & (not cut.half or roots[:, 1:2] > 0.07)
    comb = _draw_comb(cut, rng)

    dressed = (skin + normals * padding[:, None])[::3]
    nearest_skin = cKDTree(dressed)
    tips, velocity = roots.copy(), root_normals.copy()
    nothing = np.zeros((STRANDS, 1))
    points = [roots + root_normals * 0.006]  # roots hide the scalp
    colours = [dye(roots, nothing, is_streak) * shade * 0.8]
    per_step = int(np.clip(np.ceil(full_length / STEPS / POINT_SPACING), 1, 5))
    for step in range(STEPS):
        along = (step + 0.5) / STEPS
        distance, index = nearest_skin.query(tips)
        below, outward = dressed[index], normals[::3][index]
        near = (distance < 0.07)[:, None]
        if cut.comb == "fall":
            direction = _falling(roots, tips, near, along, fall)
        else:
            direction = _combed(cut.comb, comb, tips, outward, along, fall.parting)
        direction = _unit(np.where(gathered, knot - tips, direction))
        along_skin = direction - outward * (direction * outward).sum(1, keepdims=True)
        direction = np.where(near, along_skin, direction) + outward * near * body * cut.lift * max(0.0, 0.45 - along)
        velocity = _unit(0.35 * velocity * (step > 0) + 0.65 * _unit(direction))
        previous, tips = tips, tips + velocity * length / STEPS + to_clump * 0.05 * (step < 8)
        if curl:
            turn = np.stack(
                [np.sin(phase + 1.5 * step), np.cos(1.7 * phase + 1.2 * step), np.sin(2.3 * phase + step)], 1
            )
            tips = tips + 0.5 * curl * (length / full_length) * turn
        if wave:
            turn = np.stack([np.sin(0.3 * phase + 1.1 * step), 0 * phase, np.cos(0.3 * phase + 1.1 * step)], 1)
            tips = tips + 0.5 * wave * turn * min(1.0, 2 * along)
        height = ((tips - below) * outward).sum(1, keepdims=True)
        wanted = 0.006 + thickness * layer * min(1.0, 3 * along) * at_rim * np.maximum(body, along)
        tips = tips + outward * np.maximum(0, wanted - height) * (distance < 0.12)[:, None]
        # Else hair flies off the temples as a brim, combed hair off the back as a horn.
        lies_on = near & (tips[:, 1:2] > (-0.10 if curl else -1))
        ceiling = (2.0 if curl else 1.3) * wanted + 0.004
        tips = tips - outward * np.maximum(0, height - ceiling) * 0.8 * lies_on
        tint = dye(roots, np.full((STRANDS, 1), along), is_streak)
        tint = tint * shade * (0.85 + 0.25 * along) * (1 + 0.08 * np.sin(0.7 * step + phase))[:, None]
        # At random places along the step: equal ones would add up to ripples.
        for _ in range(per_step):
            points.append(previous + (tips - previous) * rng.random((STRANDS, 1)))
            colours.append(tint)
    if cut.gathered:
        tail, shading = _knot(cut.gathered, knot, rng)
        points.append(tail)
        colours.append(dye(tail, np.full((len(tail), 1), 0.6), np.zeros((len(tail), 1))) * shading)
    grown = as_hair(np.concatenate(points), np.concatenate(colours))
    kept = np.ones(len(grown.points), bool)
    if cut.fringe is not None:
        fringe_end = rng.uniform(*cut.fringe)
        kept &= ~_below_fringe(grown.points, fringe_end, rng)
        if cut.comb == "fall":  # what is cut off at the fringe does not go on beside the face
            of_fringe = np.tile(_is_fringe(roots)[:, 0], 1 + STEPS * per_step)
            kept[: len(of_fringe)] &= ~of_fringe | (grown.points[: len(of_fringe), 1] > fringe_end - 0.01)
    if cut.ends is not None:
        ends = rng.uniform(*cut.ends) + rng.normal(0, cut.layers, CLUMPS)[clump] + 0.5 * cut.layers * rng.normal()
        ends = ends + rng.normal(0, 0.06) * roots[:, 0]  # no cut is quite level
        cut_off = np.tile(ends, 1 + STEPS * per_step)
        kept[: len(cut_off)] &= grown.points[: len(cut_off), 1] > cut_off
    if fall.is_tucked:
        kept &= ~over_ears(rig, skin, grown.points)
    return chosen(grown, kept)


@dataclass(frozen=True)
class Fall:
    """How one head's hair falls: x of the parting, widest |x| and depth z of its lower part, box units."""

    parting: float
    half_width: float
    depth: float
    is_tucked: bool
    has_fringe: bool
    curtain: float  # how far hair beside the forehead comes to the front


def _draw_fall(cut: Cut, rng: np.random.Generator) -> Fall:
    is_in_front = rng.random() < cut.in_front
    return Fall(
        parting=float(rng.choice(cut.partings)) + rng.normal(0, 0.008),
        half_width=rng.uniform(0.11, 0.17),
        depth=rng.uniform(0.02, 0.07) if is_in_front else rng.uniform(-0.16, -0.08),
        is_tucked=rng.random() < cut.tucked,
        has_fringe=cut.fringe is not None,
        curtain=rng.uniform(-0.01, 0.05),
    )


def _falling(roots: FloatArray, tips: FloatArray, near: BoolArray, along: float, fall: Fall) -> FloatArray:
    """Directions of hair that falls from a parting to the sides and back, and keeps off the face."""
    x, y, z = tips[:, :1], tips[:, 1:2], tips[:, 2:]
    side = np.sign(roots[:, :1] - fall.parting)
    sideways = side * np.array([[1, 0, 0]]) * 0.9 * (1 - along) * near * (y > -0.02)
    direction = sideways * np.clip((roots[:, 2:] + 0.14) / 0.2, 0.08, 1)
    direction = direction + np.where(near & (y > -0.02), [[0, -0.75, -0.35]], [[0, -1, 0]])
    # Below the ears hair draws in to the neck, and to the front or back of the shoulders.
    hanging = ramp(-0.04, -0.14, y)
    narrower = np.sign(x) * np.minimum(np.abs(x), fall.half_width) - x
    wanted_depth = np.where(roots[:, 2:] > -0.06, fall.depth, np.minimum(fall.depth, -0.09))
    pull = np.concatenate([4 * narrower, np.zeros_like(x), np.clip(4 * (wanted_depth - z), -0.7, 0.7)], 1)
    direction = direction + hanging * pull
    if fall.has_fringe:
        direction = np.where(_is_fringe(roots), np.concatenate([0.4 * x, -0.5 + 0 * y, 0.7 + 0 * z], 1), direction)
        in_face = (z > 0.05) & (y < 0.02) & (np.abs(x) < 0.17) & ~_is_fringe(roots)
        aside = np.sign(x + 1e-3) * np.array([[0.5, 0, 0]]) + np.array([[0, 0, -0.8]])
    else:
        in_face = (z > 0.04 + fall.curtain) & (y < 0.12) & (np.abs(x) < 0.17)
        aside = np.sign(x + 1e-3) * np.array([[1.5, 0, 0]]) + np.array([[0, 0.5, -1.6]])
    direction = direction + in_face * aside
    if fall.is_tucked:
        before_ear = (y < 0.09) & (y > -0.13) & (z > -0.045) & (np.abs(x) > 0.06)
        direction = direction + before_ear * np.array([[0, 0.1, -2.5]])
    return direction


def _is_fringe(roots: FloatArray) -> BoolArray:
    """(n, 1) strands that a falling style with a fringe combs over the forehead."""
    return (roots[:, 2:] > 0.07) & (np.abs(roots[:, :1]) < 0.11)


def _draw_comb(cut: Cut, rng: np.random.Generator) -> FloatArray:
    """(3,) direction the top is combed in."""
    if cut.comb == "forward":
        return np.array([rng.normal(0, 0.4), -0.2, 0.8])
    if cut.comb in ("back", "up"):
        return np.array([rng.normal(0, 0.35), 0.1, -1.0])
    if cut.comb == "side":
        return np.array([1.3, -0.1, rng.uniform(-0.5, 0.3)])
    return np.array([rng.normal(0, 0.5), 0.0, rng.normal(0, 0.3)])


def _combed(
    how: str, comb: FloatArray, tips: FloatArray, outward: FloatArray, along: float, parting: float
) -> FloatArray:
    """Directions of combed hair: the comb's on top, as hair grows below, where sideways it would stand off."""
    from_crown = _unit(tips - CROWN) + np.array([0, -0.35, -0.1])
    top = ramp(0.02, 0.11, tips[:, 1:2])
    if how == "round":
        return from_crown + 0.5 * comb * top
    if how == "side":
        away = np.where(tips[:, :1] * np.sign(parting) > abs(parting), np.sign(parting), -np.sign(parting))
        sideways = np.concatenate([away * comb[0], np.full_like(away, comb[1]), np.full_like(away, comb[2])], 1)
        return sideways * top + from_crown * (1 - top)
    if how == "up":
        at_front = ramp(-0.02, 0.10, tips[:, 2:]) * top
        risen = comb + outward * 2.0 * max(0.0, 0.55 - along)
        return risen * at_front + (comb * top + np.array([0, -0.5, -0.5]) * (1 - top)) * (1 - at_front)
    if how == "back":
        return comb * top + np.array([0, -0.55, -0.6]) * (1 - top)
    return comb * top + from_crown * (1 - top)


def _below_fringe(points: FloatArray, height: float, rng: np.random.Generator) -> BoolArray:
    """(n,) what hangs before the face below a fringe's ends, which are never quite level."""
    x, y, z = points.T
    slope, arch = rng.normal(0, 0.1), rng.uniform(-0.5, 1.5)
    ends = height + slope * x - arch * x**2 + 0.007 * noise(points * np.array([1, 0, 0]), 14, 2, rng)
    return (y < ends) & (z > 0.085) & (np.abs(x) < 0.125)


def _knot(kind: str, knot: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Points (n, 3) of a bun, tail or braid at `knot` (3,), and their shades (n, 1)."""
    count = 16_000
    ball = _unit(rng.normal(size=(count, 3)))
    if kind == "bun":
        radius = rng.uniform(0.045, 0.075) * np.array([1.1, 0.9, 0.85]) * (0.85 + 0.15 * rng.random((count, 1)))
        winding = 1 + 0.3 * np.sin(3 * np.arctan2(ball[:, 1:2], ball[:, :1]) + 9 * ball[:, 2:])
        return knot + ball * radius, winding * np.exp(rng.normal(0, 0.12, (count, 1)))
    length, reach = rng.uniform(0.3, 0.55), rng.uniform(0.02, 0.06)
    t = rng.random(count)
    turn = rng.random(count) * 2 * np.pi
    sway = rng.normal(0, 0.04)
    middle = knot + np.stack(
        [sway * t**2, -length * t**1.4 + 0.02 * np.sin(np.pi * np.minimum(3 * t, 1)), -reach * np.sin(np.pi * t**0.6)],
        1,
    )
    if kind == "braid":
        radius = 0.024 * (1 - 0.3 * t) * (0.75 + 0.35 * np.abs(np.sin(t * length * 60)))
        strand = np.abs(np.sin(t * length * 60 + np.sign(np.sin(turn)) * 1.2))
    else:
        radius = rng.uniform(0.03, 0.045) * (0.45 + ramp(0, 0.3, t) * 0.6 - 0.5 * ramp(0.6, 1, t))
        strand = 0.6 + 0.4 * np.sin(11 * turn + 3 * t)
    radius = radius * np.sqrt(rng.uniform(0.3, 1, count))
    tube = np.stack([radius * np.cos(turn), 0 * turn, 0.8 * radius * np.sin(turn)], 1)
    return middle + tube, (0.75 + 0.35 * strand)[:, None]


def over_ears(rig: Rig, skin: FloatArray, points: FloatArray) -> BoolArray:
    """(n,) points beside or before the ears, where hair would hide them. skin (v, 3), points (n, 3)."""
    hidden = np.zeros(len(points), bool)
    for side in (1, -1):
        ear = skin[(rig.ears > 0.5) & (rig.rest[:, 0] * side > 0)]
        low, high = ear.min(0), ear.max(0)
        root = np.quantile(ear[:, 0] * side, 0.1) - 0.01
        beside = (points[:, 0] * side > root) & (points[:, 1] > low[1] - 0.01) & (points[:, 1] < high[1] - 0.006)
        hidden |= beside & (points[:, 2] > low[2] + 0.006) & (points[:, 2] < high[2] + 0.05)
    return hidden


def chosen(hair: HairPoints, kept: BoolArray) -> HairPoints:
    """The points kept (n,)."""
    return HairPoints(hair.points[kept], hair.colours[kept], hair.is_hair[kept])


def keep_face_free(hair: HairPoints, rng: np.random.Generator) -> HairPoints:
    """Drop hair in front of eyes, nose and mouth."""
    half_width, top, eyes = rng.uniform(0.105, 0.13), rng.uniform(0.03, 0.075), -0.09
    x, y, z = hair.points.T
    inside = (x / half_width) ** 2 + ((y - eyes) / (top - eyes)) ** 2 * (y > eyes) < 1
    kept = ~(inside & (z > 0.085) & (y > -0.4))
    return chosen(hair, kept)


def join(parts: list[HairPoints]) -> HairPoints:
    """All points in one."""
    return HairPoints(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.colours for part in parts]),
        np.concatenate([part.is_hair for part in parts]),
    )


def as_hair(points: FloatArray, colours: FloatArray) -> HairPoints:
    """Points (n, 3) with colours (n, 3), all of them hair."""
    return HairPoints(points.astype(np.float32), colours.astype(np.float32), np.ones(len(points), np.float32))


def solidify(hair: HairPoints, body: BoolArray, grid: VoxelGrid, thread: int = 1) -> HairSolid | None:
    """A closed surface around hair points, with no gap to the head; None if there is hardly any hair.

    body:   (count, count, count) voxels of the head.
    thread: half the width of locks that are dropped, voxels.
    """
    inside = (np.abs(hair.points) < grid.half * 0.995).all(1)
    points, colours, is_hair = hair.points[inside], hair.colours[inside], hair.is_hair[inside]
    if len(points) == 0:
        return None
    # Only the block of voxels about the hair is worked on.
    low, high = grid.index(np.stack([points.min(0), points.max(0)]))
    block = tuple(slice(max(0, a - BLOCK_MARGIN), b + BLOCK_MARGIN + 1) for a, b in zip(low, high, strict=True))
    head = body[block]
    origin = np.array([part.start for part in block])
    flat = np.ravel_multi_index(tuple((grid.index(points) - origin).T), head.shape)
    count = np.bincount(flat, minlength=head.size).reshape(head.shape)
    dense = _blur(np.minimum(count, 2), 0.9) > STRAY_COUNT
    locks, lock_count = ndi.label(dense)
    sizes = np.bincount(locks.ravel(), minlength=lock_count + 1)
    dense &= sizes[locks] >= SMALLEST_LOCK
    if not dense.any():
        return None
    covered = closing(dense | head, GAP_CLOSED) & grow(dense, NEAR_HAIR)
    filled = dense | (covered & ~head)
    cloth = np.zeros(head.size, bool)
    cloth[flat[is_hair == 0]] = True
    # Drops and threads of hair go; the brim of a cap is as thin, and stays.
    filled &= grow(shrink(filled | head, thread), thread) | grow(cloth.reshape(head.shape), 1)
    smooth = np.pad(_blur(filled, 1.0), 1)
    vertices, faces, _, _ = marching_cubes(smooth, SURFACE_LEVEL)
    vertices = (((vertices - 1 + origin + 0.5) / grid.count * 2 - 1) * grid.half).astype(np.float32)

    # Colours are looked up on the surface only: points deep inside would make the tree slow.
    rim = (filled & ~shrink(filled | head, COLOUR_DEPTH)) | (grow(filled, 1) & ~filled)
    on_rim = rim.ravel()[flat]
    points, colours, is_hair = points[on_rim], colours[on_rim], is_hair[on_rim]
    fine = VoxelGrid(2 * grid.count, grid.half)
    # One point per half voxel, with the mean colour there, is all a picture can show, and makes look-ups quick.
    cells = np.ravel_multi_index(tuple(fine.index(points).T), (fine.count,) * 3)
    _, chosen, cell_of, members = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)

    def mean(values: FloatArray) -> FloatArray:
        return (np.bincount(cell_of, values) / members).astype(np.float32)

    tree = cKDTree(points[chosen], balanced_tree=False, compact_nodes=False)
    colours, hair_share = np.stack([mean(channel) for channel in colours.T], 1), mean(is_hair)
    nearest = tree.query(vertices, k=3)[1]
    voxels = np.zeros_like(body)
    voxels[block] = smooth[1:-1, 1:-1, 1:-1] > SURFACE_LEVEL  # as the mesh has it
    return HairSolid(
        vertices=vertices,
        faces=faces[:, ::-1].astype(np.int32),
        voxels=voxels,
        colours=colours,
        vertex_colours=colours[nearest].mean(1),
        hair_share=hair_share,
        vertex_hair_share=hair_share[nearest].mean(1),
        tree=tree,
    )


def _blur(voxels: NDArray, sd: float) -> FloatArray:
    """Gaussian blur in float32; the tails beyond 2.5 sd would only cost time."""
    return ndi.gaussian_filter(voxels.astype(np.float32), sd, truncate=2.5)


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)
