from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.blender.conftest import PACKAGE, PATIENCE_S, OperatorByHand, part
from tests.blender.test_import_head import names

pytestmark = pytest.mark.blender


@pytest.fixture
def photo(blender: ModuleType, tmp_path: Path) -> Any:
    """A picture on disk, chosen as the photo; its path has spaces and letters beyond ASCII."""
    path = tmp_path / "Été à la plage 写真.png"
    Image.fromarray(np.full((8, 6, 3), 90, np.uint8)).save(path)
    image = blender.data.images.load(str(path))
    blender.context.scene.headcast.image = image
    return image


class ByHand(OperatorByHand):
    """The button's operator, driven without a window."""

    def __init__(self, context: Any) -> None:
        super().__init__(part("operators").HEADCAST_OT_reconstruct, context)


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state[:1] not in ("", "Z")  # a zombie is dead and waits to be noticed


def test_button_is_grey_and_says_why_until_consent_and_photo_are_there(blender: ModuleType, tmp_path: Path) -> None:
    preferences = blender.context.preferences.addons[PACKAGE].preferences
    preferences.consent = False
    with pytest.raises(RuntimeError, match="likeness"):
        blender.ops.headcast.reconstruct()
    preferences.consent = True
    with pytest.raises(RuntimeError, match="Choose a photo"):
        blender.ops.headcast.reconstruct()
    assert not blender.ops.headcast.cancel.poll()


def test_background_run_blocks_and_brings_the_head_in(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    collection = blender.data.collections["Headcast Été à la plage 写真"]
    assert {thing.type for thing in collection.objects} == {"MESH", "CAMERA"}
    folder = part("operators").heads_folder() / collection["headcast_folder"]
    assert (folder / "head.glb").is_file()
    assert part("session").SESSION.warnings == ("2 faces were found; the largest was taken.",)
    assert blender.ops.headcast.reconstruct.poll()


def test_one_undo_step_removes_everything(blender: ModuleType, photo: Any, worker_that: Callable[[str], None]) -> None:
    worker_that("done")
    blender.ops.ed.undo_push(message="before")  # without a window, Blender keeps no undo until asked
    before = names(blender)
    assert blender.ops.headcast.reconstruct("EXEC_DEFAULT", True) == {"FINISHED"}
    assert names(blender) != before
    blender.ops.ed.undo()
    assert names(blender) == before
    blender.ops.ed.redo()
    assert "Head" in blender.data.objects


@pytest.mark.parametrize(("how", "words"), [("fail", "No face was found"), ("die", "stopped unexpectedly")])
def test_scene_is_untouched_after_an_error_and_the_panel_has_its_words(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None], how: str, words: str
) -> None:
    worker_that(how)
    before = names(blender)
    with pytest.raises(RuntimeError, match=words):
        blender.ops.headcast.reconstruct()
    failure = part("session").SESSION.failure
    assert names(blender) == before
    assert words in failure.message and failure.hint
    worker_that("done")  # the next click works
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    assert part("session").SESSION.failure is None


def test_python_that_does_not_exist_is_told_with_a_hint(blender: ModuleType, photo: Any, tmp_path: Path) -> None:
    blender.context.preferences.addons[PACKAGE].preferences.worker_python = str(tmp_path / "no python")
    with pytest.raises(RuntimeError, match="could not be started"):
        blender.ops.headcast.reconstruct()
    assert part("session").SESSION.failure.remedy == "preferences"


def test_modal_run_lets_events_through_and_finishes(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    hand = ByHand(blender.context)
    hand.begin()
    assert hand.event("MOUSEMOVE") == {"PASS_THROUGH"}
    assert not blender.ops.headcast.reconstruct.poll() and blender.ops.headcast.cancel.poll()
    assert hand.until_over() == {"FINISHED"}
    assert "Head" in blender.data.objects
    assert part("worker_job").timers._timer is None


@pytest.mark.parametrize("by", ["Esc", "button"])
def test_cancel_ends_the_job_and_leaves_the_scene(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None], by: str
) -> None:
    worker_that("wait")
    before = names(blender)
    hand = ByHand(blender.context)
    hand.begin()
    begun = time.monotonic()
    if by == "Esc":
        assert hand.event("ESC") == {"RUNNING_MODAL"}
    else:
        blender.ops.headcast.cancel()
    assert hand.until_over() == {"CANCELLED"}
    assert time.monotonic() - begun < 2.0
    assert names(blender) == before
    assert part("session").SESSION.failure is None and not part("session").SESSION.running
    assert part("worker_job").timers._timer is None


def test_head_waits_until_the_user_leaves_edit_mode(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    hand = ByHand(blender.context)
    hand.begin()
    blender.ops.object.mode_set(mode="EDIT")
    end = time.monotonic() + PATIENCE_S
    while hand._outcome is None and time.monotonic() < end:
        assert hand.event("TIMER") == {"PASS_THROUGH"}
        time.sleep(0.01)
    assert hand.event("TIMER") == {"PASS_THROUGH"} and blender.context.mode == "EDIT_MESH"
    assert "Object Mode" in part("session").SESSION.progress.label
    blender.ops.object.mode_set(mode="OBJECT")
    assert hand.event("TIMER") == {"FINISHED"}
    assert "Head" in blender.data.objects


@pytest.mark.parametrize("end", ["disable", "load"])
def test_no_process_and_no_timer_stay_behind(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None], end: str
) -> None:
    import addon_utils

    worker_that("wait")
    hand = ByHand(blender.context)
    hand.begin()
    hand.event("TIMER")
    session, timers = part("session").SESSION, part("worker_job").timers
    pid = session.worker_pid
    assert pid and is_alive(pid)
    if end == "disable":
        addon_utils.disable(PACKAGE)
    else:
        hand.cancel(blender.context)  # what Blender calls on modal operators when another file is loaded
    assert not is_alive(pid)
    assert timers._timer is None and not session.running
    if end == "disable":
        assert not hasattr(blender.types.Scene, "headcast")
        addon_utils.enable(PACKAGE, default_set=True)


def test_passing_copy_of_a_packed_photo_is_removed(
    blender: ModuleType, photo: Any, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    photo.pack()
    Path(photo.filepath).unlink()
    before = set(Path(blender.app.tempdir).iterdir())
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    assert set(Path(blender.app.tempdir).iterdir()) <= before
    assert not photo.is_dirty and photo.packed_file


def test_user_models_are_offered_beside_the_starter(blender: ModuleType) -> None:
    folder = part("properties").models_folder()
    folder.mkdir(parents=True)
    try:
        (folder / "my model.safetensors").touch()
        settings = blender.context.scene.headcast
        settings.model = str(folder / "my model.safetensors")
        assert settings.options().model.endswith("my model.safetensors")
        (folder / "another.safetensors").touch()
        assert settings.model.endswith("my model.safetensors")  # what the file stored means the same model still
    finally:
        shutil.rmtree(folder)
    assert blender.context.scene.headcast.missing_model().message.startswith("The model my model is missing")


def test_quality_sets_the_numbers_and_follows_them(blender: ModuleType) -> None:
    settings = blender.context.scene.headcast
    assert (settings.quality, settings.grid, settings.faces, settings.texture_size) == ("STANDARD", 256, 30000, 2048)
    settings.quality = "DRAFT"
    assert settings.grid < 256 and settings.texture_size < 2048
    settings.grid += 1
    assert settings.quality == "CUSTOM"


@pytest.mark.parametrize("level", ["OFF", "FAST", "BEST"])
def test_fit_to_photo_reaches_the_engine(blender: ModuleType, level: str) -> None:
    settings = blender.context.scene.headcast
    before, settings.refinement = settings.refinement, level
    try:
        assert settings.options().refinement == level.lower()
    finally:
        settings.refinement = before


def test_dropped_picture_becomes_the_photo(blender: ModuleType, photo: Any) -> None:
    blender.context.scene.headcast.image = None
    path = blender.path.abspath(photo.filepath)
    assert blender.ops.headcast.load_photo("EXEC_DEFAULT", filepath=path) == {"FINISHED"}
    assert blender.context.scene.headcast.image == photo
    handler = part("operators").HEADCAST_FH_photo
    assert handler.poll_drop(SimpleNamespace(area=SimpleNamespace(type="VIEW_3D")))
    assert not handler.poll_drop(SimpleNamespace(area=SimpleNamespace(type="IMAGE_EDITOR")))
    assert handler.bl_import_operator == "headcast.load_photo"


def test_check_names_what_a_python_lacks_and_the_command_for_it(blender: ModuleType, tmp_path: Path) -> None:
    engine = part("engine")
    place = part("preferences").worker_place()
    assert engine.check_engine(place.python_command, place.extra_paths).ready
    bare = engine.check_engine((*place.python_command, "-S"), ())  # -S: without the installed packages
    assert not bare.ready and "torch==2.13.0" in bare.missing and bare.version
    assert "-m pip install" in engine.pip_command("python", bare.missing)
    assert engine.check_engine((str(tmp_path / "no python"),), ()).version == ()


@pytest.mark.slow
def test_the_real_worker_makes_a_head_of_the_astronaut(
    blender: ModuleType, astronaut: Path, simple_model: str, job_folder: Path
) -> None:
    models = part("properties").models_folder()
    models.mkdir(parents=True)
    try:
        model = shutil.copy(simple_model, models)
        settings = blender.context.scene.headcast
        settings.image = blender.data.images.load(str(astronaut))
        settings.model, settings.device = model, "CPU"
        settings.grid, settings.faces, settings.texture_size = 48, 2000, 256
        assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    finally:
        shutil.rmtree(models)
    head = blender.data.objects["Head"]
    assert head["headcast_photo"] == "astronaut" and not head["headcast_photo"].startswith("/")
    assert 0.1 < head.dimensions.z < 0.4
    assert head.data.attributes["visibility"].domain == "POINT"
    assert blender.data.objects["Photo Camera"].parent == head


def test_an_image_without_a_face_gets_the_engines_words(blender: ModuleType, photo: Any) -> None:
    with pytest.raises(RuntimeError) as told:
        blender.ops.headcast.reconstruct()
    failure = part("session").SESSION.failure
    assert failure.message in str(told.value) and failure.hint in str(told.value)
    assert "Headcast Été à la plage 写真" not in blender.data.collections
