"""A finished head becomes an animatable one: the template fitted, made neutral, and measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..camera import project
from ..face_region import EYE_OUTLINES
from ..progress import Progress
from ..surface import METRES_PER_UNIT, NECK_CUT_Y
from ..template import EYE_LEFT, EYE_RIGHT, SKIN, RigTemplate
from .expression import find_expression
from .neutral import Eyeball, NeutralHead, neutralise
from .observation import CONTOUR, Observation
from .shape_fit import CAP_MARGIN, MM, ShapeFit, correspond, fit_shape, landmark_trust
from .skin import skin_trust
from .surface_fit import fit_surface
from .untangle import TangleFinder

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

SHOWN_SKIN = 0.5  # trust from which on a vertex counts as fitted to skin
COUNTERPART = 3 * MM  # only whether the scan has a like surface is asked for, not how near it is
SHARES = (0.0, 0.4, 0.9, 1.0)  # of the progress, after each step


@dataclass(frozen=True)
class FitQuality:
    """How well the rig fits, as photographed. Lengths are millimetres.

    skin_mean_mm, skin_p95_mm: distance of the template's vertices on skin from the scan.
    skin_share:          how much of the template's skin above the neck's cut, by vertices, that is.
    landmarks:           mean distance of the landmarks in the portrait, but those of the face's outline, of the
                         distance of the eyes.
    turned_over:         skin triangles whose normal has turned round against the template's, neutral.
    intersections:       pairs of skin triangles that pass through each other, neutral; those of the template itself
                         are not counted.
    eye_through_lid:     vertices of the skin that lie inside an eyeball, neutral.
    """

    skin_mean_mm: float
    skin_p95_mm: float
    skin_share: float
    landmarks: float
    turned_over: int
    intersections: int
    eye_through_lid: int


@dataclass(frozen=True)
class RigFit:
    """The fitted rig; head frame, box units.

    head:         neutral vertices, this head's facial actions, pivots of the bones.
    actions:      (e,) in [0, 1]: the photo's expression.
    skin:         (v,) in [0, 1] how far a vertex was fitted to skin that the scan shows.
    """

    head: NeutralHead
    actions: FloatArray
    skin: FloatArray
    shape: ShapeFit
    quality: FitQuality

    @property
    def photographed(self) -> FloatArray:
        """(v, 3) with the photo's expression."""
        return self.head.vertices + np.tensordot(self.actions, self.head.expressions, 1)


def fit_rig(template: RigTemplate, seen: Observation, progress: Progress) -> RigFit:
    """Fit the template to a reconstructed head. Deterministic; some seconds."""

    def part(step: int) -> Progress:
        start, end = SHARES[step], SHARES[step + 1]
        return lambda fraction, label: progress(start + (end - start) * fraction, label)

    shape = fit_shape(template, seen, skin_trust(template, template.vertices, seen), part(0))
    start = shape.vertices(template)
    skin = skin_trust(template, start, seen)
    bent = fit_surface(template, shape, seen, skin, part(1))
    met = correspond(template, bent, seen, template.vertices_of(SKIN), COUNTERPART)
    skin[met.vertex] *= met.alike
    progress(SHARES[2], "Relaxing the face")
    finder = TangleFinder(template)
    trust = landmark_trust(template, bent, seen)
    eye_trust = np.array([trust[outline].mean() for outline in reversed(EYE_OUTLINES)])  # left, right
    head = neutralise(template, shape, bent, finder, eye_trust)
    actions = find_expression(template, head, shape.actions, bent, seen)
    return RigFit(head, actions, skin, shape, measure(template, head, actions, seen, skin, finder))


def measure(
    template: RigTemplate,
    head: NeutralHead,
    actions: FloatArray,
    seen: Observation,
    skin: FloatArray,
    finder: TangleFinder,
) -> FitQuality:
    """Hold a fitted rig against what it was fitted to."""
    photographed = head.vertices + np.tensordot(actions, head.expressions, 1)
    outside = template.vertices_of(SKIN)
    above = outside[photographed[outside, 1] > NECK_CUT_Y + CAP_MARGIN]
    shown = above[skin[above] > SHOWN_SKIN]
    near = seen.nearest(photographed[shown])
    distance = np.linalg.norm(photographed[shown] - near.points, axis=1) * METRES_PER_UNIT * 1000
    picture = project(template.landmarks(photographed), seen.camera)[0]
    fixed = np.setdiff1d(np.arange(len(picture)), CONTOUR)
    missed = np.linalg.norm(picture - seen.picture, axis=1)[fixed] / seen.eye_distance
    tangles = finder.find(head.vertices)
    through = 0
    for eye in (EYE_LEFT, EYE_RIGHT):
        through += int((Eyeball.of(template, head.vertices, eye).radii(head.vertices[outside]) < 1.0).sum())
    return FitQuality(
        skin_mean_mm=float(distance.mean()),
        skin_p95_mm=float(np.percentile(distance, 95)),
        skin_share=len(shown) / len(above),
        landmarks=float(missed.mean()),
        turned_over=len(tangles.turned),
        intersections=len(tangles.pairs),
        eye_through_lid=through,
    )
