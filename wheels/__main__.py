"""python -m wheels: lock, fetch and check the engine's packages; build the extension zip, or a repository of zips."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

from .extension import MANIFEST, ROOT, build, build_repository, with_wheels
from .lock import (
    PLATFORM_TAGS,
    PYTHONS,
    TARGETS,
    LockedWheel,
    WheelMismatch,
    check,
    fetch,
    load_lock,
    locked_targets,
    resolve,
    write_lock,
)
from .pytorch_index import NotPublished
from .rules import complaints


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 2 with a line on stderr when not."""
    parser = argparse.ArgumentParser(prog="python -m wheels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock", help="ask the package index which wheels are wanted, and write lock.json")
    commands.add_parser("gpu-lock", help="ask PyPI what the GPU engine is made of, and write addon/gpu_lock.json")
    for name, words in (
        ("fetch", "download the locked wheels"),
        ("check", "hold the locked wheels against Blender's rules, offline; with --platform also a folder's files"),
        ("manifest", "print the extension's manifest with the wheels in it"),
    ):
        command = commands.add_parser(name, help=words)
        _add_platform(command, required=name != "check")
    command = commands.add_parser("repository", help="make a folder of extension zips a repository for Blender")
    command.add_argument("folder", type=Path)
    command = commands.add_parser("extension", help="build and validate the extension zip")
    command.add_argument("--out", type=Path, default=ROOT / "out", help="folder for the zip")
    _add_platform(command, required=False)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "lock":
            return _lock()
        if chosen.command == "gpu-lock":
            return _gpu_lock()
        if chosen.command == "repository":
            print(build_repository(chosen.folder))
            return 0
        folder, wheels = _wheels(chosen)
        if chosen.command == "check":
            return _check(folder, wheels)
        if chosen.command == "manifest":
            print(with_wheels((ROOT / MANIFEST).read_text(encoding="utf-8"), wheels), end="")
            return 0
        if wheels:
            fetch(wheels, folder)
        if chosen.command == "extension":
            print(build(chosen.out, wheels, folder))
    except (WheelMismatch, NotPublished, URLError, FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _lock() -> int:
    """Lock all platforms and Pythons, or none: each that does not resolve is named, and the lock stays as it was."""
    wheels: list[LockedWheel] = []
    failed: list[str] = []
    for platform, python in TARGETS:
        try:
            own = resolve(platform, python)
        except subprocess.CalledProcessError:
            failed.append(f"{platform} with Python {python} does not resolve: pip's words are above")
        except (OSError, NotPublished) as error:
            failed.append(f"{platform} with Python {python} does not resolve: {error}")
        else:
            wheels += own
            size = sum(wheel.size for wheel in own) / 1e6
            print(f"{platform} with Python {python}: {len(own)} wheels, {size:.0f} MB")
    if failed:
        raise WheelMismatch("\n".join([*failed, "lock.json is left as it was"]))
    write_lock(wheels)
    return 0


def _gpu_lock() -> int:
    """Lock the GPU engine and tell what it weighs. Its module needs pip, which the other commands do without."""
    from .gpu_lock import lock_gpu, write_gpu_lock

    wheels = lock_gpu()
    write_gpu_lock(wheels)
    for target in sorted({(wheel.platform, wheel.python) for wheel in wheels}):
        own = [wheel for wheel in wheels if (wheel.platform, wheel.python) == target]
        size, unpacked = sum(wheel.size for wheel in own) / 1e9, sum(wheel.unpacked for wheel in own) / 1e9
        about = "" if all(wheel.measured for wheel in own) else "about "
        sizes = f"{about}{size:.2f} GB, unpacked {about}{unpacked:.2f} GB"
        print(f"{target[0]} with Python {target[1]}: {len(own)} wheels, {sizes}")
    return 0


def _check(folder: Path, wheels: list[LockedWheel]) -> int:
    """The lock of one target and its folder, or of all targets; 2 with a line for each fault."""
    targets = [(wheels[0].platform, wheels[0].python)] if wheels else locked_targets()
    found = [line for target in targets for line in complaints(load_lock(*target), *target)]
    if found:
        raise WheelMismatch("\n".join(found))
    if wheels:
        check(wheels, folder)
    for platform, python in targets:
        size = sum(wheel.size for wheel in load_lock(platform, python)) / 1e6
        print(f"{platform} with Python {python}: {len(load_lock(platform, python))} wheels, {size:.0f} MB, sound")
    return 0


def _add_platform(command: argparse.ArgumentParser, required: bool) -> None:
    command.add_argument("--platform", choices=sorted(PLATFORM_TAGS), required=required, help="carry wheels for it")
    command.add_argument("--python", choices=PYTHONS, default=PYTHONS[0], help="Python of that Blender")


def _wheels(chosen: argparse.Namespace) -> tuple[Path, list[LockedWheel]]:
    if chosen.platform is None:
        return ROOT, []
    folder = ROOT / "wheels" / f"{chosen.platform}-cp{chosen.python.replace('.', '')}"
    return folder, load_lock(chosen.platform, chosen.python)


if __name__ == "__main__":
    sys.exit(main())
