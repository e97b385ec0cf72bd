"""What a model must reach to become the bundled one, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .head_records import STITCHED, HeadRecord, chosen, excess_over_single, groups, mean_of, worst_excess
from .photo_measures import PhotoMeasures, PhotoResult

IDENTITY_AT_DEG = {0: 0.30, 30: 0.42}  # bound by azimuth to either side


@dataclass(frozen=True)
class Bound:
    """One figure and its bound.

    value:    NaN when it was not measured.
    at_least: whether the bound is the lowest value allowed, or else the highest.
    """

    what: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        """None when it was not measured."""
        if not np.isfinite(self.value):
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def bounds(records: Sequence[HeadRecord], photos: Sequence[PhotoResult]) -> list[Bound]:
    """Every bound with its figure."""
    return [*head_bounds(records), *photo_bounds([photo.measures for photo in photos if photo.measures is not None])]


def head_bounds(records: Sequence[HeadRecord]) -> list[Bound]:
    """Bounds on synthetic heads: means of the stitched row."""
    stitched = chosen(records, STITCHED)
    skin_tones = groups(stitched)["skin tone"]

    def worse(measure: str) -> float:
        return 100 * excess_over_single(records, measure)

    def uneven(measure: str) -> float:
        return 100 * worst_excess(skin_tones, measure)[1]

    return [
        Bound("Chamfer", mean_of(stitched, "chamfer"), 1.2, "%"),
        Bound("normal consistency", mean_of(stitched, "normals"), 0.95, at_least=True),
        Bound("IoU above the neck cut", mean_of(stitched, "iou"), 0.92, at_least=True),
        Bound("face region", mean_of(stitched, "face_mm"), 1.2, "mm"),
        Bound("hidden PSNR", mean_of(stitched, "psnr_hidden"), 25.0, "dB", at_least=True),
        Bound("visible L1", mean_of(stitched, "l1_visible"), 0.025),
        Bound("stitched over better encoder: visible Chamfer", worse("chamfer_visible"), 2.0, "%"),
        Bound("stitched over better encoder: hidden Chamfer", worse("chamfer_hidden"), 2.0, "%"),
        Bound("stitched over better encoder: visible L1", worse("l1_visible"), 2.0, "%"),
        Bound("stitched over better encoder: hidden L1", worse("l1_hidden"), 2.0, "%"),
        Bound("ghost faces, synthetic", mean_of(stitched, "ghost"), 0.0),
        Bound("worst skin tone over the mean: Chamfer", uneven("chamfer"), 15.0, "%"),
        Bound("worst skin tone over the mean: hidden L1", uneven("l1_hidden"), 15.0, "%"),
    ]


def photo_bounds(measures: Sequence[PhotoMeasures]) -> list[Bound]:
    """Bounds on photos: medians over the heads that were made."""

    def median(value: Callable[[PhotoMeasures], float | None]) -> float:
        return median_of(value(one) for one in measures)

    identity = [
        Bound(
            f"identity at {azimuth} degrees" if azimuth == 0 else f"identity at +-{azimuth} degrees",
            median(lambda one, azimuth=azimuth: identity_at(one, azimuth)),  # type: ignore[misc]
            limit,
        )
        for azimuth, limit in IDENTITY_AT_DEG.items()
    ]
    return [
        Bound("ghost faces, photos", float(np.mean([one.ghost for one in measures])) if measures else np.nan, 0.0),
        Bound("hair seen against unseen", median(lambda one: one.colours.hair.ciede2000), 10.0, "CIEDE2000"),
        Bound("skin seen against unseen", median(lambda one: one.colours.skin.ciede2000), 10.0, "CIEDE2000"),
        *identity,
        Bound("photo to stitched tri-grid", median(lambda one: one.tri_grid.wall_s), 1.0, "s"),
    ]


def identity_at(measures: PhotoMeasures, azimuth_deg: int) -> float | None:
    """Identity distance at an azimuth: the mean of both sides where both show a face."""
    if measures.likeness is None:
        return None
    sides = [measures.likeness.distance(azimuth) for azimuth in {azimuth_deg, -azimuth_deg}]
    found = [side for side in sides if side is not None]
    return float(np.mean(found)) if found else None


def median_of(values: Iterable[float | None]) -> float:
    """Median of what was measured; NaN when nothing was."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else float("nan")
