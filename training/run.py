"""A training run on disk: its config, state to resume from, and curves. Lives outside the repository."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

Config = TypeVar("Config")

WARM_UP_STEPS = 50  # Adam's moments know nothing yet
FINAL_RATE = 0.02  # of the learning rate, at the end of the cosine


def config_from_arguments(kind: type[Config], description: str) -> Config:
    """Fill a dataclass from the command line: one flag per field, defaults as in the class.

    A field of type `tuple[str, ...]` takes any number of words.
    """
    parser = argparse.ArgumentParser(description=description)
    casts = {"Path": Path, "Path | None": Path, "int": int, "float": float, "str": str}
    for item in fields(kind):  # type: ignore[arg-type]
        flag = "--" + item.name.replace("_", "-")
        if item.type == "tuple[str, ...]":
            parser.add_argument(flag, nargs="*", default=item.default)
            continue
        required = item.default is MISSING
        cast = casts[str(item.type)]
        parser.add_argument(flag, type=cast, required=required, default=None if required else item.default)
    values = vars(parser.parse_args())
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def learning_rate(step: int, steps: int) -> float:
    """Share of the base rate: a short warm-up, then a cosine down to `FINAL_RATE`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


@dataclass
class Run:
    """Folder of one run: `config.json`, `state.pt` (weights and optimiser) and `curve.jsonl`."""

    folder: Path
    every: int = 200  # steps between saves and lines of the curve

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sums: dict[str, float] = {}
        self._count = 0
        self._wall, self._cpu = time.time(), time.process_time()

    def note_config(self, config: Any) -> None:
        """Keep what the run was started with beside its result."""
        (self.folder / "config.json").write_text(json.dumps(asdict(config), default=str, indent=1))

    def resume(self) -> dict[str, Any] | None:
        """The last saved state, or None for a new run."""
        path = self.folder / "state.pt"
        return torch.load(path, weights_only=True) if path.exists() else None

    def save(self, state: dict[str, Any]) -> None:
        """Write the state so that a crash leaves the old one or the new one, never half of it."""
        partial = self.folder / "state.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "state.pt")

    def record(self, step: int, values: dict[str, float]) -> bool:
        """Add a step's losses; every `every` steps writes their means to the curve and returns True."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % self.every:
            return False
        means = {name: round(total / self._count, 5) for name, total in self._sums.items()}
        line = {
            "step": step,
            "wall_s": round(time.time() - self._wall),
            "cpu_s": round(time.process_time() - self._cpu),
            **means,
        }
        with (self.folder / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        self._sums, self._count = {}, 0
        return True

    def note_check(self, step: int, values: dict[str, float]) -> None:
        """Write a measurement on held-out heads to `checks.jsonl`."""
        line = json.dumps({"step": step, "cpu_s": round(time.process_time() - self._cpu), **values})
        with (self.folder / "checks.jsonl").open("a") as checks:
            checks.write(line + "\n")
        print(line, flush=True)


def seed_everything(seed: int, step: int) -> np.random.Generator:
    """Seed torch and give numpy's generator; depends on the step, so that a resumed run goes on with new draws."""
    torch.manual_seed(seed + step)
    return np.random.default_rng([seed, step])
