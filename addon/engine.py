"""Which Python runs the worker, and whether it has what the engine needs. No bpy in here.

Nothing is ever installed into a Python from here: the user is shown the command, and runs it where they see fit.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ..inference.messages import ENGINE_PACKAGES
from .worker_client import clean_environment

PYTHON_MIN = (3, 11)  # Blender 4.2's; `inference` is tested on it
CHECK_PATIENCE_S = 20.0  # a cold disk or a virus scanner; the check itself takes a tenth of a second

# Looks for the packages without importing them: importing torch alone takes seconds.
_QUESTION = """
import importlib.util, json, sys
modules, folders = json.loads(sys.argv[1])
sys.path += folders
print(json.dumps([list(sys.version_info[:3]), [m for m in modules if importlib.util.find_spec(m) is None]]))
"""


@dataclass(frozen=True)
class EngineCheck:
    """What a Python answered: its version, () when it did not start, and the pip names of what it lacks."""

    version: tuple[int, ...]
    missing: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """The worker can run on it."""
        return self.version[:2] >= PYTHON_MIN and not self.missing


def check_engine(python_command: Sequence[str], extra_paths: Sequence[str]) -> EngineCheck:
    """Ask a Python for its version and the packages; blocks for a moment."""
    question = [*python_command, "-c", _QUESTION, json.dumps([list(ENGINE_PACKAGES), list(extra_paths)])]
    try:
        answer = subprocess.run(
            question,
            env=clean_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_PATIENCE_S,
            check=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would flash a console
        )
        version, missing = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # no Python there, or no answer of one
        return EngineCheck(version=(), missing=())
    return EngineCheck(tuple(version), tuple(ENGINE_PACKAGES[module] for module in missing))


def pip_command(python: str, packages: Sequence[str]) -> str:
    """What a user types into a terminal to give that Python the packages."""
    return f'"{python}" -m pip install {" ".join(packages)}'
