"""The client against fake workers: small scripts in place of inference/start_worker.py that speak the real wire."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from headcast.addon.worker_client import CANCEL_PATIENCE_S, WorkerBusy, WorkerClient, clean_environment
from headcast.inference.messages import (
    WORKER_DIED,
    WORKER_NOT_STARTED,
    Cancelled,
    Done,
    Failed,
    Message,
    Progress,
    Ready,
    Reconstruct,
)

ROOT = Path(__file__).resolve().parents[2]
JOB = Reconstruct("photo of Zoë.jpg", "out")
PATIENCE_S = 20.0  # for a process to start on a busy machine

PREAMBLE = """
import os, sys, time
sys.path.insert(0, {root!r})
from inference.messages import *
def say(message):
    sys.stdout.buffer.write(encode(message)); sys.stdout.buffer.flush()
def hear():
    line = sys.stdin.buffer.readline()
    return decode(line) if line else None
say(Ready(os.getpid(), sys.argv[1]))
"""
OBEDIENT = """
while (request := hear()) is not None and not isinstance(request, Close):
    if isinstance(request, Reconstruct):
        say(Progress(0.5, "half"))
        if request.photo == "wait":
            assert isinstance(hear(), Cancel)
            say(Cancelled())
        else:
            say(Done(request.out_dir, {"photo": request.photo, "python": dict(os.environ), "folders": sys.argv[2:]}))
"""
MORTAL = """
request = hear()
say(Progress(0.3, "Shaping the surface"))
print("last words", file=sys.stderr, flush=True)
os._exit(3)
"""
DEAF = """
request = hear()
say(Progress(0.1, "a long C call"))
time.sleep(600)
"""
TALKATIVE = """
request = hear()
for _ in range(20000):
    print("x" * 100, file=sys.stderr)
sys.stdout.buffer.write(b"a library prints what is no message\\n")
say(Done("out", {}))
hear()
"""


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def client_of(tmp_path: Path) -> Iterator[Callable[..., WorkerClient]]:
    """Clients of a fake worker; closed at the end."""
    clients = []

    def make(script: str, **options: object) -> WorkerClient:
        folder = tmp_path / "extension root é" / "inference"
        folder.mkdir(parents=True, exist_ok=True)
        preamble = PREAMBLE.format(root=str(ROOT))
        (folder / "start_worker.py").write_text(preamble + textwrap.dedent(script), encoding="utf-8")
        clients.append(WorkerClient([sys.executable, "-I"], folder.parent, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def until(client: WorkerClient, kind: type) -> list[Message]:
    """Everything said up to the first message of that kind."""
    heard: list[Message] = []
    end = time.monotonic() + PATIENCE_S
    while not any(isinstance(message, kind) for message in heard):
        assert time.monotonic() < end, f"{heard} {client.log}"
        heard += client.poll(wait_s=0.1)
    return heard


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_job_is_answered_and_the_next_one_uses_the_same_process(client_of):
    client = client_of(OBEDIENT, extra_paths=["/wheels of Blender"])
    client.submit(JOB)
    assert client.busy
    heard = until(client, Done)
    assert [type(message) for message in heard] == [Ready, Progress, Done]
    assert heard[-1].report["photo"] == JOB.photo and heard[-1].report["folders"] == ["/wheels of Blender"]
    assert not client.busy
    first = client.pid
    client.submit(JOB)
    until(client, Done)
    assert client.pid == first


def test_a_second_job_is_refused_while_one_runs(client_of):
    client = client_of(OBEDIENT)
    client.submit(Reconstruct("wait", "out"))
    with pytest.raises(WorkerBusy):
        client.submit(JOB)


def test_cancel_is_answered_by_the_worker_which_lives_on(client_of):
    client = client_of(OBEDIENT)
    client.submit(Reconstruct("wait", "out"))
    until(client, Progress)
    pid = client.pid
    client.cancel()
    assert isinstance(until(client, Cancelled)[-1], Cancelled)
    assert client.pid == pid and not client.busy


def test_cancel_without_a_job_does_nothing(client_of):
    client = client_of(OBEDIENT)
    client.cancel()
    client.submit(JOB)
    assert isinstance(until(client, Done)[-1], Done)


def test_a_worker_silent_five_seconds_after_cancel_is_killed_and_started_again(client_of):
    clock = Clock()
    client = client_of(DEAF, clock=clock)
    client.submit(JOB)
    until(client, Progress)
    deaf = client.pid
    client.cancel()
    clock.now += CANCEL_PATIENCE_S - 0.1
    assert client.poll() == [] and client.busy
    clock.now += 0.2
    assert client.poll() == [Cancelled()]
    assert not client.busy and not is_alive(deaf)
    assert client.pid not in (None, deaf)


def test_a_worker_that_dies_in_mid_job_is_told_with_its_last_words_and_restarted_by_the_next_job(client_of):
    client = client_of(MORTAL)
    client.submit(JOB)
    failed = until(client, Failed)[-1]
    assert (failed.message, failed.hint, failed.remedy) == (WORKER_DIED.message, WORKER_DIED.hint, "retry")
    assert "last words" in failed.log and "exit code 3" in failed.log
    assert not client.busy and client.pid is None
    client_of(OBEDIENT)  # the same file, mended
    client.submit(JOB)
    assert isinstance(until(client, Done)[-1], Done)


@pytest.mark.skipif(sys.platform == "win32", reason="signals by number")
def test_a_worker_killed_while_idle_is_restarted_by_the_next_job(client_of):
    client = client_of(OBEDIENT)
    client.submit(JOB)
    until(client, Done)
    killed = client.pid
    os.kill(killed, 9)
    client.submit(JOB)
    heard = until(client, Done)
    assert not any(isinstance(message, Failed) for message in heard)
    assert client.pid != killed


def test_a_worker_that_cannot_even_start_is_told_every_time(client_of):
    client = client_of("sys.exit(1)")
    for _ in range(2):
        client.submit(JOB)
        failed = until(client, Failed)[-1]
        assert failed.message == WORKER_DIED.message


def test_a_python_that_does_not_exist_is_told_in_words():
    client = WorkerClient(["/no/such/python", "-I"], ROOT)
    client.submit(JOB)
    (failed,) = client.poll()
    assert (failed.message, failed.hint, failed.remedy) == (
        WORKER_NOT_STARTED.message,
        WORKER_NOT_STARTED.hint,
        "preferences",
    )
    assert "/no/such/python" in failed.log
    assert not client.busy and client.poll() == []


def test_floods_of_prints_neither_block_the_worker_nor_break_the_wire(client_of):
    client = client_of(TALKATIVE)
    client.submit(JOB)
    assert isinstance(until(client, Done)[-1], Done)


def test_close_leaves_no_process_also_in_mid_job(client_of):
    for script, job in ((OBEDIENT, JOB), (DEAF, JOB)):
        client = client_of(script)
        client.submit(job)
        until(client, Progress)
        pid = client.pid
        client.close()
        assert not is_alive(pid) and client.pid is None and not client.busy
        client.close()  # twice is harmless


def test_a_blender_that_quits_without_closing_leaves_no_process(client_of, tmp_path):
    client_of(OBEDIENT)
    root = tmp_path / "extension root é"
    code = f"""
import importlib.machinery, importlib.util, sys
spec = importlib.machinery.ModuleSpec("headcast", None, is_package=True)
spec.submodule_search_locations = [{str(ROOT)!r}]
sys.modules["headcast"] = importlib.util.module_from_spec(spec)
from pathlib import Path
from headcast.addon.worker_client import WorkerClient
client = WorkerClient([sys.executable, "-I"], Path({str(root)!r}))
assert client.start()
print(client.pid)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not is_alive(int(printed.stdout))


def test_the_environment_of_another_python_does_not_reach_the_worker(monkeypatch, client_of):
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_INDEX_URL", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.setenv(name, "/strange")
    monkeypatch.setenv("HEADCAST_KEPT", "yes")
    client = client_of(OBEDIENT)
    client.submit(JOB)
    seen = until(client, Done)[-1].report["python"]
    assert seen["HEADCAST_KEPT"] == "yes" and "/strange" not in seen.values()
    assert clean_environment({"pythonpath": "x", "Path": "y"}) == {"Path": "y"}  # Windows does not mind the case
