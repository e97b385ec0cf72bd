"""A desk with a screen, Blender, and a hand on mouse and keyboard. Runs in the Debian root, on its own Python.

    python3 desk.py WORKER_PYTHON

The hand does what `script.py` writes into WISH, and takes the file away when that is done.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

JOB = Path("/job")
OUT = JOB / "out"
WISH = JOB / "wish.json"
DISPLAY = ":77"
SIZE = (1280, 800)
PATIENCE_S = 800
LOOK_S = 0.05
PREFERENCES = """
import bpy
view = bpy.context.preferences.view
view.show_splash = False
view.show_tooltips = False  # they would hide what pictures shall show
bpy.context.preferences.use_preferences_save = True
bpy.ops.wm.save_userpref()
"""


def main() -> int:
    """Install, start, serve wishes until Blender ends; Blender's exit code."""
    os.environ.update(
        HOME="/root",
        BLENDER_USER_RESOURCES=str(JOB / "profile"),
        DISPLAY=DISPLAY,
        GALLIUM_DRIVER="llvmpipe",
        LC_ALL="C.UTF-8",
        LIBGL_ALWAYS_SOFTWARE="1",
        WORKER_PYTHON=sys.argv[1],
        XDG_RUNTIME_DIR=str(JOB / "runtime"),
    )
    for folder in ("profile", "runtime"):
        (JOB / folder).mkdir(mode=0o700)
    run("blender", "-b", "--factory-startup", "--python-expr", PREFERENCES)
    run(
        "blender", "--command", "extension", "install-file", "-r", "user_default", "--enable", str(JOB / "headcast.zip")
    )
    screen = subprocess.Popen(
        ["Xvfb", DISPLAY, "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-nolisten", "tcp", "+extension", "GLX"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not Path(f"/tmp/.X11-unix/X{DISPLAY[1:]}").exists():
        time.sleep(LOOK_S)
    with open(OUT / "blender.log", "w") as log:
        blender = subprocess.Popen(
            ["blender", "--window-geometry", "0", "0", *map(str, SIZE), "--python", str(JOB / "script.py")],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + PATIENCE_S
        while blender.poll() is None and time.monotonic() < end:
            if WISH.exists():
                fulfil(json.loads(WISH.read_text()))
                WISH.unlink()
            time.sleep(LOOK_S)
    blender.kill()
    screen.terminate()
    return blender.wait()


def fulfil(wish: dict) -> None:
    """One movement of the hand, or a picture of the screen. Places are px from the screen's upper left."""
    if wish["do"] == "picture":
        screen = subprocess.run(["xwd", "-root", "-silent"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["convert", "xwd:-", str(OUT / f"{wish['name']}.png")], input=screen, check=True)
        return
    if "x" in wish:
        run("xdotool", "mousemove", str(wish["x"]), str(wish["y"]))
    if wish["do"] == "click":
        run("xdotool", "click", "1")
    if wish["do"] == "key":
        run("xdotool", "key", wish["key"])


def run(*command: str) -> None:
    subprocess.run(command, check=True)


sys.exit(main())
