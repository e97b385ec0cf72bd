"""The real worker, with its labels written down and its death at one of them.

    mortal_worker.py LABEL NOTES -I start_worker.py ROOT FOLDER ...

NOTES gets each label of the progress on a line of its own. At the first LABEL, once Blender has been told of it, the
time is the last line, and the process kills itself as the system kills one that takes too much memory.
LABEL "": it lives.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

label, notes, root, folders = sys.argv[1], Path(sys.argv[2]), sys.argv[5], sys.argv[6:]
sys.path[:] = [root, *sys.path[1:], *folders]

from inference import worker  # noqa: E402

told_by_worker = worker.Worker._progress


def progress_of(self: worker.Worker, job: worker._Job) -> Callable[[float, str], None]:
    """The worker's own progress, and what is said above."""
    tell = told_by_worker(self, job)

    def progress(fraction: float, said: str) -> None:
        tell(fraction, said)
        with notes.open("a", encoding="utf-8") as lines:
            lines.write(said + "\n")
            if said == label:
                lines.write(f"{time.time()}\n")
                lines.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    return progress


worker.Worker._progress = progress_of  # type: ignore[method-assign]
worker.main()
