"""`python -m training.heads build ...` makes training heads, `python -m training.heads sheet ...` shows some."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build import BuildOptions, build, contact_sheet


def seed_range(text: str) -> tuple[int, int]:
    """'0:800' as (0, 800)."""
    first, last = text.split(":")
    return int(first), int(last)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.heads", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build heads; goes on where an earlier run stopped")
    building.add_argument("--assets", type=Path, required=True, help="folder with makehuman and ICT-FaceKit Light")
    building.add_argument("--out", type=Path, required=True, help="folder for one file per head")
    building.add_argument("--seeds", type=seed_range, default=(0, 800), help="first:last, last not included")
    building.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    sheet = commands.add_parser("sheet", help="draw a contact sheet")
    sheet.add_argument("--assets", type=Path, required=True)
    sheet.add_argument("--out", type=Path, required=True, help="the picture to write")
    sheet.add_argument("--seeds", type=seed_range, default=(0, 8))
    sheet.add_argument("--styles", nargs="*", help="hair styles to force, in turn")
    sheet.add_argument("--columns", type=int, default=1, help="heads side by side; more than one: fewer views")
    sheet.add_argument("--size", type=int, default=192, help="pixels of each view")
    arguments = parser.parse_args()
    if arguments.command == "build":
        first, last = arguments.seeds
        options = BuildOptions(arguments.assets, arguments.out, first, last, arguments.workers)
        print(f"{build(options)} of {last - first} heads are there")
    else:
        seeds = list(range(*arguments.seeds))
        contact_sheet(arguments.assets, arguments.out, seeds, arguments.size, arguments.columns, arguments.styles)


if __name__ == "__main__":
    main()
