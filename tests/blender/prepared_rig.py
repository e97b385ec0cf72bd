"""A rig as the worker leaves it in a result folder: the template itself, without any fit, so all of it is known."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.surface import metres_from_head
from inference.template import BONE_PARENTS, BONES, PARTS, load_rig_template

PICTURE = 32  # px along a side
PHOTOGRAPHED = {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.5, "jawOpen": 0.3, "eyeLookOutLeft": 0.25}
SKIN_COLOUR, EYE_COLOUR, MOUTH_COLOUR, HAIR_COLOUR = (200, 150, 120), (30, 90, 160), (180, 60, 70), (60, 40, 20)
FLAT_NORMAL, SURFACE = (128, 128, 255), (0, 140, 100)
NEWER_FILES = ("rig_eyes.png", "rig_mouth.png", "rig_hair.png", "rig_normal.png", "rig_surface.png")
NEWER_ARRAYS = ("lips", "hair_vertices", "hair_faces", "hair_uv", "hair_uv_faces")
HAIR_CROWN_M = 0.35  # height of the hair's top vertex over the base of the neck


def write_rig_files(folder: Path) -> Path:
    """Write everything a worker may write, the newer files and arrays too."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rig.npz", **rig_arrays())
    for name, colour in (("rig_skin.png", SKIN_COLOUR), *zip(NEWER_FILES, _colours(), strict=True)):
        Image.fromarray(np.full((PICTURE, PICTURE, 3), colour, np.uint8)).save(folder / name)
    return folder


def make_older(folder: Path) -> Path:
    """Take away what the first workers did not write."""
    for name in NEWER_FILES:
        (folder / name).unlink()
    with np.load(folder / "rig.npz") as file:
        kept = {name: file[name] for name in file if name not in NEWER_ARRAYS}
    np.savez(folder / "rig.npz", **kept)
    return folder


def rig_arrays() -> dict[str, NDArray[Any]]:
    """What `write_rig_files` writes into rig.npz; the dictionary is the caller's own."""
    return dict(_written())


@cache
def _written() -> dict[str, NDArray[Any]]:
    """What rig.npz holds, as inference/rigging/rig_file.py tells; the hair is a tetrahedron over the crown."""
    template, to_metres = load_rig_template(), metres_from_head()

    def place(points: NDArray[np.floating]) -> NDArray[np.float32]:
        return (points @ to_metres[:3, :3].T + to_metres[:3, 3]).astype(np.float32)

    offsets = (template.expressions * to_metres[0, 0]).astype(np.float32)
    moved = [np.flatnonzero(offset.any(axis=1)) for offset in offsets]
    bone = np.argsort(-template.weights, axis=1, kind="stable")[:, :4]
    names = np.array(template.expression_names)
    hair_faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], np.int32)
    return {
        "format": np.array(1, np.int32),
        "vertices": place(template.vertices),
        "faces": template.faces.astype(np.int32),
        "uv": template.uv.astype(np.float32),
        "uv_faces": template.uv_faces.astype(np.int32),
        "part": template.part,
        "part_names": np.array(PARTS),
        "mirror": template.mirror.astype(np.int32),
        "expression_names": names,
        "expression_weights": np.array([PHOTOGRAPHED.get(str(name), 0.0) for name in names], np.float32),
        "expression_start": np.cumsum([0, *map(len, moved)]).astype(np.int32),
        "expression_vertex": np.concatenate(moved).astype(np.int32),
        "expression_offset": np.concatenate([offset[at] for offset, at in zip(offsets, moved, strict=True)]),
        "bone_names": np.array(BONES),
        "bone_parents": np.array(BONE_PARENTS, np.int32),
        "pivots": place(template.pivots),
        "bone_index": bone.astype(np.uint8),
        "bone_weight": np.take_along_axis(template.weights, bone, axis=1).astype(np.float32),
        "skin": np.ones(len(template.vertices), np.float32),
        "quality": np.array("{}"),
        "lips": template.lips.astype(np.float32),
        "hair_vertices": np.array(
            [[0, HAIR_CROWN_M, 0], [0.08, 0.26, 0.08], [-0.08, 0.26, 0.08], [0, 0.26, -0.1]], np.float32
        ),
        "hair_faces": hair_faces,
        "hair_uv": np.array([[0.5, 0.1], [0.1, 0.9], [0.9, 0.9], [0.5, 0.5]], np.float32),
        "hair_uv_faces": hair_faces,
    }


def _colours() -> tuple[tuple[int, int, int], ...]:
    return EYE_COLOUR, MOUTH_COLOUR, HAIR_COLOUR, FLAT_NORMAL, SURFACE
