"""What the doctor found: the engine's own findings and what Blender's side adds, as lines and as a text to send along.

The text names nobody: neither the user nor the computer, and no folder in the user's home.
"""

from __future__ import annotations

import contextlib
import getpass
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.app.translations import pgettext_rpt

from ..inference.messages import WORKER_DIED, Examined, Failed, Finding, report_of
from .engine import PYTHON_MIN, EngineCheck, check_engine
from .import_head import headcast_version
from .session import WorkerPlace
from .widgets import draw_wrapped

FEWEST_LETTERS = 2  # of a name that is taken out of the text: one letter would be taken out of every word's end
DIED_HINT = "Check again; if it happens again, report it with the last lines of Blender's system console."
TOO_OLD_HINT = "Choose another Python in the preferences, or leave the field empty."


@dataclass(frozen=True)
class Examination:
    """What was found, and for which place of the worker."""

    place: WorkerPlace
    findings: tuple[Finding, ...]

    @property
    def troubles(self) -> int:
        """How many of the findings need looking after."""
        return sum(bool(finding.trouble) for finding in self.findings)

    @property
    def report(self) -> str:
        """All of it as lines of English text, whatever the interface's language, without personal data."""
        return without_names(report_of(self.findings))


_last: Examination | None = None


def remember(examination: Examination) -> None:
    """Keep what was found until it is looked for again; not beyond this run of Blender."""
    global _last
    _last = examination


def last_examination(place: WorkerPlace) -> Examination | None:
    """What was found last, unless another Python has been chosen since."""
    return _last if _last and _last.place == place else None


def examination_of(answer: Examined | Failed, place: WorkerPlace, chosen: bool) -> Examination:
    """The worker's answer with what Blender's side knows; of a worker that gave none, why. Blocks a moment for that.

    chosen: whether the user has named the worker's Python.
    """
    own = (blender(), engine_kind(place, chosen))
    if isinstance(answer, Examined):
        return Examination(place, (*own, *answer.findings))
    system = Finding("System", f"{platform.system()} {platform.release()}, {platform.machine()}")
    silent = why_silent(answer, check_engine(place.python_command, place.extra_paths))
    return Examination(place, (*own, Finding("Headcast", headcast_version()), system, silent))


def blender() -> Finding:
    """This Blender's version and its own Python's."""
    gaps = {"version": bpy.app.version_string, "python": platform.python_version()}
    if bpy.app.background:
        return Finding("Blender", "{version}, Python {python}, without a window", gaps=gaps)
    return Finding("Blender", "{version}, Python {python}", gaps=gaps)


def engine_kind(place: WorkerPlace, chosen: bool) -> Finding:
    """Where the worker's Python comes from; not its path."""
    if chosen:
        return Finding("Engine", "on a Python chosen in the preferences")
    if place.extra_paths:
        return Finding("Engine", "on Blender's own Python, with the packages of extensions")
    return Finding("Engine", "on Blender's own Python, with no packages of extensions")


def why_silent(failure: Failed, check: EngineCheck) -> Finding:
    """Why the worker gave no report, by what its Python says of itself."""
    if not check.version:
        return Finding("Engine's Python", "does not start", failure.message, failure.hint)
    version = ".".join(map(str, check.version))
    if check.version[:2] < PYTHON_MIN:
        needed = ".".join(map(str, PYTHON_MIN))
        trouble = "Too old: {needed} or newer is needed."
        return Finding("Engine's Python", version, trouble, TOO_OLD_HINT, gaps={"needed": needed})
    hint = DIED_HINT if failure.message == WORKER_DIED.message else failure.hint
    return Finding("Engine's Python", version, failure.message, hint)


def without_names(text: str) -> str:
    """The text with the user's home folder, and the user's and the computer's names, blotted out."""
    home = Path.home()
    for folder in {str(home), home.as_posix()} - {home.root}:
        text = text.replace(folder, "~")
    node = platform.node()
    names = {node: "(computer)", node.partition(".")[0]: "(computer)", home.name: "(user)"}
    with contextlib.suppress(OSError, KeyError):  # nobody's name is known here; KeyError before Python 3.13
        names[getpass.getuser()] = "(user)"
    for name in sorted(names, key=len, reverse=True):
        if len(name) >= FEWEST_LETTERS:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text, flags=re.IGNORECASE)
    return text


def draw_examination(context: bpy.types.Context, layout: bpy.types.UILayout, examination: Examination) -> None:
    """The findings line by line, with what to do about troubles, and the button that copies them."""
    for found in examination.findings:
        finding = found.in_words(pgettext_rpt)
        icon = "CHECKMARK"
        if finding.trouble:
            icon = "CANCEL" if finding.severe else "ERROR"
        draw_wrapped(context, layout, f"{finding.topic}: {finding.text}", icon)
        if finding.trouble:
            draw_wrapped(context, layout, finding.trouble, "BLANK1")
            draw_wrapped(context, layout, finding.hint, "BLANK1")
    layout.operator("headcast.copy_report", icon="COPYDOWN")
