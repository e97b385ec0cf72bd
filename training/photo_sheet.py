"""Run the whole product on a folder of photos: one table of how each head fits, and a sheet to look at.

    python -m training.photo_sheet --photos DIR --out DIR

A photo that the product refuses is listed with its error's name. Each row of the sheet is a photo: portrait, input
view, +45, -45, both profiles, back and top, in the texture and in grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inference import pipeline
from inference.errors import HeadcastError
from inference.messages import Options
from inference.preview import contact_rows
from inference.progress import Stages, silent
from inference.surface import height_m, is_watertight

from .run import config_from_arguments

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class PhotoSheet:
    """Settings."""

    photos: Path
    out: Path
    model: str = "starter"
    grid: int = 256
    faces: int = 30_000
    texture: int = 1024
    refinement: str = Options.refinement
    size: int = 160  # px of a picture on the sheet
    a_sheet: int = 10  # photos on one sheet; more make the picture too tall to look at
    threads: int = 2


def run(settings: PhotoSheet) -> str:
    """Write `table.md` and `sheet_N.png` into the folder; returns the table."""
    torch.set_num_threads(settings.threads)
    models = pipeline.load_models(settings.model, "cpu")
    options = Options(settings.model, "cpu", settings.grid, settings.faces, settings.texture, 0, settings.refinement)
    lines = ["| photo | yaw | IoU | landmark NME | seen | height m | closed | s |", "|---" * 8 + "|"]
    rows: list[NDArray[np.uint8]] = []
    overlaps = []
    for path in sorted(p for p in settings.photos.iterdir() if p.suffix.lower() in SUFFIXES):
        stages = Stages(pipeline.SHARES, silent)
        try:
            made = pipeline.make_head(path, options, models, stages)
        except HeadcastError as error:
            lines.append(f"| {path.stem} | {type(error).__name__}: {error.message} | | | | | | |")
            continue
        quality, seconds = made.quality, sum(stages.seconds.values())
        overlaps.append(quality.matte_iou)
        nme = "no face" if quality.landmark_nme is None else f"{quality.landmark_nme:.3f}"
        lines.append(
            f"| {path.stem} | {made.portrait.pose.yaw_deg:.0f} | {quality.matte_iou:.3f} | {nme} | "
            f"{quality.visible_share:.2f} | {height_m(made.mesh):.3f} | {is_watertight(made.mesh)} | {seconds:.1f} |"
        )
        print(lines[-1], flush=True)
        rows.append(np.asarray(contact_rows(made.head, made.portrait, settings.size)))
    lines.append(f"| median of {len(overlaps)} heads | | {np.median(overlaps):.3f} | | | | | |")
    settings.out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), settings.a_sheet), 1):
        sheet = np.concatenate(rows[start : start + settings.a_sheet])
        Image.fromarray(sheet).save(settings.out / f"sheet_{number}.png")
    table = "\n".join(lines) + "\n"
    (settings.out / "table.md").write_text(table)
    return table


if __name__ == "__main__":
    print(run(config_from_arguments(PhotoSheet, "Run the whole product on a folder of photos.")))
