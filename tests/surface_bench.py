"""CPU seconds, exactness and faithfulness of the starter's surface: the second part of `make bench`.

The astronaut's head is made up to its density, fitted to the photo and carved as a user's is. Promises are CPU seconds
over all threads: two cores are promised half of them, and a machine that does other things too still tells the truth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inference import pipeline
from inference.messages import Options
from inference.progress import Stages, silent
from inference.silhouette import FALL, ColouredField
from inference.surface import (
    METRES_PER_UNIT,
    DensityField,
    Mesh,
    decimate,
    extract,
    head_lattice,
    march,
    sample_near_surface,
)
from tests.bench import ASTRONAUT
from tests.full_size_bench import SAME_SURFACE, Row, Table, dense_volume, largest_difference

SURFACE_LIMITS_S = {256: 3.0, 512: 16.0}  # CPU, by cells along the box: 1.5 s and 8 s on two cores
MEMORY_LIMIT_MB = 2500.0
FACES = (30_000, 10_000, 5_000)
# Millimetres between the middle of a face and the surface, 95th percentile over the faces of a part of the head.
DEVIATION_LIMITS_MM = {
    "face": {30_000: 0.08, 10_000: 0.15, 5_000: 0.25},
    "ears": {30_000: 0.06, 10_000: 0.10, 5_000: 0.16},
    "scalp": {30_000: 0.06, 10_000: 0.14, 5_000: 0.30},
}
LONG_FACE = 10.0  # longest side over height: beyond, a face is a needle
NEEDLES_LIMIT = 2.0  # per cent


def fitted_field(photo: Path, options: Options) -> ColouredField:
    """The density of a photo's head, as `pipeline.make_head` gives it to the surface."""
    models = pipeline.load_models(options.model, "cpu")
    source = pipeline.imagine(photo, options, models, Stages(pipeline.shares_of(models.head), silent))
    whole = source.whole(models.head.generator)
    fitted = pipeline.fitted(source, whole, options.refinement, models, silent)
    return pipeline.field_of(fitted, whole, options.symmetry, models)


def parts_of_head(points: NDArray[np.floating]) -> dict[str, NDArray[np.bool_]]:
    """Which of the points (n, 3) of the head frame lie on the face, about the ears, and on the scalp behind them."""
    x, y, z = points.T
    ears = (np.abs(np.abs(x) - 0.15) < 0.05) & (np.abs(y + 0.05) < 0.08) & (np.abs(z - 0.01) < 0.07)
    face = (np.abs(x) < 0.12) & (y > -0.24) & (y < 0.06) & (z > 0.08)
    return {"face": face, "ears": ears, "scalp": (z < -0.03) & (y > -0.15) & ~ears}


def deviation_mm(mesh: Mesh, field: DensityField) -> dict[str, float]:
    """By part of the head: 95th percentile of the distance between the middle of a face and the level, first order."""
    middles = mesh.vertices[mesh.faces].mean(axis=1)
    distance = np.abs(field.density(middles.astype(np.float32)) - field.level) / FALL
    return {
        part: float(np.percentile(distance[there], 95)) * METRES_PER_UNIT * 1e3
        for part, there in parts_of_head(middles).items()
    }


def needles_per_cent(mesh: Mesh) -> float:
    """Share of the faces that are needles, the flat cap of the neck not counted."""
    corners = mesh.vertices[mesh.faces]
    corners = corners[(corners[..., 1] > mesh.vertices[:, 1].min()).any(axis=1)]
    longest = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max(axis=1)
    doubled_area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return float((longest**2 > LONG_FACE * doubled_area).mean() * 100)


def measure_surface(
    table: Table, field: DensityField, compared: int, grids: tuple[int, ...], faces: tuple[int, ...]
) -> None:
    """Time and exactness of finding the surface, time of cleaning it, and what decimation costs.

    compared: cells along the box, where coarse to fine is held against dense evaluation.
    grids:    cells along the box that are timed; the first of them is decimated to each of `faces`.
    """
    for grid in grids:
        lattice = head_lattice(field.box_side, grid)
        with table.timed(f"surface at {grid}^3", SURFACE_LIMITS_S.get(grid)):
            found = march(sample_near_surface(field, lattice, silent), lattice)
        with table.timed(f"decimation to {faces[0]} at {grid}^3"):
            decimate(found, faces[0], lattice.cell)
    for count in faces:
        mesh = extract(field, grids[0], count, silent)
        for part, distance in deviation_mm(mesh, field).items():
            table.add(Row(f"{part} with {count} faces, 95 %", distance, "mm", DEVIATION_LIMITS_MM[part].get(count)))
        table.add(Row(f"needles with {count} faces", needles_per_cent(mesh), "%", NEEDLES_LIMIT))
    lattice = head_lattice(field.box_side, compared)
    near_surface = march(sample_near_surface(field, lattice, silent), lattice)
    difference = largest_difference(near_surface, march(dense_volume(field, lattice), lattice))
    table.add(Row(f"coarse to fine against dense at {compared}^3", difference, "box units", SAME_SURFACE))


def main() -> int:
    """Print the table; returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.surface_bench", description=__doc__)
    parser.add_argument("--photo", type=Path, default=ASTRONAUT, help="default: the astronaut of scikit-image")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    print(f"the starter's surface of {given.photo.name} on the CPU, {given.threads} threads, torch {torch.__version__}")
    print(f"{'':<42}{'':>10} {'':<10}{'wall s':>9}  limit")
    table = Table()
    measure_surface(table, fitted_field(given.photo, Options()), 256, (256, 512), FACES)
    table.add_memory(MEMORY_LIMIT_MB)
    return int(not table.kept)


if __name__ == "__main__":
    sys.exit(main())
