"""Work in pieces that fit in memory: where one does not, it is halved, and later ones keep the size that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from .errors import OutOfMemory, is_out_of_memory
from .side_by_side import in_order

Value = TypeVar("Value")


class Chunks:
    """How much is done at once; remembered from one call to the next.

    size:     items of a piece, to begin with.
    smallest: where even a piece of this size does not fit, halving further will not help.
    at_once:  pieces worked on side by side, at most. For pieces whose steps take some milliseconds at most: there
              torch's own threads wait for each other longer than they work.
    """

    def __init__(self, size: int, smallest: int, at_once: int = 1) -> None:
        self._size, self._smallest, self._at_once = size, smallest, at_once

    def over(self, count: int, evaluate: Callable[[slice], Value]) -> Iterator[tuple[slice, Value]]:
        """Pieces of `count` items in order, each with what `evaluate` makes of it. Raises OutOfMemory."""
        start = 0
        while start < count:
            parts = [slice(begin, min(begin + self._size, count)) for begin in range(start, count, self._size)]
            try:
                for part, value in in_order(evaluate, parts, self._at_once):
                    yield part, value
                    start = part.stop
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._size <= self._smallest:
                    raise OutOfMemory() from error
                self._size //= 2
