"""Make a finished head again from its result folder: finer, on another mesh, or with another unseen side.

The same three verbs everywhere: rebuild, rebake, reroll. None of them needs the photo's file or looks for a face, and
only another seed runs an encoder. Each writes a whole result folder, which can be used again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from . import head_file
from .bake import TexturedHead, spread_over_surface
from .edited_mesh import EditedMesh, laid_on_head, read_mesh, uv_trouble
from .errors import (
    BadOption,
    HeadFileDamaged,
    HeadFileMissing,
    MeshFarFromHead,
    NoOtherVersion,
    TextureCoordinatesUnusable,
)
from .head_file import HeadFile
from .head_source import HeadSource
from .job_folder import check_writable
from .messages import Options, kept_options
from .pipeline import (
    SHARES,
    VIEWS_SHARE,
    Models,
    check_options,
    encoder_input,
    field_of,
    finish,
    fitted,
    judge,
    memory_shortage_named,
    paint,
    write_result,
)
from .progress import Progress, Stages, silent
from .raster import fragment_chunks, rasterise_view, sample_image
from .surface import Mesh, weld
from .unseen_shape import follow_unseen, seen_vertices
from .unwrap import unwrap
from .versions import other_version

FloatArray = NDArray[np.floating]

REPORT_NAME, GLB_NAME = "head.json", "head.glb"
READ_SHARE = 1.0  # CPU seconds of reading a folder or an edited mesh
SHAPE_SHARE = 2.5  # of moving the unseen side
LOOK_SIZE = 256  # px of the picture that tells whether the photo's camera sees a mesh at all
UNFITTED = "off"  # of `refinement.LEVELS`
UNSEEN_TEXEL = 0  # of the visibility map: such a texel holds nothing of the photo, less than 1/510 of its colour


def folder_options(folder: Path, changes: Mapping[str, Any]) -> tuple[Options, tuple[str, ...]]:
    """The options a folder's head was made with, some of them changed, and what the user should know about them.

    Options that came later have their defaults; those that this version does not know are left out and named.
    Raises HeadFileMissing, HeadFileDamaged, or BadOption for a change that cannot be made.
    """
    path = folder / REPORT_NAME
    if not folder.is_dir():
        raise HeadFileMissing(f"There is no folder {folder}.")
    if not path.is_file():
        raise HeadFileMissing(f"There is no {REPORT_NAME} in {folder}.")
    try:
        options, unknown = kept_options(json.loads(path.read_text(encoding="utf-8"))["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadFileDamaged(f"The file {path} is damaged: its options cannot be read.") from error
    known = vars(options)
    for name in changes:
        if name not in known:
            raise BadOption(f"There is no option called {name!r}.")
    options = replace(options, **changes)
    check_options(options)
    notes = [f"The head was made with the option {name}, which this version does not know." for name in unknown]
    return options, tuple(notes)


def rebuild(
    folder: Path,
    out_dir: Path,
    options: Options,
    models: Models,
    progress: Progress = silent,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Make the head of a result folder again, at other options, such as a finer grid.

    options, notes: as `folder_options` gives them; another seed gives another version of the unseen side.
    Returns:        the content of head.json.
    Raises:         the errors of errors.py. `out_dir` appears whole or not at all.
    """
    stages = _stages(("read", "refine", "extract", "unwrap", "bake", "judge"), models, progress)
    check_writable(out_dir)
    with memory_shortage_named():
        with stages.stage("read", "Reading the head"):
            kept = _read(folder, models).source
            source = _of_seed(kept, options.seed, models)
            if source is not kept:
                # Another unseen side has another outline: fitted anew, it is the head that `reconstruct` makes.
                source = replace(source, refinement=None, level=UNFITTED)
        made = finish(source, options, models, stages)
        return write_result(made, options, models, stages, out_dir, "rebuild", notes)


def rebake(
    folder: Path,
    mesh_path: Path,
    out_dir: Path,
    options: Options,
    models: Models,
    progress: Progress = silent,
    notes: Sequence[str] = (),
    own_uv_only: bool = False,
) -> dict[str, Any]:
    """Paint an edited or retopologised mesh that lies on the head of a result folder.

    mesh_path:   as `edited_mesh.read_mesh` takes it. Its own texture coordinates are used where nothing is wrong with
                 them; else it is unwrapped, and the report says why.
    own_uv_only: rather fail than unwrap, for callers whose mesh must keep its coordinates.
    Returns:     the content of head.json. Raises the errors of errors.py.
    """
    stages = _stages(("read", "refine", "unwrap", "bake", "judge"), models, progress)
    check_writable(out_dir)
    with memory_shortage_named():
        with stages.stage("read", "Reading the head") as step:
            kept = _read(folder, models)
            step(0.3, "Reading the mesh")
            edited = laid_on_head(read_mesh(mesh_path), kept.finished.mesh)
            source = _of_seed(kept.source, options.seed, models)
            seen = rasterise_view(edited.mesh.vertices, edited.mesh.faces, source.portrait.camera, LOOK_SIZE)
            if not seen.covered.any():
                raise MeshFarFromHead("The photo shows nothing of this mesh.", "Use a mesh with a part of the face.")
        with stages.stage("refine", "Fitting the head to the photo") as step:
            whole = source.whole(models.head.generator)
            source = fitted(source, whole, options.refinement, models, step)
            field = field_of(source, whole, options.symmetry, models)
        with stages.stage("unwrap", "Unwrapping") as step:
            mesh, uv, why = _coordinates(edited, own_uv_only, step)
        head = paint(mesh, uv, source, whole, field, options, models, stages)
        made = judge(weld(mesh)[0], head, source, field, models, stages)
        return write_result(made, options, models, stages, out_dir, "rebake", [*notes, *why])


def reroll(
    folder: Path,
    out_dir: Path,
    seed: int,
    options: Options,
    models: Models,
    progress: Progress = silent,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Another version of what the photo does not show, on the same mesh and texture layout.

    seed:    0 is what the model holds for likeliest; any other number is another version, always the same.
    options: of the folder's head; its own mesh and texture size stay whatever they say.
    Returns: the content of head.json. Texels with anything of the photo in them, and vertices it sees, are the same
             to the last bit. Raises the errors of errors.py, NoOtherVersion of a model without encoders among them.
    """
    options = replace(options, seed=seed)
    check_options(options)
    stages = _stages(("read", "refine", "shape", "bake", "judge"), models, progress)
    check_writable(out_dir)
    with memory_shortage_named():
        with stages.stage("read", "Reading the head"):
            kept = _read(folder, models)
            albedo = folder_albedo(folder, kept.finished.visibility_map.shape[0])
            source = _of_seed(kept.source, seed, models)
        with stages.stage("refine", "Imagining the unseen side"):
            whole = source.whole(models.head.generator)
            field = field_of(source, whole, options.symmetry, models)
        with stages.stage("shape", "Shaping the unseen side") as step:
            before = kept.finished
            seen = seen_vertices(before.mesh, before.uv, before.visibility_map, source.portrait.camera)
            mesh = follow_unseen(before.mesh, seen, field, step)
        # What has moved into the camera's view is imagined still: the photo shows something else there.
        most_photo = seen.astype(np.float64)
        options = replace(options, texture=len(albedo))
        fresh = paint(mesh, before.uv, source, whole, field, options, models, stages, most_photo)
        head = replace(
            fresh,
            albedo=keep_seen(albedo, fresh, before.visibility_map),
            visibility=before.visibility,
            visibility_map=before.visibility_map,
        )
        made = judge(weld(mesh)[0], head, source, field, models, stages)
        return write_result(made, options, models, stages, out_dir, "reroll", notes)


def keep_seen(albedo: NDArray[np.uint8], fresh: TexturedHead, visibility_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The fresh texture with every texel of the photo as it was, and no seam where both meet.

    albedo, visibility_map: (t, t, 3) and (t, t) of the head before. What the two textures differ by on seen vertices is
    spread over the surface, fading, and added to the unseen texels.
    """
    size = len(albedo)
    whole, merged = weld(fresh.mesh)
    first = np.unique(merged, return_index=True)[1]
    places = fresh.uv[first] * size
    weight = (sample_image(visibility_map[..., None], places)[:, 0] > 0).astype(np.float64)
    difference = sample_image(albedo, places).astype(np.float64) - sample_image(fresh.albedo, places)
    spread = spread_over_surface(whole, difference, weight)[merged].astype(np.float32)
    mixed = fresh.albedo.copy()
    for _, cover in fragment_chunks(fresh.uv * size, fresh.mesh.faces, (size, size)):
        colour = fresh.albedo[cover.row, cover.column] + cover.interpolate(spread, fresh.mesh.faces)
        mixed[cover.row, cover.column] = np.rint(np.clip(colour, 0, 255))
    seen = visibility_map > UNSEEN_TEXEL
    mixed[seen] = albedo[seen]
    return mixed


def _coordinates(edited: EditedMesh, own_uv_only: bool, progress: Progress) -> tuple[Mesh, FloatArray, list[str]]:
    """A mesh with texture coordinates to paint on, and what the user should know about them."""
    trouble = "are missing" if edited.uv is None else uv_trouble(edited.mesh, edited.uv)
    if edited.uv is not None and not trouble:
        return edited.mesh, edited.uv, []
    if own_uv_only:
        raise TextureCoordinatesUnusable(f"The mesh's texture coordinates cannot be painted on: they {trouble}.")
    unwrapped = unwrap(weld(edited.mesh)[0], progress)
    why = [] if edited.uv is None else [f"The mesh's texture coordinates {trouble}, so it was unwrapped anew."]
    return unwrapped.mesh, unwrapped.uv, why


def _read(folder: Path, models: Models) -> HeadFile:
    head_file.check_model(folder, models.head)
    return head_file.read(folder, models.device)


def _of_seed(source: HeadSource, seed: int, models: Models) -> HeadSource:
    """The source with that version of its unseen side; the encoder is asked for a new one. Raises NoOtherVersion."""
    unseen = source.unseen
    if unseen is None:
        if seed == 0:
            return source
        raise NoOtherVersion()
    if seed == unseen.seed:
        return source
    encoder = models.head.occluded
    if encoder is None:
        raise NoOtherVersion()
    given = encoder_input(source.portrait, models, encoder)
    version = other_version(unseen.w_plus, seed, given, encoder)
    return replace(source, unseen=replace(unseen, version=version, seed=seed))


def folder_albedo(folder: Path, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) the texture in the folder's head.glb. Raises HeadFileMissing or HeadFileDamaged."""
    path = folder / GLB_NAME
    if not path.is_file():
        raise HeadFileMissing(f"There is no {GLB_NAME} in {folder}.")
    try:
        visual: Any = trimesh.load_mesh(path, process=False).visual
        albedo = np.asarray(visual.material.baseColorTexture.convert("RGB"))
    except Exception as error:
        raise HeadFileDamaged(f"The file {path} is damaged.") from error
    if albedo.shape != (size, size, 3):
        raise HeadFileDamaged(f"The texture in {path} has another size than the head's.")
    return albedo


def _stages(names: Sequence[str], models: Models, progress: Progress) -> Stages:
    """Shares of the progress for a job of these stages, and of what every job ends with."""
    shares = {**SHARES, "read": READ_SHARE, "shape": SHAPE_SHARE}
    wanted = {name: shares[name] for name in (*names, "preview", "write")}
    if models.head.generator.config.superresolution:
        wanted["views"] = VIEWS_SHARE
    return Stages(wanted, progress)
