from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from wheels import lock, pytorch_index
from wheels.__main__ import main
from wheels.extension import MANIFEST, ROOT, with_wheels
from wheels.lock import (
    LOCK,
    PACKAGES,
    TARGETS,
    LockedWheel,
    WheelMismatch,
    check,
    fetch,
    load_lock,
    locked_targets,
    write_lock,
)
from wheels.pytorch_index import NotPublished, published


def locked(folder: Path, name: str, content: bytes) -> LockedWheel:
    file = f"{name}-1.0-py3-none-any.whl"
    (folder / file).write_bytes(content)
    return LockedWheel("linux-x64", "3.11", name, "1.0", file, hashlib.sha256(content).hexdigest())


def test_every_blender_of_every_platform_is_locked() -> None:
    systems, pythons = ("linux-x64", "macos-arm64", "windows-x64"), ("3.11", "3.13")
    assert locked_targets() == [(system, python) for system in systems for python in pythons]


def test_all_targets_carry_the_same_versions() -> None:
    """So that a head is the same wherever it is made; PyTorch names its build for the CPU on Linux by a suffix."""
    (versions,) = {
        frozenset((wheel.name, wheel.version.removesuffix("+cpu")) for wheel in load_lock(*target))
        for target in locked_targets()
    }
    assert len(versions) == len(PACKAGES)


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


def test_a_target_that_does_not_resolve_fails_the_lock_and_leaves_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target that is left out in silence is missed by the users of that system only."""
    before = LOCK.read_bytes()

    def pip(*arguments: str) -> None:
        if "win_amd64" in arguments:
            raise subprocess.CalledProcessError(1, "pip")
        Path(arguments[arguments.index("--report") + 1]).write_text('{"install": []}')

    monkeypatch.setattr(lock, "_pip", pip)
    monkeypatch.setattr(pytorch_index, "WHEELS", pytorch_index.WHEELS[:1])
    assert main(["lock"]) == 2
    told = capsys.readouterr().err
    for target in ("linux-x64 with Python 3.13", "windows-x64 with Python 3.11", "windows-x64 with Python 3.13"):
        assert f"{target} does not resolve: " in told
    assert told.count("does not resolve") == 3 and LOCK.read_bytes() == before


def test_a_version_that_pytorch_has_not_published_names_the_page_to_look_at() -> None:
    assert published("2.13.0", "cpu", "3.13", "x86_64").version == "2.13.0+cpu"
    with pytest.raises(NotPublished, match=r"torch-9\.0\+cpu-cp313-.*add it from https://.*/whl/cpu/torch/"):
        published("9.0", "cpu", "3.13", "x86_64")


def test_published_files_are_named_by_address_and_checksum() -> None:
    for wheel in pytorch_index.WHEELS:
        build = wheel.version.partition("+")[2]
        assert wheel.url.endswith(f"/whl/{build}/{wheel.file.replace('+', '%2B')}") and wheel.url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)
    assert len({wheel.sha256 for wheel in pytorch_index.WHEELS}) == len(pytorch_index.WHEELS)


def test_torch_for_linux_is_fetched_from_pytorchs_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip itself, with a page that has a small file of that name, and no other index."""
    page = tmp_path / "page"
    page.mkdir()
    wanted = published("2.13.0", "cpu", "3.13", "x86_64")
    with zipfile.ZipFile(page / wanted.file, "w") as archive:
        told = "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n"
        archive.writestr("torch-2.13.0+cpu.dist-info/METADATA", told)
        archive.writestr("torch-2.13.0+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    monkeypatch.setattr(pytorch_index, "PAGE", str(page))
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_CONFIG_FILE", os.devnull), ("PIP_FIND_LINKS", "")):
        monkeypatch.setenv(name, value)
    content = (page / wanted.file).read_bytes()
    small = LockedWheel("linux-x64", "3.13", "torch", wanted.version, wanted.file, hashlib.sha256(content).hexdigest())
    fetch([small], tmp_path / "fetched")
    assert (tmp_path / "fetched" / wanted.file).read_bytes() == content
    (tmp_path / "fetched" / wanted.file).unlink()
    with pytest.raises(subprocess.CalledProcessError):  # of another SHA-256
        fetch([replace(small, sha256="0" * 64)], tmp_path / "fetched")
    assert list((tmp_path / "fetched").iterdir()) == []


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
