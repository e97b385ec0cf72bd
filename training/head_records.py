"""The measures of many heads, averaged over all, by input view, and by groups of people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .head_measures import HeadMeasures

UNKNOWN = "unknown"
STITCHED = "stitched"
HAIR_LENGTHS = (  # by a word in the style's name; the first that fits
    ("bald", "none"),
    ("buzz", "none"),
    ("ponytail", "tied"),
    ("braid", "tied"),
    ("bun", "tied"),
    ("bob", "chin length"),
    ("long", "long"),
    ("", "short"),
)


@dataclass(frozen=True)
class HeadRecord:
    """One head, seen from one view, through one row of a model.

    model:       name of a compared model, "" for the one that is evaluated.
    row:         visible, occluded or stitched.
    azimuth_deg: asked of the input view.
    meta:        what the head is said to be.
    measures:    None where the tri-grid has no surface.
    """

    model: str
    row: str
    seed: int
    azimuth_deg: float
    meta: dict[str, Any]
    measures: HeadMeasures | None

    def with_measures(self, measures: HeadMeasures) -> HeadRecord:
        """The same record, measured."""
        return replace(self, measures=measures)


def chosen(
    records: Iterable[HeadRecord], row: str, model: str = "", azimuth_deg: float | None = None
) -> list[HeadRecord]:
    """Records of one row of one model, from one input view or from all."""
    return [
        record
        for record in records
        if record.row == row and record.model == model and azimuth_deg in (None, record.azimuth_deg)
    ]


def mean_of(records: Iterable[HeadRecord], measure: str) -> float:
    """Mean of a field of HeadMeasures over the heads that have it; NaN when none has."""
    values = [getattr(record.measures, measure) for record in records if record.measures is not None]
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def surfaceless(records: Iterable[HeadRecord]) -> int:
    """How many records have no surface."""
    return sum(record.measures is None for record in records)


def excess_over_single(records: Sequence[HeadRecord], measure: str) -> float:
    """By how much a stitched figure (low is good) is above the better single encoder's, as a share of that."""
    singles = [mean_of(chosen(records, row), measure) for row in ("visible", "occluded")]
    return mean_of(chosen(records, STITCHED), measure) / min(singles) - 1


def groups(records: Iterable[HeadRecord]) -> dict[str, dict[str, list[HeadRecord]]]:
    """Records by skin tone, sex, age and hair length: attribute, then group, in order of their names."""
    records = list(records)
    ages = sorted(age for record in records if (age := record.meta.get("age")) is not None)
    thirds = np.quantile(ages, [1 / 3, 2 / 3]) if ages else np.zeros(2)
    attributes: dict[str, Callable[[dict[str, Any]], str]] = {
        "skin tone": lambda meta: str(meta.get("skin_tone", UNKNOWN)),
        "sex": lambda meta: sex(meta),
        "age": lambda meta: age_third(meta, thirds[0], thirds[1]),
        "hair": lambda meta: hair_length(meta),
    }
    found: dict[str, dict[str, list[HeadRecord]]] = {}
    for attribute, group_of in attributes.items():
        members: dict[str, list[HeadRecord]] = {}
        for record in records:
            members.setdefault(group_of(record.meta), []).append(record)
        found[attribute] = dict(sorted(members.items()))
    return found


def sex(meta: dict[str, Any]) -> str:
    """Group of a head whose gender goes from 0, female, to 1, male."""
    if "gender" not in meta:
        return UNKNOWN
    return "male" if meta["gender"] > 0.5 else "female"


def age_third(meta: dict[str, Any], lower: float, upper: float) -> str:
    """Which third of the measured heads a head's age falls into; MakeHuman's scale, .45 young to 1 old."""
    if "age" not in meta:
        return UNKNOWN
    if meta["age"] <= lower:
        return f"1 up to {lower:.2f}"
    return f"2 up to {upper:.2f}" if meta["age"] <= upper else f"3 over {upper:.2f}"


def hair_length(meta: dict[str, Any]) -> str:
    """Class of a head's hair style."""
    style = meta.get("style")
    if style is None:
        return UNKNOWN
    return next(length for word, length in HAIR_LENGTHS if word in style)


def worst_excess(members: dict[str, list[HeadRecord]], measure: str) -> tuple[str, float]:
    """The group with the highest mean of a figure (low is good), and by what share it is above the mean of the groups.

    Heads of unknown group do not count; ("", NaN) with fewer than two groups.
    """
    means = {name: mean_of(records, measure) for name, records in members.items() if name != UNKNOWN}
    if len(means) < 2:
        return "", float("nan")
    worst = max(means, key=lambda name: means[name])
    return worst, means[worst] / float(np.mean(list(means.values()))) - 1
