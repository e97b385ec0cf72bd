"""From the zip that carries the engine, alone and without a network: installed, used, and gone without a trace.

Blender starts three times in a process of its own, see life_step.py. Its Python has bpy with what bpy needs, no more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.window.debian_root import cache_folder
from wheels.extension import build
from wheels.lock import fetch, load_lock

pytestmark = [pytest.mark.blender, pytest.mark.thorough]

ROOT = Path(__file__).resolve().parents[2]
STEP = Path(__file__).with_name("life_step.py")
TARGET = ("linux-x64", "3.11")
NUMPY_OF = {"5.0.1": "1.26.4", "4.2.23": "1.24.3"}  # by Blender's version: what the real one brings
NO_NETWORK = ("unshare", "--map-root-user", "--net")
PATIENCE_S = 900.0  # a loaded machine; a start with a reconstruction takes two minutes on a slow one


@pytest.fixture(scope="module")
def full_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip with the engine's wheels, which are fetched once."""
    if sys.platform != "linux":
        pytest.skip("a private network is Linux's")
    if subprocess.run([*NO_NETWORK, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system allows no private network")
    folder, wheels = ROOT / "wheels" / "linux-x64-cp311", load_lock(*TARGET)
    try:
        fetch(wheels, folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the engine's wheels cannot be fetched: {error}")
    return build(tmp_path_factory.mktemp("full zip"), wheels, folder)


def bare_python(blender: str) -> Path:
    """A Python with that bpy and its NumPy alone; made once, some 400 MB."""
    folder = cache_folder() / f"bpy-{blender}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        wanted = [f"bpy=={blender}", f"numpy=={NUMPY_OF[blender]}"]
        try:
            subprocess.run([str(python), "-m", "pip", "-qq", "install", *wanted], check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"bpy {blender} cannot be installed: {error}")
        (folder / "ready").touch()
    return python


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Start a bare Blender in the test's own empty profile and home: start(python, step, argument)."""
    for name in ("profile of Zoë", "home"):
        (tmp_path / name).mkdir()

    def run(python: Path, *arguments: str) -> dict[str, Any]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        own = {"BLENDER_USER_RESOURCES": str(tmp_path / "profile of Zoë"), "HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [*NO_NETWORK, str(python), str(STEP), *arguments],
            env={**kept, **own},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))  # Blender prints around it
        told: dict[str, Any] = json.loads(line)
        print(arguments[0], told)
        return told

    return run


@pytest.mark.parametrize("blender", NUMPY_OF)
def test_the_zip_alone_makes_a_head_without_network_and_leaves_caches_only(
    blender: str, full_zip: Path, astronaut: Path, start: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    python = bare_python(blender)
    installed = start(python, "install", str(full_zip))
    assert installed["installed"] == ["FINISHED"] and installed["enabled"] and not installed["torch"]
    used = start(python, "use", str(astronaut))
    assert used["made"] == ["FINISHED"] and used["faces"] > 5000 and 0.15 < used["height_m"] < 0.4
    assert used["torch"], "the engine's packages lie on Blender's own path, before its own"
    assert used["uninstalled"] == ["FINISHED"] and not used["settings_left"]
    assert not Path(f"/proc/{used['worker']}").exists()
    last = start(python, "after")
    assert not last["enabled"] and not last["torch"]
    for seen in (installed, used, last):
        assert not seen["network"] and seen["blender"].startswith(blender)
        assert seen["numpy"] == NUMPY_OF[blender] and Path(seen["numpy_from"]).is_relative_to(python.parents[1])
        assert seen["sum"] == 1.5
        # The bpy of 4.2 on PyPI is built without audio.
        assert seen["built_with_audio"] == (blender != "4.2.23") and seen.get("samples", [1])[-1] == 1
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    profile = "profile of Zoë"
    caches = {f"{profile}/extensions/.cache/compat.dat", f"{profile}/config/userpref.blend"}
    assert {name for name in left if "__pycache__" not in name and not name.startswith("home/.cache/")} <= caches
    assert not [name for name in left if "headcast" in name.lower()]
