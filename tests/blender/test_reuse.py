from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import trimesh

from inference.surface import metres_from_head
from tests.blender.conftest import OperatorByHand, part
from tests.blender.prepared_head import BACK_GROWTH, head_points
from tests.blender.test_import_head import local_points, names
from tests.blender.test_reconstruct import photo  # noqa: F401  a fixture

pytestmark = pytest.mark.blender

EXACT_M = 1e-6  # single precision of a quarter of a metre


@pytest.fixture
def head(blender: ModuleType, photo: Any, worker_that: Callable[[str], None]) -> Any:  # noqa: F811
    """A head in the scene, selected and active, with its result folder among the user's heads."""
    worker_that("done")
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    return blender.data.objects["Head"]


def folder_of(head: Any) -> Path:
    return part("operators").heads_folder() / head["headcast_folder"]


def request(head: Any) -> dict[str, Any]:
    """What the worker was asked for when it made the head's folder."""
    return json.loads((folder_of(head) / "request.json").read_text())


def albedo(thing: Any) -> Any:
    return next(node.image for node in thing.data.materials[0].node_tree.nodes if node.type == "TEX_IMAGE")


def green(image: Any) -> float:
    return float(np.array(image.pixels[:]).reshape(-1, 4)[:, 1].max())


def copy_of(bpy: ModuleType, head: Any) -> Any:
    """A copy as Shift D makes it, active and alone in the selection."""
    bpy.ops.object.select_all(action="DESELECT")
    head.select_set(True)
    bpy.context.view_layer.objects.active = head
    bpy.ops.object.duplicate()
    return bpy.context.active_object


def test_rerolled_a_head_keeps_its_object_and_gets_another_back_and_texture(blender: ModuleType, head: Any) -> None:
    head.location = (1.0, 2.0, 3.0)
    before, old_folder, old_picture, things = local_points(head), folder_of(head), albedo(head), names(blender)
    assert blender.ops.headcast.reroll() == {"FINISHED"}
    after = local_points(head)
    back = before[:, 1] > EXACT_M  # Blender's y runs backwards
    np.testing.assert_allclose(after[back][:, 1], before[back][:, 1] * BACK_GROWTH, atol=EXACT_M)
    assert np.array_equal(after[~back], before[~back])
    assert green(old_picture) == 1.0 and green(albedo(head)) == 0.0
    assert request(head)["seed"] == 1 and request(head)["folder"] == str(old_folder)
    assert tuple(head.location) == (1.0, 2.0, 3.0) and head.select_get()
    assert json.loads(head["headcast_options"])["seed"] == 1
    added = {kind: len(after_names - things[kind]) for kind, after_names in names(blender).items()}
    assert {kind for kind, count in added.items() if count} == {"images"} and added["images"] == 1


def test_one_undo_step_takes_a_reroll_back(blender: ModuleType, head: Any) -> None:
    before, picture, folder = local_points(head), albedo(head).name, head["headcast_folder"]
    blender.ops.ed.undo_push(message="before")
    assert blender.ops.headcast.reroll("EXEC_DEFAULT", True, seed=5) == {"FINISHED"}
    assert not np.array_equal(local_points(blender.data.objects["Head"]), before)
    blender.ops.ed.undo()
    head = blender.data.objects["Head"]
    assert np.array_equal(local_points(head), before)
    assert albedo(head).name == picture and head["headcast_folder"] == folder


def test_what_an_artist_sculpted_and_shape_keys_follow_a_reroll(blender: ModuleType, head: Any) -> None:
    for name in ("Basis", "Smile"):
        head.shape_key_add(name=name)
    head.data.vertices[0].co.x += 0.01
    keys = head.data.shape_keys.key_blocks
    keys["Smile"].data[3].co.z += 0.02
    before = {key.name: np.array([point.co for point in key.data]) for key in keys}
    moved = local_points(head)
    assert blender.ops.headcast.reroll() == {"FINISHED"}
    way = local_points(head) - moved
    assert np.abs(way).max() > 0.005
    for key in keys:
        np.testing.assert_allclose(np.array([point.co for point in key.data]) - before[key.name], way, atol=EXACT_M)


def test_a_head_with_other_faces_by_now_gets_the_new_version_beside_it(blender: ModuleType, head: Any) -> None:
    import bmesh

    work = bmesh.new()
    work.from_mesh(head.data)
    bmesh.ops.delete(work, geom=[work.faces[0]] if work.faces.ensure_lookup_table() is None else [], context="FACES")
    work.to_mesh(head.data)
    work.free()
    head.location.x = 0.7
    blender.context.view_layer.update()
    before = local_points(head)
    assert blender.ops.headcast.reroll() == {"FINISHED"}
    assert np.array_equal(local_points(head), before)
    new = blender.context.active_object
    assert new != head and new["headcast_folder"] != head["headcast_folder"]
    assert new.matrix_world.translation.x == pytest.approx(0.7)


def test_rebaking_a_remeshed_copy_sends_its_triangles_and_gives_it_the_result(blender: ModuleType, head: Any) -> None:
    head.location = (0.5, 0.0, 0.0)
    copy = copy_of(blender, head)
    copy.location.x = 2.0  # laid aside: a copy of the head is taken as it lies in its own frame
    mesh = copy.data
    mesh.remesh_voxel_size = 0.01
    blender.ops.object.voxel_remesh()
    assert blender.ops.headcast.rebake(new_uv=True) == {"FINISHED"}
    assert mesh.uv_layers.active.name == "Headcast" and mesh.uv_layers.active.active_render
    sent = trimesh.load_mesh(folder_of(copy) / "mesh.ply", process=False)
    assert len(sent.faces) == 2 * len(mesh.polygons)  # its faces are quads
    points, _ = head_points()
    in_metres = trimesh.transform_points(points, metres_from_head())
    np.testing.assert_allclose(sent.bounds, [in_metres.min(0), in_metres.max(0)], atol=0.02)  # spikes go
    assert sent.visual.uv.min() >= 0 and sent.visual.uv.max() <= 1 and np.ptp(sent.visual.uv) > 0.9
    asked = request(copy)
    assert asked["own_uv_only"] and asked["changes"]["texture"] == blender.context.scene.headcast.texture_size
    assert len(copy.data.materials) == 1 and albedo(copy).packed_file and green(albedo(copy)) == 0.0
    assert green(albedo(head)) == 1.0 and copy["headcast_folder"] != head["headcast_folder"]


def test_another_mesh_is_sent_as_it_lies_on_the_selected_head(blender: ModuleType, head: Any) -> None:
    head.location, head.rotation_euler.z = (0.5, 0.3, 0.2), 0.4
    copy = copy_of(blender, head)
    for key in [key for key in copy.keys() if key.startswith("headcast")]:
        del copy[key]
    blender.ops.object.transform_apply(location=True, rotation=True)
    copy.scale = (2.0, 2.0, 2.0)
    blender.ops.object.transform_apply(scale=True)
    copy.scale = (0.5, 0.5, 0.5)
    head.select_set(True)
    blender.context.view_layer.update()
    first = list(copy.data.uv_layers[0].data[0].uv)
    assert blender.ops.headcast.rebake() == {"FINISHED"}
    sent = trimesh.load_mesh(folder_of(copy) / "mesh.ply", process=False)
    original = trimesh.load_mesh(part("operators").heads_folder() / head["headcast_folder"] / "head.glb", process=False)
    np.testing.assert_allclose(sent.bounds, original.bounds, atol=2 * EXACT_M)
    assert np.abs(sent.visual.uv - first).sum(axis=1).min() < 1e-6
    np.testing.assert_allclose(np.sort(sent.area_faces), np.sort(original.area_faces), rtol=1e-3)
    assert copy["headcast_photo"] == head["headcast_photo"] and copy["headcast_synthetic"]
    # It remembers how it lay on the head: moved away and painted once more, alone, it is sent from the same place.
    head.select_set(False)
    copy.location.x += 3.0
    assert blender.ops.headcast.rebake() == {"FINISHED"}
    again = trimesh.load_mesh(folder_of(copy) / "mesh.ply", process=False)
    np.testing.assert_allclose(again.vertices, sent.vertices, atol=2 * EXACT_M)


def test_a_live_remesh_modifier_is_refused_with_what_to_do(blender: ModuleType, head: Any) -> None:
    copy = copy_of(blender, head)
    modifier = copy.modifiers.new("Remesh", "REMESH")
    modifier.mode, modifier.voxel_size = "VOXEL", 0.02
    with pytest.raises(RuntimeError, match="Apply the modifiers"):
        blender.ops.headcast.rebake()
    assert "UV map" in part("session").SESSION.failure.message


def test_rebuilt_a_head_comes_in_beside_the_old_one_at_the_panels_quality(blender: ModuleType, head: Any) -> None:
    settings = blender.context.scene.headcast
    settings.quality = "DRAFT"
    head.location, head.rotation_euler.z = (0.1, 0.2, 0.3), 0.5
    blender.context.view_layer.update()
    assert blender.ops.headcast.rebuild() == {"FINISHED"}
    new = blender.context.active_object
    assert new != head and np.allclose(new.matrix_world, head.matrix_world)
    changes = request(new)["changes"]
    assert (changes["grid"], changes["faces"], changes["texture"]) == (128, 10_000, 1024)
    assert changes["device"] == settings.device.lower()


def test_a_head_rebuilt_while_the_overlay_is_on_gets_it_too(blender: ModuleType, head: Any) -> None:
    blender.context.scene.headcast.show_seen = True
    assert blender.ops.headcast.rebuild() == {"FINISHED"}
    assert part("seen_in_photo").OVERLAY in blender.context.active_object.modifiers
    blender.context.scene.headcast.show_seen = False


@pytest.mark.parametrize("verb", ["reroll", "rebake", "rebuild"])
def test_an_error_or_a_lost_folder_leaves_the_head_and_is_told_in_the_panel(
    blender: ModuleType, head: Any, worker_that: Callable[[str], None], verb: str
) -> None:
    run = getattr(blender.ops.headcast, verb)
    before, points, things = dict(head), local_points(head), names(blender)
    worker_that("fail")
    with pytest.raises(RuntimeError, match="does not lie on the head"):
        run()
    shutil.rmtree(folder_of(head))
    with pytest.raises(RuntimeError, match="not on this computer"):
        run()
    failure = part("session").SESSION.failure
    assert failure.hint and not part("session").SESSION.running
    assert dict(head) == before and np.array_equal(local_points(head), points) and names(blender) == things


def test_buttons_are_grey_and_say_why_without_a_head(blender: ModuleType, head: Any) -> None:
    panel = part("panel").HEADCAST_PT_reuse
    assert panel.poll(blender.context)
    blender.ops.object.select_all(action="DESELECT")
    blender.context.view_layer.objects.active = None
    assert not panel.poll(blender.context)
    for verb in ("reroll", "rebake", "rebuild"):
        with pytest.raises(RuntimeError, match="Select a head"):
            getattr(blender.ops.headcast, verb)()


class ByHand(OperatorByHand):
    """One of the three operators, driven without a window."""

    def __init__(self, kind: type, context: Any) -> None:
        super().__init__(kind, context)
        self.seed, self.new_uv = 2, False


def test_esc_cancels_a_reroll_and_the_head_stays(
    blender: ModuleType, head: Any, worker_that: Callable[[str], None]
) -> None:
    before = local_points(head)
    worker_that("wait")
    hand = ByHand(part("reuse_operators").HEADCAST_OT_reroll, blender.context)
    hand.begin()
    assert hand.event("MOUSEMOVE") == {"PASS_THROUGH"}
    assert not blender.ops.headcast.reconstruct.poll() and blender.ops.headcast.cancel.poll()
    assert hand.event("ESC") == {"RUNNING_MODAL"}
    assert hand.until_over() == {"CANCELLED"}
    assert np.array_equal(local_points(head), before) and part("worker_job").timers._timer is None


def test_a_head_deleted_meanwhile_is_told(blender: ModuleType, head: Any) -> None:
    hand = ByHand(part("reuse_operators").HEADCAST_OT_reroll, blender.context)
    hand.begin()
    blender.data.objects.remove(head)
    assert hand.until_over() == {"CANCELLED"}
    assert "deleted" in part("session").SESSION.failure.message
