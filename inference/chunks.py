"""Work in pieces that fit in memory: where one does not, it is halved, and later ones keep the size that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from .errors import OutOfMemory, is_out_of_memory

Value = TypeVar("Value")


class Chunks:
    """How much is done at once; remembered from one call to the next.

    size:     items of a piece, to begin with.
    smallest: where even a piece of this size does not fit, halving further will not help.
    """

    def __init__(self, size: int, smallest: int) -> None:
        self._size, self._smallest = size, smallest

    def over(self, count: int, evaluate: Callable[[slice], Value]) -> Iterator[tuple[slice, Value]]:
        """Pieces of `count` items in order, each with what `evaluate` makes of it. Raises OutOfMemory."""
        start = 0
        while start < count:
            part = slice(start, min(start + self._size, count))
            try:
                value = evaluate(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._size <= self._smallest:
                    raise OutOfMemory() from error
                self._size //= 2
                continue
            yield part, value
            start = part.stop
