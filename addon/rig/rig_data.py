"""rig.npz as the worker writes it, read and checked: what `inference/rigging/rig_file.py` describes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..all_or_nothing import ImportFailed
from ..import_head import BLENDER_FROM_GLTF

RIG_NAME = "rig.npz"
FORMAT = 1  # the newest that this version understands
BONES = ("chest", "neck", "head", "jaw", "eye.L", "eye.R")
CHEST, NECK, HEAD, JAW, EYE_LEFT, EYE_RIGHT = BONES
EYES = (EYE_LEFT, EYE_RIGHT)
SKIN_PARTS = ("skin", "mouth", "socket")  # they share the skin's picture
EYE_PARTS = ("eye.L", "eye.R")
MOUTH_PARTS = ("teeth.upper", "teeth.lower", "gums")
PARTS = (*SKIN_PARTS, *EYE_PARTS, *MOUTH_PARTS)
MOST_WEIGHTS = 4  # of a vertex: what game engines take
WEIGHT_SLACK = 1e-3  # by which the weights of a vertex may miss 1

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
Turn = Callable[[FloatArray], FloatArray]  # metres in glTF's axes to the frame of the head object


@dataclass(frozen=True)
class Hair:
    """The solid of hair. vertices (h, 3) as those of `RigData`; faces (k, 3); uv (t, 2), v up; uv_faces (k, 3)."""

    vertices: FloatArray
    faces: IntArray
    uv: FloatArray
    uv_faces: IntArray


@dataclass(frozen=True)
class RigData:
    """A head that can be animated, in the frame of the head object: Blender's axes and the scene's units.

    vertices:            (v, 3) neutral.
    faces, uv_faces:     (f, 4) into vertices and uv; uv (t, 2), v running up.
    part:                (f,) names, of `PARTS`.
    expressions:         name -> ((n,) vertices, (n, 3) what the shape at 1 adds to them).
    photographed:        name -> weight in [0, 1] of the photo's expression.
    pivots:              (6, 3) where each of `BONES` begins.
    parents:             (6,) places in `BONES`, each before its child; -1 for none.
    weights:             (v, 6) share of each of `BONES`, at most four of a vertex, with sum 1.
    lips:                (v,) in [0, 1]; all 0 for rigs made before lips were told.
    hair:                None where none stands out.
    """

    vertices: FloatArray
    faces: IntArray
    uv: FloatArray
    uv_faces: IntArray
    part: NDArray[np.str_]
    expressions: Mapping[str, tuple[IntArray, FloatArray]]
    photographed: Mapping[str, float]
    pivots: FloatArray
    parents: IntArray
    weights: FloatArray
    lips: FloatArray
    hair: Hair | None

    def vertices_of(self, bone: str) -> IntArray:
        """Vertices that go with this bone more than with all others together."""
        return np.flatnonzero(self.weights[:, BONES.index(bone)] > 0.5)


def read_rig(folder: Path, unit_m: float) -> RigData:
    """The rig in a result folder.

    unit_m: metres in one unit of the scene.
    Raises ImportFailed, with what is wrong, for a file that is missing, half-written, newer or not a rig's.
    """
    path = folder / RIG_NAME
    try:
        # Read as a zip, because numpy would take other kinds of file too. Unless told to, it unpickles nothing.
        with zipfile.ZipFile(path) as whole:
            arrays = {name.removesuffix(".npy"): _array(whole, name) for name in whole.namelist()}
        return _rig(_Checked(arrays), unit_m)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImportFailed(
            f"The rig could not be read: {error}", "Click Make Rig-Ready again; if it happens again, report it."
        ) from error


def _array(whole: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with whole.open(name) as entry:
        return np.lib.format.read_array(entry)


class _Checked:
    """Arrays by name, each checked when it is asked for. Raises ValueError or KeyError."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def array(self, name: str, kind: str, *shape: int | None) -> NDArray[Any]:
        """The array of that name. kind: numpy's letters of what it may hold; shape: None where any length will do."""
        if name not in self._arrays:
            raise ValueError(f"{name} is missing")
        array = self._arrays[name]
        fits = len(array.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype.kind not in kind or not fits:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
        return array

    def numbers(self, name: str, *shape: int | None) -> FloatArray:
        """The array of that name, as finite numbers."""
        array = self.array(name, "f", *shape).astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has numbers that are none")
        return array

    def indices(self, name: str, end: int, *shape: int | None, start: int = 0) -> IntArray:
        """The array of that name, as whole numbers from `start` up to before `end`."""
        array = self.array(name, "iu", *shape).astype(np.int64)
        if array.size and not (start <= array.min() and array.max() < end):
            raise ValueError(f"{name} points outside")
        return array

    def names(self, name: str) -> list[str]:
        """The texts of that name, no two alike."""
        names = [str(text) for text in self.array(name, "U", None)]
        if len(set(names)) < len(names):
            raise ValueError(f"{name} has a name twice")
        return names


def _rig(file: _Checked, unit_m: float) -> RigData:
    written = int(file.array("format", "iu"))
    if written > FORMAT:
        raise ImportFailed(
            "The rig was made by a newer version of Headcast.", "Update Headcast, or make the rig again."
        )
    if written < 1:
        raise ValueError(f"there is no format {written}")

    def turned(array: FloatArray) -> FloatArray:
        return array @ BLENDER_FROM_GLTF[:3, :3].T / unit_m

    vertices = turned(file.numbers("vertices", None, 3))
    uv = _upward(file.numbers("uv", None, 2))
    faces = file.indices("faces", len(vertices), None, 4)
    part_names = np.array(file.names("part_names"))
    if strange := set(part_names) - set(PARTS):
        raise ValueError(f"there is no part called {min(strange)}")
    names = file.names("expression_names")
    photographed = np.clip(file.numbers("expression_weights", len(names)), 0, 1)
    order = _order(file.names("bone_names"))
    return RigData(
        vertices=vertices,
        faces=faces,
        uv=uv,
        uv_faces=file.indices("uv_faces", len(uv), len(faces), 4),
        part=part_names[file.indices("part", len(part_names), len(faces))],
        expressions=_expressions(file, names, len(vertices), turned),
        photographed=dict(zip(names, photographed.tolist(), strict=True)),
        pivots=turned(file.numbers("pivots", len(BONES), 3))[order],
        parents=_parents(file, order),
        weights=_weights(file, len(vertices))[:, order],
        lips=np.clip(file.numbers("lips", len(vertices)), 0, 1) if "lips" in file else np.zeros(len(vertices)),
        hair=_hair(file, turned) if "hair_vertices" in file else None,
    )


def _upward(uv: FloatArray) -> FloatArray:
    """Texture coordinates with v running up, as Blender has them."""
    return np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1)


def _order(bone_names: list[str]) -> IntArray:
    """(6,) where each of `BONES` stands in the file."""
    if set(bone_names) != set(BONES):
        raise ValueError("its bones are not those of a head")
    return np.array([bone_names.index(bone) for bone in BONES])


def _parents(file: _Checked, order: IntArray) -> IntArray:
    place = np.append(np.argsort(order), -1)  # of the file's bones in `BONES`; the last one is what -1 means
    parents = place[file.indices("bone_parents", len(BONES), len(BONES), start=-1)[order]]
    if not (parents < np.arange(len(BONES))).all():
        raise ValueError("a bone comes before its parent")
    return parents


def _weights(file: _Checked, count: int) -> FloatArray:
    """(count, bones of the file) normalised."""
    bone = file.indices("bone_index", len(BONES), count, MOST_WEIGHTS)
    given = file.numbers("bone_weight", count, MOST_WEIGHTS)
    if (given < 0).any() or not np.allclose(given.sum(axis=1), 1, atol=WEIGHT_SLACK):
        raise ValueError("the weights of a vertex do not sum to 1")
    weights = np.zeros((count, len(BONES)))
    np.add.at(weights, (np.arange(count)[:, None], bone), given)  # a bone of no weight may be named twice
    return weights / weights.sum(axis=1, keepdims=True)


def _expressions(file: _Checked, names: list[str], count: int, turned: Turn) -> dict[str, tuple[IntArray, FloatArray]]:
    vertex = file.indices("expression_vertex", count, None)
    offset = turned(file.numbers("expression_offset", len(vertex), 3))
    start = file.indices("expression_start", len(vertex) + 1, len(names) + 1)
    if start[0] != 0 or start[-1] != len(vertex) or (np.diff(start) < 0).any():
        raise ValueError("expression_start does not divide the shapes")
    bounds = pairwise(start.tolist())
    return {name: (vertex[a:b], offset[a:b]) for name, (a, b) in zip(names, bounds, strict=True)}


def _hair(file: _Checked, turned: Turn) -> Hair | None:
    vertices, uv = turned(file.numbers("hair_vertices", None, 3)), _upward(file.numbers("hair_uv", None, 2))
    faces = file.indices("hair_faces", len(vertices), None, 3)
    uv_faces = file.indices("hair_uv_faces", len(uv), len(faces), 3)
    return Hair(vertices, faces, uv, uv_faces) if len(faces) else None
