"""Ruff and mypy over the whole tree: `python -m tests.lint` (make lint)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_ruff() -> subprocess.CompletedProcess[str]:
    """Style of every Python file, by the rules in pyproject.toml."""
    return _run("ruff", "check", ".", environment={})


def run_mypy() -> subprocess.CompletedProcess[str]:
    """Types of the packages listed in pyproject.toml.

    The add-on imports `..inference.messages`: inside Blender this folder is a package of some name. mypy gets one named
    `headcast` from a symbolic link in a temporary folder, whatever the clone is called.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "headcast").symlink_to(ROOT, target_is_directory=True)
        return _run("mypy", environment={"MYPYPATH": os.pathsep.join([str(ROOT), folder])})


def _run(*command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def main() -> int:
    """Run both, print what they found, and return 1 if either found something."""
    results = [run_ruff(), run_mypy()]
    for result in results:
        print(result.stdout, end="")
    return int(any(result.returncode for result in results))


if __name__ == "__main__":
    sys.exit(main())
