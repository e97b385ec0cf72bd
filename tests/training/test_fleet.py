"""Processes that train together: they meet at their mean, end together, and leave one state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.fleet import Fleet, launch
from training.train_generator import GeneratorTraining, train

STEPS, EVERY = 6, 3


def walk(fleet: Fleet, folder: Path) -> None:
    """Each process goes its own way, rank + 1 a step; the second wants to stop after four steps."""
    places = [torch.zeros(2, 3), torch.zeros(4)]
    trail = []
    for step in range(1, STEPS + 1):
        for place in places:
            place += fleet.rank + 1
        stopped = fleet.meet(step, places, stop=fleet.rank == 1 and step >= 4)
        trail.append([step, places[0][1, 2].item(), places[1][3].item(), float(stopped)])
    torch.save(torch.tensor(trail), folder / f"{fleet.rank}.pt")


def test_processes_meet_at_their_mean_and_stop_together(tmp_path: Path) -> None:
    launch(walk, tmp_path, size=2, every=EVERY)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    # Between meetings each is alone; at steps 3 and 6 both stand at the mean of what they walked, 1.5 a step.
    assert first[:, 1].tolist() == [1, 2, 4.5, 5.5, 6.5, 9]
    assert second[:, 1].tolist() == [2, 4, 4.5, 6.5, 8.5, 9]
    assert torch.equal(first[:, 2], first[:, 1]) and torch.equal(second[:, 2], second[:, 1])
    assert first[:, 3].tolist() == second[:, 3].tolist() == [0, 0, 0, 0, 0, 1]


def test_one_process_stays_in_this_one(tmp_path: Path) -> None:
    launch(walk, tmp_path, size=1, every=EVERY)
    assert torch.load(tmp_path / "0.pt", weights_only=True)[-1].tolist() == [6, 6, 6, 0]


def test_an_error_in_one_process_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"No such file|does not exist"):
        launch(walk, tmp_path / "missing", size=2, every=EVERY)


def test_looks_for_heads_fall_on_meetings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of --meet"):
        train(GeneratorTraining(tmp_path, tmp_path / "run", steps=15, processes=2))
