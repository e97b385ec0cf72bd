"""How much of the photo survives re-baking: `python -m tests.remesh_bench PHOTO... [--sheets DIR]`.

Each head is remeshed in Blender, by voxels and by decimation, painted anew, and rendered through its photo's camera in
flat light. Figures are PSNR against the photo inside the eroded matte, of the head as it was made and of both meshes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from inference import head_file, pipeline, reuse
from inference.bake import TexturedHead
from inference.messages import Options
from inference.pipeline import Models
from inference.preview import draw_view
from inference.raster import rasterise_view
from inference.surface import Mesh, weld

VOXEL_M = 0.002
DECIMATED_FACES = 5000
VIEW_SIZE = 256  # px: the crop's 512 halved, so that single hairs do not decide
MATTE_INSIDE = 0.95
EROSION_PX = 4  # of VIEW_SIZE
LEAST_DB = 25.0


@dataclass(frozen=True)
class Survival:
    """PSNR, dB, of the input view against the photo: of the head, and after re-baking onto each kind of mesh."""

    made: float
    voxels: float
    decimated: float


def measure(
    photo: Path, options: Options, models: Models, bpy: ModuleType, folder: Path, voxel_m: float = VOXEL_M
) -> Survival:
    """Reconstruct into `folder`, remesh, re-bake, and compare."""
    pipeline.reconstruct(photo, folder / "head", options, models)
    where = compared(folder / "head")
    figures = [input_view_db(folder / "head", where)]
    for kind in ("voxels", "decimated"):
        mesh = remeshed(bpy, whole_mesh(folder / "head"), kind, voxel_m)
        mesh.export(folder / f"{kind}.ply")
        changed, notes = reuse.folder_options(folder / "head", dataclasses.asdict(options))
        reuse.rebake(folder / "head", folder / f"{kind}.ply", folder / kind, changed, models, notes=notes)
        figures.append(input_view_db(folder / kind, where))
    return Survival(*figures)


def whole_mesh(folder: Path) -> trimesh.Trimesh:
    """The head of a result folder without seams, as exported."""
    loaded = trimesh.load_mesh(folder / "head.glb", process=False)
    whole, _ = weld(Mesh(np.asarray(loaded.vertices), np.asarray(loaded.faces)))
    return trimesh.Trimesh(whole.vertices, whole.faces, process=False)


def remeshed(bpy: ModuleType, mesh: trimesh.Trimesh, kind: str, voxel_m: float = VOXEL_M) -> trimesh.Trimesh:
    """What Blender's modifiers make of a mesh: "voxels" or "decimated"."""
    data = bpy.data.meshes.new("Remeshed")
    data.from_pydata(mesh.vertices.tolist(), [], mesh.faces.tolist())
    thing = bpy.data.objects.new("Remeshed", data)
    bpy.context.scene.collection.objects.link(thing)
    if kind == "voxels":
        modifier = thing.modifiers.new("Remesh", "REMESH")
        modifier.mode, modifier.voxel_size = "VOXEL", voxel_m
    else:
        thing.modifiers.new("Decimate", "DECIMATE").ratio = DECIMATED_FACES / len(mesh.faces)
    bpy.context.view_layer.update()
    shown = thing.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    shown.calc_loop_triangles()
    made = trimesh.Trimesh(
        [vertex.co[:] for vertex in shown.vertices],
        [triangle.vertices[:] for triangle in shown.loop_triangles],
        process=False,
    )
    bpy.data.objects.remove(thing)
    bpy.data.meshes.remove(data)
    return made


def textured(folder: Path) -> TexturedHead:
    """The head of a result folder as `draw_view` takes it."""
    kept = head_file.read(folder).finished
    picture = trimesh.load_mesh(folder / "head.glb", process=False).visual.material.baseColorTexture
    albedo = np.asarray(picture.convert("RGB"))
    return TexturedHead(
        kept.mesh, kept.uv, albedo, kept.visibility, kept.visibility_map, {}, folder.name, kept.visibility
    )


def input_view(folder: Path) -> NDArray[np.uint8]:
    """(VIEW_SIZE, VIEW_SIZE, 3) the head in flat light through its photo's camera."""
    return draw_view(textured(folder), head_file.read(folder).source.portrait.camera, VIEW_SIZE)


def compared(folder: Path) -> NDArray[np.bool_]:
    """(VIEW_SIZE, VIEW_SIZE) where views are compared: inside the eroded matte, where the head as it was made is.

    So shoulders and what the model has missed do not count, but what a remeshed head lacks does.
    """
    kept = head_file.read(folder)
    portrait, mesh = kept.source.portrait, kept.finished.mesh
    block = len(portrait.matte) // VIEW_SIZE
    matte = portrait.matte.reshape(VIEW_SIZE, block, VIEW_SIZE, block).mean(axis=(1, 3))
    inside = ndimage.binary_erosion(matte > MATTE_INSIDE, iterations=EROSION_PX)
    return inside & rasterise_view(mesh.vertices, mesh.faces, portrait.camera, VIEW_SIZE).covered


def input_view_db(folder: Path, where: NDArray[np.bool_]) -> float:
    """PSNR of the input view against the photo at the chosen pixels."""
    portrait = head_file.read(folder).source.portrait
    photo = np.asarray(Image.fromarray(portrait.image).resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BOX), float)
    error = (input_view(folder).astype(float) - photo)[where]
    return float(10 * np.log10(255**2 / (error**2).mean()))


def main() -> None:
    """Measure each photo, and say whether all survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="keep the heads, and pictures to look at, there")
    given = parser.parse_args()
    import bpy

    models = pipeline.load_models("starter", "cpu")
    lowest = np.inf
    for photo in given.photos:
        with tempfile.TemporaryDirectory() as passing:
            folder = given.sheets / photo.stem if given.sheets else Path(passing)
            folder.mkdir(parents=True, exist_ok=True)
            found = measure(photo, Options(device="cpu", delight=0.0), models, bpy, folder)
            sides = [input_view(folder / name) for name in ("head", "voxels", "decimated")]
            if given.sheets:
                Image.fromarray(np.concatenate(sides, axis=1)).save(folder / "input views.png")
        print(f"{photo.stem}: head {found.made:.1f} dB, voxels {found.voxels:.1f}, decimated {found.decimated:.1f}")
        lowest = min(lowest, found.voxels, found.decimated)
    print(f"lowest {lowest:.1f} dB, at least {LEAST_DB} wanted: {'reached' if lowest >= LEAST_DB else 'MISSED'}")


if __name__ == "__main__":
    main()
