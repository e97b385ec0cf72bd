"""A batch makes every head it can, loses none to a crash, and does nothing twice."""

from __future__ import annotations

import csv
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from inference import batch, cli
from inference.batch import Outcome, gather, run
from inference.errors import BadOption, OutputNotWritable, PhotoMissing
from inference.messages import Options


@pytest.fixture(scope="module")
def photos(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, one of them mirrored, one without a face, and a text file."""
    folder = tmp_path_factory.mktemp("shoot")
    shutil.copy(astronaut, folder / "b.png")
    with Image.open(astronaut) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "a.jpg", quality=95)
    Image.new("RGB", (300, 300), (90, 120, 40)).save(folder / "meadow.PNG")
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.fixture
def options(simple_model: str) -> Options:
    return Options(model=simple_model, device="cpu", grid=48, faces=1500, texture=128, refinement="off")


class Log:
    """What `run` told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int, int]] = []

    def __call__(self, outcome: Outcome, done: int, count: int) -> None:
        self.lines.append((outcome.entry.folder, outcome.result, done, count))


def test_all_photos_of_a_folder_and_what_became_of_them(photos: Path, options: Options, tmp_path: Path) -> None:
    log = Log()
    outcomes = run([photos], tmp_path / "heads", options, 2, log)
    assert [(o.entry.folder, o.result) for o in outcomes] == [("a", "made"), ("b", "made"), ("meadow", "failed")]
    assert "No face was found" in outcomes[2].words
    assert sorted(line[2:] for line in log.lines) == [(1, 3), (2, 3), (3, 3)]
    for name in "ab":
        assert (tmp_path / "heads" / name / "head.glb").stat().st_size > 10_000
    assert not (tmp_path / "heads" / "meadow").exists()
    with (tmp_path / "heads" / batch.TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["photo"], row["folder"], row["result"]) for row in rows] == [
        ("a.jpg", "a", "made"),
        ("b.png", "b", "made"),
        ("meadow.PNG", "", "failed"),
    ]
    assert 0 < float(rows[0]["matte_iou"]) <= 1 and "No face was found" in rows[2]["words"]
    with Image.open(tmp_path / "heads" / batch.SHEET) as sheet, Image.open(tmp_path / "heads/a/preview.png") as preview:
        assert sheet.width == batch.SHEET_WIDTH
        assert sheet.height == 2 * round(preview.height * batch.SHEET_WIDTH / preview.width)


@pytest.mark.thorough
def test_a_second_run_makes_only_what_is_missing_or_changed(photos: Path, options: Options, tmp_path: Path) -> None:
    run([photos / "a.jpg", photos / "b.png"], tmp_path, options, 1, Log())
    made_at = (tmp_path / "a" / "head.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "b")
    again = run([photos / "b.png", photos / "a.jpg"], tmp_path, options, 1, Log())
    assert [(o.entry.folder, o.result) for o in again] == [("a", "kept"), ("b", "made")]
    assert (tmp_path / "a" / "head.json").stat().st_mtime_ns == made_at
    assert again[0].report == again[1].report | {key: again[0].report[key] for key in again[1].report}
    other = run([photos / "a.jpg"], tmp_path, Options(**{**vars(options), "faces": 1000}), 1, Log())
    assert other[0].result == "made"


@pytest.mark.thorough
def test_a_head_whose_photo_was_replaced_is_made_anew(photos: Path, options: Options, tmp_path: Path) -> None:
    photo = tmp_path / "one.png"
    shutil.copy(photos / "b.png", photo)
    run([photo], tmp_path / "heads", options, 1, Log())
    with Image.open(photos / "a.jpg") as picture:
        picture.save(photo)
    assert run([photo], tmp_path / "heads", options, 1, Log())[0].result == "made"


def test_a_killed_worker_costs_a_try_and_no_head(
    photos: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **named: object) -> None:
            super().__init__(*arguments, **named)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(batch.subprocess, "Popen", Noted)

    def kill_the_first() -> None:
        while not started:
            time.sleep(0.01)
        time.sleep(0.5)
        started[0].kill()

    threading.Thread(target=kill_the_first, daemon=True).start()
    outcomes = run([photos / "a.jpg", photos / "b.png"], tmp_path, options, 1, Log())
    assert [o.result for o in outcomes] == ["made", "made"] and len(started) == 2
    assert all(process.poll() is not None for process in started)  # none is left behind


def test_a_photo_that_kills_every_worker_fails_alone(
    photos: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = tmp_path / "start_deadly.py"
    deadly.write_text(
        "import os, sys\n"
        "if b'a.jpg' in sys.stdin.buffer.readline():\n"
        "    os._exit(9)\n"
        'print(\'{"kind": "failed", "message": "reached", "hint": ""}\', flush=True)\n'
        "sys.stdin.read()\n"
    )
    monkeypatch.setattr(batch, "START_WORKER", deadly)
    outcomes = run([photos / "a.jpg", photos / "b.png"], tmp_path / "heads", options, 1, Log())
    assert "stopped unexpectedly" in outcomes[0].words and outcomes[1].words.startswith("reached")
    assert not (tmp_path / "heads" / batch.SHEET).exists()


@pytest.mark.thorough
def test_giving_up_ends_the_workers_and_keeps_what_is_made(photos: Path, options: Options, tmp_path: Path) -> None:
    def give_up(outcome: Outcome, done: int, count: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run([photos / "a.jpg", photos / "b.png"], tmp_path, options, 1, give_up)
    assert threading.active_count() == before
    assert run([photos / "a.jpg", photos / "b.png"], tmp_path, options, 1, Log())[0].result == "kept"


def test_photos_of_one_name_get_folders_of_their_own_whatever_the_order(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(), (tmp_path / "y").mkdir()
    shutil.copy(photos / "a.jpg", tmp_path / "x" / "face.jpg")
    shutil.copy(photos / "b.png", tmp_path / "y" / "Face.png")
    shutil.copy(photos / "a.jpg", tmp_path / "y" / "copy.jpg")  # the same content as x/face.jpg
    one = gather([tmp_path / "x", tmp_path / "y" / "Face.png"])
    other = gather([tmp_path / "y" / "Face.png", tmp_path / "x"])
    assert one == other and len({entry.folder.lower() for entry in one}) == 2
    assert all(entry.folder.lower().startswith("face-") for entry in one)
    assert len(gather([tmp_path / "x", tmp_path / "y"])) == 2


def test_what_cannot_be_started_is_refused(photos: Path, options: Options, tmp_path: Path) -> None:
    with pytest.raises(PhotoMissing, match=r"nobody\.jpg"):
        gather([tmp_path / "nobody.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadOption, match="holds no photo"):
        gather([tmp_path / "empty"])
    with pytest.raises(BadOption, match="workers"):
        run([photos / "a.jpg"], tmp_path / "heads", options, 0, Log())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable):
        run([photos / "a.jpg"], tmp_path / "file", options, 1, Log())


@pytest.mark.thorough
def test_a_spoiled_record_makes_heads_anew(photos: Path, options: Options, tmp_path: Path) -> None:
    run([photos / "a.jpg"], tmp_path, options, 1, Log())
    (tmp_path / batch.RECORD).write_text("{ half")
    assert run([photos / "a.jpg"], tmp_path, options, 1, Log())[0].result == "made"


@pytest.mark.thorough
def test_the_command_tells_each_photo_and_fails_if_one_did(
    photos: Path, simple_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--device", "cpu", "--grid", "48", "--faces", "1500", "--texture", "128", "--refinement", "off"]
    arguments = ["batch", str(photos), "--out", str(tmp_path / "heads"), "--model", simple_model, *small]
    assert cli.main(arguments) == cli.EXIT_KNOWN
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "heads" / batch.TABLE)
    assert "a.jpg made" in told.err and "3/3" in told.err and "meadow.PNG failed: No face was found" in told.err
    assert cli.main(["batch", str(photos / "a.jpg"), *arguments[2:]]) == 0
    assert "1/1 a.jpg kept" in capsys.readouterr().err
