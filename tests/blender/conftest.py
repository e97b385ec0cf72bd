"""Headcast in a real Blender without a window: installed from its zip into a throw-away profile."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.blender.prepared_head import write_job_folder
from tests.blender.prepared_rig import write_rig_files
from wheels.extension import build

HERE = Path(__file__).resolve().parent
PACKAGE = "bl_ext.user_default.headcast"
PATIENCE_S = 60.0  # a loaded machine; the real worker imports torch


@pytest.fixture(scope="session")
def extension_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension as Blender's own builder packs it."""
    if importlib.util.find_spec("bpy") is None:  # not imported here: the profile's folder must be named before
        pytest.skip("bpy is not installed")
    return build(tmp_path_factory.mktemp("zip"))


@pytest.fixture(scope="session")
def installed(extension_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The bpy module, with the extension installed and enabled in a profile whose path has a space and an accent."""
    profile = tmp_path_factory.mktemp("Perfil de Zoë")
    if "bpy" in sys.modules:
        pytest.fail("bpy was imported before: it uses the user's own profile")
    os.environ["BLENDER_USER_RESOURCES"] = str(profile)
    bpy = importlib.import_module("bpy")
    addon_utils = importlib.import_module("addon_utils")  # can be found once bpy is there

    bpy.ops.extensions.package_install_files(filepath=str(extension_zip), repo="user_default", enable_on_install=True)
    addon_utils.enable(PACKAGE, default_set=True)
    yield bpy
    addon_utils.disable(PACKAGE)


@pytest.fixture
def blender(installed: ModuleType) -> Iterator[ModuleType]:
    """The bpy module with Blender's start-up scene and consent given; whatever runs is ended afterwards."""
    installed.ops.wm.read_homefile(use_factory_startup=True)
    preferences = installed.context.preferences.addons[PACKAGE].preferences
    preferences.consent, preferences.worker_python = True, ""
    yield installed
    part("session").SESSION.close()
    part("session").SESSION.finish()


def part(name: str) -> Any:
    """A module of the installed add-on."""
    return sys.modules[f"{PACKAGE}.addon.{name}"]


@pytest.fixture(scope="session")
def job_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job of a known head."""
    folder = tmp_path_factory.mktemp("job")
    write_job_folder(folder / "another version", version=1)
    return write_job_folder(folder / "Kopf für Test")


@pytest.fixture(scope="session")
def rig_files(job_folder: Path) -> Path:
    """What the fake worker writes beside the head when it is asked for a rig."""
    return write_rig_files(job_folder.with_name("rig"))


@pytest.fixture
def rig_folder(job_folder: Path, rig_files: Path, tmp_path: Path) -> Path:
    """The finished job with its rig: a copy, which a test may spoil."""
    folder = tmp_path / "Kopf mit Rig"
    shutil.copytree(job_folder, folder)
    return Path(shutil.copytree(rig_files, folder, dirs_exist_ok=True))


@pytest.fixture
def rig(blender: ModuleType, rig_folder: Path) -> Any:
    """The armature of a rig in the scene; its face is selected and active."""
    part("import_head").import_head(blender.context, rig_folder, "Zoë")
    head = blender.context.active_object
    armature = part("rig.make_rig").bring_rig_in(blender.context, head, rig_folder, "Zoë")
    blender.context.view_layer.update()
    return armature


@pytest.fixture
def worker_that(blender: ModuleType, job_folder: Path, tmp_path: Path) -> Callable[[str], None]:
    """Point the preferences at a fake worker process: worker_that("done" | "fail" | ...), see there."""

    def choose(how: str) -> None:
        python = tmp_path / f"python {how}é"
        command = shlex.join([sys.executable, str(HERE / "fake_worker.py"), how, str(job_folder)])
        python.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        blender.context.preferences.addons[PACKAGE].preferences.worker_python = str(python)

    return choose


class OperatorByHand:
    """An operator's own methods on a plain object: without a window no event ever reaches a modal operator."""

    def __init__(self, kind: type, context: Any) -> None:
        self.kind, self.context, self.reports = kind, context, []

    def __getattr__(self, name: str) -> Any:
        """What the operator's class has of that name, its functions as methods of this object."""
        found = getattr(self.kind, name)
        return found.__get__(self) if isinstance(found, FunctionType) else found

    def begin(self) -> None:
        """What invoke does, but for the handler."""
        assert self._submit(self.context)
        part("worker_job").timers.start(self.context)

    def report(self, kind: set[str], text: str) -> None:
        self.reports.append((*kind, text))

    def event(self, kind: str) -> set[str]:
        return self.modal(self.context, SimpleNamespace(type=kind, value="PRESS"))

    def until_over(self, patience_s: float = PATIENCE_S) -> set[str]:
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            result = self.event("TIMER")
            if result != {"PASS_THROUGH"}:
                return result
            time.sleep(0.01)
        raise TimeoutError
