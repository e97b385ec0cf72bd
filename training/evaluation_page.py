"""The evaluation as one Markdown page, and all its figures as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from inference.alignment import DETECTION_SCORE, NEAR_SCORE, SURE_DETECTION

from .evaluation_bounds import bounds, median_of
from .head_measures import HEAD_MM
from .head_records import STITCHED, HeadRecord, chosen, groups, mean_of, surfaceless, worst_excess
from .photo_measures import IDENTITY_AZIMUTHS_DEG, PhotoMeasures, PhotoResult, gallery_ranks

COLUMNS = {  # field of HeadMeasures: title and digits
    "chamfer": ("Chamfer %", 2),
    "chamfer_visible": ("Chamfer visible %", 2),
    "chamfer_hidden": ("Chamfer hidden %", 2),
    "normals": ("normals", 3),
    "iou": ("IoU", 3),
    "iou_box": ("IoU box", 3),
    "face_mm": ("face mm", 2),
    "l1_visible": ("L1 visible", 4),
    "l1_hidden": ("L1 hidden", 4),
    "psnr_visible": ("PSNR visible", 1),
    "psnr_hidden": ("PSNR hidden", 1),
    "ghost": ("ghost faces", 3),
}
GROUP_COLUMNS = ("chamfer", "l1_hidden", "psnr_hidden")
ABLATION_COLUMNS = ("l1_hidden", "psnr_hidden", "ghost", "chamfer_hidden")
PAPER_ABLATION = (  # Bilecen et al., arXiv 2409.20530: LPIPS, ID, FID
    ("encoder 1 alone", 0.10, 0.87, 89.5),
    ("encoder 2 alone, occlusion-aware discriminator", 0.14, 0.75, 64.0),
    ("encoder 2 alone, discriminator on the whole tri-grid", 0.15, 0.70, 66.2),
    ("encoder 2 alone, discriminator on images", 0.17, 0.67, 72.9),
    ("stitched", 0.10, 0.87, 65.4),
)


@dataclass(frozen=True)
class Evaluated:
    """All that was measured.

    records:       of the model (its name is "") and of those compared with it.
    compared:      names of those.
    timed_threads: of torch, while the time to a tri-grid was taken.
    cost:          CPU seconds by part.
    """

    model: str
    records: Sequence[HeadRecord]
    compared: Sequence[str]
    photos: Sequence[PhotoResult]
    timed_threads: int
    cost: dict[str, float]


def page(evaluated: Evaluated) -> str:
    """The page; its sections are those that were measured."""
    sections = ["# Evaluation", introduction(evaluated), "## Bounds", bounds_table(evaluated)]
    if evaluated.records:
        sections += ["## Held-out synthetic heads", heads_section(evaluated.records)]
        sections += ["### Groups of people", groups_section(evaluated.records)]
        sections += ["### Ablation", ablation_section(evaluated)]
    if evaluated.photos:
        sections += ["## Photos", photos_section(evaluated.photos, evaluated.timed_threads)]
    return "\n\n".join(sections) + "\n"


def introduction(evaluated: Evaluated) -> str:
    """What was measured, and what it cost."""
    heads = {record.seed for record in evaluated.records}
    made = sum(photo.measures is not None for photo in evaluated.photos)
    cost = ", ".join(f"{part} {seconds:.0f}" for part, seconds in evaluated.cost.items())
    return (
        f"Model `{evaluated.model}`: {len(heads)} held-out heads, {made} of {len(evaluated.photos)} photos. "
        f"CPU seconds: {cost}."
    )


def bounds_table(evaluated: Evaluated) -> str:
    """Every bound, its figure, and whether it holds."""
    words = {True: "yes", False: "**no**", None: "not measured"}
    return table(
        ["figure", "value", "bound", "holds"],
        [
            [
                bound.what,
                number(bound.value, 3),
                f"{'>=' if bound.at_least else '<='} {bound.limit:g} {bound.unit}".strip(),
                words[bound.holds],
            ]
            for bound in bounds(evaluated.records, evaluated.photos)
        ],
    )


def heads_section(records: Sequence[HeadRecord]) -> str:
    """Each row over all input views, and from each of them."""
    views = sorted({record.azimuth_deg for record in records})
    lines = []
    for azimuth_deg in (None, *views):
        for row in ("visible", "occluded", STITCHED):
            members = chosen(records, row, azimuth_deg=azimuth_deg)
            title = "all" if azimuth_deg is None else f"{azimuth_deg:.0f}"
            name = row if row == STITCHED else f"{row} alone"
            cells = [number(mean_of(members, measure), digits) for measure, (_, digits) in COLUMNS.items()]
            lines.append([title, name, *cells, str(surfaceless(members))])
    explanation = (
        "Means over heads. Chamfer is the mean of both directions, in percent of the head's height from chin to crown; "
        "two draws of as many points from one surface are .4 to .5 apart. Normals are mean absolute cosines. IoU is of "
        "what lies above the neck cut, which is the head the user gets; IoU box of the model's whole box. Face is the "
        f"median distance from the true surface between chin and brow, hair left out, for heads of {HEAD_MM:.0f} mm. "
        "Colours are in [0, 1], against the albedo as the view exposed it. Ghost faces: share of back views in which "
        f"the product's detectors find a face ({detector_words()}). The sheet is `heads_1.png`: input, then truth and "
        "result side by side from the input's camera, +45, -45, 90 and 180 degrees."
    )
    titles = [title for title, _ in COLUMNS.values()]
    return explanation + "\n\n" + table(["yaw", "row", *titles, "no surface"], lines)


def detector_words() -> str:
    """The scores from which the product's detectors are sure of a face."""
    return (
        f"score {DETECTION_SCORE:g} at first sight and {NEAR_SCORE:g} from near, or {SURE_DETECTION:g} at first sight"
    )


def groups_section(records: Sequence[HeadRecord]) -> str:
    """The stitched row by skin tone, sex, age and hair."""
    lines = []
    found = groups(chosen(records, STITCHED))
    for attribute, members in found.items():
        for name, group in members.items():
            heads = len({record.seed for record in group})
            cells = [number(mean_of(group, measure), COLUMNS[measure][1]) for measure in GROUP_COLUMNS]
            lines.append([attribute, name, str(heads), *cells])
    titles = [COLUMNS[measure][0] for measure in GROUP_COLUMNS]
    remarks = []
    for measure in ("chamfer", "l1_hidden"):
        worst, excess = worst_excess(found["skin tone"], measure)
        told = f"{worst}, {100 * excess:+.1f} %" if worst else "not measured"
        remarks.append(f"{COLUMNS[measure][0]}: {told}")
    worst_words = f"Worst skin-tone group against the mean of the groups: {'; '.join(remarks)}."
    return table(["attribute", "group", "heads", *titles], lines) + "\n\n" + worst_words


def ablation_section(evaluated: Evaluated) -> str:
    """The compared models, beside the paper's ablation."""
    lines = []
    for model in ("", *evaluated.compared):
        for row in ("visible", "occluded", STITCHED):
            members = chosen(evaluated.records, row, model)
            if not members:
                continue
            cells = [number(mean_of(members, measure), COLUMNS[measure][1]) for measure in ABLATION_COLUMNS]
            lines.append([model or evaluated.model, row if row == STITCHED else f"{row} alone", *cells])
    titles = [COLUMNS[measure][0] for measure in ABLATION_COLUMNS]
    ours = table(["model", "row", *titles], lines)
    paper = table(
        ["paper (FFHQ and LPFF)", "LPIPS", "ID", "FID"],
        [[name, f"{lpips:.2f}", f"{identity:.2f}", f"{fid:.1f}"] for name, lpips, identity, fid in PAPER_ABLATION],
    )
    remark = (
        "Metrics and data differ: the paper compares rendered pictures of photos (LPIPS and FID: low is good; ID is a "
        "similarity: high is good), we compare colours and shapes with known heads. Only the order of rows can be "
        "compared."
    )
    return "\n\n".join([ours, paper, remark])


def photos_section(photos: Sequence[PhotoResult], timed_threads: int) -> str:
    """A line for each photo, and the medians."""
    ranks = gallery_ranks(list(photos))
    distances = [f"ID {azimuth:+d}" if azimuth else "ID 0" for azimuth in IDENTITY_AZIMUTHS_DEG]
    titles = ["photo", "yaw", *distances, "rank", "landmarks", "IoU", "ghost", "hair", "skin", "seen"]
    titles += ["height m", "closed", "s tri-grid", "CPU-s", "s"]
    lines, refused = [], []
    for photo in photos:
        if photo.measures is None:
            refused.append(f"- {photo.name}: {photo.refused}")
            continue
        one = photo.measures
        identity = [
            "" if one.likeness is None else number(one.likeness.distance(azimuth), 2, "no face")
            for azimuth in IDENTITY_AZIMUTHS_DEG
        ]
        colours = [
            f"{number(each.ciede2000, 1, '')} {each.note}".strip() for each in (one.colours.hair, one.colours.skin)
        ]
        lines.append(
            [
                photo.name,
                f"{one.yaw_deg:.0f}",
                *identity,
                str(ranks.get(photo.name, "")),
                number(one.landmark_nme, 3, "no face"),
                f"{one.matte_iou:.3f}",
                "yes" if one.ghost else "no",
                *colours,
                f"{one.visible_share:.2f}",
                f"{one.height_m:.3f}",
                "yes" if one.watertight else "**no**",
                f"{one.tri_grid.wall_s:.2f}",
                f"{one.tri_grid.cpu_s:.2f}",
                f"{one.seconds:.1f}",
            ]
        )
    made = [photo.measures for photo in photos if photo.measures is not None]
    lines.append(median_line(made, list(ranks.values())))
    explanation = (
        "ID is the distance of face embeddings between the photo and the textured head drawn from that many degrees "
        "off its front (two photos of one person .33 to .41, a mirrored picture .21, two people .83); rank is the "
        "photo's place among all photos when the head drawn from the front looks for it. Landmarks: mean error in eye "
        "distances, on the head in the model's own colours. IoU of the outline and the matte. Ghost: the detectors "
        f"find a face on the back view ({detector_words()}). Hair and skin: CIEDE2000 between the median colours of "
        "seen and unseen vertices; a word in a figure's place says why there is none, and skin tells where it was "
        "looked for: on the hidden cheek, or on the neck with the share of it that is skin. Seconds to the stitched "
        f"tri-grid are warm, without refinement, with threads: {timed_threads}; where wall time is far above CPU time, "
        "the machine was busy. The last column is photo to textured head. Each pair of rows on the sheets "
        "`photos_N.png` is a photo: crop, input view, +45, -45, both profiles, back and top, in colour and in grey."
    )
    parts = [explanation, table(titles, lines)]
    if refused:
        parts.append("Refused:\n\n" + "\n".join(refused))
    return "\n\n".join(parts)


def median_line(made: Sequence[PhotoMeasures], ranks: Sequence[int]) -> list[str]:
    """The table's last line: medians, and counts where there is no median."""

    def distance(azimuth_deg: int) -> float:
        return median_of(one.likeness.distance(azimuth_deg) for one in made if one.likeness is not None)

    return [
        f"median of {len(made)}",
        number(median_of(abs(one.yaw_deg) for one in made), 0),
        *(number(distance(azimuth), 2, "") for azimuth in IDENTITY_AZIMUTHS_DEG),
        f"{sum(rank == 1 for rank in ranks)} of {len(ranks)} first",
        number(median_of(one.landmark_nme for one in made), 3),
        number(median_of(one.matte_iou for one in made), 3),
        f"{sum(one.ghost for one in made)} yes",
        number(median_of(one.colours.hair.ciede2000 for one in made), 1),
        number(median_of(one.colours.skin.ciede2000 for one in made), 1),
        number(median_of(one.visible_share for one in made), 2),
        number(median_of(one.height_m for one in made), 3),
        f"{sum(one.watertight for one in made)} yes",
        number(median_of(one.tri_grid.wall_s for one in made), 2),
        number(median_of(one.tri_grid.cpu_s for one in made), 2),
        number(median_of(one.seconds for one in made), 1),
    ]


def figures_json(evaluated: Evaluated) -> str:
    """Every figure of every head and photo, and the bounds; null where nothing was measured."""
    ranks = gallery_ranks(list(evaluated.photos))
    content = {
        "model": evaluated.model,
        "cpu_seconds": evaluated.cost,
        "bounds": [asdict(bound) | {"holds": bound.holds} for bound in bounds(evaluated.records, evaluated.photos)],
        "heads": [asdict(record) for record in evaluated.records],
        "photos": [photo_figures(photo, ranks.get(photo.name)) for photo in evaluated.photos],
    }
    return json.dumps(without_nan(content), indent=1, allow_nan=False) + "\n"


def photo_figures(photo: PhotoResult, rank: int | None) -> dict[str, Any]:
    """One photo's figures as plain values."""
    if photo.measures is None:
        return {"name": photo.name, "refused": photo.refused}
    one = photo.measures
    plain = {item.name: getattr(one, item.name) for item in fields(one) if item.name not in ("likeness", "rows")}
    identity = {}
    if one.likeness is not None:
        identity = {str(azimuth): one.likeness.distance(azimuth) for azimuth in IDENTITY_AZIMUTHS_DEG}
    nested = {"colours": asdict(one.colours), "tri_grid": asdict(one.tri_grid), "identity": identity, "rank": rank}
    return {"name": photo.name, **plain, **nested}


def without_nan(content: Any) -> Any:
    """The same with None for NaN, which JSON does not know."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def number(value: float | None, digits: int, missing: str = "-") -> str:
    """A figure with so many digits behind the point."""
    return missing if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
