"""Builds and validates the extension zip with Blender's own builder, with or without the engine's packages in it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from .lock import LockedWheel

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = "blender_manifest.toml"
WHEELS_MARK = "# A build that carries the engine's packages puts `platforms` and `wheels` here"

# What travels. Named, so that nothing a developer keeps beside it ever does.
PARTS = ("__init__.py", "LICENSE", "addon", "inference")


def blender_builder() -> Path:
    """Blender's command line for extensions, inside the bpy package. Raises FileNotFoundError without bpy."""
    spec = importlib.util.find_spec("bpy")
    places = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        for found in place.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"):
            return found
    raise FileNotFoundError("blender_ext.py: install bpy into this Python, or build with blender --command extension")


def build(out_dir: Path, wheels: Sequence[LockedWheel] = (), wheels_dir: Path = ROOT / "wheels") -> Path:
    """Build and validate the zip; returns its path.

    wheels: packages to carry, all of one platform, with their files in `wheels_dir`. Without: a small zip for every
            platform, whose worker needs a Python that has the packages.
    Raises CalledProcessError with Blender's words on stderr, FileNotFoundError without bpy.
    """
    manifest = (ROOT / MANIFEST).read_text(encoding="utf-8")
    version = tomllib.loads(manifest)["version"]
    out_dir.mkdir(parents=True, exist_ok=True)
    zip_path = out_dir / f"headcast-{version}{f'-{wheels[0].platform}' if wheels else ''}.zip"
    with tempfile.TemporaryDirectory() as passing:
        stage = Path(passing)
        for part in PARTS:
            _copy(ROOT / part, stage / part)
        (stage / MANIFEST).write_text(with_wheels(manifest, wheels) if wheels else manifest, encoding="utf-8")
        for wheel in wheels:
            _copy(wheels_dir / wheel.file, stage / "wheels" / wheel.file)
        _blender("build", "--source-dir", str(stage), "--output-filepath", str(zip_path))
    _blender("validate", str(zip_path))
    return zip_path


def with_wheels(manifest: str, wheels: Sequence[LockedWheel]) -> str:
    """The manifest's text with the wheels in it and the platform they are for."""
    before, mark, after = manifest.partition(WHEELS_MARK)
    if not mark:
        raise ValueError(f"{MANIFEST} has lost the line that says where the wheels go")
    platforms = sorted({wheel.platform for wheel in wheels})
    files = [f"./wheels/{wheel.file}" for wheel in wheels]
    return f"{before}platforms = {_toml(platforms)}\nwheels = {_toml(files)}\n{mark}{after}"


def _blender(*arguments: str) -> None:
    subprocess.run([sys.executable, str(blender_builder()), *arguments], check=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copy2(source, target)


def _toml(names: Sequence[str]) -> str:
    return "[\n" + "".join(f'    "{name}",\n' for name in names) + "]"
