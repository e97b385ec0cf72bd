"""A finished job folder becomes a collection in the scene: head, skin, and the camera that took the photo."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bmesh
import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

from .all_or_nothing import ImportFailed, all_or_nothing, everything, select_only
from .material import HAIR, skin_material
from .packed_image import packed_image

HEAD_NAME = "Head"
VISIBILITY = "visibility"  # point attribute: 1 where the photo showed the skin, 0 where it is imagined
OTHER_ATTRIBUTES = {"_CONFIDENCE": "confidence", "_HAIR": HAIR}  # of a head.glb that has them: heads made before do not
FOLDER_KEY = "headcast_folder"  # on head and collection: name of the result folder, no path of this computer
RIG_PART_KEY = "headcast_rig_part"  # on each object of a rig: what it is of it
ALBEDO_KEY = "headcast_albedo"  # on the image that Headcast painted
GLB_VISIBILITY = "_VISIBILITY"  # glTF wants names of its own invention to begin with an underscore

# glTF's axes (y up, face to +z) to Blender's (z up, face to -y): the turn Blender's own importer makes to the mesh.
BLENDER_FROM_GLTF = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
# A camera of OpenCV looks along +z with y down, one of Blender along -z with y up.
OPENCV_FROM_BLENDER_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])

SENSOR_MM = 36.0  # full frame; only the ratio to the focal length matters
WELD_M = 1e-7  # the unwrap doubles vertices along seams at the very same place
CAMERA_DISPLAY_M = 0.1


def import_head(context: bpy.types.Context, folder: Path, name: str) -> bpy.types.Collection:
    """Bring the job folder's head into the scene at the 3D cursor; it is selected and active afterwards.

    folder:  holds head.glb, head.json and portrait.png.
    name:    of the photo, for the collection and the data in it.
    Raises ImportFailed; the file and the selection are then as they were.
    """
    if not hasattr(bpy.types, "IMPORT_SCENE_OT_gltf"):
        raise ImportFailed("Blender's glTF importer is switched off.", "Enable the add-on glTF 2.0 format.")
    with all_or_nothing(context):
        try:
            report = json.loads((folder / "head.json").read_text(encoding="utf-8"))
            head = _read_mesh(folder / "head.glb")
            unit_m = context.scene.unit_settings.scale_length
            title = f"Headcast {name}"
            _dress(head, title, unit_m)
            camera = photo_camera(report["camera"], folder / "portrait.png", title, unit_m)
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # RuntimeError is what Blender's importer raises
            raise ImportFailed(
                f"The finished head could not be read: {error}", "Try again; if it happens again, report it."
            ) from error
        camera.parent = head  # so that it stays matched when the head is moved
        head.matrix_world = Matrix.Translation(context.scene.cursor.location)
        collection = bpy.data.collections.new(title)
        for thing in (head, camera):
            for other in thing.users_collection:
                other.objects.unlink(thing)
            collection.objects.link(thing)
        context.scene.collection.children.link(collection)
        mark_origin(head, folder, name)
        collection[FOLDER_KEY] = folder.name
        select_only(context, head)
    return collection


def photo_camera(camera: dict[str, Any], portrait: Path, name: str, unit_m: float) -> bpy.types.Object:
    """New camera, relative to the head object, that sees the head where the photo shows it.

    camera:  `cam2world` (4, 4) OpenCV camera to head frame; `intrinsics` (3, 3) divided by the image side;
             `head_from_mesh` (4, 4) metres of the GLB to head frame.
    The portrait is square. In a render of another shape it fills the longer side, and so does the picture behind
    the head in the viewport.
    """
    intrinsics = np.asarray(camera["intrinsics"], dtype=np.float64)
    data = bpy.data.cameras.new(f"{name} camera")
    data.sensor_fit = "AUTO"  # along the longer side
    data.sensor_width = SENSOR_MM
    data.lens = SENSOR_MM * intrinsics[0, 0]
    data.shift_x = 0.5 - intrinsics[0, 2]
    data.shift_y = intrinsics[1, 2] - 0.5  # shift is up, picture coordinates run down
    data.display_size = CAMERA_DISPLAY_M / unit_m
    data["headcast_note"] = "Matches the photo in a square render, such as 1024 x 1024."

    picture = packed_image(portrait, f"{name} portrait")
    picture.alpha_mode = "NONE"  # the alpha is the matte: shown, it would cut the photo's own background away
    data.show_background_images = True
    background = data.background_images.new()
    background.image = picture
    background.alpha = 1.0
    background.frame_method = "CROP"

    made = bpy.data.objects.new("Photo Camera", data)
    made.matrix_local = _blender_from_camera(camera, unit_m)
    return made


def _blender_from_camera(camera: dict[str, Any], unit_m: float) -> Matrix:
    """Rigid placement of Blender's camera relative to the head object, whose mesh has GLB metres turned Z-up."""
    mesh_from_head = np.linalg.inv(np.asarray(camera["head_from_mesh"], dtype=np.float64))
    placed = mesh_from_head @ np.asarray(camera["cam2world"], dtype=np.float64)
    placed[:3, :3] /= np.cbrt(np.linalg.det(placed[:3, :3]))  # a camera has no size: metres concern its place only
    placed = BLENDER_FROM_GLTF @ placed @ OPENCV_FROM_BLENDER_CAMERA
    placed[:3, 3] /= unit_m
    return Matrix(placed.tolist())


def _read_mesh(glb: Path) -> bpy.types.Object:
    """The GLB's one mesh as an object at the origin, its seams welded, with nothing else left of the import."""
    if not glb.is_file():
        raise FileNotFoundError(glb)
    known = everything()
    wanted = {
        "import_shading": "SMOOTH",
        "import_pack_images": True,
        # Later versions would make a collection, change the selection, or write the file's notes into the scene.
        "import_scene_as_collection": False,
        "import_select_created_objects": False,
        "import_scene_extras": False,
    }
    offered = bpy.ops.import_scene.gltf.get_rna_type().properties.keys()
    bpy.ops.import_scene.gltf(filepath=str(glb), **{key: value for key, value in wanted.items() if key in offered})
    fresh = [thing for thing in bpy.data.objects if thing not in known["objects"]]
    heads = [thing for thing in fresh if thing.type == "MESH"]
    if len(heads) != 1:
        raise ValueError(f"{len(heads)} meshes in {glb.name}, one expected")
    head = heads[0]
    head.data.transform(head.matrix_world)
    head.parent = None
    head.matrix_world = Matrix.Identity(4)
    head.rotation_mode = "XYZ"  # the importer leaves quaternions
    bpy.data.batch_remove([thing for thing in fresh if thing is not head])
    _weld_seams(head.data)
    return head


def _weld_seams(mesh: bpy.types.Mesh) -> None:
    """Join the vertices that the unwrap doubled, or the seams would show in smooth shading; UVs are kept."""
    work = bmesh.new()
    work.from_mesh(mesh)
    bmesh.ops.remove_doubles(work, verts=work.verts, dist=WELD_M)
    work.to_mesh(mesh)
    work.free()
    mesh.shade_smooth()


def _dress(head: bpy.types.Object, title: str, unit_m: float) -> None:
    """Names, the visibility attribute, and skin in place of the importer's plain material."""
    mesh = head.data
    head.name, mesh.name = HEAD_NAME, title
    attribute = mesh.attributes[GLB_VISIBILITY]
    if attribute.domain != "POINT" or attribute.data_type != "FLOAT":
        raise ValueError(f"{GLB_VISIBILITY} is not one number per vertex")
    attribute.name = VISIBILITY
    for written, name in OTHER_ATTRIBUTES.items():
        if written in mesh.attributes:
            mesh.attributes[written].name = name
    plain = mesh.materials[0]
    albedo = albedo_of(plain)
    albedo.name = f"{title} albedo"
    mesh.materials[0] = skin_material(f"{title} skin", albedo, unit_m)
    bpy.data.materials.remove(plain)


def mark_origin(head: bpy.types.Object, folder: Path, name: str) -> None:
    """Say on the object itself that this head is synthetic, how it was made, and which result folder it came from."""
    report = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    head["headcast_synthetic"] = True
    head["headcast_version"] = headcast_version()
    head["headcast_model"] = report["model"]["name"]
    head["headcast_model_sha256"] = report["model"]["sha256"]
    head["headcast_photo"] = name
    head["headcast_options"] = json.dumps(report["options"])
    head[FOLDER_KEY] = folder.name


def headcast_version() -> str:
    """The extension's own version, such as 1.2.0."""
    manifest = Path(__file__).resolve().parent.parent / "blender_manifest.toml"
    return str(tomllib.loads(manifest.read_text(encoding="utf-8"))["version"])


@dataclass(frozen=True)
class PassingHead:
    """A result's head while it is read and before it is thrown away.

    points: (v, 3) of the welded mesh, in its own frame. faces: (loops,) vertex of each corner, in order.
    albedo: its texture, which stays in the file unless `discard` is called.
    """

    points: NDArray[np.float64]
    faces: NDArray[np.int32]
    albedo: bpy.types.Image

    def discard(self) -> None:
        """Take the texture out of the file too."""
        bpy.data.images.remove(self.albedo)


@contextmanager
def passing_head(context: bpy.types.Context, folder: Path) -> Iterator[PassingHead]:
    """What a result folder's head.glb holds. Raises ImportFailed; the file is then as it was."""
    active, selected = context.view_layer.objects.active, list(context.selected_objects)
    with all_or_nothing(context):
        try:
            head = _read_mesh(folder / "head.glb")
        except (OSError, ValueError, RuntimeError) as error:
            raise ImportFailed(
                f"The finished head could not be read: {error}", "Try again; if it happens again, report it."
            ) from error
        mesh = head.data
        points, faces = np.empty(3 * len(mesh.vertices), np.float32), np.empty(len(mesh.loops), np.int32)
        mesh.vertices.foreach_get("co", points)
        mesh.loops.foreach_get("vertex_index", faces)
        plain = mesh.materials[0]
        albedo = albedo_of(plain)
        albedo.use_fake_user = False
        bpy.data.objects.remove(head)
        bpy.data.meshes.remove(mesh)
        bpy.data.materials.remove(plain)
        for thing in selected:
            thing.select_set(True)  # earlier versions of Blender's importer select what they make
        context.view_layer.objects.active = active
        yield PassingHead(points.reshape(-1, 3).astype(np.float64), faces, albedo)


def albedo_of(material: bpy.types.Material) -> bpy.types.Image:
    """The texture of the importer's material, marked as Headcast's."""
    albedo = next(node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE" and node.image)
    albedo[ALBEDO_KEY] = True
    return albedo
