"""Twelve expressions of a rig in Cycles, to be looked at: make expressions [DEMO_ARGS="--photo FILE"].

    python tests/blender/expression_sheet.py [--photo FILE] [--zip FILE] [--out FOLDER]

Without --photo: astronaut Eileen Collins, NASA, public domain, as scikit-image brings it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo import PACKAGE, blender_with_headcast, chosen_files, reconstruct
from PIL import Image

EXPRESSIONS: tuple[tuple[str, dict[str, float]], ...] = (
    ("neutral", {}),
    ("jaw open", {"jawOpen": 1.0}),
    ("blink", {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
    ("smile", {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4}),
    ("frown", {"mouthFrownLeft": 0.9, "mouthFrownRight": 0.9, "browDownLeft": 0.8, "browDownRight": 0.8}),
    (
        "surprise",
        {"browInnerUp": 1.0, "browOuterUpLeft": 0.9, "browOuterUpRight": 0.9, "eyeWideLeft": 1.0}
        | {"eyeWideRight": 1.0, "jawOpen": 0.4},
    ),
    ("pucker", {"mouthPucker": 1.0}),
    ("cheeks", {"cheekPuff": 1.0, "mouthClose": 0.1}),
    ("sneer", {"noseSneerLeft": 1.0, "noseSneerRight": 1.0, "mouthUpperUpLeft": 0.5, "mouthUpperUpRight": 0.5}),
    ("wink", {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.7, "cheekSquintLeft": 0.6}),
    ("look aside", {"eyeLookOutLeft": 0.8, "eyeLookInRight": 0.8, "mouthLeft": 0.6}),
    ("tongue", {"jawOpen": 0.7, "tongueOut": 1.0}),
)
COLUMNS = 4
PICTURE_PX = 480
CROP = (80, 10, 400, 330)  # left, top, right, bottom of it: the head without the bust
SAMPLES = 32
FRAME = 9  # of the turntable's 120: a little from the side, where depth shows


def main() -> int:
    """Reconstruct, rig, render: 0 when expressions.jpg is there, 2 with the add-on's own words when it is not."""
    files = chosen_files(__doc__)
    if files is None:
        return 2
    with tempfile.TemporaryDirectory(prefix="headcast-profile-") as profile:
        bpy = blender_with_headcast(Path(profile), files.zip)
        try:
            reconstruct(bpy, files.photo)
            bpy.ops.headcast.make_rig()
        except RuntimeError as error:  # how Blender raises an operator's report
            print(error, file=sys.stderr)
            return 2
        finally:
            importlib.import_module("addon_utils").disable(PACKAGE)  # ends the worker
        pictures = expressions(bpy, Path(profile))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(pictures) // COLUMNS) * height))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % COLUMNS * width, number // COLUMNS * height))
    sheet.save(files.out / "expressions.jpg", quality=90)
    print(files.out / "expressions.jpg")
    return 0


def expressions(bpy: Any, folder: Path) -> list[Image.Image]:
    """The selected rig with each of EXPRESSIONS, in a turntable's light."""
    keys = bpy.context.active_object.data.shape_keys.key_blocks
    importlib.import_module("addon_utils").enable(PACKAGE)
    bpy.ops.headcast.turntable(quality="DRAFT", engine="CYCLES", resolution=PICTURE_PX)
    scene = next(scene for scene in bpy.data.scenes if scene.name.startswith("Turntable"))
    scene.cycles.samples = SAMPLES
    scene.frame_set(FRAME)
    pictures = []
    for name, weights in EXPRESSIONS:
        for key in keys[1:]:
            key.value = weights.get(key.name, 0.0)
        scene.render.filepath = str(folder / f"{name}.png")
        bpy.ops.render.render(write_still=True, scene=scene.name)
        with Image.open(scene.render.filepath) as picture:
            pictures.append(picture.convert("RGB").crop(CROP))
    return pictures


if __name__ == "__main__":
    sys.exit(main())
