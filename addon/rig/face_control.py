"""What a rig's controls do: the expression at one click, and whether face shapes or bones move jaw and eyes.

Both could open a jaw and turn an eye, and together they would do it twice. So one of them rests:

- SHAPES, for facial capture, and how a rig comes in: all 52 shapes work; the bones of jaw and eyes are held at rest.
- BONES, for animation by hand: these bones move the face, eyes follow `look_at`; the shapes that do the same are muted.

glTF leaves muted shapes out of its files, FBX knows no muting and writes their values: while they are muted these are
kept aside and 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
from bpy.props import EnumProperty

from ..import_head import RIG_PART_KEY
from .armature import HELD, HELD_BONES

ARMATURE, FACE, HAIR = "armature", "face", "hair"  # what RIG_PART_KEY says
PHOTOGRAPHED_KEY = "headcast_expression"  # on the face object: weights of the photo's expression by shape
KEPT_KEY = "headcast_kept"  # on the face object: values of the muted shapes
NEUTRAL, PHOTO = "NEUTRAL", "PHOTO"
SHAPES, BONES = "SHAPES", "BONES"
HELD_SHAPES = (
    *("jawOpen", "jawForward", "jawLeft", "jawRight"),
    *(f"eyeLook{way}{side}" for way in ("Down", "In", "Out", "Up") for side in ("Left", "Right")),
)


def _drive_face(rig: HEADCAST_PG_rig, _context: bpy.types.Context) -> None:
    drive_face(rig.id_data, rig.driven_by)


class HEADCAST_PG_rig(bpy.types.PropertyGroup):
    """What a rig's armature object remembers: `object.headcast_rig`."""

    driven_by: EnumProperty(
        name="Jaw and Eyes by",
        description="What moves jaw and eyes. Both at once would move them twice",
        items=[
            (SHAPES, "Shapes", "All 52 face shapes, for facial capture; the bones of jaw and eyes rest"),
            (BONES, "Bones", "The bones of jaw and eyes, for animation by hand; the shapes that do the same are muted"),
        ],
        update=_drive_face,
    )


def rig_of(thing: bpy.types.Object | None) -> bpy.types.Object | None:
    """The armature of the rig that an object belongs to; None if it is part of none."""
    if thing is None or RIG_PART_KEY not in thing:
        return None
    armature = thing if thing[RIG_PART_KEY] == ARMATURE else thing.parent
    return armature if armature is not None and armature.get(RIG_PART_KEY) == ARMATURE else None


def faces_of(armature: bpy.types.Object) -> Iterator[bpy.types.Object]:
    """The meshes with face shapes that hang on a rig's armature: one, unless the user has copied it."""
    for thing in armature.children:
        if thing.get(RIG_PART_KEY) == FACE and thing.type == "MESH" and thing.data.shape_keys:
            yield thing


def drive_face(armature: bpy.types.Object, by: str) -> None:
    """Give jaw and eyes to the face shapes (SHAPES) or to the bones (BONES)."""
    muted = by == BONES
    for name in HELD_BONES:
        if bone := armature.pose.bones.get(name):
            for constraint in bone.constraints:
                if constraint.name.startswith(HELD):
                    constraint.enabled = not muted
    for face in faces_of(armature):
        shapes = [key for key in face.data.shape_keys.key_blocks if key.name in HELD_SHAPES and key.mute != muted]
        if muted and shapes:  # else they were muted before, and their values are kept already
            face[KEPT_KEY] = {key.name: key.value for key in shapes}
        kept = face.get(KEPT_KEY, {})
        for key in shapes:
            key.mute = muted
            key.value = 0.0 if muted else kept.get(key.name, 0.0)
        if not muted:
            face.pop(KEPT_KEY, None)


def show_expression(armature: bpy.types.Object, expression: str) -> None:
    """Set all shapes to the neutral face, or to the photo's expression; shapes that bones stand in for stay at 0."""
    for face in faces_of(armature):
        photographed = face.get(PHOTOGRAPHED_KEY, {}) if expression == PHOTO else {}
        keys = face.data.shape_keys
        for key in keys.key_blocks:
            if key != keys.reference_key:
                key.value = 0.0 if key.mute else photographed.get(key.name, 0.0)
