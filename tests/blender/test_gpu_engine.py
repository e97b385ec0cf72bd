"""The GPU engine's box in Blender's preferences: what is offered, installed, used by the worker and removed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inference.messages import ENGINE_PACKAGES
from tests.addon.test_gpu_engine import TORCH, locked, wheel_at
from tests.blender.conftest import PACKAGE, PATIENCE_S, part
from tests.blender.test_models import drawn_preferences

pytestmark = pytest.mark.blender

REAL_PYTHON = sys.executable
NETWORK, FOLDER = "headcast.install_gpu_engine", "headcast.install_gpu_engine_from_folder"


@pytest.fixture
def wheels(blender: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a small engine, locked in the installed add-on; Blender's Python has no torch of its own."""
    folder = tmp_path / "wheels é"
    contents = {"torch": {"torch/__init__.py": TORCH}, "companion": {"companion.py": ""}}
    found = [wheel_at(folder, name, files) for name, files in contents.items()]
    entries = [asdict(locked(wheel)) for wheel in found]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    entries = [entry | {"platform": part("gpu_engine").this_platform(), "python": python} for entry in entries]
    bare = tmp_path / "bare python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    carried = Path(blender.utils.user_resource("EXTENSIONS")) / "of the test" / "site-packages"
    carried.mkdir(parents=True)
    for package in ENGINE_PACKAGES.keys() - {"torch"}:
        (carried / f"{package}.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(carried)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    lock = part("gpu_engine").LOCK
    shipped = lock.read_bytes()
    lock.write_text(json.dumps(entries), encoding="utf-8")
    part("gpu_engine").load_lock.cache_clear()
    yield folder
    shutil.rmtree(carried.parent)
    part("gpu_operators").stop()
    part("gpu_install").INSTALL.trouble = None
    lock.write_bytes(shipped)
    part("gpu_engine").load_lock.cache_clear()


@pytest.fixture
def online(blender: ModuleType) -> Iterator[Any]:
    """Blender's own setting of online access."""
    system = blender.context.preferences.system
    before = system.use_online_access
    yield system
    system.use_online_access = before


def from_folder(blender: ModuleType, wheels: Path) -> set[str]:
    return blender.ops.headcast.install_gpu_engine_from_folder("EXEC_DEFAULT", directory=str(wheels))


def reason_of(operator: str) -> str:
    """Why a button is grey, as its tooltip says; "" when it is not."""
    told: list[str] = []
    kind = getattr(part("gpu_operators"), "HEADCAST_OT_" + operator.partition(".")[2])
    stand_in = type("StandIn", (), {"poll_message_set": staticmethod(told.append)})
    return "" if kind.poll.__func__(stand_in, None) else told[0]


def test_the_network_is_offered_only_with_online_access(blender: ModuleType, wheels: Path, online: Any) -> None:
    online.use_online_access = False
    assert "Allow online access" in reason_of(NETWORK) and not blender.ops.headcast.install_gpu_engine.poll()
    assert reason_of(FOLDER) == ""
    online.use_online_access = True
    assert reason_of(NETWORK) == "" and blender.ops.headcast.install_gpu_engine.poll()


def test_an_installed_engine_goes_before_the_extensions_packages(blender: ModuleType, wheels: Path) -> None:
    place = part("preferences").worker_place
    before = place().extra_paths
    assert {NETWORK, FOLDER} <= set(drawn_preferences(blender).buttons)
    assert from_folder(blender, wheels) == {"FINISHED"}
    engine = part("preferences").gpu_engine()
    assert place().extra_paths == (str(engine.folder), *before)
    shown = drawn_preferences(blender)
    assert "In use: Test Card with 8.0 GB, torch 2.13.0+cu130" in shown.written
    assert "headcast.remove_gpu_engine" in shown.buttons and NETWORK not in shown.buttons

    assert blender.ops.headcast.remove_gpu_engine("EXEC_DEFAULT") == {"FINISHED"}
    assert place().extra_paths == before
    assert "headcast.remove_gpu_engine" not in drawn_preferences(blender).buttons
    assert reason_of("headcast.remove_gpu_engine") == "There is nothing to remove"


def test_the_worker_imports_torch_from_the_engine_and_the_rest_from_behind(tmp_path: Path) -> None:
    """start_worker.py's order: Python's own packages, the engine, the extension's wheels."""
    for folder in ("own", "engine", "wheels"):
        (tmp_path / folder).mkdir()
    for place in ("own/numpy", "engine/numpy", "engine/torch", "wheels/torch", "wheels/scipy"):
        (tmp_path / f"{place}.py").write_text(f"place = {place!r}\n")
    starter = Path(__file__).resolve().parents[2] / "inference"
    code = (
        f"import sys; sys.path[:0] = [{str(starter)!r}, 'own']; import start_worker; "
        "start_worker.prepare('root', ['engine', 'wheels']); import numpy, torch, scipy; "
        "print(numpy.place, torch.place, scipy.place)"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["own/numpy", "engine/torch", "wheels/scipy"]


def test_a_blender_without_the_other_packages_is_told_before_anything_is_fetched(
    blender: ModuleType, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zip without wheels, which wants a Python of the user's."""
    monkeypatch.setattr(sys, "path", sys.path[:-1])
    with pytest.raises(RuntimeError, match=r"Blender's Python lacks .*scipy.*, which the GPU engine needs beside it"):
        from_folder(blender, wheels)
    assert not part("preferences").gpu_home().exists()


def test_a_failed_install_says_why_and_what_to_do(blender: ModuleType, wheels: Path) -> None:
    (wheels / "companion-1.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=r"companion-1.0-py3-none-any.whl is not the one that Headcast asked for"):
        from_folder(blender, wheels)
    shown = drawn_preferences(blender).written
    assert "The file companion-1.0-py3-none-any.whl is not the one that Headcast asked for." in shown
    assert any(line.startswith("Install the GPU engine again, or fetch the file anew.") for line in shown)
    assert part("preferences").gpu_engine() is None


def test_an_install_shows_its_progress_and_can_be_given_up(
    blender: ModuleType, wheels: Path, online: Any, tmp_path: Path
) -> None:
    """Blender goes on meanwhile; a job asked for gets the engine in use, here the CPU's."""
    online.use_online_access = True
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ntime.sleep(600)\n")
    install, operators = part("gpu_install").INSTALL, part("gpu_operators")
    place = part("preferences").worker_place()
    home, files = part("preferences").gpu_home(), part("preferences").gpu_files()
    install.start(files, home, wheels, (*place.python_command, str(hanging)), place.extra_paths)
    end = time.monotonic() + PATIENCE_S
    while install.progress.label != "Trying the GPU engine":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert operators.look_after() == operators.LOOK_S
    shown = drawn_preferences(blender)
    assert "Trying the GPU engine 97%" in shown.written and "headcast.cancel_gpu_engine" in shown.buttons
    assert reason_of(NETWORK) == reason_of(FOLDER) == "The GPU engine is being installed"
    assert part("preferences").worker_place() == place
    assert blender.ops.headcast.cancel_gpu_engine() == {"FINISHED"}
    assert not blender.ops.headcast.cancel_gpu_engine.poll()  # once is enough
    install.wait()
    assert operators.look_after() is None
    assert install.trouble is None and install.engine is None and part("preferences").gpu_engine() is None


def test_a_chosen_python_brings_its_own_torch(blender: ModuleType, wheels: Path) -> None:
    from_folder(blender, wheels)
    blender.context.preferences.addons[PACKAGE].preferences.worker_python = "/usr/bin/python3"
    assert part("preferences").worker_place().extra_paths == ()
    assert reason_of(FOLDER).startswith("The chosen Python brings its own torch")
    shown = drawn_preferences(blender)
    assert FOLDER not in shown.buttons and "headcast.remove_gpu_engine" in shown.buttons
    assert reason_of(FOLDER) in shown.written


@pytest.mark.parametrize(
    ("platform", "words"),
    [("macos-arm64", "graphics of Apple's chips are used already"), ("linux-arm64", "Choose a Python that has torch")],
)
def test_where_there_is_no_engine_it_says_what_to_do(
    blender: ModuleType, wheels: Path, monkeypatch: pytest.MonkeyPatch, platform: str, words: str
) -> None:
    monkeypatch.setattr(part("preferences"), "this_platform", lambda: platform)
    assert words in reason_of(NETWORK) and words in reason_of(FOLDER)
    shown = drawn_preferences(blender)
    assert any(words in line for line in shown.written) and NETWORK not in shown.buttons


def test_the_engine_is_kept_while_a_head_is_made(blender: ModuleType, wheels: Path) -> None:
    from_folder(blender, wheels)
    session = part("session").SESSION
    session.running = True
    assert reason_of("headcast.remove_gpu_engine") == session.occupation
    session.running = False


def test_nothing_runs_on_when_the_addon_goes(blender: ModuleType, wheels: Path, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ntime.sleep(600)\n")
    preferences, install = part("preferences"), part("gpu_install").INSTALL
    command = (*preferences.worker_place().python_command, str(hanging))
    install.start(preferences.gpu_files(), preferences.gpu_home(), wheels, command, ())
    blender.app.timers.register(part("gpu_operators").look_after, persistent=True)
    part("gpu_operators").stop()
    assert not install.running and not blender.app.timers.is_registered(part("gpu_operators").look_after)
    assert "headcast-gpu-engine" not in [thread.name for thread in threading.enumerate()]


def test_an_engine_of_another_headcast_is_not_used_and_said_to_be_old(blender: ModuleType, wheels: Path) -> None:
    from_folder(blender, wheels)
    preferences = part("preferences")
    assert not preferences.gpu_engine_outdated()
    lock = part("gpu_engine").LOCK
    lock.write_text(json.dumps(json.loads(lock.read_text())[:1]))  # as an update of Headcast changes it
    part("gpu_engine").load_lock.cache_clear()
    assert preferences.gpu_engine_outdated() and preferences.gpu_engine() is None
    shown = drawn_preferences(blender)
    assert preferences.GPU_ENGINE_OUTDATED in shown.written and {NETWORK, FOLDER} <= set(shown.buttons)


@pytest.mark.parametrize("device", ["AUTO", "CPU"])
def test_a_card_that_does_not_answer_is_told_with_the_head_unless_the_cpu_was_asked_for(
    blender: ModuleType, wheels: Path, job_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    from_folder(blender, wheels)
    worker = tmp_path / "worker"
    command = shlex.join([REAL_PYTHON, str(Path(__file__).with_name("fake_worker.py")), "done", str(job_folder)])
    worker.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    settings = blender.context.scene.headcast
    settings.device = device
    settings.image = blender.data.images.new("photo", 8, 8)
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    assert (part("operators").CARD_SILENT in part("session").SESSION.warnings) == (device == "AUTO")
