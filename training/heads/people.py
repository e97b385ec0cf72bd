"""Who a head belongs to: origin, age, gender, face shape and expression, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

ORIGINS = ("african", "asian", "caucasian")  # MakeHuman's names of its three macro shapes
HEAD_OUTLINES = ("oval", "round", "square", "rectangular", "triangular", "invertedtriangular", "diamond")
FACE_MODES = 100  # of ICT-FaceKit's identity model
FACE_MODE_SD = 0.75  # 1 would be the spread of scanned faces; local changes add theirs
LOCAL_CHANGE_SD = 0.14  # of MakeHuman's sliders; .28 ignored gender and made caricatures

# Sliders whose effect at the common spread is too strong, by the start of their names; None leaves one out.
# The first match counts.
_SLIDER_SD: tuple[tuple[str, float | None], ...] = (
    ("head-trans", None),
    ("neck-trans", None),
    ("head-age", 0.05),
    ("mouth-trans-out", 0.04),  # the mouth off the midline
    ("nose-trans-out", 0.04),
    ("l-ear", 0.22),
    ("head-scale", 0.13),
    ("head-angle", 0.12),
    ("neck-scale", 0.2),
    ("neck", 0.15),
)
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
    """

    origin: FloatArray
    age: float
    gender: float
    phenotype: dict[str, float]
    sliders: dict[str, float]
    expression: dict[str, float]
    outlines: dict[str, float]
    face_modes: FloatArray

    @property
    def is_male(self) -> bool:
        return self.gender > 0.5


def _slider_sd(name: str) -> float | None:
    for start, sd in _SLIDER_SD:
        if name.startswith(start):
            return sd
    return LOCAL_CHANGE_SD * (0.6 if "trans" in name else 1.0)


def _draw_sliders(names: list[str], rng: np.random.Generator) -> dict[str, float]:
    """Left and right change together but for a little asymmetry."""
    sliders = {}
    for name in names:
        sd = _slider_sd(name)
        if sd is None or not name.startswith(_SLIDERS_OF_A_HEAD):
            continue
        weight = float(np.clip(rng.normal(0, sd), -0.7, 0.7))
        sliders[name] = weight
        if name.startswith("l-"):
            sliders["r-" + name[2:]] = float(np.clip(weight + rng.normal(0, 0.03), -1, 1))
    return sliders


def _draw_expression(rng: np.random.Generator) -> dict[str, float]:
    """Mild: a portrait's smile, brows and lids; lips stay closed (there are no teeth)."""
    actions: dict[str, float] = {}
    if rng.random() < 0.55:
        smile = float(rng.uniform(0, 0.6))
        actions |= {"mouthSmileLeft": smile, "mouthSmileRight": smile * float(rng.uniform(0.85, 1.1))}
        actions |= {"cheekSquintLeft": 0.5 * smile, "cheekSquintRight": 0.5 * smile}
    if rng.random() < 0.25:
        actions["browInnerUp"] = float(rng.uniform(0, 0.5))
    if rng.random() < 0.25:
        frown = float(rng.uniform(0, 0.4))
        actions |= {"browDownLeft": frown, "browDownRight": frown}
    if rng.random() < 0.3:
        squint = float(rng.uniform(0, 0.3))
        actions |= {"eyeSquintLeft": squint, "eyeSquintRight": squint}
    if rng.random() < 0.3:
        press = float(rng.uniform(0, 0.4))
        actions |= {"mouthPressLeft": press, "mouthPressRight": press}
    return actions


def draw_person(slider_names: list[str], rng: np.random.Generator) -> Person:
    """A person at random; slider_names are those the body model knows."""
    origin = rng.dirichlet([0.45] * 3)  # mostly one origin, mixtures not rare
    age = float(rng.choice([rng.uniform(0.45, 0.62), rng.uniform(0.6, 0.8), rng.uniform(0.8, 1.0)], p=[0.5, 0.3, 0.2]))
    gender = float(np.clip(rng.choice([rng.normal(0.08, 0.08), rng.normal(0.92, 0.08)]), 0, 1))
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
    sliders = _draw_sliders(slider_names, rng)
    expression = _draw_expression(rng)
    outlines = {name: float(rng.uniform(0, 0.35)) for name in rng.choice(HEAD_OUTLINES, 2, replace=False)}
    face_modes = np.clip(rng.normal(0, FACE_MODE_SD, FACE_MODES), -2, 2)
    return Person(origin, age, gender, phenotype, sliders, expression, outlines, face_modes)


def mean_person() -> Person:
    """The reference all precomputation is done on."""
    sliders = ("gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness", *ORIGINS)
    phenotype = dict.fromkeys(sliders, 0.5)
    return Person(np.full(3, 1 / 3), 0.5, 0.5, phenotype, {}, {}, {}, np.zeros(FACE_MODES))
