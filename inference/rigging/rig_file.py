"""The animatable head as files beside the head it was made of: rig.npz, which Blender's numpy reads, and its pictures.

Arrays are plain (`allow_pickle=False`). Places are metres in the axes of head.glb: +y up, +z out of the face, the
origin at the base of the neck, so both lie on each other.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import OutputNotWritable
from ..job_folder import umask
from ..png import save_png
from ..surface import Mesh, metres_from_head
from ..template import BONE_PARENTS, BONES, PARTS, SKIN, RigTemplate, triangles
from .fit import RigFit
from .hair import Hair, relaxed
from .nearest import NearestPoints

FloatArray = NDArray[np.floating]

RIG_NAME = "rig.npz"
SKIN_NAME, NORMAL_NAME, SURFACE_NAME = "rig_skin.png", "rig_normal.png", "rig_surface.png"
EYES_NAME, MOUTH_NAME, HAIR_NAME = "rig_eyes.png", "rig_mouth.png", "rig_hair.png"
FORMAT = 1  # raised when older readers could not make sense of a file
STILL_M = 1e-6  # what a facial action moves less stays: a thousandth of a millimetre
WEIGHTS_OF_A_VERTEX = 4
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can tell: the same head gives the same file


def rig_arrays(template: RigTemplate, fit: RigFit, hair: Hair) -> dict[str, NDArray[Any]]:
    """What rig.npz holds.

    format:            () int32.
    vertices:          (v, 3) float32 neutral.
    faces, uv_faces:   (f, 4) int32 into vertices and uv, anticlockwise from outside; uv (t, 2) float32, v down.
    part, part_names:  (f,) uint8 into (p,) text.
    mirror:            (v,) int32 the vertex on the other side.
    expression_names, expression_weights: (e,) text, ARKit's; (e,) float32 in [0, 1], the photo's expression.
    expression_start, expression_vertex, expression_offset: (e + 1,) int32 bounds in (n,) int32 and (n, 3) float32: what
                       each action at 1 adds to which vertices.
    bone_names, bone_parents, pivots: (b,) text, (b,) int32 (-1 for none), (b, 3) float32 where each begins.
    bone_index, bone_weight: (v, 4) uint8 and float32, falling; the weights of a vertex sum to 1.
    skin:              (v,) float32 in [0, 1], how far a vertex was fitted to skin that the scan shows.
    lips:              (v,) float32 in [0, 1], where lips are.
    hair_vertices, hair_faces: (h, 3) float32 and (k, 3) int32, closed pieces of hair and beard above the neutral head;
                       of length 0, as the next two, where nothing stands out.
    hair_uv, hair_uv_faces: (t, 2) float32, v down, and (k, 3) int32 into it.
    quality:           () text, JSON of `FitQuality`.
    """
    to_metres = metres_from_head()
    scale = to_metres[0, 0]

    def place(points: FloatArray) -> NDArray[np.float32]:
        return (points @ to_metres[:3, :3].T + to_metres[:3, 3]).astype(np.float32)

    offsets = (fit.head.expressions * scale).astype(np.float32)
    moved = [np.flatnonzero(np.abs(offset).max(axis=1) > STILL_M) for offset in offsets]
    hair_vertices = hair.mesh.vertices
    if len(hair_vertices):
        skin = NearestPoints(Mesh(fit.photographed, triangles(template.faces[template.part == SKIN])))
        hair_vertices = relaxed(hair.mesh, skin, fit.head.vertices - fit.photographed)
    bone = np.argsort(-template.weights, axis=1, kind="stable")[:, :WEIGHTS_OF_A_VERTEX]
    return {
        "format": np.array(FORMAT, np.int32),
        "vertices": place(fit.head.vertices),
        "faces": template.faces.astype(np.int32),
        "uv": template.uv.astype(np.float32),
        "uv_faces": template.uv_faces.astype(np.int32),
        "part": template.part,
        "part_names": np.array(PARTS),
        "mirror": template.mirror.astype(np.int32),
        "expression_names": np.array(template.expression_names),
        "expression_weights": fit.actions.astype(np.float32),
        "expression_start": np.cumsum([0, *map(len, moved)]).astype(np.int32),
        "expression_vertex": np.concatenate(moved).astype(np.int32),
        "expression_offset": np.concatenate([offset[at] for offset, at in zip(offsets, moved, strict=True)]),
        "bone_names": np.array(BONES),
        "bone_parents": np.array(BONE_PARENTS, np.int32),
        "pivots": place(fit.head.pivots),
        "bone_index": bone.astype(np.uint8),
        "bone_weight": np.take_along_axis(template.weights, bone, axis=1).astype(np.float32),
        "skin": fit.skin.astype(np.float32),
        "lips": template.lips.astype(np.float32),
        "hair_vertices": place(hair_vertices),
        "hair_faces": hair.mesh.faces.astype(np.int32),
        "hair_uv": hair.uv.astype(np.float32),
        "hair_uv_faces": hair.uv_faces.astype(np.int32),
        "quality": np.array(json.dumps(asdict(fit.quality), allow_nan=False)),
    }


def write_rig(folder: Path, arrays: Mapping[str, NDArray[Any]], pictures: Mapping[str, NDArray[np.uint8]]) -> list[str]:
    """Write the rig into a result folder; each file appears whole. Returns their names. Raises OutputNotWritable.

    pictures: by the file's name, (t, t, 3) uint8. A picture that an earlier rig had and this one has not goes.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy", ZIP_TIME), entry.getvalue(), zipfile.ZIP_DEFLATED)
    try:
        # Pictures first: whoever finds rig.npz finds what it needs.
        for name, picture in pictures.items():
            encoded = io.BytesIO()
            save_png(Image.fromarray(picture), encoded)
            _replace(folder / name, encoded.getvalue())
        _replace(folder / RIG_NAME, packed.getvalue())
        if HAIR_NAME not in pictures:
            (folder / HAIR_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise OutputNotWritable(f"The rig cannot be written into {folder}.") from error
    return [RIG_NAME, *pictures]


def _replace(path: Path, content: bytes) -> None:
    handle, passing = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(passing, 0o666 & ~umask())
        os.replace(passing, path)
    except OSError:
        Path(passing).unlink(missing_ok=True)
        raise
