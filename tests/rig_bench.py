"""How well rigs fit their heads: `make rig-bench PHOTOS=FOLDER`.

A head is made of every photo of a folder and made rig-ready. The rig, with the photo's expression, is rendered through
the photo's own camera under flat light beside the scan; the table says what the fit left, how both pictures compare
with the photo, and what each facial action does to this head.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from inference import head_file, pipeline
from inference.bake import TexturedHead
from inference.errors import HeadcastError
from inference.messages import Options
from inference.preview import draw_view
from inference.raster import rasterise_view
from inference.reuse import folder_albedo, folder_options
from inference.rigging.fit import FitQuality
from inference.rigging.intersections import intersecting_pairs
from inference.rigging.make_rig import make_rig
from inference.rigging.neutral import lid_rim, lip_rim
from inference.rigging.rig_file import EYES_NAME, HAIR_NAME, MOUTH_NAME, RIG_NAME, SKIN_NAME
from inference.surface import Mesh, metres_from_head
from inference.template import EYE_LEFT, EYE_RIGHT, MOUTH, RigTemplate, load_rig_template, triangles
from tests.photo_bench import chosen_photos
from tests.reproduction import compared_pixels, psnr_db
from training.identity import IdentityNetwork, embed, embed_found, identity_distance, load_identity_network

FloatArray = NDArray[np.floating]

SKIN_MEAN_MM, SKIN_P95_MM = 0.6, 2.0  # most, of the template's skin from the scan
LANDMARKS = 0.03  # most, of the distance of the eyes
PSNR_LOST_DB = 1.0  # most, of the rig's picture against the scan's
IDENTITY_LOST = 0.03  # most
RIG_S = 20.0  # most, of fit and bake on two cores
PAIR_SHARE = 0.05  # most that a right action differs from the left one's mirror image, of its largest way
LID_GAP_MM = 0.5  # most that a blink leaves open
JAW_OPENS_MM = 10.0  # least that an open jaw brings the lips apart
SKULL_MM = 1.0  # most that it moves the skull
CORNER_MM = 4.0  # lids are not compared so near to the eyes' corners
PICTURES = (SKIN_NAME, EYES_NAME, MOUTH_NAME, HAIR_NAME)  # quarters of the common texture
QUARTER = {"eye": 1, "teeth": 2, "gums": 2}  # of parts that do not share the skin's picture
SHEET_SIZE = 320  # px


@dataclass(frozen=True)
class Actions:
    """What the 52 facial actions at 1 do to one head.

    pair_share:    largest difference of a right action from its left one's mirror image, of its largest way; the mirror
                   is the head's own (`pair_shares`).
    lid_gap_mm:    largest height left open by a blink.
    lips_apart_mm: distance of the lips' middles when the jaw is open.
    skull_mm:      farthest that an open jaw moves the scalp.
    crossings:     pairs of triangles that actions make cross, as far as they are more than in the template's own.
    other_pairs:   those of them that do not cross in the template's own, however many do there.
    """

    pair_share: float
    lid_gap_mm: float
    lips_apart_mm: float
    skull_mm: float
    crossings: int
    other_pairs: int


@dataclass(frozen=True)
class Row:
    """One head's figures; identity None where no network was given or it found no face."""

    name: str
    fit: FitQuality
    psnr_scan_db: float
    psnr_rig_db: float
    identity_scan: float | None
    identity_rig: float | None
    fit_and_bake_s: float
    actions: Actions | None


def rig_as_head(folder: Path, albedo_side: int) -> TexturedHead:
    """A written rig with the photo's expression as one textured mesh, head frame; its pictures lie side by side."""
    with np.load(folder / RIG_NAME, allow_pickle=False) as file:
        rig: dict[str, Any] = dict(file)
    vertices = rig["vertices"].astype(np.float64)
    actions = np.repeat(rig["expression_weights"], np.diff(rig["expression_start"]))
    np.add.at(vertices, rig["expression_vertex"], actions[:, None] * rig["expression_offset"])
    first = len(vertices)
    picture_of_part = np.array([QUARTER.get(str(name).split(".")[0], 0) for name in rig["part_names"]])
    quarter = np.tile(picture_of_part[rig["part"]], 2)  # as `triangles` puts the halves
    faces = np.concatenate([triangles(rig["faces"]), rig["hair_faces"] + first])
    uv_faces = np.concatenate([triangles(rig["uv_faces"]), rig["hair_uv_faces"] + len(rig["uv"])])
    quarter = np.concatenate([quarter, np.full(len(rig["hair_faces"]), 3)])
    vertices = np.concatenate([vertices, rig["hair_vertices"]])
    uv = np.concatenate([rig["uv"], rig["hair_uv"]])

    corner = np.stack([faces.ravel(), uv_faces.ravel(), np.repeat(quarter, 3)], axis=1)
    split, numbered = np.unique(corner, axis=0, return_inverse=True)
    place = np.stack([split[:, 2] % 2, split[:, 2] // 2], axis=1)
    from_metres = np.linalg.inv(metres_from_head())
    in_head = vertices @ from_metres[:3, :3].T + from_metres[:3, 3]
    mesh = Mesh(in_head[split[:, 0]], numbered.reshape(-1, 3))
    texture = np.zeros((2 * albedo_side, 2 * albedo_side, 3), np.uint8)
    for number, name in enumerate(PICTURES):
        if (folder / name).exists():
            with Image.open(folder / name) as picture:
                tile = np.asarray(picture.convert("RGB").resize((albedo_side, albedo_side), Image.Resampling.LANCZOS))
            row, column = number // 2 * albedo_side, number % 2 * albedo_side
            texture[row : row + albedo_side, column : column + albedo_side] = tile
    return textured(mesh, (uv[split[:, 1]] + place) / 2, texture)


def textured(mesh: Mesh, uv: FloatArray, albedo: NDArray[np.uint8]) -> TexturedHead:
    """As the preview draws it: without what the bake knows of visibility."""
    nothing = np.zeros(len(mesh.vertices), np.float32)
    return TexturedHead(mesh, uv, albedo, nothing, np.zeros(albedo.shape[:2], np.uint8), {}, "", nothing)


def actions_of(folder: Path, template: RigTemplate, crossing: Sequence[str] | None = None) -> Actions:
    """The figures of a written rig's facial actions. crossing: those searched for crossings, all by default."""
    with np.load(folder / RIG_NAME, allow_pickle=False) as file:
        rig: dict[str, Any] = dict(file)
    neutral = rig["vertices"].astype(np.float64)
    names = [str(name) for name in rig["expression_names"]]
    moves = np.zeros((len(names), *neutral.shape))
    for number, (start, end) in enumerate(zip(rig["expression_start"][:-1], rig["expression_start"][1:], strict=True)):
        moves[number, rig["expression_vertex"][start:end]] = rig["expression_offset"][start:end]
    pairs = [
        (names.index(name), names.index(f"{name.removesuffix('Left')}Right"))
        for name in names
        if name.endswith("Left") and name not in ("jawLeft", "mouthLeft")
    ]
    left, right = (moves[[pair[side] for pair in pairs]] for side in (0, 1))
    shares = pair_shares(left, right[:, template.mirror])
    gaps = []
    for part, side in ((EYE_LEFT, "Left"), (EYE_RIGHT, "Right")):
        number = names.index(f"eyeBlink{side}")
        shut, rim = neutral + moves[number], lid_rim(template, part)
        way = np.linalg.norm(template.expressions[number, rim], axis=1)
        upper, lower = rim[way > 0.3 * way.max()], rim[way <= 0.3 * way.max()]
        line = lower[np.argsort(shut[lower, 0])]
        ends = shut[line[0], 0] + CORNER_MM / 1000, shut[line[-1], 0] - CORNER_MM / 1000
        inner = upper[(shut[upper, 0] > ends[0]) & (shut[upper, 0] < ends[1])]
        gaps.append((shut[inner, 1] - np.interp(shut[inner, 0], shut[line, 0], shut[line, 1])).max())
    opened = neutral + moves[names.index("jawOpen")]
    upper, lower = lip_rim(template)
    middle = [rim[np.abs(template.vertices[rim, 0]).argmin()] for rim in (upper, lower)]
    scalp = (template.scalp > 0.9) & (template.vertices[:, 1] > 0)
    faces = triangles(template.faces[template.part <= MOUTH])
    crossings = other_pairs = 0
    resting, own_resting = _pairs(neutral, faces), _pairs(template.vertices, faces)
    for number in range(len(names)) if crossing is None else map(names.index, crossing):
        own = _pairs(template.vertices + template.expressions[number], faces)
        crossed = _pairs(neutral + moves[number], faces) - resting
        crossings += max(0, len(crossed) - len(own - own_resting))
        other_pairs += len(crossed - own)
    return Actions(
        pair_share=float(shares.max()),
        lid_gap_mm=float(max(gaps)) * 1000,
        lips_apart_mm=float(np.linalg.norm(opened[middle[0]] - opened[middle[1]])) * 1000,
        skull_mm=float(np.linalg.norm(moves[names.index("jawOpen")][scalp], axis=1).max()) * 1000,
        crossings=crossings,
        other_pairs=other_pairs,
    )


def pair_shares(left: FloatArray, right: FloatArray) -> FloatArray:
    """(p,) largest difference of each right action from its left one's mirror image, of the left one's largest way.

    left, right: (p, v, 3) what they add; of right ones at the vertices' mirrors.

    One mirror for all pairs, through the head's own middle: a head that a photo shows turned by 2 degrees against the
    axes has actions turned as much, and in the axes' mirror even perfect pairs would differ by twice the turn, 7 %.
    """
    ways = np.abs(left).max(axis=(1, 2))
    first, second = ((one / ways[:, None, None]).reshape(-1, 3) for one in (left, right * [-1, 1, 1]))
    turn = Rotation.align_vectors(first, second)[0]
    return np.abs(left - turn.apply((right * [-1, 1, 1]).reshape(-1, 3)).reshape(left.shape)).max(axis=(1, 2)) / ways


def _pairs(vertices: FloatArray, faces: NDArray[np.integer]) -> set[tuple[int, int]]:
    return {(int(one), int(other)) for one, other in intersecting_pairs(vertices, faces)}


def measure(
    name: str,
    folder: Path,
    models: pipeline.Models,
    network: IdentityNetwork | None,
    template: RigTemplate | None,
) -> tuple[Row, NDArray[np.uint8]]:
    """Make the finished head in `folder` rig-ready; its row, and the photo, the scan and the rig side by side.

    template: measures the facial actions too, which takes a minute.
    """
    options, notes = folder_options(folder, {})
    report = make_rig(folder, options, models, notes=notes)
    kept = head_file.read(folder)
    portrait, finished = kept.source.portrait, kept.finished
    side = len(finished.visibility_map)
    scan = textured(finished.mesh, finished.uv, folder_albedo(folder, side))
    rig = rig_as_head(folder, side)
    size = len(portrait.image)
    # A rig has no clothes: only where it is at all can its picture be as good as the scan's.
    inside = compared_pixels(finished.mesh, portrait)
    inside &= rasterise_view(rig.mesh.vertices, rig.mesh.faces, portrait.camera, size).covered
    pictures = [draw_view(head, portrait.camera, size) for head in (scan, rig)]
    psnr = [psnr_db(picture / 255, portrait.image / 255, inside) for picture in pictures]
    distances: list[float | None] = [None, None]
    if network is not None:
        photo = embed(portrait.image, portrait.landmarks, network)
        drawn = [embed_found(picture, models.face, network) for picture in pictures]
        distances = [None if one is None else identity_distance(photo, one) for one in drawn]
    row = Row(
        name,
        FitQuality(**report["quality"]),
        *psnr,
        *distances,
        report["seconds"]["fit"] + report["seconds"]["bake"],
        None if template is None else actions_of(folder, template),
    )
    tiles = [Image.fromarray(picture).resize((SHEET_SIZE, SHEET_SIZE)) for picture in (portrait.image, *pictures)]
    return row, np.concatenate([np.asarray(tile) for tile in tiles], axis=1)


def broken_bounds(rows: Sequence[Row]) -> list[str]:
    """What the figures fall short of, in words."""
    wrong: dict[str, list[str]] = {}

    def hold(row: Row, kept: bool, what: str) -> None:
        if not kept:
            wrong.setdefault(what, []).append(row.name)

    for row in rows:
        hold(row, row.fit.skin_mean_mm <= SKIN_MEAN_MM, f"skin mean over {SKIN_MEAN_MM} mm")
        hold(row, row.fit.skin_p95_mm <= SKIN_P95_MM, f"skin p95 over {SKIN_P95_MM} mm")
        hold(row, row.fit.landmarks <= LANDMARKS, f"landmarks over {LANDMARKS:.0%}")
        hold(row, row.fit.turned_over + row.fit.intersections == 0, "faces turned over or crossing at neutral")
        hold(row, row.fit.eye_through_lid == 0, "eyeball through a lid")
        hold(row, row.psnr_rig_db >= row.psnr_scan_db - PSNR_LOST_DB, f"PSNR over {PSNR_LOST_DB} dB below the scan's")
        if row.identity_scan is not None:
            lost = np.inf if row.identity_rig is None else row.identity_rig - row.identity_scan
            hold(row, lost <= IDENTITY_LOST, f"identity over {IDENTITY_LOST} farther than the scan's")
        hold(row, row.fit_and_bake_s <= RIG_S, f"fit and bake over {RIG_S:.0f} s")
        if row.actions is not None:
            hold(row, row.actions.pair_share <= PAIR_SHARE, f"left and right actions over {PAIR_SHARE:.0%} apart")
            hold(row, row.actions.lid_gap_mm <= LID_GAP_MM, f"a blink leaves over {LID_GAP_MM} mm")
            hold(row, row.actions.lips_apart_mm >= JAW_OPENS_MM, "the open jaw hardly parts the lips")
            hold(row, row.actions.skull_mm <= SKULL_MM, "the open jaw moves the skull")
            hold(row, row.actions.other_pairs == 0, "actions make faces cross that do not in the template")
    return [f"{what}: {', '.join(names)}" for what, names in wrong.items()]


def print_table(rows: Sequence[Row]) -> None:
    """One line a head."""
    print(
        f"{'head':<18}{'mean mm':>9}{'p95 mm':>8}{'share':>7}{'landm.':>8}{'turned':>8}{'cross':>7}{'lid':>5}"
        f"{'scan dB':>9}{'rig dB':>8}{'scan ID':>9}{'rig ID':>8}{'s':>6}{'pairs':>8}{'gap mm':>8}{'lips mm':>9}"
        f"{'skull mm':>10}{'crossings':>11}{'others':>8}"
    )

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for row in rows:
        fit, acts = row.fit, row.actions
        shown = ["-"] * 6
        if acts is not None:
            lengths = (acts.lid_gap_mm, acts.lips_apart_mm, acts.skull_mm)
            shown = [
                f"{acts.pair_share:.3f}",
                *(f"{length:.2f}" for length in lengths),
                str(acts.crossings),
                str(acts.other_pairs),
            ]
        print(
            f"{row.name:<18}{fit.skin_mean_mm:9.2f}{fit.skin_p95_mm:8.2f}{fit.skin_share:7.2f}{fit.landmarks:8.4f}"
            f"{fit.turned_over:8d}{fit.intersections:7d}{fit.eye_through_lid:5d}{row.psnr_scan_db:9.2f}"
            f"{row.psnr_rig_db:8.2f}{number(row.identity_scan):>9}{number(row.identity_rig):>8}{row.fit_and_bake_s:6.1f}"
            f"{shown[0]:>8}{shown[1]:>8}{shown[2]:>9}{shown[3]:>10}{shown[4]:>11}{shown[5]:>8}",
            flush=True,
        )


def main() -> int:
    """Print the figures; returns 1 if a bound is broken or a photo is refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig_bench", description=__doc__)
    parser.add_argument("photos", type=Path, metavar="FOLDER", help="with portraits, one face each")
    parser.add_argument("--identity", type=Path, metavar="WEIGHTS", help="dlib's face embedding as safetensors")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where heads, sheets and figures.json go")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these photos alone")
    parser.add_argument("--actions", type=int, default=5, help="heads whose facial actions are measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    given = parser.parse_args()
    paths = chosen_photos(parser, given)
    torch.set_num_threads(given.threads)
    models = pipeline.load_models()
    network = None if given.identity is None else load_identity_network(given.identity)
    template = load_rig_template()
    rows, refused = [], []
    with tempfile.TemporaryDirectory() as passing:
        out = Path(passing) if given.out is None else given.out
        out.mkdir(parents=True, exist_ok=True)
        for path in paths:
            folder = out / path.stem
            try:
                if not (folder / head_file.FILE_NAME).exists():
                    pipeline.reconstruct(path, folder, Options(), models)
                measured = template if len(rows) < given.actions else None
                row, sheet = measure(path.stem, folder, models, network, measured)
            except HeadcastError as error:
                refused.append(path.stem)
                print(f"{path.stem}: {error.message}")
                continue
            rows.append(row)
            print(f"{path.stem}: mean {row.fit.skin_mean_mm:.2f} mm", file=sys.stderr, flush=True)
            Image.fromarray(sheet).save(out / f"{path.stem}.png")
        if given.out is not None:
            (out / "figures.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if not rows:
        return 1
    print_table(rows)
    broken = broken_bounds(rows)
    for what in broken:
        print(what)
    return int(bool(broken or refused))


if __name__ == "__main__":
    sys.exit(main())
