"""The one install of the GPU engine that runs in this Blender: a thread, how far it is, and how it ended.

No bpy in here. The thread switches the engine over by itself, so nothing is lost when a file is loaded meanwhile.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from ..inference.messages import Progress
from .gpu_engine import Engine, EngineTrouble, InstallCancelled, LockedFile, install

BEGINNING = Progress(0.0, "Fetching the GPU engine")
CLOSE_PATIENCE_S = 3.0  # for a thread that may be waiting for a server; it ends with Blender in any case


class GpuInstall:
    """Runs an install beside Blender. Only the main thread calls these methods."""

    def __init__(self) -> None:
        self.progress = BEGINNING
        self.trouble: EngineTrouble | None = None  # of the last install, if it failed
        self.engine: Engine | None = None  # of the last install, if it succeeded
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """The thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def cancelling(self) -> bool:
        """It was asked to give up, and has not yet."""
        return self.running and self._cancelled.is_set()

    def start(
        self,
        files: Sequence[LockedFile],
        home: Path,
        source: Path | None,
        python_command: Sequence[str],
        other_paths: Sequence[str],
    ) -> None:
        """Begin; the arguments are those of gpu_engine.install."""
        self.progress, self.trouble, self.engine = BEGINNING, None, None
        # An event of its own: a thread of before that still waits for a server must not come to life again.
        cancelled = self._cancelled = threading.Event()

        def told(fraction: float, label: str) -> None:
            self.progress = Progress(fraction, label)

        def work() -> None:
            try:
                self.engine = install(files, home, source, python_command, other_paths, told, cancelled)
            except EngineTrouble as trouble:
                self.trouble = trouble
            except InstallCancelled:
                pass  # neither an engine nor a trouble
            except Exception as error:  # noqa: BLE001  the thread's border: nobody else would hear of it
                self.trouble = EngineTrouble(
                    "Installing the GPU engine met a problem that Headcast does not know: {reason}.",
                    "Try again, then report it with the lines in the console.",
                    traceback.format_exc(),
                    reason=f"{type(error).__name__}: {error}",
                )

        self._thread = threading.Thread(target=work, name="headcast-gpu-engine", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask it to give up; what has come stays for the next time."""
        self._cancelled.set()

    def wait(self) -> None:
        """Block until it is over, for scripts and for Blender without a window."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Give up and wait for a moment: the add-on goes away."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(CLOSE_PATIENCE_S)


INSTALL = GpuInstall()
