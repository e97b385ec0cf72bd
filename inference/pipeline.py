"""One photo to a head: the whole product, stage by stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from . import head_file
from .alignment import AlignedPortrait, align
from .bake import TexturedHead, bake
from .checkpoints import HeadModel
from .checkpoints import load as load_head_model
from .encoders import Encoder, Inversion, PortraitInput, SeenPlanes, portrait_input
from .errors import BadOption, DeviceUnavailable, OutOfMemory, is_out_of_memory
from .face_networks import FACE_WEIGHTS_FOLDER, FaceNetworks, load_face_networks
from .field import Field
from .gltf import write_glb
from .head_file import FinishedMesh
from .head_source import HeadSource, UnseenSide, kept_precision, part_of_photo, version_planes
from .job_folder import check_writable, whole_folder
from .messages import Options
from .model_views import ModelViews, look_around
from .photo import load_photo
from .photo_check import photo_warnings
from .png import save_png
from .preview import preview_sheet
from .progress import Progress, Stages, silent
from .quality import Quality, landmark_nme, matte_iou, visible_share
from .refinement import LEVELS, Refinement, WarpedField, refine
from .side_by_side import in_order
from .silhouette import ColouredField, carve
from .stitching import occlusion_mask, seen_surface, stitch
from .surface import METRES_PER_UNIT, NECKS, Mesh, border_loops, extract, height_m, is_watertight, metres_from_head
from .symmetry import SYMMETRIES, symmetric
from .tri_grid import TriGrid
from .unwrap import unwrap
from .versions import other_version
from .w_plus_optimisation import WPlusFit, optimise_w_plus, portrait_target

DEVICES = ("auto", "cpu", "cuda", "mps")
LIMITS = {  # lowest and highest value of the numbers a user may choose
    "grid": (32, 1024),  # below, a nose is no longer there; above, 4 GB for the density alone
    "faces": (500, 2_000_000),  # unwrapping more takes hours
    "texture": (64, 8192),  # what graphics cards and 1 GB of memory can hold
    "seed": (0, 2**32 - 1),  # what fits every generator of random numbers
}
SHARES = {  # CPU seconds of each stage at the default quality, measured: how the progress bar is divided
    "align": 0.4,
    "encode": 0.1,
    "stitch": 0.9,
    "refine": 1.0,
    "extract": 2.5,
    "unwrap": 2.5,
    "bake": 3.5,
    "judge": 0.3,
    "preview": 1.1,
    "write": 0.3,
}
VIEWS_SHARE = 70.0  # CPU seconds of the pictures around the head, with PanoHead's sizes
OPTIMISATION_SHARE = 95.0  # CPU seconds of "encode" where W+ is optimised, with the starter's sizes
LOW_MATTE_IOU = 0.75  # a head whose outline differs this much has missed hair or the pose
FAR_OUTLINE = 0.008  # box units of mean misfit before refining; the worst of 20 photos, hats among them, has 0.0034


@dataclass(frozen=True)
class Models:
    """The networks of one model on one device, to be used for many photos."""

    face: FaceNetworks
    head: HeadModel
    device: torch.device


def load_models(name: str = "starter", device: str = "auto") -> Models:
    """Read the face networks and a head model by name, or by path of a .safetensors file.

    Raises DeviceUnavailable, WeightsMissing, WeightsDamaged, OutOfMemory.
    """
    chosen = choose_device(device)
    with memory_shortage_named():
        return Models(load_face_networks(FACE_WEIGHTS_FOLDER, chosen), load_head_model(name, chosen), chosen)


@dataclass(frozen=True)
class Reconstruction:
    """A finished head and what it was made from.

    photo_size: (height, width) px of the photo.
    fit:        of the latents to the portrait by W+ optimisation; None where encoders found them.
    mesh:       closed, or with an open neck; head.mesh is the same with seams for the texture.
    refinement: None where the head was left as the latents gave it.
    source:     what it was made from, and can be made from again.
    """

    photo_size: tuple[int, int]
    portrait: AlignedPortrait
    fit: WPlusFit | None
    mesh: Mesh
    head: TexturedHead
    quality: Quality
    refinement: Refinement | None
    source: HeadSource


def reconstruct(
    photo_path: Path, out_dir: Path, options: Options, models: Models, progress: Progress = silent
) -> dict[str, Any]:
    """Make a head from a photo and write it into `out_dir`: head.glb, head.json, head.safetensors and two pictures.

    progress: called often with a fraction and a stage's name; what it raises (Cancelled) ends the job.
    Returns:  the content of head.json.
    Raises:   the errors of errors.py. `out_dir` appears whole or not at all; an earlier one stays as it was on errors.
    """
    check_options(options)
    check_writable(out_dir)
    stages = Stages(shares_of(models.head), progress)
    with memory_shortage_named():
        made = make_head(photo_path, options, models, stages)
        return write_result(made, options, models, stages, out_dir)


def write_result(
    made: Reconstruction,
    options: Options,
    models: Models,
    stages: Stages,
    out_dir: Path,
    made_by: str = "reconstruct",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Draw the preview and write a result folder, which appears whole or not at all; returns the report.

    made_by: the command; notes: warnings besides those of `warnings_of`.
    """
    with stages.stage("preview", "Drawing the preview") as step:
        preview = preview_sheet(made.head, made.portrait, step)
    with whole_folder(out_dir) as folder:
        with stages.stage("write", "Writing the files"):
            head = made.head
            finished = FinishedMesh(head.mesh, head.uv, head.visibility, head.visibility_map)
            files: list[Callable[[], object]] = [  # the longest first
                lambda: write_glb(head, folder / "head.glb"),
                lambda: head_file.write(folder, made.source, finished, models.head),
                lambda: save_png(preview, folder / "preview.png"),
                lambda: save_png(portrait_picture(made.portrait), folder / "portrait.png"),
            ]
            for _ in in_order(lambda write: write(), files):
                pass
        report = make_report(options, models, made, stages.seconds, made_by, notes)
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "head.json").write_text(text + "\n", encoding="utf-8")
    return report


def make_head(photo_path: Path, options: Options, models: Models, stages: Stages) -> Reconstruction:
    """From photo to textured head, in memory. Raises the errors of errors.py."""
    return finish(imagine(photo_path, options, models, stages), options, models, stages)


def imagine(photo_path: Path, options: Options, models: Models, stages: Stages) -> HeadSource:
    """From photo to tri-grids: everything that face networks, encoders and optimisation have to say."""
    torch.manual_seed(options.seed)
    with stages.stage("align", "Finding the face") as step:
        photo = load_photo(photo_path)
        portrait = align(photo, models.face, step)
    height, width = photo.rgb.shape[:2]
    with stages.stage("encode", "Reading the portrait") as step:
        inversion, fit = invert(portrait, (height, width), models, options.seed, step)
    with stages.stage("stitch", "Imagining the unseen side") as step:
        visible = TriGrid(kept_precision(inversion.planes[0]), models.head.generator.config.box_side)
        unseen = imagine_unseen(visible, portrait, models, options.seed, step)
    part, corner_px = part_of_photo(photo, portrait)
    return HeadSource(part, corner_px, (height, width), portrait, inversion.w_plus, visible, unseen, fit)


def finish(source: HeadSource, options: Options, models: Models, stages: Stages) -> Reconstruction:
    """From tri-grids to textured head. An earlier fit to the photo is used if its level is the one asked for."""
    with stages.stage("refine", "Fitting the head to the photo") as step:
        whole = source.whole(models.head.generator)
        source = fitted(source, whole, options.refinement, models, step)
        field = field_of(source, whole, options.symmetry, models)
    with stages.stage("extract", "Shaping the surface") as step:
        mesh = extract(field, options.grid, options.faces, step, options.neck, options.symmetry != "off")
    with stages.stage("unwrap", "Unwrapping") as step:
        unwrapped = unwrap(mesh, step)
    head = paint(unwrapped.mesh, unwrapped.uv, source, whole, field, options, models, stages)
    return judge(mesh, head, source, field, models, stages)


def fitted(source: HeadSource, whole: TriGrid, level: str, models: Models, progress: Progress) -> HeadSource:
    """The source with its head fitted to the photo by that level of `LEVELS`."""
    if level == source.level:
        return source
    effort = LEVELS[level]
    if effort is None:
        return replace(source, refinement=None, level=level)
    field = _unbent_field(source, whole, models)
    refinement = refine(field, source.portrait, source.photo_size, models.face, effort, progress)
    return replace(source, refinement=refinement, level=level)


def field_of(source: HeadSource, whole: TriGrid, symmetry: str, models: Models) -> ColouredField:
    """The head as a function of space: `whole`, bent to its photo and limited to its outline, sides alike or not."""
    field: ColouredField = _unbent_field(source, whole, models)
    if source.refinement is not None:
        field = WarpedField(field, source.refinement)
    return symmetric(carve(field, source.portrait, source.photo_size), symmetry, source.portrait.camera)


def paint(
    mesh: Mesh,
    uv: NDArray[np.floating],
    source: HeadSource,
    whole: TriGrid,
    field: ColouredField,
    options: Options,
    models: Models,
    stages: Stages,
    most_photo: NDArray[np.floating] | None = None,
) -> TexturedHead:
    """Texture a mesh that has coordinates (see `bake`), with the model's own pictures where it makes some."""
    generator, refinement = models.head.generator, source.refinement
    views = None
    if generator.config.superresolution:
        with stages.stage("views", "Looking at the head from all sides") as step:
            pictures = look_around(generator, whole, source.w_plus, source.portrait.camera, step)
            views = ModelViews(pictures, (lambda points: points) if refinement is None else refinement.place)
    with stages.stage("bake", "Painting the skin") as step:
        return bake(
            mesh,
            uv,
            source.portrait_of_part,
            source.photo,
            field,
            options.texture,
            step,
            views,
            most_photo=most_photo,
            detail_seed=options.seed if options.detail else None,
            mirror=options.mirror_face,
            delight=options.delight,
        )


def judge(
    mesh: Mesh, head: TexturedHead, source: HeadSource, field: ColouredField, models: Models, stages: Stages
) -> Reconstruction:
    """A finished head with its figures; `mesh` is that of the head without seams."""
    portrait = source.portrait
    with stages.stage("judge", "Comparing with the photo"):
        quality = Quality(
            visible_share(head.mesh, head.visibility),
            matte_iou(mesh, portrait.camera, portrait.matte),
            landmark_nme(mesh, field, portrait, models.face),
        )
    return Reconstruction(source.photo_size, portrait, source.fit, mesh, head, quality, source.refinement, source)


def _unbent_field(source: HeadSource, whole: TriGrid, models: Models) -> Field:
    # One latent colours the whole head: that of the side the photo shows.
    return Field(models.head.generator, whole, source.w_plus[0, -1])


def invert(
    portrait: AlignedPortrait, photo_size: tuple[int, int], models: Models, seed: int, progress: Progress
) -> tuple[Inversion, WPlusFit | None]:
    """The head, faithful to what the photo shows: by the visible encoder, or by W+ optimisation where there is none.

    photo_size: (height, width) px of the photo.
    Returns:    also what the optimisation achieved; None of an encoder.
    """
    encoder, generator = models.head.visible, models.head.generator
    if encoder is None:
        target = portrait_target(portrait, photo_size, generator.config.render_resolution, models.device)
        return optimise_w_plus(generator, target, seed, progress)
    with torch.no_grad():
        return encoder(encoder_input(portrait, models, encoder), generator), None


def imagine_unseen(
    visible: TriGrid, portrait: AlignedPortrait, models: Models, seed: int, progress: Progress
) -> UnseenSide | None:
    """What the photo does not show, from the occluded encoder; None of a model without one."""
    encoder, generator = models.head.occluded, models.head.generator
    if encoder is None:
        # Optimised latents have moved the generator's own head as a whole, so nothing is to be stitched.
        return None
    seen = seen_surface(generator, visible, portrait.camera, lambda done, label: progress(0.5 * done, label))
    known = SeenPlanes(visible.planes[None], seen.cells[None])
    given = encoder_input(portrait, models, encoder)
    with torch.no_grad():
        imagined = encoder(given, generator, known)
    planes = kept_precision(imagined.planes[0])
    # Of every version the mask is that of the first: what counts as seen must not depend on the seed.
    mask = occlusion_mask(
        generator,
        seen,
        TriGrid(planes, visible.box_side),
        portrait.camera,
        lambda done, label: progress(0.5 + 0.5 * done, label),
    )
    return UnseenSide(planes, mask, imagined.w_plus, other_version(imagined.w_plus, seed, given, encoder), seed)


def whole_tri_grid(portrait: AlignedPortrait, photo_size: tuple[int, int], models: Models, seed: int) -> TriGrid:
    """From portrait to the tri-grid of the whole head."""
    inversion, _ = invert(portrait, photo_size, models, seed, silent)
    visible = TriGrid(kept_precision(inversion.planes[0]), models.head.generator.config.box_side)
    unseen = imagine_unseen(visible, portrait, models, seed, silent)
    if unseen is None:
        return visible
    return stitch(visible, TriGrid(version_planes(unseen, models.head.generator), visible.box_side), unseen.mask)


def shares_of(model: HeadModel) -> dict[str, float]:
    """`SHARES` for a model: pictures from all around where it draws some, and latents found slowly without encoders."""
    shares = dict(SHARES)
    if model.visible is None:
        shares["encode"] = OPTIMISATION_SHARE
    if model.generator.config.superresolution:
        shares["views"] = VIEWS_SHARE
    return shares


def encoder_input(portrait: AlignedPortrait, models: Models, encoder: Encoder) -> PortraitInput:
    """The portrait as an encoder looks at it."""
    template, size = models.face.template.points_head, encoder.input_size
    return portrait_input(
        portrait.image, portrait.matte, portrait.landmarks, portrait.camera, template, size, models.device
    )


def portrait_picture(portrait: AlignedPortrait) -> Image.Image:
    """The 512 px crop with the matte as alpha."""
    alpha = np.round(portrait.matte * 255).astype(np.uint8)
    return Image.fromarray(np.dstack([portrait.image, alpha]), "RGBA")


def make_report(
    options: Options,
    models: Models,
    made: Reconstruction,
    seconds: Mapping[str, float],
    made_by: str = "reconstruct",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What head.json says. Lengths are metres, matrices are lists of rows, angles degrees.

    "device" is the one that was used, where the options may say "auto".
    """
    portrait, mesh, head, quality = made.portrait, made.mesh, made.head, made.quality
    to_metres = metres_from_head()
    return {
        "synthetic": True,
        "made_by": made_by,
        "model": {"name": models.head.name, "sha256": models.head.sha256},
        "device": models.device.type,
        "options": asdict(options),
        "portrait": asdict(portrait.pose),
        "latents": latents_report(made.fit),
        "quality": asdict(quality),
        "refinement": refinement_report(options.refinement, made.refinement),
        "mesh": {
            "vertices": len(mesh.vertices),
            "faces": len(mesh.faces),
            "watertight": is_watertight(mesh),
            "openings": len(border_loops(mesh)),
            "height_m": height_m(mesh),
        },
        "anchors_m": {
            name: (to_metres[:3, :3] @ np.asarray(point) + to_metres[:3, 3]).tolist()
            for name, point in head.anchors.items()
        },
        "camera": {
            "cam2world": portrait.camera.cam2world.tolist(),
            "intrinsics": portrait.camera.intrinsics.tolist(),
            "head_from_mesh": np.linalg.inv(to_metres).tolist(),
            "photo_from_crop": portrait.photo_from_crop.tolist(),
        },
        "seconds": {stage: round(duration, 3) for stage, duration in seconds.items()},
        "peak_memory_mb": peak_memory_mb(),
        "warnings": [*warnings_of(made), *notes],
    }


def latents_report(fit: WPlusFit | None) -> dict[str, Any]:
    """How the latents were found; losses before and after as `PictureLoss` has them, None where encoders found them."""
    if fit is None:
        return {"found_by": "encoders", "steps": 0, "colour_loss": None, "mask_loss": None}
    return {
        "found_by": "w_plus_optimisation",
        "steps": fit.steps,
        "colour_loss": [fit.before.colour, fit.after.colour],
        "mask_loss": [fit.before.mask, fit.after.mask],
    }


def refinement_report(level: str, refinement: Refinement | None) -> dict[str, Any]:
    """What fitting the head to its photo did; lengths are metres, None where nothing was measured."""
    if refinement is None:
        return {"level": level, "steps": 0, "outline_m": None, "landmarks_m": None}
    before, after = refinement.before, refinement.after
    landmarks = None
    if before.landmarks is not None and after.landmarks is not None:
        landmarks = [before.landmarks * METRES_PER_UNIT, after.landmarks * METRES_PER_UNIT]
    return {
        "level": level,
        "steps": refinement.steps,
        "outline_m": [before.outline * METRES_PER_UNIT, after.outline * METRES_PER_UNIT],
        "landmarks_m": landmarks,
    }


def warnings_of(made: Reconstruction) -> list[str]:
    """What the user should know though there is a head."""
    warnings = photo_warnings(made.portrait, made.photo_size)
    missed = made.refinement is not None and made.refinement.before.outline > FAR_OUTLINE
    if made.quality.matte_iou < LOW_MATTE_IOU or missed:
        warnings.append(
            "The head's outline differs from the photo; hair, a hat or a scarf may be missing. "
            "Use a photo without them, before a plain background."
        )
    return warnings


def check_options(options: Options) -> None:
    """Raise BadOption for a value that cannot be used."""
    if options.device not in DEVICES:
        raise BadOption(f"There is no device called {options.device!r}.", f"Choose one of {', '.join(DEVICES)}.")
    if options.refinement not in LEVELS:
        raise BadOption(
            f"The head cannot be fitted to its photo {options.refinement!r}.", f"Choose one of {', '.join(LEVELS)}."
        )
    for name, choices in (("neck", NECKS), ("symmetry", SYMMETRIES)):
        value = getattr(options, name)
        if value not in choices:
            raise BadOption(f"The {name} cannot be {value!r}.", f"Choose one of {', '.join(choices)}.")
    if not 0 <= options.delight <= 1:
        raise BadOption(
            f"The share of light taken out cannot be {options.delight}.", "Choose a number from 0 to 1 for delight."
        )
    for name, (lowest, highest) in LIMITS.items():
        value = getattr(options, name)
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise BadOption(f"The {name} cannot be {value}.", f"Choose a whole number from {lowest} to {highest}.")


def choose_device(name: str) -> torch.device:
    """The torch device of an option; "auto" takes the fastest there is. Raises DeviceUnavailable, BadOption."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise BadOption(f"There is no device called {name!r}.", f"Choose one of {', '.join(DEVICES)}.")
    if not available[name]:
        raise DeviceUnavailable(f"The device {name} is not available on this computer.")
    return torch.device(name)


@contextmanager
def memory_shortage_named() -> Iterator[None]:
    """Turn the many ways in which numpy and torch run out of memory into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory from error
        raise


def peak_memory_mb() -> float | None:
    """Most memory this process has held so far; None on Windows, whose Python does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes on Linux
