"""A batch on a Ray cluster: each worker is an actor, a process that Ray places on one of the cluster's machines.

Ray is an extra (requirements/ray.txt) and imported only here, when asked for. The code travels with the batch; photos,
models given by path and the output folder must be reachable from all machines under the same paths, as a farm's are.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import ClusterUnreachable, ClusterUnusable, RayMissing, known_failure
from .messages import MODEL_SUFFIX, Done, Failed, Reconstruct
from .waiting import wait_asleep

if TYPE_CHECKING:
    from .pipeline import Models

PACKAGE = Path(__file__).resolve().parent
LISTEN_S = 0.2  # between looks whether the batch was given up
OBJECT_STORE_BYTES = 100 << 20  # of a cluster started here; nothing but messages goes through it, Ray wants 75 MB


class HeadMaker:
    """What runs on the cluster: makes heads one after the other, with the networks kept warm."""

    def __init__(self) -> None:
        wait_asleep()
        self._models: Models | None = None

    def make(self, request: Reconstruct) -> Done | Failed:
        """The answer a worker of this computer would give. Model and device are those of the first request."""
        try:
            from . import pipeline  # here: a machine that lacks torch can say so

            options = request.options
            self._models = self._models or pipeline.load_models(options.model, options.device)
            report = pipeline.reconstruct(Path(request.photo), Path(request.out_dir), options, self._models)
            return Done(request.out_dir, report)
        except Exception as error:  # noqa: BLE001  the border: what is known is told in the batch's table
            failure = known_failure(error)
            return Failed(failure.message, failure.hint, failure.remedy, log=traceback.format_exc())


class RayWorker:
    """An actor on the cluster, seen from the batch; used by one thread. Has what `batch.WorkerProcess` has."""

    def __init__(self, ray: ModuleType, gpus: int) -> None:
        self._ray = ray
        # Ray gives an actor of one CPU one thread: several of them make more heads than one of several threads.
        # Without max_restarts a dead actor stays dead: the batch counts a photo's tries itself.
        placed = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._actor: Any = ray.remote(**placed)(HeadMaker).remote()

    def make(self, request: Reconstruct, stop: threading.Event) -> Done | Failed | None:
        """The actor's answer; None when it or its machine died, or because of `stop`. Raises ClusterUnusable."""
        exceptions = self._ray.exceptions
        answer = self._actor.make.remote(with_whole_paths(request))
        try:
            while not self._ray.wait([answer], timeout=LISTEN_S)[0]:
                if stop.is_set():
                    return None
            made: Done | Failed = self._ray.get(answer)
        except (exceptions.RayActorError, exceptions.ObjectLostError):
            return None
        except exceptions.RuntimeEnvSetupError as error:
            raise ClusterUnusable(f"The Ray cluster cannot take Headcast's code ({first_line(error)}).") from error
        if isinstance(made, Done) and not (Path(request.out_dir) / "head.json").is_file():
            raise ClusterUnusable(
                f"A machine of the Ray cluster wrote a head into {request.out_dir}, but it is not there.",
                "Choose an output folder that all machines of the cluster share, under the same path.",
            )
        return made

    def end(self) -> None:
        """Free the actor's place, whatever it is at."""
        self._ray.kill(self._actor)


@contextmanager
def cluster(address: str | None, workers: int, device: str) -> Iterator[Callable[[], RayWorker]]:
    """A function that starts a worker on a cluster, which is left when the block ends.

    address: of a running cluster, as `ray start` tells it, or "auto"; None starts one on this computer and ends it.
    workers: how many the started cluster has room for; on a running one, those without a free CPU wait for it.
    device:  for "cuda" each worker gets a GPU of its own, else none.
    Raises RayMissing, ClusterUnreachable, ClusterUnusable.
    """
    ray = load_ray()
    common: dict[str, Any] = {
        "runtime_env": {"py_modules": [str(PACKAGE)], "excludes": ["__pycache__"]},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    try:
        if address is None:
            ray.init(
                "local",
                num_cpus=workers,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                **common,
            )
        else:
            ray.init(address, **common)
    # What Ray raises for an address without a cluster, for one of another version, and for one that is no address.
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this computer" if address is None else f"at {address}"
        raise ClusterUnreachable(f"No Ray cluster answers {where} ({first_line(error)}).") from error
    try:
        gpus = int(device == "cuda")
        there = ray.cluster_resources()
        for what, needed in {"CPU": 1, "GPU": gpus}.items():
            if there.get(what, 0) < needed:
                raise ClusterUnusable(f"The Ray cluster has no {what}.")
        yield lambda: RayWorker(ray, gpus)
    finally:
        ray.shutdown()


def load_ray() -> ModuleType:
    """Ray, told to send nobody anything. Raises RayMissing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by Ray's own processes, which inherit it
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise RayMissing from error
    return ray


def with_whole_paths(request: Reconstruct) -> Reconstruct:
    """The request with absolute paths: an actor's current folder is another one."""
    options = request.options
    if options.model.endswith(MODEL_SUFFIX):
        options = replace(options, model=os.path.abspath(options.model))
    return Reconstruct(os.path.abspath(request.photo), os.path.abspath(request.out_dir), options)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; Ray's go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
