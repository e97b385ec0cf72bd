"""The preferences' buttons for models: choose files, add the model in them, remove one. The worker does the work."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import bpy
from bpy.app.translations import pgettext_rpt
from bpy.props import CollectionProperty, StringProperty

from ..inference.messages import WORKER_DIED, Cancelled, Convert, Converted, Failed, Outcome
from . import model_file, properties
from .model_file import ModelUnusable
from .preferences import worker_place
from .session import SESSION
from .user_folder import UNFINISHED_SUFFIX, UNWRITABLE_HINT, remove_forgotten
from .worker_job import WorkerJob, redraw_panels

FILE_PATTERNS = "*.safetensors;*.pkl;*.pt;*.pth;*.npy"
PASSING_PREFIX = ".adding-"  # of a folder in the models folder, where nothing hidden is a model
DIED_HINT = "Add the model again; the process restarts by itself. Close other programs if memory is short."


class PassingFolder:
    """Where the model being added is written: beside its place, so that it can be renamed, and gone when the job is.

    Kept here and not in the operator, so that it can be removed when the add-on goes away; however the worker ends.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def make(self, models: Path) -> Path:
        """A new folder in the models folder. Raises OSError."""
        self.forget()
        models.mkdir(parents=True, exist_ok=True)
        remove_forgotten(models)
        self._folder = tempfile.TemporaryDirectory(prefix=PASSING_PREFIX, suffix=UNFINISHED_SUFFIX, dir=models)
        return Path(self._folder.name)

    def forget(self) -> None:
        """Remove the folder with all that is in it."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None


passing = PassingFolder()


def failed(error: ModelUnusable | OSError) -> Failed:
    """An error of this process in the words of the worker's."""
    if isinstance(error, ModelUnusable):
        return Failed(error.message, error.hint)
    return Failed(
        f"The models folder cannot be written: {error.strerror or error}.",
        UNWRITABLE_HINT,
    )


class HEADCAST_OT_choose_model_files(bpy.types.Operator):
    """Choose a finished model, or a generator's and encoders' published files together, and add the model in them"""

    bl_idname = "headcast.choose_model_files"
    bl_label = "Add Model"

    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})
    filter_glob: StringProperty(default=FILE_PATTERNS, options={"HIDDEN"})
    model_name: StringProperty(
        name="Name",
        description="What the model is called in Headcast. Empty: as its file",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return can_change_models(cls)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Begin: an operator of its own, because one that the file browser runs gets no further events."""
        how = "EXEC_DEFAULT" if bpy.app.background else "INVOKE_DEFAULT"
        chosen = [{"name": file.name} for file in self.files]
        try:
            begun = bpy.ops.headcast.add_model(how, directory=self.directory, files=chosen, model_name=self.model_name)
        except RuntimeError as error:  # what Blender makes of an error that the other operator reports
            self.report({"ERROR"}, str(error).removeprefix("Error: ").strip())
            return {"CANCELLED"}
        return {"CANCELLED"} if begun == {"CANCELLED"} else {"FINISHED"}


class HEADCAST_OT_add_model(WorkerJob, bpy.types.Operator):
    """Check files, convert published ones, and add the model in them to the models folder"""

    bl_idname = "headcast.add_model"
    bl_label = "Add Model from Files"
    bl_options = {"INTERNAL"}

    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"SKIP_SAVE"})
    model_name: StringProperty(options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return can_change_models(cls)

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends the operator: the half-written model goes with it."""
        WorkerJob.cancel(self, context)
        passing.forget()

    def _submit(self, _context: bpy.types.Context) -> bool:
        """Send the job to the worker; False if the files are no model, which is told."""
        sources = [Path(self.directory) / file.name for file in self.files if file.name]
        try:
            self._place = model_file.place_for(self.model_name, sources, properties.models_folder())
            if len(sources) == 1 and sources[0].suffix.lower() == properties.MODEL_SUFFIX:
                model_file.read_model_file(sources[0])
            fresh = passing.make(self._place.parent) / self._place.name
        except (ModelUnusable, OSError) as error:
            self._fail(failed(error))
            return False
        SESSION.submit(worker_place(), Convert(tuple(map(str, sources)), str(fresh)))
        return True

    def _finish(self, context: bpy.types.Context, outcome: Outcome) -> set[str]:
        """Bring the model to its place, or say why there is none."""
        if isinstance(outcome, Converted):
            try:
                model_file.read_model_file(Path(outcome.file))
                model_file.publish(Path(outcome.file), outcome.sha256, self._place)
            except (ModelUnusable, OSError) as error:
                outcome = failed(error)
        passing.forget()
        redraw_panels(context)
        if isinstance(outcome, Failed):
            self._fail(replace(outcome, hint=DIED_HINT) if outcome.message == WORKER_DIED.message else outcome)
            return {"CANCELLED"}
        SESSION.finish(kind=Convert)
        if isinstance(outcome, Cancelled):
            self.report({"INFO"}, "Adding the model was cancelled")
            return {"CANCELLED"}
        self.report({"INFO"}, pgettext_rpt("Model added: {name}").format(name=self._place.stem))
        return {"FINISHED"}

    def _fail(self, failure: Failed) -> None:
        SESSION.finish(failure, kind=Convert)
        if failure.log:
            print(failure.log)  # in the system console, for a bug report
        # Last: in background mode Blender raises this report as an exception when the operator returns.
        self.report({"ERROR"}, f"{pgettext_rpt(failure.message)}\n{pgettext_rpt(failure.hint)}")


class HEADCAST_OT_remove_model(bpy.types.Operator):
    """Delete this model's file from the models folder. Heads made with it stay"""

    bl_idname = "headcast.remove_model"
    bl_label = "Remove Model"
    bl_options = {"INTERNAL"}

    file: StringProperty(options={"SKIP_SAVE"})  # its name in the models folder: nothing outside can be named

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return can_change_models(cls)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=pgettext_rpt("Remove the model {name}?").format(name=Path(self.file).stem),
            message="Its file is deleted. To have it back, add it again.",
            confirm_text="Remove",
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        places = {path.name: path for path in properties.user_models()}
        if self.file not in places:
            self.report({"ERROR"}, pgettext_rpt("No added model has the file {name}").format(name=self.file))
            return {"CANCELLED"}
        try:
            model_file.remove(places[self.file])
        except OSError as error:
            words = pgettext_rpt("The model cannot be removed: {reason}.\nClose what uses it and try again")
            self.report({"ERROR"}, words.format(reason=error.strerror or error))
            return {"CANCELLED"}
        redraw_panels(context)
        return {"FINISHED"}


def can_change_models(operator: type[bpy.types.Operator]) -> bool:
    """Poll of the operators here: no job runs, which may be reading or writing a model."""
    if SESSION.running:
        operator.poll_message_set(SESSION.occupation)
    return not SESSION.running


CLASSES = (HEADCAST_OT_choose_model_files, HEADCAST_OT_add_model, HEADCAST_OT_remove_model)
