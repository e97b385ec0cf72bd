"""The worker process: JSON lines in, JSON lines out, one job at a time, weights kept warm between heads.

The main thread works; a reader thread listens, so that a Cancel or the end of stdin is heard in the middle of a job.
A running job answers its Cancel itself, at its next call of `progress`; while the engine is still being imported there
are no such calls, so then the reader thread answers.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from .errors import known_failure
from .messages import (
    BadMessage,
    Cancel,
    Cancelled,
    Close,
    Convert,
    Converted,
    Done,
    Examine,
    Examined,
    Failed,
    Job,
    Message,
    Options,
    Outcome,
    Progress,
    Ready,
    Rebake,
    Rebuild,
    Reconstruct,
    Reuse,
    Rig,
    decode,
    encode,
)
from .progress import Cancelled as JobCancelled
from .progress import Progress as ReportProgress
from .waiting import wait_asleep

if TYPE_CHECKING:
    from .pipeline import Models

CLOSE_PATIENCE_S = 2.0  # a running job may stop by itself that long after Close or the end of stdin
PROGRESS_PAUSE_S = 0.05  # chunk loops call often; a panel redraws 20 times a second at most


@dataclass
class _Job:
    """A request, the flag that the reader thread raises when it is given up, and whether Blender has its answer."""

    request: Job
    given_up: threading.Event = field(default_factory=threading.Event)
    answered: bool = False


class Worker:
    """Answers each job read from `requests` on `answers`, until Close or the end."""

    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # None: no more will come
        self._speaking = threading.Lock()
        self._engine_runs = threading.Event()  # the first job has imported torch
        # Model and device of the last head, its file's time and size, and its networks.
        self._warm: tuple[tuple[str, str, int, int], Models] | None = None

    def run(self) -> None:
        """Work until there is nothing more to come."""
        self._say(Ready(os.getpid(), platform.python_version()))
        threading.Thread(target=self._listen, name="headcast-requests", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            self._answer(job, self._outcome(job))

    def _listen(self) -> None:
        """Reader thread: queue jobs, raise flags, and see to it that the process ends when Blender is gone."""
        latest: _Job | None = None
        for line in self._requests:
            try:
                message = decode(line)
            except BadMessage as error:
                print(error, file=sys.stderr)
                continue
            if isinstance(message, Job):
                latest = _Job(message)
                self._jobs.put(latest)
            elif isinstance(message, Cancel) and latest:
                latest.given_up.set()
                if not self._engine_runs.is_set():
                    self._answer(latest, Cancelled())
            elif isinstance(message, Close):
                break
        if latest:
            latest.given_up.set()
        self._jobs.put(None)
        time.sleep(CLOSE_PATIENCE_S)
        os._exit(0)  # the main thread is inside a long C call; nobody waits for its result any more

    def _outcome(self, job: _Job) -> Outcome:
        progress = self._progress(job)
        try:
            progress(0.0, "Starting the engine")
            if isinstance(job.request, Convert):
                return self._convert(job.request, progress)
            if isinstance(job.request, Examine):
                return self._examine(job.request, progress)
            if isinstance(job.request, Reuse):
                return self._reuse(job.request, progress)
            if isinstance(job.request, Rig):
                return self._rig(job.request, progress)
            return self._reconstruct(job.request, progress)
        except JobCancelled:
            return Cancelled()
        except Exception as error:  # noqa: BLE001  the border: all is told to Blender, nothing ends the worker
            trace = traceback.format_exc()
            print(trace, file=sys.stderr)
            failure = known_failure(error)
            return Failed(failure.message, failure.hint, failure.remedy, log=trace)

    def _reconstruct(self, request: Reconstruct, progress: ReportProgress) -> Done:
        from . import pipeline  # here: torch takes seconds, so under a label, and its absence can be told

        self._engine_runs.set()
        models = self._models(request.options, progress)
        report = pipeline.reconstruct(Path(request.photo), Path(request.out_dir), request.options, models, progress)
        return Done(request.out_dir, report)

    def _reuse(self, request: Reuse, progress: ReportProgress) -> Done:
        from . import reuse  # here, for the same reason

        self._engine_runs.set()
        folder, out_dir = Path(request.folder), Path(request.out_dir)
        options, notes = reuse.folder_options(folder, request.changes)
        models = self._models(options, progress)
        if isinstance(request, Rebuild):
            report = reuse.rebuild(folder, out_dir, options, models, progress, notes)
        elif isinstance(request, Rebake):
            mesh, own_uv_only = Path(request.mesh), request.own_uv_only
            report = reuse.rebake(folder, mesh, out_dir, options, models, progress, notes, own_uv_only)
        else:
            report = reuse.reroll(folder, out_dir, request.seed, options, models, progress, notes)
        return Done(request.out_dir, report)

    def _rig(self, request: Rig, progress: ReportProgress) -> Done:
        from . import reuse  # here, for the same reason
        from .rigging.make_rig import make_rig

        self._engine_runs.set()
        folder = Path(request.folder)
        options, notes = reuse.folder_options(folder, request.changes)
        report = make_rig(folder, options, self._models(options, progress), progress, notes)
        return Done(request.folder, report)

    def _models(self, options: Options, progress: ReportProgress) -> Models:
        """The networks, warm from the last head if it had the same model and device."""
        from . import checkpoints, pipeline

        progress(0.0, "Loading the model")
        # A model may have been removed, or another of its name been added, since it was warmed.
        file = checkpoints.find(options.model).stat()
        which = (options.model, options.device, file.st_mtime_ns, file.st_size)
        if self._warm is None or self._warm[0] != which:
            self._warm = None  # frees the old networks before the new ones come
            self._warm = (which, pipeline.load_models(options.model, options.device))
        return self._warm[1]

    def _convert(self, request: Convert, progress: ReportProgress) -> Converted:
        from . import model_copy  # here, for the same reason

        self._engine_runs.set()
        self._warm = None  # a conversion needs the memory
        sources = [Path(source) for source in request.sources]
        made = model_copy.convert_or_copy(sources, Path(request.out), progress)
        return Converted(str(made.path), made.sha256)

    def _examine(self, request: Examine, progress: ReportProgress) -> Examined:
        from . import doctor

        # `_engine_runs` is left alone: whether the engine starts at all is for the doctor to find out.
        self._warm = None  # the doctor tells how much memory is free
        return Examined(tuple(doctor.examine(request.model, request.device, progress)))

    def _progress(self, job: _Job) -> ReportProgress:
        """Progress that raises JobCancelled once the job is given up, and tells Blender as often as it can redraw."""
        told_at, told_label, highest = -PROGRESS_PAUSE_S, "", 0.0

        def progress(fraction: float, label: str) -> None:
            nonlocal told_at, told_label, highest
            if job.given_up.is_set():
                raise JobCancelled
            highest = max(highest, min(fraction, 1.0))
            now = time.monotonic()
            if label != told_label or now - told_at >= PROGRESS_PAUSE_S:
                told_at, told_label = now, label
                self._tell(job, Progress(highest, label))

        return progress

    def _tell(self, job: _Job, message: Message) -> None:
        """Say something of a job, unless its answer has been given."""
        with self._speaking:
            if not job.answered:
                self._say(message)

    def _answer(self, job: _Job, message: Message) -> None:
        """Say how a job ended; only the first to do so is heard."""
        with self._speaking:
            if not job.answered:
                job.answered = True
                self._say(message)

    def _say(self, message: Message) -> None:
        try:
            self._answers.write(encode(message))
            self._answers.flush()
        except OSError:
            raise SystemExit from None  # Blender is gone; there is nobody to work for


def private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The wire to Blender, out of reach of every library: what they print goes to stderr, what they read is empty."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a print of a path with accents must not raise on Windows
    return requests, answers


def main() -> NoReturn:
    """Serve Blender until it closes the pipe, then end the process."""
    wait_asleep()
    requests, answers = private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in Blender's terminal is Blender's to answer
    with contextlib.suppress(SystemExit):  # Blender is gone
        Worker(requests, answers).run()
    sys.stderr.flush()
    os._exit(0)  # Python's own end takes torch apart piece by piece: up to 7 s on a busy computer
