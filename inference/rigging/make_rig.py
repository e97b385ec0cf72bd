"""A finished head's folder gets an animatable head beside it: fitted, painted, written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import head_file
from ..alignment import MESH_POINTS
from ..errors import LandmarksMissing
from ..head_source import HeadSource
from ..messages import Options
from ..pipeline import SHARES, VIEWS_SHARE, Models, field_of, memory_shortage_named, paint
from ..progress import Progress, Stages, silent
from ..reuse import folder_albedo
from ..side_by_side import in_order
from ..silhouette import ColouredField
from ..surface import Mesh
from ..template import EYE_LEFT, LANDMARKS, SKIN, RigTemplate, load_rig_template, triangles
from ..tri_grid import TriGrid
from .bare_skin import paint_bare_skin
from .eyes import paint_eyes, read_iris
from .fit import SHOWN_SKIN, RigFit, fit_rig
from .hair import cut_hair, hair_field, hair_picture
from .mouth import paint_mouth, read_teeth
from .observation import observe
from .rig_file import (
    EYES_NAME,
    HAIR_NAME,
    MOUTH_NAME,
    NORMAL_NAME,
    SKIN_NAME,
    SURFACE_NAME,
    rig_arrays,
    write_rig,
)
from .skin_maps import normal_map, surface_map
from .uv_picture import sampled

FloatArray = NDArray[np.floating]

RIG_SHARES = {  # CPU seconds of each stage, as in `pipeline.SHARES`
    "read": 1.0,
    "fit": 8.0,
    "hair": 4.5,
    "bake": SHARES["bake"],
    "maps": 3.0,
    "write": SHARES["write"],
}
GREY = np.full(3, 0.5)  # stands for the skin's colour where no skin was seen
IRIS_GUESSED = "The photo does not show the irises plainly; they are painted brown."


def make_rig(
    folder: Path, options: Options, models: Models, progress: Progress = silent, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Make the head of a result folder animatable, and write it into that folder.

    options, notes: as `reuse.folder_options` gives them; `options.texture` is the skin picture's side.
    Returns:        what was written and how well it fits.
    Raises:         the errors of errors.py, LandmarksMissing among them. An earlier rig stays as it was on errors.
    """
    stages = Stages(shares_of_rig(models), progress)
    with memory_shortage_named():
        with stages.stage("read", "Reading the head"):
            head_file.check_model(folder, models.head)
            kept = head_file.read(folder, models.device)
            template = load_rig_template()
            source, portrait = kept.source, kept.source.portrait
            if len(portrait.landmarks) < LANDMARKS or not np.isfinite(portrait.landmarks[:MESH_POINTS]).all():
                raise LandmarksMissing()
            finished = kept.finished
            albedo = folder_albedo(folder, len(finished.visibility_map))
            seen = observe(
                finished.mesh,
                finished.uv,
                albedo,
                portrait.landmarks,
                portrait.camera,
                len(portrait.image),
                finished.visibility,
            )
            whole = source.whole(models.head.generator)
            field = field_of(source, whole, options.symmetry, models)
        with stages.stage("fit", "Fitting the face's shape") as step:
            fit = fit_rig(template, seen, step)
        with stages.stage("hair", "Cutting the hair") as step:
            where = hair_field(template, fit, seen, portrait, field)
            hair = cut_hair(template, fit, seen, finished.uv[finished.mesh.faces], where, step)
        baked = paint_skin(template, fit, source, whole, field, options, models, stages)
        with stages.stage("maps", "Painting eyes, mouth and hair"):
            skin = paint_bare_skin(template, fit.photographed, baked, fit.skin, hair.covering, hair.colour)
            face = sampled(template, skin, (SKIN,))[fit.skin > SHOWN_SKIN]
            iris = read_iris(portrait)
            teeth = read_teeth(portrait.image / 255, portrait.landmarks[:, :2])
            if teeth is None:
                teeth = (1 + iris.exposure) / 2  # darker as the eyes are, but not in the brows' shade
            tasks: dict[str, Callable[[], NDArray[np.uint8]]] = {  # the longest first
                NORMAL_NAME: lambda: normal_map(template, fit.photographed, fit.skin, seen.nearest, options.texture),
                MOUTH_NAME: lambda: paint_mouth(template, np.median(face, axis=0) if len(face) else GREY, teeth),
                EYES_NAME: lambda: paint_eyes(template, iris),
                SURFACE_NAME: lambda: surface_map(template, hair.covering, options.texture),
            }
            if len(hair.mesh.faces):
                tasks[HAIR_NAME] = lambda: hair_picture(hair, albedo)
            pictures = {SKIN_NAME: skin} | dict(in_order(lambda name: tasks[name](), [*tasks]))
        with stages.stage("write", "Writing the files"):
            files = write_rig(folder, rig_arrays(template, fit, hair), pictures)
    return {
        "files": files,
        "quality": asdict(fit.quality),
        "expression": {
            name: round(float(weight), 3)
            for name, weight in zip(template.expression_names, fit.actions, strict=True)
            if weight > 0
        },
        "iris": {"srgb": [round(float(value), 3) for value in iris.srgb], "seen_in_photo": iris.known},
        "hair_faces": len(hair.mesh.faces),
        "seconds": {stage: round(duration, 3) for stage, duration in stages.seconds.items()},
        "warnings": [*notes, *([] if iris.known else [IRIS_GUESSED])],
    }


def shares_of_rig(models: Models) -> dict[str, float]:
    """CPU seconds of each stage, as in `pipeline.SHARES`."""
    shares = dict(RIG_SHARES)
    if models.head.generator.config.superresolution:
        shares["views"] = VIEWS_SHARE
    return shares


def paint_skin(
    template: RigTemplate,
    fit: RigFit,
    source: HeadSource,
    whole: TriGrid,
    field: ColouredField,
    options: Options,
    models: Models,
    stages: Stages,
) -> NDArray[np.uint8]:
    """(t, t, 3) sRGB the skin's picture: as the head itself, from the photo where it saw and the model elsewhere."""
    quads = template.part < EYE_LEFT
    corners = np.stack([template.faces[quads].ravel(), template.uv_faces[quads].ravel()], axis=1)
    split, numbered = np.unique(corners, axis=0, return_inverse=True)  # one vertex for each side of a seam
    mesh = Mesh(fit.photographed[split[:, 0]], triangles(numbered.reshape(-1, 4)))
    # The photo's hair carried on would grow on the template's skin, ears and scalp alike.
    options = replace(options, detail=False)
    return paint(mesh, template.uv[split[:, 1]], source, whole, field, options, models, stages).albedo
