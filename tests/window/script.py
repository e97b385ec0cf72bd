"""What happens at the desk: photo, tab, click, wait, look, undo, redo, another click, Esc. Runs in Blender's window.

Steps are a generator on a timer, so that Blender lives its own life between them; it waits for conditions, never for a
time that somebody thought enough. Buttons are found as a hand finds them: the mouse goes down the panel until Blender
says that the wanted operator lies under it.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path

import bpy
import gpu

JOB = Path("/job")
WISH = JOB / "wish.json"
RESULT = JOB / "out" / "result.json"
PACKAGE = "bl_ext.user_default.headcast"
LOOK_S = 0.1
PATIENCE_S = 300.0  # for a head, with the screen drawn by the same processor
SHORTLY_S = 30.0
STEP_PX = 8  # down the panel, less than the height of a button
LONGEST_FREEZE_S = 1.0  # between two looks while a head is computed; the import itself may take longer

Steps = Generator[float, None, None]
checks: list[dict[str, object]] = []
BEGUN = time.monotonic()


def check(what: str, held: object) -> None:
    """Note whether something held."""
    checks.append({"what": what, "held": bool(held), "second": round(time.monotonic() - BEGUN, 1)})


def tell(finished: bool) -> None:
    """Write down what is known by now."""
    told = {
        "blender": bpy.app.version_string,
        "renderer": gpu.platform.renderer_get(),
        "finished": finished,
        "checks": checks,
    }
    RESULT.write_text(json.dumps(told, indent=1))


def wish(**what: object) -> Steps:
    """Have the hand do something, and wait until it has."""
    passing = WISH.with_suffix(".part")
    passing.write_text(json.dumps(what))
    passing.rename(WISH)
    while WISH.exists():
        yield LOOK_S


def until(condition: Callable[[], object], what: str, patience_s: float = SHORTLY_S) -> Steps:
    """Wait for something. Raises TimeoutError, which ends the script."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        yield LOOK_S


def view() -> tuple[bpy.types.Window, bpy.types.Area, bpy.types.Region, bpy.types.Region]:
    """The window, its largest 3D viewport, the sidebar's region and the view's own."""
    window = bpy.context.window_manager.windows[0]
    area = max((area for area in window.screen.areas if area.type == "VIEW_3D"), key=lambda area: area.width)
    sidebar, middle = (next(region for region in area.regions if region.type == kind) for kind in ("UI", "WINDOW"))
    return window, area, sidebar, middle


def picture(name: str) -> Steps:
    """A picture of the whole screen, drawn anew."""
    bpy.ops.wm.redraw_timer(type="DRAW_WIN_SWAP", iterations=1)
    yield LOOK_S
    yield from wish(do="picture", name=name)


def under_mouse() -> str:
    """The operator of the sidebar's button under the mouse, as Python; empty if there is none."""
    window, area, sidebar, _ = view()
    bpy.context.window_manager.clipboard = ""
    with bpy.context.temp_override(window=window, area=area, region=sidebar):
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
    return bpy.context.window_manager.clipboard


def find(operator: str) -> Generator[float, None, tuple[int, int]]:
    """Where a button lies, px from the screen's upper left; the mouse is on it. Raises LookupError."""
    window, _, sidebar, _ = view()
    x = sidebar.x + int(0.4 * sidebar.width)
    for down in range(0, sidebar.height, STEP_PX):
        y = window.height - (sidebar.y + sidebar.height - down)
        yield from wish(do="move", x=x, y=y)
        yield LOOK_S
        if operator in under_mouse():
            return x, y
    raise LookupError(operator)


def heads() -> list[bpy.types.Object]:
    return [thing for thing in bpy.context.scene.objects if thing.get("headcast_synthetic") and thing.type == "MESH"]


def session() -> object:
    return sys.modules[f"{PACKAGE}.addon.session"].SESSION


def work() -> Steps:
    """The whole script."""
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    preferences.consent = True
    preferences.worker_python = os.environ["WORKER_PYTHON"]
    settings = bpy.context.scene.headcast
    settings.image = bpy.data.images.load(str(JOB / "astronaut.png"))
    for thing in list(bpy.context.scene.objects):
        bpy.data.objects.remove(thing)  # the startup file's cube would stand in the head
    bpy.ops.ed.undo_push(message="Before")

    window, area, _, middle = view()
    area.spaces.active.show_region_ui = True
    yield from until(lambda: view()[2].width > 1, "the sidebar opens")
    yield LOOK_S
    view()[2].active_panel_category = "Headcast"
    yield from picture("1_panel")
    x, y = yield from find("headcast.reconstruct")
    check("the button lies in the tab Headcast of the sidebar", True)
    yield from wish(do="click", x=x, y=y)
    yield from until(lambda: session().running, "the click starts a job")
    check("a real click on Reconstruct Head starts the worker", True)
    yield from until(lambda: session().progress.fraction > 0.3, "progress", PATIENCE_S)
    yield from picture("2_at_work")
    check("no head before there is one", not heads())

    longest, last = 0.0, time.monotonic()
    end = last + PATIENCE_S
    while not heads() and time.monotonic() < end:
        yield LOOK_S
        now = time.monotonic()
        if session().running and session().progress.fraction < 1.0:
            longest = max(longest, now - last)
        last = now
    yield from until(heads, "the head arrives")
    check(f"Blender stays usable meanwhile: frozen for {longest:.2f} s at most", longest < LONGEST_FREEZE_S)
    head = heads()[0]
    faces = len(head.data.polygons)
    check(f"one head of {faces} faces, in a collection of its own", faces > 20_000 and len(heads()) == 1)
    check("its size is a head's", 0.2 < head.dimensions.z < 0.4)
    check("it has skin and an albedo", head.data.materials and head.data.materials[0].node_tree)
    check("the photo's camera came along", any(thing.type == "CAMERA" for thing in bpy.context.scene.objects))
    with bpy.context.temp_override(window=window, area=area, region=middle):
        bpy.ops.view3d.view_axis(type="FRONT")
        bpy.ops.view3d.view_selected()
    area.spaces.active.shading.color_type = "TEXTURE"  # Material Preview takes minutes without a graphics card
    yield from find("headcast.make_rig")
    check("the panel offers what can be done with the selected head", True)
    yield from picture("3_head")

    in_view = {"x": area.x + area.width // 3, "y": window.height - (area.y + area.height // 2)}
    yield from wish(do="key", key="ctrl+z", **in_view)
    yield from until(lambda: not heads(), "undo")
    check("one undo step takes everything away", not bpy.data.collections.get("Headcast astronaut"))
    yield from picture("4_undone")
    yield from wish(do="key", key="ctrl+shift+z", **in_view)
    yield from until(heads, "redo")
    check("redo brings it back", len(heads()) == 1)

    x, y = yield from find("headcast.reconstruct")
    yield from wish(do="click", x=x, y=y)
    yield from until(lambda: session().running, "the second click starts a job")
    yield from until(lambda: session().progress.fraction > 0.1, "progress", PATIENCE_S)
    yield from wish(do="key", key="Escape", **in_view)
    yield from until(lambda: not session().running, "Esc cancels", SHORTLY_S)
    check("Esc cancels the next one", len(heads()) == 1 and session().failure is None)
    yield from picture("5_cancelled")


steps = work()


def tick() -> float | None:
    """One step; at the end, Blender quits."""
    try:
        return next(steps)
    except StopIteration:
        tell(finished=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the result
        traceback.print_exc()
        check(f"{type(error).__name__}: {error}", False)
        tell(finished=False)
    bpy.ops.wm.quit_blender()
    return None


bpy.app.timers.register(tick, first_interval=1.0, persistent=True)
