"""Pictures of a result folder, kept inside the .blend."""

from __future__ import annotations

from pathlib import Path

import bpy


def packed_image(path: Path, name: str, colours: bool = True) -> bpy.types.Image:
    """New image of a file, packed.

    colours: False for numbers, such as normals, that no colour management may touch.
    Raises RuntimeError for a file that is missing or no picture.
    """
    image = bpy.data.images.load(str(path))
    image.name = name
    if not colours:
        image.colorspace_settings.name = "Non-Color"
    image.pack()
    if not image.size[0]:
        raise RuntimeError(f"{path.name} is no picture")
    # It needs no file any more, and the folder's path would carry the user's name along, in exports too.
    image.filepath_raw = image.packed_files[0].filepath = f"//{path.name}"
    return image
