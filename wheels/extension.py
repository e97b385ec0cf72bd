"""Builds and validates the extension zip with Blender's own builder, with or without the engine's packages in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from .lock import LockedWheel
from .rules import blender_builder

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = "blender_manifest.toml"
WHEELS_MARK = "# A build that carries the engine's packages puts `platforms` and `wheels` here"

# What travels. Named, so that nothing a developer keeps beside it ever does.
PARTS = ("__init__.py", "LICENSE", "addon", "inference")


def build(out_dir: Path, wheels: Sequence[LockedWheel] = (), wheels_dir: Path = ROOT / "wheels") -> Path:
    """Build and validate the zip; returns its path.

    wheels: packages to carry, all of one platform, with their files in `wheels_dir`. Without: a small zip for every
            platform, whose worker needs a Python that has the packages.
    Raises CalledProcessError with Blender's words on stderr, FileNotFoundError without bpy.
    """
    manifest = (ROOT / MANIFEST).read_text(encoding="utf-8")
    version = tomllib.loads(manifest)["version"]
    out_dir.mkdir(parents=True, exist_ok=True)
    zip_path = out_dir / f"headcast-{version}{target_suffix(wheels)}.zip"
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


def target_suffix(wheels: Sequence[LockedWheel]) -> str:
    """What tells the zips apart: "-linux-x64-cp311", and nothing for the one without wheels."""
    return f"-{wheels[0].platform}-cp{wheels[0].python.replace('.', '')}" if wheels else ""


def build_repository(folder: Path) -> Path:
    """The index that makes a folder of extension zips a repository Blender can subscribe to; returns index.json.

    Static: any web server, or a file:// address, serves it. The index holds each zip's size and SHA-256, which Blender
    checks. Raises FileNotFoundError where there is no zip, CalledProcessError with Blender's words.
    """
    if not list(folder.glob("*.zip")):
        raise FileNotFoundError(f"no extension zip in {folder}: build some with `make extension`")
    _blender("server-generate", "--repo-dir", str(folder))
    return folder / "index.json"


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
