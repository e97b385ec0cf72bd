"""Several processes that train one model: each takes its own steps, and every few steps all go on from their mean.

Local SGD (Stich, ICLR 2019, arXiv 1805.09767). On two busy cores, two processes of one thread saw 1.3 to 1.5 times as
many heads a second as one process of two threads; gradients shared at every step would cost much of that again.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing


@dataclass(frozen=True)
class Fleet:
    """One process's place among all: rank 0 writes curves, checks and states."""

    rank: int = 0
    size: int = 1
    every: int = 10  # steps between meetings

    @property
    def leads(self) -> bool:
        """Whether this process writes what the fleet leaves behind."""
        return self.rank == 0

    def meet(self, step: int, parameters: Iterable[Tensor], stop: bool = False) -> bool:
        """Bring parameters to the mean of all processes, where the step is one to meet at.

        stop: whether this process wants to end. Returns whether any of them does, so that all end together; between
        meetings a process of a larger fleet cannot know, and goes on.
        """
        if self.size == 1:
            return stop
        if step % self.every:
            return False
        together = [parameter.data for parameter in parameters]
        flat = torch.cat([values.flatten() for values in together] + [torch.tensor([float(stop)])])
        dist.all_reduce(flat)
        sizes = [values.numel() for values in together]
        for values, mean in zip(together, (flat[:-1] / self.size).split(sizes), strict=True):
            values.copy_(mean.view_as(values))
        return bool(flat[-1] > 0)


def require_meetings(size: int, every: int, **steps: int) -> None:
    """Raise ValueError where several processes do not meet at the named numbers of steps, so that they would part."""
    apart = [f"--{name}" for name, count in steps.items() if count % every]
    if size > 1 and apart:
        raise ValueError(f"{' and '.join(apart)} must be multiples of --meet, {every}")


def launch(work: Callable[[Fleet, Any], None], settings: Any, size: int, every: int) -> None:
    """Run `work(fleet, settings)` in `size` processes; with one, in this process.

    work must be a function of a module, since it is sent to new processes by name. An error in one ends all, and is
    raised here.
    """
    if size == 1:
        work(Fleet(), settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = Path(folder) / "fleet"
        multiprocessing.start_processes(
            _work_as_one_of, (work, settings, size, every, meeting_point), nprocs=size, start_method="spawn"
        )


def _work_as_one_of(
    rank: int, work: Callable[[Fleet, Any], None], settings: Any, size: int, every: int, meeting_point: Path
) -> None:
    # Without a name, gloo asks for the host's own address, which machines without a network do not have.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    dist.init_process_group("gloo", init_method=meeting_point.as_uri(), rank=rank, world_size=size)
    try:
        work(Fleet(rank, size, every), settings)
    finally:
        dist.destroy_process_group()


def _loopback() -> str:
    """Name of the network interface that stays within the machine."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
