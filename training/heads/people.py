"""Who a head belongs to: origin, age, gender, face shape and expression, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

ORIGINS = ("african", "asian", "caucasian")  # MakeHuman's names of its three macro shapes
HEAD_OUTLINES = ("oval", "round", "square", "rectangular", "triangular", "invertedtriangular", "diamond")
FACE_MODES = 100  # of ICT-FaceKit's identity model
# Spread of women's and men's face modes: 1 would be that of scanned faces, but the modes do not know gender and local
# changes add theirs.
FACE_MODE_SD = (0.78, 0.9)
LOCAL_CHANGE_SD = 0.13  # of MakeHuman's sliders; .28 ignored gender and made caricatures

# Individual typology angle of facial skin: mean and spread for each of ORIGINS; 28 and -10 bound light and dark.
TONE_MEAN_DEG = (-36.0, 20.0, 44.0)
TONE_SD_DEG = (15.0, 17.0, 13.0)
TONE_RANGE_DEG = (-62.0, 62.0)

AGES = ((0.45, 0.6), (0.6, 0.8), (0.8, 1.0))  # young, middle-aged, old on MakeHuman's scale
AGE_SHARES = (0.45, 0.33, 0.22)
MOUTHS = {"rest": 0.38, "closed_smile": 0.27, "open_smile": 0.27, "parted": 0.08}  # shares of all portraits
GAZE_ASIDE_SHARE = 0.35  # the others look straight ahead, which the camera's turn makes a look aside often enough
GAZE_SD_DEG, MOST_GAZE_DEG = (11.0, 5.0), (22.0, 9.0)  # to the side, up and down

# Sliders whose effect at the common spread is too strong, by the start of their names; None leaves one out.
# The first match counts.
_SLIDER_SD: tuple[tuple[str, float | None], ...] = (
    ("head-trans", None),
    ("neck-trans", None),
    ("head-age", 0.05),
    ("mouth-trans-out", 0.04),  # the mouth off the midline
    ("nose-trans-out", 0.04),
    ("l-ear-scale-incr", 0.35),
    ("l-ear-wing", 0.35),  # stand-off from the head
    ("l-ear", 0.24),
    ("head-scale", 0.13),
    ("head-angle", 0.12),
    ("neck-scale", 0.2),
    ("neck", 0.15),
)
# What the gender slider leaves to chance: mean of women's sliders; men's are the opposite.
_FEMININE = {
    "chin-width-incr": -0.14,
    "chin-prominent-incr": -0.06,
    "chin-bones-incr": -0.12,
    "chin-height-incr": -0.08,
    "l-eye-scale-incr": 0.10,
    "mouth-upperlip-volume-incr": 0.10,
    "mouth-lowerlip-volume-incr": 0.10,
    "nose-scale-horiz-incr": -0.10,
    "nose-volume-incr": -0.08,
    "eyebrows-trans-forward": -0.12,
    "neck-scale-horiz-incr": -0.15,
}
_SLIDERS_OF_A_HEAD = (
    *("chin-", "mouth-", "nose-", "forehead-", "eyebrows-"),
    *("l-ear", "l-eye", "l-cheek", "head-", "neck-"),
)


@dataclass(frozen=True)
class Person:
    """One made-up person.

    origin:       (3,) weights of ORIGINS, sum 1.
    age:          MakeHuman's scale: .45 a young adult, .7 middle-aged, 1 old.
    gender:       0 female to 1 male.
    phenotype:    MakeHuman's macro sliders by name; origin, age and gender among them.
    sliders:      MakeHuman's local changes, -1..1.
    expression:   facial actions (ARKit's names), 0..1.
    outlines:     head outlines and their weights.
    face_modes:   (FACE_MODES,) coefficients of ICT-FaceKit's identity modes.
    tone_deg:     individual typology angle the facial skin is brought to.
    gaze_deg:     the eyes' turn to the subject's left and up.
    mouth:        one of MOUTHS.
    """

    origin: FloatArray
    age: float
    gender: float
    phenotype: dict[str, float]
    sliders: dict[str, float]
    expression: dict[str, float]
    outlines: dict[str, float]
    face_modes: FloatArray
    tone_deg: float
    gaze_deg: tuple[float, float]
    mouth: str

    @property
    def is_male(self) -> bool:
        return self.gender > 0.5

    @property
    def shows_teeth(self) -> bool:
        return self.mouth in ("open_smile", "parted")


def _slider_sd(name: str) -> float | None:
    for start, sd in _SLIDER_SD:
        if name.startswith(start):
            return sd
    return LOCAL_CHANGE_SD * (0.6 if "trans" in name else 1.0)


def _draw_sliders(names: list[str], gender: float, rng: np.random.Generator) -> dict[str, float]:
    """Left and right change together but for a little asymmetry."""
    sliders = {}
    for name in names:
        sd = _slider_sd(name)
        if sd is None or not name.startswith(_SLIDERS_OF_A_HEAD):
            continue
        weight = float(np.clip(rng.normal(_FEMININE.get(name, 0.0) * (1 - 2 * gender), sd), -0.7, 0.7))
        sliders[name] = weight
        if name.startswith("l-"):
            sliders["r-" + name[2:]] = float(np.clip(weight + rng.normal(0, 0.03), -1, 1))
    return sliders


def _draw_expression(mouth: str, gaze_deg: tuple[float, float], rng: np.random.Generator) -> dict[str, float]:
    """A portrait's: the mouth as MOUTHS names it, brows and lids mild, lids that follow the gaze."""
    actions: dict[str, float] = {}

    def both(name: str, low: float, high: float) -> float:
        weight = float(rng.uniform(low, high))
        actions[f"{name}Left"], actions[f"{name}Right"] = weight, weight * float(rng.uniform(0.85, 1.1))
        return weight

    if mouth == "open_smile":
        smile = both("mouthSmile", 0.55, 1.0)
        actions["jawOpen"] = float(rng.uniform(0.05, 0.2))
        both("mouthUpperUp", 0.05, 0.4)
        both("mouthLowerDown", 0.0, 0.15)
        both("cheekSquint", 0.3 * smile, 0.8 * smile)
    elif mouth == "parted":
        actions["jawOpen"] = float(rng.uniform(0.05, 0.22))
        both("mouthUpperUp", 0.0, 0.25)
        both("mouthSmile", 0.0, 0.2)
    elif mouth == "closed_smile":
        smile = both("mouthSmile", 0.2, 0.75)
        both("cheekSquint", 0.2 * smile, 0.6 * smile)
    elif rng.random() < 0.3:
        both("mouthPress", 0, 0.4)
    elif rng.random() < 0.25:
        both("mouthFrown", 0, 0.35)
    if rng.random() < 0.25:
        actions["browInnerUp"] = float(rng.uniform(0, 0.5))
    if rng.random() < (0.08 if "smile" in mouth else 0.2):
        both("browDown", 0, 0.3)
    if rng.random() < 0.3:
        both("eyeSquint", 0, 0.45 if mouth == "open_smile" else 0.3)
    if rng.random() < 0.08 and gaze_deg[1] > -3:
        both("eyeBlink", 0.1, 0.35)
    elif rng.random() < 0.12:
        both("eyeWide", 0.1, 0.5)
    lids = "eyeLookDown" if gaze_deg[1] < 0 else "eyeLookUp"
    actions |= dict.fromkeys((f"{lids}Left", f"{lids}Right"), abs(gaze_deg[1]) / 25)
    return actions


def _draw_gaze(rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() > GAZE_ASIDE_SHARE:
        return float(rng.normal(0, 1.5)), float(rng.normal(0, 1))
    aside, up = np.clip(rng.normal(0, GAZE_SD_DEG), -np.array(MOST_GAZE_DEG), MOST_GAZE_DEG)
    return float(aside), float(up)


def draw_person(slider_names: list[str], rng: np.random.Generator) -> Person:
    """A person at random; slider_names are those the body model knows."""
    origin = rng.dirichlet([0.45] * 3)  # mostly one origin, mixtures not rare
    age = float(rng.uniform(*AGES[rng.choice(len(AGES), p=AGE_SHARES)]))
    gender = float(np.clip(rng.choice([rng.normal(0.05, 0.07), rng.normal(0.95, 0.07)]), 0, 1))
    phenotype = {
        "gender": gender,
        "age": age,
        "muscle": float(rng.uniform(0.3, 0.75)),
        "weight": float(np.clip(rng.normal(0.5, 0.17), 0.1, 0.95)),
        "height": 0.5,
        "proportions": 0.5,
        "cupsize": 0.4,
        "firmness": 0.5,
    } | dict(zip(ORIGINS, map(float, origin), strict=True))
    sliders = _draw_sliders(slider_names, gender, rng)
    mouth = str(rng.choice(list(MOUTHS), p=list(MOUTHS.values())))
    gaze_deg = _draw_gaze(rng)
    expression = _draw_expression(mouth, gaze_deg, rng)
    outlines = {name: float(rng.uniform(0, 0.35)) for name in rng.choice(HEAD_OUTLINES, 2, replace=False)}
    face_modes = np.clip(rng.normal(0, FACE_MODE_SD[gender > 0.5], FACE_MODES), -2, 2)
    look_share = origin**2 / (origin**2).sum()  # mixtures look more like their larger part
    tone_deg = float(np.clip(look_share @ rng.normal(TONE_MEAN_DEG, TONE_SD_DEG), *TONE_RANGE_DEG))
    return Person(origin, age, gender, phenotype, sliders, expression, outlines, face_modes, tone_deg, gaze_deg, mouth)


def mean_person() -> Person:
    """The reference all precomputation is done on."""
    sliders = ("gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness", *ORIGINS)
    phenotype = dict.fromkeys(sliders, 0.5)
    return Person(np.full(3, 1 / 3), 0.5, 0.5, phenotype, {}, {}, {}, np.zeros(FACE_MODES), 28.0, (0.0, 0.0), "rest")
