"""Work in pieces that fit in memory: where one does not, it is halved, and later ones keep the size that fits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from .errors import OutOfMemory, is_out_of_memory

Value = TypeVar("Value")

QUEUED = 2  # pieces a thread that are begun or done before the first of them is asked for


class Chunks:
    """How much is done at once; remembered from one call to the next.

    size:     items of a piece, to begin with.
    smallest: where even a piece of this size does not fit, halving further will not help.
    workers:  pieces worked on at once, each by a thread of its own in which torch computes alone. For pieces whose
              steps take some milliseconds at most: there torch's threads wait for each other longer than they work.
    """

    def __init__(self, size: int, smallest: int, workers: int = 1) -> None:
        self._size, self._smallest, self._workers = size, smallest, workers

    def over(self, count: int, evaluate: Callable[[slice], Value]) -> Iterator[tuple[slice, Value]]:
        """Pieces of `count` items in order, each with what `evaluate` makes of it. Raises OutOfMemory."""
        start = 0
        while start < count:
            parts = [slice(begin, min(begin + self._size, count)) for begin in range(start, count, self._size)]
            try:
                for part, value in self._evaluated(parts, evaluate):
                    yield part, value
                    start = part.stop
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._size <= self._smallest:
                    raise OutOfMemory() from error
                self._size //= 2

    def _evaluated(self, parts: list[slice], evaluate: Callable[[slice], Value]) -> Iterator[tuple[slice, Value]]:
        if self._workers == 1 or len(parts) == 1:
            yield from ((part, evaluate(part)) for part in parts)
            return
        queue: deque[tuple[slice, Future[Value]]] = deque()
        with lone_threads(min(self._workers, len(parts))) as pool:
            for part in parts:
                queue.append((part, pool.submit(evaluate, part)))
                if len(queue) == QUEUED * self._workers:
                    first, value = queue.popleft()
                    yield first, value.result()
            for part, value in queue:
                yield part, value.result()


@contextmanager
def lone_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch computes without helpers; what has not begun when the block is left is dropped."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # What was set last in any thread is also what torch gives to threads that are still to come.
        torch.set_num_threads(threads)
