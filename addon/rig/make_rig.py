"""A head's rig.npz becomes objects in the scene: face, bones, hair; the scan they were made of is hidden."""

from __future__ import annotations

from pathlib import Path

import bpy
from mathutils import Matrix

from ..all_or_nothing import ImportFailed, all_or_nothing, select_only
from ..head_link import head_place
from ..import_head import FOLDER_KEY, RIG_PART_KEY, mark_origin
from . import rig_materials
from .armature import armature_object
from .face_control import ARMATURE, FACE, HAIR, PHOTOGRAPHED_KEY, SHAPES, drive_face, rig_of
from .rig_data import HEAD, RigData, read_rig
from .rig_mesh import hair_object, rig_mesh_object

SCAN_KEY = "headcast_scan"  # on the armature: the head it was made of
ARMATURE_NAME, FACE_NAME, HAIR_NAME = "Rig", "Rigged Head", "Hair"


def bring_rig_in(context: bpy.types.Context, head: bpy.types.Object, folder: Path, name: str) -> bpy.types.Object:
    """Build the rig of a head's result folder where the head stands; its face is selected and active afterwards.

    name:    of the photo, for the data.
    Returns: the armature object, which all else of the rig hangs on.
    Raises ImportFailed; the file and the selection are then as they were.

    The head is hidden and goes with the rig from now on, and with it the photo's camera. A rig that was made of it
    before is hidden too: somebody may have worked on it, and two heads at one place would show as neither.
    """
    title = f"Headcast {name}"
    with all_or_nothing(context):
        unit_m = context.scene.unit_settings.scale_length
        rig = read_rig(folder, unit_m)
        try:
            armature = armature_object(context, rig, f"{title} rig", unit_m)
            armature.name = ARMATURE_NAME
            face = _face(rig, armature, folder, title, unit_m)
            parts = {ARMATURE: armature, FACE: face}
            if rig.hair is not None:
                parts[HAIR] = _hair(rig, armature, folder, title)
            for part, thing in parts.items():
                mark_origin(thing, folder, name)
                thing[RIG_PART_KEY] = part
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # RuntimeError: a picture that is none
            raise ImportFailed(
                f"The rig could not be read: {error}", "Click Make Rig-Ready again; if it happens again, report it."
            ) from error
        collection = _collection_of(head)
        context.scene.collection.objects.unlink(armature)
        for thing in parts.values():
            collection.objects.link(thing)
        armature.matrix_world = head_place(head)
        drive_face(armature, SHAPES)
        select_only(context, face)
    _put_away(head, armature)
    return armature


def scan_of(armature: bpy.types.Object) -> bpy.types.Object | None:
    """The head that a rig was made of, unless it was deleted."""
    return armature.get(SCAN_KEY)


def _face(rig: RigData, armature: bpy.types.Object, folder: Path, title: str, unit_m: float) -> bpy.types.Object:
    face = rig_mesh_object(rig, f"{title} rig")
    face.name = FACE_NAME
    for material in (  # in the order of the slots
        rig_materials.skin_with_maps(folder, title, unit_m),
        rig_materials.eyes(folder, title),
        rig_materials.mouth(folder, title, unit_m),
    ):
        face.data.materials.append(material)
    face[PHOTOGRAPHED_KEY] = {name: weight for name, weight in rig.photographed.items() if weight > 0}
    face.parent = armature
    # Not "Preserve Volume": glTF and FBX know linear skinning only, and the head shall move there as it does here.
    face.modifiers.new("Armature", "ARMATURE").object = armature
    return face


def _hair(rig: RigData, armature: bpy.types.Object, folder: Path, title: str) -> bpy.types.Object:
    """The solid of hair, which lies in the armature's frame and goes with the bone of the head."""
    assert rig.hair is not None
    hair = hair_object(rig.hair, f"{title} hair")
    hair.name = HAIR_NAME
    hair.data.materials.append(rig_materials.hair(folder, title))
    hair.parent, hair.parent_type, hair.parent_bone = armature, "BONE", HEAD
    bone = armature.data.bones[HEAD]
    # What hangs on a bone hangs on its tail.
    hair.matrix_parent_inverse = (bone.matrix_local @ Matrix.Translation((0, bone.length, 0))).inverted()
    return hair


def _collection_of(head: bpy.types.Object) -> bpy.types.Collection:
    """Where a head's rig belongs: the head's own collection, or else the first one it is in."""
    return next((own for own in head.users_collection if FOLDER_KEY in own), head.users_collection[0])


def _put_away(head: bpy.types.Object, armature: bpy.types.Object) -> None:
    earlier = [thing for thing in bpy.data.objects if rig_of(thing) == thing and thing.get(SCAN_KEY) == head]
    for rig in earlier:
        for thing in (rig, *rig.children):
            thing.hide_viewport = thing.hide_render = True
    armature[SCAN_KEY] = head
    head.hide_viewport = head.hide_render = True  # not the eye in the outliner: Alt H shall not bring it back
    if head.parent is None or head.parent in earlier:
        place = head.matrix_world.copy()
        head.parent = armature
        head.matrix_parent_inverse = armature.matrix_world.inverted()
        head.matrix_world = place
