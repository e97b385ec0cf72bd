"""A turntable: a scene of its own in which camera, lights and backdrop go once around a head, ready to be rendered.

The head is neither moved nor copied, only linked: what is done to it in either scene is seen in both. The user's scene
keeps its camera, lights, frames and render settings.

Everything stands around a pivot in the middle of the head, in the head's own axes (x the subject's left, -y where the
face looks, z up), so that a head that lies on its back somewhere is shown upright all the same. The pivot turns, and
all the rest hangs on it. Sizes are in `reach`, the distance from the pivot to the head's farthest point: they suit
heads of any size, in scenes of any unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from bpy.app.translations import pgettext_rpt
from bpy.props import EnumProperty, IntProperty
from mathutils import Matrix, Vector
from numpy.typing import NDArray

from .head_link import is_head, selected_head
from .import_head import FOLDER_KEY
from .model_file import UNFIT_FOR_FILES
from .reuse_operators import NO_HEAD
from .session import SESSION

FIRST_FRAME = 1
SAMPLES = {"DRAFT": 32, "GOOD": 128, "BEST": 512}  # of a pixel
VIEW_TRANSFORM = "Standard"  # AgX makes skin paler than its photo; under these lights nothing burns out without it

LENS_MM = 85.0  # the portrait lens: from farther away, noses stay small
SENSOR_MM = 36.0  # full frame held upright, so that a wider picture shows more backdrop and not less head
MARGIN = 0.1  # of half the picture, kept free all around

WORLD_LEVEL = 0.12  # linear grey from everywhere: shadows stay readable in EEVEE, which bounces little light
BACKDROP_GREY = 0.18  # linear; middle grey
BACKDROP_FRONT, BACKDROP_BACK, BACKDROP_BEND = 9.0, 6.0, 4.0  # reach: floor's edge, wall, radius of the bend between
BACKDROP_SIDE, BACKDROP_TOP = 14.0, 12.0  # reach: to each side, and up; more than a picture of 16:9 shows
BEND_STEPS = 32  # edges of the bend: at 3 degrees each, nobody sees them


@dataclass(frozen=True)
class AreaLight:
    """A light that looks at the pivot.

    azimuth_deg:   around the head, from where the face looks towards the subject's left.
    elevation_deg: above the pivot.
    distance:      from the pivot, in reach. side: of its square, in reach.
    level:         how bright, linear, it makes a white surface that faces it from the pivot.
    """

    name: str
    azimuth_deg: float
    elevation_deg: float
    distance: float
    side: float
    level: float

    @property
    def location(self) -> Vector:
        """In the pivot's frame, in reach."""
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        flat = math.cos(elevation)
        return self.distance * Vector((flat * math.sin(azimuth), -flat * math.cos(azimuth), math.sin(elevation)))

    def watts(self, reach: float) -> float:
        """Its power. `reach` in Blender units, which light takes for metres whatever the scene's unit is.

        A small light of P watts gives P / (pi d^2) at distance d, and white shows the pi-th part of that.
        """
        return self.level * (math.pi * self.distance * reach) ** 2


LIGHTS = (
    AreaLight("Key", azimuth_deg=-45, elevation_deg=35, distance=4.0, side=2.5, level=1.0),
    AreaLight("Fill", azimuth_deg=55, elevation_deg=10, distance=4.5, side=4.0, level=0.35),
    AreaLight("Rim", azimuth_deg=145, elevation_deg=40, distance=3.5, side=2.0, level=0.8),
)


@dataclass(frozen=True)
class Subject:
    """What goes onto the turntable.

    name:       the photo's, for the scene.
    collection: the head's, or None for a head that the user has taken out of it.
    things:     all objects that belong to it.
    """

    name: str
    collection: bpy.types.Collection | None
    things: tuple[bpy.types.Object, ...]

    @property
    def stance(self) -> Matrix:
        """(3, 3) rotation of the head's own axes: a rig's before the scan's, which may have stayed behind."""
        by_rank = sorted(self.things, key=lambda thing: (thing.type != "ARMATURE", not is_head(thing)))
        return by_rank[0].matrix_world.to_quaternion().to_matrix()

    def points(self, depsgraph: bpy.types.Depsgraph) -> NDArray[np.float64]:
        """(v, 3) vertices of all meshes that are rendered, world frame, as modifiers and rig leave them."""
        clouds = [np.empty((0, 3))]
        for thing in self.things:
            if thing.type == "MESH" and not thing.hide_render:
                shown = thing.evaluated_get(depsgraph)
                points = np.empty(3 * len(shown.data.vertices), np.float32)
                shown.data.vertices.foreach_get("co", points)
                clouds.append(_moved(points.reshape(-1, 3), thing.matrix_world))
        return np.concatenate(clouds)


@dataclass(frozen=True)
class Stage:
    """Where the turntable stands around a head, and how large everything on it is; lengths in Blender units.

    pivot:    (4, 4) from the pivot's frame to the world; no scale.
    reach:    from the pivot to the head's farthest point.
    floor:    height of the head's lowest point in the pivot's frame, negative.
    distance: of the camera, from where the whole head is in the picture on all sides.
    """

    pivot: Matrix
    reach: float
    floor: float
    distance: float


@dataclass(frozen=True)
class Look:
    """How the turn is rendered: `engine` CYCLES or EEVEE, `quality` a key of SAMPLES, side of the picture, frames."""

    engine: str
    quality: str
    resolution_px: int
    frames: int


def subject_of(context: bpy.types.Context) -> Subject | None:
    """The head that is meant: the one the active object belongs to, or else any selected object."""
    for thing in (context.active_object, *context.selected_objects):
        for collection in bpy.data.collections if thing else ():
            if FOLDER_KEY in collection and thing in collection.all_objects[:]:
                name = collection.name.removeprefix("Headcast ")
                return Subject(name, collection, tuple(collection.all_objects))
    head = selected_head(context)
    return Subject(str(head["headcast_photo"]), None, (head, *head.children_recursive)) if head else None


def stage_for(points: NDArray[np.float64], axes: Matrix) -> Stage:
    """Where to stand for points (v, 3) of the world to be in the picture on all sides. `axes`: (3, 3), the head's own.

    A point that goes around at radius r and height h comes as near to the camera as distance - r, where its height
    counts most; sideways it counts most where the line of sight touches its circle.
    """
    own = points @ np.array(axes)
    middle = (own.min(axis=0) + own.max(axis=0)) / 2
    radius, height = np.linalg.norm(own[:, :2] - middle[:2], axis=1), own[:, 2] - middle[2]
    half_picture = (1 - MARGIN) * SENSOR_MM / 2 / LENS_MM  # at distance 1
    distance = max(radius.max() / math.sin(math.atan(half_picture)), (radius + np.abs(height) / half_picture).max())
    pivot = Matrix.Translation(axes @ Vector(middle)) @ axes.to_4x4()
    return Stage(pivot, float(np.hypot(radius, height).max()), float(height.min()), float(distance))


def make_turntable(context: bpy.types.Context, subject: Subject, stage: Stage, look: Look) -> bpy.types.Scene:
    """New scene with the head, lit and filmed from all around. Nothing else in the file changes."""
    users_scene = context.scene
    scene = bpy.data.scenes.new(f"Turntable {subject.name}")
    if subject.collection:
        scene.collection.children.link(subject.collection)
    else:
        for thing in subject.things:
            scene.collection.objects.link(thing)
    layer = scene.view_layers[0]
    for thing in subject.things:
        thing.hide_set(thing.hide_get(view_layer=context.view_layer), view_layer=layer)

    pivot = _pivot(scene, stage, look.frames)
    scene.camera = _camera(stage)
    for thing in (scene.camera, *_lights(stage), _backdrop(stage)):
        thing.parent = pivot
        scene.collection.objects.link(thing)
    scene.world = _world()
    for name in ("system", "scale_length", "length_unit"):
        setattr(scene.unit_settings, name, getattr(users_scene.unit_settings, name))
    scene.render.fps, scene.render.fps_base = users_scene.render.fps, users_scene.render.fps_base
    _set_render(scene, users_scene, look)
    if users_scene.headcast.show_seen:
        scene.headcast.show_seen = True  # the overlay lies on the head; the switch here shall say so, too
    return scene


def _moved(points: NDArray[np.float32], way: Matrix) -> NDArray[np.float64]:
    """(v, 3) points moved by a (4, 4) matrix."""
    return points.astype(np.float64) @ np.array(way.to_3x3()).T + np.array(way.translation)


def _pivot(scene: bpy.types.Scene, stage: Stage, frames: int) -> bpy.types.Object:
    """The empty that turns once in so many frames; the frame after the last one would show the first again."""
    pivot = bpy.data.objects.new("Turntable Pivot", None)
    pivot.empty_display_size = stage.reach
    pivot.location = stage.pivot.translation
    # Apart from the keyed rotation, which is then about the head's own axis and reads as the angle of the turn.
    pivot.delta_rotation_euler = stage.pivot.to_euler()
    scene.collection.objects.link(pivot)
    for frame, turns in ((FIRST_FRAME, 0), (FIRST_FRAME + frames, 1)):
        pivot.rotation_euler.z = turns * math.tau
        pivot.keyframe_insert("rotation_euler", index=2, frame=frame)
    pivot.rotation_euler.z = 0.0
    action = pivot.animation_data.action
    curves = action.fcurves if bpy.app.version < (4, 4, 0) else action.layers[0].strips[0].channelbags[0].fcurves
    for key in curves[0].keyframe_points:
        key.interpolation = "LINEAR"
    curves[0].extrapolation = "LINEAR"  # motion blur looks half a frame beyond both ends
    scene.frame_start, scene.frame_end = FIRST_FRAME, FIRST_FRAME + frames - 1
    return pivot


def _camera(stage: Stage) -> bpy.types.Object:
    """The camera before the face, level, in the pivot's frame."""
    data = bpy.data.cameras.new("Turntable Camera")
    data.sensor_fit = "VERTICAL"
    data.sensor_height, data.lens = SENSOR_MM, LENS_MM
    data.clip_start, data.clip_end = 0.01 * stage.distance, 100 * stage.distance
    data.display_size = 0.2 * stage.reach
    camera = bpy.data.objects.new("Turntable Camera", data)
    camera.location = (0, -stage.distance, 0)
    camera.rotation_euler = (math.pi / 2, 0, 0)
    return camera


def _lights(stage: Stage) -> Iterator[bpy.types.Object]:
    """The lights in the pivot's frame."""
    for light in LIGHTS:
        data = bpy.data.lights.new(f"Turntable {light.name}", "AREA")
        data.size = light.side * stage.reach
        data.energy = light.watts(stage.reach)
        lamp = bpy.data.objects.new(data.name, data)
        lamp.location = light.location * stage.reach
        lamp.rotation_euler = (-light.location).to_track_quat("-Z", "Y").to_euler()
        lamp.visible_camera = False
        yield lamp


def _backdrop(stage: Stage) -> bpy.types.Object:
    """Floor and wall in one, without a seam, in the pivot's frame; the head stands on it."""
    bend = np.linspace(0, math.pi / 2, BEND_STEPS + 1)
    along = np.concatenate([[-BACKDROP_FRONT], BACKDROP_BACK + BACKDROP_BEND * (np.sin(bend) - 1), [BACKDROP_BACK]])
    up = np.concatenate([[0], BACKDROP_BEND * (1 - np.cos(bend)), [BACKDROP_TOP]])
    floor = Vector((0, 0, stage.floor))
    points = [
        floor + stage.reach * Vector((side, y, z))
        for y, z in zip(along, up, strict=True)
        for side in (-BACKDROP_SIDE, BACKDROP_SIDE)
    ]
    faces = [(i, i + 1, i + 3, i + 2) for i in range(0, len(points) - 2, 2)]
    mesh = bpy.data.meshes.new("Turntable Backdrop")
    mesh.from_pydata(points, [], faces)
    mesh.shade_smooth()
    mesh.materials.append(_backdrop_material())
    return bpy.data.objects.new("Turntable Backdrop", mesh)


def _backdrop_material() -> bpy.types.Material:
    """Neutral grey paper."""
    material = bpy.data.materials.new("Turntable Backdrop")
    if bpy.app.version < (5, 0, 0):  # later ones always do, and warn when asked
        material.use_nodes = True
    paper = _node(material.node_tree, "BSDF_PRINCIPLED")
    paper.inputs["Base Color"].default_value = (*[BACKDROP_GREY] * 3, 1)
    paper.inputs["Roughness"].default_value = 1.0
    paper.inputs["Specular IOR Level"].default_value = 0.0
    return material


def _world() -> bpy.types.World:
    """Dim grey light from everywhere."""
    world = bpy.data.worlds.new("Turntable")
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    _node(world.node_tree, "BACKGROUND").inputs["Color"].default_value = (*[WORLD_LEVEL] * 3, 1)
    return world


def _node(tree: bpy.types.NodeTree, kind: str) -> bpy.types.Node:
    """The node of that type which new data comes with; its name may be in the user's language."""
    return next(node for node in tree.nodes if node.type == kind)


def _set_render(scene: bpy.types.Scene, users_scene: bpy.types.Scene, look: Look) -> None:
    """Engine, samples, colours, size and the files of the frames."""
    render = scene.render
    render.resolution_x = render.resolution_y = look.resolution_px
    render.resolution_percentage = 100
    render.use_persistent_data = True  # the head is the same in all frames
    if look.engine == "CYCLES":
        render.engine = "CYCLES"
        scene.cycles.samples = SAMPLES[look.quality]
        scene.cycles.device = users_scene.cycles.device
        scene.cycles.use_denoising = offers(scene.cycles, "denoiser", "OPENIMAGEDENOISE")
    else:
        render.engine = "BLENDER_EEVEE_NEXT" if bpy.app.version < (5, 0, 0) else "BLENDER_EEVEE"
        scene.eevee.taa_render_samples = SAMPLES[look.quality]
    offers(scene.view_settings, "view_transform", VIEW_TRANSFORM)  # a studio's own colours may have none of the name
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    file_name = re.sub(UNFIT_FOR_FILES, "_", scene.name)
    render.filepath = f"//turntable/{file_name}_####"


def offers(settings: Any, name: str, value: str) -> bool:
    """Set a choice if this Blender has it. Some lists depend on how it was built, and only trying tells."""
    try:
        setattr(settings, name, value)
    except TypeError:
        return False
    return True


class HEADCAST_OT_turntable(bpy.types.Operator):
    """Make a scene in which the camera goes once around the selected head, lit and ready to be rendered"""

    bl_idname = "headcast.turntable"
    bl_label = "Turntable"
    bl_options = {"REGISTER", "UNDO"}

    quality: EnumProperty(
        name="Quality",
        description="Samples of each pixel",
        items=[
            ("DRAFT", "Draft", "To see the turn"),
            ("GOOD", "Good", "For most uses"),
            ("BEST", "Best", "Least noise; takes four times as long as Good"),
        ],
        default="GOOD",
    )
    engine: EnumProperty(
        name="Engine",
        description="What renders the frames",
        items=[
            ("CYCLES", "Cycles", "True light and skin; seconds to minutes a frame"),
            ("EEVEE", "EEVEE", "Fast; needs a graphics card"),
        ],
        default="CYCLES",
    )
    resolution: IntProperty(
        name="Resolution",
        description="Width and height of the pictures",
        default=1080,
        min=16,
        max=16384,
        subtype="PIXEL",
    )
    frames: IntProperty(name="Frames", description="Pictures of one full turn", default=120, min=2, max=10_000)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = ""
        if SESSION.running:
            reason = SESSION.occupation  # what is made comes into the scene that the user is in
        elif subject_of(context) is None:
            reason = NO_HEAD
        elif context.mode != "OBJECT":
            reason = "Switch to Object Mode first"
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        subject = subject_of(context)
        assert subject is not None  # poll
        points = subject.points(context.evaluated_depsgraph_get())
        if not len(points):
            self.report({"ERROR"}, "All of this head is hidden from renders: show its mesh in renders first")
            return {"CANCELLED"}
        if self.engine == "CYCLES" and not hasattr(context.scene, "cycles"):
            self.report({"ERROR"}, "Cycles is switched off: enable its add-on, or choose EEVEE")
            return {"CANCELLED"}
        look = Look(self.engine, self.quality, self.resolution, self.frames)
        scene = make_turntable(context, subject, stage_for(points, subject.stance), look)
        if context.window:
            context.window.scene = scene
        words = "Turntable made: render its animation" if bpy.data.filepath else "Turntable made: save, then render it"
        self.report({"INFO"}, pgettext_rpt(words))
        return {"FINISHED"}


CLASSES = (HEADCAST_OT_turntable,)
