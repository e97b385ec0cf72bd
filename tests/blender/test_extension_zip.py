from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.blender.conftest import part

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.blender


def test_zip_has_the_product_and_nothing_of_its_making(extension_zip: Path) -> None:
    files = set(zipfile.ZipFile(extension_zip).namelist())
    assert {"__init__.py", "blender_manifest.toml", "LICENSE", "addon/panel.py", "inference/pipeline.py"} <= files
    assert {name.split("/")[0] for name in files} == {
        "__init__.py", "blender_manifest.toml", "LICENSE", "addon", "inference",
    }  # fmt: skip
    assert not [name for name in files if "__pycache__" in name or name.endswith((".pyc", ".whl"))]
    weights = {path.relative_to(ROOT).as_posix() for path in (ROOT / "inference" / "weights").rglob("*.safetensors")}
    assert weights and weights <= files


def test_manifest_asks_for_files_and_the_gpu_engines_download_only_and_never_carries_numpy(extension_zip: Path) -> None:
    manifest = tomllib.loads(zipfile.ZipFile(extension_zip).read("blender_manifest.toml").decode())
    assert set(manifest["permissions"]) == {"files", "network"}
    assert "only when you click" in manifest["permissions"]["network"]
    assert len(manifest["permissions"]["files"]) <= 64 and not manifest["permissions"]["files"].endswith(".")
    assert "wheels" not in manifest
    assert manifest["blender_version_min"] == "4.2.0"


def test_addon_asks_for_what_the_engine_needs(blender: ModuleType) -> None:
    lines = (ROOT / "requirements" / "inference.in").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    assert set(part("engine").ENGINE_PACKAGES.values()) == wanted


def test_no_file_of_the_addon_names_the_package_it_is_installed_as(extension_zip: Path) -> None:
    archive = zipfile.ZipFile(extension_zip)
    for name in archive.namelist():
        if name.endswith(".py"):
            code = re.sub(r"#.*", "", archive.read(name).decode())  # a comment may give an example
            assert "bl_ext" not in code, name
