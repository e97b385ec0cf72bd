"""From the photographed face to a neutral one that can be animated: eyes in their lids, lips closed, shapes that fit.

What the facial actions of the photo added is taken off again. A scan tells nothing of how lids lie on an eyeball or
lips on each other; the template does, and its distances are carried over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..facing import smoothstep
from ..template import (
    BONES,
    EYE_LEFT,
    EYE_RIGHT,
    GUMS,
    MOUTH,
    SKIN,
    SOCKET,
    TEETH_LOWER,
    TEETH_UPPER,
    RigTemplate,
)
from .shape_fit import MM, ShapeFit
from .untangle import TangleFinder, untangled

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

SIDES = ((EYE_LEFT, "Left", "eye.L", 1.0), (EYE_RIGHT, "Right", "eye.R", -1.0))
LID = (1.15, 1.45)  # eyeball radii from its centre: whatever lies nearer is lid, beyond the second nothing is
# Eyeball radii: up to the first both eyes are mirror images, beyond the second as the photo has them.
ALIKE = (1.3, 1.8)
EVEN_TRUST = np.ones(2)
EYE_GROWTH = (0.94, 1.06)  # eyeballs differ little
EYE_STEPS = 6  # Gauss-Newton steps of the ball's place
# Weight of where the lids have carried it. A scan tells nothing of how deep each part of a rim lies: were that to shift
# the ball up or aside, the eye would look past its lids.
EYE_HOLD = np.array([8.0, 8.0, 0.5])
LIP_HEIGHT, LIP_DEPTH = 6 * MM, 3 * MM  # up and down from the seam, and behind it, where lips touch
LIP_COLUMN = 0.5 * MM  # between the places along the lips where their gap is measured
LIP_ROUNDS = 3  # vertices along the lips are some 2.5 mm apart: what one round does at them is not all between them
TOUCHING_LIPS = 0.1 * MM
LIP_REACH = 7 * MM  # how far around the seam lips give way when they are brought together
MOVES_WITH_JAW = 0.35  # of the jaw's drop: vertices that go farther with it are of the lower lip
TEETH_REACH = 6 * MM  # so near before the teeth lips and cheeks are
TEETH_ROOM = 0.4 * MM  # that this head's lips have more than the template's: they slide along teeth less smoothly
LID_MOVES = 0.3  # of the largest way in a blink: the rim's vertices that go farther are the upper lid's
SPREAD = 4  # rim vertices whose corrections a vertex of the lid shares


@dataclass(frozen=True)
class Eyeball:
    """centre (3,) and radius, box units."""

    centre: FloatArray
    radius: float

    @classmethod
    def of(cls, template: RigTemplate, vertices: FloatArray, part: int) -> Eyeball:
        """The ball of a part; its first vertex is the pupil, its last the pole behind it."""
        ball = template.vertices_of(part)
        front, back = vertices[ball[0]], vertices[ball[-1]]
        return cls((front + back) / 2, float(np.linalg.norm(front - back) / 2))

    def radii(self, points: FloatArray) -> FloatArray:
        """(n,) distances of points (n, 3) from the centre, of the radius."""
        return np.linalg.norm(points - self.centre, axis=1) / self.radius


@dataclass(frozen=True)
class NeutralHead:
    """vertices (v, 3), expressions (e, v, 3) and pivots (b, 3) of this head; head frame."""

    vertices: FloatArray
    expressions: FloatArray
    pivots: FloatArray


def neutralise(
    template: RigTemplate,
    shape: ShapeFit,
    photographed: FloatArray,
    finder: TangleFinder,
    eye_trust: FloatArray = EVEN_TRUST,
) -> NeutralHead:
    """The animatable head.

    photographed: (v, 3) the template bent onto the scan by `fit_surface` from `shape.vertices(template)`.
    finder:       of this template's tangles.
    eye_trust:    (2,) how plainly the photo shows the left eye and the right one.
    """
    expressions = shape.along(template.expressions.astype(np.float64))
    before = shape.neutral(template)
    vertices = photographed - np.tensordot(shape.actions, expressions, 1)
    vertices = _lips_closed(template, vertices)
    mean = shape.place(template.vertices)
    vertices = _eyes_alike(template, shape, vertices, eye_trust)
    vertices = untangled(finder, mean, vertices, (partial(_lips_closed, template), np.copy))
    vertices = _teeth_along(template, shape, before, vertices)
    pivots = shape.place(template.pivots + np.tensordot(shape.modes, template.pivot_modes, 1))
    for part, side, bone, _ in SIDES:
        rest = Eyeball.of(template, template.vertices, part)
        ball = _ball_behind_lids(template, rest, Eyeball.of(template, before, part), before, vertices, part)
        index = template.vertices_of(part)
        old = Eyeball.of(template, before, part)
        vertices[index] = (before[index] - old.centre) * (ball.radius / old.radius) + ball.centre
        expressions[:, index] *= ball.radius / old.radius
        vertices = _on_ball(template, vertices, rest.radii(template.vertices), ball, part)
        on_ball = partial(_on_ball, template, radii=rest.radii(template.vertices), ball=ball, part=part)
        vertices = untangled(finder, mean, vertices, (on_ball,))
        for k, name in enumerate(template.expression_names):
            if name.startswith("eye") and name.endswith(side):
                moved = vertices + expressions[k]
                if name.startswith("eyeBlink"):
                    moved = _lids_meet(template, vertices, moved, k, part, shape)
                at_rest = rest.radii(template.vertices + template.expressions[k])
                expressions[k] = _on_ball(template, moved, at_rest, ball, part) - vertices
                unmoved = ~template.expressions[k].any(axis=1)
                expressions[k, unmoved] = 0.0
        pivots[BONES.index(bone)] = ball.centre
    return NeutralHead(vertices, expressions, pivots)


def _eyes_alike(
    template: RigTemplate, shape: ShapeFit, vertices: FloatArray, trust: FloatArray = EVEN_TRUST
) -> FloatArray:
    """Lids of both eyes made each other's mirror images, where they are; the less so the farther from the eye.

    A scan has no lids, and landmarks put a rim a millimetre off. Then one eyeball would be larger than the other, and a
    lid that slides on a ball from another place goes another way. What a photo shows of one eye closed more than the
    other is a facial action (`expression`).

    trust: (2,) how much the left eye and the right one count.
    """
    over = shape.turn @ np.diag([-1.0, 1.0, 1.0]) @ shape.turn.T
    radii = Eyeball.of(template, template.vertices, EYE_LEFT).radii(template.vertices)
    around = template.vertices_of(SKIN, SOCKET)
    left = around[(radii[around] < ALIKE[1]) & (template.vertices[around, 0] > 0)]
    right = template.mirror[left]
    rim = lid_rim(template, EYE_LEFT)
    middles = vertices[rim].mean(axis=0), vertices[template.mirror[rim]].mean(axis=0)
    sides = vertices[left] - middles[0], (vertices[right] - middles[1]) @ over
    mean = np.average(sides, axis=0, weights=trust)
    share = (1 - smoothstep(radii[left], *ALIKE))[:, None]
    alike = vertices.copy()
    alike[left] += share * (mean - sides[0])
    alike[right] += share * (mean - sides[1]) @ over
    return alike


def lid_rim(template: RigTemplate, part: int) -> IntArray:
    """Vertices where skin turns into the socket of an eye."""
    rim = np.intersect1d(template.vertices_of(SKIN), template.vertices_of(SOCKET))
    side = 1.0 if part == EYE_LEFT else -1.0
    return rim[template.vertices[rim, 0] * side > 0]


def lip_rim(template: RigTemplate) -> tuple[IntArray, IntArray]:
    """(n,), (m,) vertices where skin turns into the mouth: of the upper and of the lower lip."""
    rim = np.intersect1d(template.vertices_of(SKIN), template.vertices_of(MOUTH))
    is_lower = _jaw_share(template)[rim] > MOVES_WITH_JAW
    return rim[~is_lower], rim[is_lower]


def _jaw_share(template: RigTemplate) -> FloatArray:
    """(v,) how far each vertex goes down with the jaw, of the farthest on the skin."""
    drop = -template.expressions[template.expression_names.index("jawOpen"), :, 1]
    return drop / drop[template.vertices_of(SKIN)].max()


def _lips_closed(template: RigTemplate, vertices: FloatArray) -> FloatArray:
    """Lips brought together until they touch: each gives way half of the gap, less the farther from the seam.

    What touches is not the rims, where skin turns into the mouth, but whatever is lowest of the upper lip and highest
    of the lower one, at each place along them.
    """
    rim = np.concatenate(lip_rim(template))
    around = template.vertices_of(SKIN, MOUTH)
    from_seam, nearest_rim = cKDTree(template.vertices[rim]).query(template.vertices[around])
    is_lower = _jaw_share(template)[around] > MOVES_WITH_JAW
    gives_way = np.where(is_lower, 0.5, -0.5) * np.exp(-((from_seam / LIP_REACH) ** 2))
    quads = template.faces[template.part <= MOUTH]
    sides = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2)
    closed = vertices.copy()
    for _ in range(LIP_ROUNDS):
        in_front = closed[around, 2] > closed[rim[nearest_rim], 2] - LIP_DEPTH
        is_lip = (from_seam < LIP_HEIGHT) & in_front
        columns = np.arange(closed[rim, 0].min(), closed[rim, 0].max(), LIP_COLUMN)
        lowest = _lowest_at(columns, closed, _sides_among(sides, around[is_lip & ~is_lower]))
        highest = -_lowest_at(columns, closed * [1, -1, 1], _sides_among(sides, around[is_lip & is_lower]))
        gap = lowest - highest - TOUCHING_LIPS
        known = np.isfinite(gap)  # in a corner a column may hold one lip alone
        closed[around, 1] += gives_way * np.interp(closed[around, 0], columns[known], gap[known])
    return closed


def _sides_among(sides: IntArray, vertices: IntArray) -> IntArray:
    """(k, 2) those of sides (n, 2) of which both ends are among vertices."""
    return sides[np.isin(sides, vertices).all(axis=1)]


def _lowest_at(columns: FloatArray, vertices: FloatArray, sides: IntArray) -> FloatArray:
    """(c,) the lowest y of sides (n, 2) of faces where x is that of columns (c,); infinite where there is none."""
    start, end = vertices[sides[:, 0]], vertices[sides[:, 1]]
    start, end = np.where(start[:, :1] <= end[:, :1], (start, end), (end, start))
    run = np.maximum(end[:, 0] - start[:, 0], 1e-12)[:, None]
    along = (columns - start[:, :1]) / run
    height = start[:, 1:2] + along * (end[:, 1:2] - start[:, 1:2])
    return np.where((along >= 0) & (along <= 1), height, np.inf).min(axis=0)


def _teeth_along(template: RigTemplate, shape: ShapeFit, before: FloatArray, vertices: FloatArray) -> FloatArray:
    """Teeth, gums and tongue keep their place at the lips' seam, and behind all that lips have gone back.

    Where lips are nearest they decide: an action that slides them along the teeth would else pass through.
    """
    rim = np.concatenate(lip_rim(template))
    teeth = template.vertices_of(TEETH_UPPER, TEETH_LOWER)
    around = template.vertices_of(SKIN, MOUTH)
    away, nearest = cKDTree(template.vertices[teeth]).query(template.vertices[around])
    in_front = around[(away < TEETH_REACH) & (template.vertices[around, 2] > template.vertices[teeth[nearest], 2])]
    moves = (vertices - before) @ shape.turn
    step = moves[rim].mean(axis=0)
    step[2] = min(step[2], moves[in_front, 2].min() - TEETH_ROOM)
    inside = template.vertices_of(TEETH_UPPER, TEETH_LOWER, GUMS)
    moved = vertices.copy()
    moved[inside] = before[inside] + shape.turn @ step
    return moved


def _ball_behind_lids(
    template: RigTemplate, rest: Eyeball, old: Eyeball, before: FloatArray, vertices: FloatArray, part: int
) -> Eyeball:
    """The ball that lies behind the lids' rims as the template's does."""
    rim = lid_rim(template, part)
    size = [np.linalg.norm(points[rim] - points[rim].mean(axis=0), axis=1).mean() for points in (before, vertices)]
    radius = old.radius * float(np.clip(size[1] / size[0], *EYE_GROWTH))
    carried = old.centre + (vertices[rim] - before[rim]).mean(axis=0)
    wanted = rest.radii(template.vertices[rim]) * radius
    centre = carried.copy()
    for _ in range(EYE_STEPS):
        offset = vertices[rim] - centre
        distance = np.linalg.norm(offset, axis=1)
        slope = np.concatenate([-offset / distance[:, None], np.diag(EYE_HOLD)])
        miss = np.concatenate([wanted - distance, EYE_HOLD * (carried - centre)])
        centre = centre + np.linalg.lstsq(slope, miss, rcond=None)[0]
    return Eyeball(centre, radius)


def _on_ball(template: RigTemplate, vertices: FloatArray, radii: FloatArray, ball: Eyeball, part: int) -> FloatArray:
    """Lids brought to the distance from the ball that the template's have: radii (v,) in its eyeball's radius."""
    side = 1.0 if part == EYE_LEFT else -1.0
    around = template.vertices_of(SKIN, SOCKET)
    around = around[(radii[around] < LID[1]) & (template.vertices[around, 0] * side > 0)]
    offset = vertices[around] - ball.centre
    distance = np.linalg.norm(offset, axis=1)
    share = np.clip((LID[1] - radii[around]) / (LID[1] - LID[0]), 0, 1)
    wanted = distance + share * (radii[around] * ball.radius - distance)
    on_ball = vertices.copy()
    on_ball[around] = ball.centre + offset * (wanted / np.maximum(distance, 1e-9))[:, None]
    return on_ball


def _lids_meet(
    template: RigTemplate, vertices: FloatArray, moved: FloatArray, blink: int, part: int, shape: ShapeFit
) -> FloatArray:
    """A blink whose upper lid comes as near to the lower one as the template's does."""
    rim = lid_rim(template, part)
    way = np.linalg.norm(template.expressions[blink], axis=1)
    is_upper = way[rim] > LID_MOVES * way[rim].max()
    upper, lower = rim[is_upper], rim[~is_upper]
    shut = template.vertices + template.expressions[blink]
    partner = lower[cKDTree(shut[lower]).query(shut[upper])[1]]
    missing = shape.along(shut[upper] - shut[partner]) - (moved[upper] - moved[partner])
    lid = np.flatnonzero(way > 1e-6)
    distance, nearest = cKDTree(template.vertices[upper]).query(template.vertices[lid], k=min(SPREAD, len(upper)))
    share = 1 / (distance + 0.2 * MM)
    share /= share.sum(axis=1, keepdims=True)
    along = np.clip(way[lid] / (way[upper][nearest] * share).sum(axis=1), 0, 1)
    closed = moved.copy()
    closed[lid] += np.einsum("nk,nkd->nd", share, missing[nearest]) * along[:, None]
    return closed
