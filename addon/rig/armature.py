"""The bones of a rig: where they lie, what holds them back, and what the eyes follow."""

from __future__ import annotations

from math import radians

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

from .rig_data import BONES, CHEST, EYES, HEAD, JAW, NECK, RigData

LOOK_AT = "look_at"  # the bone that the eyes follow, and the armature's custom property that tells how far they do
LOOK_AT_M = 0.6  # before the eyes: as far as whom one talks with
LOOK_AT_LENGTH_M = 0.04
JAW_LIMITS_DEG = {"x": (0.0, 25.0), "y": (-3.0, 3.0), "z": (-8.0, 8.0)}  # open, twist, sideways; shut is 0: teeth meet
HELD_BONES = (JAW, *EYES)  # what the face shapes move too
HELD = "Held by Face Shapes"  # name of each constraint that keeps such a bone at rest
AHEAD = Vector((0, -1, 0))  # where a face looks in Blender
UP = Vector((0, 0, 1))


def armature_object(context: bpy.types.Context, rig: RigData, name: str, unit_m: float) -> bpy.types.Object:
    """New armature object at the origin, in the scene's own collection, with all bones at rest and constrained.

    unit_m: metres in one unit of the scene.
    Raises ValueError for a rig whose bones would have no length.
    """
    armature = bpy.data.objects.new(name, bpy.data.armatures.new(name))
    # The scene's own collection is the one that no view layer can leave out: bones are made in Edit Mode only.
    context.scene.collection.objects.link(armature)
    context.view_layer.objects.active = armature
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        _make_bones(armature.data.edit_bones, rig, unit_m)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")
    armature.show_in_front = True
    _offer_look_at(armature)
    for eye in EYES:
        _follow_look_at(armature, armature.pose.bones[eye])
    _limit_jaw(armature.pose.bones[JAW])
    for bone in HELD_BONES:
        # Degrees in the sidebar, which artists read; neither jaw nor eyes come near a gimbal lock.
        armature.pose.bones[bone].rotation_mode = "XYZ"
        _hold(armature.pose.bones[bone])  # last, so that nothing moves the bone after it
    return armature


def bone_tails(rig: RigData) -> NDArray[np.floating]:
    """(6, 3) where each of `BONES` ends: where the next one begins, the crown, the tip of the chin, the corneas.

    Raises ValueError for a bone without length.
    """
    begin = dict(zip(BONES, rig.pivots, strict=True))
    ends = {CHEST: begin[NECK], NECK: begin[HEAD]}
    crown = rig.vertices[rig.vertices_of(HEAD)][:, 2].max()
    ends[HEAD] = np.array([*begin[HEAD][:2], crown])
    ends[JAW] = np.array([begin[JAW][0], *_farthest(rig, JAW)[1:]])
    for eye in EYES:
        radius = np.linalg.norm(_farthest(rig, eye) - begin[eye])
        ends[eye] = begin[eye] + radius * np.array(AHEAD)
    tails = np.array([ends[bone] for bone in BONES])
    if np.linalg.norm(tails - rig.pivots, axis=1).min() <= 0:
        raise ValueError("a bone has no length")
    return tails


def _farthest(rig: RigData, bone: str) -> NDArray[np.floating]:
    """The vertex of a bone that lies farthest from where it begins; of the jaw, that is at the tip of the chin."""
    points = rig.vertices[rig.vertices_of(bone)]
    return points[np.linalg.norm(points - rig.pivots[BONES.index(bone)], axis=1).argmax()]


def _make_bones(bones: bpy.types.ArmatureEditBones, rig: RigData, unit_m: float) -> None:
    for name, parent, begin, end in zip(BONES, rig.parents, rig.pivots, bone_tails(rig), strict=True):
        bone = bones.new(name)
        bone.head, bone.tail = begin, end
        if parent >= 0:
            bone.parent = bones[BONES[parent]]
            bone.use_connect = name in (NECK, HEAD)
        # X lies across the face in every bone, and each has a roll of 0. Turning about it nods and opens the jaw, where
        # it points to the subject's left; it looks up in both eyes, where it points to the right.
        if name in EYES:
            bone.align_roll(UP)
        else:
            bone.align_roll(AHEAD if name != JAW else -UP)
    target = bones.new(LOOK_AT)
    target.head = (bones[EYES[0]].head + bones[EYES[1]].head) / 2 + AHEAD * (LOOK_AT_M / unit_m)
    target.tail = target.head + AHEAD * (LOOK_AT_LENGTH_M / unit_m)
    target.align_roll(UP)
    target.parent = bones[CHEST]  # so that the eyes stay on it while the head turns
    target.use_deform = False


def _offer_look_at(armature: bpy.types.Object) -> None:
    # On from the start: a target that can be dragged while nothing happens looks broken. Who wants to turn the eyes by
    # hand draws it to 0. Held by the shapes, eyes heed neither.
    armature[LOOK_AT] = 1.0
    armature.id_properties_ui(LOOK_AT).update(
        min=0.0, max=1.0, default=1.0, subtype="FACTOR", description="How far the eyes follow the bone look_at"
    )


def _follow_look_at(armature: bpy.types.Object, eye: bpy.types.PoseBone) -> None:
    follow = eye.constraints.new("DAMPED_TRACK")  # turns without rolling, as eyes do
    follow.name = "Look At"
    follow.target, follow.subtarget = armature, LOOK_AT
    follow.track_axis = "TRACK_Y"
    # A driver without an expression: it works where scripts in files are switched off.
    driver = follow.driver_add("influence").driver
    driver.type = "SUM"
    read = driver.variables.new()
    read.type = "SINGLE_PROP"
    read.targets[0].id, read.targets[0].data_path = armature, f'["{LOOK_AT}"]'


def _limit_jaw(jaw: bpy.types.PoseBone) -> None:
    limit = jaw.constraints.new("LIMIT_ROTATION")
    limit.name = "Jaw Limits"
    limit.owner_space = "LOCAL"
    limit.use_transform_limit = True  # the bone stops under the hand, instead of running on unseen
    for axis, (least, most) in JAW_LIMITS_DEG.items():
        setattr(limit, f"use_limit_{axis}", True)
        setattr(limit, f"min_{axis}", radians(least))
        setattr(limit, f"max_{axis}", radians(most))


def _hold(bone: bpy.types.PoseBone) -> None:
    """Constraints that keep a bone as it rests, whatever its channels or its other constraints say."""
    turn = bone.constraints.new("LIMIT_ROTATION")
    move = bone.constraints.new("LIMIT_LOCATION")
    grow = bone.constraints.new("LIMIT_SCALE")
    for axis in "xyz":
        setattr(turn, f"use_limit_{axis}", True)  # between 0 and 0
        for limit in (move, grow):
            for end in ("min", "max"):
                setattr(limit, f"use_{end}_{axis}", True)
                setattr(limit, f"{end}_{axis}", 1.0 if limit is grow else 0.0)
    for limit in (turn, move, grow):
        limit.name = HELD
        limit.owner_space = "LOCAL"
        limit.use_transform_limit = True
