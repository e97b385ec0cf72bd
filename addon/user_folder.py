"""Where Headcast keeps what is the user's, heads and models: never beside the code, which an update deletes."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import bpy

from . import EXTENSION

LEGACY_FOLDER = "headcast"  # in Blender's folder for users' data
UNFINISHED_SUFFIX = ".part"  # of hidden folders that are being filled, here and by the worker (inference/job_folder.py)
FORGOTTEN_S = 24 * 3600.0  # such a folder so old is of a Blender that crashed, not of another one at work
UNWRITABLE_HINT = "Free some space on that disk, and check that you may write to the folder."


def user_folder(name: str) -> Path:
    """The folder of that name; may not exist yet.

    Blender gives every extension a folder that outlives its versions. Installed in the old way, as a plain add-on among
    Blender's scripts, Headcast has none; then it is datafiles/headcast in the user's folder of that Blender version.
    """
    try:
        return Path(bpy.utils.extension_path_user(EXTENSION, path=name))
    except ValueError:  # what Blender raises for a package that is no extension
        return Path(bpy.utils.user_resource("DATAFILES", path=f"{LEGACY_FOLDER}/{name}"))


def remove_forgotten(folder: Path) -> None:
    """Delete what was never finished in one of these folders, once nobody can be at work on it any more."""
    for unfinished in folder.glob(f".*{UNFINISHED_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another Blender removes it too
            if time.time() - unfinished.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(unfinished, ignore_errors=True)  # it is hidden, and no reason to make no head
