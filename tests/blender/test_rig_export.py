"""A rig goes through glTF and FBX and comes back the same: names, counts, weights, pictures and a posed frame."""

from __future__ import annotations

from math import radians
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.spatial import KDTree

from tests.blender.prepared_rig import rig_arrays
from tests.blender.test_rig_controls import shown
from tests.blender.test_rig_import import face_of, source

pytestmark = pytest.mark.blender

AGREE_M = 1e-4
POSED = 5  # the frame; at frame 1 everything is neutral and at rest
SHAPES = ("browInnerUp", "mouthSmileLeft")
FORMATS = ["gltf", "fbx"]


def round_trip(bpy: ModuleType, kind: str, path: Path) -> None:
    """Export what is visible, and import it into an empty file."""
    if kind == "gltf":
        # Shapes and bones have an action each. glTF would make two animations of them, and importers play one.
        bpy.ops.export_scene.gltf(
            filepath=str(path / "rig.glb"), use_visible=True, export_animation_mode="ACTIVE_ACTIONS"
        )
        bpy.ops.wm.read_homefile(use_empty=True)
        bpy.ops.import_scene.gltf(filepath=str(path / "rig.glb"))
    else:
        # Leaf bones are what FBX invents for the ends of chains: not part of the rig.
        bpy.ops.export_scene.fbx(
            filepath=str(path / "rig.fbx"),
            use_visible=True,
            add_leaf_bones=False,
            path_mode="COPY",
            embed_textures=True,
        )
        bpy.ops.wm.read_homefile(use_empty=True)
        bpy.ops.import_scene.fbx(filepath=str(path / "rig.fbx"))


def returned(bpy: ModuleType) -> tuple[Any, Any, Any]:
    """Armature, face and hair of an import. glTF's importer names a skinned mesh as its data."""
    things = bpy.context.scene.objects
    face = next(thing for thing in things if thing.type == "MESH" and thing.data.shape_keys)
    return next(thing for thing in things if thing.type == "ARMATURE"), face, bpy.data.objects["Hair"]


def start_up(bpy: ModuleType) -> None:
    """Take the start-up file's own things out of the way."""
    for name in ("Cube", "Camera", "Light"):
        bpy.data.objects.remove(bpy.data.objects[name])


@pytest.mark.parametrize("kind", FORMATS)
def test_names_counts_weights_and_pictures_come_back(blender: ModuleType, rig: Any, kind: str, tmp_path: Path) -> None:
    start_up(blender)
    blender.ops.headcast.expression(expression="NEUTRAL")
    points, written = shown(blender, face_of(rig)), rig_arrays()
    round_trip(blender, kind, tmp_path)
    armature, face, hair = returned(blender)
    assert [key.name for key in face.data.shape_keys.key_blocks][1:] == list(written["expression_names"])
    parents = {bone.name: bone.parent.name if bone.parent else None for bone in armature.data.bones}
    names = list(written["bone_names"])
    expected = {name: names[k] if k >= 0 else None for name, k in zip(names, written["bone_parents"], strict=True)}
    assert parents == {**expected, "look_at": "chest"}
    assert {group.name for group in face.vertex_groups} >= set(names)

    back = shown(blender, face)
    if kind == "fbx":  # glTF has triangles, and a vertex for each side of a seam
        assert len(back) == len(points) and len(face.data.polygons) == len(written["faces"])
    distance, nearest = KDTree(points).query(back)
    assert distance.max() < AGREE_M and len(np.unique(nearest)) == len(points)
    assert KDTree(back).query(points)[0].max() < AGREE_M
    own = [name for group in face.vertex_groups if (name := group.name) in names]
    given = np.zeros((len(points), len(names)))
    np.put_along_axis(given, written["bone_index"].astype(int), written["bone_weight"], axis=1)
    for vertex, before in zip(face.data.vertices, nearest, strict=True):
        weights = dict.fromkeys(own, 0.0)
        weights.update({face.vertex_groups[entry.group].name: entry.weight for entry in vertex.groups})
        assert np.abs([weights[name] - given[before, k] for k, name in enumerate(names)]).max() < 2e-3
    assert len(hair.data.polygons) == 4

    skin, eyes, mouth = (slot.material for slot in face.material_slots)
    for material in (skin, eyes, mouth, hair.material_slots[0].material):
        picture = source(material, "Base Color")
        assert tuple(picture.size) == (32, 32) and picture.packed_file
    assert source(skin, "Normal")
    if kind == "gltf":  # FBX has no picture of roughness as Blender writes it
        assert source(skin, "Roughness")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_posed_frame_comes_back_within_a_tenth_of_a_millimetre(
    blender: ModuleType, rig: Any, kind: str, tmp_path: Path
) -> None:
    start_up(blender)
    scene, face = blender.context.scene, face_of(rig)
    rig.headcast_rig.driven_by = "BONES"
    keys, bones = face.data.shape_keys.key_blocks, rig.pose.bones
    blender.ops.headcast.expression(expression="NEUTRAL")
    for frame, on in ((1, 0.0), (POSED, 1.0)):
        bones["jaw"].rotation_euler.x = radians(12) * on
        bones["jaw"].keyframe_insert("rotation_euler", frame=frame)
        bones["head"].rotation_quaternion = (1, 0.05 * on, 0.2 * on, 0.1 * on)
        bones["head"].keyframe_insert("rotation_quaternion", frame=frame)
        bones["look_at"].location.x = 0.2 * on
        bones["look_at"].keyframe_insert("location", frame=frame)
        for name in SHAPES:
            keys[name].value = 0.8 * on
            keys[name].keyframe_insert("value", frame=frame)
    scene.frame_start, scene.frame_end = 1, POSED
    at_rest, posed = {}, {}
    for frame, into in ((1, at_rest), (POSED, posed)):
        scene.frame_set(frame)
        into.update({"face": shown(blender, face), "hair": shown(blender, blender.data.objects["Hair"])})
    assert np.linalg.norm(posed["face"] - at_rest["face"], axis=1).max() > 0.03
    round_trip(blender, kind, tmp_path)
    _, face, hair = returned(blender)
    blender.context.scene.frame_set(POSED)
    for name, thing in (("face", face), ("hair", hair)):
        back = shown(blender, thing)
        assert KDTree(back).query(posed[name])[0].max() < AGREE_M
        assert KDTree(posed[name]).query(back)[0].max() < AGREE_M
