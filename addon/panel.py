"""The sidebar tab of the 3D viewport: draws, and nothing else."""

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_iface

from ..inference.messages import Reconstruct
from . import EXTENSION
from .head_link import selected_head, version_of
from .preferences import GPU_ENGINE_OUTDATED, gpu_engine_outdated, preferences
from .rig.armature import LOOK_AT
from .rig.face_control import BONES, rig_of
from .rig.make_rig import scan_of
from .session import SESSION
from .turntable import subject_of
from .widgets import draw_progress, draw_wrapped

PREFERENCES_REMEDIES = {"preferences", "reinstall"}  # failures whose way out begins in the preferences


class HEADCAST_PT_main(bpy.types.Panel):
    """Photo in, head out."""

    bl_idname = "HEADCAST_PT_main"
    bl_label = "Headcast"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Headcast"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.headcast

        choices = layout.column()
        choices.enabled = not SESSION.running
        row = choices.row(align=True)
        row.use_property_split = False
        row.template_ID(settings, "image", open="image.open")
        row.operator("headcast.use_editor_image", text="", icon="IMAGE")
        if settings.image:
            row = choices.row()
            row.template_icon(settings.image.preview_ensure().icon_id, scale=6.0)
        choices.prop(settings, "model")
        choices.prop(settings, "device")
        choices.prop(settings, "quality")
        choices.prop(settings, "refinement")

        if not preferences().consent:
            row = layout.row()
            row.use_property_split = False
            row.prop(preferences(), "consent")

        if SESSION.running:
            draw_progress(layout)
        else:
            row = layout.row()
            row.scale_y = 1.6
            row.operator("headcast.reconstruct", icon="USER")
            layout.prop(settings, "make_rig")
        row = layout.row()
        row.enabled = context.mode != "EDIT_MESH"  # a mesh that is being edited can be given no colours
        row.prop(settings, "show_seen")
        self._draw_last(context, layout)

    def _draw_last(self, context: bpy.types.Context, layout: bpy.types.UILayout) -> None:
        """What the last head's job had to say, until the next one begins."""
        if SESSION.failure and SESSION.kind is Reconstruct:
            box = layout.box()
            draw_wrapped(context, box, SESSION.failure.message, "ERROR")
            draw_wrapped(context, box, SESSION.failure.hint, "INFO")
            if SESSION.failure.remedy in PREFERENCES_REMEDIES:
                box.operator("preferences.addon_show", text="Open Preferences", icon="PREFERENCES").module = EXTENSION
        if gpu_engine_outdated():
            draw_wrapped(context, layout.box(), GPU_ENGINE_OUTDATED, "INFO")
        for warning in SESSION.warnings:
            draw_wrapped(context, layout.box(), warning, "INFO")


class HEADCAST_PT_quality(bpy.types.Panel):
    """The numbers behind the quality."""

    bl_idname = "HEADCAST_PT_quality"
    bl_label = "Details"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Headcast"
    bl_parent_id = HEADCAST_PT_main.bl_idname
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.enabled = not SESSION.running
        for name in ("grid", "faces", "texture_size", "seed", "detail", "mirror_face", "delight"):
            layout.prop(context.scene.headcast, name)
        layout.operator("headcast.open_folder", text="Open Folder of Heads", icon="FILE_FOLDER").folder = "HEADS"


class HEADCAST_PT_mesh(bpy.types.Panel):
    """How the mesh is closed, and whether its sides are alike."""

    bl_idname = "HEADCAST_PT_mesh"
    bl_label = "Mesh"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Headcast"
    bl_parent_id = HEADCAST_PT_main.bl_idname
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.enabled = not SESSION.running
        for name in ("neck", "symmetry"):
            layout.prop(context.scene.headcast, name)


class HEADCAST_PT_reuse(bpy.types.Panel):
    """What can be done with a finished head, or with what belongs to one; nothing without either selected."""

    bl_idname = "HEADCAST_PT_reuse"
    bl_label = "Selected Head"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Headcast"
    bl_parent_id = HEADCAST_PT_main.bl_idname

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return subject_of(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        head = selected_head(context)
        layout.enabled = not SESSION.running
        layout.operator("headcast.turntable", icon="RENDER_ANIMATION")
        if head is None:  # its camera or its rig is selected
            return
        row = layout.row()
        row.label(text=f"{pgettext_iface('Version')} {version_of(head)}", translate=False)
        back = row.operator("headcast.reroll", text="", icon="LOOP_BACK")
        back.seed = max(version_of(head) - 1, 0)
        layout.operator("headcast.reroll", icon="FILE_REFRESH")
        row = layout.row(align=True)
        row.operator("headcast.rebake", icon="RENDER_STILL")
        row.operator("headcast.rebake", text="", icon="UV").new_uv = True
        layout.operator("headcast.rebuild", icon="MOD_REMESH")
        layout.operator("headcast.make_rig", icon="ARMATURE_DATA")


class HEADCAST_PT_rig(bpy.types.Panel):
    """The controls of a rig; nothing unless part of one is active."""

    bl_idname = "HEADCAST_PT_rig"
    bl_label = "Selected Rig"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Headcast"
    bl_parent_id = HEADCAST_PT_main.bl_idname

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return rig_of(context.active_object) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        armature = rig_of(context.active_object)
        assert armature is not None  # poll
        row = layout.row(align=True)
        row.operator_enum("headcast.expression", "expression")
        layout.row().prop(armature.headcast_rig, "driven_by", expand=True)
        row = layout.row()
        row.enabled = armature.headcast_rig.driven_by == BONES
        row.prop(armature, f'["{LOOK_AT}"]', text="Eyes Follow Target", slider=True)
        if scan := scan_of(armature):
            layout.prop(scan, "hide_viewport", text="Show Scan", invert_checkbox=True)


CLASSES = (HEADCAST_PT_main, HEADCAST_PT_quality, HEADCAST_PT_mesh, HEADCAST_PT_reuse, HEADCAST_PT_rig)
