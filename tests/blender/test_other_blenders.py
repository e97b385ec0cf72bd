"""Blenders that start, end and meet: updates, two at once on one profile, and quitting in mid-job. See life_step.py."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.blender

STEP = Path(__file__).with_name("life_step.py")
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
MARK = "HEADCAST_TEST_MARK"  # in the environment of a Blender and of all that it starts
PATIENCE_S = 120.0  # a start of Blender on a loaded machine, with torch imported by its worker
CYCLES = 20
GONE_S = 5.0  # from Blender's end to its worker's: 2 s for a job to stop by itself, and then it is ended


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a Blender in the test's own profile: start(step, argument, ...)."""
    profile = tmp_path / "profile of Zoë"
    profile.mkdir()

    def run(*arguments: str, mark: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(STEP), *arguments],
            env={**os.environ, "BLENDER_USER_RESOURCES": str(profile), MARK: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    return run


def ending(blender: subprocess.Popen[str]) -> dict[str, Any]:
    """What it found, once it has ended by itself."""
    told, _ = blender.communicate("\n", timeout=PATIENCE_S)
    assert blender.returncode == 0, told
    (line,) = (line for line in told.splitlines() if line.startswith("{"))  # Blender prints around it
    return dict(json.loads(line))


def until_ready(blender: subprocess.Popen[str]) -> list[str]:
    """Wait for it to say that it is; the words after that."""
    assert blender.stdout
    for line in blender.stdout:
        if line.startswith("ready"):
            return line.split()[1:]
    raise AssertionError("ended before it was ready")


def older(archive: Path, folder: Path) -> Path:
    """The same extension as an earlier version."""
    path = folder / "headcast-0.0.9.zip"
    with zipfile.ZipFile(archive) as newer, zipfile.ZipFile(path, "w") as written:
        for name in newer.namelist():
            content = newer.read(name)
            if name == "blender_manifest.toml":
                content = content.replace(b'\nversion = "0.1.0"', b'\nversion = "0.0.9"', 1)
            written.writestr(name, content)
    return path


def test_an_update_keeps_preferences_models_and_heads(
    extension_zip: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    before = ending(start("settle", str(older(extension_zip, tmp_path)), "/some/python"))
    assert before["version"] == "0.0.9" and before["consent"] and before["worker_python"] == "/some/python"
    assert before["models"] == ["mine.safetensors"] and before["heads"] == ["a head"]
    assert ending(start("install", str(extension_zip)))["enabled"]
    after = ending(start("look"))
    assert after.pop("version") == "0.1.0" and before.pop("version")
    assert after == before


def test_two_blenders_on_one_profile_make_a_head_each_at_the_same_moment(
    extension_zip: Path, job_folder: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    ending(start("install", str(extension_zip)))
    python = tmp_path / "python"
    command = shlex.join([sys.executable, str(FAKE_WORKER), "done", str(job_folder)])
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8), "grey").save(photo)
    both = [start("make", str(python), str(photo)) for _ in range(2)]
    for blender in both:
        until_ready(blender)
    for blender in both:
        assert blender.stdin
        blender.stdin.write("\n")
        blender.stdin.flush()
    made = [ending(blender) for blender in both]
    assert all(found["made"] == ["FINISHED"] for found in made)
    assert made[0]["folder"] != made[1]["folder"]
    heads = next(tmp_path.rglob("heads"))
    assert {path.name for path in heads.iterdir()} == {found["folder"] for found in made}


def marked(mark: str) -> list[int]:
    """Processes with that mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="counts processes by /proc")
def test_no_process_is_left_by_twenty_blenders_that_end_in_mid_job(
    extension_zip: Path, astronaut: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    ending(start("install", str(extension_zip)))
    ends = ("exit", "quit", "SIGTERM", "SIGKILL")
    for cycle in range(CYCLES):
        mark, how = uuid.uuid4().hex, ends[cycle % len(ends)]
        label = ("Starting the engine", "Loading the model", "Reading the portrait")[cycle % 3]
        blender = start("begin", label, str(astronaut), mark=mark)
        (worker,) = map(int, until_ready(blender))
        assert {blender.pid, worker} == set(marked(mark))
        if how.startswith("SIG"):
            blender.send_signal(signal.Signals[how])
            blender.communicate(timeout=PATIENCE_S)
        else:
            blender.communicate(f"{how}\n", timeout=PATIENCE_S)
        begun = time.monotonic()
        while left := marked(mark):
            assert time.monotonic() - begun < GONE_S, (cycle, how, label, left)
            time.sleep(0.05)
        print(f"{how} at {label}: gone after {time.monotonic() - begun:.2f} s")
    assert not list(tmp_path.rglob("head.glb"))
