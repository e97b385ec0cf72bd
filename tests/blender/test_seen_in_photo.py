from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.blender.conftest import part

pytestmark = pytest.mark.blender


@pytest.fixture
def head(blender: ModuleType, job_folder: Path) -> Iterator[Any]:
    """An imported head, overlay off."""
    collection = part("import_head").import_head(blender.context, job_folder, "Zoë")
    yield next(thing for thing in collection.objects if thing.type == "MESH")


def shown_colours(bpy: ModuleType, head: Any) -> np.ndarray:
    """(v, 4) of the colour attribute on the head as the viewport has it, after all modifiers."""
    mesh = head.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    colours = np.empty(4 * len(mesh.vertices), np.float32)
    mesh.attributes[part("seen_in_photo").OVERLAY].data.foreach_get("color", colours)
    return colours.reshape(-1, 4)


def shown_materials(bpy: ModuleType, head: Any) -> set[str]:
    """Names of the materials the faces wear in the viewport."""
    mesh = head.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    return {mesh.materials[polygon.material_index].name for polygon in mesh.polygons}


def solid_colours(bpy: ModuleType) -> list[str]:
    areas = [area for screen in bpy.data.screens for area in screen.areas if area.type == "VIEW_3D"]
    return [area.spaces.active.shading.color_type for area in areas]


def everything(bpy: ModuleType) -> dict[str, int]:
    return {kind: len(getattr(bpy.data, kind)) for kind in part("all_or_nothing").DATABLOCKS}


def test_what_the_photo_showed_is_orange_and_the_rest_blue(blender: ModuleType, head: Any) -> None:
    blender.context.scene.headcast.show_seen = True
    overlay = part("seen_in_photo")
    visibility = np.array([entry.value for entry in head.data.attributes["visibility"].data])
    assert set(visibility) == {0.0, 1.0}
    colours = shown_colours(blender, head)
    np.testing.assert_allclose(colours[visibility == 1], np.broadcast_to(overlay.SEEN, (sum(visibility == 1), 4)))
    np.testing.assert_allclose(colours[visibility == 0], np.broadcast_to(overlay.GUESSED, (sum(visibility == 0), 4)))
    assert shown_materials(blender, head) == {overlay.OVERLAY}
    assert head.data.color_attributes.active_color_name == overlay.OVERLAY
    assert set(solid_colours(blender)) == {"VERTEX"}  # for Solid shading, which knows no materials


def test_renders_and_the_users_materials_stay_as_they_are(blender: ModuleType, head: Any) -> None:
    mine = blender.data.materials.new("mine")
    head.data.materials[0] = mine
    blender.context.scene.headcast.show_seen = True
    assert [slot.material for slot in head.material_slots] == [mine]
    assert not head.modifiers[part("seen_in_photo").OVERLAY].show_render


def test_off_takes_away_everything_that_came(blender: ModuleType, head: Any) -> None:
    own = head.data.color_attributes.new("paint", "BYTE_COLOR", "CORNER")
    head.data.color_attributes.active_color_name = own.name
    screen = blender.context.window_manager.windows[0].screen
    viewport = next(area for area in screen.areas if area.type == "VIEW_3D").spaces.active
    viewport.shading.color_type = "RANDOM"
    before, shading, keys = everything(blender), solid_colours(blender), set(head.data.keys())
    for shown in (True, False):
        blender.context.scene.headcast.show_seen = shown
    assert everything(blender) == before and solid_colours(blender) == shading and set(head.data.keys()) == keys
    assert [attribute.name for attribute in head.data.color_attributes] == ["paint"]
    assert head.data.color_attributes.active_color_name == "paint"
    assert len(head.modifiers) == 0 and "visibility" in head.data.attributes


def test_all_heads_of_the_scene_have_it_and_nothing_else(blender: ModuleType, head: Any, job_folder: Path) -> None:
    part("import_head").import_head(blender.context, job_folder, "Second")
    blender.context.scene.headcast.show_seen = True
    overlay = part("seen_in_photo").OVERLAY
    with_it = {thing.name for thing in blender.data.objects if overlay in getattr(thing, "modifiers", {})}
    assert with_it == {"Head", "Head.001"}
    assert len([group for group in blender.data.node_groups if group.name.startswith(overlay)]) == 1


def test_a_head_made_while_it_is_on_gets_it_too(
    blender: ModuleType, worker_that: Any, tmp_path: Path, job_folder: Path
) -> None:
    settings = blender.context.scene.headcast
    settings.image = blender.data.images.load(str(job_folder / "portrait.png"))
    settings.show_seen = True
    worker_that("done")
    assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    head = blender.context.view_layer.objects.active
    assert shown_materials(blender, head) == {part("seen_in_photo").OVERLAY}


def test_it_survives_saving_and_loading(blender: ModuleType, head: Any, tmp_path: Path) -> None:
    overlay = part("seen_in_photo").OVERLAY
    blender.context.scene.headcast.show_seen = True
    before = shown_colours(blender, head)
    path = str(tmp_path / "Köpfe.blend")
    blender.ops.wm.save_as_mainfile(filepath=path)
    blender.ops.wm.read_homefile(use_factory_startup=True)
    assert "VERTEX" not in solid_colours(blender)
    blender.ops.wm.open_mainfile(filepath=path)
    loaded = blender.data.objects["Head"]
    assert blender.context.scene.headcast.show_seen and shown_materials(blender, loaded) == {overlay}
    np.testing.assert_array_equal(shown_colours(blender, loaded), before)
    assert set(solid_colours(blender)) == {"VERTEX"}
    blender.context.scene.headcast.show_seen = False
    assert len(loaded.modifiers) == 0 and "VERTEX" not in solid_colours(blender)


def test_undo_takes_it_off_the_head_and_the_viewports(blender: ModuleType, head: Any) -> None:
    blender.context.preferences.edit.use_global_undo = True
    shading = solid_colours(blender)
    blender.ops.ed.undo_push(message="before")
    blender.context.scene.headcast.show_seen = True
    blender.ops.ed.undo_push(message="Seen in Photo")
    blender.ops.ed.undo()
    assert not blender.context.scene.headcast.show_seen
    assert len(blender.data.objects["Head"].modifiers) == 0 and solid_colours(blender) == shading
    blender.ops.ed.redo()
    assert len(blender.data.objects["Head"].modifiers) == 1 and set(solid_colours(blender)) == {"VERTEX"}


def test_a_changed_mesh_is_coloured_anew_when_it_is_shown_again(blender: ModuleType, head: Any) -> None:
    half = np.full(len(head.data.vertices), 0.5, np.float32)
    head.data.attributes["visibility"].data.foreach_set("value", half)  # kept in no name: it dies with the next one
    blender.context.scene.headcast.show_seen = True
    overlay = part("seen_in_photo")
    expected = (overlay.SEEN + overlay.GUESSED) / 2
    np.testing.assert_allclose(shown_colours(blender, head), np.broadcast_to(expected, (len(half), 4)), rtol=1e-5)


@pytest.mark.parametrize("neck", ["CLOSED", "OPEN"])
@pytest.mark.parametrize("symmetry", ["OFF", "AVERAGE", "MIRROR"])
def test_neck_and_symmetry_reach_the_engine(blender: ModuleType, neck: str, symmetry: str) -> None:
    settings = blender.context.scene.headcast
    settings.neck, settings.symmetry = neck, symmetry
    assert (settings.options().neck, settings.options().symmetry) == (neck.lower(), symmetry.lower())
