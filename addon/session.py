"""The one job a Blender runs at a time, a head, a model or a check: its worker, how far it is, what went wrong last.

No bpy in here, and nothing of this is kept in the scene: a failed or cancelled job leaves the .blend as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..inference.messages import Cancelled, Convert, Examine, Failed, Job, Outcome, Progress, Reconstruct
from .worker_client import WorkerClient

BEGINNING = Progress(0.0, "Starting the engine")


@dataclass(frozen=True)
class WorkerPlace:
    """Where the worker runs; the arguments of WorkerClient."""

    python_command: tuple[str, ...]
    root: Path
    extra_paths: tuple[str, ...]


class Session:
    """Keeps the worker warm between jobs and remembers what the panel shows."""

    def __init__(self) -> None:
        self.progress = BEGINNING
        self.cancelling = False
        self.failure: Failed | None = None  # of the last job, if it failed
        self.warnings: Sequence[str] = ()  # of the last job, if it succeeded
        self.kind: type[Job] = Reconstruct  # of the last job: the panel tells of heads, the preferences of models
        self.running = False  # from submit until `finish`: the operator still has to bring the head into the scene
        self._client: WorkerClient | None = None
        self._place: WorkerPlace | None = None

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker while it lives."""
        return self._client.pid if self._client else None

    @property
    def converting(self) -> bool:
        """A model is being added."""
        return self.running and self.kind is Convert

    @property
    def examining(self) -> bool:
        """The doctor looks at the installation."""
        return self.running and self.kind is Examine

    @property
    def occupation(self) -> str:
        """Why another job has to wait, in words for a tooltip."""
        if self.examining:
            return "The installation is being checked"
        return "A model is being added" if self.converting else "A head is being reconstructed"

    def submit(self, place: WorkerPlace, job: Job) -> None:
        """Ask for a head, a model or a check. A worker of another Python is ended first: some seconds."""
        if self._client is None or self._place != place:
            self.close()
            self._client, self._place = WorkerClient(place.python_command, place.root, place.extra_paths), place
        self.progress, self.cancelling, self.failure, self.warnings = BEGINNING, False, None, ()
        self.kind, self.running = type(job), True
        self._client.submit(job)

    def poll(self, wait_s: float = 0.0) -> Outcome | None:
        """Take in what the worker has said; how the job ended, once it has."""
        if self._client is None:
            return Cancelled()
        for message in self._client.poll(wait_s):
            if isinstance(message, Progress):
                self.progress = message
            elif isinstance(message, Outcome):
                return message
        return None

    def cancel(self) -> None:
        """Ask the worker to give up; `poll` brings Cancelled, at the latest when the client's patience ends."""
        if self._client and self.running:
            self.cancelling = True
            self._client.cancel()

    def finish(
        self, failure: Failed | None = None, warnings: Sequence[str] = (), kind: type[Job] = Reconstruct
    ) -> None:
        """The job is over for the user: free the buttons, and keep what panel or preferences shall say about it."""
        self.running, self.cancelling, self.kind = False, False, kind
        self.failure, self.warnings = failure, tuple(warnings)

    def close(self) -> None:
        """End the worker, also in the middle of a job; blocks until the process is gone, a few seconds at most."""
        if self._client:
            self._client.close()
        self._client, self._place = None, None
        self.running, self.cancelling = False, False


SESSION = Session()
