"""The panel's buttons: start and cancel a head, choose the photo, open folders. Thin: the work is elsewhere."""

from __future__ import annotations

import contextlib
import glob
import re
import shutil
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bpy
from bpy.app.translations import pgettext_rpt
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ..inference.messages import Cancelled, Done, Failed, Job, Outcome, Progress, Reconstruct, Reuse, Rig
from . import properties, seen_in_photo
from .all_or_nothing import ImportFailed
from .head_link import LinkBroken
from .import_head import import_head
from .model_file import UNFIT_FOR_FILES
from .photo_file import ImageUnusable, photo_file
from .preferences import gpu_engine_chosen, preferences, worker_place
from .rig.make_rig import bring_rig_in
from .session import SESSION
from .user_folder import UNFINISHED_SUFFIX, UNWRITABLE_HINT, remove_forgotten, user_folder
from .worker_job import WorkerJob, redraw_panels

PHOTO_SUFFIXES = ".jpg;.jpeg;.png;.tif;.tiff;.webp;.bmp"
WAITING_FOR_OBJECT_MODE = Progress(1.0, "Done: switch to Object Mode to receive the head")
CARD_SILENT = "This head was made on the CPU, for the graphics card did not answer. Check Installation tells why."
PHOTO_NOT_COPIED = Failed(
    "The photo could not be written to Blender's temporary folder.",
    "Free some space on that disk, or choose another temporary folder in Blender's preferences.",
)


def heads_folder() -> Path:
    """Where job folders go: head.glb and its report stay there for other programs. May not exist yet."""
    return user_folder("heads")


def new_job_folder(name: str) -> Path:
    """Path for the next head of a photo of that name; nothing is made."""
    return heads_folder() / (re.sub(UNFIT_FOR_FILES, "_", name) + datetime.now().strftime(" %Y-%m-%d %H-%M-%S"))


def claim(folder: Path) -> Path:
    """Make that folder, or the next number of it that is free, so that no other Blender takes it. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_forgotten(folder.parent)
    place, number = folder, 1
    while True:
        try:
            place.mkdir()
            return place
        except FileExistsError:
            number += 1
            place = folder.with_name(f"{folder.name} ({number})")


def give_back(place: Path) -> None:
    """Take away a claimed folder that got no head, and what a worker that died has left beside it."""
    for unfinished in place.parent.glob(f".{glob.escape(place.name)}.*{UNFINISHED_SUFFIX}"):
        shutil.rmtree(unfinished, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: a head is there after all
        place.rmdir()


class HeadJob(WorkerJob):
    """An operator that has the worker make a head, and brings the result into the scene."""

    bl_options = {"REGISTER", "UNDO"}  # one step: everything arrives in the last call of the operator
    cancelled = "Cancelled; the head is as it was"  # what the user is told after Esc

    if TYPE_CHECKING:  # from bpy.types.Operator, which each operator names as its own base
        report: Any
        poll_message_set: Any

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.why_not(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """What keeps the button grey, in words for its tooltip; empty when nothing does."""
        if SESSION.running:
            return SESSION.occupation
        if not preferences().consent:
            return "Confirm first that you may use the likeness of the person in the photo"
        return cls.what_is_missing(context) or ("" if context.mode == "OBJECT" else "Switch to Object Mode first")

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends the operator: what was put down for the worker goes with it."""
        WorkerJob.cancel(self, context)
        self._passing.cleanup()
        if self._place:
            give_back(self._place)

    @classmethod
    def what_is_missing(cls, context: bpy.types.Context) -> str:
        """What the user has to choose first, in words for the tooltip; empty when nothing."""
        raise NotImplementedError

    def job(self, context: bpy.types.Context) -> Job | Failed:
        """What to ask the worker for, or why not; files for it may be put into `_passing` meanwhile."""
        raise NotImplementedError

    def receive(self, context: bpy.types.Context, folder: Path) -> str:
        """Bring a finished result into the scene, and say so. Raises ImportFailed or LinkBroken."""
        raise NotImplementedError

    def next_job(self, outcome: Outcome) -> Job | None:
        """What to ask for after a job has ended, in the same run of the operator; None if that is all."""
        return None

    def outcome_of_run(self, outcome: Outcome) -> Outcome:
        """How a run ended, given the end of its last job."""
        return outcome

    def _goes_on(self, outcome: Outcome) -> bool:
        job = self.next_job(outcome)
        if job is not None:
            SESSION.submit(worker_place(), job)
        return job is not None

    def _waits(self, context: bpy.types.Context, outcome: Outcome) -> bool:
        """An import would throw the user out of their mode."""
        if not isinstance(outcome, Done) or context.mode == "OBJECT":
            return False
        SESSION.progress = WAITING_FOR_OBJECT_MODE
        return True

    def _submit(self, context: bpy.types.Context) -> bool:
        """Send the job to the worker; False if there is none to send, which is told."""
        self._passing = tempfile.TemporaryDirectory(prefix="headcast-", dir=bpy.app.tempdir)
        context.scene.headcast.migrate()  # of a file that was open before Headcast was enabled or updated
        job = self.job(context)
        self._place: Path | None = None  # of the result; a rig has none of its own
        if isinstance(job, Reconstruct | Reuse):
            try:
                self._place = claim(Path(job.out_dir))
                job = replace(job, out_dir=str(self._place))
            except OSError as error:
                message = pgettext_rpt("The folder of heads cannot be written: {reason}.")
                job = Failed(message.format(reason=error.strerror or error), UNWRITABLE_HINT)
        if isinstance(job, Failed):
            self._passing.cleanup()
            self._fail(job)
            return False
        self._warnings: list[str] = []  # beside those of the worker's report
        self._with_gpu_engine = gpu_engine_chosen()  # an install may end before the job does
        SESSION.submit(worker_place(), job)
        return True

    def _finish(self, context: bpy.types.Context, outcome: Outcome) -> set[str]:
        """Bring the result in, or say why there is none."""
        self._passing.cleanup()
        outcome = self.outcome_of_run(outcome)
        if self._place and not isinstance(outcome, Done):
            give_back(self._place)
        told = ""
        if isinstance(outcome, Done):
            try:
                told = self.receive(context, Path(outcome.folder))
                if context.scene.headcast.show_seen:
                    seen_in_photo.show(context.scene)
            except (ImportFailed, LinkBroken) as error:
                outcome = Failed(error.message, error.hint)
        redraw_panels(context)
        if isinstance(outcome, Failed):
            self._fail(outcome)
            return {"CANCELLED"}
        if isinstance(outcome, Cancelled):
            SESSION.finish()
            self.report({"INFO"}, self.cancelled)
            return {"CANCELLED"}
        assert isinstance(outcome, Done)  # a head was asked for
        report = outcome.report
        if self._with_gpu_engine and report.get("device") == "cpu" and report["options"]["device"] == "auto":
            self._warnings.append(CARD_SILENT)
        warnings = [*report.get("warnings", []), *self._warnings]
        SESSION.finish(warnings=warnings)
        for warning in warnings:
            self.report({"WARNING"}, pgettext_rpt(warning))
        self.report({"INFO"}, told)
        return {"FINISHED"}

    def _fail(self, failure: Failed) -> None:
        SESSION.finish(failure)
        if failure.log:
            print(failure.log)  # in the system console, for a bug report
        # Last: in background mode Blender raises this report as an exception when the operator returns.
        self.report({"ERROR"}, f"{pgettext_rpt(failure.message)}\n{pgettext_rpt(failure.hint)}")


class HEADCAST_OT_reconstruct(HeadJob, bpy.types.Operator):
    """Make a textured head from the photo. It appears at the 3D cursor; Blender stays usable meanwhile"""

    bl_idname = "headcast.reconstruct"
    bl_label = "Reconstruct Head"

    cancelled = "Reconstruction cancelled"

    @classmethod
    def what_is_missing(cls, context: bpy.types.Context) -> str:
        return "" if context.scene.headcast.image else "Choose a photo first"

    def job(self, context: bpy.types.Context) -> Reconstruct | Failed:
        settings = context.scene.headcast
        if missing := settings.missing_model():
            return missing
        try:
            photo = photo_file(settings.image, Path(self._passing.name))
        except ImageUnusable as error:
            return Failed(error.message, error.hint)
        except OSError:
            return PHOTO_NOT_COPIED
        self._name = Path(settings.image.name).stem
        self._rig_changes = settings.rig_changes() if settings.make_rig else None
        self._made: Done | None = None  # the head, once its rig is under way
        self._rigged = False
        return Reconstruct(str(photo.path), str(new_job_folder(self._name)), settings.options())

    def next_job(self, outcome: Outcome) -> Job | None:
        if self._rig_changes is None or self._made or not isinstance(outcome, Done) or SESSION.cancelling:
            return None
        # Head and rig come in together, so that one undo step holds both and none can come between.
        self._made = outcome
        return Rig(outcome.folder, self._rig_changes)

    def outcome_of_run(self, outcome: Outcome) -> Outcome:
        if self._made is None:
            return outcome
        if isinstance(outcome, Done):
            self._rigged = True
            self._warnings += outcome.report.get("warnings", [])
        elif isinstance(outcome, Failed):
            self._warn_of_rig(outcome.message)
        return self._made  # with or without a rig, there is a head

    def receive(self, context: bpy.types.Context, folder: Path) -> str:
        import_head(context, folder, self._name)
        if not self._rigged:
            return "Head reconstructed"
        try:
            bring_rig_in(context, context.view_layer.objects.active, folder, self._name)
        except ImportFailed as error:
            self._warn_of_rig(error.message)
            return "Head reconstructed"
        return "Head reconstructed and made rig-ready"

    def _warn_of_rig(self, reason: str) -> None:
        self._warnings.append(f"{pgettext_rpt('The head came in without a rig.')} {pgettext_rpt(reason)}")


class HEADCAST_OT_cancel(bpy.types.Operator):
    """Give up the head or the model that is being made. Esc does the same"""

    bl_idname = "headcast.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return SESSION.running and not SESSION.cancelling

    def execute(self, context: bpy.types.Context) -> set[str]:
        SESSION.cancel()
        redraw_panels(context)
        return {"FINISHED"}


class HEADCAST_OT_load_photo(bpy.types.Operator):
    """Open a picture from disk as the photo to reconstruct"""

    bl_idname = "headcast.load_photo"
    bl_label = "Use as Headcast Photo"
    bl_options = {"REGISTER", "UNDO"}

    # Not remembered: an operator that comes with a path was given a dropped file.
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})  # what the file browser shows
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if self.filepath:
            return self.execute(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            image = bpy.data.images.load(self.filepath, check_existing=True)
        except RuntimeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.scene.headcast.image = image
        return {"FINISHED"}


class HEADCAST_FH_photo(bpy.types.FileHandler):
    """A picture dropped on the viewport becomes the photo."""

    bl_idname = "HEADCAST_FH_photo"
    bl_label = "Headcast photo"
    bl_import_operator = HEADCAST_OT_load_photo.bl_idname
    bl_file_extensions = PHOTO_SUFFIXES

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


def editor_image(context: bpy.types.Context) -> bpy.types.Image | None:
    """The picture shown in the first Image Editor of any window."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "IMAGE_EDITOR" and area.spaces.active.image:
                return area.spaces.active.image
    return None


class HEADCAST_OT_use_editor_image(bpy.types.Operator):
    """Take the picture shown in the Image Editor as the photo"""

    bl_idname = "headcast.use_editor_image"
    bl_label = "Use Image Editor's Picture"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if editor_image(context) is None:
            cls.poll_message_set("No Image Editor shows a picture")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.headcast.image = editor_image(context)
        return {"FINISHED"}


class HEADCAST_OT_open_folder(bpy.types.Operator):
    """Show the folder in the system's file browser"""

    bl_idname = "headcast.open_folder"
    bl_label = "Open Folder"

    folder: EnumProperty(
        items=[
            ("HEADS", "Heads", "Finished heads as GLB, with their reports"),
            ("MODELS", "Models", "Models you have added"),
        ]
    )

    def execute(self, _context: bpy.types.Context) -> set[str]:
        folder = heads_folder() if self.folder == "HEADS" else properties.models_folder()
        folder.mkdir(parents=True, exist_ok=True)
        bpy.ops.wm.path_open(filepath=str(folder))
        return {"FINISHED"}


CLASSES = (
    HEADCAST_OT_reconstruct,
    HEADCAST_OT_cancel,
    HEADCAST_OT_load_photo,
    HEADCAST_FH_photo,
    HEADCAST_OT_use_editor_image,
    HEADCAST_OT_open_folder,
)
