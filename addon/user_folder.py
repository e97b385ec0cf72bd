"""Where Headcast keeps what is the user's, heads and models: never beside the code, which an update deletes."""

from __future__ import annotations

from pathlib import Path

import bpy

from . import EXTENSION

LEGACY_FOLDER = "headcast"  # in Blender's folder for users' data


def user_folder(name: str) -> Path:
    """The folder of that name; may not exist yet.

    Blender gives every extension a folder that outlives its versions. Installed in the old way, as a plain add-on among
    Blender's scripts, Headcast has none; then it is datafiles/headcast in the user's folder of that Blender version.
    """
    try:
        return Path(bpy.utils.extension_path_user(EXTENSION, path=name))
    except ValueError:  # what Blender raises for a package that is no extension
        return Path(bpy.utils.user_resource("DATAFILES", path=f"{LEGACY_FOLDER}/{name}"))
