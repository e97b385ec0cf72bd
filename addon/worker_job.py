"""An operator that gives the worker something to do and waits for the answer without stopping Blender."""

from __future__ import annotations

import bpy

from ..inference.messages import Cancelled, Outcome
from .session import SESSION

TIMER_S = 0.1  # how often a running job is looked after
WAIT_S = 0.1  # how long a blocking run sleeps between two looks


class Timers:
    """The one timer of a running job, kept here so that it can be removed when the add-on goes away."""

    def __init__(self) -> None:
        self._timer: bpy.types.Timer | None = None

    def start(self, context: bpy.types.Context) -> None:
        self.stop()
        self._timer = context.window_manager.event_timer_add(TIMER_S, window=context.window)

    def stop(self) -> None:
        if self._timer is not None:
            bpy.context.window_manager.event_timer_remove(self._timer)
        self._timer = None


timers = Timers()


def wait_for_outcome(context: bpy.types.Context) -> Outcome:
    """Block until the running job is over; Ctrl-C in the console cancels it."""
    window_manager = context.window_manager
    window_manager.progress_begin(0.0, 1.0)
    try:
        while (outcome := SESSION.poll(WAIT_S)) is None:
            window_manager.progress_update(SESSION.progress.fraction)
    except KeyboardInterrupt:
        SESSION.close()
        return Cancelled()
    finally:
        window_manager.progress_end()
    return outcome


def redraw_panels(context: bpy.types.Context) -> None:
    """Have every sidebar of a 3D viewport and the preferences drawn again: a timer alone redraws nothing."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


class WorkerJob:
    """The waiting, the same for all jobs. Operators name bpy.types.Operator as another base."""

    _outcome: Outcome | None = None  # how the last job of the run ended, once it has

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not self._submit(context):
            redraw_panels(context)
            return {"CANCELLED"}
        timers.start(context)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC" and event.value == "PRESS" and self._outcome is None:
            SESSION.cancel()
            redraw_panels(context)
            return {"RUNNING_MODAL"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        if self._outcome is None and (outcome := SESSION.poll()) and not self._goes_on(outcome):
            self._outcome = outcome
        redraw_panels(context)
        if self._outcome is None or self._waits(context, self._outcome):
            return {"PASS_THROUGH"}
        timers.stop()
        return self._finish(context, self._outcome)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blocking run, for scripts and for Blender without a window."""
        if not self._submit(context):
            return {"CANCELLED"}
        while self._goes_on(outcome := wait_for_outcome(context)):
            pass
        return self._finish(context, outcome)

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

    def _goes_on(self, outcome: Outcome) -> bool:
        """Whether another job of this run has begun now that one has ended."""
        return False

    def _waits(self, context: bpy.types.Context, outcome: Outcome) -> bool:
        """Whether the answer cannot be used yet, which the progress bar tells."""
        return False
