from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from inference.rigging import rig_file
from tests.blender.conftest import part
from tests.blender.prepared_rig import HAIR_CROWN_M, PHOTOGRAPHED, make_older, rig_arrays
from tests.blender.test_import_head import local_points, names

pytestmark = pytest.mark.blender

EXACT_M = 1e-6  # float32 of a quarter of a metre
TURN = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # glTF's axes to Blender's


def face_of(armature: Any) -> Any:
    return next(part("rig.face_control").faces_of(armature))


def child(armature: Any, what: str) -> Any:
    return next(thing for thing in armature.children if thing.get("headcast_rig_part") == what)


def attribute(mesh: Any, name: str) -> np.ndarray:
    values = np.empty(len(mesh.vertices), np.float32)
    mesh.attributes[name].data.foreach_get("value", values)
    return values


def principled(material: Any) -> Any:
    return next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")


def source(material: Any, name: str) -> Any:
    """The image behind an input of the Principled BSDF, however many nodes away; None if there is none."""
    links = list(principled(material).inputs[name].links)
    while links:
        node = links.pop().from_node
        if node.type == "TEX_IMAGE":
            return node.image
        links += [link for socket in node.inputs for link in socket.links]
    return None


def bring_rig_in(bpy: ModuleType, folder: Path) -> Any:
    part("import_head").import_head(bpy.context, folder, "Zoë")
    head = bpy.context.active_object
    armature = part("rig.make_rig").bring_rig_in(bpy.context, head, folder, "Zoë")
    bpy.context.view_layer.update()
    return armature


def test_the_reader_and_the_writer_agree_on_names_and_format(installed: ModuleType) -> None:
    reader = part("rig.rig_data")
    assert (reader.RIG_NAME, reader.FORMAT) == (rig_file.RIG_NAME, rig_file.FORMAT)
    pictures = ["SKIN_NAME", "NORMAL_NAME", "SURFACE_NAME", "EYES_NAME", "MOUTH_NAME", "HAIR_NAME"]
    painted = part("rig.rig_materials")
    assert [getattr(painted, name) for name in pictures] == [getattr(rig_file, name) for name in pictures]


def test_the_face_is_the_workers_quads_in_blenders_axes(rig: Any) -> None:
    mesh, written = face_of(rig).data, rig_arrays()
    np.testing.assert_allclose(local_points(face_of(rig)), written["vertices"] @ TURN.T, atol=EXACT_M)
    assert len(mesh.polygons) == len(written["faces"]) and {len(face.vertices) for face in mesh.polygons} == {4}
    assert [tuple(face.vertices) for face in mesh.polygons[:50]] == [tuple(face) for face in written["faces"][:50]]
    uv = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers.active.uv.foreach_get("vector", uv)
    expected = written["uv"][written["uv_faces"].ravel()] * [1, -1] + [0, 1]
    np.testing.assert_allclose(uv.reshape(-1, 2), expected, atol=EXACT_M)
    assert all(face.use_smooth for face in mesh.polygons)


def test_skin_eyes_and_mouth_have_their_own_materials(rig: Any) -> None:
    face, written = face_of(rig), rig_arrays()
    assert [slot.material.name.split()[-1] for slot in face.material_slots] == ["skin", "eyes", "mouth"]
    parts = written["part_names"][written["part"]]
    slots = np.empty(len(parts), np.int32)
    face.data.polygons.foreach_get("material_index", slots)
    expected = {"skin": 0, "mouth": 0, "socket": 0, "eye.L": 1, "eye.R": 1, "teeth.upper": 2, "gums": 2}
    for name, slot in expected.items():
        assert set(slots[parts == name]) == {slot}


def test_it_has_arkits_52_shapes_at_the_expression_of_the_photo(rig: Any) -> None:
    keys = face_of(rig).data.shape_keys.key_blocks
    written = rig_arrays()
    assert [key.name for key in keys] == ["Basis", *written["expression_names"]] and len(keys) == 53
    assert {key.name: pytest.approx(key.value) for key in list(keys)[1:] if key.value} == PHOTOGRAPHED
    assert {(key.slider_min, key.slider_max) for key in keys} == {(0.0, 1.0)}
    shaped = np.empty(3 * len(written["vertices"]), np.float32)
    keys["jawOpen"].data.foreach_get("co", shaped)
    k = list(written["expression_names"]).index("jawOpen")
    start, end = written["expression_start"][k : k + 2]
    moved = written["expression_vertex"][start:end]
    way = shaped.reshape(-1, 3) - local_points(face_of(rig))
    np.testing.assert_allclose(way[moved], written["expression_offset"][start:end] @ TURN.T, atol=EXACT_M)
    assert not np.delete(way, moved, axis=0).any()


def test_weights_are_normalised_at_most_four_and_in_groups_named_as_the_bones(rig: Any) -> None:
    face, written = face_of(rig), rig_arrays()
    assert [group.name for group in face.vertex_groups] == list(written["bone_names"])
    for vertex in face.data.vertices:
        weights = [entry.weight for entry in vertex.groups]
        assert 1 <= len(weights) <= 4 and min(weights) > 0
        assert sum(weights) == pytest.approx(1, abs=1e-5)
    bone = {entry.group: entry.weight for entry in face.data.vertices[5].groups}
    given = dict(zip(written["bone_index"][5].tolist(), written["bone_weight"][5].tolist(), strict=True))
    assert bone == pytest.approx({index: weight for index, weight in given.items() if weight > 0})
    modifier = face.modifiers[0]
    assert (modifier.type, modifier.object) == ("ARMATURE", rig) and not modifier.use_deform_preserve_volume


def test_bones_begin_at_their_pivots_and_end_where_the_body_does(rig: Any) -> None:
    bones, written = rig.data.bones, rig_arrays()
    points = local_points(face_of(rig))
    for name, parent, pivot in zip(written["bone_names"], written["bone_parents"], written["pivots"], strict=True):
        assert (bones[name].parent.name if bones[name].parent else None) == (
            written["bone_names"][parent] if parent >= 0 else None
        )
        np.testing.assert_allclose(bones[name].head_local, TURN @ pivot, atol=EXACT_M)
    np.testing.assert_allclose(bones["neck"].tail_local, bones["head"].head_local, atol=EXACT_M)
    assert bones["head"].tail_local.z == pytest.approx(points[:, 2].max(), abs=EXACT_M)
    chin = bones["jaw"].tail_local
    assert np.linalg.norm(points - np.array(chin), axis=1).min() < 2e-3 and chin.z < bones["jaw"].head_local.z - 0.05
    assert chin.y < bones["jaw"].head_local.y - 0.05
    for eye in ("eye.L", "eye.R"):
        way = bones[eye].tail_local - bones[eye].head_local
        assert tuple(way.normalized()) == pytest.approx((0, -1, 0), abs=1e-5) and 0.008 < way.length < 0.018
    assert bones["eye.L"].head_local.x > 0.02 > -0.02 > bones["eye.R"].head_local.x  # L is the subject's left
    assert [bone.name for bone in bones if not bone.use_deform] == ["look_at"]
    assert bones["look_at"].head_local.y < points[:, 1].min() - 0.3


def test_x_lies_across_the_face_in_every_bone_and_both_eyes_are_rolled_alike(rig: Any) -> None:
    for bone in rig.data.bones:
        across = bone.matrix_local.to_3x3().col[0]
        assert abs(across.x) == pytest.approx(1, abs=1e-3), bone.name
        assert bone.AxisRollFromMatrix(bone.matrix_local.to_3x3())[1] == pytest.approx(0, abs=1e-3), bone.name
    left, right = (rig.data.bones[eye].matrix_local.to_3x3() for eye in ("eye.L", "eye.R"))
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_it_stands_where_the_scan_stands_in_the_scans_collection_and_the_scan_is_hidden(
    blender: ModuleType, rig_folder: Path
) -> None:
    collection = part("import_head").import_head(blender.context, rig_folder, "Zoë")
    head = blender.context.active_object
    head.location, head.rotation_euler.z, head.scale = (1.0, 2.0, 3.0), 0.7, (1.5, 1.5, 1.5)
    blender.context.view_layer.update()
    place, camera_place = head.matrix_world.copy(), blender.data.objects["Photo Camera"].matrix_world.copy()
    rig = part("rig.make_rig").bring_rig_in(blender.context, head, rig_folder, "Zoë")
    blender.context.view_layer.update()
    things = [rig, face_of(rig), child(rig, "hair")]
    for thing in things:
        np.testing.assert_allclose(thing.matrix_world, place, atol=1e-5)
        assert thing.users_collection == (collection,) and thing["headcast_synthetic"]
    assert blender.context.active_object == face_of(rig) and blender.context.selected_objects == [face_of(rig)]
    assert head.hide_viewport and head.hide_render and head.users_collection == (collection,)
    np.testing.assert_allclose(head.matrix_world, place, atol=1e-5)
    rig.location.x += 1  # the scan and the photo's camera go with the rig
    blender.context.view_layer.update()
    assert head.matrix_world.translation.x == pytest.approx(place.translation.x + 1, abs=1e-5)
    moved = blender.data.objects["Photo Camera"].matrix_world.translation.x
    assert moved == pytest.approx(camera_place.translation.x + 1, abs=1e-5)


def test_in_a_scene_of_centimetres_it_has_the_size_of_the_scan(blender: ModuleType, rig_folder: Path) -> None:
    blender.context.scene.unit_settings.scale_length = 0.01
    rig = bring_rig_in(blender, rig_folder)
    np.testing.assert_allclose(local_points(face_of(rig)), 100 * rig_arrays()["vertices"] @ TURN.T, atol=100 * EXACT_M)
    assert rig.data.bones["eye.L"].length == pytest.approx(1.3, abs=0.3)
    skin = face_of(rig).material_slots[0].material
    assert principled(skin).inputs["Subsurface Scale"].default_value == pytest.approx(0.3673)


def test_hair_hangs_on_the_bone_of_the_head(blender: ModuleType, rig: Any) -> None:
    hair = child(rig, "hair")
    assert hair.name == "Hair" and (hair.parent_type, hair.parent_bone) == ("BONE", "head")
    assert local_points(hair)[:, 2].max() == pytest.approx(HAIR_CROWN_M)
    before = hair.matrix_world.copy()
    rig.pose.bones["head"].rotation_quaternion = (0.9, 0.3, 0.1, 0.2)
    blender.context.view_layer.update()
    bone = rig.pose.bones["head"]
    turned = rig.matrix_world @ bone.matrix @ bone.bone.matrix_local.inverted() @ rig.matrix_world.inverted()
    np.testing.assert_allclose(hair.matrix_world, turned @ before, atol=1e-5)


def test_pictures_are_packed_in_the_right_sockets_and_name_no_folder(rig: Any, rig_folder: Path) -> None:
    skin, eyes, mouth = (slot.material for slot in face_of(rig).material_slots)
    hair = child(rig, "hair").material_slots[0].material
    pictures = {
        source(skin, "Base Color"): ("rig_skin.png", "sRGB"),
        source(skin, "Roughness"): ("rig_surface.png", "Non-Color"),
        source(skin, "Normal"): ("rig_normal.png", "Non-Color"),
        source(eyes, "Base Color"): ("rig_eyes.png", "sRGB"),
        source(mouth, "Base Color"): ("rig_mouth.png", "sRGB"),
        source(hair, "Base Color"): ("rig_hair.png", "sRGB"),
    }
    assert len(pictures) == 6 and source(skin, "Specular IOR Level") == source(skin, "Roughness")
    for image, (name, space) in pictures.items():
        assert image.packed_file and image.filepath == image.packed_files[0].filepath == f"//{name}"
        assert image.colorspace_settings.name == space
    channels = {
        name: principled(skin).inputs[name].links[0].from_socket.name for name in ("Roughness", "Specular IOR Level")
    }
    assert channels == {"Roughness": "Green", "Specular IOR Level": "Blue"}


def test_skin_scatters_as_the_scans_and_lips_and_eyes_have_a_coat(rig: Any) -> None:
    skin, eyes, mouth = (slot.material for slot in face_of(rig).material_slots)
    scan = part("rig.make_rig").scan_of(rig)
    for name in ("Subsurface Radius", "Subsurface Scale", "Subsurface Weight", "IOR"):
        here, there = (principled(it).inputs[name].default_value for it in (skin, scan.material_slots[0].material))
        np.testing.assert_allclose(here, there)
    lips = attribute(face_of(rig).data, "lips")
    np.testing.assert_allclose(lips, rig_arrays()["lips"], atol=EXACT_M)
    nodes = [link.from_node for link in principled(skin).inputs["Coat Weight"].links]
    assert nodes[0].inputs[0].links[0].from_node.attribute_name == "lips"
    assert principled(eyes).inputs["Coat Weight"].default_value == 1
    assert principled(eyes).inputs["Coat Roughness"].default_value < 0.05
    assert principled(mouth).inputs["Coat Weight"].default_value > 0


def test_a_rig_of_an_older_worker_comes_in_without_what_that_did_not_write(
    blender: ModuleType, rig_folder: Path
) -> None:
    rig = bring_rig_in(blender, make_older(rig_folder))
    assert {thing.get("headcast_rig_part") for thing in rig.children} == {"face", None}  # None: the scan
    skin, eyes, mouth = (slot.material for slot in face_of(rig).material_slots)
    assert source(skin, "Base Color") and not source(eyes, "Base Color") and not source(mouth, "Base Color")
    assert not principled(skin).inputs["Normal"].links and not principled(skin).inputs["Roughness"].links
    assert principled(skin).inputs["Roughness"].default_value == pytest.approx(0.55)
    assert not attribute(face_of(rig).data, "lips").any()


def test_hair_without_a_picture_is_brown(blender: ModuleType, rig_folder: Path) -> None:
    (rig_folder / "rig_hair.png").unlink()
    hair = child(bring_rig_in(blender, rig_folder), "hair").material_slots[0].material
    assert not source(hair, "Base Color") and principled(hair).inputs["Base Color"].default_value[0] < 0.1


def test_hair_that_does_not_stand_out_makes_no_object(blender: ModuleType, rig_folder: Path) -> None:
    arrays = rig_arrays()
    for name in ("hair_vertices", "hair_faces", "hair_uv", "hair_uv_faces"):
        arrays[name] = arrays[name][:0]
    np.savez(rig_folder / "rig.npz", **arrays)
    (rig_folder / "rig_hair.png").unlink()
    assert "Hair" not in {thing.name for thing in bring_rig_in(blender, rig_folder).children}


def spoil(folder: Path, how: str) -> None:
    path = folder / "rig.npz"
    arrays = rig_arrays()
    changes: dict[str, Any] = {
        "newer": {"format": np.array(99, np.int32)},
        "no format": {"format": np.array(0, np.int32)},
        "index outside": {"faces": arrays["faces"] + 5},
        "negative index": {"expression_vertex": arrays["expression_vertex"] - 9},
        "wrong shape": {"vertices": arrays["vertices"][:, :2]},
        "not finite": {"pivots": arrays["pivots"] * np.nan},
        "weights": {"bone_weight": arrays["bone_weight"] * 0.5},
        "other bones": {"bone_names": np.array(["root", *arrays["bone_names"][1:]])},
        "child before parent": {"bone_parents": np.array([1, 0, 1, 2, 2, 2], np.int32)},
        "a shape twice": {"expression_names": np.array(["jawOpen"] * 52)},
        "bounds": {"expression_start": arrays["expression_start"][::-1].copy()},
        "strange part": {"part_names": np.array(["horn", *arrays["part_names"][1:]])},
        "one point": {"vertices": arrays["vertices"] * 0, "pivots": arrays["pivots"] * 0},
        "objects": {"vertices": np.array([None, {}], dtype=object)},
    }
    if how == "half":
        path.write_bytes(path.read_bytes()[:100_000])
    elif how == "foreign":
        path.write_bytes(b"PK\x03\x04 no zip at all")
    elif how == "another zip":
        shutil.make_archive(str(path.with_suffix("")), "zip", folder, "head.json")
        path.with_suffix(".zip").replace(path)
    elif how == "no picture":
        (folder / "rig_skin.png").write_bytes(b"no picture")
    elif how in ("no rig_skin.png", "no rig.npz", "no head.json"):
        (folder / how.removeprefix("no ")).unlink()
    else:
        np.savez(path, **{**arrays, **changes[how]})


@pytest.mark.parametrize(
    "how",
    [
        "half", "foreign", "another zip", "newer", "no format", "index outside", "negative index", "wrong shape",
        "not finite", "weights", "other bones", "child before parent", "a shape twice", "bounds", "strange part",
        "one point", "objects", "no picture", "no rig_skin.png", "no rig.npz", "no head.json",
    ],
)  # fmt: skip
def test_a_spoilt_rig_is_refused_in_words_and_leaves_the_file_as_it_was(
    blender: ModuleType, rig_folder: Path, how: str
) -> None:
    part("import_head").import_head(blender.context, rig_folder, "Zoë")
    head = blender.context.active_object
    spoil(rig_folder, how)
    before = names(blender)
    with pytest.raises(part("all_or_nothing").ImportFailed) as told:
        part("rig.make_rig").bring_rig_in(blender.context, head, rig_folder, "Zoë")
    assert "rig" in told.value.message.lower() and told.value.hint
    assert names(blender) == before and blender.context.mode == "OBJECT"
    assert blender.context.active_object == head and blender.context.selected_objects == [head]
    assert not head.hide_viewport and not head.hide_render and head.parent is None


def test_a_second_rig_replaces_nothing_and_hides_the_first(blender: ModuleType, rig: Any, rig_folder: Path) -> None:
    first_face = face_of(rig)
    head = part("rig.make_rig").scan_of(rig)
    rig.location.x = 0.4
    blender.context.view_layer.update()
    second = part("rig.make_rig").bring_rig_in(blender.context, head, rig_folder, "Zoë")
    blender.context.view_layer.update()
    assert second != rig and len(face_of(second).data.shape_keys.key_blocks) == 53
    assert all(thing.hide_viewport and thing.hide_render for thing in (rig, first_face))
    assert not second.hide_viewport and second.matrix_world.translation.x == pytest.approx(0.4)
    assert head.parent == second and head.matrix_world.translation.x == pytest.approx(0.4)
