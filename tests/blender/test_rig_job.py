"""Making rigs from the panel: of a selected head, and in one run with its reconstruction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.blender.conftest import part
from tests.blender.test_import_head import names
from tests.blender.test_reconstruct import ByHand as ReconstructByHand
from tests.blender.test_reconstruct import photo  # noqa: F401  a fixture
from tests.blender.test_reuse import ByHand, folder_of, head  # noqa: F401  a fixture
from tests.blender.test_rig_import import face_of

pytestmark = [pytest.mark.blender, pytest.mark.usefixtures("rig_files")]


def rigs(bpy: ModuleType) -> list[Any]:
    return [thing for thing in bpy.data.objects if thing.get("headcast_rig_part") == "armature"]


def test_the_button_asks_for_a_rig_of_the_heads_folder_and_brings_it_in(
    blender: ModuleType,
    head: Any,  # noqa: F811
) -> None:
    settings = blender.context.scene.headcast
    settings.texture_size = 512
    folder = folder_of(head)
    assert blender.ops.headcast.make_rig() == {"FINISHED"}
    asked = json.loads((folder / "request.json").read_text())
    assert asked["kind"] == "rig" and asked["folder"] == str(folder)
    assert asked["changes"] == {"texture": 512, "device": settings.device.lower()}
    (rig,) = rigs(blender)
    assert face_of(rig)["headcast_photo"] == head["headcast_photo"] and part("rig.make_rig").scan_of(rig) == head
    assert blender.context.active_object == face_of(rig)


def test_one_undo_step_brings_the_scan_back(blender: ModuleType, head: Any) -> None:  # noqa: F811
    blender.ops.ed.undo_push(message="before")
    before = names(blender)
    assert blender.ops.headcast.make_rig("EXEC_DEFAULT", True) == {"FINISHED"}
    assert blender.data.objects["Head"].hide_viewport and names(blender) != before
    blender.ops.ed.undo()
    head = blender.data.objects["Head"]
    assert names(blender) == before and not head.hide_viewport and not head.hide_render and head.parent is None
    blender.ops.ed.redo()
    (rig,) = rigs(blender)
    rig.headcast_rig.driven_by = "BONES"
    assert face_of(rig).data.shape_keys.key_blocks["jawOpen"].mute and blender.data.objects["Head"].hide_viewport


def test_a_part_of_a_rig_is_no_head_to_be_baked_or_rebuilt(blender: ModuleType, head: Any) -> None:  # noqa: F811
    blender.ops.headcast.make_rig()
    with pytest.raises(RuntimeError, match="Select a head"):
        blender.ops.headcast.rebuild()
    panel = part("panel").HEADCAST_PT_rig
    assert panel.poll(blender.context)
    blender.context.view_layer.objects.active = head
    assert not panel.poll(blender.context)


def test_a_refusal_or_a_spoilt_file_leaves_the_head_as_it_was(
    blender: ModuleType,
    head: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    job_folder: Path,
) -> None:
    before = names(blender)
    worker_that("fail rig")
    with pytest.raises(RuntimeError, match="no landmarks"):
        blender.ops.headcast.make_rig()
    worker_that("done")
    rig_npz = job_folder.with_name("rig") / "rig.npz"
    whole = rig_npz.read_bytes()
    rig_npz.write_bytes(whole[:5000])
    try:
        with pytest.raises(RuntimeError, match="could not be read"):
            blender.ops.headcast.make_rig()
    finally:
        rig_npz.write_bytes(whole)
    assert names(blender) == before and not head.hide_viewport and part("session").SESSION.failure.hint


def test_esc_cancels_a_rig_and_the_head_stays(
    blender: ModuleType,
    head: Any,  # noqa: F811
    worker_that: Callable[[str], None],
) -> None:
    worker_that("wait for rig")
    hand = ByHand(part("rig_operators").HEADCAST_OT_make_rig, blender.context)
    hand.begin()
    assert hand.event("ESC") == {"RUNNING_MODAL"}
    assert hand.until_over() == {"CANCELLED"}
    assert not rigs(blender) and not head.hide_viewport


def test_with_the_tick_a_reconstruction_brings_head_and_rig_in_one_undo_step(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
) -> None:
    worker_that("done")
    assert not blender.context.scene.headcast.make_rig  # off unless wanted
    blender.context.scene.headcast.make_rig = True
    blender.ops.ed.undo_push(message="before")
    before = names(blender)
    assert blender.ops.headcast.reconstruct("EXEC_DEFAULT", True) == {"FINISHED"}
    (rig,) = rigs(blender)
    assert blender.data.objects["Head"].hide_viewport and blender.context.active_object == face_of(rig)
    assert part("session").SESSION.warnings == ("2 faces were found; the largest was taken.",)
    blender.ops.ed.undo()
    assert names(blender) == before


def test_a_rig_that_cannot_be_made_leaves_the_reconstructed_head_with_a_warning(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
) -> None:
    worker_that("fail rig")
    blender.context.scene.headcast.make_rig = True
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    assert not rigs(blender) and not blender.data.objects["Head"].hide_viewport
    warnings = part("session").SESSION.warnings
    assert len(warnings) == 2 and "without a rig" in warnings[1] and "no landmarks" in warnings[1]
    assert part("session").SESSION.failure is None and not part("session").SESSION.running


@pytest.mark.parametrize("esc", [True, False])
def test_modal_the_run_goes_on_with_the_rig_and_esc_keeps_the_head(
    blender: ModuleType,
    photo: Any,  # noqa: F811
    worker_that: Callable[[str], None],
    esc: bool,
) -> None:
    worker_that("wait for rig" if esc else "done")
    blender.context.scene.headcast.make_rig = True
    hand = ReconstructByHand(blender.context)
    hand.begin()
    while esc and "Fitting" not in part("session").SESSION.progress.label:
        assert hand.event("TIMER") == {"PASS_THROUGH"}
    if esc:
        assert not rigs(blender) and "Head" not in blender.data.objects  # both come in one step
        assert hand.event("ESC") == {"RUNNING_MODAL"}
    assert hand.until_over() == {"FINISHED"}
    assert len(rigs(blender)) == (0 if esc else 1) and blender.data.objects["Head"].hide_viewport != esc
    assert not part("session").SESSION.running and part("worker_job").timers._timer is None
