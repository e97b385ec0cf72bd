"""A batch on a Ray cluster is the same batch; whoever has no Ray, or no cluster, is told so."""

from __future__ import annotations

import builtins
import importlib.util
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference import batch, cli, ray_cluster
from inference.errors import RayMissing
from inference.messages import Done, Failed, Options, Reconstruct

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT.parent / "shared" / "photos"
PATIENCE_S = 60.0  # until an actor is at work
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is an extra: requirements/ray.txt")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no folder ../shared/photos with portraits")


@pytest.fixture
def options(simple_model: str) -> Options:
    return Options(simple_model, "cpu", grid=48, faces=1500, texture=128, refinement="off", detail=False)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in which Ray is not installed, whether it is or not."""
    kept = builtins.__import__

    def refuse(name: str, *rest: object, **named: object) -> object:
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return kept(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)


def descendants() -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process that comes from this one."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents[int(folder.name)] = parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # ended meanwhile
            continue
    for pid, (parent, command) in parents.items():
        while parent in parents and parent != os.getpid():
            parent = parents[parent][0]
        if parent == os.getpid():
            yield pid, command


def test_without_ray_the_command_names_what_to_install(
    without_ray: None, astronaut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "heads"
    assert cli.main(["batch", str(astronaut), "--out", str(out), "--engine", "ray"]) == cli.EXIT_KNOWN
    told = capsys.readouterr().err
    assert f"error: {RayMissing.message}" in told and "pip install ray==" in told
    assert not out.exists()


def test_the_command_to_install_is_the_requirement() -> None:
    lines = (ROOT / "requirements" / "ray.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert re.findall(r"pip install (\S+)", RayMissing.hint) == wanted


def test_an_address_is_refused_where_there_is_no_cluster_to_reach(
    astronaut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["batch", str(astronaut), "--out", str(tmp_path / "heads"), "--address", "auto"]
    assert cli.main(arguments) == cli.EXIT_KNOWN
    assert "Add --engine ray." in capsys.readouterr().err


def test_an_actor_gives_a_workers_answers_and_loads_the_model_once(
    astronaut: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor's class, without Ray around it."""
    from inference import pipeline

    loaded: list[str] = []
    load = pipeline.load_models
    monkeypatch.setattr(pipeline, "load_models", lambda *which: (loaded.append(which[0]), load(*which))[1])
    maker = ray_cluster.HeadMaker()
    done = maker.make(Reconstruct(str(astronaut), str(tmp_path / "head"), options))
    assert isinstance(done, Done) and (tmp_path / "head" / "head.glb").is_file()
    assert done.report["model"]["name"] == "neck and sphere"
    missing = maker.make(Reconstruct(str(tmp_path / "nobody.jpg"), str(tmp_path / "none"), options))
    assert isinstance(missing, Failed) and "nobody.jpg" in missing.message
    assert loaded == [options.model]


def test_paths_mean_the_same_wherever_an_actor_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent = ray_cluster.with_whole_paths(Reconstruct("a.jpg", "heads/a", Options(model="own.safetensors")))
    assert (sent.photo, sent.out_dir) == (str(tmp_path / "a.jpg"), str(tmp_path / "heads" / "a"))
    assert sent.options.model == str(tmp_path / "own.safetensors")
    assert ray_cluster.with_whole_paths(Reconstruct("a.jpg", "a")).options.model == Options().model


@needs_ray
@needs_proc
@needs_photos
@pytest.mark.thorough
def test_twenty_photos_give_twenty_heads_though_a_worker_is_killed(options: Options, tmp_path: Path) -> None:
    photos = sorted(PHOTOS.glob("*.jpg"))[:20]
    started: list[float] = []
    killed: list[int] = []
    dashboards: dict[str, bytes] = {}

    def told(outcome: batch.Outcome, done: int, count: int) -> None:
        print(f"{time.monotonic() - started[0]:6.1f} s  {done}/{count} {outcome.entry.folder} {outcome.result}")
        if done == 5:
            end = time.monotonic() + PATIENCE_S
            while not killed and time.monotonic() < end:
                at_work = [pid for pid, command in descendants() if command.startswith("ray::HeadMaker.make")]
                if at_work:
                    beside = [(pid, command) for pid, command in descendants() if "dashboard.py" in command]
                    dashboards.update({c: Path(f"/proc/{pid}/environ").read_bytes() for pid, c in beside})
                    os.kill(at_work[0], signal.SIGKILL)
                    killed.append(at_work[0])

    with ray_cluster.cluster(None, 2, "cpu") as start:

        def start_noted() -> batch.HeadWorker:
            started.append(time.monotonic())
            return start()

        outcomes = batch.run(photos, tmp_path, options, 2, told, start_noted)
    assert [outcome.result for outcome in outcomes] == ["made"] * 20
    assert len(killed) == 1 and len(started) == 3  # two workers, and one in the place of the dead
    assert all((tmp_path / photo.stem / "head.glb").stat().st_size > 10_000 for photo in photos)
    assert len((tmp_path / batch.TABLE).read_text(encoding="utf-8").splitlines()) == 21
    # Ray starts the process that would report usage and show pages in any case, and tells it here to do neither.
    for command, environment in dashboards.items():
        assert "--disable-frontend" in command and b"RAY_USAGE_STATS_ENABLED=0" in environment.split(b"\0")
    assert not [command for _, command in descendants() if "ray" in command]  # none is left behind
    with ray_cluster.cluster(None, 1, "cpu") as start:
        again = batch.run(photos, tmp_path, options, 1, lambda *told: None, start)
    assert [outcome.result for outcome in again] == ["kept"] * 20
