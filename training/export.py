r"""Put a generator and its two encoders into the one file the product carries.

    python -m training.export --generator RUN_G --occluded RUN_O \
        --out inference/weights/starter.safetensors
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference import checkpoints

from .run import config_from_arguments
from .train_occluded import load_visible, new_occluded

LICENCE = "GPL-3.0-or-later; trained only on CC0 and MIT material, free for commercial use"


@dataclass(frozen=True)
class Export:
    """What to put together."""

    generator: Path  # run of generator and visible encoder
    occluded: Path  # run of the occluded encoder
    out: Path


def export(settings: Export) -> str:
    """Write the checkpoint, note its checksum if it is written among the bundled ones; returns the sha256."""
    generator, visible = load_visible(settings.generator)
    state = torch.load(settings.occluded / "state.pt", weights_only=True)["encoder"]
    occluded = new_occluded(visible, generator, completes="lift.known.weight" in state)
    occluded.load_state_dict(state)
    runs = {"generator": settings.generator, "occluded": settings.occluded}
    info = {"licence": LICENCE, "training": {part: summary(run) for part, run in runs.items()}}
    digest = checkpoints.save(settings.out, generator, visible, occluded, settings.out.stem, info)
    if settings.out.resolve().parent == checkpoints.WEIGHTS_FOLDER.resolve():
        checkpoints.note_bundled(settings.out)
    return digest


def summary(run: Path) -> dict[str, Any]:
    """Settings, CPU seconds and last losses of a run; paths are left out."""
    settings = json.loads((run / "config.json").read_text())
    lines = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    # Each start of the run counts its seconds from zero.
    cpu_s = sum(a["cpu_s"] for a, b in zip(lines, [*lines[1:], {"cpu_s": -1}], strict=True) if b["cpu_s"] < a["cpu_s"])
    paths = {"heads", "generator", "run", "start"}
    return {"settings": {k: v for k, v in settings.items() if k not in paths}, "cpu_s": cpu_s, "last": lines[-1]}


if __name__ == "__main__":
    print(export(config_from_arguments(Export, "Put a generator and its two encoders into one file.")))
