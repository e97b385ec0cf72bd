"""Headcast without Blender: `python -m inference reconstruct PHOTO --out DIR`, and more.

`rebuild`, `rebake` and `reroll` make a finished head again from its folder, `rig` makes it animatable; `convert` is for
published weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TextIO

from .errors import BadOption, HeadcastError, UnexpectedFailure, known_failure
from .messages import Options, report_of
from .progress import Cancelled
from .waiting import wait_asleep

EXIT_UNEXPECTED = 1
EXIT_KNOWN = 2
EXIT_INTERRUPTED = 130  # what shells use for Ctrl-C
BAR_WIDTH = 24  # characters
LABEL_WIDTH = 28  # characters; the longest stage name
SHAPE_OPTIONS = ("grid", "faces", "seed", "refinement", "neck", "symmetry")  # without a say where the mesh is given
OPTION_HELP = {
    "model": "name, or a .safetensors file",
    "device": "auto, cpu, cuda or mps",
    "grid": "detail of the shape",
    "faces": "triangles",
    "texture": "pixels a side",
    "seed": "which version of what the photo does not show",
    "refinement": "fit to the photo: off, fast or best",
    "neck": "closed by a cap, or open",
    "symmetry": "both sides alike: off, average of both, or mirror the one seen better",
    "detail": "carry the photo's fine detail of hair and skin on over the unseen side",
    "mirror_face": "paint the half of the face that is hidden like the one that is seen",
    "delight": "share of the photo's light and gloss that is taken out of the colours, 0 to 1",
}


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
    add_options(job)
    many = commands.add_parser(
        "batch",
        help="make heads from many photos; goes on where it was stopped",
        description="A folder with a head for each photo, a table (batch.csv) and a contact sheet. Run it again to go "
        "on: heads that are there, of the same photo and options, stay.",
    )
    many.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders with some")
    many.add_argument("-o", "--out", type=Path, metavar="DIR", required=True, help="folder for the heads' folders")
    many.add_argument("--workers", type=int, default=1, help="heads made at a time, 2 GB each (default: %(default)s)")
    many.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="processes of this computer, or a Ray cluster, for which the package ray is needed (default: %(default)s)",
    )
    many.add_argument(
        "--address", metavar="HOST:PORT", help="of a running Ray cluster, or auto (default: one is started here)"
    )
    add_options(many)
    add_reuse(commands)
    add_rig(commands)
    add_convert(commands)
    look = commands.add_parser(
        "doctor",
        help="see whether this computer is ready",
        description="Look at packages, devices, memory and weights, and make a small head as a test. Sends nothing "
        "anywhere; names no person and no folder, so the text can be sent along with a question.",
    )
    defaults = Options()
    look.add_argument("--model", default=defaults.model, help="name, or a .safetensors file (default: %(default)s)")
    look.add_argument("--device", default=defaults.device, help="auto, cpu, cuda or mps (default: %(default)s)")
    return parser


def add_options(job: argparse.ArgumentParser, without: Container[str] = (), kept: bool = False) -> None:
    """The flags of `Options` but for some. Of a `kept` head, those that are not given stay as they were."""
    kept_from = "as the head was made" if kept else "%(default)s"
    for option in fields(Options):
        if option.name in without:
            continue
        kind: dict[str, Any] = {"type": type(option.default)}
        if isinstance(option.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        job.add_argument(
            f"--{option.name.replace('_', '-')}",
            default=argparse.SUPPRESS if kept else option.default,
            help=f"{OPTION_HELP[option.name]} (default: {kept_from})",
            **kind,
        )


def add_reuse(commands: argparse._SubParsersAction[_Parser]) -> None:
    """The commands that make a finished head again from its folder, without its photo."""
    rebuild = commands.add_parser("rebuild", help="make a finished head again, at other options")
    rebake = commands.add_parser("rebake", help="paint an edited or retopologised mesh that lies on a finished head")
    reroll = commands.add_parser("reroll", help="another version of what the photo does not show")
    for job in (rebuild, rebake, reroll):
        job.add_argument("folder", type=Path, metavar="FOLDER", help="of the finished head")
        job.add_argument("-o", "--out", type=Path, metavar="DIR", required=True, help="folder that appears")
    rebake.add_argument(
        "--mesh", type=Path, metavar="FILE", required=True, help="GLB, OBJ or PLY: metres, +Y up, where the head lies"
    )
    reroll.add_argument("--seed", type=int, required=True, help="which version; 0 is the one made by default")
    add_options(rebuild, kept=True)
    add_options(rebake, SHAPE_OPTIONS, kept=True)
    add_options(reroll, {option.name for option in fields(Options)} - {"model", "device"}, kept=True)


def add_rig(commands: argparse._SubParsersAction[_Parser]) -> None:
    """The command that makes a finished head animatable."""
    rig = commands.add_parser(
        "rig",
        help="make a finished head rig-ready",
        description="Fit an animatable head with clean topology, 52 face shapes and bones to a finished head, and "
        "write it into the same folder, beside head.glb: rig.npz, with hair as a solid apart, and pictures of skin "
        "(rig_skin.png, with normals and gloss as rig_normal.png and rig_surface.png), eyes, mouth and hair.",
    )
    rig.add_argument("folder", type=Path, metavar="FOLDER", help="of the finished head")
    add_options(rig, {option.name for option in fields(Options)} - {"model", "device", "texture"}, kept=True)


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
    wait_asleep()
    bar = ProgressBar(sys.stderr)
    try:
        given = make_parser().parse_args(arguments)
        again = dict.fromkeys(("rebuild", "rebake", "reroll"), make_again)
        made = {"reconstruct": reconstruct, "batch": batch, "rig": rig, "convert": convert, "doctor": doctor}
        run = (made | again)[given.command]
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

    options = Options(**{option.name: getattr(given, option.name) for option in fields(Options)})
    pipeline.check_options(options)
    bar(0.0, "Loading the model")
    models = pipeline.load_models(options.model, options.device)
    report = pipeline.reconstruct(given.photo, given.out, options, models, bar)
    tell(report, given.out, bar)


def batch(given: argparse.Namespace, bar: ProgressBar) -> int:
    """The command of that name; returns the exit code, that of a known error where a photo gave no head."""
    from . import batch, pipeline

    options = Options(**{option.name: getattr(given, option.name) for option in fields(Options)})
    pipeline.check_options(options)
    if given.address is not None and given.engine != "ray":
        raise BadOption("An address is for a Ray cluster only.", "Add --engine ray.")

    def told(outcome: batch.Outcome, done: int, count: int) -> None:
        bar.end()
        words = f": {outcome.words}" if outcome.words else ""
        print(f"{done}/{count} {outcome.entry.photo.name} {outcome.result}{words}", file=sys.stderr)

    try:
        if given.engine == "ray":
            from .ray_cluster import cluster

            batch.check_workers(given.workers)
            with cluster(given.address, given.workers, options.device) as start:
                outcomes = batch.run(given.photos, given.out, options, given.workers, told, start)
        else:
            outcomes = batch.run(given.photos, given.out, options, given.workers, told)
    except KeyboardInterrupt:
        bar.end()
        print("cancelled; finished heads stay, and the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(given.out / batch.TABLE)
    return EXIT_KNOWN if any(outcome.report is None for outcome in outcomes) else 0


def make_again(given: argparse.Namespace, bar: ProgressBar) -> None:
    """The commands rebuild, rebake and reroll; raises what those of `reuse` raise."""
    bar(0.0, "Starting the engine")
    from . import pipeline, reuse

    known = {option.name for option in fields(Options)} - ({"seed"} if given.command == "reroll" else set())
    options, notes = reuse.folder_options(given.folder, {k: v for k, v in vars(given).items() if k in known})
    bar(0.0, "Loading the model")
    models = pipeline.load_models(options.model, options.device)
    if given.command == "rebuild":
        report = reuse.rebuild(given.folder, given.out, options, models, bar, notes)
    elif given.command == "rebake":
        report = reuse.rebake(given.folder, given.mesh, given.out, options, models, bar, notes)
    else:
        report = reuse.reroll(given.folder, given.out, given.seed, options, models, bar, notes)
    tell(report, given.out, bar)


def rig(given: argparse.Namespace, bar: ProgressBar) -> None:
    """The command of that name; raises what `make_rig` raises."""
    bar(0.0, "Starting the engine")
    from . import pipeline, reuse
    from .rigging.make_rig import make_rig

    changes = {name: value for name, value in vars(given).items() if name in ("model", "device", "texture")}
    options, notes = reuse.folder_options(given.folder, changes)
    bar(0.0, "Loading the model")
    models = pipeline.load_models(options.model, options.device)
    report = make_rig(given.folder, options, models, bar, notes)
    bar.end()
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    for name in report["files"]:
        print(given.folder / name)


def tell(report: Mapping[str, Any], out_dir: Path, bar: ProgressBar) -> None:
    """Print what a finished head's user should know, and where it is."""
    bar.end()
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(out_dir / "head.glb")


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
    from .doctor import examine

    findings = examine(given.model, given.device, bar)
    bar.end()
    print(report_of(findings))
    return EXIT_KNOWN if any(finding.trouble for finding in findings) else 0


def with_log(failure: HeadcastError) -> UnexpectedFailure:
    """The failure with a hint that names a file, which holds the traceback being handled."""
    handle, path = tempfile.mkstemp(prefix="headcast-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
        log.write(traceback.format_exc())
    return UnexpectedFailure(failure.message, f"Try again; if it happens again, report it with the file {path}.")
