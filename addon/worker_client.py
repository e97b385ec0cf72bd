"""The worker process seen from Blender: started, asked, listened to, killed when it hangs, never left behind.

No bpy in here. Nothing blocks except `close` and a `poll` that is told to wait: a timer or a modal operator drives it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from ..inference.messages import (
    WORKER_DIED,
    WORKER_NOT_STARTED,
    BadMessage,
    Cancel,
    Cancelled,
    Close,
    Failed,
    Job,
    Message,
    Outcome,
    Progress,
    decode,
    encode,
)

CANCEL_PATIENCE_S = 5.0  # a worker that has not answered a Cancel by then is killed
CLOSE_PATIENCE_S = 3.0  # the worker gives a running job 2 s to stop before it ends itself
LOG_LINES = 60  # of the worker's stderr, kept for bug reports: a traceback through torch fits
STRANGE_PREFIXES = ("PYTHON", "PIP_")  # variables meant for another Python than the worker's
STRANGE_NAMES = ("VIRTUAL_ENV", "CONDA_PREFIX")


class WorkerBusy(RuntimeError):
    """A job was submitted while another one runs; the panel's poll prevents it."""


class _Process:
    """One life of the worker: its process, the two threads that drain its pipes, and what it has said so far."""

    def __init__(self, command: Sequence[str]) -> None:
        self.inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()  # None: the worker has ended
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(os.environ),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would flash a console
        )
        assert self.popen.stdin and self.popen.stdout and self.popen.stderr  # PIPE was asked for
        self.stdin = self.popen.stdin
        # Daemons, so that a Blender that crashes its way out does not wait for them.
        self.threads = [
            threading.Thread(target=self._drain_log, args=(self.popen.stderr,), daemon=True),
            threading.Thread(target=self._drain_messages, args=(self.popen.stdout,), daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _drain_log(self, stderr: IO[bytes]) -> None:
        for line in stderr:
            self.log.append(line.decode("utf-8", errors="replace").rstrip())

    def _drain_messages(self, stdout: IO[bytes]) -> None:
        for line in stdout:
            try:
                self.inbox.put(decode(line))
            except BadMessage as error:
                self.log.append(str(error))
        self.threads[0].join(timeout=1.0)  # the last words arrive before the news of the end
        self.inbox.put(None)

    def send(self, message: Message) -> bool:
        """Whether the worker could still be written to."""
        try:
            self.stdin.write(encode(message))
            self.stdin.flush()
        except (OSError, ValueError):  # broken pipe; or closed on our side
            return False
        return True

    def alive(self) -> bool:
        return self.popen.poll() is None

    def end(self, patience_s: float) -> None:
        """Close the pipe and wait, kill if that is not enough, then join: afterwards nothing of it is left."""
        with contextlib.suppress(OSError):  # what was still buffered cannot be written to a dead process
            self.stdin.close()
        try:
            self.popen.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for thread in self.threads:
            thread.join(timeout=1.0)
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()


class WorkerClient:
    """Sends one job at a time to a worker and hands out what it says.

    python_command: how to start a Python under -I, such as [sys.executable, *bpy.app.python_args].
    root:           folder that holds the packages `inference` and `addon` (the extension's own folder).
    extra_paths:    folders with the wheels the worker needs, searched after that Python's own packages.
    clock:          seconds that only grow; a test may bring its own.
    """

    def __init__(
        self,
        python_command: Sequence[str],
        root: Path,
        extra_paths: Sequence[Path | str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        starter = Path(root) / "inference" / "start_worker.py"
        self.command = [*python_command, str(starter), str(root), *map(str, extra_paths)]
        self._clock = clock
        self._process: _Process | None = None
        self._busy = False
        self._cancelled_at: float | None = None
        self._again: Job | None = None  # the job, as long as it may be given to another process
        self._unstarted: Failed | None = None  # news of a start that failed, for the next poll

    @property
    def busy(self) -> bool:
        """A job was submitted and its outcome has not been handed out by `poll` yet."""
        return self._busy

    @property
    def pid(self) -> int | None:
        """Process id while the worker lives."""
        return self._process.popen.pid if self._process and self._process.alive() else None

    @property
    def log(self) -> str:
        """The last lines the worker wrote to stderr."""
        return "\n".join(self._process.log) if self._process else ""

    def start(self) -> bool:
        """Start the worker unless it runs; False if that Python cannot be started. `submit` does this by itself."""
        if self._process:
            if self._process.alive():
                return True
            self._process.end(patience_s=0.0)
            self._process = None
        try:
            self._process = _Process(self.command)
        except OSError as error:
            self._unstarted = replace(WORKER_NOT_STARTED, log=f"{self.command}\n{error}")
            return False
        atexit.unregister(self.close)
        atexit.register(self.close)
        self._unstarted = None
        return True

    def submit(self, job: Job) -> None:
        """Ask for a head or a model; a worker that died is started again. Trouble comes as Failed from `poll`.

        Raises WorkerBusy while another job runs.
        """
        if self._busy:
            raise WorkerBusy
        self._busy, self._cancelled_at = True, None
        # A process from before may be dying unseen: then the job goes to a new one. Not so for a process of its own.
        self._again = job if self.pid else None
        if self.start() and self._process:
            self._process.send(job)  # if that fails, the end of the process is on its way to the inbox

    def cancel(self) -> None:
        """Ask the worker to give up the running job; `poll` hands out Cancelled, at the latest after 5 s."""
        if self._busy and self._cancelled_at is None and self._process:
            self._cancelled_at = self._clock()
            self._process.send(Cancel())

    def poll(self, wait_s: float = 0.0) -> list[Message]:
        """Everything the worker has said since the last call; with `wait_s`, waits that long for a first word."""
        messages: list[Message] = []
        if self._unstarted and self._busy:
            messages.append(self._unstarted)
            self._unstarted = None
        elif self._process:
            messages += self._heard(self._process, wait_s)
        if any(isinstance(message, Progress) for message in messages):
            self._again = None  # the worker has taken the job
        self._busy = self._busy and not any(isinstance(m, Outcome) for m in messages)
        if self._busy and self._cancelled_at is not None and self._clock() - self._cancelled_at > CANCEL_PATIENCE_S:
            self._kill()
            self.start()
            messages.append(Cancelled())
            self._busy = False
        return messages

    def close(self) -> None:
        """End the worker and everything that belongs to it; the client may be used again afterwards."""
        if self._process:
            self._process.send(Close())
            self._process.end(CLOSE_PATIENCE_S)
            self._process = None
        self._busy, self._cancelled_at, self._unstarted = False, None, None
        atexit.unregister(self.close)

    def _heard(self, process: _Process, wait_s: float) -> list[Message]:
        messages: list[Message] = []
        try:
            word = process.inbox.get(timeout=wait_s) if wait_s > 0 else process.inbox.get_nowait()
            while word is not None:
                messages.append(word)
                word = process.inbox.get_nowait()
        except queue.Empty:
            return messages
        process.end(patience_s=1.0)  # its stdout has ended, so it is on its way out
        self._process = None
        if not self._busy or any(isinstance(message, Outcome) for message in messages):
            return messages
        if self._again and not any(isinstance(message, Progress) for message in messages):
            again, self._again = self._again, None
            if self.start() and self._process:
                self._process.send(again)
            return messages
        ended = f"worker ended with exit code {process.popen.returncode}"
        messages.append(replace(WORKER_DIED, log="\n".join([*process.log, ended])))
        return messages

    def _kill(self) -> None:
        if self._process:
            self._process.popen.kill()
            self._process.end(patience_s=1.0)
            self._process = None


def clean_environment(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """The environment without what would lead the worker's Python to another Python's packages."""
    return {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(STRANGE_PREFIXES) and name.upper() not in STRANGE_NAMES
    }
