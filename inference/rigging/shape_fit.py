"""A person as the template knows people: place, size, modes of shape and facial actions, all at once.

Gauss-Newton on landmarks seen along their rays and on the scan's surface, point to plane. Facial actions stay within
[0, 1] and are few, because each costs; modes cost as much as they are unusual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from ..progress import Progress
from ..surface import METRES_PER_UNIT, NECK_CUT_Y, Mesh, vertex_normals
from ..template import SKIN, RigTemplate, triangles
from .observation import Observation

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

MM = 0.001 / METRES_PER_UNIT  # box units
LANDMARK_SD = 1.2 * MM  # how far a landmark may be off, across its ray
SURFACE_SD = 1.5 * MM  # how far shape modes may miss the surface
SURFACE_ROWS_COUNT_AS = 300  # independent measurements there are in the surface; its vertices are many and agree
FAR = (12 * MM, 6 * MM)  # correspondences count half there: in the first and in the last round
ACTION_COST = 1.0  # standard deviations an action at 1 costs
ACTION_PRICE = 12.0  # of each action's mere use, however little: most are then 0 (Tibshirani's lasso)
MODE_COST = 1.8  # standard deviations one of a mode costs
# What a step of place costs, in standard deviations: a radian, the size doubled, a box unit. They only damp.
STEP_COST = np.array([10.0, 10.0, 10.0, 20.0, 50.0, 50.0, 50.0])
PAIR_COST = 4.0  # standard deviations that left and right of one action differ by 1
MOST_UNUSUAL = 3.0  # standard deviations of a mode
LANDMARK_ROUNDS, ROUNDS = 4, 10  # the first rounds see landmarks alone
TURNED_DEG, TURNED_DOUBT = 20.0, 1.0  # landmarks of faces turned farther fall short of the turn: they count less
SAME_SIDE = 0.5  # least cosine between the normals of corresponding points
CAP_MARGIN = 4 * MM  # above the neck's cut: there the scan turns into its flat end

# Actions a single portrait cannot tell from the shape of a jaw or of lips, or that mean nothing without another one.
UNSEEN_ACTIONS = (
    *("tongueOut", "cheekPuff", "mouthClose", "jawForward", "jawLeft", "jawRight"),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
)


@dataclass(frozen=True)
class ShapeFit:
    """points_head = scale * turn @ (template.vertices + modes + actions) + shift.

    modes (m,) standard deviations; actions (e,) in [0, 1]; turn (3, 3), shift (3,).
    """

    modes: FloatArray
    actions: FloatArray
    scale: float
    turn: FloatArray
    shift: FloatArray

    def place(self, points: FloatArray) -> FloatArray:
        """(..., 3) template to head frame."""
        return self.scale * points @ self.turn.T + self.shift

    def along(self, offsets: FloatArray) -> FloatArray:
        """(..., 3) the same for differences of points."""
        return self.scale * offsets @ self.turn.T

    def neutral(self, template: RigTemplate) -> FloatArray:
        """(v, 3) without facial actions."""
        return self.place(template.vertices + np.tensordot(self.modes, template.modes, 1))

    def vertices(self, template: RigTemplate) -> FloatArray:
        """(v, 3) with them."""
        return self.neutral(template) + self.along(np.tensordot(self.actions, template.expressions, 1))


@dataclass(frozen=True)
class Correspondence:
    """Where some vertices (n,) meet the scan.

    points, normals: (n, 3) of the scan; weight (n,) in [0, 1]; signed_distance (n,) of the vertices, negative inside.
    alike:           (n,) whether the normals agree and the point lies above the neck's cut: the inside of a nostril or
                     the back of an ear has no like in a scan.
    """

    vertex: IntArray
    points: FloatArray
    normals: FloatArray
    weight: FloatArray
    signed_distance: FloatArray
    alike: NDArray[np.bool_]


def correspond(
    template: RigTemplate, vertices: FloatArray, seen: Observation, among: IntArray, far: float
) -> Correspondence:
    """Where vertices `among` meet the scan: nearest points with like normals, weighted after Geman and McClure."""
    normals = vertex_normals(Mesh(vertices, triangles(template.faces[template.part == SKIN])))[among]
    near = seen.nearest(vertices[among])
    distance = near.signed_distance(vertices[among])
    alike = np.einsum("ij,ij->i", normals, near.normals) > SAME_SIDE
    alike &= near.points[:, 1] > NECK_CUT_Y + CAP_MARGIN
    weight = alike / (1 + (distance / far) ** 2) ** 2
    return Correspondence(among, near.points, near.normals, weight, distance, alike)


def landmark_trust(template: RigTemplate, vertices: FloatArray, seen: Observation) -> FloatArray:
    """(478,) how much each landmark counts: those on the far side of a turned face hardly do."""
    faces = triangles(template.faces)
    normals = vertex_normals(Mesh(vertices, faces))
    at = np.einsum("lk,lkd->ld", template.landmark_weights, normals[template.landmark_vertices])
    towards = seen.camera.position - template.landmarks(vertices)
    cosine = np.einsum("ij,ij->i", at, towards) / np.linalg.norm(towards, axis=1)
    aside = abs(np.degrees(np.arctan2(seen.camera.position[0], seen.camera.position[2])))
    turned = 1 + (max(aside - TURNED_DEG, 0.0) / TURNED_DEG) ** 2 * TURNED_DOUBT
    return seen.trust * np.clip(0.1 + 1.5 * cosine, 0.05, 1.0) / turned


def fit_shape(template: RigTemplate, seen: Observation, skin: FloatArray, progress: Progress) -> ShapeFit:
    """Fit place, modes and actions.

    skin: (v,) in [0, 1] where the scan is likely to show the template's skin.
    """
    among = np.flatnonzero(skin > 0.05)
    usable = np.array([name not in UNSEEN_ACTIONS for name in template.expression_names])
    modes, actions = len(template.modes), int(usable.sum())
    fit = ShapeFit(np.zeros(modes), np.zeros(len(usable)), 1.0, np.eye(3), np.zeros(3))
    basis = np.concatenate([template.modes, template.expressions[usable]])  # (unknowns, v, 3)
    on_landmarks = np.einsum("lk,ulkd->uld", template.landmark_weights, basis[:, template.landmark_vertices])
    lower = np.concatenate([np.full(modes, -MOST_UNUSUAL), np.zeros(actions), np.full(7, -np.inf)])
    upper = np.concatenate([np.full(modes, MOST_UNUSUAL), np.ones(actions), np.full(7, np.inf)])
    across = across_rays(seen.rays)
    pairs = _pairs(template, usable, modes)
    for round_ in range(ROUNDS):
        progress(round_ / ROUNDS, "Fitting the face's shape")
        vertices = fit.vertices(template)
        unknowns = np.concatenate([fit.modes, fit.actions[usable], np.zeros(7)])
        points = template.landmarks(vertices)
        weight = np.sqrt(landmark_trust(template, vertices, seen)) / LANDMARK_SD
        miss, slope = _sideways(seen, across, points, _slopes(fit, on_landmarks, points))
        miss, slope = miss * weight[:, None], slope * weight[:, None, None]
        rows, values = [slope.reshape(-1, len(unknowns))], [miss.ravel()]
        if round_ >= LANDMARK_ROUNDS:
            share = (round_ - LANDMARK_ROUNDS) / (ROUNDS - 1 - LANDMARK_ROUNDS)
            met = correspond(template, vertices, seen, among, FAR[0] + share * (FAR[1] - FAR[0]))
            weight = np.sqrt(met.weight * skin[among])
            weight *= np.sqrt(SURFACE_ROWS_COUNT_AS / max((weight**2).sum(), 1.0)) / SURFACE_SD
            slopes = _slopes(fit, basis[:, among], vertices[among])
            rows.append(np.einsum("vd,uvd->vu", met.normals, slopes) * weight[:, None])
            values.append(-np.einsum("vd,vd->v", met.normals, vertices[among] - met.points) * weight)
        cost = np.concatenate([np.full(modes, MODE_COST), np.full(actions, ACTION_COST), STEP_COST])
        matrix = np.concatenate([*rows, pairs, np.diag(cost)])
        # Steps of place and size are counted from where they are, modes and actions from nothing.
        measured = sum(map(len, rows))
        target = np.zeros(len(matrix))
        target[:measured] = np.concatenate(values) + matrix[:measured] @ unknowns
        small = qr(np.column_stack([matrix, target]), mode="r")[0][: len(unknowns)]
        price = np.concatenate([np.zeros(modes), np.full(actions, ACTION_PRICE), np.zeros(7)])
        right = small[:, -1] - solve_triangular(small[:, :-1], price, trans="T")
        solved = lsq_linear(small[:, :-1], right, (lower, upper), method="bvls").x
        fit = _moved(fit, solved, usable, modes)
    return fit


def _pairs(template: RigTemplate, usable: NDArray[np.bool_], modes: int) -> FloatArray:
    """(pairs, unknowns) rows that keep the left and the right of an action together: one side is seen badly, if turned.

    Gaze is an exception: there the inner side of one eye belongs to the outer side of the other.
    """
    names = [name for name, is_usable in zip(template.expression_names, usable, strict=True) if is_usable]
    rows = []
    for name in names:
        other = name.removesuffix("Left") + "Right"
        if name.startswith(("eyeLookIn", "eyeLookOut")):
            other = other.replace("In", "-").replace("Out", "In").replace("-", "Out")
        if name.endswith("Left") and other in names:
            row = np.zeros(modes + len(names) + 7)
            row[modes + names.index(name)], row[modes + names.index(other)] = PAIR_COST, -PAIR_COST
            rows.append(row)
    return np.array(rows)


def across_rays(rays: FloatArray) -> FloatArray:
    """(n, 2, 3) two unit vectors across each ray."""
    first = np.cross(rays, [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(rays, first)], axis=1)


def _sideways(
    seen: Observation, across: FloatArray, points: FloatArray, slopes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How points (n, 3) miss their rays in the picture, as lengths at their distance; and how that changes.

    slopes: (u, n, 3). Returns: (n, 2) and (n, 2, u). Distances from the rays alone would be least in the camera.
    """
    offset = points - seen.camera.position
    depth = np.einsum("ld,ld->l", seen.rays, offset)
    beside = np.einsum("lad,ld->la", across, offset)
    forward = np.einsum("ld,uld->lu", seen.rays, slopes)
    change = np.einsum("lad,uld->lau", across, slopes) - (beside / depth[:, None])[..., None] * forward[:, None]
    return -beside, change


def _slopes(fit: ShapeFit, basis: FloatArray, points: FloatArray) -> FloatArray:
    """(unknowns + 7, n, 3) how points (n, 3) move with modes and actions, then turn, size and shift."""
    shift = np.broadcast_to(np.eye(3)[:, None, :], (3, len(points), 3))
    turn = np.cross(np.eye(3)[:, None, :], points[None])
    return np.concatenate([fit.along(basis), turn, points[None], shift])


def _moved(fit: ShapeFit, solved: FloatArray, usable: NDArray[np.bool_], modes: int) -> ShapeFit:
    actions = np.zeros(len(usable))
    actions[usable] = solved[modes:-7]
    step = Rotation.from_rotvec(solved[-7:-4]).as_matrix()
    grown = 1.0 + solved[-4]
    return ShapeFit(
        solved[:modes],
        actions,
        fit.scale * grown,
        step @ fit.turn,
        grown * step @ fit.shift + solved[-3:],
    )
