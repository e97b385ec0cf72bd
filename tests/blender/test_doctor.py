"""The check of the installation in Blender's preferences: what is found is shown, and told without naming anybody."""

from __future__ import annotations

import getpass
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.blender.conftest import PACKAGE, PATIENCE_S, OperatorByHand, part
from tests.blender.test_models import drawn_preferences

pytestmark = pytest.mark.blender


@pytest.fixture(autouse=True)
def unexamined(installed: ModuleType) -> Iterator[None]:
    """Nothing is remembered of an earlier check."""
    part("doctor")._last = None
    yield
    part("doctor")._last = None


def found(blender: ModuleType) -> Any:
    return part("doctor").last_examination(part("preferences").worker_place())


def choose_python(blender: ModuleType, python: Path) -> None:
    blender.context.preferences.addons[PACKAGE].preferences.worker_python = str(python)


def fake_python(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_the_real_engine_is_examined_and_the_report_printed(blender: ModuleType, capfd: Any) -> None:
    blender.context.scene.headcast.device = "CPU"
    assert blender.ops.headcast.doctor() == {"FINISHED"}
    printed = capfd.readouterr().out
    report = found(blender).report
    assert report in printed and "PROBLEM" not in report
    assert blender.app.version_string in report and "Blender's own Python" in report
    assert "Headcast" in report and "torch" in report and "a head of" in report
    for private in (str(Path.home()), platform.node(), str(Path(__file__).parent)):
        assert private not in report


def test_findings_are_shown_with_icons_by_how_bad_they_are(
    blender: ModuleType, worker_that: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_that("done")
    assert "headcast.copy_report" not in drawn_preferences(blender).buttons
    assert blender.ops.headcast.doctor() == {"FINISHED"}
    shown = drawn_preferences(blender)
    assert "headcast.doctor" in shown.buttons and "headcast.copy_report" in shown.buttons
    for line in ("Asked for: starter on auto", "Little memory is free.", "Close programs.", "Copy it again."):
        assert line in shown.written
    icons: dict[str, str] = {}
    monkeypatch.setattr(part("doctor"), "draw_wrapped", lambda _context, _to, text, icon: icons.update({text: icon}))
    part("doctor").draw_examination(blender.context, drawn_preferences(blender), found(blender))
    assert icons["Asked for: starter on auto"] == "CHECKMARK" and icons["Model: failed"] == "CANCEL"
    assert icons["Memory: 8.0 GB, 1.0 GB free"] == "ERROR"


def test_findings_are_shown_in_the_interfaces_language_and_copied_in_english(
    blender: ModuleType, worker_that: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_that("done")
    blender.ops.headcast.doctor()
    # The bpy module has no languages to choose from, so its look-up is ours.
    german = part("translations").catalogues()["de"]
    monkeypatch.setattr(part("doctor"), "pgettext_rpt", lambda text: german.get(("*", text), text))
    shown, report = drawn_preferences(blender).written, found(blender).report
    for line in ("Speicher: 8.0 GB, 1.0 GB frei", "Es ist wenig Speicher frei.", "Modell: fehlgeschlagen"):
        assert line in shown
    # A path with braces is no text with gaps; what has no translation stays as it is.
    assert any(line.startswith("There is no file ") and "{mine}" in line for line in shown)
    assert "8.0 GB, 1.0 GB free" in report and "WARNING: Little memory is free." in report


def test_the_copied_report_names_nobody(blender: ModuleType, worker_that: Callable[[str], None]) -> None:
    with pytest.raises(RuntimeError, match="Check the installation first"):
        blender.ops.headcast.copy_report()
    worker_that("done")
    blender.ops.headcast.doctor()
    assert str(Path.home()) in str(found(blender).findings)  # of the model's path
    manager = SimpleNamespace(clipboard="")  # Blender has none without a window
    copy = part("doctor_operators").HEADCAST_OT_copy_report.execute
    assert copy(None, SimpleNamespace(window_manager=manager)) == {"FINISHED"}
    text = manager.clipboard
    assert "There is no file ~" in text and "my.safetensors" in text and "PROBLEM" in text and "WARNING" in text
    python = Path(part("preferences").worker_place().python_command[0])
    assert str(Path.home()) not in text and str(python.parent) not in text


def test_names_of_user_and_computer_are_blotted_out_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = part("doctor")
    monkeypatch.setattr(getpass, "getuser", lambda: "zoe")
    monkeypatch.setattr(platform, "node", lambda: "zoe-pc.example.org")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/zoe.k"))
    text = "/home/zoe.k/m.safetensors by Zoe on zoe-pc and ZOE-PC.example.org; zoetrope; D:\\zoe\\m"
    assert doctor.without_names(text) == (
        "~/m.safetensors by (user) on (computer) and (computer); zoetrope; D:\\(user)\\m"
    )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "could not be started"),
        ("echo '[[3, 9, 2], []]'", "Too old: 3.11 or newer is needed."),
        ("case \"$2\" in -c) echo '[[3, 11, 4], []]';; *) exit 3;; esac", "stopped unexpectedly"),
    ],
    ids=["no Python there", "old Python", "dies at once"],
)
def test_an_engine_that_does_not_start_is_a_finding_with_what_to_do(
    blender: ModuleType, tmp_path: Path, capfd: Any, script: str | None, words: str
) -> None:
    choose_python(blender, fake_python(tmp_path / "python", script) if script else tmp_path / "none")
    assert blender.ops.headcast.doctor() == {"FINISHED"}
    examination = found(blender)
    (trouble,) = (finding.in_words() for finding in examination.findings if finding.trouble)
    assert words in trouble.trouble and trouble.hint and "Reconstruct Head" not in trouble.hint
    report = examination.report
    assert report in capfd.readouterr().out
    assert blender.app.version_string in report and platform.system() in report
    assert part("import_head").headcast_version() in report and "chosen in the preferences" in report
    assert str(tmp_path) not in report
    assert any(words in line for line in drawn_preferences(blender).written)
    assert not part("session").SESSION.running


def test_the_packages_that_a_python_lacks_are_named(blender: ModuleType, tmp_path: Path) -> None:
    # `python -I -S script ...`: without the folder of packages.
    choose_python(blender, fake_python(tmp_path / "python", f'shift; exec "{sys.executable}" -I -S "$@"'))
    assert blender.ops.headcast.doctor() == {"FINISHED"}
    report = found(blender).report
    assert "Package torch" in report and "The engine cannot start without it." in report


def test_another_python_makes_the_findings_out_of_date(
    blender: ModuleType, worker_that: Callable[[str], None], tmp_path: Path
) -> None:
    worker_that("done")
    blender.ops.headcast.doctor()
    choose_python(blender, tmp_path / "another")
    assert found(blender) is None and "headcast.copy_report" not in drawn_preferences(blender).buttons


def test_it_shows_progress_keeps_other_jobs_waiting_and_can_be_cancelled(
    blender: ModuleType, worker_that: Callable[[str], None]
) -> None:
    worker_that("wait")
    hand = OperatorByHand(part("doctor_operators").HEADCAST_OT_doctor, blender.context)
    hand.begin()
    end = time.monotonic() + PATIENCE_S
    while part("session").SESSION.progress.fraction < 0.5:
        assert time.monotonic() < end and hand.event("TIMER") == {"PASS_THROUGH"}
        time.sleep(0.01)
    shown = drawn_preferences(blender)
    assert "Testing the engine 50%" in shown.written and "headcast.doctor" not in shown.buttons
    for other in (blender.ops.headcast.reconstruct, blender.ops.headcast.doctor):
        with pytest.raises(RuntimeError, match="The installation is being checked"):
            other()
    assert hand.event("ESC") == {"RUNNING_MODAL"}
    assert hand.until_over() == {"CANCELLED"}
    assert hand.reports == [("INFO", "The check was cancelled")] and found(blender) is None
    assert part("worker_job").timers._timer is None and not part("session").SESSION.running
