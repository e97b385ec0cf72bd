"""The worker as a process of its own, asked through the add-on's client, with the real pipeline behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headcast.addon.worker_client import WorkerClient
from headcast.inference.messages import (
    WORKER_DIED,
    Cancelled,
    Convert,
    Converted,
    Done,
    Examine,
    Examined,
    Failed,
    Message,
    Options,
    Progress,
    Ready,
    Rebake,
    Rebuild,
    Reconstruct,
    Reroll,
    Rig,
    encode,
)
from PIL import Image
from safetensors.torch import save_file

from inference import checkpoints, cli

from .published_encoders import write_published

FILES = ["head.glb", "head.json", "head.safetensors", "portrait.png", "preview.png"]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0  # for one job on a busy machine, torch's import included
CANCEL_S = 2.0  # from the click until Blender is free again
GROWTH_MB = 200.0  # over ten jobs


@pytest.fixture(scope="module")
def client() -> Iterator[WorkerClient]:
    """One worker, kept warm over the tests."""
    client = WorkerClient([sys.executable, "-I"], ROOT)
    yield client
    client.close()


@pytest.fixture
def small(simple_model: str) -> Options:
    """Seconds instead of half a minute."""
    return Options(model=simple_model, device="cpu", grid=48, faces=1500, texture=128)


def until_answered(client: WorkerClient) -> list[Message]:
    """Everything said up to the answer, which comes last."""
    heard: list[Message] = []
    end = time.monotonic() + PATIENCE_S
    while client.busy:
        assert time.monotonic() < end, f"{heard[-1:]} {client.log}"
        heard += client.poll(wait_s=0.1)
    return heard


def until_stage(client: WorkerClient, label: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not any(isinstance(m, Progress) and m.label == label for m in client.poll(wait_s=0.05)):
        assert client.busy, f"the job ended before {label!r}"
        assert time.monotonic() < end, client.log


def test_a_photo_becomes_a_folder_and_progress_only_rises(client, astronaut, small, tmp_path):
    out_dir = tmp_path / "tête de Zoë"
    client.submit(Reconstruct(str(astronaut), str(out_dir), small))
    heard = until_answered(client)
    done = heard[-1]
    assert isinstance(done, Done), done
    assert sorted(path.name for path in out_dir.iterdir()) == FILES
    assert done.folder == str(out_dir) and done.report["mesh"]["watertight"]
    fractions = [message.fraction for message in heard if isinstance(message, Progress)]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] <= 1.0
    assert len({message.label for message in heard if isinstance(message, Progress)}) >= 8


def flags(option: str, value: object) -> list[str]:
    """An option of `Options` as the command line takes it."""
    name = option.replace("_", "-")
    return [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]


def test_each_error_has_the_same_words_in_the_panel_and_on_the_command_line(client, astronaut, small, tmp_path, capsys):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(astronaut.read_bytes()[:5000])
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    Image.fromarray(np.full((400, 400, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    Image.open(astronaut).resize((120, 120)).save(tmp_path / "far away.png")
    Image.open(astronaut).crop((220, 0, 512, 400)).save(tmp_path / "half a face.png")
    good, out = str(astronaut), str(tmp_path / "out")
    cases = {
        "missing": (str(tmp_path / "none.jpg"), out, {}),
        "empty": (str(tmp_path / "empty.jpg"), out, {}),
        "no image": (str(tmp_path / "text.jpg"), out, {}),
        "truncated": (str(tmp_path / "cut.png"), out, {}),
        "no face": (str(tmp_path / "grey.png"), out, {}),
        "too small": (str(tmp_path / "far away.png"), out, {}),
        "cut off": (str(tmp_path / "half a face.png"), out, {}),
        "not writable": (good, str(tmp_path / "empty.jpg" / "out"), {}),
        "no weights": (good, out, {"model": "no such model"}),
        "wrong weights": (good, out, {"model": str(tmp_path / "weights.safetensors")}),
        "no device": (good, out, {"device": "mps" if sys.platform != "darwin" else "cuda"}),
        "bad option": (good, out, {"grid": 3}),
    }
    said = {}
    for name, (photo, out_dir, changes) in cases.items():
        options = {**vars(small), **changes}
        client.submit(Reconstruct(photo, out_dir, Options(**options)))
        failed = until_answered(client)[-1]
        assert isinstance(failed, Failed), (name, failed)
        arguments = [item for option, value in options.items() for item in flags(option, value)]
        capsys.readouterr()
        assert cli.main(["reconstruct", photo, "--out", out_dir, *arguments]) == cli.EXIT_KNOWN
        printed = capsys.readouterr().err
        assert f"error: {failed.message}\nhint: {failed.hint}\n" in printed, name
        assert "Traceback" not in printed
        said[name] = failed.message
    assert len(set(said.values())) == len(cases), said  # each its own words
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["Shaping the surface", "Unwrapping", "Painting the skin"])
def test_cancel_is_answered_within_two_seconds_and_writes_nothing(client, astronaut, simple_model, tmp_path, stage):
    client.submit(Reconstruct(str(astronaut), str(tmp_path / "out"), Options(simple_model, "cpu", 256, 30_000, 2048)))
    until_stage(client, stage)
    pid, begun = client.pid, time.monotonic()
    client.cancel()
    heard = until_answered(client)
    assert isinstance(heard[-1], Cancelled), heard
    assert time.monotonic() - begun < CANCEL_S
    assert client.pid == pid, "the worker is not killed for it"
    assert list(tmp_path.iterdir()) == []


def test_cancel_is_answered_while_a_new_worker_still_imports_torch(astronaut, small, tmp_path):
    client = WorkerClient([sys.executable, "-I"], ROOT)
    try:
        job = Reconstruct(str(astronaut), str(tmp_path / "out"), small)
        client.submit(job)
        until_stage(client, "Starting the engine")
        begun = time.monotonic()
        client.cancel()
        assert isinstance(until_answered(client)[-1], Cancelled)
        assert time.monotonic() - begun < CANCEL_S
        client.submit(job)
        heard = until_answered(client)
        assert isinstance(heard[-1], Done) and not any(isinstance(message, Cancelled) for message in heard)
    finally:
        client.close()


def test_published_files_become_a_model_which_makes_the_next_head(client, tmp_path):
    sources, out = write_published(tmp_path), tmp_path / "modèle.safetensors"
    client.submit(Convert(tuple(map(str, sources)), str(out)))
    heard = until_answered(client)
    assert heard[-1] == Converted(str(out), checkpoints.sha256_of(out))
    labels = list(dict.fromkeys(message.label for message in heard if isinstance(message, Progress)))
    assert labels[0] == "Starting the engine" and labels[-1] == "Writing the file" and len(labels) >= 4
    fractions = [message.fraction for message in heard if isinstance(message, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert checkpoints.load(out).config["commercial_use"] is False


def test_the_doctor_looks_at_the_worker_that_makes_the_heads(client, simple_model):
    client.submit(Examine(simple_model, "cpu"))
    heard = until_answered(client)
    examined = heard[-1]
    assert isinstance(examined, Examined), examined
    topics = [finding.topic for finding in examined.findings]
    assert topics[0] == "Headcast" and {"Python", "Packages", "Device cpu", "Model", "Self-test"} <= set(topics)
    assert "neck and sphere" in next(finding.text for finding in examined.findings if finding.topic == "Model")
    labels = [message.label for message in heard if isinstance(message, Progress)]
    assert "Testing the engine" in labels
    client.submit(Examine(simple_model, "cpu"))
    client.cancel()
    assert isinstance(until_answered(client)[-1], Cancelled)


def test_a_finished_head_is_made_again_in_each_way_by_the_warm_worker(client, astronaut, small, tmp_path):
    head = str(tmp_path / "tête")
    client.submit(Reconstruct(str(astronaut), head, small))
    assert isinstance(until_answered(client)[-1], Done)
    pid = client.pid
    jobs = {
        "rebuild": Rebuild(head, str(tmp_path / "rebuild"), {"grid": 64, "texture": 64}),
        "rebake": Rebake(head, head + "/head.glb", str(tmp_path / "rebake"), {"texture": 256}, own_uv_only=True),
        "reroll": Reroll(head, str(tmp_path / "reroll"), 2),
    }
    for verb, job in jobs.items():
        client.submit(job)
        heard = until_answered(client)
        done = heard[-1]
        assert isinstance(done, Done), done
        assert done.report["made_by"] == verb and done.folder == str(tmp_path / verb)
        assert sorted(path.name for path in (tmp_path / verb).iterdir()) == FILES
        fractions = [message.fraction for message in heard if isinstance(message, Progress)]
        assert fractions == sorted(fractions) and len({m.label for m in heard if isinstance(m, Progress)}) >= 5
    client.submit(Rig(head, {"texture": 64}))
    until_stage(client, "Fitting the face's shape")
    client.cancel()
    assert isinstance(until_answered(client)[-1], Cancelled)
    assert sorted(path.name for path in Path(head).iterdir()) == FILES
    client.submit(Rig(head, {"texture": 64}))
    heard = until_answered(client)
    done = heard[-1]
    assert isinstance(done, Done), done
    assert done.folder == head and sorted(path.name for path in Path(head).iterdir()) == sorted(
        {*FILES, *done.report["files"]}
    )
    fractions = [message.fraction for message in heard if isinstance(message, Progress)]
    assert fractions == sorted(fractions) and len({m.label for m in heard if isinstance(m, Progress)}) >= 4
    client.submit(Rebake(head, str(astronaut), str(tmp_path / "none")))
    failed = until_answered(client)[-1]
    assert isinstance(failed, Failed) and "astronaut.png" in failed.message and failed.hint
    assert client.pid == pid and not (tmp_path / "none").exists()


def test_a_file_that_is_no_model_fails_in_words_and_the_worker_lives_on(client, simple_model, tmp_path):
    source, out = tmp_path / "model.pkl", tmp_path / "out.safetensors"
    source.write_bytes(b"no pickle")
    client.submit(Convert((str(source),), str(out)))
    failed = until_answered(client)[-1]
    assert isinstance(failed, Failed) and "model.pkl" in failed.message and failed.hint
    pid = client.pid
    client.submit(Convert((simple_model,), str(out)))
    assert until_answered(client)[-1] == Converted(str(out), checkpoints.sha256_of(Path(simple_model)))
    assert client.pid == pid


def test_a_model_that_vanished_or_was_replaced_is_not_used_from_memory(client, astronaut, small, tmp_path):
    model = tmp_path / "passing.safetensors"
    model.write_bytes(Path(small.model).read_bytes())
    job = Reconstruct(str(astronaut), str(tmp_path / "out"), replace(small, model=str(model)))
    client.submit(job)
    done = until_answered(client)[-1]
    assert isinstance(done, Done) and done.report["model"]["name"] == "neck and sphere"
    config, tensors = checkpoints.read(model)
    save_file(tensors, model, metadata={checkpoints.METADATA_KEY: json.dumps({**config, "name": "another"})})
    client.submit(job)
    assert until_answered(client)[-1].report["model"]["name"] == "another"
    model.unlink()
    client.submit(job)
    failed = until_answered(client)[-1]
    assert isinstance(failed, Failed) and str(model) in failed.message


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory of another process is read from /proc")
def test_ten_jobs_in_one_worker_do_not_fill_the_memory(client, astronaut, small, tmp_path):
    used_mb = []
    for _ in range(10):
        client.submit(Reconstruct(str(astronaut), str(tmp_path / "out"), small))
        assert isinstance(until_answered(client)[-1], Done)
        status = Path(f"/proc/{client.pid}/status").read_text()
        used_mb.append(int(status.split("VmRSS:")[1].split()[0]) / 1e3)
    assert used_mb[-1] - used_mb[0] < GROWTH_MB, used_mb


def test_a_worker_killed_in_mid_job_is_told_and_the_next_job_starts_another(client, astronaut, small, tmp_path):
    client.submit(Reconstruct(str(astronaut), str(tmp_path / "out"), small))
    until_stage(client, "Shaping the surface")
    killed = client.pid
    os.kill(killed, 9)
    failed = until_answered(client)[-1]
    assert isinstance(failed, Failed)
    assert (failed.message, failed.hint, failed.remedy) == (WORKER_DIED.message, WORKER_DIED.hint, WORKER_DIED.remedy)
    assert not (tmp_path / "out").exists()
    client.submit(Reconstruct(str(astronaut), str(tmp_path / "out"), small))
    assert isinstance(until_answered(client)[-1], Done)
    assert client.pid != killed


def test_the_end_of_stdin_ends_the_worker_in_mid_job(astronaut, simple_model, tmp_path):
    job = Reconstruct(str(astronaut), str(tmp_path / "out"), Options(simple_model, "cpu", 256, 30_000, 2048))
    worker = subprocess.Popen(
        [sys.executable, "-I", str(ROOT / "inference" / "start_worker.py"), str(ROOT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin and worker.stdout
    worker.stdin.write(encode(job))
    worker.stdin.flush()
    while b"Shaping" not in worker.stdout.readline():
        assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(timeout=5.0) == 0
    worker.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_the_packages_is_told_in_words(tmp_path):
    client = WorkerClient([sys.executable, "-I", "-S"], ROOT)  # -S: no site-packages
    try:
        client.submit(Reconstruct("photo.jpg", str(tmp_path / "out")))
        heard = until_answered(client)
        assert isinstance(heard[0], Ready)
        assert isinstance(heard[-1], Failed) and "lacks the package" in heard[-1].message, heard
        client.submit(Examine())
        examined = until_answered(client)[-1]
        assert isinstance(examined, Examined)
        missing = [finding.in_words().topic for finding in examined.findings if finding.trouble and finding.severe]
        assert "Package torch" in missing and "Package numpy" in missing
    finally:
        client.close()


def test_what_libraries_print_does_not_reach_the_wire():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import os, subprocess\n"
        "from inference.worker import private_pipes\n"
        "requests, answers = private_pipes()\n"
        "print('printed'); sys.stdout.flush(); os.write(1, b'written'); subprocess.run(['echo', 'by a child'])\n"
        "assert sys.stdin.read() == '' and requests.readline() == b'asked'\n"
        "answers.write(b'answered'); answers.flush()\n"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code, str(ROOT)], input=b"asked", capture_output=True)
    assert result.stdout == b"answered"
    assert all(word in result.stderr for word in (b"printed", b"written", b"by a child"))
