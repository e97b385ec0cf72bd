"""The whole product on photos, where no true head is known: likeness, fit, ghost faces, unseen colours, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inference import pipeline
from inference.alignment import align
from inference.camera import orbit_camera
from inference.errors import HeadcastError
from inference.messages import Options
from inference.photo import load_photo
from inference.preview import contact_rows, draw_view
from inference.progress import Stages, silent
from inference.surface import height_m, is_watertight

from .ghost_face import BACK_CAMERA, PICTURE_SIZE, shows_face
from .hidden_colours import HiddenColours, hidden_colours
from .identity import IdentityNetwork, embed, embed_found, gallery_rank, identity_distance

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}
IDENTITY_AZIMUTHS_DEG = (0, 30, -30, 60, -60)  # of the pictures compared with the photo, from the frontal head

Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """Embeddings (128,) of the photo, and of the head drawn from IDENTITY_AZIMUTHS_DEG; None where no face is found."""

    photo: Embedding
    drawn: Mapping[int, Embedding | None]

    def distance(self, azimuth_deg: int) -> float | None:
        """Identity distance of the photo and the head drawn from there."""
        drawn = self.drawn[azimuth_deg]
        return None if drawn is None else identity_distance(self.photo, drawn)


@dataclass(frozen=True)
class Duration:
    """Seconds on the clock, and of all threads' work: they differ where the machine does other things."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class PhotoMeasures:
    """Figures of one photo's head.

    yaw_deg:            of the face in the photo.
    matte_iou, landmark_nme, visible_share: as in `quality.Quality`.
    ghost:              whether the back view shows a face.
    colours:            hair and skin, seen against unseen.
    tri_grid:           photo to stitched tri-grid: warm, without refinement.
    seconds:            photo to textured head, wall time.
    likeness:           None without the identity network.
    """

    yaw_deg: float
    matte_iou: float
    landmark_nme: float | None
    visible_share: float
    ghost: bool
    colours: HiddenColours
    height_m: float
    watertight: bool
    tri_grid: Duration
    seconds: float
    likeness: Likeness | None
    rows: NDArray[np.uint8] = field(repr=False)  # of the sheet


@dataclass(frozen=True)
class PhotoResult:
    """One photo: its head's figures, or why the product refused it."""

    name: str
    measures: PhotoMeasures | None
    refused: str = ""


def photo_paths(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def measure_photo(
    path: Path,
    options: Options,
    models: pipeline.Models,
    network: IdentityNetwork | None,
    hairless_because: str,
    timed_threads: int,
    tile_size: int,
) -> PhotoResult:
    """Make a head of a photo and judge it.

    hairless_because: see `hidden_colours`.
    timed_threads:    of torch, while the time to the tri-grid is taken.
    tile_size:        px of a picture on the sheet.
    """
    stages = Stages(pipeline.shares_of(models.head), silent)
    try:
        made = pipeline.make_head(path, options, models, stages)
    except HeadcastError as error:
        return PhotoResult(path.stem, None, f"{type(error).__name__}: {error.message}")
    likeness = None
    if network is not None:
        pictures = {az: draw_view(made.head, orbit_camera(az), PICTURE_SIZE) for az in IDENTITY_AZIMUTHS_DEG}
        likeness = Likeness(
            embed(made.portrait.image, made.portrait.landmarks, network),
            {az: embed_found(picture, models.face, network) for az, picture in pictures.items()},
        )
    measures = PhotoMeasures(
        yaw_deg=made.portrait.pose.yaw_deg,
        matte_iou=made.quality.matte_iou,
        landmark_nme=made.quality.landmark_nme,
        visible_share=made.quality.visible_share,
        ghost=shows_face(draw_view(made.head, BACK_CAMERA, PICTURE_SIZE), models.face),
        colours=hidden_colours(made.head, hairless_because),
        height_m=height_m(made.mesh),
        watertight=is_watertight(made.mesh),
        tri_grid=time_to_tri_grid(path, models, timed_threads),
        seconds=sum(stages.seconds.values()),
        likeness=likeness,
        rows=np.asarray(contact_rows(made.head, made.portrait, tile_size)),
    )
    return PhotoResult(path.stem, measures)


def time_to_tri_grid(path: Path, models: pipeline.Models, thread_count: int) -> Duration:
    """From a photo's file to the tri-grid of the whole head, before any refinement."""
    with threads(thread_count):
        wall, cpu = time.perf_counter(), time.process_time()
        photo = load_photo(path)
        height, width = photo.rgb.shape[:2]
        pipeline.whole_tri_grid(align(photo, models.face), (height, width), models, seed=0)
        return Duration(time.perf_counter() - wall, time.process_time() - cpu)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gallery_ranks(results: list[PhotoResult]) -> dict[str, int]:
    """By photo, the place its own photo takes among all photos when its frontal head looks for itself; 1 is best."""
    known = [
        (result.name, result.measures.likeness)
        for result in results
        if result.measures is not None and result.measures.likeness is not None
    ]
    if not known:
        return {}
    gallery = np.stack([likeness.photo for _, likeness in known])
    ranks = {}
    for own, (name, likeness) in enumerate(known):
        frontal = likeness.drawn[0]
        if frontal is not None:
            ranks[name] = gallery_rank(frontal, gallery, own)
    return ranks
