"""The panel's buttons for a finished head: re-roll its unseen side, re-bake it onto a mesh, rebuild it finer."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, IntProperty

from ..inference.messages import Failed, Rebake, Rebuild, Reroll, Reuse, Rig
from .head_link import (
    LinkBroken,
    follow,
    frame_of,
    head_place,
    is_head,
    result_folder,
    selected_head,
    triangles_of,
    version_of,
    wear,
)
from .import_head import import_head
from .mesh_file import write_ply
from .operators import HeadJob, new_job_folder

NEXT_VERSION = -1
MAX_VERSION = 2**31 - 1  # what Blender's whole numbers hold
UV_NAME = "Headcast"  # of a UV map made for a mesh that had none
UV_MARGIN = 0.004  # of the texture's side, between islands: 8 texels at 2048
UV_ANGLE_DEG = 66.0  # Blender's own default
NO_HEAD = "Select a head that Headcast made"


class ReuseOperator(HeadJob):
    """What all jobs on a finished head have in common: the selected head and its result folder."""

    @classmethod
    def what_is_missing(cls, context: bpy.types.Context) -> str:
        return NO_HEAD if selected_head(context) is None else ""

    def job(self, context: bpy.types.Context) -> Reuse | Rig | Failed:
        head = selected_head(context)
        assert head is not None  # poll
        # By name: an undo meanwhile replaces every object, and a reference would lead into freed memory.
        self._head_name, self._photo_name = head.name, str(head["headcast_photo"])
        try:
            self._folder = result_folder(head)
            return self.ask(context, head, str(new_job_folder(self._photo_name)))
        except LinkBroken as error:
            return Failed(error.message, error.hint)
        except OSError as error:
            return Failed(str(error), "Free some space.")

    def receive(self, context: bpy.types.Context, folder: Path) -> str:
        head = bpy.data.objects.get(self._head_name)
        if not is_head(head):
            raise LinkBroken(
                "The head was deleted while the worker was busy with it.", "Undo that, or select another head."
            )
        return self.bring_in(context, head, folder)

    def ask(self, context: bpy.types.Context, head: bpy.types.Object, out_dir: str) -> Reuse | Rig:
        """What to ask the worker for. Raises LinkBroken or OSError."""
        raise NotImplementedError

    def bring_in(self, context: bpy.types.Context, head: bpy.types.Object, folder: Path) -> str:
        """Bring a finished result into the scene, and say so. Raises ImportFailed or LinkBroken."""
        raise NotImplementedError


class HEADCAST_OT_reroll(ReuseOperator, bpy.types.Operator):
    """Imagine another version of what the photo does not show. What it shows stays as it is, to the last texel"""

    bl_idname = "headcast.reroll"
    bl_label = "Re-roll Unseen Side"

    seed: IntProperty(
        name="Version",
        description="Which version; -1 is the one after the head's own",
        default=NEXT_VERSION,
        min=NEXT_VERSION,
        max=MAX_VERSION,
        options={"SKIP_SAVE"},
    )

    def ask(self, context: bpy.types.Context, head: bpy.types.Object, out_dir: str) -> Reroll:
        chosen = (version_of(head) + 1) % MAX_VERSION if self.seed == NEXT_VERSION else self.seed
        return Reroll(str(self._folder), out_dir, chosen, device_of(context))

    def bring_in(self, context: bpy.types.Context, head: bpy.types.Object, folder: Path) -> str:
        if follow(context, head, self._folder, folder, self._photo_name):
            return "Unseen side re-rolled"
        bring_in_beside(context, folder, self._photo_name, head)
        return "This head has other faces by now: the new version came in as a head of its own"


class HEADCAST_OT_rebake(ReuseOperator, bpy.types.Operator):
    """Paint the active mesh from the photo: a remeshed copy of the head, or a mesh that lies on the selected head"""

    bl_idname = "headcast.rebake"
    bl_label = "Re-bake onto Active Mesh"

    new_uv: BoolProperty(
        name="New UV Map",
        description="Unwrap the mesh first. Remeshing leaves a UV map that looks whole and cannot be painted on",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        reason = super().why_not(context)
        if reason:
            return reason
        active = context.active_object
        if active is None or active.type != "MESH" or not active.select_get():
            return "Select the head first, then the mesh to paint, so that the mesh is active"
        others = [thing for thing in context.selected_objects if is_head(thing) and thing != active]
        return "Select one head only besides the mesh to paint" if len(others) > 1 else ""

    def ask(self, context: bpy.types.Context, head: bpy.types.Object, out_dir: str) -> Rebake:
        target = context.active_object
        self._target_name = target.name
        if self.new_uv or not target.data.uv_layers:
            unwrap_active(context)
        self._to_head = frame_of(target, head)
        triangles = triangles_of(context, target, self._to_head)
        path = Path(self._passing.name) / "mesh.ply"
        write_ply(path, triangles.points, triangles.corners, triangles.uv)
        changes = {"texture": context.scene.headcast.texture_size, **device_of(context)}
        return Rebake(str(self._folder), str(path), out_dir, changes, own_uv_only=True)

    def bring_in(self, context: bpy.types.Context, head: bpy.types.Object, folder: Path) -> str:
        target = bpy.data.objects.get(self._target_name)
        if target is None or target.type != "MESH":
            raise LinkBroken("The mesh was deleted while it was painted.", "Undo that, and re-bake again.")
        wear(context, target, folder, self._photo_name, self._to_head)
        return "Photo baked onto the mesh"


class HEADCAST_OT_rebuild(ReuseOperator, bpy.types.Operator):
    """Make the selected head again with the quality chosen above. It comes in beside the old one, at the same place"""

    bl_idname = "headcast.rebuild"
    bl_label = "Rebuild at This Quality"

    def ask(self, context: bpy.types.Context, head: bpy.types.Object, out_dir: str) -> Rebuild:
        settings = context.scene.headcast
        changes = {"grid": settings.grid, "faces": settings.faces, "texture": settings.texture_size}
        return Rebuild(str(self._folder), out_dir, {**changes, **device_of(context)})

    def bring_in(self, context: bpy.types.Context, head: bpy.types.Object, folder: Path) -> str:
        bring_in_beside(context, folder, self._photo_name, head)
        return "Head rebuilt"


def device_of(context: bpy.types.Context) -> dict[str, str]:
    """The device chosen in the panel, as a change of the head's options."""
    return {"device": context.scene.headcast.device.lower()}


def bring_in_beside(context: bpy.types.Context, folder: Path, name: str, head: bpy.types.Object) -> None:
    """Import a result as a head of its own, where another head stands."""
    place = head_place(head)
    import_head(context, folder, name)
    context.view_layer.objects.active.matrix_world = place


def unwrap_active(context: bpy.types.Context) -> None:
    """Give the active mesh another UV map, without overlaps, by Blender's Smart UV Project."""
    active = context.active_object
    chosen = list(context.selected_objects)
    for thing in chosen:
        thing.select_set(thing == active)
    layer = active.data.uv_layers.get(UV_NAME) or active.data.uv_layers.new(name=UV_NAME)
    if layer is None:  # Blender takes eight at most
        raise LinkBroken(f"{active.name} has too many UV maps.", "Remove one of them.")
    active.data.uv_layers.active = layer
    layer.active_render = True
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.uv.smart_project(angle_limit=float(np.radians(UV_ANGLE_DEG)), island_margin=UV_MARGIN)
    bpy.ops.object.mode_set(mode="OBJECT")
    for thing in chosen:
        thing.select_set(True)


CLASSES = (HEADCAST_OT_reroll, HEADCAST_OT_rebake, HEADCAST_OT_rebuild)
