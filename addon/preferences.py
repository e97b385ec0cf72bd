"""What belongs to the user and not to a file: consent, the Python that does the work, and the models."""

from __future__ import annotations

import sys
from pathlib import Path

import bpy
from bpy.app.translations import pgettext_iface, pgettext_rpt
from bpy.props import BoolProperty, StringProperty

from ..inference.messages import Convert
from . import EXTENSION, properties
from .doctor import draw_examination, last_examination
from .engine import PYTHON_MIN, EngineCheck, check_engine, pip_command
from .gpu_engine import (
    Engine,
    LockedFile,
    anything_left,
    engine_home,
    engine_in_use,
    has_note,
    load_lock,
    nvidia_cards,
    this_platform,
    to_fetch,
)
from .gpu_install import INSTALL
from .model_file import ModelUnusable, inspect_model, noted_sha256
from .session import SESSION, WorkerPlace
from .widgets import draw_progress, draw_wrapped

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "inference" / "weights"
REUSE_ICONS = {True: "CHECKMARK", False: "ERROR", None: "QUESTION"}
SHOWN_DIGITS = 16  # of a checksum: enough to tell models apart by eye

GPU_ENGINE_OUTDATED = "The GPU engine is of another version of Headcast and is not used. Install it again"

_last_check: tuple[tuple[str, ...], EngineCheck] | None = None  # the Python that was asked, and what it answered


def preferences() -> HEADCAST_AP_preferences:
    """The add-on's preferences."""
    return bpy.context.preferences.addons[EXTENSION].preferences


def worker_place(with_gpu_engine: bool = True) -> WorkerPlace:
    """The worker's Python: the chosen one, or Blender's own with the packages of extensions.

    With a GPU engine in use, that goes before those packages, whose torch is the CPU's.
    """
    root = Path(__file__).resolve().parent.parent
    chosen = preferences().worker_python
    if chosen:
        # Isolated like Blender's own, so that neither the user's site folder nor PYTHONPATH mixes in.
        return WorkerPlace((bpy.path.abspath(chosen), "-I"), root, ())
    extensions = bpy.utils.user_resource("EXTENSIONS")
    wheels = tuple(path for path in sys.path if extensions and path.startswith(extensions) and "site-packages" in path)
    engine = gpu_engine() if with_gpu_engine else None
    paths = (str(engine.folder), *wheels) if engine else wheels
    return WorkerPlace((sys.executable, *bpy.app.python_args), root, paths)


def gpu_files() -> tuple[LockedFile, ...]:
    """What the GPU engine for this Blender is made of; () where there is none."""
    return load_lock(this_platform(), _python())


def gpu_home() -> Path:
    """Where the GPU engine for this Blender lies."""
    return engine_home(this_platform(), _python())


def gpu_engine() -> Engine | None:
    """The GPU engine that is in use, if any."""
    return engine_in_use(gpu_home(), gpu_files())


def gpu_engine_chosen() -> bool:
    """The worker runs on the GPU engine."""
    return not preferences().worker_python and gpu_engine() is not None


def gpu_engine_outdated() -> bool:
    """There is a GPU engine, and it is not used because it was made for another version of Headcast, or spoilt."""
    return not preferences().worker_python and has_note(gpu_home()) and gpu_engine() is None


def no_gpu_engine() -> str:
    """Why none can be installed now, in words for a tooltip; "" if it can."""
    if this_platform().startswith("macos"):
        return "Nothing is to be installed: the graphics of Apple's chips are used already"
    if preferences().worker_python:
        return "The chosen Python brings its own torch: Check Installation tells whether that uses the graphics card"
    if not gpu_files():
        return "There is none for this system and Python. Choose a Python that has torch for CUDA instead"
    return "The GPU engine is being installed" if INSTALL.running else ""


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


class HEADCAST_AP_preferences(bpy.types.AddonPreferences):
    """Shown in Blender's preferences under the extension."""

    bl_idname = EXTENSION

    consent: BoolProperty(
        name="I may use these likenesses",
        description=(
            "The people in the photos I use have agreed to be reconstructed, or I have the right to do so. "
            "Results are marked as synthetic"
        ),
        default=False,
    )
    worker_python: StringProperty(
        name="Python",
        description="Python that computes the heads, in a process of its own. Empty: the one that comes with Blender",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.prop(self, "consent")

        box = layout.box()
        box.label(text="Engine", icon="SCRIPT")
        box.prop(self, "worker_python", text="Python", placeholder=sys.executable)
        row = box.row()
        row.operator("headcast.check_engine", icon="CHECKMARK")
        place = worker_place()
        if _last_check and _last_check[0] == place.python_command:
            _draw_check(box, place, _last_check[1])
        else:
            row.label(text="Not checked yet")
        if SESSION.examining:
            draw_progress(box)
        else:
            box.operator("headcast.doctor", icon="VIEWZOOM")
            if found := last_examination(place):
                draw_examination(context, box.box(), found)

        _draw_gpu_engine(context, layout.box())

        box = layout.box()
        box.label(text="Models", icon="MESH_MONKEY")
        _draw_model(context, box, BUNDLED_WEIGHTS / (properties.DEFAULTS.model + properties.MODEL_SUFFIX), bundled=True)
        for path in properties.user_models():
            _draw_model(context, box, path, bundled=False)
        if SESSION.converting:
            draw_progress(box)
        else:
            box.operator("headcast.choose_model_files", icon="ADD")
        if SESSION.failure and SESSION.kind is Convert:
            draw_wrapped(context, box, SESSION.failure.message, "ERROR")
            draw_wrapped(context, box, SESSION.failure.hint, "INFO")
        row = box.row()
        row.operator("headcast.open_folder", text="Open Models Folder", icon="FILE_FOLDER").folder = "MODELS"
        row.operator("headcast.open_folder", text="Open Folder of Heads", icon="FILE_FOLDER").folder = "HEADS"


def _draw_gpu_engine(context: bpy.types.Context, box: bpy.types.UILayout) -> None:
    """What there is, what could be had, and the buttons; one sentence where nothing is to be done."""
    box.label(text="GPU Engine", icon="PLUGIN")
    if INSTALL.running:
        label = "Cancelling" if INSTALL.cancelling else INSTALL.progress.label
        box.progress(factor=INSTALL.progress.fraction, type="BAR", text=pgettext_iface(label), translate=False)
        box.operator("headcast.cancel_gpu_engine", icon="CANCEL")
        return
    if reason := no_gpu_engine():
        draw_wrapped(context, box, reason, "INFO")
    elif engine := gpu_engine():
        text = pgettext_iface("In use: {card} with {memory} GB, torch {version}")
        trial = engine.trial
        text = text.format(card=trial.device, memory=f"{trial.memory / 1e9:.1f}", version=trial.torch)
        box.label(text=text, icon="CHECKMARK", translate=False)
    else:
        if cards := nvidia_cards():
            box.label(text=pgettext_iface("Found: {cards}").format(cards=", ".join(cards)), translate=False)
        else:
            draw_wrapped(context, box, "No NVIDIA graphics card with a driver was found on this computer", "INFO")
        if gpu_engine_outdated():
            draw_wrapped(context, box, GPU_ENGINE_OUTDATED, "ERROR")
        text = pgettext_iface("Not installed: {size} GB to fetch")
        size = to_fetch(gpu_home(), gpu_files()) / 1e9
        box.label(text=text.format(size=f"{size:.1f}"), translate=False)
        row = box.row()
        row.operator("headcast.install_gpu_engine", icon="IMPORT")
        row.operator("headcast.install_gpu_engine_from_folder", icon="FILE_FOLDER")
    if trouble := INSTALL.trouble:
        draw_wrapped(context, box, pgettext_rpt(trouble.message).format(**trouble.gaps), "ERROR")
        draw_wrapped(context, box, pgettext_rpt(trouble.hint).format(**trouble.gaps), "INFO")
    if anything_left(gpu_home()):
        box.operator("headcast.remove_gpu_engine", icon="TRASH")


def _draw_model(context: bpy.types.Context, layout: bpy.types.UILayout, path: Path, bundled: bool) -> None:
    """Name and size, whether heads made with it may be sold, its licence, and the button that removes it."""
    box = layout.box()
    row = box.row()
    row.label(text="Starter, bundled" if bundled else path.stem, translate=bundled)
    seen = inspect_model(path)
    if not isinstance(seen, ModelUnusable):
        row.label(text=f"{seen.size / 1e6:,.1f} MB", translate=False)
    if not bundled:
        row.operator("headcast.remove_model", text="", icon="TRASH").file = path.name
    if isinstance(seen, ModelUnusable):
        draw_wrapped(context, box, seen.message, "ERROR")
        draw_wrapped(context, box, seen.hint, "INFO")
        return
    if not seen.has_encoders:
        box.label(text="A generator without encoders: every head takes minutes, or half an hour", icon="INFO")
    may_sell = True if bundled else seen.commercial_use  # nothing else is ever bundled, see the README
    box.label(text=properties.REUSABLE[may_sell], icon=REUSE_ICONS[may_sell])
    draw_wrapped(context, box, seen.licence or "Its file does not say under which licence it is", "BLANK1")
    if digits := noted_sha256(path)[:SHOWN_DIGITS]:
        box.label(text=f"SHA-256 {digits}", icon="BLANK1", translate=False)


def _draw_check(layout: bpy.types.UILayout, place: WorkerPlace, check: EngineCheck) -> None:
    """What the last check found, and what to do about it."""
    version = ".".join(map(str, check.version))
    if not check.version:
        layout.label(text="This Python could not be started", icon="ERROR")
        layout.label(text="Choose the program file of a Python, or leave the field empty")
    elif check.version[:2] < PYTHON_MIN:
        needed = ".".join(map(str, PYTHON_MIN))
        text = pgettext_iface("Python {version} is too old: choose {needed} or newer")
        layout.label(text=text.format(version=version, needed=needed), icon="ERROR", translate=False)
    elif check.missing:
        text = pgettext_iface("Python {version} lacks: {packages}")
        layout.label(
            text=text.format(version=version, packages=", ".join(check.missing)), icon="ERROR", translate=False
        )
        layout.label(text="Run this in a terminal, or choose a Python that has them:")
        row = layout.row()
        row.label(text=pip_command(place.python_command[0], check.missing), translate=False)
        row.operator("headcast.copy_pip_command", text="", icon="COPYDOWN")
    else:
        text = pgettext_iface("Ready: Python {version} has every package")
        layout.label(text=text.format(version=version), icon="CHECKMARK", translate=False)


class HEADCAST_OT_check_engine(bpy.types.Operator):
    """Look whether the chosen Python has what Headcast needs. Nothing is installed"""

    bl_idname = "headcast.check_engine"
    bl_label = "Check Python"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        global _last_check
        place = worker_place()
        check = check_engine(place.python_command, place.extra_paths)
        _last_check = (place.python_command, check)
        return {"FINISHED"}


class HEADCAST_OT_copy_pip_command(bpy.types.Operator):
    """Copy the command to the clipboard, to be run in a terminal"""

    bl_idname = "headcast.copy_pip_command"
    bl_label = "Copy Command"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return _last_check is not None and bool(_last_check[1].missing)

    def execute(self, context: bpy.types.Context) -> set[str]:
        assert _last_check  # poll has looked
        command, check = _last_check
        context.window_manager.clipboard = pip_command(command[0], check.missing)
        return {"FINISHED"}


CLASSES = (HEADCAST_OT_check_engine, HEADCAST_OT_copy_pip_command, HEADCAST_AP_preferences)
