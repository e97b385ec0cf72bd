"""Synthetic heads as batches: points with signed distance and colour, and lit views with matte, depth and camera.

Colours are what the photo would show without its shadows: the albedo under the view's mean light and its camera's
exposure and white balance. The photo alone cannot tell a dark skin in bright light from a light one in the shade, and
it need not: what is unseen has to match what is seen.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter, grey_dilation, grey_erosion
from scipy.spatial import cKDTree
from torch import Tensor

from inference.camera import FOCAL, RADIUS, Camera, orbit_camera, project
from inference.encoders import PortraitInput, landmark_offsets
from inference.face_networks import load_landmark_template
from inference.stitching import EMPTY_DEPTH  # where a view shows nothing

HELD_OUT_SEEDS = 64  # heads 0 to 63 are never trained on
SURFACE_SHARE, UNIFORM_SHARE = 0.35, 0.15  # of a batch's points; the rest lies near the surface
FACE_SHARE = 0.4  # of the points on and near the surface are drawn from the face and ears alone
FACE_LOW, FACE_HIGH = np.array([-0.2, -0.26, -0.06]), np.array([0.2, 0.09, 0.30])  # box of face and ears, head frame
EAR_SHARE = 0.08  # and of skin where ears are: thin shells that even draws meet too seldom to be learned
EAR_LOW, EAR_HIGH = np.array([0.13, -0.14, -0.09]), np.array([0.2, 0.1, 0.06])  # box of an ear, |x|, y, z
MIRROR = np.array([-1, 1, 1], np.float32)  # the head in a mirror

Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class Points:
    """Supervision in space: points (n, m, 3) head frame, distance (n, m) box units, colour (n, m, 3) in [0, 1]."""

    points: Tensor
    distance: Tensor
    colour: Tensor

    def every(self, step: int) -> Points:
        """Every `step`th point."""
        return Points(self.points[:, ::step], self.distance[:, ::step], self.colour[:, ::step])


@dataclass(frozen=True)
class Surface:
    """Points on the visible surface (n, m, 3), their outward unit normals (n, m, 3), colours (n, m, 3) in [0, 1]."""

    points: Tensor
    normals: Tensor
    colour: Tensor

    def every(self, step: int) -> Surface:
        """Every `step`th point."""
        return Surface(self.points[:, ::step], self.normals[:, ::step], self.colour[:, ::step])


@dataclass(frozen=True)
class Views:
    """Input views: what encoders take, and depths along the rays.

    depths: (n, h, w) to the surface the view shows; backs: (n, h / 2, w / 2) to where the ray leaves the head for good,
    as coarse as the surface's points are dense. `EMPTY_DEPTH` where there is no head.
    """

    given: PortraitInput
    depths: Tensor
    backs: Tensor


@dataclass(frozen=True)
class Batch:
    """Heads with one view each; everything mirrored and tinted alike."""

    views: Views
    points: Points
    surface: Surface

    def thinned(self, step: int) -> Batch:
        """The same with every `step`th point."""
        return Batch(self.views, self.points.every(step), self.surface.every(step))


@dataclass(frozen=True)
class Tint:
    """How colours of a head are changed, alike in its picture and on its surface.

    materials: (3, 3) gains in linear light of hair, skin and the rest. gain (3,) and gamma: of the sRGB values.
    """

    materials: NDArray[np.float32]
    gain: NDArray[np.float32]
    gamma: float

    def __call__(self, srgb: NDArray[np.uint8], shares: NDArray[np.uint8], light: NDArray) -> NDArray[np.float32]:
        """(..., 3) sRGB in [0, 1] of bytes (..., 3) with material shares (..., 2) under `light` (3,), linear gains."""
        share = shares.astype(np.float32) / 255
        hair, skin = share[..., :1], share[..., 1:]
        gain = hair * self.materials[0] + skin * self.materials[1] + (1 - hair - skin) * self.materials[2]
        linear = _LINEAR_OF_BYTE[srgb] * gain * light.astype(np.float32)
        return np.clip(_srgb(linear) * self.gain, 0, 1) ** np.float32(self.gamma)


def _srgb(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """sRGB of linear light, by table: 4096 levels of its square root are finer than 8 bits anywhere."""
    index = np.sqrt(np.clip(linear, 0, 1)) * (len(_SRGB_OF_ROOT) - 1)
    return _SRGB_OF_ROOT[(index + 0.5).astype(np.int32)]


def _srgb_exactly(linear: NDArray) -> NDArray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


_BYTES = np.arange(256) / 255
_LINEAR_OF_BYTE = np.where(_BYTES <= 0.04045, _BYTES / 12.92, ((_BYTES + 0.055) / 1.055) ** 2.4).astype(np.float32)
_SRGB_OF_ROOT = _srgb_exactly(np.linspace(0, 1, 4096) ** 2).astype(np.float32)
NO_TINT = Tint(np.ones((3, 3), np.float32), np.ones(3, np.float32), 1.0)


def colours_in_view(albedo: NDArray[np.uint8], gain: NDArray[np.floating]) -> NDArray[np.float32]:
    """(n, 3) sRGB in [0, 1] of albedo bytes (n, 3) under a view's mean light, gain (3,) in linear light."""
    return _srgb(_LINEAR_OF_BYTE[albedo] * gain.astype(np.float32))


@dataclass(frozen=True)
class Movement:
    """A similarity of the head frame: points (n, 3) to scale * turn @ point + shift."""

    turn: NDArray[np.floating]
    scale: float
    shift: NDArray[np.floating]

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        return (self.scale * self.turned(points) + self.shift).astype(np.float32)

    def turned(self, directions: NDArray[np.floating]) -> NDArray[np.float32]:
        """Directions (n, 3) after it."""
        return (directions @ self.turn.T).astype(np.float32)


@dataclass(frozen=True)
class Slip:
    """How far a photo's crop is off: its pixels come from `scale` * R(`roll_rad`) of theirs, about the middle, + shift.

    shift: (rows, columns) in sides of the picture.
    """

    roll_rad: float
    scale: float
    shift: NDArray[np.floating]

    def affine(self, side: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Matrix and offset, (row, column) of the slipped picture to those of the exact one."""
        middle = np.full(2, (side - 1) / 2)
        matrix = self.scale * _rotation(self.roll_rad)
        return matrix, middle - matrix @ middle + self.shift * side

    def moved_depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depth (h, w) of the head that the slipped photo shows."""
        moved = affine_transform(depth, *self.affine(len(depth)), order=0, mode="constant", cval=EMPTY_DEPTH)
        return np.where(moved < EMPTY_DEPTH, RADIUS + (moved - RADIUS) / self.scale, EMPTY_DEPTH).astype(np.float32)

    def movement(self, camera: Camera, given: Camera) -> Movement:
        """What brings the head that `camera` saw to where the slipped photo, taken for `given`'s, shows it.

        Nobody can tell a slipped crop from a head that stands otherwise, and users want the head to lie on their
        photo: so it is the head to learn that moves. Exact on the plane through the head's middle; a head's depth
        is a tenth of its distance, so that elsewhere it errs by a tenth of the slip.
        """
        middle = np.array([0.0, 0.0, RADIUS])
        aside = np.array([self.shift[1], self.shift[0], 0.0]) * RADIUS / FOCAL
        roll = np.eye(3)
        roll[:2, :2] = _rotation(self.roll_rad)  # of (row, column); of (x, y) it is the inverse
        turn = given.cam2world[:3, :3] @ roll @ camera.cam2world[:3, :3].T
        start = camera.cam2world[:3, 3] + camera.cam2world[:3, :3] @ (middle + aside)
        end = given.cam2world[:3, 3] + given.cam2world[:3, :3] @ middle
        return Movement(turn, 1 / self.scale, end - turn @ start / self.scale)


def _rotation(angle_rad: float) -> NDArray[np.floating]:
    return np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])


EXACT = Slip(0.0, 1.0, np.zeros(2))


def draw_slip(rng: np.random.Generator) -> Slip:
    """Landmarks are not exact: roll, size and shift of the crop err by about this much."""
    return Slip(float(np.radians(rng.normal(0, 1.5))), float(np.exp(rng.normal(0, 0.015))), rng.normal(0, 0.01, 2))


@dataclass
class HeadSet:
    """The heads of a folder, held in memory; `refresh` takes in what has been built since.

    seeds: of the heads, in the order of their index; meta: what is known of each.
    """

    folder: Path
    held_out: bool = False
    limit: int = 1_000_000
    seeds: list[int] = field(default_factory=list)
    heads: list[Arrays] = field(default_factory=list)
    meta: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._template = load_landmark_template().points_head
        self._mirrored_landmark = mirror_pairs(self._template)

    def refresh(self) -> int:
        """Read new heads; returns how many there are now."""
        known = set(self.seeds)
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            seed = int(path.stem)
            if seed not in known and (seed < HELD_OUT_SEEDS) == self.held_out and len(self.heads) < self.limit:
                self.read(seed)
        return len(self.heads)

    def read(self, seed: int) -> None:
        """Add one head; its index is the next one."""
        path = self.folder / f"{seed:05d}.npz"
        try:
            with np.load(path) as arrays:
                head = {name: arrays[name] for name in arrays.files}
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is damaged; delete it and build seed {seed} again") from error
        self.meta.append(json.loads(str(head.pop("meta"))))
        for kind in ("near", "surface"):
            head[f"{kind}_face"] = _within_face(head[f"{kind}_points"])
            head[f"{kind}_ears"] = _of_ears(head[f"{kind}_points"], head[f"{kind}_materials"])
        self.heads.append(head)
        self.seeds.append(seed)

    def draw(self, indices: NDArray[np.integer], points: int, surface: int, rng: np.random.Generator) -> Batch:
        """A view of each head as a photo might show it, with `points` supervised points, and `surface` with normals."""
        rows = []
        for index in indices:
            view = int(rng.integers(len(self.heads[index]["images"])))
            rows.append(self.row(index, view, points, surface, rng, photographic=True))
        return _batch(rows)

    def batch_of(self, index: int, view: int, points: int, surface: int, rng: np.random.Generator) -> Batch:
        """A certain view of one head, as it is."""
        return _batch([self.row(index, view, points, surface, rng, photographic=False)])

    def row(
        self, index: int, view: int, points: int, surface: int, rng: np.random.Generator, photographic: bool
    ) -> tuple[NDArray, ...]:
        """One head's share of a `Batch`, as arrays in the order of its fields.

        photographic: mirror, tint, and add what cameras, mattes and alignment do to a picture.
        """
        head = self.heads[index]
        tint = draw_tint(rng) if photographic else NO_TINT
        flip = photographic and rng.random() < 0.5
        side = MIRROR if flip else np.ones(3, np.float32)
        direction = head["azimuth_elevation"][view] * ([-1, 1] if flip else [1, 1])
        camera = given = orbit_camera(*map(float, direction))
        slip = EXACT
        colour, matte, landmarks = self._picture(head, view, tint, flip)
        depth = head["depths"][view].astype(np.float32)
        depth = np.where(depth > 0, depth, EMPTY_DEPTH)[:, :: -1 if flip else 1]
        if photographic:
            given = orbit_camera(*map(float, direction + rng.normal(0, pose_error_deg(direction[0]), 2)))
            slip = draw_slip(rng)
            colour, matte, landmarks = _photograph(colour, matte, landmarks, slip, rng)
            depth = slip.moved_depth(depth)
        move = slip.movement(camera, given)
        surface_points = move(head["surface_points"].astype(np.float32) * side)
        backs = farthest(surface_points, given, depth.shape[0] // 2)
        portrait = np.concatenate([colour * matte + 0.5 * (1 - matte), matte[None]])
        offsets = landmark_offsets(landmarks, given, self._template)
        offsets = np.nan_to_num(offsets) if not np.isnan(offsets[0, 0]) else np.zeros_like(offsets)

        gain = head["gains"][view]
        places, distance, shade = self._points(head, points, rng)
        pick = _pick(head, "surface", surface, rng)
        return (
            portrait,
            given.vector,
            offsets,
            depth,
            backs,
            move(places * side),
            distance * move.scale,
            tint(*shade, gain),
            surface_points[pick],
            move.turned(head["surface_normals"][pick].astype(np.float32) / 127 * side),
            tint(head["surface_colour"][pick], head["surface_materials"][pick], gain),
        )

    @staticmethod
    def _points(head: Arrays, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray, tuple[NDArray, NDArray]]:
        """Points (count, 3), distances (count,), and albedo and materials (count, 3), (count, 2) in bytes."""
        on_surface, uniform = int(count * SURFACE_SHARE), int(count * UNIFORM_SHARE)
        picks = {
            "near": _pick(head, "near", count - on_surface - uniform, rng),
            "uniform": rng.integers(0, len(head["uniform_points"]), uniform),
            "surface": _pick(head, "surface", on_surface, rng),
        }

        def gather(name: str) -> NDArray:
            return np.concatenate([head[f"{kind}_{name}"][pick] for kind, pick in picks.items()])

        distance = [head[f"{kind}_distance"][picks[kind]] for kind in ("near", "uniform")]
        zeros = np.zeros(on_surface, np.float16)
        return gather("points"), np.concatenate([*distance, zeros]), (gather("colour"), gather("materials"))

    def _picture(
        self, head: Arrays, view: int, tint: Tint, flip: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Colour (3, h, w), matte (h, w) and landmarks (468, 3) of a view."""
        colour = tint(head["images"][view], head["view_materials"][view], np.ones(3)).transpose(2, 0, 1)
        matte = head["mattes"][view].astype(np.float32) / 255
        landmarks = head["landmarks"][view].astype(np.float32)
        if not flip:
            return colour, matte, landmarks
        landmarks = landmarks[self._mirrored_landmark] * [-1, 1, 1] + [1, 0, 0]
        return colour[..., ::-1], matte[:, ::-1], landmarks

    def portrait_input(self, index: int, view: int) -> PortraitInput:
        """One view as encoders take it, without any change."""
        rng = np.random.default_rng(0)  # draws points only, which are not used
        portrait, camera, landmarks, *_ = self.row(index, view, 8, 8, rng, photographic=False)
        return PortraitInput(*(_float([array]) for array in (portrait, camera, landmarks)))


def _batch(rows: list[tuple[NDArray, ...]]) -> Batch:
    portraits, cameras, landmarks, depths, backs, *rest = (_float(list(column)) for column in zip(*rows, strict=True))
    views = Views(PortraitInput(portraits, cameras, landmarks), depths, backs)
    return Batch(views, Points(*rest[:3]), Surface(*rest[3:]))


def farthest(points: NDArray[np.floating], camera: Camera, side: int) -> NDArray[np.float32]:
    """(side, side) distance from the camera to the farthest of points (n, 3) in each pixel; `EMPTY_DEPTH` without."""
    pixels, _ = project(points, camera)
    distance = np.linalg.norm(points - camera.position, axis=1)
    column, row = np.floor(pixels * side).astype(np.int64).T
    within = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    picture = np.zeros(side * side, np.float32)
    np.maximum.at(picture, (row * side + column)[within], distance[within].astype(np.float32))
    return np.where(picture > 0, picture, EMPTY_DEPTH).reshape(side, side).astype(np.float32)


def mirror_pairs(template: NDArray[np.floating]) -> NDArray[np.integer]:
    """(468,) which landmark each one is in a mirror; the mean face is symmetric but for fractions of a millimetre."""
    return cKDTree(template).query(template * MIRROR)[1]


def pose_error_deg(azimuth_deg: float) -> float:
    """How far the direction that landmarks tell is off (standard deviation), by where the face is seen from."""
    return 1.5 + 0.06 * max(0.0, abs(azimuth_deg) - 30)


def draw_tint(rng: np.random.Generator) -> Tint:
    """Other hair, skin and clothes, another exposure, white balance and contrast."""
    materials = np.ones((3, 3))
    for row, (strength, hue) in enumerate(((0.45, 0.10), (0.16, 0.04), (0.4, 0.25))):
        if rng.random() < 0.6:
            materials[row] = np.exp(rng.normal(0, strength) + rng.normal(0, hue, 3))
    gain = rng.uniform(0.82, 1.1) * np.exp(rng.normal(0, 0.05, 3))
    return Tint(materials.astype(np.float32), gain.astype(np.float32), float(rng.uniform(0.8, 1.25)))


def _photograph(
    colour: NDArray[np.float32],
    matte: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    slip: Slip,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Uneven light, blur, noise, compression, a soft, wrong or cut-off matte, things before the head, a wrong crop."""
    side = matte.shape[0]
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    if rng.random() < 0.4:
        slope = rng.normal(0, 0.25, 2)
        colour = colour * np.exp(slope[0] * across + slope[1] * down - slope @ slope / 2).astype(np.float32)
    if rng.random() < 0.5:
        colour = gaussian_filter(colour, (0, *(rng.uniform(0.2, 0.9),) * 2))
    colour = colour + rng.normal(0, rng.uniform(0, 0.02), colour.shape).astype(np.float32)
    colour = np.clip(colour, 0, 1)
    if rng.random() < 0.25:
        colour = _compressed(colour, int(rng.uniform(30, 85)))
    draw = rng.random()
    if draw < 0.3:
        matte = gaussian_filter(matte, rng.uniform(0.3, 1.2))
    elif draw < 0.4:
        matte = grey_dilation(matte, 3)
    elif draw < 0.5:
        matte = grey_erosion(matte, 3)
    if rng.random() < 0.1:  # a hand, a strand, a microphone
        centre, size = rng.uniform(-0.7, 0.7, 2), rng.uniform(0.05, 0.25, 2)
        blob = ((across - centre[0]) / size[0]) ** 2 + ((down - centre[1]) / size[1]) ** 2 < 1
        colour = np.where(blob, rng.uniform(0, 1, 3).astype(np.float32)[:, None, None], colour)
    turn, offset = slip.affine(side)
    colour = np.stack([affine_transform(c, turn, offset, order=1, mode="nearest") for c in colour])
    matte = affine_transform(matte, turn, offset, order=1, mode="constant")
    rows_columns = (landmarks[:, [1, 0]] * side - 0.5 - offset) @ np.linalg.inv(turn).T
    landmarks = np.column_stack([(rows_columns[:, ::-1] + 0.5) / side, landmarks[:, 2] / slip.scale])
    landmarks = landmarks + rng.normal(0, 0.0015, landmarks.shape)
    draw = rng.random()
    if draw < 0.3:  # the photo ends above the neck's base, and seldom level
        rows = np.arange(side)[:, None] + rng.uniform(-0.15, 0.15) * (np.arange(side)[None] - side / 2)
        matte = matte * (rows < rng.uniform(0.78, 0.99) * side)
    elif draw < 0.38:  # or in the hair
        matte = matte * (np.arange(side)[:, None] > rng.uniform(0.02, 0.16) * side)
    return np.clip(colour, 0, 1), np.clip(matte, 0, 1), landmarks.astype(np.float32)


def _compressed(colour: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    """What JPEG leaves of a picture (3, h, w)."""
    stream = io.BytesIO()
    Image.fromarray((colour.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float32).transpose(2, 0, 1) / 255


def _within_face(points: NDArray) -> NDArray[np.int32]:
    """Indices of points (n, 3) about face and ears."""
    within = ((points > FACE_LOW) & (points < FACE_HIGH)).all(1)
    return np.flatnonzero(within).astype(np.int32)


def _of_ears(points: NDArray, materials: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Indices of points (n, 3) of skin about the ears; none where hair or cloth covers both. materials: (n, 2)."""
    aside = np.abs(points) * [1, 0, 0] + points * [0, 1, 1]
    within = ((aside > EAR_LOW) & (aside < EAR_HIGH)).all(1) & (materials[:, 1] > 127)
    return np.flatnonzero(within).astype(np.int32)


def _pick(head: Arrays, kind: str, count: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """`count` indices of a head's points of a kind, FACE_SHARE of them about the face, EAR_SHARE of its bare ears."""
    face, ears = head[f"{kind}_face"], head[f"{kind}_ears"]
    faces, aside = int(count * FACE_SHARE), min(int(count * EAR_SHARE), len(ears))
    total = len(head[f"{kind}_points"])
    return np.concatenate(
        [
            face[rng.integers(0, len(face), faces)],
            rng.choice(ears, aside),
            rng.integers(0, total, count - faces - aside),
        ]
    )


def _float(arrays: list[NDArray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
