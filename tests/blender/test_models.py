"""Models added, chosen and removed in Blender's preferences."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference import checkpoints
from tests.blender.conftest import PACKAGE, PATIENCE_S, OperatorByHand, part
from tests.inference.published_encoders import write_published

pytestmark = pytest.mark.blender


@pytest.fixture
def models(blender: ModuleType) -> Iterator[Path]:
    """The models folder, which is not there before and not there after."""
    folder = part("properties").models_folder()
    yield folder
    part("model_operators").passing.forget()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def source(simple_model: str, tmp_path: Path) -> Path:
    """A finished model somewhere on the user's disk."""
    folder = tmp_path / "Téléchargements"
    folder.mkdir()
    return Path(shutil.copy(simple_model, folder / "mine.safetensors"))


def add(blender: ModuleType, *sources: Path, model_name: str = "") -> set[str]:
    """Press Add Model and choose these files, all of one folder."""
    files = [{"name": source.name} for source in sources]
    operator = blender.ops.headcast.choose_model_files
    return operator("EXEC_DEFAULT", directory=str(sources[0].parent), files=files, model_name=model_name)


class ByHand(OperatorByHand):
    """The button's operator, driven without a window."""

    def __init__(self, context: Any, source: Path) -> None:
        super().__init__(part("model_operators").HEADCAST_OT_add_model, context)
        self.directory, self.files, self.model_name = str(source.parent), [SimpleNamespace(name=source.name)], ""

    def begin(self) -> None:
        """Returns once the worker is at work."""
        super().begin()
        end = time.monotonic() + PATIENCE_S
        while part("session").SESSION.progress.fraction < 0.5:
            assert time.monotonic() < end and self.event("TIMER") == {"PASS_THROUGH"}
            time.sleep(0.01)


class Layout:
    """A layout that remembers what is written on it, in whatever row or box."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.buttons: list[str] = []

    def label(self, text: str = "", **_how: Any) -> None:
        self.written.append(text)

    def progress(self, factor: float = 0.0, text: str = "", **_how: Any) -> None:
        self.written.append(f"{text} {factor:.0%}")

    def prop(self, *_what: Any, **_how: Any) -> None:
        """Settings are drawn by Blender."""

    def operator(self, name: str, **_how: Any) -> SimpleNamespace:
        self.buttons.append(name)
        return SimpleNamespace()

    def box(self, **_how: Any) -> Layout:
        return self

    row = column = box


def drawn_preferences(blender: ModuleType, width: int = 4000) -> Layout:
    """What the preferences show, in a region so wide that no sentence is broken unless `width` px says otherwise."""
    layout = Layout()
    system = SimpleNamespace(ui_scale=1.0)
    context = SimpleNamespace(region=SimpleNamespace(width=width), preferences=SimpleNamespace(system=system))
    shown = SimpleNamespace(layout=layout)
    part("preferences").HEADCAST_AP_preferences.draw(shown, context)
    return layout


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_added_model_lies_in_the_users_folder_and_in_the_menu(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    assert add(blender, source) == {"FINISHED"}
    assert files_in(models) == ["mine.safetensors", "mine.safetensors.sha256"]
    place = models / "mine.safetensors"
    assert place.read_bytes() == source.read_bytes() and source.exists()
    assert checkpoints.checked_sha256(place) == checkpoints.sha256_of(source)
    blender.context.scene.headcast.model = str(place)
    assert blender.context.scene.headcast.options().model == str(place)
    code = Path(part("preferences").__file__).parent.parent  # an update deletes it
    assert not place.is_relative_to(code) and models.name == "models"


def test_a_plain_addon_keeps_its_models_outside_its_code_too(
    blender: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("user_folder"), "EXTENSION", "headcast")  # as it is called among Blender's scripts
    folder = part("properties").models_folder()
    assert folder == Path(blender.utils.user_resource("DATAFILES")) / "headcast" / "models"
    assert folder.is_relative_to(os.environ["BLENDER_USER_RESOURCES"])


@pytest.mark.slow
def test_published_files_are_converted_by_the_real_worker_shown_with_their_licence_and_used(
    blender: ModuleType, models: Path, astronaut: Path, tmp_path: Path
) -> None:
    assert add(blender, *write_published(tmp_path), model_name="PanoHead") == {"FINISHED"}
    place = models / "PanoHead.safetensors"
    model = checkpoints.load(place)  # compares with the checksum beside it
    assert files_in(models) == [place.name, place.name + ".sha256"]
    shown = drawn_preferences(blender).written
    assert f"{place.stat().st_size / 1e6:,.1f} MB" in shown
    assert "Non-commercial use only, also of heads made with it" in shown
    assert any("CC BY-NC-SA 4.0" in line and "2409.20530" in line for line in shown)
    assert f"SHA-256 {model.sha256[:16]}" in shown
    assert "Starter, bundled" in shown and "Free for commercial use" in shown
    settings = blender.context.scene.headcast
    settings.image = blender.data.images.load(str(astronaut))
    settings.model, settings.device = str(place), "CPU"
    settings.grid, settings.faces, settings.texture_size = 48, 2000, 256
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}  # of random weights: no shape, but a mesh
    folder = part("operators").heads_folder() / blender.data.collections["Headcast astronaut"]["headcast_folder"]
    report = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    assert report["model"] == {"name": "PanoHead", "sha256": model.sha256}


@pytest.mark.slow
def test_a_finished_model_is_checked_by_the_real_worker(blender: ModuleType, models: Path, source: Path) -> None:
    beside = source.with_name(source.name + ".sha256")
    beside.write_text("0" * 64)
    with pytest.raises(RuntimeError, match="checksum"):
        add(blender, source)
    assert files_in(models) == []
    beside.unlink()
    assert add(blender, source) == {"FINISHED"}
    assert files_in(models) == ["mine.safetensors", "mine.safetensors.sha256"]


def test_a_file_that_is_no_model_is_refused_before_anything_is_started(
    blender: ModuleType, models: Path, source: Path
) -> None:
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match=r"mine\.safetensors is damaged") as told:
        add(blender, source)
    assert "Traceback" not in str(told.value)
    session = part("session").SESSION
    assert session.worker_pid is None and not session.running and not models.exists()
    shown = drawn_preferences(blender).written
    assert session.failure.message in shown and session.failure.hint in shown


def test_a_generator_without_encoders_is_added_and_said_to_be_slow(
    blender: ModuleType, models: Path, tmp_path: Path
) -> None:
    model = checkpoints.load_generator("starter")
    checkpoints.save(tmp_path / "bare.safetensors", model, None, None, "bare", {})
    assert add(blender, tmp_path / "bare.safetensors") == {"FINISHED"}
    assert (models / "bare.safetensors").is_file()
    assert any("without encoders" in line for line in drawn_preferences(blender).written)


def test_a_name_that_is_taken_is_refused_and_another_one_helps(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    models.mkdir(parents=True)
    (models / "mine.safetensors").write_bytes(b"the user's")
    with pytest.raises(RuntimeError, match="named mine already"):
        add(blender, source)
    assert (models / "mine.safetensors").read_bytes() == b"the user's"
    assert add(blender, source, model_name="Mine too") == {"FINISHED"}
    assert "Mine too.safetensors" in files_in(models)


@pytest.mark.parametrize(("how", "words"), [("fail", "damaged"), ("die", "stopped unexpectedly")])
def test_nothing_half_written_remains_after_an_error_which_the_preferences_show(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None], how: str, words: str
) -> None:
    worker_that(how)
    with pytest.raises(RuntimeError, match=words):
        add(blender, source)
    assert files_in(models) == []
    failure = part("session").SESSION.failure
    assert words in failure.message and "Reconstruct Head" not in failure.hint
    shown = drawn_preferences(blender)
    assert failure.message in shown.written and failure.hint in shown.written
    assert "headcast.choose_model_files" in shown.buttons
    worker_that("done")
    assert add(blender, source) == {"FINISHED"}
    assert part("session").SESSION.failure is None


@pytest.mark.parametrize("by", ["Esc", "button"])
def test_progress_is_shown_and_cancelling_leaves_nothing(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None], by: str
) -> None:
    worker_that("wait")
    hand = ByHand(blender.context, source)
    hand.begin()
    assert hand.event("MOUSEMOVE") == {"PASS_THROUGH"}
    assert len(list(models.glob(".adding-*.part/mine.safetensors"))) == 1  # half of it
    shown = drawn_preferences(blender)
    assert "Checking the weights 50%" in shown.written and "headcast.cancel" in shown.buttons
    assert "headcast.choose_model_files" not in shown.buttons
    with pytest.raises(RuntimeError, match="A model is being added"):
        blender.ops.headcast.reconstruct()
    with pytest.raises(RuntimeError, match="A model is being added"):
        add(blender, source)
    if by == "Esc":
        assert hand.event("ESC") == {"RUNNING_MODAL"}
    else:
        blender.ops.headcast.cancel()
    assert hand.until_over() == {"CANCELLED"}
    assert hand.reports == [("INFO", "Adding the model was cancelled")]
    assert files_in(models) == []
    assert not part("session").SESSION.running and part("session").SESSION.failure is None
    assert part("worker_job").timers._timer is None


@pytest.mark.parametrize("end", ["disable", "window"])
def test_nothing_stays_behind_when_blender_ends_it(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None], end: str
) -> None:
    import addon_utils

    worker_that("wait")
    hand = ByHand(blender.context, source)
    hand.begin()
    session, timers = part("session").SESSION, part("worker_job").timers
    if end == "disable":
        addon_utils.disable(PACKAGE)
    else:
        hand.cancel(blender.context)  # what Blender calls on modal operators when their window is closed
    assert files_in(models) == []
    assert session.worker_pid is None and timers._timer is None and not session.running
    if end == "disable":
        addon_utils.enable(PACKAGE, default_set=True)


def test_what_a_crashed_blender_left_is_removed_and_what_another_writes_is_not(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    old, new = models / ".adding-old.part", models / ".adding-new.part"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "half.safetensors").touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    assert part("properties").user_models() == []
    assert add(blender, source) == {"FINISHED"}
    assert files_in(models) == [".adding-new.part", "mine.safetensors", "mine.safetensors.sha256"]


def test_a_model_whose_file_has_vanished_is_named_and_another_can_be_chosen(
    blender: ModuleType, models: Path, source: Path, tmp_path: Path
) -> None:
    models.mkdir(parents=True)
    place = Path(shutil.copy(source, models))
    Image.fromarray(np.full((8, 6, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    settings = blender.context.scene.headcast
    settings.image = blender.data.images.load(str(tmp_path / "photo.png"))
    settings.model = str(place)
    place.unlink()
    assert settings.model == str(place)  # not another one in its place
    with pytest.raises(RuntimeError) as told:
        blender.ops.headcast.reconstruct()
    assert "The model mine is missing" in str(told.value) and str(place) in str(told.value)
    assert part("session").SESSION.failure.remedy == "preferences"
    settings.model = "starter"
    assert settings.options().model == "starter"
    with pytest.raises(TypeError):
        settings.model = str(place)  # no longer offered


def test_the_choice_survives_saving_and_other_models_coming_and_going(
    blender: ModuleType, models: Path, source: Path, tmp_path: Path
) -> None:
    models.mkdir(parents=True)
    place = Path(shutil.copy(source, models))
    blender.context.scene.headcast.model = str(place)
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    for name in ("a", "z"):
        shutil.copy(source, models / f"{name}.safetensors")
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    assert blender.context.scene.headcast.model == str(place)
    place.unlink()
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    assert blender.context.scene.headcast.missing_model().message.startswith("The model mine is missing")


def test_strings_of_the_menu_stay_alive(blender: ModuleType, models: Path, source: Path) -> None:
    models.mkdir(parents=True)
    shutil.copy(source, models)
    properties = part("properties")
    first = list(properties._models(None, None))
    again = properties._models(None, None)
    assert all(a is b for a, b in zip(first, again, strict=True))
    identity = id(first[1][0])
    (models / "mine.safetensors").unlink()
    del first
    assert len(properties._models(None, None)) == 1
    shutil.copy(source, models)
    assert id(properties._models(None, None)[1][0]) == identity


def test_removing_deletes_model_and_checksum_and_nothing_else(
    blender: ModuleType, models: Path, source: Path, worker_that: Callable[[str], None]
) -> None:
    worker_that("done")
    add(blender, source)
    add(blender, source, model_name="other")
    assert drawn_preferences(blender).buttons.count("headcast.remove_model") == 2  # the bundled one has none
    assert blender.ops.headcast.remove_model("EXEC_DEFAULT", file="mine.safetensors") == {"FINISHED"}
    assert files_in(models) == ["other.safetensors", "other.safetensors.sha256"]
    bundled = checkpoints.WEIGHTS_FOLDER / "starter.safetensors"
    for name in ("mine.safetensors", "starter.safetensors", "starter", str(bundled), str(source), "../x.safetensors"):
        with pytest.raises(RuntimeError, match="No added model"):
            blender.ops.headcast.remove_model("EXEC_DEFAULT", file=name)
    assert bundled.exists() and source.exists()


def test_removing_asks_first(blender: ModuleType, models: Path) -> None:
    asked: list[dict[str, Any]] = []

    def invoke_confirm(_operator: Any, _event: Any, **how: Any) -> set[str]:
        asked.append(how)
        return {"RUNNING_MODAL"}

    models.mkdir(parents=True)
    (models / "mine.safetensors").touch()
    context = SimpleNamespace(window_manager=SimpleNamespace(invoke_confirm=invoke_confirm))
    invoke = part("model_operators").HEADCAST_OT_remove_model.invoke
    assert invoke(SimpleNamespace(file="mine.safetensors"), context, None) == {"RUNNING_MODAL"}
    assert asked[0]["title"] == "Remove the model mine?" and (models / "mine.safetensors").exists()


def test_a_damaged_model_in_the_folder_is_shown_as_such(blender: ModuleType, models: Path) -> None:
    models.mkdir(parents=True)
    (models / "mine.safetensors").write_bytes(b"no model")
    shown = drawn_preferences(blender)
    assert any("mine.safetensors is damaged" in line for line in shown.written)
    assert "headcast.remove_model" in shown.buttons
