"""What ties an object in the scene to the result folder of its head, and a new result to the object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

from .import_head import ALBEDO_KEY, BLENDER_FROM_GLTF, FOLDER_KEY, RIG_PART_KEY, mark_origin, passing_head
from .material import skin_material
from .user_folder import user_folder

FRAME_KEY = "headcast_frame"  # on a painted mesh that is no copy of its head: 16 numbers, as `frame_of` gives them
HEAD_FILE = "head.safetensors"  # what a head can be made again from


class LinkBroken(Exception):
    """An object cannot be used as a head: `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


@dataclass(frozen=True)
class Triangles:
    """What an object shows, as the worker takes it.

    points: (v, 3) metres, glTF's axes, relative to the head. corners: (3 f,). uv: (3 f, 2), v running up.
    """

    points: NDArray[np.float64]
    corners: NDArray[np.int32]
    uv: NDArray[np.float64]


def is_head(thing: bpy.types.Object | None) -> bool:
    """Whether an object is a mesh with a head's result folder behind it, and not part of a rig made of one."""
    return thing is not None and thing.type == "MESH" and FOLDER_KEY in thing and RIG_PART_KEY not in thing


def selected_head(context: bpy.types.Context) -> bpy.types.Object | None:
    """The head that the panel's buttons are for: the active object, or else the one head that is selected."""
    if is_head(context.active_object):
        return context.active_object
    heads = [thing for thing in context.selected_objects if is_head(thing)]
    return heads[0] if len(heads) == 1 else None


def result_folder(head: bpy.types.Object) -> Path:
    """The head's result folder. Raises LinkBroken where it is gone, or older than re-use."""
    folder = user_folder("heads") / Path(str(head[FOLDER_KEY])).name
    if not (folder / HEAD_FILE).is_file():
        raise LinkBroken(
            f"The folder of this head is not on this computer, or has no {HEAD_FILE}: {folder.name}.",
            "Copy it into the folder of heads, or reconstruct the head from its photo.",
        )
    return folder


def version_of(head: bpy.types.Object) -> int:
    """The seed of the head's unseen side."""
    return int(json.loads(head["headcast_options"]).get("seed", 0))


def frame_of(thing: bpy.types.Object, head: bpy.types.Object) -> Matrix:
    """From an object's own frame to its head's.

    A head, or a remeshed copy of one, lies in that frame already, wherever it was moved. Other meshes are taken as they
    lie on the head, and once they are painted they remember how that was.
    """
    if FRAME_KEY in thing:
        numbers = list(thing[FRAME_KEY])
        return Matrix([numbers[row : row + 4] for row in range(0, 16, 4)])
    return Matrix.Identity(4) if is_head(thing) else head.matrix_world.inverted() @ thing.matrix_world


def head_place(head: bpy.types.Object) -> Matrix:
    """Where a result of the head's folder belongs in the world."""
    return head.matrix_world @ frame_of(head, head).inverted()


def triangles_of(context: bpy.types.Context, thing: bpy.types.Object, to_head: Matrix) -> Triangles:
    """An object's triangles as its modifiers leave them, brought into its head's frame by `to_head`.

    Raises LinkBroken for a mesh without faces or texture coordinates.
    """
    shown = thing.evaluated_get(context.evaluated_depsgraph_get())
    mesh = shown.to_mesh()
    try:
        mesh.calc_loop_triangles()
        count = len(mesh.loop_triangles)
        if not count:
            raise LinkBroken(f"{thing.name} has no faces.", "Choose a mesh that lies on the head.")
        layer = mesh.uv_layers.active
        if layer is None:
            raise LinkBroken(
                f"The modifiers of {thing.name} leave it without a UV map.",
                "Apply the modifiers that change its faces, such as Remesh.",
            )
        points = np.empty(3 * len(mesh.vertices), np.float32)
        mesh.vertices.foreach_get("co", points)
        loops, corners = np.empty(3 * count, np.int32), np.empty(3 * count, np.int32)
        mesh.loop_triangles.foreach_get("loops", loops)
        mesh.loop_triangles.foreach_get("vertices", corners)
        uv = np.empty(2 * len(mesh.loops), np.float32)
        layer.uv.foreach_get("vector", uv)
    finally:
        shown.to_mesh_clear()
    local = points.reshape(-1, 3).astype(np.float64) @ np.array(to_head.to_3x3()).T + np.array(to_head.translation)
    metres = local * context.scene.unit_settings.scale_length
    return Triangles(metres @ BLENDER_FROM_GLTF[:3, :3], corners, uv.reshape(-1, 2)[loops].astype(np.float64))


def wear(context: bpy.types.Context, thing: bpy.types.Object, folder: Path, name: str, to_head: Matrix) -> None:
    """Give an object the texture of a result folder, as its only material, and the link to the folder."""
    with passing_head(context, folder) as made:
        albedo = made.albedo
        albedo.name = f"Headcast {name} albedo"
    thing.data.materials.clear()
    thing.data.materials.append(
        skin_material(f"Headcast {name} skin", albedo, context.scene.unit_settings.scale_length)
    )
    thing.data.polygons.foreach_set("material_index", np.zeros(len(thing.data.polygons), np.int32))
    mark_origin(thing, folder, name)
    if to_head != Matrix.Identity(4):
        thing[FRAME_KEY] = [number for row in to_head for number in row]


def follow(context: bpy.types.Context, head: bpy.types.Object, before: Path, after: Path, name: str) -> bool:
    """Give a head the moved vertices and the texture of another version; False if it has other faces by now.

    What an artist has moved stays moved: each vertex goes by what the versions differ. So do all shape keys.
    """
    with passing_head(context, before) as old, passing_head(context, after) as new:
        old.discard()
        same = np.array_equal(_faces(head.data), old.faces) and np.array_equal(old.faces, new.faces)
        if not same or not len(head.data.vertices) == len(old.points) == len(new.points):
            new.discard()
            return False
        way = (new.points - old.points).astype(np.float32).ravel()
        albedo = new.albedo
        albedo.name = f"Headcast {name} albedo"
    keys = head.data.shape_keys.key_blocks if head.data.shape_keys else []
    for points in (*(key.data for key in keys), head.data.vertices):
        co = np.empty(3 * len(points), np.float32)
        points.foreach_get("co", co)
        points.foreach_set("co", co + way)
    head.data.update()
    for slot in head.material_slots:
        for node in slot.material.node_tree.nodes if slot.material and slot.material.node_tree else ():
            if node.type == "TEX_IMAGE" and node.image and node.image.get(ALBEDO_KEY):
                node.image = albedo
    mark_origin(head, after, name)
    return True


def _faces(mesh: bpy.types.Mesh) -> NDArray[np.int32]:
    """(loops,) vertex of each face's corners, in order."""
    corners = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    return corners
