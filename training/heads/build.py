"""Build many heads, one file each, in several processes; and look at them on a contact sheet."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from inference.face_networks import FaceNetworks, load_face_networks

from .head import Head, build_head
from .lighting import sky_visibility
from .rig import Rig, load_rig
from .samples import BACKDROP, render_view, sample_head

MOST_ATTEMPTS = 4  # draws for one seed before it is given up
SHEET_DIRECTIONS_DEG = ((0, 0), (40, 5), (90, 0), (180, 0), (-60, 15), (0, -20))
SHORT_SHEET_DIRECTIONS_DEG = ((0, 0), (50, 5), (180, 0))  # where many heads share a sheet


@dataclass(frozen=True)
class BuildOptions:
    assets: Path  # folder with `makehuman`, `ict_facekit_light.npz`
    out: Path  # folder the files go to
    first: int  # seeds first <= seed < last
    last: int
    workers: int


def head_path(folder: Path, seed: int) -> Path:
    """The file of a head."""
    return folder / f"{seed:05d}.npz"


def draw_head(rig: Rig, seed: int, attempt: int = 0, style: str | None = None) -> tuple[Head, np.random.Generator]:
    """The head of a seed, and the generator that goes on to draw its samples."""
    rng = np.random.default_rng([seed, attempt])
    return build_head(rig, rng, style), rng


def build_one(rig: Rig, seed: int, folder: Path, face: FaceNetworks) -> str:
    """Build, audit and write the head of a seed; returns a line for the log."""
    started = time.process_time()
    rejected = []
    for attempt in range(MOST_ATTEMPTS):
        head, rng = draw_head(rig, seed, attempt)
        arrays, fault = sample_head(head, seed, rng, face)
        if not fault:
            break
        rejected.append(f"{head.look.style}: {fault}")
    else:
        return f"{seed:05d} GIVEN UP after {'; '.join(rejected)}"
    unfinished = folder / f".{seed:05d}.{os.getpid()}.tmp"
    with open(unfinished, "wb") as file:
        np.savez(file, **arrays)
    os.replace(unfinished, head_path(folder, seed))  # readers never see half a file
    redrawn = f" (redrawn: {'; '.join(rejected)})" if rejected else ""
    return f"{seed:05d} {head.look.style} {head.look.hair_colour} {time.process_time() - started:.1f} CPU-s{redrawn}"


def _work(assets: Path, folder: Path, seeds: multiprocessing.Queue, log: multiprocessing.Queue) -> None:
    rig, face = load_rig(assets), load_face_networks()
    while (seed := seeds.get()) is not None:
        if head_path(folder, seed).exists():
            continue
        log.put(build_one(rig, seed, folder, face))
    log.put(None)


def build(options: BuildOptions) -> int:
    """Build all heads that are missing; returns how many files the folder then has of the range."""
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the workers: two jobs of one thread beat one of two
    options.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    seeds, log = context.Queue(), context.Queue()
    todo = [seed for seed in range(options.first, options.last) if not head_path(options.out, seed).exists()]
    for seed in todo + [None] * options.workers:
        seeds.put(seed)
    workers = [
        context.Process(target=_work, args=(options.assets, options.out, seeds, log)) for _ in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    started, finished, running = time.time(), 0, len(workers)
    while running:
        line = log.get()
        if line is None:
            running -= 1
            continue
        finished += 1
        rate = (time.time() - started) / finished
        print(f"{line}  [{finished}/{len(todo)}, {rate:.1f} s a head]", flush=True)
    for worker in workers:
        worker.join()
    return sum(head_path(options.out, seed).exists() for seed in range(options.first, options.last))


def contact_sheet(
    assets: Path, out: Path, seeds: list[int], size: int, columns: int = 1, styles: list[str] | None = None
) -> None:
    """A picture of heads on grey, `columns` of them side by side, each seen from several sides."""
    rig = load_rig(assets)
    directions = SHEET_DIRECTIONS_DEG if columns == 1 else SHORT_SHEET_DIRECTIONS_DEG
    tiles = []
    for k, seed in enumerate(seeds):
        head, rng = draw_head(rig, seed, style=styles[k % len(styles)] if styles else None)
        visibility = sky_visibility(head, rng)
        views = [
            render_view(head, visibility, azimuth, elevation, np.random.default_rng(seed), size)
            for azimuth, elevation in directions
        ]
        opacity = np.concatenate([view.matte for view in views], axis=1)[..., None] / 255
        colour = np.concatenate([view.image for view in views], axis=1)
        tiles.append((colour * opacity + BACKDROP * (1 - opacity)).astype(np.uint8))
        print(f"{seed:05d} {head.look.style} {head.look.hair_colour}", flush=True)
    tiles += [np.full_like(tiles[0], BACKDROP)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows)).save(out)
