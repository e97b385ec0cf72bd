"""Independent pieces of work at once, in threads of this process: numpy and torch let go of Python when computing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Value = TypeVar("Value")

QUEUED = 2  # items a thread that are begun or done before the first of them is asked for
MOST_AT_ONCE = 4  # of pieces that take a hundred megabytes each


def in_order(
    work: Callable[[Item], Value], items: Sequence[Item], most: int = MOST_AT_ONCE
) -> Iterator[tuple[Item, Value]]:
    """Each item with what `work` makes of it, in the order of the items, worked on by several threads.

    most: threads, of as many as torch has been given. In each of them torch computes alone.

    What `work` raises is raised here, and then, as when the caller stops asking, nothing more is begun.
    """
    count = min(most, torch.get_num_threads(), len(items))
    if count <= 1:
        yield from ((item, work(item)) for item in items)
        return
    queue: deque[tuple[Item, Future[Value]]] = deque()
    with lone_threads(count) as pool:
        for item in items:
            queue.append((item, pool.submit(work, item)))
            if len(queue) == QUEUED * count:
                first, value = queue.popleft()
                yield first, value.result()
        for item, value in queue:
            yield item, value.result()


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
