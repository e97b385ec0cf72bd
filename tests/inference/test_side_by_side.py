from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from inference.side_by_side import QUEUED, in_order

THREADS = 2


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def test_values_come_in_the_order_of_their_items_whatever_is_ready_first() -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(in_order(slow_at_first, range(9))) == [(item, item * item) for item in range(9)]


def test_two_pieces_are_worked_on_at_once_each_without_helpers_of_torch() -> None:
    meeting = threading.Barrier(THREADS, timeout=10)

    def meet(item: int) -> int:
        meeting.wait()  # for the other thread, which has the other item
        return torch.get_num_threads()

    assert [threads for _, threads in in_order(meet, range(4))] == [1, 1, 1, 1]
    assert torch.get_num_threads() == THREADS
    late = []
    thread = threading.Thread(target=lambda: late.append(torch.ones(2).sum() and torch.get_num_threads()))
    thread.start(), thread.join()
    assert late == [THREADS]  # threads that are still to come have what they had before


@pytest.mark.parametrize(("most", "threads"), [(1, 2), (4, 1)])
def test_one_at_a_time_is_done_by_the_caller(most: int, threads: int) -> None:
    torch.set_num_threads(threads)
    workers = [worker for _, worker in in_order(lambda _: threading.current_thread(), range(3), most)]
    assert workers == [threading.current_thread()] * 3


@pytest.mark.parametrize("end", ["the work fails", "the caller stops"])
def test_nothing_more_is_begun_after_the_end(end: str) -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        if item == 3 and end == "the work fails":
            raise ValueError("three")
        return item

    if end == "the work fails":
        with pytest.raises(ValueError, match="three"):
            list(in_order(work, range(100)))
    else:
        with pytest.raises(KeyboardInterrupt):
            for item, _ in in_order(work, range(100)):
                if item == 3:
                    raise KeyboardInterrupt
    time.sleep(0.05)
    assert len(begun) <= 4 + QUEUED * THREADS
    assert torch.get_num_threads() == THREADS
