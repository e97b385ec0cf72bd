"""The preferences' buttons of the GPU engine: install it from the network or from a folder, give that up, remove it."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.app.translations import pgettext_rpt
from bpy.props import StringProperty

from .engine import check_engine
from .gpu_engine import EngineTrouble, anything_left, hosts, remove, remove_former, to_fetch
from .gpu_install import INSTALL
from .preferences import gpu_files, gpu_home, no_gpu_engine, worker_place
from .session import SESSION
from .worker_job import redraw_panels

LACKING = (
    "Blender's Python lacks {packages}, which the GPU engine needs beside it. Install the Headcast that is made for "
    "this system and Blender, or choose a Python that has them."
)
LOOK_S = 0.25  # how often the preferences are drawn anew while an install runs


def in_words(trouble: EngineTrouble) -> str:
    """What happened and what to do, in the interface's language."""
    return "\n".join(pgettext_rpt(text).format(**trouble.gaps) for text in (trouble.message, trouble.hint))


def begin(operator: bpy.types.Operator, source: Path | None) -> set[str]:
    """Start the install. Without a window, also wait for its end."""
    place = worker_place(with_gpu_engine=False)
    # Before gigabytes are fetched: a zip without wheels, or one for another Python, leaves Blender without the rest.
    missing = [name for name in check_engine(place.python_command, place.extra_paths).missing if "torch" not in name]
    if missing:
        operator.report({"ERROR"}, pgettext_rpt(LACKING).format(packages=", ".join(missing)))
        return {"CANCELLED"}
    INSTALL.start(gpu_files(), gpu_home(), source, place.python_command, place.extra_paths)
    if not bpy.app.background:
        # No modal operator: that would end with the file that is open, keep Blender from saving by itself for as long
        # as the download takes, and listen to Esc wherever it is pressed.
        bpy.app.timers.register(look_after, first_interval=LOOK_S, persistent=True)
        return {"FINISHED"}
    INSTALL.wait()
    finish()
    if INSTALL.trouble:
        operator.report({"ERROR"}, in_words(INSTALL.trouble))
    return {"FINISHED"} if INSTALL.engine else {"CANCELLED"}


def look_after() -> float | None:
    """Blender's timer: draw how far it is, and finish once it is over."""
    if INSTALL.running:
        redraw_panels(bpy.context)
        return LOOK_S
    finish()
    redraw_panels(bpy.context)
    return None


def finish() -> None:
    """After a success the next job starts a worker on the new engine; one at work keeps the former until then."""
    if INSTALL.trouble and INSTALL.trouble.log:
        print(INSTALL.trouble.log)  # in the system console, for a bug report
    if INSTALL.engine and not SESSION.running:
        SESSION.close()
        try:
            remove_former(gpu_home(), gpu_files())
        except EngineTrouble as trouble:
            INSTALL.trouble = trouble


def stop() -> None:
    """The add-on goes away."""
    INSTALL.close()
    if bpy.app.timers.is_registered(look_after):
        bpy.app.timers.unregister(look_after)


class HEADCAST_OT_install_gpu_engine(bpy.types.Operator):
    """Fetch torch for NVIDIA's graphics cards and try it. Headcast opens a connection for nothing else"""

    bl_idname = "headcast.install_gpu_engine"
    bl_label = "Install GPU Engine"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        reason = no_gpu_engine()
        if not reason and not bpy.app.online_access:
            reason = "Allow online access in Blender's preferences under System, or install from a folder"
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        words = pgettext_rpt(
            "From {hosts} {size} GB are fetched, and about {room} GB stay on the disk. Most of it is under NVIDIA's "
            "own licence, for NVIDIA's cards."
        )
        files = gpu_files()
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Install GPU Engine",
            message=words.format(
                hosts=hosts(files),
                size=f"{to_fetch(gpu_home(), files) / 1e9:.1f}",
                room=f"{sum(file.unpacked for file in files) / 1e9:.1f}",
            ),
            confirm_text="Install",
        )

    def execute(self, _context: bpy.types.Context) -> set[str]:
        return begin(self, None)


class HEADCAST_OT_install_gpu_engine_from_folder(bpy.types.Operator):
    """Install the GPU engine from a folder in which all of its files lie, without a network"""

    bl_idname = "headcast.install_gpu_engine_from_folder"
    bl_label = "Install from Folder"

    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        reason = no_gpu_engine()
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        return begin(self, Path(self.directory))


class HEADCAST_OT_cancel_gpu_engine(bpy.types.Operator):
    """Give up the install. What has been fetched is kept, and the next install goes on from there"""

    bl_idname = "headcast.cancel_gpu_engine"
    bl_label = "Cancel Install"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return INSTALL.running and not INSTALL.cancelling

    def execute(self, context: bpy.types.Context) -> set[str]:
        INSTALL.cancel()
        redraw_panels(context)
        return {"FINISHED"}


class HEADCAST_OT_remove_gpu_engine(bpy.types.Operator):
    """Delete the GPU engine with all that was fetched for it. Heads are made on the CPU then"""

    bl_idname = "headcast.remove_gpu_engine"
    bl_label = "Remove GPU Engine"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        reason = "The GPU engine is being installed" if INSTALL.running else ""
        if SESSION.running:
            reason = SESSION.occupation
        elif not reason and not anything_left(gpu_home()):
            reason = "There is nothing to remove"
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Remove GPU Engine",
            message="It serves other Blenders of the same Python too. To have it back, it must be fetched again.",
            confirm_text="Remove",
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        SESSION.close()  # a worker that is warm may run on it
        try:
            remove(gpu_home())
        except EngineTrouble as trouble:
            self.report({"ERROR"}, in_words(trouble))
            return {"CANCELLED"}
        INSTALL.trouble = None
        redraw_panels(context)
        return {"FINISHED"}


CLASSES = (
    HEADCAST_OT_install_gpu_engine,
    HEADCAST_OT_install_gpu_engine_from_folder,
    HEADCAST_OT_cancel_gpu_engine,
    HEADCAST_OT_remove_gpu_engine,
)
