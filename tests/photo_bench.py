"""How true heads are to their photos: `make photo-bench PHOTOS=FOLDER`.

A head is made of every photo of a folder and rendered through the photo's own camera under flat light; what comes out
is compared with the photo inside the drawn-in matte. The same table says whether meshes and layouts are sound. With
evened-out light (`--delight`) the albedo is no longer the photo, so the figures against the photo are bound at 0, which
is the default here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inference import pipeline
from inference.alignment import AlignedPortrait
from inference.bake import TexturedHead
from inference.camera import orbit_camera
from inference.errors import HeadcastError
from inference.face_networks import FaceNetworks
from inference.messages import Options
from inference.preview import draw_view
from inference.progress import Stages, silent
from tests.reproduction import border_of, reproduction, soundness
from training.identity import (
    IdentityNetwork,
    embed,
    embed_found,
    gallery_rank,
    identity_distance,
    load_identity_network,
)
from training.photo_measures import photo_paths

PSNR_DB = 26.0  # lowest of any photo
MS_SSIM = 0.93  # lowest median
IDENTITY = 0.35  # largest median
BORDER_STEP = 4.0  # of 255, largest
ISLANDS = 12  # most
SHEET_SIZE = 320  # px of a picture on a sheet
SHEET_AZIMUTHS_DEG = (30, -30, 60, -60)


@dataclass(frozen=True)
class Row:
    """One photo's figures; see `tests.reproduction`. None where the networks found no face, or none was asked for."""

    name: str
    psnr_db: float
    ms_ssim: float
    covered: float
    identity: float | None
    rank: int | None
    border_step: float | None
    border_jump: float | None
    islands: int
    overlap_texels: int
    degenerate_faces: int
    folded_faces: int
    watertight: bool
    outward: bool
    bake_s: float


@dataclass(frozen=True)
class Measured:
    """A row without its rank, which takes all photos; embeddings (128,) of the photo and of the head's picture."""

    row: Row
    photo: NDArray[np.float32] | None
    drawn: NDArray[np.float32] | None
    sheet: NDArray[np.uint8]


def measure(
    name: str,
    head: TexturedHead,
    portrait: AlignedPortrait,
    bake_s: float,
    face: FaceNetworks,
    network: IdentityNetwork | None,
) -> Measured:
    """The figures of one finished head."""
    shown, border, sound = reproduction(head, portrait), border_of(head), soundness(head)
    photo = drawn = None
    if network is not None:
        photo = embed(portrait.image, portrait.landmarks, network)
        drawn = embed_found(shown.picture, face, network)
    row = Row(
        name=name,
        psnr_db=shown.psnr_db,
        ms_ssim=shown.ms_ssim,
        covered=shown.covered,
        identity=None if photo is None or drawn is None else identity_distance(photo, drawn),
        rank=None,
        border_step=None if border is None else border.step,
        border_jump=None if border is None else border.jump,
        bake_s=bake_s,
        **asdict(sound),
    )
    cameras = [portrait.camera, *(orbit_camera(azimuth) for azimuth in SHEET_AZIMUTHS_DEG)]
    photo_tile = np.asarray(Image.fromarray(portrait.image).resize((SHEET_SIZE, SHEET_SIZE), Image.Resampling.LANCZOS))
    tiles = [photo_tile, *(draw_view(head, camera, SHEET_SIZE) for camera in cameras)]
    return Measured(row, photo, drawn, np.concatenate(tiles, axis=1))


def ranked(measured: Sequence[Measured]) -> list[Row]:
    """The rows with the place each head's own photo takes among all photos."""
    known = [one for one in measured if one.photo is not None]
    if not known:
        return [one.row for one in measured]
    gallery = np.stack([one.photo for one in known if one.photo is not None])
    place = {one.row.name: own for own, one in enumerate(known)}
    rows = []
    for one in measured:
        rank = None if one.drawn is None else gallery_rank(one.drawn, gallery, place[one.row.name])
        rows.append(Row(**{**asdict(one.row), "rank": rank}))
    return rows


def broken_bounds(rows: Sequence[Row], identity_asked: bool, delight: float) -> list[str]:
    """What the figures fall short of, in words."""
    broken = []

    def hold(kept: bool, what: str) -> None:
        if not kept:
            broken.append(what)

    if delight == 0:
        low = [row.name for row in rows if row.psnr_db < PSNR_DB]
        hold(not low, f"PSNR under {PSNR_DB} dB: {', '.join(low)}")
        middle = float(np.median([row.ms_ssim for row in rows]))
        hold(middle >= MS_SSIM, f"median MS-SSIM {middle:.3f} under {MS_SSIM}")
    if identity_asked:
        distances = [np.inf if row.identity is None else row.identity for row in rows]
        hold(np.median(distances) <= IDENTITY, f"median identity distance {np.median(distances):.3f} over {IDENTITY}")
        wrong = [row.name for row in rows if row.rank != 1]
        hold(not wrong, f"not found first by their own heads: {', '.join(wrong)}")
    for wrong, what in (
        ([row.name for row in rows if (row.border_step or 0) >= BORDER_STEP], f"border step of {BORDER_STEP} or more"),
        ([row.name for row in rows if row.islands > ISLANDS], f"more than {ISLANDS} islands"),
        ([row.name for row in rows if row.overlap_texels], "texels covered twice"),
        ([row.name for row in rows if row.degenerate_faces], "degenerate faces"),
        ([row.name for row in rows if row.folded_faces], "faces that look inwards"),
        ([row.name for row in rows if not (row.watertight and row.outward)], "not closed and outward"),
    ):
        hold(not wrong, f"{what}: {', '.join(wrong)}")
    return broken


def print_table(rows: Sequence[Row]) -> None:
    """One line a photo and the medians."""
    print(
        f"{'photo':<18}{'PSNR':>7}{'MS-SSIM':>9}{'covered':>9}{'identity':>10}{'rank':>6}{'step':>7}{'jump':>7}"
        f"{'islands':>9}{'overlap':>9}{'flat':>6}{'folded':>8}{'closed':>8}{'bake s':>8}"
    )

    def number(value: float | None, width: int, digits: int) -> str:
        return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"

    for row in rows:
        print(
            f"{row.name:<18}{row.psnr_db:7.2f}{row.ms_ssim:9.4f}{row.covered:9.4f}{number(row.identity, 10, 3)}"
            f"{number(row.rank, 6, 0)}{number(row.border_step, 7, 2)}{number(row.border_jump, 7, 2)}{row.islands:9d}"
            f"{row.overlap_texels:9d}{row.degenerate_faces:6d}{row.folded_faces:8d}"
            f"{row.watertight and row.outward!s:>8}{row.bake_s:8.1f}"
        )
    distances = [row.identity for row in rows if row.identity is not None]
    print(
        f"{'median':<18}{np.median([row.psnr_db for row in rows]):7.2f}{np.median([row.ms_ssim for row in rows]):9.4f}"
        f"{np.median([row.covered for row in rows]):9.4f}{number(np.median(distances) if distances else None, 10, 3)}"
    )


def chosen_photos(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[Path]:
    """The photos of the folder `given.photos`, or those of them that `given.only` names; ends with an error without."""
    if not given.photos.is_dir():
        parser.error(f"there is no folder {given.photos}; give one with portraits")
    paths = [path for path in photo_paths(given.photos) if given.only is None or path.stem in given.only]
    if not paths:
        parser.error(f"there is no photo in {given.photos}")
    return paths


def main() -> int:
    """Print the figures; returns 1 if a bound is broken or a photo is refused."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.photo_bench", description=__doc__)
    parser.add_argument("photos", type=Path, metavar="FOLDER", help="with portraits, one face each")
    parser.add_argument("--identity", type=Path, metavar="WEIGHTS", help="dlib's face embedding as safetensors")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where sheets and figures.json go (default: nowhere)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these photos alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument("--texture", type=int, default=defaults.texture)
    parser.add_argument("--delight", type=float, default=0.0, help="as of reconstruct (default here: %(default)s)")
    parser.add_argument("--mirror-face", action=argparse.BooleanOptionalAction, default=defaults.mirror_face)
    given = parser.parse_args()
    paths = chosen_photos(parser, given)
    torch.set_num_threads(given.threads)
    options = Options(model=given.model, texture=given.texture, mirror_face=given.mirror_face, delight=given.delight)
    pipeline.check_options(options)
    models = pipeline.load_models(options.model)
    network = None if given.identity is None else load_identity_network(given.identity)
    if network is None:
        print("likeness is not measured: --identity names the network's weights")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    measured, refused = [], []
    for path in paths:
        stages = Stages(pipeline.shares_of(models.head), silent)
        started = time.perf_counter()
        try:
            made = pipeline.make_head(path, options, models, stages)
        except HeadcastError as error:
            refused.append(path.stem)
            print(f"{path.stem}: {error.message}")
            continue
        one = measure(path.stem, made.head, made.portrait, stages.seconds["bake"], models.face, network)
        measured.append(one)
        print(f"{path.stem}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if given.out is not None:
            Image.fromarray(one.sheet).save(given.out / f"{path.stem}.png")
    if not measured:
        return 1
    rows = ranked(measured)
    print_table(rows)
    if given.out is not None:
        (given.out / "figures.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    broken = broken_bounds(rows, network is not None, options.delight)
    for what in broken:
        print(what)
    return int(bool(broken or refused))


if __name__ == "__main__":
    sys.exit(main())
