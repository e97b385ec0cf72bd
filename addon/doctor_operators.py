"""The preferences' buttons of the doctor: check the installation, copy what was found."""

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_rpt

from ..inference.messages import Cancelled, Examine, Examined, Failed, Outcome
from .doctor import examination_of, last_examination, remember
from .preferences import preferences, worker_place
from .session import SESSION
from .worker_job import WorkerJob, redraw_panels


class HEADCAST_OT_doctor(WorkerJob, bpy.types.Operator):
    """Look at versions, devices, memory and the model, and make a small head as a test. Sends nothing anywhere"""

    bl_idname = "headcast.doctor"
    bl_label = "Check Installation"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if SESSION.running:
            cls.poll_message_set(SESSION.occupation)
        return not SESSION.running

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blocking run, for scripts and for Blender without a window: prints the report."""
        result = super().execute(context)
        if result == {"FINISHED"} and (found := last_examination(worker_place())):
            print(found.report)
        return result

    def _submit(self, context: bpy.types.Context) -> bool:
        context.scene.headcast.migrate()
        options = context.scene.headcast.options()
        SESSION.submit(worker_place(), Examine(options.model, options.device))
        return True

    def _finish(self, context: bpy.types.Context, outcome: Outcome) -> set[str]:
        """Keep what was found for the preferences; an engine that does not start is a finding too."""
        SESSION.finish(kind=Examine)
        if isinstance(outcome, Cancelled):
            self.report({"INFO"}, "The check was cancelled")
            redraw_panels(context)
            return {"CANCELLED"}
        assert isinstance(outcome, Examined | Failed)  # a check was asked for
        if isinstance(outcome, Failed) and outcome.log:
            print(outcome.log)  # in the system console, for a bug report
        found = examination_of(outcome, worker_place(), chosen=bool(preferences().worker_python))
        remember(found)
        redraw_panels(context)
        if found.troubles:
            words = pgettext_rpt("Problems found: {count}. The preferences say what to do")
            self.report({"WARNING"}, words.format(count=found.troubles))
        else:
            self.report({"INFO"}, "Everything is ready")
        return {"FINISHED"}


class HEADCAST_OT_copy_report(bpy.types.Operator):
    """Copy what was found to the clipboard, to be sent along with a question. It names neither you nor your folders"""

    bl_idname = "headcast.copy_report"
    bl_label = "Copy Report"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if last_examination(worker_place()) is None:
            cls.poll_message_set("Check the installation first")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        found = last_examination(worker_place())
        assert found  # poll
        context.window_manager.clipboard = found.report
        return {"FINISHED"}


CLASSES = (HEADCAST_OT_doctor, HEADCAST_OT_copy_report)
