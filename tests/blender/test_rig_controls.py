from __future__ import annotations

from math import degrees, radians
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.blender.prepared_rig import PHOTOGRAPHED
from tests.blender.test_rig_import import face_of

pytestmark = pytest.mark.blender

STILL_M = 1e-6  # single precision of a quarter of a metre
OPEN_DEG = 15.0


def shown(bpy: ModuleType, thing: Any) -> np.ndarray:
    """(v, 3) vertices as they are drawn and rendered, metres."""
    bpy.context.view_layer.update()
    evaluated = thing.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = evaluated.to_mesh()
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", points)
    evaluated.to_mesh_clear()
    return points.reshape(-1, 3) @ np.array(evaluated.matrix_world.to_3x3()).T + evaluated.matrix_world.translation


def way(bpy: ModuleType, thing: Any, before: np.ndarray, group: str) -> float:
    """How far vertices that go with a bone alone have moved at most, metres."""
    index = thing.vertex_groups[group].index
    own = [v.index for v in thing.data.vertices if any(g.group == index and g.weight > 0.99 for g in v.groups)]
    return float(np.linalg.norm(shown(bpy, thing) - before, axis=1)[own].max())


def pose(rig: Any) -> None:
    """Open the jaw and turn the eyes by hand: bones that shapes move too."""
    rig.pose.bones["jaw"].rotation_euler.x = radians(OPEN_DEG)
    rig.pose.bones["jaw"].location.z = 0.01
    for eye in ("eye.L", "eye.R"):
        rig.pose.bones[eye].rotation_euler.x = radians(20)
        rig.pose.bones[eye].scale = (1.1, 1.1, 1.1)


def test_a_rig_comes_in_driven_by_shapes_and_then_bones_of_jaw_and_eyes_move_nothing(
    blender: ModuleType, rig: Any
) -> None:
    assert rig.headcast_rig.driven_by == "SHAPES"
    face = face_of(rig)
    before = shown(blender, face)
    pose(rig)
    rig.pose.bones["look_at"].location.x = 0.3
    np.testing.assert_allclose(shown(blender, face), before, atol=STILL_M)
    face.data.shape_keys.key_blocks["jawOpen"].value = 1
    assert way(blender, face, before, "jaw") > 0.01


def test_driven_by_bones_the_jaw_opens_once_and_its_shapes_are_muted(blender: ModuleType, rig: Any) -> None:
    face = face_of(rig)
    keys = face.data.shape_keys.key_blocks
    rig["look_at"] = 0.0
    rig.headcast_rig.driven_by = "BONES"
    before = shown(blender, face)
    for name in ("jawOpen", "jawLeft", "eyeLookUpLeft", "eyeLookInRight"):
        keys[name].value = 1
    np.testing.assert_allclose(shown(blender, face), before, atol=STILL_M)
    rig.pose.bones["jaw"].rotation_euler.x = radians(OPEN_DEG)
    points = shown(blender, face)
    index = face.vertex_groups["jaw"].index
    own = [v.index for v in face.data.vertices if any(g.group == index and g.weight > 0.999 for g in v.groups)]
    pivot = np.array(rig.data.bones["jaw"].head_local)
    turned = before[own] - pivot
    c, s = np.cos(radians(OPEN_DEG)), np.sin(radians(OPEN_DEG))
    # About the axis across the face, positive opens: forward (-y) goes down (-z).
    expected = turned @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T + pivot
    np.testing.assert_allclose(points[own], expected, atol=2e-5)
    keys["mouthSmileLeft"].value = 1  # no bone does this
    assert np.abs(shown(blender, face) - points).max() > 1e-3


def test_switching_there_and_back_restores_the_values_of_the_shapes(blender: ModuleType, rig: Any) -> None:
    face = face_of(rig)
    keys = face.data.shape_keys.key_blocks
    before, values = shown(blender, face), {key.name: key.value for key in keys}
    rig.headcast_rig.driven_by = "BONES"
    rig.headcast_rig.driven_by = "BONES"
    muted = {key.name for key in keys if key.mute}
    assert len(muted) == 12 and all(name.startswith(("jaw", "eyeLook")) for name in muted)
    assert not any(keys[name].value for name in muted)  # FBX writes values of muted shapes
    rig.headcast_rig.driven_by = "SHAPES"
    assert {key.name: key.value for key in keys} == values and not any(key.mute for key in keys)
    np.testing.assert_allclose(shown(blender, face), before, atol=STILL_M)


def test_switching_is_undone_by_one_step(blender: ModuleType, rig: Any) -> None:
    blender.ops.ed.undo_push(message="before")
    rig.headcast_rig.driven_by = "BONES"
    blender.ops.ed.undo_push(message="what Blender does after a click on a property")
    blender.ops.ed.undo()
    rig = blender.data.objects["Rig"]
    assert rig.headcast_rig.driven_by == "SHAPES"
    assert not any(key.mute for key in face_of(rig).data.shape_keys.key_blocks)
    assert all(held.enabled for held in rig.pose.bones["jaw"].constraints)


def test_the_jaw_stops_at_its_limits_also_under_the_hand(blender: ModuleType, rig: Any) -> None:
    rig.headcast_rig.driven_by = "BONES"
    jaw = rig.pose.bones["jaw"]
    limits = [held for held in jaw.constraints if held.type == "LIMIT_ROTATION" and held.enabled]
    assert len(limits) == 1 and limits[0].owner_space == "LOCAL" and limits[0].use_transform_limit
    rest = jaw.bone.matrix_local
    for turned, least, most in ((80, 20, 35), (-80, -1, 1)):
        jaw.rotation_euler = (radians(turned), radians(turned), radians(turned))
        blender.context.view_layer.update()
        reached = rig.pose.bones["head"].matrix @ (rig.data.bones["head"].matrix_local.inverted() @ rest)
        angles = (reached.inverted() @ jaw.matrix).to_euler()
        assert least <= degrees(angles.x) <= most and abs(degrees(angles.y)) < 6 and abs(degrees(angles.z)) < 15


def gaze(rig: Any, eye: str) -> np.ndarray:
    return np.array(rig.matrix_world.to_3x3() @ rig.pose.bones[eye].matrix.to_3x3().col[1])


def test_eyes_turn_to_the_target_as_far_as_the_slider_says(blender: ModuleType, rig: Any) -> None:
    rig.headcast_rig.driven_by = "BONES"
    assert rig["look_at"] == 1.0 and rig.id_properties_ui("look_at").as_dict()["max"] == 1.0
    rig.rotation_euler.z, rig.location = 0.5, (0.1, 0.2, 0.3)
    target = rig.pose.bones["look_at"]
    target.location = (0.15, 0.05, 0.1)
    blender.context.view_layer.update()
    for eye in ("eye.L", "eye.R"):
        there = np.array(rig.matrix_world @ target.head - rig.matrix_world @ rig.pose.bones[eye].head)
        np.testing.assert_allclose(gaze(rig, eye), there / np.linalg.norm(there), atol=1e-5)
    full = gaze(rig, "eye.L")
    rig["look_at"] = 0.0
    rig.update_tag()
    blender.context.view_layer.update()
    ahead = np.array(rig.matrix_world.to_3x3().col[1]) * -1
    np.testing.assert_allclose(gaze(rig, "eye.L"), ahead, atol=1e-5)
    rig["look_at"] = 0.5
    rig.update_tag()
    blender.context.view_layer.update()
    assert full @ ahead < gaze(rig, "eye.L") @ ahead < 1


def test_turning_an_eye_about_x_looks_up_on_both_sides(blender: ModuleType, rig: Any) -> None:
    rig.headcast_rig.driven_by, rig["look_at"] = "BONES", 0.0
    rig.update_tag()
    for eye in ("eye.L", "eye.R"):
        rig.pose.bones[eye].rotation_euler.x = radians(20)
    blender.context.view_layer.update()
    for eye in ("eye.L", "eye.R"):
        np.testing.assert_allclose(gaze(rig, eye), [0, -np.cos(radians(20)), np.sin(radians(20))], atol=1e-5)


def test_turning_the_head_takes_everything_on_it_along(blender: ModuleType, rig: Any) -> None:
    face = face_of(rig)
    for by in ("SHAPES", "BONES"):
        rig.headcast_rig.driven_by, rig["look_at"] = by, 0.0
        rig.pose.bones["head"].rotation_quaternion = (1, 0, 0, 0)
        before = shown(blender, face)
        rig.pose.bones["head"].rotation_quaternion = (0.9, 0.2, 0.3, 0.1)
        after = shown(blender, face)
        own = [
            v.index
            for v in face.data.vertices
            if sum(g.weight for g in v.groups if face.vertex_groups[g.group].name in ("head", "jaw", "eye.L", "eye.R"))
            > 0.999
        ]
        bone = rig.pose.bones["head"]
        turn = np.array(bone.matrix @ bone.bone.matrix_local.inverted())
        np.testing.assert_allclose(after[own], before[own] @ turn[:3, :3].T + turn[:3, 3], atol=1e-4)


def test_neutral_and_as_photographed_are_one_click_apart_and_undone_by_one(blender: ModuleType, rig: Any) -> None:
    def values() -> dict[str, float]:
        keys = face_of(blender.data.objects["Rig"]).data.shape_keys.key_blocks
        return {key.name: key.value for key in list(keys)[1:] if key.value}

    face_of(rig).data.shape_keys.key_blocks["tongueOut"].value = 0.5
    assert blender.ops.headcast.expression(expression="NEUTRAL") == {"FINISHED"}
    assert values() == {}
    blender.context.view_layer.objects.active = rig  # any part of the rig will do
    blender.ops.ed.undo_push(message="neutral")
    assert blender.ops.headcast.expression("EXEC_DEFAULT", True, expression="PHOTO") == {"FINISHED"}
    assert values() == pytest.approx(PHOTOGRAPHED)
    blender.ops.ed.undo()
    assert values() == {}


def test_driven_by_bones_the_photos_expression_leaves_jaw_and_eyes_to_them(blender: ModuleType, rig: Any) -> None:
    rig.headcast_rig.driven_by = "BONES"
    blender.ops.headcast.expression(expression="NEUTRAL")
    blender.ops.headcast.expression(expression="PHOTO")
    keys = face_of(rig).data.shape_keys.key_blocks
    set_ones = {key.name: key.value for key in list(keys)[1:] if key.value}
    assert set_ones == pytest.approx({name: PHOTOGRAPHED[name] for name in ("mouthSmileLeft", "mouthSmileRight")})


def test_expression_is_grey_and_says_why_without_a_rig(blender: ModuleType, rig: Any) -> None:
    blender.context.view_layer.objects.active = blender.data.objects["Photo Camera"]
    with pytest.raises(RuntimeError, match="Select a rig"):
        blender.ops.headcast.expression()
