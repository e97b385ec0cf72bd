from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference.errors import HeadcastError, OutputNotWritable
from inference.job_folder import check_writable, whole_folder
from inference.progress import Cancelled


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_result(out_dir: Path, text: str) -> None:
    with whole_folder(out_dir) as folder:
        (folder / "head.json").write_text(text)
        (folder / "head.glb").write_text(text)


def test_the_folder_appears_when_all_is_written_and_not_before(tmp_path):
    out_dir = tmp_path / "héads of Zoë" / "one"
    with whole_folder(out_dir) as folder:
        (folder / "head.json").write_text("new")
        assert not out_dir.exists()
    assert (out_dir / "head.json").read_text() == "new"
    assert names(out_dir.parent) == ["one"]


def test_an_earlier_result_is_replaced_and_what_the_user_put_there_stays(tmp_path):
    make_result(tmp_path / "out", "old")
    (tmp_path / "out" / "head.blend").write_text("the user's")
    make_result(tmp_path / "out", "new")
    assert {name: (tmp_path / "out" / name).read_text() for name in names(tmp_path / "out")} == {
        "head.json": "new",
        "head.glb": "new",
        "head.blend": "the user's",
    }
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("failure", [Cancelled, HeadcastError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_earlier_result_as_it_was_and_nothing_beside_it(tmp_path, failure):
    make_result(tmp_path / "out", "old")
    with (
        pytest.raises(OutputNotWritable if failure is OSError else failure),
        whole_folder(tmp_path / "out") as folder,
    ):
        (folder / "head.json").write_text("half")
        raise failure
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "head.json").read_text() == (tmp_path / "out" / "head.glb").read_text() == "old"


@pytest.mark.parametrize("failing_rename", [1, 2, 3])
def test_a_rename_that_fails_puts_the_earlier_result_back(tmp_path, monkeypatch, failing_rename):
    make_result(tmp_path / "out", "old")
    (tmp_path / "out" / "notes.txt").write_text("the user's")
    calls = 0
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_rename:
            raise PermissionError(13, "The file is open in another program")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputNotWritable, match="open in another program"):
        make_result(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["head.glb", "head.json", "notes.txt"]
    assert (tmp_path / "out" / "head.json").read_text() == "old"


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out_dir in (tmp_path / "file", tmp_path / "file" / "below", Path("/"), Path("/proc/headcast/out")):
        with pytest.raises(OutputNotWritable):
            check_writable(out_dir)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputNotWritable, match="as a whole"):  # renaming the folder the user stands in
        check_writable(Path())
    check_writable(Path("new"))
    assert names(tmp_path) == ["file"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk", target_is_directory=True)
    make_result(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink() and names(tmp_path / "disk") == ["head.glb", "head.json"]
