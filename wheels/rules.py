"""What a set of wheels must be like before it may ride in an extension: Blender's own rule, and what breaks Blender.

Blender looks at a wheel's tags alone, and passes one that does not fit over in silence; so the rule asked here is the
code Blender itself runs. Everything is told from names and sizes, without a network.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from .lock import PACKAGES, LockedWheel, package_name

# Blender puts the wheels of extensions before its own packages, so another version of these breaks Blender or its
# other add-ons. Names as in an index; of Blender 4.2 to 5.1.
BANNED = frozenset({
    "numpy", "bpy", "mathutils", "fake-bpy-module", "certifi", "charset-normalizer", "idna", "requests", "urllib3",
    "zstandard", "cython", "autopep8", "pycodestyle", "pip", "openimageio", "opencolorio", "pyopencolorio", "openvdb",
    "usd-core", "materialx", "cattrs", "attrs",
})  # fmt: skip
NEWEST_GLIBC = (2, 28)  # Blender 4.2 to 5.x run on RHEL 8 and its like
OLD_NAMES_OF_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
LARGEST_WHEEL_MB = 250  # torch for the CPU has up to 192; CUDA's has 555
LARGEST_TARGET_MB = 400  # of all wheels of one zip; measured 163 to 263


def complaints(wheels: Sequence[LockedWheel], platform: str, python: str) -> list[str]:
    """What is wrong with the wheels of one platform and Python, [] if nothing."""
    found = [f"{w.file}: {w.name} must not ride along, Blender has its own" for w in wheels if w.name in BANNED]
    fitting: dict[str, list[str]] = {package_name(package): [] for package in PACKAGES}
    for wheel in wheels:
        if not fits(wheel.file, platform, python):
            found.append(f"{wheel.file}: does not fit {platform} with Python {python}")
            continue
        if (glibc := needed_glibc(wheel.file)) > NEWEST_GLIBC:
            found.append(f"{wheel.file}: needs glibc {glibc[0]}.{glibc[1]}, newer than 2.28")
        if wheel.size > LARGEST_WHEEL_MB * 1e6:
            found.append(f"{wheel.file}: {wheel.size / 1e6:.0f} MB, more than {LARGEST_WHEEL_MB}")
        if not wheel.licence:
            found.append(f"{wheel.file}: its licence is not known")
        fitting.setdefault(wheel.name, []).append(wheel.file)
    for name, files in sorted(fitting.items()):
        if len(files) != 1:
            found.append(f"{name}: {len(files)} fitting wheels for {platform} with Python {python}, not one")
    total = sum(wheel.size for wheel in wheels) / 1e6
    if total > LARGEST_TARGET_MB:
        found.append(f"{platform} with Python {python}: {total:.0f} MB in all, more than {LARGEST_TARGET_MB}")
    return found


def fits(file: str, platform: str, python: str) -> bool:
    """Whether Blender on that platform, with that Python, would take the wheel, by Blender's own code.

    Raises FileNotFoundError without bpy.
    """
    blender = blender_extensions()
    if not blender.blender_platform_compatible_with_wheel_platform_from_filepath(platform, file):
        return False
    versions = blender.python_versions_from_wheel(file)
    if isinstance(versions, str):  # Blender's words of what is wrong with the name
        return False
    major, minor = (int(part) for part in python.split("."))
    return (major,) in versions or (major, minor) in versions


def needed_glibc(file: str) -> tuple[int, int]:
    """The oldest glibc the wheel runs with, (0, 0) where it does not care."""
    lowest = []
    for tag in file.removesuffix(".whl").split("-")[-1].split("."):
        if match := re.match(r"manylinux_(\d+)_(\d+)_", tag):
            lowest.append((int(match[1]), int(match[2])))
        elif (name := tag.partition("_")[0]) in OLD_NAMES_OF_GLIBC:
            lowest.append(OLD_NAMES_OF_GLIBC[name])
    return min(lowest, default=(0, 0))


@functools.cache
def blender_extensions() -> ModuleType:
    """Blender's command line for extensions as a module, from the bpy package. Raises FileNotFoundError without it."""
    path = blender_builder()
    spec = importlib.util.spec_from_file_location("blender_ext", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for themselves there
    spec.loader.exec_module(module)
    return module


def blender_builder() -> Path:
    """Blender's command line for extensions, inside the bpy package. Raises FileNotFoundError without bpy."""
    spec = importlib.util.find_spec("bpy")
    places = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        for found in place.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"):
            return found
    raise FileNotFoundError("blender_ext.py: install bpy into this Python, or build with blender --command extension")
