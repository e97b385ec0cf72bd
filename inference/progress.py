"""Progress and cancelling are one thing: every stage calls `progress(fraction, label)`, and that raises when given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[float, str], None]  # fraction in [0, 1], and what is being done, for people


class Cancelled(Exception):
    """The user gave the job up. Only the worker and the command line catch it."""


def silent(fraction: float, label: str) -> None:
    """Progress for a caller that does not care and never cancels."""


def share(progress: Progress, start: float, end: float) -> Progress:
    """Progress for a part of a job: its 0..1 becomes start..end of the whole."""

    def scaled(fraction: float, label: str) -> None:
        progress(start + (end - start) * min(max(fraction, 0.0), 1.0), label)

    return scaled
