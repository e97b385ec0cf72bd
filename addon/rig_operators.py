"""The panel's buttons for a rig: make one of the selected head, and change its expression."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import EnumProperty

from ..inference.messages import Rig
from .reuse_operators import ReuseOperator
from .rig.face_control import NEUTRAL, PHOTO, rig_of, show_expression
from .rig.make_rig import bring_rig_in


class HEADCAST_OT_make_rig(ReuseOperator, bpy.types.Operator):
    """Make the selected head animatable: quads, 52 face shapes, bones, eyes and mouth. The head is kept, hidden"""

    bl_idname = "headcast.make_rig"
    bl_label = "Make Rig-Ready"

    def ask(self, context: bpy.types.Context, head: bpy.types.Object, out_dir: str) -> Rig:
        return Rig(str(self._folder), context.scene.headcast.rig_changes())

    def bring_in(self, context: bpy.types.Context, head: bpy.types.Object, folder: Path) -> str:
        bring_rig_in(context, head, folder, self._photo_name)
        return "Head made rig-ready"


class HEADCAST_OT_expression(bpy.types.Operator):
    """Set all face shapes of the selected rig at once"""

    bl_idname = "headcast.expression"
    bl_label = "Expression"
    bl_options = {"REGISTER", "UNDO"}

    expression: EnumProperty(
        name="Expression",
        items=[
            (NEUTRAL, "Neutral", "A face at rest: all shapes at 0"),
            (PHOTO, "As Photographed", "The expression of the photo"),
        ],
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if rig_of(context.active_object) is None:
            cls.poll_message_set("Select a rig that Headcast made")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        show_expression(rig_of(context.active_object), self.expression)
        return {"FINISHED"}


CLASSES = (HEADCAST_OT_make_rig, HEADCAST_OT_expression)
