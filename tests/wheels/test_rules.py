"""What may ride in an extension: one fitting wheel a package, nothing Blender brings, nothing too new or too large."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from wheels.__main__ import main
from wheels.extension import build, build_repository, target_suffix
from wheels.lock import LockedWheel, licence_of, load_lock, locked_targets, write_lock
from wheels.rules import complaints, fits, needed_glibc

LINUX = ("linux-x64", "3.11")


@pytest.fixture
def sound() -> list[LockedWheel]:
    """The locked wheels for Linux."""
    return load_lock(*LINUX)


def swapped(wheels: list[LockedWheel], name: str, **changes: object) -> list[LockedWheel]:
    return [replace(wheel, **changes) if wheel.name == name else wheel for wheel in wheels]


@pytest.mark.parametrize("target", locked_targets())
def test_the_lock_of_every_target_is_sound(target: tuple[str, str]) -> None:
    assert complaints(load_lock(*target), *target) == []


def test_a_stray_numpy_is_refused(sound: list[LockedWheel]) -> None:
    file = "numpy-2.3.1-cp311-cp311-manylinux_2_28_x86_64.whl"
    stray = LockedWheel(*LINUX, "numpy", "2.3.1", file, "0" * 64, "BSD-3-Clause", 16_000_000)
    assert complaints([*sound, stray], *LINUX) == [f"{file}: numpy must not ride along, Blender has its own"]


def test_a_missing_wheel_and_a_second_one_are_named(sound: list[LockedWheel]) -> None:
    (trimesh,) = (wheel for wheel in sound if wheel.name == "trimesh")
    without = [wheel for wheel in sound if wheel is not trimesh]
    assert complaints(without, *LINUX) == ["trimesh: 0 fitting wheels for linux-x64 with Python 3.11, not one"]
    again = next(
        replace(wheel, version="9", file="trimesh-9-py3-none-any.whl") for wheel in sound if wheel not in without
    )
    assert complaints([*sound, again], *LINUX) == ["trimesh: 2 fitting wheels for linux-x64 with Python 3.11, not one"]


def test_a_wheel_for_a_newer_glibc_is_refused(sound: list[LockedWheel]) -> None:
    file = "safetensors-0.8.0-cp310-abi3-manylinux_2_35_x86_64.whl"
    assert complaints(swapped(sound, "safetensors", file=file), *LINUX) == [
        f"{file}: needs glibc 2.35, newer than 2.28"
    ]


@pytest.mark.parametrize(
    ("tags", "glibc"),
    [
        ("manylinux_2_17_x86_64.manylinux2014_x86_64", (2, 17)),
        ("manylinux_2_27_x86_64.manylinux_2_28_x86_64", (2, 27)),  # the older of two is enough
        ("manylinux2014_x86_64", (2, 17)),
        ("any", (0, 0)),
        ("win_amd64", (0, 0)),
    ],
)
def test_glibc_is_read_from_the_tags(tags: str, glibc: tuple[int, int]) -> None:
    assert needed_glibc(f"name-1.0-cp311-cp311-{tags}.whl") == glibc


@pytest.mark.parametrize(
    ("file", "platform", "python", "taken"),
    [
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "linux-x64", "3.11", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "linux-x64", "3.13", False),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "windows-x64", "3.11", False),
        ("a-1-cp310-abi3-win_amd64.whl", "windows-x64", "3.13", True),
        ("a-1-cp313-cp313-macosx_14_0_arm64.whl", "macos-arm64", "3.13", True),
        ("a-1-cp313-cp313-macosx_10_13_universal2.whl", "macos-arm64", "3.13", True),
        ("a-1-cp313-cp313-macosx_10_13_x86_64.whl", "macos-arm64", "3.13", False),
        ("a-1-py3-none-any.whl", "macos-arm64", "3.11", True),
        ("a-1-pp311-none-any.whl", "linux-x64", "3.11", False),
    ],
)
def test_tags_are_read_as_blender_reads_them(file: str, platform: str, python: str, taken: bool) -> None:
    assert fits(file, platform, python) is taken


def test_a_wheel_too_large_and_one_of_unknown_licence_are_refused(sound: list[LockedWheel]) -> None:
    cuda = swapped(sound, "torch", size=555_000_000)
    told = complaints(cuda, *LINUX)
    assert len(told) == 2 and "555 MB, more than 250" in told[0] and "in all, more than 400" in told[1]
    (told_licence,) = complaints(swapped(sound, "trimesh", licence=""), *LINUX)
    assert told_licence.endswith("its licence is not known")


def test_check_without_a_folder_holds_the_lock_against_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out.count("sound") == len(locked_targets())


def test_check_of_a_bad_lock_ends_with_its_faults(
    sound: list[LockedWheel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock.json"
    write_lock([wheel for wheel in sound if wheel.name != "scipy"], lock)
    for function in (load_lock, locked_targets):
        assert function.__defaults__ is not None
        monkeypatch.setattr(function, "__defaults__", (lock,))
    assert main(["check"]) == 2
    assert "scipy: 0 fitting wheels" in capsys.readouterr().err


def test_the_manifest_of_a_target_names_its_wheels(
    sound: list[LockedWheel], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["manifest", "--platform", "linux-x64"]) == 0
    text = capsys.readouterr().out
    assert all(f"./wheels/{wheel.file}" in text for wheel in sound) and 'platforms = [\n    "linux-x64",' in text


def test_zips_of_two_pythons_do_not_take_each_others_place() -> None:
    names = {target_suffix(load_lock(*target)) for target in locked_targets()}
    assert len(names) == len(locked_targets()) and "-windows-x64-cp313" in names and target_suffix([]) == ""


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT", "classifier": ["License :: OSI Approved :: BSD License"]}, "MIT"),
        ({"classifier": ["License :: OSI Approved :: BSD License", "Topic :: Games"]}, "BSD License"),
        ({"license": "Apache 2.0\nA long text"}, "Apache 2.0"),
        ({}, ""),
    ],
)
def test_licences_are_found_where_packages_tell_them(metadata: dict[str, object], licence: str) -> None:
    assert licence_of("no-such-package", metadata) == licence


def test_a_licence_this_pip_does_not_tell_is_asked_of_the_installed_package() -> None:
    assert "MIT" in licence_of("filelock", {})


def test_a_folder_of_zips_becomes_a_repository(tmp_path: Path) -> None:
    zip_path = build(tmp_path)
    listed = json.loads(build_repository(tmp_path).read_text(encoding="utf-8"))["data"]
    (entry,) = listed
    assert entry["id"] == "headcast" and entry["archive_size"] == zip_path.stat().st_size
    assert entry["archive_hash"].startswith("sha256:") and entry["archive_url"].endswith(zip_path.name)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with pytest.raises(FileNotFoundError, match="make extension"):
        build_repository(tmp_path)
