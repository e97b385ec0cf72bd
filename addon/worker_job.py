"""An operator that gives the worker something to do and waits for the answer without stopping Blender."""

from __future__ import annotations

import bpy

from ..inference.messages import Outcome
from .operators import redraw_panels, timers, wait_for_outcome
from .session import SESSION


class WorkerJob:
    """The waiting, for operators that bring nothing into the scene: they may end in any mode.

    Operators name bpy.types.Operator as another base. Heads have `operators.HeadJob`, which waits for Object Mode too.
    """

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not self._submit(context):
            redraw_panels(context)
            return {"CANCELLED"}
        timers.start(context)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC" and event.value == "PRESS":
            SESSION.cancel()
            redraw_panels(context)
            return {"RUNNING_MODAL"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        outcome = SESSION.poll()
        redraw_panels(context)
        if outcome is None:
            return {"PASS_THROUGH"}
        timers.stop()
        return self._finish(context, outcome)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blocking run, for scripts and for Blender without a window."""
        if not self._submit(context):
            return {"CANCELLED"}
        return self._finish(context, wait_for_outcome(context))

    def cancel(self, _context: bpy.types.Context) -> None:
        """Blender ends the operator: its window is closed, another file is loaded, or Blender quits."""
        timers.stop()
        SESSION.close()

    def _submit(self, context: bpy.types.Context) -> bool:
        """Send the job to the worker; False if there is none to send, which is told."""
        raise NotImplementedError

    def _finish(self, context: bpy.types.Context, outcome: Outcome) -> set[str]:
        """Use the answer, or say why there is none."""
        raise NotImplementedError
