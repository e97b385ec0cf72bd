"""Measure a model on the held-out synthetic heads: one table, and one sheet to look at.

    python -m training.evaluate --heads HEADS --model inference/weights/starter.safetensors --out DIR

Each held-out head is seen from views near 0, 30 and 60 degrees. Rows are the visible encoder alone, the occluded one
alone, and both stitched; columns the shape, and the colour on the side the view saw and on the side it did not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from inference import checkpoints
from inference.camera import Camera, camera_from_vector, orbit_camera, project
from inference.encoders import PortraitEncoder
from inference.errors import NoSurface
from inference.field import Field
from inference.generator import TriPlaneGenerator
from inference.progress import silent
from inference.raster import rasterise_view
from inference.stitching import occlusion_mask, stitch
from inference.surface import Mesh, extract, vertex_normals
from inference.tri_grid import TriGrid

from .dataset import HeadSet
from .run import config_from_arguments

AZIMUTHS_DEG = (0.0, 30.0, 60.0)  # of the input views; the nearest rendered one is taken
GRID, FACES = 128, 40_000  # of the mesh that is measured; the finest the training points can tell apart
SHEET_VIEWS_DEG = (None, 45.0, -45.0, 90.0, 180.0)  # None is the input view
SHEET_SIZE = 160  # px a picture
SEEN_SLACK = 0.03  # box units behind the view's depth that count as seen
SAMPLES = 20_000  # surface points compared


@dataclass(frozen=True)
class Evaluation:
    """Settings."""

    heads: Path
    model: str
    out: Path
    limit: int = 16  # held-out heads
    sheet: int = 6  # of them on the sheet
    threads: int = 1


def evaluate(settings: Evaluation) -> str:
    """Write `table.md` and `sheet.png` into the folder; returns the table."""
    torch.set_num_threads(settings.threads)
    model = checkpoints.load(settings.model)
    heads = HeadSet(settings.heads, held_out=True, limit=settings.limit)
    heads.refresh()
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows: list[NDArray[np.uint8]] = []
    for index in range(len(heads.heads)):
        for azimuth_deg in AZIMUTHS_DEG:
            view = nearest_view(heads.heads[index], azimuth_deg)
            camera = camera_from_vector(heads.heads[index]["cameras"][view])
            grids = tri_grids(model, heads.portrait(index, view, None), camera)
            for name, grid in grids.items():
                try:
                    mesh = extract(Field(model.generator, grid), GRID, FACES, silent)
                except NoSurface:
                    sums[name]["no surface"].append(1.0)
                    continue
                field = Field(model.generator, grid)
                for measure, value in measures(mesh, field, heads.heads[index], view, camera).items():
                    sums[name][measure].append(value)
                if name == "stitched" and azimuth_deg == AZIMUTHS_DEG[index % 3] and len(rows) < settings.sheet:
                    portrait = heads.portrait(index, view, None)[:3].transpose(1, 2, 0)
                    rows.append(sheet_row(portrait, mesh, field, camera))
    settings.out.mkdir(parents=True, exist_ok=True)
    names = sorted({measure for per_row in sums.values() for measure in per_row})
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, per_row in sums.items():
        cells = [f"{np.mean(per_row[m]):.3f}" if m in per_row else "0" for m in names]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    table = "\n".join(lines) + "\n"
    (settings.out / "table.md").write_text(table)
    Image.fromarray(np.concatenate(rows)).save(settings.out / "sheet.png")
    return table


def nearest_view(head: dict[str, NDArray], azimuth_deg: float) -> int:
    """Index of the view whose azimuth, to either side, is nearest."""
    azimuth = np.abs((head["azimuth_elevation"][:, 0] + 180) % 360 - 180)
    return int(np.abs(azimuth - azimuth_deg).argmin())


def tri_grids(
    model: checkpoints.HeadModel, portrait: NDArray[np.float32], camera: Camera
) -> dict[str, TriGrid]:
    """Each encoder's tri-grid of a portrait (4, h, w), and the two stitched."""
    visible = encoded(model.generator, model.visible, portrait, camera)
    occluded = encoded(model.generator, model.occluded, portrait, camera)
    mask = occlusion_mask(model.generator, visible, occluded, camera, silent)
    return {"visible": visible, "occluded": occluded, "stitched": stitch(visible, occluded, mask)}


def encoded(
    generator: TriPlaneGenerator, encoder: PortraitEncoder, portrait: NDArray[np.float32], camera: Camera
) -> TriGrid:
    """One encoder's tri-grid of a portrait (4, h, w) as encoders take it."""
    with torch.no_grad():
        latents = encoder(torch.from_numpy(portrait)[None], torch.from_numpy(camera.vector)[None])
        planes = generator.synthesise_planes(latents.w_plus) + latents.residual
    return TriGrid(planes[0], generator.config.box_side)


def measures(mesh: Mesh, field: Field, head: dict[str, NDArray], view: int, camera: Camera) -> dict[str, float]:
    """Shape and colour of a mesh against a head's surface points, over what lies above the mesh's neck cut.

    Chamfer is the mean of both directions in percent of the head's height; normals are the mean absolute cosine.
    """
    floor = mesh.vertices[:, 1].min() + 0.01
    true = head["surface_points"].astype(np.float64)
    keep = np.flatnonzero(true[:, 1] > floor)[:SAMPLES]
    true = true[keep]
    normals = head["surface_normals"][keep].astype(np.float64) / 127
    colours = head["surface_colour"][keep] / 255.0
    made, made_normals = sampled(mesh, 2 * SAMPLES)
    above = made[:, 1] > floor
    made, made_normals = made[above], made_normals[above]
    height = np.ptp(true[:, 1])
    to_made, nearest = cKDTree(made).query(true)
    to_true, _ = cKDTree(true).query(made)
    painted = field.colour(made[nearest])
    shown = was_seen(true, normals, head, view, camera)
    inside_true = head["uniform_distance"] < 0
    inside_made = field.density(head["uniform_points"].astype(np.float32)) > field.level
    result = {
        "chamfer %": (to_made.mean() + to_true.mean()) / 2 / height * 100,
        "normals": float(np.abs((made_normals[nearest] * normals).sum(1)).mean()),
        "IoU": float((inside_true & inside_made).sum() / (inside_true | inside_made).sum()),
    }
    for side, rows in (("seen", shown), ("hidden", ~shown)):
        error = painted[rows] - colours[rows]
        result[f"L1 {side}"] = float(np.abs(error).mean())
        result[f"PSNR {side}"] = float(-10 * np.log10(np.square(error).mean()))
        result[f"chamfer {side} %"] = float(to_made[rows].mean() / height * 100)
    return result


def sampled(mesh: Mesh, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`count` points on a mesh, even by area, and the normals of their faces."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points, faces = trimesh.sample.sample_surface(solid, count, seed=0)[:2]
    return np.asarray(points), np.asarray(solid.face_normals)[faces]


def was_seen(
    points: NDArray[np.float64], normals: NDArray[np.float64], head: dict[str, NDArray], view: int, camera: Camera
) -> NDArray[np.bool_]:
    """Whether the view saw each surface point: it faces the camera and nothing of the head stands before it."""
    depth = head["depths"][view].astype(np.float64)
    pixels, _ = project(points, camera)
    index = np.clip((pixels * len(depth)).astype(int), 0, len(depth) - 1)
    seen_to = depth[index[:, 1], index[:, 0]]
    towards = camera.position - points
    distance = np.linalg.norm(towards, axis=1)
    facing = (normals * towards).sum(1) / distance > 0.05  # closer to grazing, a pixel holds more than one surface
    return facing & (seen_to > 0) & (distance < seen_to + SEEN_SLACK)


def sheet_row(portrait: NDArray[np.floating], mesh: Mesh, field: Field, camera: Camera) -> NDArray[np.uint8]:
    """Input, then colour and grey shading from five sides: (2 SHEET_SIZE, 6 SHEET_SIZE, 3)."""
    picture = (portrait * 255).round().clip(0, 255).astype(np.uint8)
    first = np.array(Image.fromarray(picture).resize((SHEET_SIZE, SHEET_SIZE)))
    columns = [np.concatenate([first, np.full_like(first, 255)])]
    colours = field.colour(mesh.vertices)
    normals = vertex_normals(mesh)
    for azimuth_deg in SHEET_VIEWS_DEG:
        eye = camera if azimuth_deg is None else orbit_camera(azimuth_deg)
        raster = rasterise_view(mesh.vertices, mesh.faces, eye, SHEET_SIZE)
        light = eye.cam2world[:3, :3] @ np.array([0.3, -0.5, -0.8])
        grey = np.repeat(0.25 + 0.75 * np.clip(normals @ light, 0, 1)[:, None], 3, axis=1)
        pair = []
        for values in (colours, grey):
            image = np.ones((SHEET_SIZE, SHEET_SIZE, 3))
            image[raster.covered] = raster.interpolate(values, mesh.faces)
            pair.append((image * 255).clip(0, 255).astype(np.uint8))
        columns.append(np.concatenate(pair))
    return np.concatenate(columns, axis=1)


if __name__ == "__main__":
    print(evaluate(config_from_arguments(Evaluation, "Measure a model on the held-out synthetic heads.")))
