"""The quad mesh of a rig and its solid of hair as Blender's meshes: UVs, shapes, weights."""

from __future__ import annotations

import bpy
import numpy as np
from numpy.typing import NDArray

from .rig_data import BONES, EYE_PARTS, MOUTH_PARTS, SKIN_PARTS, Hair, RigData

UV_NAME = "UVMap"  # what every program expects
LIPS = "lips"  # point attribute: how surely a place is on the lips
SLOTS = (SKIN_PARTS, EYE_PARTS, MOUTH_PARTS)  # parts by material slot: Skin, Eyes, Mouth


def rig_mesh_object(rig: RigData, name: str) -> bpy.types.Object:
    """New object, linked nowhere: quads, shape keys at the photo's expression, vertex groups named as the bones.

    Its material slots, one for each of `SLOTS`, are the caller's to fill.
    """
    mesh = _mesh(name, rig.vertices, rig.faces, rig.uv, rig.uv_faces)
    slot_of = {part: slot for slot, parts in enumerate(SLOTS) for part in parts}
    mesh.polygons.foreach_set("material_index", np.array([slot_of[part] for part in rig.part], np.int32))
    mesh.attributes.new(LIPS, "FLOAT", "POINT").data.foreach_set("value", rig.lips.astype(np.float32))
    thing = bpy.data.objects.new(name, mesh)
    _add_shapes(thing, rig)
    _add_weights(thing, rig)
    return thing


def hair_object(hair: Hair, name: str) -> bpy.types.Object:
    """New object, linked nowhere, without a material."""
    return bpy.data.objects.new(name, _mesh(name, hair.vertices, hair.faces, hair.uv, hair.uv_faces))


def _mesh(
    name: str,
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    uv: NDArray[np.floating],
    uv_faces: NDArray[np.integer],
) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices.tolist(), [], faces.tolist())
    mesh.uv_layers.new(name=UV_NAME).uv.foreach_set("vector", uv[uv_faces.ravel()].astype(np.float32).ravel())
    mesh.shade_smooth()
    return mesh


def _add_shapes(thing: bpy.types.Object, rig: RigData) -> None:
    neutral = rig.vertices.astype(np.float32)
    thing.shape_key_add(name="Basis", from_mix=False)
    for name, (vertex, offset) in rig.expressions.items():
        key = thing.shape_key_add(name=name, from_mix=False)  # its slider runs from 0 to 1
        moved = neutral.copy()
        moved[vertex] += offset.astype(np.float32)
        key.data.foreach_set("co", moved.ravel())
        key.value = rig.photographed[name]


def _add_weights(thing: bpy.types.Object, rig: RigData) -> None:
    for bone, weights in zip(BONES, rig.weights.T, strict=True):
        group = thing.vertex_groups.new(name=bone)
        # One call for each weight there is: most vertices go with one bone alone.
        values, which = np.unique(weights.astype(np.float32), return_inverse=True)
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which))
        for value, vertices in zip(values.tolist(), np.split(order, ends[:-1]), strict=True):
            if value > 0:
                group.add(vertices.tolist(), value, "REPLACE")
