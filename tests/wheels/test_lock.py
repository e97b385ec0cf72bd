from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest

from wheels.extension import MANIFEST, ROOT, with_wheels
from wheels.lock import PACKAGES, LockedWheel, WheelMismatch, check, load_lock, write_lock

TARGETS = [
    ("linux-x64", "3.11"),
    ("windows-x64", "3.11"),
    ("windows-x64", "3.13"),
    ("macos-arm64", "3.11"),
    ("macos-arm64", "3.13"),
]


def locked(folder: Path, name: str, content: bytes) -> LockedWheel:
    file = f"{name}-1.0-py3-none-any.whl"
    (folder / file).write_bytes(content)
    return LockedWheel("linux-x64", "3.11", name, "1.0", file, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(("platform", "python"), TARGETS)
def test_lock_has_every_package_once_and_never_numpy(platform: str, python: str) -> None:
    names = [wheel.name for wheel in load_lock(platform, python)]
    wanted = {package.partition("==")[0].partition("<")[0] for package in PACKAGES}
    assert len(names) == len(set(names)) and set(names) == wanted
    assert "numpy" not in names


@pytest.mark.parametrize(("platform", "python"), TARGETS)
def test_locked_wheels_fit_the_python_they_are_for(platform: str, python: str) -> None:
    # Blender looks at the tags only: a wheel of another Python would be passed over in silence.
    for wheel in load_lock(platform, python):
        tag = wheel.file.removesuffix(".whl").split("-")[-3]
        assert tag in {"py3", "py2.py3", f"cp{python.replace('.', '')}"} or "-abi3-" in wheel.file


def test_unlocked_platform_is_told() -> None:
    with pytest.raises(WheelMismatch, match=r"no wheels for linux-x64 with Python 3\.12"):
        load_lock("linux-x64", "3.12")


def test_check_names_every_difference_from_the_lock(tmp_path: Path) -> None:
    wheels = [locked(tmp_path, name, name.encode()) for name in ("good", "changed", "gone")]
    check(wheels, tmp_path)
    (tmp_path / wheels[1].file).write_bytes(b"something else")
    (tmp_path / wheels[2].file).unlink()
    (tmp_path / "stranger-1.0-py3-none-any.whl").touch()
    with pytest.raises(WheelMismatch) as told:
        check(wheels, tmp_path)
    assert str(told.value).splitlines() == [
        "missing: gone-1.0-py3-none-any.whl",
        "not in the lock: stranger-1.0-py3-none-any.whl",
        "not the locked content: changed-1.0-py3-none-any.whl",
    ]


def test_written_lock_is_read_back(tmp_path: Path) -> None:
    wheels = [locked(tmp_path, "one", b"1"), locked(tmp_path, "two", b"2")]
    write_lock(reversed(wheels), tmp_path / "lock.json")
    assert load_lock("linux-x64", "3.11", tmp_path / "lock.json") == wheels


def test_manifest_with_wheels_names_each_file_and_the_platform(tmp_path: Path) -> None:
    manifest = (ROOT / MANIFEST).read_text(encoding="utf-8")
    wheels = [locked(tmp_path, "one", b"1"), locked(tmp_path, "two", b"2")]
    carried = tomllib.loads(with_wheels(manifest, wheels))
    assert carried.pop("wheels") == ["./wheels/one-1.0-py3-none-any.whl", "./wheels/two-1.0-py3-none-any.whl"]
    assert carried.pop("platforms") == ["linux-x64"]
    assert carried == tomllib.loads(manifest)
