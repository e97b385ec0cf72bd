"""The photo's expression as facial actions of the neutral head: gaze, lids and lips as they are photographed.

`shape_fit` finds an expression together with the shape, by few actions of a mean head. By then the neutral head has
lids and lips of its own; here the actions that move them are held against the photo once more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from ..template import EYE_LEFT, EYE_RIGHT, RigTemplate
from .neutral import NeutralHead, lid_rim, lip_rim
from .observation import Observation
from .shape_fit import MM, across_rays

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

LOOKS = ("eyeLookUp", "eyeLookDown", "eyeLookIn", "eyeLookOut")
LIDS = ("eyeBlink", "eyeSquint", "eyeWide")
OPPOSED = (("eyeLookUp", "eyeLookDown"), ("eyeLookIn", "eyeLookOut"), ("eyeBlink", "eyeWide"))
# Of the mouth those that the fit found, and those that do nothing but part the lips.
PARTING = ("jawOpen", "mouthUpperUp", "mouthLowerDown")
IRISES = ((EYE_LEFT, slice(473, 478)), (EYE_RIGHT, slice(468, 473)))  # landmarks
# Standard deviations: of where iris, lids and lips are seen, and of an action against what the fit of the shape found.
IRIS_SD, LID_SD, LIP_SD = 0.3 * MM, 0.3 * MM, 0.25 * MM
CHANGE_SD = 0.3
LOOK_SD, LOOKS_APART_SD = 1.0, 0.1  # of looks, found anew, and of one eye's against the other's: they look at one thing
MOUTH_PREFIXES = ("mouth", "jaw")


def find_expression(
    template: RigTemplate, head: NeutralHead, actions: FloatArray, photographed: FloatArray, seen: Observation
) -> FloatArray:
    """(e,) in [0, 1] facial actions that bring the neutral head nearest to the photo; brows, say, stay as they are.

    actions:      (e,) as `fit_shape` found them.
    photographed: (v, 3) the template bent onto the scan.
    """
    names = template.expression_names

    def number(name: str, side: str = "") -> int:
        return names.index(name if name in names else name + side)

    sides = ("Left", "Right")
    eyes = [number(name, side) for name in (*LOOKS, *LIDS) for side in sides]
    mouth = [k for k, name in enumerate(names) if name.startswith(MOUTH_PREFIXES) and actions[k] > 0]
    chosen = np.unique([*eyes, *mouth, *(number(name, side) for name in PARTING for side in sides)])
    fixed = np.setdiff1d(np.arange(len(names)), chosen)
    start = head.vertices + np.tensordot(actions[fixed], head.expressions[fixed], 1)
    ways = head.expressions[chosen]
    is_look = np.isin(chosen, [number(name, side) for name in LOOKS for side in sides])
    cost = np.where(is_look, 1 / LOOK_SD, 1 / CHANGE_SD)
    rows, misses = [np.diag(cost)], [cost * np.where(is_look, 0.0, actions[chosen])]

    def wanted(slopes: FloatArray, miss: FloatArray, deviation: float) -> None:
        """Add measurements (n,) that all tell of one thing; slopes (n, actions)."""
        scale = 1 / (deviation * np.sqrt(len(miss)))
        rows.append(slopes * scale)
        misses.append(miss * scale)

    across = across_rays(seen.rays)
    points = template.landmarks(start) - seen.camera.position
    moved = np.einsum("lk,ulkd->uld", template.landmark_weights, ways[:, template.landmark_vertices])
    for part, iris in IRISES:
        aside = np.einsum("lad,uld->lau", across[iris], moved[:, iris])
        wanted(aside.reshape(-1, len(chosen)), -np.einsum("lad,ld->la", across[iris], points[iris]).ravel(), IRIS_SD)
        # Lids go up and down by actions; what they are off to the side or in depth is none's.
        rim = lid_rim(template, part)
        wanted(ways[:, rim, 1].T, (photographed - start)[rim, 1], LID_SD)
    for rim in lip_rim(template):
        wanted(ways[:, rim].reshape(len(chosen), -1).T, (photographed - start)[rim].ravel(), LIP_SD)
    for left, right in (("Up", "Up"), ("Down", "Down"), ("In", "Out"), ("Out", "In")):
        pair = np.array([number(f"eyeLook{left}Left"), number(f"eyeLook{right}Right")])
        row = (chosen == pair[0]).astype(float) - (chosen == pair[1])
        rows.append(row[None] / LOOKS_APART_SD)
        misses.append(np.zeros(1))
    matrix, target = np.concatenate(rows), np.concatenate(misses)
    found = actions.copy()
    found[chosen] = lsq_linear(matrix, target, (0.0, 1.0), method="bvls").x
    # Nobody looks in and out at once: of what works against each other the lesser is left out.
    against = [[number(name, side) for name in pair] for pair in OPPOSED for side in sides]
    lesser = [min(pair, key=lambda k: found[k]) for pair in against]
    used = ~np.isin(chosen, lesser)
    found[lesser] = 0.0
    found[chosen[used]] = lsq_linear(matrix[:, used], target, (0.0, 1.0), method="bvls").x
    return found
