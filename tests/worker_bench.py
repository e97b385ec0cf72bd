"""Whether one worker can make heads all day: `python -m tests.worker_bench`, part of `make endurance`.

Drives the worker through its pipes, as Blender does, and reads after each head what the process holds. Heads are small,
because what is kept by mistake is kept of each; every tenth goes through all that the options can ask for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import skimage

from inference.batch import WorkerProcess
from inference.messages import Done, Options, Reconstruct
from tests.neck_and_sphere import write_weights

ASTRONAUT = Path(skimage.__file__).parent / "data" / "astronaut.png"  # NASA, public domain
JOBS = 200
GROWTH_LIMIT_MB = 100.0  # from the first ten heads to the last ten
ROUND = 10  # heads, the last of which has everything
SMALL = Options(device="cpu", grid=48, faces=1500, texture=64, refinement="off", detail=False)
FULL = replace(SMALL, texture=128, refinement="fast", symmetry="average", detail=True)


def held_mb(pid: int) -> float:
    """Memory a process holds now, MB; of Linux's /proc."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def growth_mb(held: list[float]) -> float:
    """What the last round of heads held at most, beyond the first round."""
    return max(held[-ROUND:]) - max(held[:ROUND])


def main() -> int:
    """Print the figures; returns 1 if a head is missing or memory grew too much."""
    parser = argparse.ArgumentParser(prog="python -m tests.worker_bench", description=__doc__)
    parser.add_argument("--photo", type=Path, default=ASTRONAUT, help="default: the astronaut of scikit-image")
    parser.add_argument("--jobs", type=int, default=JOBS, help="heads in one worker (default: %(default)s)")
    parser.add_argument("--model", help="default: a sphere on a neck, which is fast")
    given = parser.parse_args()

    held: list[float] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or str(write_weights(Path(folder) / "simple.safetensors"))
        worker = WorkerProcess(threads=1)
        try:
            for job in range(1, given.jobs + 1):
                options = replace(FULL if job % ROUND == 0 else SMALL, model=model)
                answer = worker.make(Reconstruct(str(given.photo), f"{folder}/head", options), threading.Event())
                if not isinstance(answer, Done):
                    print(f"head {job} was not made: {answer}")
                    return 1
                held.append(held_mb(worker.pid))
                if job % ROUND == 0:
                    most = max(held[-ROUND:])
                    print(f"{job:5} heads, {time.monotonic() - started:6.0f} s, {most:6.0f} MB at most", flush=True)
        finally:
            worker.end()
    print(f"growth over {len(held)} heads: {growth_mb(held):+.1f} MB (allowed: {GROWTH_LIMIT_MB:.0f})")
    return int(growth_mb(held) > GROWTH_LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
