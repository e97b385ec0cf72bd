"""One start of a Blender in a profile of its own, for tests of what outlives a Blender, or meets another one.

    python life_step.py install ZIP | use PHOTO | after
                        settle ZIP PYTHON | look | make PYTHON PHOTO | begin LABEL PHOTO

BLENDER_USER_RESOURCES names the profile. Imports nothing of this project and nothing that bpy does not bring. Prints
what it found as one line of JSON. The steps of the first line run without a network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

PACKAGE = "bl_ext.user_default.headcast"
QUALITY = {"grid": 128, "faces": 10_000, "texture_size": 1024}  # Draft


def health(bpy: Any) -> dict[str, Any]:
    """Whether Blender's own NumPy and audio are whole, whose packages it finds, and whether there is a network."""
    import numpy

    found: dict[str, Any] = {
        "blender": bpy.app.version_string,
        "numpy": numpy.__version__,
        "numpy_from": numpy.__file__,
        "sum": float(numpy.linalg.inv(numpy.eye(3) * 2).sum()),
        "built_with_audio": bpy.app.build_options.audaspace,
        "torch": importlib.util.find_spec("torch") is not None,  # found, not imported
    }
    if bpy.app.build_options.audaspace:
        import aud

        sine = aud.Sound.sine(440).limit(0.0, 0.01)  # seconds
        found["samples"] = list(sine.data().shape)  # NumPy across the border of Blender's own C code
    try:
        socket.create_connection(("1.1.1.1", 53), timeout=1.0).close()
        found["network"] = True
    except OSError:
        found["network"] = False
    return found


def install(bpy: Any, archive: str) -> dict[str, Any]:
    """From the file, as from the menu; enabled by it."""
    recall(bpy)
    done = bpy.ops.extensions.package_install_files(filepath=archive, repo="user_default", enable_on_install=True)
    bpy.ops.wm.save_userpref()
    return {"installed": sorted(done), "enabled": PACKAGE in bpy.context.preferences.addons}


def use(bpy: Any, photo: str) -> dict[str, Any]:
    """A head of the photo by the worker on Blender's own Python; then the add-on goes for good."""
    import addon_utils

    enabled(bpy).consent = True
    settings = bpy.context.scene.headcast
    settings.image = bpy.data.images.load(photo)
    settings.device = "CPU"
    for name, value in QUALITY.items():
        setattr(settings, name, value)
    begun = time.monotonic()
    made = bpy.ops.headcast.reconstruct()
    ended = time.monotonic()
    head = bpy.data.objects["Head"]
    found = {"made": sorted(made), "reconstruct_s": round(ended - begun, 1), "faces": len(head.data.polygons)}
    found["height_m"] = round(head.dimensions.z, 3)
    found["worker"] = sys.modules[f"{PACKAGE}.addon.session"].SESSION.worker_pid
    addon_utils.disable(PACKAGE, default_set=True)
    found["disable_s"] = round(time.monotonic() - ended, 1)
    found["settings_left"] = hasattr(bpy.types.Scene, "headcast")
    repositories = [repo.module for repo in bpy.context.preferences.extensions.repos]
    gone = bpy.ops.extensions.package_uninstall(repo_index=repositories.index("user_default"), pkg_id="headcast")
    bpy.ops.wm.save_userpref()
    return {**found, "uninstalled": sorted(gone), "uninstall_s": round(time.monotonic() - ended, 1)}


def after(bpy: Any) -> dict[str, Any]:
    """What a Blender without it sees."""
    return {"enabled": PACKAGE in bpy.context.preferences.addons}


def settle(bpy: Any, archive: str, python: str) -> dict[str, Any]:
    """A user moves in: the extension, preferences, a model, a head."""
    install(bpy, archive)
    own = enabled(bpy)
    own.consent, own.worker_python = True, python
    user_folder = sys.modules[f"{PACKAGE}.addon.user_folder"].user_folder
    for name, file in (("models", "mine.safetensors"), ("heads", "a head/head.glb")):
        (user_folder(name) / file).parent.mkdir(parents=True)
        (user_folder(name) / file).write_bytes(b"the user's")
    bpy.ops.wm.save_userpref()
    return look(bpy)


def look(bpy: Any) -> dict[str, Any]:
    """What is there of the user's."""
    recall(bpy)
    own = enabled(bpy)
    user_folder = sys.modules[f"{PACKAGE}.addon.user_folder"].user_folder
    files = {name: sorted(path.name for path in user_folder(name).iterdir()) for name in ("models", "heads")}
    version = sys.modules[f"{PACKAGE}.addon.import_head"].headcast_version()
    return {**files, "consent": own.consent, "worker_python": own.worker_python, "version": version}


def make(bpy: Any, python: str, photo: str) -> dict[str, Any]:
    """A head at the moment the test says, together with another Blender."""
    own = enabled(bpy)
    own.consent, own.worker_python = True, python
    bpy.context.scene.headcast.image = bpy.data.images.load(photo)
    print("ready", flush=True)
    sys.stdin.readline()
    made = bpy.ops.headcast.reconstruct()
    (collection,) = (found for found in bpy.data.collections if found.name.startswith("Headcast"))
    return {"made": sorted(made), "folder": collection["headcast_folder"]}


def begin(bpy: Any, label: str, photo: str) -> dict[str, Any]:
    """A job by the real worker, as far as the label; then Blender ends as the test says, in mid-job."""
    enabled(bpy)
    session = sys.modules[f"{PACKAGE}.addon.session"].SESSION
    messages = sys.modules[f"{PACKAGE}.inference.messages"]
    place = sys.modules[f"{PACKAGE}.addon.preferences"].worker_place()
    out_dir = sys.modules[f"{PACKAGE}.addon.operators"].new_job_folder("in flight")
    session.submit(place, messages.Reconstruct(photo, str(out_dir), messages.Options(device="cpu")))
    while session.progress.label != label:
        outcome = session.poll(0.1)
        assert outcome is None, outcome
    print("ready", session.worker_pid, flush=True)
    if sys.stdin.readline().strip() == "quit":
        bpy.ops.wm.quit_blender()  # as from the File menu
    return {}


def recall(bpy: Any) -> None:
    """Read the saved preferences, which the bpy module does not by itself."""
    if Path(bpy.utils.user_resource("CONFIG"), "userpref.blend").exists():
        bpy.ops.wm.read_userpref()


def enabled(bpy: Any) -> Any:
    """The preferences of the add-on, which runs from here on."""
    import addon_utils

    addon_utils.enable(PACKAGE, default_set=True)
    return bpy.context.preferences.addons[PACKAGE].preferences


STEPS = {step.__name__: step for step in (install, use, after, settle, look, make, begin)}

if __name__ == "__main__":
    import bpy

    step, *arguments = sys.argv[1:]
    told = health(bpy) if step in ("install", "use", "after") else {}
    told.update(STEPS[step](bpy, *arguments))
    print(json.dumps(told), flush=True)
    if bpy.app.version < (4, 3):
        # The bpy of 4.2 can crash when Python has ended, while it frees the types of its editors: also without any
        # extension, such as after a glTF import.
        os._exit(0)
