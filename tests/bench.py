"""How long a reconstruction takes and what it holds in memory: `make bench`.

A cold run loads the networks and pays for everything that happens once; the warm one after it is what a user waits for
from the second click on. With --repeat the warm run is made again and again, to see whether memory grows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skimage
import torch

from inference import pipeline
from inference.messages import Options

ASTRONAUT = Path(skimage.__file__).parent / "data" / "astronaut.png"  # NASA, public domain
WARM_LIMIT_S = 12.0  # what the project promises on 2 cores
MEMORY_LIMIT_MB = 2500.0
GROWTH_LIMIT_MB = 200.0  # over ten reconstructions in one process
SETTLED_AFTER = 2  # runs: until then caches and thread pools still fill


@dataclass(frozen=True)
class Measured:
    """One reconstruction.

    wall_s, cpu_s: of the whole call, CPU over all threads.
    resident_mb:   what the process holds afterwards; None where the system does not tell.
    report:        the content of head.json.
    """

    wall_s: float
    cpu_s: float
    resident_mb: float | None
    report: dict[str, Any]


def measure(photo: Path, options: Options, models: pipeline.Models) -> Measured:
    """Reconstruct into a throw-away folder and keep the figures."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        report = pipeline.reconstruct(photo, Path(folder) / "head", options, models)
        return Measured(time.perf_counter() - wall, time.process_time() - cpu, resident_mb(), report)


def resident_mb() -> float | None:
    """Memory the process holds now, MB; None without Linux's /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def print_stages(cold: Measured, warm: Measured) -> None:
    """The table of stages, seconds of wall time."""
    print(f"{'stage':<12}{'cold s':>9}{'warm s':>9}{'share':>8}")
    for stage, seconds in warm.report["seconds"].items():
        print(f"{stage:<12}{cold.report['seconds'][stage]:9.2f}{seconds:9.2f}{seconds / warm.wall_s:8.0%}")
    print(f"{'all':<12}{cold.wall_s:9.2f}{warm.wall_s:9.2f}{1:8.0%}")
    print(f"{'CPU':<12}{cold.cpu_s:9.2f}{warm.cpu_s:9.2f}")


def main() -> int:
    """Print the figures; returns 1 if a promise is broken."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--photo", type=Path, default=ASTRONAUT, help="default: the astronaut of scikit-image")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="warm runs (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument("--device", default=defaults.device)
    parser.add_argument("--grid", type=int, default=defaults.grid)
    parser.add_argument("--faces", type=int, default=defaults.faces)
    parser.add_argument("--texture", type=int, default=defaults.texture)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    options = Options(given.model, given.device, given.grid, given.faces, given.texture)
    started = time.perf_counter()
    models = pipeline.load_models(options.model, options.device)
    print(f"{given.photo.name}, model {options.model} on {models.device}, {given.threads} threads")
    print(f"grid {options.grid}, {options.faces} faces, texture {options.texture}")
    print(f"networks loaded in {time.perf_counter() - started:.2f} s\n")

    cold = measure(given.photo, options, models)
    warm = [measure(given.photo, options, models) for _ in range(given.repeat)]
    print_stages(cold, warm[0])
    print(f"\npeak memory {warm[-1].report['peak_memory_mb']} MB")
    default = options == Options()
    peak_mb = warm[-1].report["peak_memory_mb"]
    small = not default or peak_mb is None or peak_mb <= MEMORY_LIMIT_MB
    if not small:
        print(f"more than the {MEMORY_LIMIT_MB:.0f} MB promised for the default quality")
    fast = not default or warm[0].wall_s <= WARM_LIMIT_S
    if not fast:
        print(f"slower than the {WARM_LIMIT_S:.0f} s promised for the default quality on 2 cores")
    return int(not (memory_settles([cold, *warm]) and fast and small))


def memory_settles(runs: list[Measured]) -> bool:
    """Print what the process held after each run; False if it grew more than allowed."""
    held = [run.resident_mb for run in runs if run.resident_mb is not None]
    if len(held) <= SETTLED_AFTER:
        return True
    growth = held[-1] - held[SETTLED_AFTER - 1]
    print("held after each run, MB:", " ".join(f"{megabytes:.0f}" for megabytes in held))
    print(f"growth from run {SETTLED_AFTER} to run {len(held)}: {growth:+.0f} MB (allowed: {GROWTH_LIMIT_MB:.0f})")
    return growth <= GROWTH_LIMIT_MB


if __name__ == "__main__":
    sys.exit(main())
