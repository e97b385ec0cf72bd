"""python -m wheels: lock, fetch and check the engine's packages; build the extension zip."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .extension import ROOT, build
from .lock import PLATFORM_TAGS, PYTHONS, LockedWheel, WheelMismatch, check, fetch, load_lock, resolve, write_lock


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 2 with a line on stderr when not."""
    parser = argparse.ArgumentParser(prog="python -m wheels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock", help="ask the package index which wheels are wanted, and write lock.json")
    for name, words in (("fetch", "download the locked wheels"), ("check", "compare a folder with the lock")):
        command = commands.add_parser(name, help=words)
        _add_platform(command, required=True)
    command = commands.add_parser("extension", help="build and validate the extension zip")
    command.add_argument("--out", type=Path, default=ROOT / "out", help="folder for the zip")
    _add_platform(command, required=False)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "lock":
            return _lock()
        folder, wheels = _wheels(chosen)
        if chosen.command == "check":
            check(wheels, folder)
            return 0
        if wheels:
            fetch(wheels, folder)
        if chosen.command == "extension":
            print(build(chosen.out, wheels, folder))
    except (WheelMismatch, FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _lock() -> int:
    """Lock every platform whose wheels can all be had, and name the others."""
    wheels: list[LockedWheel] = []
    for platform in PLATFORM_TAGS:
        for python in PYTHONS:
            try:
                wheels += resolve(platform, python)
            except subprocess.CalledProcessError:
                print(f"not locked: {platform} with Python {python}", file=sys.stderr)
    write_lock(wheels)
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
