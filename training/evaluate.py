r"""Measure a model on held-out synthetic heads and on photos: one page, all figures, and sheets to look at.

    python -m training.evaluate --heads HEADS --photos PHOTOS --identity WEIGHTS --model starter --out DIR \
        --compare "no discriminator=PATH" --without-hair photo_name=hat

Writes `evaluation.md`, `evaluation.json` and sheets into DIR. Without --photos or --heads that part is left out, and
without --identity the likeness. --compare names other models of an ablation, which are measured on the heads alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inference import checkpoints, pipeline
from inference.camera import Camera, camera_from_vector
from inference.encoders import PortraitInput, SeenPlanes
from inference.errors import NoSurface
from inference.face_networks import FACE_WEIGHTS_FOLDER, FaceNetworks, load_face_networks
from inference.field import Field
from inference.messages import Options
from inference.progress import silent
from inference.stitching import occlusion_mask, seen_surface, stitch
from inference.surface import extract
from inference.tri_grid import TriGrid

from .dataset import HeadSet
from .evaluation_page import Evaluated, figures_json, page
from .head_measures import measure_head
from .head_records import HeadRecord
from .head_sheet import sheet_rows
from .identity import load_identity_network
from .photo_measures import PhotoResult, measure_photo, photo_paths
from .run import config_from_arguments

AZIMUTHS_DEG = (0.0, 30.0, 60.0)  # of the input views, to either side; the nearest rendered one is taken
ROWS = ("visible", "occluded", "stitched")
COMPARED_ROWS = ("occluded", "stitched")  # the first encoder is the same in all models of an ablation
GRID, FACES = 128, 40_000  # of the mesh that is measured; the finest the training points can tell apart
A_SHEET = 10  # heads or photos; more make the picture too tall to look at
PHOTO_TILE = 160  # px of a picture on a photo sheet


@dataclass(frozen=True)
class Evaluation:
    """Settings."""

    out: Path
    model: str = "starter"
    heads: Path | None = None
    photos: Path | None = None
    identity: Path | None = None  # weights of the identity network
    compare: tuple[str, ...] = ()  # NAME=PATH of other models
    without_hair: tuple[str, ...] = ()  # NAME=REASON of photos whose hair a hat or the like hides
    limit: int = 64  # held-out heads
    views: int = 3  # input views of each: the first of AZIMUTHS_DEG
    photo_limit: int = 1000
    sheet: int = 6  # heads on the synthetic sheets
    grid: int = 256  # of photos' heads
    faces: int = 30_000
    texture: int = 1024
    threads: int = 1
    timed_threads: int = 2  # while the time to a tri-grid is taken; on a busy machine they wait for each other


def evaluate(settings: Evaluation) -> str:
    """Write page, figures and sheets into the folder; returns the page."""
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    begun = time.process_time()
    face = load_face_networks(FACE_WEIGHTS_FOLDER, torch.device("cpu"))
    records: list[HeadRecord] = []
    compared = dict(pair.split("=", 1) for pair in settings.compare)
    if settings.heads is not None:
        heads = HeadSet(settings.heads, held_out=True, limit=settings.limit)
        if not heads.refresh():
            raise SystemExit(f"error: {settings.heads} holds no held-out heads")
        model = checkpoints.load(settings.model)
        azimuths_deg = AZIMUTHS_DEG[: settings.views]
        records, tiles = measure_heads(model, "", heads, azimuths_deg, ROWS, face, settings.sheet)
        save_sheets(tiles, A_SHEET, settings.out, "heads")
        for name, path in compared.items():
            records += measure_heads(checkpoints.load(path), name, heads, azimuths_deg, COMPARED_ROWS, face, 0)[0]
    heads_done = time.process_time()
    photos = measure_photos(settings) if settings.photos is not None else []
    sheets = [photo.measures.rows for photo in photos if photo.measures is not None]
    save_sheets(sheets, A_SHEET, settings.out, "photos")
    cost = {"heads": heads_done - begun, "photos": time.process_time() - heads_done}
    evaluated = Evaluated(settings.model, records, tuple(compared), photos, settings.timed_threads, cost)
    text = page(evaluated)
    (settings.out / "evaluation.md").write_text(text)
    (settings.out / "evaluation.json").write_text(figures_json(evaluated))
    return text


def measure_heads(
    model: checkpoints.HeadModel,
    name: str,
    heads: HeadSet,
    azimuths_deg: Sequence[float],
    rows: Sequence[str],
    face: FaceNetworks,
    sheet: int,
) -> tuple[list[HeadRecord], list[NDArray[np.uint8]]]:
    """Measure rows of a model on every head; also the sheet's tiles of the first `sheet` heads.

    name: of a compared model, "" for the one that is evaluated.
    """
    records, tiles = [], []
    for index, head in enumerate(heads.heads):
        for azimuth_deg in azimuths_deg:
            view = nearest_view(head, azimuth_deg)
            camera = camera_from_vector(head["cameras"][view])
            given = heads.portrait_input(index, view)
            fields = encoded_fields(model, given, camera)
            on_sheet = index < sheet and azimuth_deg == azimuths_deg[index % len(azimuths_deg)]
            for row in rows:
                field = fields[row]
                record = HeadRecord(name, row, heads.seeds[index], azimuth_deg, heads.meta[index], None)
                try:
                    mesh = extract(field, GRID, FACES, silent)
                except NoSurface:
                    records.append(record)
                    continue
                colours = field.colour(mesh.vertices)
                measures = measure_head(mesh, colours, field, head, view, camera, face)
                records.append(record.with_measures(measures))
                if on_sheet and row == "stitched":
                    tiles.append(sheet_rows(given.portraits[0].numpy(), mesh, colours, head, view, camera))
        print(f"{name or 'model'}: head {index + 1} of {len(heads.heads)}", flush=True)
    return records, tiles


def nearest_view(head: dict[str, NDArray], azimuth_deg: float) -> int:
    """Index of the view whose azimuth, to either side, is nearest."""
    azimuth = np.abs((head["azimuth_elevation"][:, 0] + 180) % 360 - 180)
    return int(np.abs(azimuth - azimuth_deg).argmin())


def encoded_fields(model: checkpoints.HeadModel, given: PortraitInput, camera: Camera) -> dict[str, Field]:
    """Each encoder's head of a view, and the two stitched: the one way from a view to heads.

    Ends the command where the model holds a generator alone.
    """
    if model.visible is None or model.occluded is None:
        raise SystemExit(f"error: the model {model.name} holds no encoders to be measured")
    generator, box_side = model.generator, model.generator.config.box_side
    with torch.no_grad():
        first = model.visible(given, generator)
        visible = TriGrid(first.planes[0], box_side)
        seen = seen_surface(generator, visible, camera, silent)
        known = SeenPlanes(visible.planes[None], seen.cells[None])
        second = model.occluded(given, generator, known)
        occluded = TriGrid(second.planes[0], box_side)
    stitched = stitch(visible, occluded, occlusion_mask(generator, seen, occluded, camera, silent))
    # As in the pipeline, one latent colours a head: the stitched one wears that of the side the photo shows.
    shown, hidden = first.w_plus[0, -1], second.w_plus[0, -1]
    return {
        "visible": Field(generator, visible, shown),
        "occluded": Field(generator, occluded, hidden),
        "stitched": Field(generator, stitched, shown),
    }


def measure_photos(settings: Evaluation) -> list[PhotoResult]:
    """Every photo of the folder through the product."""
    assert settings.photos is not None
    models = pipeline.load_models(settings.model, "cpu")
    network = None if settings.identity is None else load_identity_network(settings.identity)
    options = Options(
        model=settings.model,
        device="cpu",
        grid=settings.grid,
        faces=settings.faces,
        texture=settings.texture,
    )
    hairless = dict(pair.split("=", 1) for pair in settings.without_hair)
    paths = photo_paths(settings.photos)[: settings.photo_limit]
    results: list[PhotoResult] = []
    for path in paths:
        hairless_because = hairless.get(path.stem, "")
        results.append(
            measure_photo(path, options, models, network, hairless_because, settings.timed_threads, PHOTO_TILE)
        )
        print(f"photo {len(results)} of {len(paths)}: {path.stem}", flush=True)
    return results


def save_sheets(rows: list[NDArray[np.uint8]], a_sheet: int, folder: Path, name: str) -> None:
    """Write rows of pictures, one under the other, as `name_1.png`, `name_2.png` and so on."""
    for number, start in enumerate(range(0, len(rows), a_sheet), 1):
        Image.fromarray(np.concatenate(rows[start : start + a_sheet])).save(folder / f"{name}_{number}.png")


if __name__ == "__main__":
    print(evaluate(config_from_arguments(Evaluation, "Measure a model on held-out synthetic heads and on photos.")))
