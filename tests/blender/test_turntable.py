"""The turntable: a scene of its own that shows the whole head from all around and leaves the user's as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.blender.conftest import part
from tests.blender.test_models import Layout

pytestmark = pytest.mark.blender

KINDS = ("scenes", "objects", "meshes", "cameras", "lights", "materials", "worlds", "collections", "actions")


@pytest.fixture
def head(blender: ModuleType, job_folder: Path) -> Iterator[Any]:
    """An imported head, selected and active."""
    collection = part("import_head").import_head(blender.context, job_folder, "Zoë")
    yield next(thing for thing in collection.objects if thing.type == "MESH")


def turntable(blender: ModuleType, **options: Any) -> Any:
    """Press Turntable: the scene that was made."""
    known = set(blender.data.scenes)
    assert blender.ops.headcast.turntable(**options) == {"FINISHED"}
    (made,) = set(blender.data.scenes) - known
    return made


def seen_at(scene: Any, frame: int, things: list[Any]) -> np.ndarray:
    """(v, 3) where the camera has all vertices of things: x and y from 0 to 1 across the picture, then depth."""
    scene.frame_set(frame)
    layer, size = scene.view_layers[0], (scene.render.resolution_x, scene.render.resolution_y)
    project = scene.camera.calc_matrix_camera(layer.depsgraph, x=size[0], y=size[1])
    clip = []
    for thing in things:
        points = np.array([(*vertex.co, 1.0) for vertex in thing.data.vertices])
        clip.append(points @ np.array(project @ scene.camera.matrix_world.inverted() @ thing.matrix_world).T)
    x, y, _, depth = np.concatenate(clip).T
    return np.stack([(x / depth + 1) / 2, (y / depth + 1) / 2, depth], axis=1)


def camera_at(scene: Any, frame: int) -> np.ndarray:
    scene.frame_set(frame)
    return np.array(scene.camera.matrix_world)


def light_on_head(scene: Any) -> float:
    """What its lights give to the pivot, as if they were points: watts by square distance, Blender's units."""
    lamps = [thing for thing in scene.objects if thing.type == "LIGHT"]
    return sum(lamp.data.energy / lamp.location.length**2 for lamp in lamps)


def assert_fills_the_picture_all_around(scene: Any, things: list[Any]) -> None:
    """No vertex nearer to an edge than the margin, and somewhere on the way one that is as near."""
    margin = part("turntable").MARGIN / 2
    frames = range(1, 121, 5)
    seen = np.array([seen_at(scene, frame, things) for frame in frames])
    assert seen[..., :2].min() >= margin - 1e-4 and seen[..., :2].max() <= 1 - margin + 1e-4
    assert min(seen[..., :2].min(), 1 - seen[..., :2].max()) < margin + 0.02
    assert seen[..., 2].min() > scene.camera.data.clip_start


def test_the_scene_has_the_head_a_camera_three_lights_and_a_backdrop(blender: ModuleType, head: Any) -> None:
    made = turntable(blender)
    assert made.name == "Turntable Zoë" and blender.context.window.scene == made
    assert blender.data.collections["Headcast Zoë"] in made.collection.children[:]
    own = {thing.name: thing.type for thing in made.collection.objects}
    assert sorted(own.values()) == ["CAMERA", "EMPTY", "LIGHT", "LIGHT", "LIGHT", "MESH"]
    assert made.camera.name == "Turntable Camera" and made.camera.data.lens == 85
    assert (made.frame_start, made.frame_end) == (1, 120)
    assert made.render.filepath.startswith("//") and made.render.image_settings.file_format == "PNG"
    assert made.render.engine == "CYCLES" and made.cycles.samples == 128
    assert made.world.users == 1 and made.world not in [scene.world for scene in blender.data.scenes if scene != made]


def test_the_whole_head_is_in_the_picture_all_around(blender: ModuleType, head: Any) -> None:
    assert_fills_the_picture_all_around(turntable(blender), [head])


def test_the_face_looks_into_the_first_frame_and_the_left_ear_comes_next(blender: ModuleType, head: Any) -> None:
    made = turntable(blender)
    points = np.array([vertex.co for vertex in head.data.vertices])
    nose, left_ear = points[:, 1].argmin(), points[:, 0].argmax()
    for tip, frame in ((nose, 1), (left_ear, 31)):
        assert seen_at(made, frame, [head])[:, 2].argmin() == tip


def test_the_turn_is_even_and_the_frame_after_the_last_is_the_first(blender: ModuleType, head: Any) -> None:
    made = turntable(blender)
    np.testing.assert_allclose(camera_at(made, 121), camera_at(made, 1), atol=1e-5)
    steps = [camera_at(made, frame)[:3, 3] - camera_at(made, frame + 1)[:3, 3] for frame in (0, 1, 60, 119, 120)]
    lengths = np.linalg.norm(steps, axis=1)  # also before the first and after the last, where motion blur looks
    np.testing.assert_allclose(lengths, 2 * abs(made.camera.location.y) * np.sin(np.pi / 120), rtol=1e-3)


def test_frames_and_size_are_as_asked(blender: ModuleType, head: Any) -> None:
    made = turntable(blender, frames=48, resolution=640, quality="BEST")
    assert (made.frame_start, made.frame_end) == (1, 48) and made.cycles.samples == 512
    assert (made.render.resolution_x, made.render.resolution_y) == (640, 640)
    np.testing.assert_allclose(camera_at(made, 49), camera_at(made, 1), atol=1e-5)


def test_eevee_is_set_by_the_name_it_has_here(blender: ModuleType, head: Any) -> None:
    made = turntable(blender, engine="EEVEE", quality="DRAFT")
    assert "EEVEE" in made.render.engine and made.eevee.taa_render_samples == 32


def test_the_users_scene_stays_as_it_was(blender: ModuleType, head: Any) -> None:
    mine = blender.context.scene
    mine.frame_start, mine.frame_end, mine.frame_current = 5, 77, 20
    mine.render.fps, mine.render.filepath = 30, "//mine"

    def state() -> list[Any]:
        things = [(each.name, each.matrix_world.copy(), each.hide_get(), each.select_get()) for each in mine.objects]
        render = mine.render
        settings = (render.engine, render.filepath, render.resolution_x, render.fps, mine.cycles.samples)
        frames = (mine.frame_start, mine.frame_end, mine.frame_current, mine.camera, mine.world)
        return [things, settings, frames, mine.view_settings.view_transform, mine.collection.children[:]]

    blender.context.view_layer.update()
    before = state()
    made = turntable(blender)
    blender.context.window.scene = mine
    assert state() == before
    assert made.render.fps == 30  # the turn plays as fast as the user's animations


def test_undo_takes_everything_away_and_leaves_the_user_in_their_scene(blender: ModuleType, head: Any) -> None:
    blender.context.preferences.edit.use_global_undo = True
    mine = blender.context.scene.name
    before = {kind: sorted(getattr(blender.data, kind).keys()) for kind in KINDS}
    blender.ops.ed.undo_push(message="before")
    turntable(blender)
    blender.ops.ed.undo_push(message="Turntable")
    blender.ops.ed.undo()
    assert {kind: sorted(getattr(blender.data, kind).keys()) for kind in KINDS} == before
    assert blender.context.window.scene.name == mine


def test_again_makes_another_one_and_leaves_what_was_changed_on_the_first(blender: ModuleType, head: Any) -> None:
    mine = blender.context.scene
    first = turntable(blender)
    first.camera.location.y *= 2
    blender.context.window.scene = mine
    second = turntable(blender)
    assert second.name != first.name and second.render.filepath != first.render.filepath
    assert first.camera.location.y == pytest.approx(2 * second.camera.location.y)


def test_in_centimetres_everything_is_a_hundred_times_as_large_and_as_bright(
    blender: ModuleType, job_folder: Path
) -> None:
    made = {}
    for unit_m in (1.0, 0.01):
        mine = blender.data.scenes.new("Mine")
        mine.unit_settings.scale_length = unit_m
        blender.context.window.scene = mine
        part("import_head").import_head(blender.context, job_folder, "Zoë")
        made[unit_m] = turntable(blender)
    metres, centimetres = made[1.0], made[0.01]
    assert centimetres.unit_settings.scale_length == pytest.approx(0.01)
    assert centimetres.camera.location.y == pytest.approx(100 * metres.camera.location.y, rel=1e-4)
    assert centimetres.camera.data.clip_end > 2 * abs(centimetres.camera.location.y)
    assert light_on_head(centimetres) == pytest.approx(light_on_head(metres), rel=1e-4)
    head = next(thing for thing in centimetres.objects if thing.name.startswith("Head"))
    assert_fills_the_picture_all_around(centimetres, [head])


@pytest.mark.parametrize(
    ("location", "rotation_deg", "scale"),
    [((5, -3, 2), (0, 0, 70), 1.0), ((0, 0.5, 0), (90, 0, 0), 1.0), ((0, 0, -40), (35, -160, 10), 7.0)],
    ids=["turned aside", "on its back", "anyhow"],
)
def test_a_head_is_shown_upright_and_whole_wherever_it_lies(
    blender: ModuleType, head: Any, location: Any, rotation_deg: Any, scale: float
) -> None:
    head.location, head.rotation_euler, head.scale = location, np.radians(rotation_deg), [scale] * 3
    blender.context.view_layer.update()
    placed = head.matrix_world.copy()
    made = turntable(blender)
    assert head.matrix_world == placed
    assert_fills_the_picture_all_around(made, [head])
    points = np.array([vertex.co for vertex in head.data.vertices])
    seen = seen_at(made, 1, [head])
    assert seen[:, 2].argmin() == points[:, 1].argmin()  # the nose is nearest
    # The crown is on top, but for what is a little lower and nearer.
    assert seen[points[:, 2].argmax(), 1] == pytest.approx(seen[:, 1].max(), abs=0.01)


def test_the_backdrop_is_below_and_behind_the_head_and_fills_a_wide_picture(blender: ModuleType, head: Any) -> None:
    made = turntable(blender)
    backdrop = made.objects["Turntable Backdrop"]
    made.render.resolution_x = made.render.resolution_y * 16 // 9
    made.frame_set(45)
    world = made.objects["Turntable Pivot"].matrix_world.inverted()
    crown_to_base = [(world @ head.matrix_world @ vertex.co).z for vertex in head.data.vertices]
    floor = min(vertex.co.z for vertex in backdrop.data.vertices)
    assert floor == pytest.approx(min(crown_to_base), abs=1e-5)
    origin = made.camera.matrix_world.translation
    depsgraph = made.view_layers[0].depsgraph
    made.view_layers[0].update()
    for corner in made.camera.data.view_frame(scene=made):
        way = made.camera.matrix_world @ corner - origin
        hit, _, _, _, thing, _ = made.ray_cast(depsgraph, origin, way.normalized())
        assert hit and thing.name == backdrop.name


def test_a_rig_of_the_head_is_shown_and_the_hidden_scan_is_not(blender: ModuleType, head: Any) -> None:
    collection = blender.data.collections["Headcast Zoë"]
    rigged = blender.data.objects.new("Rigged", head.data.copy())
    armature = blender.data.objects.new("Rig", blender.data.armatures.new("Rig"))
    for thing in (rigged, armature):
        collection.objects.link(thing)
    rigged.parent = armature
    rigged.scale = (0.5, 0.5, 0.5)
    armature.rotation_euler.z = 1.0
    head.hide_render = True
    head.hide_set(True)
    blender.context.view_layer.objects.active = armature
    armature.select_set(True)
    blender.context.view_layer.update()
    made = turntable(blender)
    assert_fills_the_picture_all_around(made, [rigged])
    assert head.hide_get(view_layer=made.view_layers[0])
    points = np.array([vertex.co for vertex in rigged.data.vertices])
    assert seen_at(made, 1, [rigged])[:, 2].argmin() == points[:, 1].argmin()


def test_a_head_outside_its_collection_comes_alone(blender: ModuleType, head: Any) -> None:
    for collection in head.users_collection:
        collection.objects.unlink(head)
    blender.context.scene.collection.objects.link(head)
    blender.context.view_layer.objects.active = head
    made = turntable(blender)
    assert head in made.objects[:] and "Cube" not in made.objects
    assert_fills_the_picture_all_around(made, [head])


def test_the_panel_has_the_button_for_a_head_and_for_what_belongs_to_one(blender: ModuleType, head: Any) -> None:
    panel = part("panel").HEADCAST_PT_reuse

    def buttons() -> list[str]:
        layout = Layout()
        panel.draw(SimpleNamespace(layout=layout), blender.context)
        return layout.buttons

    assert {"headcast.turntable", "headcast.reroll"} <= set(buttons())
    blender.context.view_layer.objects.active = blender.data.objects["Photo Camera"]
    head.select_set(False)
    assert panel.poll(blender.context) and buttons() == ["headcast.turntable"]
    blender.context.view_layer.objects.active = blender.data.objects["Cube"]
    assert not panel.poll(blender.context)


def test_the_button_says_why_it_is_grey(blender: ModuleType, head: Any) -> None:
    operator = blender.ops.headcast.turntable
    blender.ops.object.mode_set(mode="EDIT")
    with pytest.raises(RuntimeError, match="Switch to Object Mode first"):
        operator()
    blender.ops.object.mode_set(mode="OBJECT")
    blender.ops.object.select_all(action="DESELECT")
    blender.context.view_layer.objects.active = blender.data.objects["Cube"]
    with pytest.raises(RuntimeError, match="Select a head that Headcast made"):
        operator()


def test_a_head_that_no_render_shows_is_told_and_nothing_is_made(blender: ModuleType, head: Any) -> None:
    head.hide_render = True
    with pytest.raises(RuntimeError, match="hidden from renders"):
        blender.ops.headcast.turntable()
    assert len(blender.data.scenes) == 1


def test_a_denoiser_is_used_only_where_there_is_one(blender: ModuleType, head: Any) -> None:
    class Settings(SimpleNamespace):
        """A choice as a Blender that was built without the wanted one has it."""

        def __setattr__(self, name: str, value: str) -> None:
            raise TypeError(f"enum {value!r} not found in ('OPTIX')")

    offers = part("turntable").offers
    assert not offers(Settings(), "denoiser", "OPENIMAGEDENOISE")
    here = offers(blender.context.scene.cycles, "denoiser", "OPENIMAGEDENOISE")
    assert turntable(blender).cycles.use_denoising is here


@pytest.mark.slow
def test_a_frame_is_well_lit_and_without_the_overlay(blender: ModuleType, head: Any, tmp_path: Path) -> None:
    blender.context.scene.headcast.show_seen = True
    made = turntable(blender, resolution=64)
    assert made.headcast.show_seen
    made.cycles.samples, made.cycles.use_denoising = 8, False
    made.render.filepath = str(tmp_path / "frame.png")
    blender.ops.render.render(write_still=True, scene=made.name)
    picture = blender.data.images.load(made.render.filepath)
    pixels = np.array(picture.pixels[:]).reshape(64, 64, -1)[..., :3]
    assert 0.15 < pixels.mean() < 0.6 and (pixels > 0.99).all(axis=-1).mean() < 0.01
    red, _, blue = pixels[30:34, 26].mean(axis=0)  # the subject's right half is blue, the left one red
    assert blue > 2 * red
    red, _, blue = pixels[30:34, 38].mean(axis=0)
    assert red > 2 * blue
