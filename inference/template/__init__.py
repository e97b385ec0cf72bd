"""The animatable head every person's rig is bent from: quads, face shapes, bones, and where landmarks lie on it.

It is MakeHuman's base mesh with its facial actions (CC0, see LICENSE.CC0.md), cut to head, neck and shoulders, with
eyeballs of its own; training/template makes the file. All lengths are box units of the head frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..errors import WeightsDamaged, WeightsMissing

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

TEMPLATE_FILE = Path(__file__).parent / "head_template.safetensors"
METADATA_KEY = "headcast_template"

# What a face belongs to; `RigTemplate.part` holds places in this list.
PARTS = ("skin", "mouth", "socket", "eye.L", "eye.R", "teeth.upper", "teeth.lower", "gums")
SKIN, MOUTH, SOCKET, EYE_LEFT, EYE_RIGHT, TEETH_UPPER, TEETH_LOWER, GUMS = range(len(PARTS))

BONES = ("chest", "neck", "head", "jaw", "eye.L", "eye.R")
BONE_PARENTS = (-1, 0, 1, 2, 2, 2)  # places in BONES
LANDMARKS = 478  # of the face mesh: 468 on skin, 5 on the right iris, 5 on the left (the subject's)


@dataclass(frozen=True)
class RigTemplate:
    """A neutral mean head and all that can be done with it. Vertices v, faces f, expressions e, modes m, bones b.

    vertices:        (v, 3) head frame.
    faces:           (f, 4) quads, anticlockwise seen from outside.
    uv:              (t, 2), v running down; skin, mouth and sockets share one picture, eyes and teeth have their own.
    uv_faces:        (f, 4) into uv.
    part:            (f,) uint8, places in PARTS.
    mirror:          (v,) the vertex on the other side; itself on the midline.
    expressions:     (e, v, 3) float32 what each facial action at 1 adds, named as ARKit's blend shapes.
    modes:           (m, v, 3) float32 how people differ, one standard deviation each, by falling variance.
    pivots:          (b, 3) where the bones begin; pivot_modes (m, b, 3) how they follow `modes`.
    weights:         (v, b) float32 share of each bone; at most four of a vertex are not 0, and they sum to 1.
    landmark_vertices, landmark_weights: (478, 3) the triangle of each landmark and its barycentric weights.
    scalp:           (v,) in [0, 1], 1 where hair usually covers the head.
    ears, lips:      (v,) in [0, 1], painted regions.
    """

    vertices: FloatArray
    faces: IntArray
    uv: FloatArray
    uv_faces: IntArray
    part: NDArray[np.uint8]
    mirror: IntArray
    expression_names: tuple[str, ...]
    expressions: NDArray[np.float32]
    modes: NDArray[np.float32]
    pivots: FloatArray
    pivot_modes: NDArray[np.float32]
    weights: NDArray[np.float32]
    landmark_vertices: IntArray
    landmark_weights: FloatArray
    scalp: NDArray[np.float32]
    ears: NDArray[np.float32]
    lips: NDArray[np.float32]

    def vertices_of(self, *parts: int) -> IntArray:
        """Vertices that any face of these parts uses, rising."""
        return np.unique(self.faces[np.isin(self.part, parts)])

    def landmarks(self, vertices: FloatArray) -> FloatArray:
        """(478, 3) the landmarks on a bent template with vertices (v, 3)."""
        return np.einsum("lk,lkd->ld", self.landmark_weights, vertices[self.landmark_vertices])


def triangles(quads: IntArray) -> IntArray:
    """(2f, 3) both halves of each quad (f, 4): first all that hold corner 1, then all that hold corner 3."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


@lru_cache(maxsize=1)
def load_rig_template(path: Path = TEMPLATE_FILE) -> RigTemplate:
    """Read the template. Raises WeightsMissing or WeightsDamaged."""
    if not path.is_file():
        raise WeightsMissing(f"The head template {path.name} is missing.")
    try:
        with safe_open(str(path), framework="np") as file:
            told = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        names = tuple(str(name) for name in told["expressions"])
        count, faces = len(tensors["vertices"]), tensors["faces"].astype(np.int64)
        expressions = np.zeros((len(names), count, 3), np.float32)
        for k, (start, end) in enumerate(pairwise(tensors["expression.start"])):
            expressions[k, tensors["expression.vertex"][start:end]] = tensors["expression.offset"][start:end]
        weights = np.zeros((count, len(BONES)), np.float32)
        np.put_along_axis(weights, tensors["bone"].astype(np.int64), tensors["bone_weight"].astype(np.float32), axis=1)
        modes = tensors["modes"].astype(np.float32) * np.float32(told["mode_scale"])
        return RigTemplate(
            vertices=tensors["vertices"].astype(np.float64),
            faces=faces,
            uv=tensors["uv"].astype(np.float64),
            uv_faces=tensors["uv_faces"].astype(np.int64),
            part=tensors["part"],
            mirror=tensors["mirror"].astype(np.int64),
            expression_names=names,
            expressions=expressions,
            modes=modes[:, :count],
            pivots=tensors["pivots"].astype(np.float64),
            pivot_modes=modes[:, count:],
            weights=weights,
            landmark_vertices=tensors["landmark.vertex"].astype(np.int64),
            landmark_weights=tensors["landmark.weight"].astype(np.float64),
            scalp=tensors["scalp"].astype(np.float32),
            ears=tensors["ears"].astype(np.float32),
            lips=tensors["lips"].astype(np.float32),
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsDamaged(f"The head template {path.name} cannot be read.") from error
