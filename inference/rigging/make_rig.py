"""A finished head's folder gets an animatable head beside it: fitted, painted, written."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..surface import Mesh
from ..template import EYE_LEFT, LANDMARKS, RigTemplate, load_rig_template, triangles
from .fit import RigFit, fit_rig
from .observation import observe
from .rig_file import RIG_NAME, SKIN_NAME, rig_arrays, write_rig

FloatArray = NDArray[np.floating]

FIT_SHARE = 10.0  # CPU seconds, as in `pipeline.SHARES`
READ_SHARE = 1.0


def make_rig(
    folder: Path, options: Options, models: Models, progress: Progress = silent, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Make the head of a result folder animatable, and write it into that folder.

    options, notes: as `reuse.folder_options` gives them; `options.texture` is the skin picture's side.
    Returns:        what was written and how well it fits.
    Raises:         the errors of errors.py, LandmarksMissing among them. An earlier rig stays as it was on errors.
    """
    shares = {"read": READ_SHARE, "fit": FIT_SHARE, "bake": SHARES["bake"], "write": SHARES["write"]}
    if models.head.generator.config.superresolution:
        shares["views"] = VIEWS_SHARE
    stages = Stages(shares, progress)
    with memory_shortage_named():
        with stages.stage("read", "Reading the head"):
            head_file.check_model(folder, models.head)
            kept = head_file.read(folder, models.device)
            template = load_rig_template()
            portrait = kept.source.portrait
            if len(portrait.landmarks) < LANDMARKS or not np.isfinite(portrait.landmarks[:MESH_POINTS]).all():
                raise LandmarksMissing()
            finished = kept.finished
            albedo = folder_albedo(folder, len(finished.visibility_map))
            seen = observe(finished.mesh, finished.uv, albedo, portrait.landmarks, portrait.camera, len(portrait.image))
        with stages.stage("fit", "Fitting the face's shape") as step:
            fit = fit_rig(template, seen, step)
        skin = paint_skin(template, fit, kept.source, options, models, stages)
        with stages.stage("write", "Writing the files"):
            write_rig(folder, rig_arrays(template, fit), skin)
    return {
        "files": [RIG_NAME, SKIN_NAME],
        "quality": asdict(fit.quality),
        "expression": {
            name: round(float(weight), 3)
            for name, weight in zip(template.expression_names, fit.actions, strict=True)
            if weight > 0
        },
        "seconds": {stage: round(duration, 3) for stage, duration in stages.seconds.items()},
        "warnings": list(notes),
    }


def paint_skin(
    template: RigTemplate, fit: RigFit, source: HeadSource, options: Options, models: Models, stages: Stages
) -> NDArray[np.uint8]:
    """(t, t, 3) sRGB the skin's picture: as the head itself, from the photo where it saw and the model elsewhere."""
    quads = template.part < EYE_LEFT
    corners = np.stack([template.faces[quads].ravel(), template.uv_faces[quads].ravel()], axis=1)
    split, numbered = np.unique(corners, axis=0, return_inverse=True)  # one vertex for each side of a seam
    mesh = Mesh(fit.photographed[split[:, 0]], triangles(numbered.reshape(-1, 4)))
    whole = source.whole(models.head.generator)
    field = field_of(source, whole, options.symmetry, models)
    # The photo's hair carried on would grow on the template's skin, ears and scalp alike.
    options = replace(options, detail=False)
    head = paint(mesh, template.uv[split[:, 1]], source, whole, field, options, models, stages)
    return head.albedo
