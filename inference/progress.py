"""Progress and cancelling are one: every stage calls `progress(fraction, label)`, which raises when given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = Callable[[float, str], None]  # fraction in [0, 1], and what is being done, for people


class Cancelled(Exception):
    """The user gave the job up. Only the worker and the command line catch it."""


def silent(fraction: float, label: str) -> None:
    """Progress for a caller that does not care and never cancels."""


class Stages:
    """Runs the stages of a job one after the other: each gets its share of the progress, and its seconds are kept.

    shares: by stage, in order, how much of the whole each takes; any unit. `seconds` fills as stages end.
    """

    def __init__(self, shares: Mapping[str, float], progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._shares = shares
        self._progress = progress
        self._done = 0.0
        self._told = 0.0

    @contextmanager
    def stage(self, name: str, label: str) -> Iterator[Progress]:
        """Progress of one stage, 0..1 inside; `label` is told until the stage has words of its own."""
        total = sum(self._shares.values())
        start, width = self._done / total, self._shares[name] / total
        begun = time.perf_counter()

        def step(fraction: float, detail: str = "") -> None:
            nonlocal label
            label = detail or label
            # A part that has to be done again must not draw the bar back.
            self._told = max(self._told, start + width * min(max(fraction, 0.0), 1.0))
            self._progress(self._told, label)

        step(0.0)
        yield step
        step(1.0)
        self._done += self._shares[name]
        self.seconds[name] = time.perf_counter() - begun
