from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from inference.camera import project
from tests.blender.conftest import part
from tests.blender.prepared_head import CENTRE, EAR, NOSE, RADII, TEXTURE, camera, head_points

pytestmark = pytest.mark.blender

EXACT_M = 1e-6  # float32 of a quarter of a metre


def bring_in(bpy: ModuleType, folder: Path) -> tuple[Any, Any, Any]:
    """Collection, head and camera of an import."""
    collection = part("import_head").import_head(bpy.context, folder, "Zoë")
    bpy.context.view_layer.update()
    head = next(thing for thing in collection.objects if thing.type == "MESH")
    return collection, head, next(thing for thing in collection.objects if thing.type == "CAMERA")


def local_points(head: Any) -> np.ndarray:
    points = np.empty(len(head.data.vertices) * 3, np.float32)
    head.data.vertices.foreach_get("co", points)
    return points.reshape(-1, 3)


def names(bpy: ModuleType) -> dict[str, set[str]]:
    kinds = part("all_or_nothing").DATABLOCKS
    return {kind: {thing.name for thing in getattr(bpy.data, kind)} for kind in kinds}


def test_marker_on_left_ear_arrives_at_positive_x_and_the_face_looks_to_negative_y(
    blender: ModuleType, job_folder: Path
) -> None:
    _, head, _ = bring_in(blender, job_folder)
    points = local_points(head)
    from_neck = 0.32 + CENTRE[1]  # of the ear's height, box units
    ear, nose = points[points[:, 0].argmax()], points[points[:, 1].argmin()]
    np.testing.assert_allclose(ear, 0.52 * np.array([EAR[0], 0.0, from_neck]), atol=EXACT_M)
    np.testing.assert_allclose(nose, 0.52 * np.array([0.0, -NOSE[2], from_neck]), atol=EXACT_M)
    assert np.ptp(points[:, 2]) == pytest.approx(0.52 * 2 * RADII[1], abs=EXACT_M)


def test_head_stands_at_the_cursor_selected_in_its_own_collection(blender: ModuleType, job_folder: Path) -> None:
    blender.context.scene.cursor.location = (1.0, 2.0, 3.0)
    collection, head, photo_camera = bring_in(blender, job_folder)
    assert collection.name == "Headcast Zoë" and head.name == "Head"
    assert collection.name in blender.context.scene.collection.children
    assert tuple(head.matrix_world.translation) == (1.0, 2.0, 3.0)
    assert [thing.name for thing in blender.context.selected_objects] == ["Head"]
    assert blender.context.view_layer.objects.active == head
    assert {thing.name for thing in collection.objects} == {"Head", photo_camera.name}
    assert head.users_collection == (collection,)


def test_import_brings_nothing_but_head_camera_skin_and_their_pictures(blender: ModuleType, job_folder: Path) -> None:
    before = names(blender)
    bring_in(blender, job_folder)
    added = {kind: len(after - before[kind]) for kind, after in names(blender).items()}
    assert added == {
        "objects": 2, "meshes": 1, "armatures": 0, "cameras": 1, "materials": 1, "images": 2, "collections": 1,
        "node_groups": 0, "actions": 0,
    }  # fmt: skip


def test_seams_are_welded_so_that_the_surface_is_closed_and_smooth(blender: ModuleType, job_folder: Path) -> None:
    _, head, _ = bring_in(blender, job_folder)
    mesh = head.data
    points, faces = head_points()
    assert (len(mesh.vertices), len(mesh.polygons)) == (len(points), len(faces))
    assert len(mesh.vertices) - len(mesh.edges) + len(mesh.polygons) == 2  # Euler: closed, one piece, no handles
    assert all(polygon.use_smooth for polygon in mesh.polygons)


def test_texture_lies_on_the_head_the_right_way_round(blender: ModuleType, job_folder: Path) -> None:
    _, head, _ = bring_in(blender, job_folder)
    mesh = head.data
    picture = next(node.image for node in mesh.materials[0].node_tree.nodes if node.type == "TEX_IMAGE")
    assert tuple(picture.size) == (TEXTURE, TEXTURE) and picture.packed_file
    texels = np.array(picture.pixels[:]).reshape(TEXTURE, TEXTURE, -1)  # first row at the bottom, as v runs
    points = local_points(head)
    lowest, height = points[:, 2].min(), np.ptp(points[:, 2])
    for corner in range(0, len(mesh.loops), 97):
        u, v = mesh.uv_layers[0].data[corner].uv
        red, green, blue = texels[int(v * TEXTURE), int(u * TEXTURE)][:3]
        face = mesh.polygons[corner // 3]
        assert (red, blue) == ((1.0, 0.0) if face.center.x > 0 else (0.0, 1.0))
        up = (points[mesh.loops[corner].vertex_index][2] - lowest) / height
        assert green == pytest.approx(up, abs=1.5 / TEXTURE)  # the gradient's steps


def test_visibility_arrives_as_one_number_per_vertex(blender: ModuleType, job_folder: Path) -> None:
    _, head, _ = bring_in(blender, job_folder)
    attribute = head.data.attributes["visibility"]
    assert (attribute.domain, attribute.data_type) == ("POINT", "FLOAT")
    values = np.array([entry.value for entry in attribute.data])
    assert np.array_equal(values, (local_points(head)[:, 1] < 0).astype(float))


def test_hair_is_duller_than_skin_and_scatters_nothing(blender: ModuleType, job_folder: Path) -> None:
    _, head, _ = bring_in(blender, job_folder)
    values = np.array([entry.value for entry in head.data.attributes["hair"].data])
    assert np.array_equal(values, (local_points(head)[:, 1] > 0).astype(float))
    skin = next(node for node in head.data.materials[0].node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    for name, sign in (("Roughness", 1), ("Specular IOR Level", -1), ("Subsurface Weight", -1)):
        between = skin.inputs[name].links[0].from_node
        assert between.inputs["Value"].links[0].from_node.attribute_name == "hair"
        on_skin, on_hair = between.inputs["To Min"].default_value, between.inputs["To Max"].default_value
        assert sign * (on_hair - on_skin) > 0.2 and skin.inputs[name].default_value == on_skin


def test_skin_scatters_light_at_real_scale(blender: ModuleType, job_folder: Path) -> None:
    blender.context.scene.unit_settings.scale_length = 0.01  # a scene in centimetres
    _, head, _ = bring_in(blender, job_folder)
    skin = next(node for node in head.data.materials[0].node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    reach_cm = np.array(skin.inputs["Subsurface Radius"].default_value) * skin.inputs["Subsurface Scale"].default_value
    np.testing.assert_allclose(reach_cm, [0.3673, 0.1367, 0.0683], rtol=1e-3)
    assert skin.inputs["Base Color"].is_linked and skin.inputs["Subsurface Weight"].default_value > 0
    assert head.data.materials[0].node_tree.nodes["Image Texture"].image.colorspace_settings.name == "sRGB"


@pytest.mark.parametrize("metres_per_unit", [1.0, 0.01])
def test_through_the_photo_camera_points_lie_where_the_photo_shows_them(
    blender: ModuleType, job_folder: Path, metres_per_unit: float
) -> None:
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    scene = blender.context.scene
    scene.unit_settings.scale_length = metres_per_unit
    scene.cursor.location = (0.3, -0.2, 0.1)
    scene.render.resolution_x = scene.render.resolution_y = 512
    _, head, photo_camera = bring_in(blender, job_folder)
    head.rotation_euler.z = 1.0  # the camera goes with the head
    blender.context.view_layer.update()
    for place_in_head, vertex in ((EAR, 0), (NOSE, 1), (CENTRE - [0, RADII[1], 0], 2)):
        points = local_points(head)
        found = points[[points[:, 0].argmax(), points[:, 1].argmin(), points[:, 2].argmin()][vertex]]
        seen = world_to_camera_view(scene, photo_camera, head.matrix_world @ Vector(found))
        (x, y), depth = project(place_in_head, camera())
        assert (seen.x, 1 - seen.y) == pytest.approx((x, y), abs=1e-5)
        assert seen.z * metres_per_unit == pytest.approx(0.52 * depth, rel=1e-5)
    assert photo_camera.data.show_background_images and photo_camera.data.background_images[0].image.packed_file


def test_origin_is_marked_on_the_head_and_no_path_of_this_computer(blender: ModuleType, job_folder: Path) -> None:
    collection, head, _ = bring_in(blender, job_folder)
    assert head["headcast_synthetic"]
    assert head["headcast_model"] == "prepared" and head["headcast_model_sha256"] == "0" * 64
    assert head["headcast_photo"] == "Zoë" and json.loads(head["headcast_options"])["grid"] == 256
    assert head["headcast_version"].count(".") == 2
    pictures = [image for image in blender.data.images if image.name.startswith("Headcast")]
    assert len(pictures) == 2
    paths = [path for image in pictures for path in (image.filepath, *(kept.filepath for kept in image.packed_files))]
    assert len(paths) == 4 and not any(str(job_folder.parent) in path for path in paths)
    assert collection["headcast_folder"] == job_folder.name


@pytest.mark.parametrize("spoilt", ["head.glb", "head.json", "portrait.png", "truncated head.glb", "no camera"])
def test_a_broken_job_folder_leaves_the_scene_as_it_was(
    blender: ModuleType, job_folder: Path, tmp_path: Path, spoilt: str
) -> None:
    folder = tmp_path / "job"
    shutil.copytree(job_folder, folder)
    if spoilt == "truncated head.glb":
        (folder / "head.glb").write_bytes((folder / "head.glb").read_bytes()[:2000])
    elif spoilt == "no camera":
        (folder / "head.json").write_text("{}")
    else:
        (folder / spoilt).unlink()
    before, active = names(blender), blender.context.view_layer.objects.active
    selected = list(blender.context.selected_objects)
    with pytest.raises(part("import_head").ImportFailed):
        bring_in(blender, folder)
    assert names(blender) == before
    assert blender.context.view_layer.objects.active == active
    assert list(blender.context.selected_objects) == selected
