"""The whole path of a click, without a window: zip, throw-away profile, photo, Reconstruct Head, .blend and a picture.

    python tests/blender/demo.py [--photo FILE] [--zip FILE] [--out FOLDER]

Without --photo: astronaut Eileen Collins, NASA, public domain, as scikit-image brings it.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "bl_ext.user_default.headcast"

PICTURE_PX = 512
SAMPLES = 64
CAMERA_AZIMUTH_DEG = 28.0  # towards the subject's left: a three-quarter view
CAMERA_DISTANCE_M = 0.9
CAMERA_LENS_MM = 85.0  # a portrait lens
LIGHTS = (  # name, place relative to the middle of the head in metres, side in metres, watts
    ("Key", (-0.7, -1.0, 0.6), 0.5, 22.0),
    ("Fill", (1.0, -0.8, 0.1), 0.9, 6.0),
    ("Rim", (0.5, 0.9, 0.7), 0.4, 18.0),
)
WORLD_COLOUR = (0.045, 0.05, 0.06, 1.0)


def main() -> int:
    """Run the demo; 0 when head.blend, head.glb and head.png are there, 2 with the add-on's own words when not."""
    files = chosen_files(__doc__)
    if files is None:
        return 2
    with tempfile.TemporaryDirectory(prefix="headcast-profile-") as profile:
        bpy = blender_with_headcast(Path(profile), files.zip)
        try:
            glb = reconstruct(bpy, files.photo)
        except RuntimeError as error:  # how Blender raises an operator's report
            print(error, file=sys.stderr)
            return 2
        finally:
            importlib.import_module("addon_utils").disable(PACKAGE)  # ends the worker
        shutil.copy2(glb, files.out / "head.glb")
        light_and_aim(bpy)
        render(bpy, files.out / "head.png")
        bpy.ops.wm.save_as_mainfile(filepath=str((files.out / "head.blend").resolve()), compress=True)
    print(*(files.out / name for name in ("head.blend", "head.glb", "head.png")), sep="\n")
    return 0


@dataclass(frozen=True)
class Files:
    """What to begin with, and the folder of what is made."""

    photo: Path
    zip: Path
    out: Path


def chosen_files(description: str | None) -> Files | None:
    """What the command line names, or the newest zip and the bundled photo; None, and why, where there is no zip."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--zip", type=Path, help="default: the newest out/headcast-*.zip")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    zips = sorted((ROOT / "out").glob("headcast-*.zip"), key=lambda path: path.stat().st_mtime)
    if not (chosen.zip or zips):
        print("error: there is no extension zip\nhint: run make extension", file=sys.stderr)
        return None
    photo = chosen.photo or bundled_photo(chosen.out)
    return Files(photo.resolve(), (chosen.zip or zips[-1]).resolve(), chosen.out)


def bundled_photo(folder: Path) -> Path:
    """The astronaut as a file; no Python beside this one needs scikit-image for it."""
    from PIL import Image
    from skimage.data import astronaut

    path = folder / "astronaut.png"
    Image.fromarray(astronaut()).save(path)
    return path


def blender_with_headcast(profile: Path, zip_path: Path) -> Any:
    """The bpy module with the extension installed and enabled in an empty profile."""
    os.environ["BLENDER_USER_RESOURCES"] = str(profile)  # before the import, or the user's own profile is written to
    bpy = importlib.import_module("bpy")
    bpy.ops.extensions.package_install_files(filepath=str(zip_path), repo="user_default", enable_on_install=True)
    importlib.import_module("addon_utils").enable(PACKAGE, default_set=True)
    return bpy


def reconstruct(bpy: Any, photo: Path) -> Path:
    """Press the button in an empty scene; returns the GLB. Raises RuntimeError with the add-on's message and hint."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    preferences.consent = True
    preferences.worker_python = sys.executable
    settings = bpy.context.scene.headcast
    settings.image = bpy.data.images.load(str(photo))
    bpy.ops.headcast.reconstruct()
    collection = bpy.data.collections[f"Headcast {photo.stem}"]
    return Path(bpy.utils.extension_path_user(PACKAGE, path="heads")) / collection["headcast_folder"] / "head.glb"


def light_and_aim(bpy: Any) -> None:
    """Three soft lights, a dark world and a portrait camera around the head; colours in the viewport."""
    from mathutils import Vector

    scene, head = bpy.context.scene, bpy.data.objects["Head"]
    corners = [head.matrix_world @ Vector(corner) for corner in head.bound_box]
    middle = sum(corners, Vector()) / len(corners)

    def place(name: str, data: Any, where: Vector) -> Any:
        thing = bpy.data.objects.new(name, data)
        thing.location = middle + where
        thing.rotation_euler = (-where).to_track_quat("-Z", "Y").to_euler()
        scene.collection.objects.link(thing)
        return thing

    for name, where, side, watts in LIGHTS:
        light = bpy.data.lights.new(name, "AREA")
        light.size, light.energy = side, watts
        place(name, light, Vector(where))
    azimuth = math.radians(CAMERA_AZIMUTH_DEG)
    data = bpy.data.cameras.new("Portrait Camera")
    data.lens = CAMERA_LENS_MM
    where = Vector((math.sin(azimuth), -math.cos(azimuth), 0.0)) * CAMERA_DISTANCE_M
    scene.camera = place("Portrait Camera", data, where)
    scene.world = bpy.data.worlds.new("Studio")
    background = next(node for node in scene.world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = WORLD_COLOUR
    for screen in bpy.data.screens:
        for area in screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.shading.type = "MATERIAL"


def render(bpy: Any, path: Path) -> None:
    """A Cycles picture on the processor."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = SAMPLES
    denoisers = scene.cycles.bl_rna.properties["denoiser"].enum_items.keys()
    scene.cycles.use_denoising = "OPENIMAGEDENOISE" in denoisers  # some builds of Blender lack it
    scene.render.resolution_x = scene.render.resolution_y = PICTURE_PX
    scene.render.resolution_percentage = 100
    scene.view_settings.view_transform = "Standard"  # the photo's own colours; AgX would grey them
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = str(path.resolve())
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    sys.exit(main())
