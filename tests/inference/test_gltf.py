"""The GLB file as another program reads it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from inference.bake import TexturedHead
from inference.gltf import write_glb
from inference.progress import silent
from inference.raster import sample_image
from inference.surface import METRES_PER_UNIT, NECK_CUT_Y, extract, vertex_normals
from inference.unwrap import unwrap

from .analytic_fields import AnalyticField, head_on_neck

LEFT_EAR = np.array([0.2, 0.0, 0.0])


@pytest.fixture(scope="module")
def head() -> TexturedHead:
    """Red around the left ear, grey elsewhere; the texture has a mark in its first row, too."""
    unwrapped = unwrap(extract(AnalyticField(head_on_neck()), 64, 3000, silent), silent)
    size = 1024  # islands lie five texels apart, so that marks two texels wide stay on theirs
    albedo = np.full((size, size, 3), 128, dtype=np.uint8)
    near_ear = np.linalg.norm(unwrapped.mesh.vertices - LEFT_EAR, axis=1) < 0.02
    for column, row in (unwrapped.uv[near_ear] * size).astype(int):
        albedo[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = (255, 0, 0)
    albedo[0] = (0, 0, 255)
    visibility = (unwrapped.mesh.vertices[:, 2] > 0).astype(np.float32)
    visibility_map = np.zeros((size, size), dtype=np.uint8)
    return TexturedHead(
        unwrapped.mesh,
        unwrapped.uv,
        albedo,
        visibility,
        visibility_map,
        {},
        "someone.jpg",
        visibility / 2,
        1 - visibility,
    )


@pytest.fixture(scope="module")
def file(head: TexturedHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb of Zoë") / "head.glb"
    write_glb(head, path)
    return path


@pytest.fixture(scope="module")
def read(file: Path) -> trimesh.Trimesh:
    (mesh,) = trimesh.load(file, process=False).geometry.values()
    return mesh


def content_of(file: Path) -> dict:
    """The JSON part of a GLB: after 12 bytes of header, its length and type."""
    data = file.read_bytes()
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert data[:4] == b"glTF" and kind == b"JSON"
    return json.loads(data[20 : 20 + length])


def test_geometry_is_in_metres_above_the_neck_cut(head: TexturedHead, read: trimesh.Trimesh) -> None:
    expected = (head.mesh.vertices - [0, NECK_CUT_Y, 0]) * METRES_PER_UNIT
    np.testing.assert_allclose(read.vertices, expected, atol=1e-7)
    np.testing.assert_array_equal(read.faces, head.mesh.faces)
    assert read.bounds[0][1] == pytest.approx(0.0, abs=1e-7)


def test_texture_arrives_pixel_for_pixel(head: TexturedHead, read: trimesh.Trimesh) -> None:
    np.testing.assert_array_equal(np.asarray(read.visual.material.baseColorTexture.convert("RGB")), head.albedo)


def test_red_marker_on_the_left_ear_is_found_at_positive_x(head: TexturedHead, read: trimesh.Trimesh) -> None:
    albedo = np.asarray(read.visual.material.baseColorTexture.convert("RGB"))
    # trimesh has v upwards once it has read the file.
    texel = np.column_stack([read.visual.uv[:, 0], 1 - read.visual.uv[:, 1]]) * len(albedo)
    colour = sample_image(albedo, texel)
    red = (colour[:, 0] > 200) & (colour[:, 1] < 60)
    ear = (LEFT_EAR - [0, NECK_CUT_Y, 0]) * METRES_PER_UNIT
    assert red.sum() >= 3
    assert np.linalg.norm(read.vertices[red] - ear, axis=1).max() < 0.03
    assert read.vertices[red, 0].min() > 0.08


def test_file_holds_v_downwards_as_gltf_wants_it(head: TexturedHead, file: Path) -> None:
    content = content_of(file)
    accessor = content["accessors"][content["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]
    view = content["bufferViews"][accessor["bufferView"]]
    data = file.read_bytes()
    (json_length,) = struct.unpack_from("<I", data, 12)
    start = 20 + json_length + 8 + view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    uv = np.frombuffer(data, dtype="<f4", count=2 * accessor["count"], offset=start).reshape(-1, 2)
    np.testing.assert_allclose(uv, head.uv, atol=1e-6)


def test_normals_point_out_and_are_shared_across_seams(head: TexturedHead, read: trimesh.Trimesh, file: Path) -> None:
    assert "NORMAL" in content_of(file)["meshes"][0]["primitives"][0]["attributes"]
    np.testing.assert_allclose(read.vertex_normals, vertex_normals(head.mesh), atol=1e-5)
    _, first, merged = np.unique(read.vertices, axis=0, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(read.vertex_normals, read.vertex_normals[first][merged.reshape(-1)])


def test_visibility_travels_as_a_vertex_attribute(head: TexturedHead, read: trimesh.Trimesh) -> None:
    np.testing.assert_array_equal(np.ravel(read.vertex_attributes["_VISIBILITY"]), head.visibility)
    np.testing.assert_array_equal(np.ravel(read.vertex_attributes["_CONFIDENCE"]), head.confidence)
    np.testing.assert_array_equal(np.ravel(read.vertex_attributes["_HAIR"]), head.hair)


def test_a_head_whose_hair_nobody_looked_for_says_nothing_of_it(head: TexturedHead, tmp_path: Path) -> None:
    write_glb(replace(head, hair=None), tmp_path / "head.glb")
    assert "_HAIR" not in content_of(tmp_path / "head.glb")["meshes"][0]["primitives"][0]["attributes"]


def test_skin_is_rough_and_not_metal_and_the_node_has_a_name(file: Path) -> None:
    content = content_of(file)
    surface = content["materials"][0]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0.0 and surface["roughnessFactor"] == pytest.approx(0.6)
    assert content["images"][0]["mimeType"] == "image/png"
    assert "Head" in [node.get("name") for node in content["nodes"]]
    assert len(content["meshes"]) == 1
