"""Whether hostile files end as heads or named errors: `python -m tests.hostile_bench`, part of `make endurance`.

Each goes through the command line's `reconstruct`, one after the other in one process, whose memory's high-water mark
is lowered before each (Linux). A process that dies or does not answer is counted against its file; another one goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from inference import cli
from tests.hostile_images import hostile_image
from tests.neck_and_sphere import write_weights

ROOT = Path(__file__).resolve().parents[1]
COUNT = 1000
TIME_LIMIT_S = 20.0  # of CPU, one thread: the wall tells of whatever else the machine does
MEMORY_LIMIT_MB = 2048.0
HUNG_AFTER_S = 120.0  # on the wall, also of a machine that has much else to do
SMALL = ["--device", "cpu", "--grid", "48", "--faces", "1500", "--texture", "64", "--refinement", "off", "--no-detail"]


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    said:            "head", or the first words of the error; "died", "hung", or the traceback's last line.
    named:           whether it is one of the two ways allowed: a head, or error and hint.
    cpu_s, peak_mb:  of this file alone; the networks that stay in the process count in the memory.
    """

    name: str
    said: str
    named: bool
    wall_s: float
    cpu_s: float
    peak_mb: float

    @property
    def allowed(self) -> bool:
        """Whether it kept all promises."""
        return self.named and self.cpu_s <= TIME_LIMIT_S and self.peak_mb <= MEMORY_LIMIT_MB


def serve(model: str) -> None:
    """The other process: a path a line on stdin, an outcome a line on stdout."""
    from inference import pipeline

    pipeline.load_models = functools.cache(pipeline.load_models)  # once for all files
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(asdict(tried(Path(line.rstrip("\n")), model))), file=answers, flush=True)


def tried(photo: Path, model: str) -> Outcome:
    """The command line's answer to a file."""
    Path("/proc/self/clear_refs").write_text("5")  # lowers the high-water mark to what is held now
    wall, cpu = time.monotonic(), time.process_time()
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = cli.main(["reconstruct", str(photo), "--out", f"{folder}/head", "--model", model, *SMALL])
        made = Path(folder, "head", "head.glb").is_file()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    text = said.getvalue()
    error = re.search(r"^error: (.*)\nhint: .+", text, flags=re.MULTILINE)
    quiet = "Traceback" not in text
    if code == 0:
        return Outcome(photo.name, "head", made and quiet, wall, cpu, int(peak.split()[1]) / 1024)
    words = re.split(r"[:(]", error[1])[0].strip() if error else text[-200:]
    if log := re.search(r"report it with the file (.*\.log)", text):
        words += " " + Path(log[1]).read_text(encoding="utf-8").strip().splitlines()[-1]
        Path(log[1]).unlink()
    named = code == cli.EXIT_KNOWN and error is not None and quiet
    return Outcome(photo.name, words, named, wall, cpu, int(peak.split()[1]) / 1024)


class CommandLine:
    """The process that tries files, and its answers."""

    def __init__(self, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile_bench", "--serve", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, photo: Path) -> Outcome | None:
        """None where it did not answer; it has then ended."""
        assert self._process.stdin
        begun = time.monotonic()
        try:
            self._process.stdin.write(f"{photo}\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=HUNG_AFTER_S)
        except (OSError, queue.Empty):
            line = ""
        if line:
            return Outcome(**json.loads(line))
        said = f"died of {self._process.poll()}" if self._process.poll() is not None else "hung"
        self.end()
        print(f"{photo.name} {said} after {time.monotonic() - begun:.1f} s")
        return None

    def end(self) -> None:
        """Let go of the process."""
        self._process.kill()
        self._process.wait()


def outcomes(seeds: Iterable[int], folder: Path) -> Iterator[Outcome]:
    """What becomes of each file; `folder` is for files that pass."""
    model = str(write_weights(folder / "simple.safetensors"))
    command: CommandLine | None = None
    try:
        for seed in seeds:
            name, content = hostile_image(seed)
            photo = folder / name
            photo.write_bytes(content)
            command = command or CommandLine(model)
            outcome = command.ask(photo)
            if outcome is None:
                command = None
            yield outcome or Outcome(name, "no answer", False, 0.0, 0.0, 0.0)
            photo.unlink()
    finally:
        if command is not None:
            command.end()


def main() -> int:
    """Print what became of all; returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile_bench", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="files (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (default: %(default)s)")
    parser.add_argument("--step", type=int, default=1, help="of the seeds (default: %(default)s)")
    parser.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return 0

    seen: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in outcomes(range(given.first, given.first + given.count * given.step, given.step), Path(folder)):
            seen.append(outcome)
            if not outcome.allowed:
                print(f"NOT ALLOWED: {outcome}", flush=True)
            if len(seen) % 50 == 0:
                print(f"{len(seen)} files", flush=True)
    for said, count in Counter(outcome.said for outcome in seen).most_common():
        print(f"{count:5}  {said}")
    for figure, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_mb", "MB")):
        worst = max(seen, key=lambda outcome: getattr(outcome, figure))
        print(f"most {figure}: {getattr(worst, figure):.1f} {unit}, {worst.name}")
    broken = sum(not outcome.allowed for outcome in seen)
    print(f"{len(seen)} files, {broken} not allowed")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
