from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference import cli, pipeline

ROOT = Path(__file__).resolve().parents[2]
FILES = ["head.glb", "head.json", "head.safetensors", "portrait.png", "preview.png"]
SMALL = ["--device", "cpu", "--grid", "48", "--faces", "1500", "--texture", "128"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference", *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )


def test_one_command_makes_the_folder_and_prints_where_the_head_is(astronaut, simple_model, tmp_path):
    out_dir = tmp_path / "tête"
    result = run("reconstruct", str(astronaut), "--out", str(out_dir), "--model", simple_model, *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(out_dir / "head.glb")
    assert sorted(path.name for path in out_dir.iterdir()) == FILES
    assert "Unwrapping" in result.stderr and "Writing the files" in result.stderr


@pytest.mark.thorough  # the worker's test takes the same way
def test_a_finished_head_is_made_again_by_the_same_verbs(astronaut, simple_model, tmp_path, capsys):
    head, out = str(tmp_path / "head"), tmp_path / "out"
    assert cli.main(["reconstruct", str(astronaut), "--out", head, "--model", simple_model, *SMALL]) == 0
    for verb, more in (
        ("rebuild", ["--grid", "64", "--refinement", "off"]),
        ("rebake", ["--mesh", head + "/head.glb", "--texture", "64"]),
        ("reroll", ["--seed", "4", "--device", "cpu"]),
    ):
        capsys.readouterr()
        assert cli.main([verb, head, "--out", str(out / verb), *more]) == 0
        assert capsys.readouterr().out.strip() == str(out / verb / "head.glb")
        report = json.loads((out / verb / "head.json").read_text())
        kept = {"model": simple_model, "device": "cpu", "faces": 1500}
        assert report["made_by"] == verb and report["options"].items() >= kept.items()
    assert json.loads((out / "reroll" / "head.json").read_text())["options"]["seed"] == 4


def test_a_known_error_exits_two_with_an_error_and_a_hint(simple_model, tmp_path):
    result = run("reconstruct", str(tmp_path / "none.jpg"), "--out", str(tmp_path / "out"), "--model", simple_model)
    assert result.returncode == cli.EXIT_KNOWN
    error, hint = result.stderr.splitlines()[-2:]
    assert error.startswith("error: The photo does not exist") and hint.startswith("hint: ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sculpt"],
        ["reconstruct"],
        ["reconstruct", "a.jpg"],
        ["reconstruct", "a.jpg", "--out", "o", "--grid", "many"],
        ["reconstruct", "a.jpg", "--out", "o", "--grid", "31"],
        ["reconstruct", "a.jpg", "--out", "o", "--faces", "-5"],
        ["reconstruct", "a.jpg", "--out", "o", "--texture", "100000"],
        ["reconstruct", "a.jpg", "--out", "o", "--seed", "-1"],
        ["reconstruct", "a.jpg", "--out", "o", "--device", "tpu"],
        ["reconstruct", "a.jpg", "--out", "o", "--refinement", "slow"],
        ["reconstruct", "a.jpg", "--out", "o", "--colour", "red"],
        ["rebuild"],
        ["rebuild", "folder"],
        ["rebuild", "no such folder", "--out", "o"],
        ["rebuild", "no such folder", "--out", "o", "--grid", "31"],
        ["rebake", "folder", "--out", "o"],
        ["rebake", "folder", "--mesh", "m.glb", "--out", "o", "--grid", "64"],
        ["reroll", "folder", "--out", "o"],
        ["reroll", "folder", "--out", "o", "--seed", "one"],
        ["reroll", "folder", "--out", "o", "--seed", "1", "--texture", "64"],
        ["convert"],
        ["convert", "a.pkl"],
        ["convert", "--out", "o.safetensors"],
        ["convert", "a.pkl", "--out", "o.pkl"],
        ["convert", "a.pkl", "b.pkl", "--out", "o.safetensors"],
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_sense_get_the_same_two_lines(arguments, capsys):
    assert cli.main(arguments) == cli.EXIT_KNOWN
    printed = capsys.readouterr().err
    assert "error: " in printed and "hint: " in printed and "Traceback" not in printed


def test_a_problem_nobody_foresaw_goes_into_a_log_and_not_onto_the_screen(monkeypatch, capsys, tmp_path):
    def broken(name: str, device: str) -> None:
        raise ZeroDivisionError("in the middle of something")

    monkeypatch.setattr(pipeline, "load_models", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["reconstruct", "a.jpg", "--out", str(tmp_path / "out")]) == cli.EXIT_UNEXPECTED
    printed = capsys.readouterr().err
    assert "error: " in printed and "ZeroDivisionError" not in printed
    (log,) = tmp_path.glob("headcast-*.log")
    assert str(log) in printed
    assert "ZeroDivisionError: in the middle of something" in log.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent another way")
def test_ctrl_c_ends_the_command_cleanly(astronaut, simple_model, tmp_path):
    command = [sys.executable, "-m", "inference", "reconstruct", str(astronaut), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--model", simple_model, "--device", "cpu"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background of a shell inherit an ignored Ctrl-C; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr
    while "Shaping" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    begun = time.monotonic()
    _, printed = process.communicate(timeout=30)
    assert process.returncode == cli.EXIT_INTERRUPTED, printed
    assert time.monotonic() - begun < 10.0  # one call of the decimation, beside another test process
    assert "Traceback" not in printed and "cancelled" in printed
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    """A stream that says it is a screen."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_bar_stays_on_one_line_and_elsewhere_each_stage_gets_one():
    screen, log = Terminal(), io.StringIO()
    for stream in (screen, log):
        bar = cli.ProgressBar(stream)
        for step in range(101):
            bar(step / 100, "Finding the face" if step < 50 else "Unwrapping")
        bar.end()
    assert screen.getvalue().count("\n") == 1 and "100% Unwrapping" in screen.getvalue()
    assert log.getvalue() == "  0% Finding the face\n 50% Unwrapping\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP tells its settings this way")
@pytest.mark.parametrize(("own", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_engines_threads_sleep_while_they_wait_unless_the_user_wants_otherwise(own, policy, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "TRUE"} | ({"OMP_WAIT_POLICY": own} if own else {})
    command = [sys.executable, "-m", "inference", "convert", str(tmp_path / "none.pkl"), "--out", str(tmp_path / "o")]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in told
