"""Headcast without Blender: `python -m inference reconstruct PHOTO --out DIR`, and `convert` for published weights."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, TextIO

from .errors import BadOption, HeadcastError, UnexpectedFailure, known_failure
from .messages import Options
from .progress import Cancelled

EXIT_UNEXPECTED = 1
EXIT_KNOWN = 2
EXIT_INTERRUPTED = 130  # what shells use for Ctrl-C
BAR_WIDTH = 24  # characters
LABEL_WIDTH = 28  # characters; the longest stage name


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in the same two lines as every other error."""

    def error(self, message: str) -> NoReturn:
        raise BadOption(f"{message[0].upper()}{message[1:]}.", f"Run `{self.prog} --help`.")


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options; defaults are those of `Options`."""
    parser = _Parser(prog="python -m inference", description="One portrait photo to a textured head.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    job = commands.add_parser("reconstruct", help="make a head from a photo")
    job.add_argument("photo", type=Path, metavar="PHOTO", help="JPEG, PNG, TIFF or WebP with a face")
    job.add_argument("-o", "--out", type=Path, metavar="DIR", required=True, help="folder that appears with the head")
    defaults = Options()
    job.add_argument("--model", default=defaults.model, help="name, or a .safetensors file (default: %(default)s)")
    job.add_argument("--device", default=defaults.device, help="auto, cpu, cuda or mps (default: %(default)s)")
    job.add_argument("--grid", type=int, default=defaults.grid, help="detail of the shape (default: %(default)s)")
    job.add_argument("--faces", type=int, default=defaults.faces, help="triangles (default: %(default)s)")
    job.add_argument("--texture", type=int, default=defaults.texture, help="pixels a side (default: %(default)s)")
    job.add_argument("--seed", type=int, default=defaults.seed, help="of random choices (default: %(default)s)")
    job.add_argument(
        "--refinement", default=defaults.refinement, help="fit to the photo: off, fast or best (default: %(default)s)"
    )
    job.add_argument("--neck", default=defaults.neck, help="closed by a cap, or open (default: %(default)s)")
    job.add_argument(
        "--symmetry",
        default=defaults.symmetry,
        help="both sides alike: off, average of both, or mirror the one seen better (default: %(default)s)",
    )
    job.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=defaults.mirror,
        help="paint the hidden half of the face like the seen one (default: %(default)s)",
    )
    job.add_argument(
        "--delight",
        type=float,
        default=defaults.delight,
        help="share of the photo's light and gloss taken out of the colours, 0 to 1 (default: %(default)s)",
    )
    add_convert(commands)
    look = commands.add_parser(
        "doctor",
        help="see whether this computer is ready",
        description="Look at packages, devices, memory and weights, and make a small head as a test. Sends nothing "
        "anywhere; names no person and no folder, so the text can be sent along with a question.",
    )
    look.add_argument("--model", default=defaults.model, help="name, or a .safetensors file (default: %(default)s)")
    look.add_argument("--device", default=defaults.device, help="auto, cpu, cuda or mps (default: %(default)s)")
    return parser


def add_convert(commands: argparse._SubParsersAction[_Parser]) -> None:
    """The command that makes a model file of published weights."""
    command = commands.add_parser(
        "convert",
        help="make a model file of PanoHead's published weights",
        description="Make one .safetensors file of PanoHead's published generator and, if they are given too, of the "
        "dual encoders published for it; without them reconstruct takes minutes longer. The files are read without "
        "running any code in them. The weights are not Headcast's and are for non-commercial use only.",
    )
    command.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="SOURCE",
        help="easy-khair-180-gpc0.8-trans10-025000.pkl, or the FILE made of it before, alone or in any order with "
        "visible_net.pt, occluded_net.pt and latent_avg.npy",
    )
    command.add_argument(
        "-o", "--out", type=Path, metavar="FILE", required=True, help="the .safetensors file, which appears whole"
    )
    command.add_argument("--force", action="store_true", help="replace FILE if it exists (default: leave it and stop)")


class ProgressBar:
    """A bar that stays on one line of a terminal; elsewhere, such as in a log, one line for each stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._label = ""
        self._line = ""

    def __call__(self, fraction: float, label: str) -> None:
        """Progress of `pipeline.reconstruct`."""
        if self._terminal:
            filled = round(fraction * BAR_WIDTH)
            line = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {fraction:4.0%} {label:<{LABEL_WIDTH}}"
            line = line[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be overwritten
            if line != self._line:
                self._write("\r" + line)
                self._line = line
        elif label != self._label:
            self._write(f"{fraction:4.0%} {label}\n")
        self._label = label

    def end(self) -> None:
        """Leave the line to whatever is printed next."""
        if self._line:
            self._write("\n")
            self._line = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 a known error, 1 an unknown one, 130 Ctrl-C."""
    bar = ProgressBar(sys.stderr)
    try:
        given = make_parser().parse_args(arguments)
        run = {"reconstruct": reconstruct, "convert": convert, "doctor": doctor}[given.command]
        return run(given, bar) or 0
    except (KeyboardInterrupt, Cancelled):
        bar.end()
        print("cancelled; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  the border: a user never sees a traceback
        bar.end()
        failure = known_failure(error)
        if isinstance(failure, UnexpectedFailure):
            failure = with_log(failure)
        print(f"error: {failure.message}\nhint: {failure.hint}", file=sys.stderr)
        return EXIT_UNEXPECTED if isinstance(failure, UnexpectedFailure) else EXIT_KNOWN


def reconstruct(given: argparse.Namespace, bar: ProgressBar) -> None:
    """The command of that name; raises what `pipeline.reconstruct` raises."""
    bar(0.0, "Starting the engine")
    from . import pipeline  # here, because torch takes seconds to import and --help must not

    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    pipeline.check_options(options)
    bar(0.0, "Loading the model")
    models = pipeline.load_models(options.model, options.device)
    report = pipeline.reconstruct(given.photo, given.out, options, models, bar)
    bar.end()
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(given.out / "head.glb")


def convert(given: argparse.Namespace, bar: ProgressBar) -> None:
    """The command of that name; raises what `conversion.convert` raises."""
    bar(0.0, "Starting the engine")
    from . import conversion

    converted = conversion.convert(given.sources, given.out, given.force, bar)
    bar.end()
    print(converted.path)
    print(f"size: {converted.size / 1e6:.1f} MB")
    print(f"sha256: {converted.sha256}")
    print(f"licence: {converted.licence}")


def doctor(given: argparse.Namespace, bar: ProgressBar) -> int:
    """The command of that name; returns the exit code, that of a known error where anything is wrong."""
    from .doctor import examine, report

    findings = examine(given.model, given.device, bar)
    bar.end()
    print(report(findings))
    return EXIT_KNOWN if any(finding.trouble for finding in findings) else 0


def with_log(failure: HeadcastError) -> UnexpectedFailure:
    """The failure with a hint that names a file, which holds the traceback being handled."""
    handle, path = tempfile.mkstemp(prefix="headcast-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
        log.write(traceback.format_exc())
    return UnexpectedFailure(failure.message, f"Try again; if it happens again, report it with the file {path}.")
