"""Headcast in the life of a Blender: workers that die, files that change under a job, other Blenders, updates."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.blender.conftest import PACKAGE, PATIENCE_S, part
from tests.blender.test_import_head import names
from tests.blender.test_reconstruct import ByHand, is_alive, photo  # noqa: F401  a fixture

pytestmark = pytest.mark.blender

ANSWER_S = 2.0  # from a worker's death to Blender's words
HEAD_S = 300.0  # for the real worker to start and make a small head on a loaded machine


def until_label(hand: ByHand, label: str) -> int:
    """Look after the job until its bar shows that label; the worker's process id."""
    session, end = part("session").SESSION, time.monotonic() + PATIENCE_S
    while session.progress.label != label:
        assert time.monotonic() < end, session.progress
        result = hand.event("TIMER")
        assert result == {"PASS_THROUGH"}, (label, session.progress, hand.reports)
        time.sleep(0.001)
    return session.worker_pid


def kill_and_wait(hand: ByHand, pid: int) -> float:
    """Kill the worker, and look after the job until it is over; seconds that took."""
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    assert hand.until_over() == {"CANCELLED"}
    return time.monotonic() - begun


def result_folders() -> set[str]:
    """What lies in the folder of heads, hidden or not."""
    folder = part("operators").heads_folder()
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_worker_killed_at_any_stage_is_told_at_once_and_the_next_click_works(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
) -> None:
    before, folders = names(blender), result_folders()
    for label in ("Loading the model", "Finding the face", "Shaping the surface", "Writing the files"):
        worker_that(f"wait at {label}")
        hand = ByHand(blender.context)
        hand.begin()
        assert kill_and_wait(hand, until_label(hand, label)) < ANSWER_S
        assert names(blender) == before and result_folders() == folders
        failure = part("session").SESSION.failure
        assert "stopped unexpectedly" in failure.message and failure.hint and failure.remedy == "retry"
        assert part("worker_job").timers._timer is None
    worker_that("done")
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}


def test_a_job_asked_while_one_runs_is_refused_in_words_and_the_first_goes_on(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
) -> None:
    worker_that("done")
    hand = ByHand(blender.context)
    hand.begin()
    for other in (blender.ops.headcast.reconstruct, blender.ops.headcast.doctor):
        with pytest.raises(RuntimeError, match="A head is being reconstructed"):
            other()
    assert hand.until_over() == {"FINISHED"}
    assert len([thing for thing in blender.data.objects if thing.name.startswith("Head")]) == 1


def test_two_jobs_of_one_photo_in_the_same_second_get_a_folder_each(blender: ModuleType, tmp_path: Path) -> None:
    operators = part("operators")
    wanted = tmp_path / "heads" / "astronaut 2026-01-02 03-04-05"
    places = [operators.claim(wanted) for _ in range(3)]
    assert [place.name.removeprefix(wanted.name) for place in places] == ["", " (2)", " (3)"]
    (places[1] / "head.glb").touch()
    (tmp_path / "heads" / f".{places[0].name}.abc.part").mkdir()
    for place in places:
        operators.give_back(place)
    assert [path.name for path in (tmp_path / "heads").iterdir()] == [places[1].name]  # a head is never given back


def test_a_folder_of_heads_that_cannot_be_written_is_told_before_anything_starts(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    worker_that("done")
    (tmp_path / "file").touch()
    monkeypatch.setattr(part("operators"), "heads_folder", lambda: tmp_path / "file")
    with pytest.raises(RuntimeError, match="folder of heads cannot be written"):
        blender.ops.headcast.reconstruct()
    assert part("session").SESSION.worker_pid is None and not part("session").SESSION.running


def test_saving_while_a_job_runs_saves_the_scene_without_it(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    tmp_path: Path,
) -> None:
    worker_that("wait for a file")
    before = set(blender.data.objects.keys())
    hand = ByHand(blender.context)
    hand.begin()
    until_label(hand, "Shaping the surface")
    assert blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend")) == {"FINISHED"}
    (tmp_path / "go on").touch()
    assert hand.until_over() == {"FINISHED"}
    assert "Head" in blender.data.objects
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "saved.blend"))
    assert set(blender.data.objects.keys()) == before and not part("session").SESSION.running


def test_a_file_loaded_while_a_job_runs_gets_nothing_of_it(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "other.blend")
    blender.ops.wm.save_as_mainfile(filepath=path)
    blender.ops.wm.open_mainfile(filepath=path)  # without what nobody uses
    before, folders = names(blender), result_folders()
    worker_that("wait")
    hand = ByHand(blender.context)
    hand.begin()
    pid = until_label(hand, "Shaping the surface")
    hand.cancel(blender.context)  # what Blender calls on modal operators when another file is loaded
    blender.ops.wm.open_mainfile(filepath=path)
    assert not is_alive(pid) and names(blender) == before and result_folders() == folders
    worker_that("done")
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}


def test_undo_while_a_job_runs_neither_ends_nor_harms_it(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    tmp_path: Path,
) -> None:
    blender.ops.ed.undo_push(message="before")
    blender.ops.mesh.primitive_cube_add()
    blender.ops.ed.undo_push(message="a cube")
    worker_that("wait for a file")
    hand = ByHand(blender.context)
    hand.begin()
    until_label(hand, "Shaping the surface")
    blender.ops.ed.undo()
    (tmp_path / "go on").touch()
    assert hand.until_over() == {"FINISHED"}
    assert "Head" in blender.data.objects and "Cube.001" not in blender.data.objects


def test_a_worker_killed_at_its_rig_leaves_the_head_with_a_warning(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
) -> None:
    worker_that("wait for rig")
    blender.context.scene.headcast.make_rig = True
    hand = ByHand(blender.context)
    hand.begin()
    os.kill(until_label(hand, "Fitting the face's shape"), signal.SIGKILL)
    begun = time.monotonic()
    assert hand.until_over() == {"FINISHED"} and time.monotonic() - begun < ANSWER_S
    assert "Head" in blender.data.objects
    assert "stopped unexpectedly" in part("session").SESSION.warnings[-1]


def stored(settings: Any) -> Any:
    """What the file holds of the settings, by their names: Blender 5 keeps it apart from custom properties."""
    apart = getattr(settings, "bl_system_properties_get", None)
    return apart(do_create=True) if apart else settings


@pytest.mark.parametrize("how", ["loaded", "open before"])
def test_settings_of_another_version_are_taken_over_and_what_is_unknown_becomes_the_default(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    tmp_path: Path,
    capfd: Any,
    how: str,
) -> None:
    settings = blender.context.scene.headcast
    settings.seed, settings.symmetry = 7, "MIRROR"
    # A device and a level that later versions may have, a model without its name, a former name and limit, a word for a
    # number, and what nobody knows.
    strange = {"device": 9, "refinement": 7, "model": 12345, "mirror": False, "faces": 3, "neck": "LOOP", "of_2031": 1}
    for name, value in strange.items():
        stored(settings)[name] = value
    if how == "loaded":
        blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "other.blend"))
        blender.ops.wm.open_mainfile(filepath=str(tmp_path / "other.blend"))
    else:
        worker_that("done")
        assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    settings = blender.context.scene.headcast
    assert (settings.device, settings.refinement, settings.neck) == ("AUTO", "FAST", "CLOSED")
    assert settings.model == "starter" and settings.missing_model() is None
    assert settings.faces == 1000 and not settings.mirror_face
    assert (settings.seed, settings.symmetry) == (7, "MIRROR")
    assert settings.image.name == "Été à la plage 写真.png"
    printed = capfd.readouterr().out
    assert "choice of Device is not known" in printed and "choice of Symmetry" not in printed


@pytest.mark.thorough
def test_the_real_worker_killed_at_each_stage_is_told_at_once_and_the_next_click_works(
    blender: ModuleType, astronaut: Path, tmp_path: Path
) -> None:
    settings = blender.context.scene.headcast
    settings.image = blender.data.images.load(str(astronaut))
    settings.device = "CPU"
    settings.grid, settings.faces, settings.texture_size = 96, 4000, 512

    def labels_until(death: str) -> list[str]:
        """Have the next worker die there; what it has said by the end of the job."""
        notes, python = tmp_path / f"notes {death}", tmp_path / f"python {death}"
        command = shlex.join([sys.executable, str(Path(__file__).with_name("mortal_worker.py")), death, str(notes)])
        python.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        blender.context.preferences.addons[PACKAGE].preferences.worker_python = str(python)
        hand = ByHand(blender.context)
        hand.begin()
        assert hand.until_over(HEAD_S) == ({"CANCELLED"} if death else {"FINISHED"}), hand.reports
        return notes.read_text(encoding="utf-8").splitlines()

    stages = list(dict.fromkeys(labels_until("")))
    assert len(stages) > 10 and stages[0] == "Starting the engine" and stages[-1] == "Writing the files"
    made, folders = names(blender), result_folders()
    for stage in stages:
        killed_at = float(labels_until(stage)[-1])
        seconds = time.time() - killed_at
        print(f"{stage}: {seconds:.2f} s")
        assert seconds < ANSWER_S, stage
        assert names(blender) == made and result_folders() == folders, stage
        failure = part("session").SESSION.failure
        assert "stopped unexpectedly" in failure.message and failure.hint, stage
    labels_until("")
    assert len(names(blender)["objects"]) == len(made["objects"]) + 2
