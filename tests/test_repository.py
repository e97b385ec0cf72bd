"""The repository itself: what is tracked, what is locked, what the documents say, style and types."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from inference import errors
from inference.messages import WORKER_DIED, WORKER_NOT_STARTED
from tests import lint

ROOT = Path(__file__).resolve().parents[1]

LARGEST_FILE = 40 * 2**20  # bytes; everybody clones it
BUNDLED_WEIGHTS = 40 * 10**6  # bytes, all files of inference/weights together
PICKLED = {".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


@cache
def tracked() -> tuple[Path, ...]:
    """Every file git tracks or would track: what is new and not ignored counts too."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    files = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return tuple(file for file in files if file.is_file())


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_no_tracked_file_is_large() -> None:
    assert [file for file in tracked() if file.stat().st_size > LARGEST_FILE] == []


def test_bundled_weights_are_small() -> None:
    files = [file for file in tracked() if file.is_relative_to(ROOT / "inference" / "weights")]
    assert files
    assert sum(file.stat().st_size for file in files) <= BUNDLED_WEIGHTS


def test_no_pickle_and_no_wheel_is_tracked() -> None:
    assert [file for file in tracked() if file.suffix in PICKLED | {".whl"}] == []


def test_every_bundled_network_has_a_card() -> None:
    for file in (ROOT / "inference" / "weights").rglob("*.safetensors"):
        told = [file.with_suffix(".md"), file.parent / "NOTICE"]
        assert any(card.exists() for card in told), f"{file.name} comes without a word on its origin and licence"


def test_lock_pins_every_package_to_one_version() -> None:
    lines = [line for line in read("requirements/lock.txt").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    locked = {line.split("==")[0] for line in lines}
    asked = {
        re.split(r"[<>=~!; ]", line)[0]
        for file in (ROOT / "requirements").glob("*.in")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert asked <= locked


def test_extension_and_project_have_one_version() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    manifest = tomllib.loads(read("blender_manifest.toml"))
    assert manifest["version"] == project["version"]
    assert [f"SPDX:{project['license']}"] == manifest["license"]


def test_commands_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z-]+)", read(document))) | set(
            re.findall(r"^ {4}make ([a-z-]+)", read(document), flags=re.MULTILINE)
        )
        assert named <= targets, document


def test_code_map_names_every_module_and_nothing_else() -> None:
    rows = re.findall(r"^\| `([^`]+\.py)` \|", read("CONTRIBUTING.md"), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    modules = {
        file.relative_to(ROOT).as_posix()
        for package in ("addon", "inference", "training", "wheels")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "__init__.py"
    }
    assert set(rows) == modules


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in (file for file in tracked() if file.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_make_without_a_target_explains_every_target() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), flags=re.MULTILINE)
    assert phony
    assert [target for target in phony[1].split() if f"make {target} " not in shown] == []


def test_style_is_kept() -> None:
    result = lint.run_ruff()
    assert result.returncode == 0, result.stdout


def test_types_hold() -> None:
    result = lint.run_mypy()
    assert result.returncode == 0, result.stdout


def test_the_guide_explains_every_message() -> None:
    guide = " ".join(read("docs/guide.md").split())
    known = [error for error in vars(errors).values() if isinstance(error, type)]
    messages = [error.message for error in known if issubclass(error, errors.HeadcastError)]
    messages += [WORKER_DIED.message, WORKER_NOT_STARTED.message]
    messages.remove(errors.HeadcastError.message)  # what no failure of its own has
    assert [message for message in messages if message not in guide] == []
    # Of these the longest part without a gap: files, sizes and other programs' words come between.
    raised = [node for node in ast.walk(ast.parse(read("addon/gpu_engine.py"))) if isinstance(node, ast.Call)]
    told = [call.args[0] for call in raised if getattr(call.func, "id", "") == "EngineTrouble"]
    troubles = [text.value for text in told if isinstance(text, ast.Constant) and isinstance(text.value, str)]
    parts = [max(re.split(r"{\w+}", trouble), key=len).strip(" :") for trouble in troubles]
    assert len(parts) > 12 and [part for part in parts if part not in guide] == []
    source = ast.parse(read("inference/photo_check.py"))
    texts = (node.value for node in ast.walk(source) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    # A warning says first what is wrong, then what that does to the head, then what to do.
    warnings = [re.split("[;,]", text)[0] for text in texts if " Use " in text or " safer." in text]
    assert len(warnings) > 6 and [warning for warning in warnings if warning not in guide] == []


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert f"## {version}" in read("CHANGELOG.md")
