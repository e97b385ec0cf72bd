"""Many photos, a head each: goes on where it was stopped, tries again where a process died, and ends with a table.

Heads are made by workers, the processes Blender uses too (see worker.py) or those of a cluster (see ray_cluster.py), so
that a photo which brings one down costs that photo another try and not the batch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from .errors import BadOption, OutputNotWritable, PhotoMissing
from .job_folder import check_writable
from .messages import WORKER_DIED, Close, Done, Failed, Options, Progress, Reconstruct, decode, encode

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})  # of photos in a folder
START_WORKER = Path(__file__).with_name("start_worker.py")
TRIES = 3  # of a photo whose worker died; known failures would only fail again
NAME_DIGITS = 8  # of the content's SHA-256, after names that several photos have
RECORD, TABLE, SHEET = "batch.json", "batch.csv", "contact_sheet.png"
SHEET_WIDTH = 1024  # px of a preview on the contact sheet
COLUMNS = ("photo", "folder", "result", "seconds", "matte_iou", "landmark_nme", "visible_share", "words")


@dataclass(frozen=True)
class Entry:
    """One photo of a batch. `sha256` is of its content, `folder` the name of its head's folder."""

    photo: Path
    sha256: str
    folder: str


@dataclass(frozen=True)
class Outcome:
    """What became of a photo.

    result:  "made", "kept" from an earlier run, or "failed".
    words:   warnings of a head; of a failure, what happened and what to do.
    report:  head.json's content, None of a failure.
    seconds: on the clock, all tries together.
    """

    entry: Entry
    result: str
    words: str
    report: dict[str, Any] | None
    seconds: float


class HeadWorker(Protocol):
    """Somebody who makes heads one after the other; used by one thread."""

    def make(self, request: Reconstruct, stop: threading.Event) -> Done | Failed | None:
        """The answer; None when the worker died, or gave up because of `stop`."""

    def end(self) -> None:
        """Let it go, dead or alive."""


def gather(sources: Iterable[Path]) -> list[Entry]:
    """The photos among files and folders, in order of their folders' names; one entry where contents are the same.

    A folder gives the photos in it, not those of folders below. Raises PhotoMissing, BadOption.
    """
    photos: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise BadOption(f"The folder {source} holds no photo.", "Name photos, or a folder with some.")
            photos += inside
        elif source.is_file():
            photos.append(source)
        else:
            raise PhotoMissing(f"The photo {source} does not exist.")
    by_content: dict[str, Path] = {}
    for photo in photos:
        with photo.open("rb") as file:
            by_content.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), photo)
    stems = [photo.stem.lower() for photo in by_content.values()]  # some file systems know no capitals
    entries = [
        # A name must not depend on which other photos are named before it, or a second run would not find it.
        Entry(photo, digest, photo.stem + (f"-{digest[:NAME_DIGITS]}" if stems.count(photo.stem.lower()) > 1 else ""))
        for digest, photo in by_content.items()
    ]
    return sorted(entries, key=lambda entry: entry.folder)


def run(
    sources: Sequence[Path],
    out_dir: Path,
    options: Options,
    workers: int,
    told: Callable[[Outcome, int, int], None],
    start: Callable[[], HeadWorker] | None = None,
) -> list[Outcome]:
    """Make the heads that are missing in `out_dir`, then write the table and the contact sheet.

    workers: processes at a time; each holds the model's networks and two gigabytes at the default quality.
    told:    called after each photo with its outcome, how many are done and how many there are.
    start:   starts a worker, one for each of `workers` and one more whenever one died; processes of this computer
             unless given.
    Raises PhotoMissing, BadOption, OutputNotWritable; what happens to a single photo is in its outcome.
    """
    check_workers(workers)
    start = start or partial(WorkerProcess, max(1, (os.cpu_count() or 1) // workers))
    entries = gather(sources)
    _make_folder(out_dir)
    record = Record.read(out_dir)
    outcomes: dict[str, Outcome] = {}
    waiting: queue.SimpleQueue[Entry] = queue.SimpleQueue()
    for entry in entries:
        if (report := record.kept(entry, options)) is not None:
            outcomes[entry.folder] = Outcome(entry, "kept", words_of(report), report, 0.0)
            told(outcomes[entry.folder], len(outcomes), len(entries))
        else:
            waiting.put(entry)
    finished: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    threads = [
        threading.Thread(target=_work, args=(out_dir, options, waiting, finished, stop, start), daemon=True)
        for _ in range(min(workers, waiting.qsize()))
    ]
    for thread in threads:
        thread.start()
    try:
        while len(outcomes) < len(entries):
            made = finished.get()
            if isinstance(made, BaseException):
                raise made
            outcomes[made.entry.folder] = made
            if made.report is not None:
                record.note(made.entry, options)
            told(made, len(outcomes), len(entries))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    ordered = [outcomes[entry.folder] for entry in entries]
    write_table(ordered, out_dir / TABLE)
    write_sheet(ordered, out_dir)
    return ordered


def check_workers(workers: int) -> None:
    """Raises BadOption."""
    if workers < 1:
        raise BadOption(f"The number of workers cannot be {workers}.", "Choose 1 or more.")


@dataclass
class Record:
    """Which photo, by content, and which options each head of the folder was made from."""

    out_dir: Path
    made: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, out_dir: Path) -> Record:
        """What an earlier run left; nothing of a file that cannot be read, whose heads are then made anew."""
        try:
            made = json.loads((out_dir / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            made = {}
        return cls(out_dir, made if isinstance(made, dict) else {})

    def kept(self, entry: Entry, options: Options) -> dict[str, Any] | None:
        """The report of the head an earlier run made of this photo with these options, None without one."""
        if self.made.get(entry.folder) != {"sha256": entry.sha256, "options": asdict(options)}:
            return None
        try:
            report = json.loads((self.out_dir / entry.folder / "head.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return report if (self.out_dir / entry.folder / "head.glb").is_file() else None

    def note(self, entry: Entry, options: Options) -> None:
        """Remember a head; the file is replaced whole."""
        self.made[entry.folder] = {"sha256": entry.sha256, "options": asdict(options)}
        fresh = self.out_dir / (RECORD + ".part")
        fresh.write_text(json.dumps(self.made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(fresh, self.out_dir / RECORD)


class WorkerProcess:
    """A worker and its pipes; used by one thread."""

    def __init__(self, threads: int) -> None:
        # Two processes of one thread each make more heads than one of two; torch would give each process all cores.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(START_WORKER), str(START_WORKER.parent.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def make(self, request: Reconstruct, stop: threading.Event) -> Done | Failed | None:
        """The worker's answer; None when it died, or was ended because of `stop`."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(encode(request))
            self._process.stdin.flush()
        except OSError:
            return None
        for line in self._process.stdout:
            message = decode(line)
            if isinstance(message, Done | Failed):
                return message
            if isinstance(message, Progress) and stop.is_set():
                break
        return None

    def end(self) -> None:
        """Let it end by itself, or make it."""
        try:
            if self._process.stdin:
                self._process.stdin.write(encode(Close()))
                self._process.stdin.close()
            self._process.wait(timeout=5.0)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def _work(
    out_dir: Path,
    options: Options,
    waiting: queue.SimpleQueue[Entry],
    finished: queue.SimpleQueue[Outcome | BaseException],
    stop: threading.Event,
    start: Callable[[], HeadWorker],
) -> None:
    """One thread: photos through a worker of its own, until none waits."""
    worker: HeadWorker | None = None
    try:
        while not stop.is_set():
            try:
                entry = waiting.get_nowait()
            except queue.Empty:
                return
            started = time.monotonic()
            answer: Done | Failed | None = None
            for _ in range(TRIES):
                worker = worker or start()
                answer = worker.make(Reconstruct(str(entry.photo), str(out_dir / entry.folder), options), stop)
                if answer is not None or stop.is_set():
                    break
                worker.end()
                worker = None
            if stop.is_set():
                return
            finished.put(outcome_of(entry, answer or WORKER_DIED, time.monotonic() - started))
    except BaseException as error:  # noqa: BLE001  told to the main thread, which raises it
        finished.put(error)
    finally:
        if worker is not None:
            worker.end()


def outcome_of(entry: Entry, answer: Done | Failed, seconds: float) -> Outcome:
    """A worker's answer as an outcome."""
    if isinstance(answer, Done):
        return Outcome(entry, "made", words_of(answer.report), answer.report, seconds)
    return Outcome(entry, "failed", f"{answer.message} {answer.hint}", None, seconds)


def words_of(report: dict[str, Any]) -> str:
    """The warnings of a head."""
    return " ".join(report.get("warnings", ()))


def write_table(outcomes: Sequence[Outcome], path: Path) -> None:
    """A line for each photo, COLUMNS as its head; comma-separated values of RFC 4180."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for outcome in outcomes:
            quality = (outcome.report or {}).get("quality", {})
            figures = [quality.get(name) for name in ("matte_iou", "landmark_nme", "visible_share")]
            table.writerow([
                outcome.entry.photo.name,
                outcome.entry.folder if outcome.report is not None else "",
                outcome.result,
                f"{outcome.seconds:.1f}",
                *("" if figure is None else f"{figure:.3f}" for figure in figures),
                outcome.words,
            ])  # fmt: skip


def write_sheet(outcomes: Sequence[Outcome], out_dir: Path) -> None:
    """The previews of all heads below each other; none, and an earlier one removed, where there is no head."""
    previews = []
    for outcome in outcomes:
        if outcome.report is not None:
            with Image.open(out_dir / outcome.entry.folder / "preview.png") as picture:
                height = round(picture.height * SHEET_WIDTH / picture.width)
                previews.append(picture.convert("RGB").resize((SHEET_WIDTH, height), Image.Resampling.LANCZOS))
    if not previews:
        (out_dir / SHEET).unlink(missing_ok=True)
        return
    sheet = Image.new("RGB", (SHEET_WIDTH, sum(preview.height for preview in previews)))
    top = 0
    for preview in previews:
        sheet.paste(preview, (0, top))
        top += preview.height
    sheet.save(out_dir / SHEET)


def _make_folder(out_dir: Path) -> None:
    """Raises OutputNotWritable."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritable(f"The output folder {out_dir} cannot be made ({error.strerror}).") from error
    check_writable(out_dir / "head")
