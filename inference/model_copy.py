"""A user's files become a model that Blender offers: published ones are converted, a finished one copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from . import checkpoints, conversion
from .conversion import Converted
from .errors import OutputNotWritable, SourceDamaged, SourceMissing, WeightsDamaged
from .progress import Progress

CHUNK = 2**24  # bytes copied between two calls of progress; a slow disk takes a fraction of a second
CHECK_SHARE = 0.1  # of the progress: shapes are compared before anything is copied


def convert_or_copy(sources: Sequence[Path], out: Path, progress: Progress) -> Converted:
    """Write the model in `sources` as `out`, in a folder the caller makes and, if this fails, removes.

    sources: one model file; or what `conversion.convert` takes.

    Raises what `conversion.convert` and `copy_model` raise.
    """
    if len(sources) == 1 and sources[0].suffix.lower() == checkpoints.SUFFIX:
        return copy_model(sources[0], out, progress)
    return conversion.convert(sources, out, False, progress)


def copy_model(source: Path, out: Path, progress: Progress) -> Converted:
    """Copy a model file whose tensors fit the networks it tells of, and whose checksum is the one noted beside it.

    Raises SourceMissing, WeightsDamaged, SourceDamaged where the file changes meanwhile, OutputNotWritable.
    """
    if not source.is_file():
        raise SourceMissing(f"There is no file {source}.")
    progress(0.0, "Checking the weights")
    expected = checkpoints.noted_sha256(source)
    config = check_fit(source)
    total = max(source.stat().st_size, 1)
    digest, copied = hashlib.sha256(), 0
    try:
        with source.open("rb") as old, out.open("xb") as new:
            while chunk := old.read(CHUNK):
                new.write(chunk)
                digest.update(chunk)
                copied += len(chunk)
                share = CHECK_SHARE + (1.0 - CHECK_SHARE) * copied / total
                progress(min(share, 1.0), "Copying the model")
            new.flush()
            os.fsync(new.fileno())  # a full disk is told now, and not after the user was told that all is well
    except OSError as error:
        raise OutputNotWritable(
            f"The model {source.name} cannot be copied ({error.strerror or error}).",
            "Check that both disks can be used and that there is enough free space.",
        ) from error
    if copied != total:
        raise SourceDamaged(f"The file {source.name} changed while it was copied.", "Choose it again when it is whole.")
    checkpoints.require_sha256(source, digest.hexdigest(), expected)
    return Converted(out, copied, digest.hexdigest(), str(config.get("licence", "")))


def check_fit(path: Path) -> dict[str, Any]:
    """What a model file says of itself, once its tensors' names and shapes are those of the networks it tells of.

    Its weights are not read. Raises WeightsDamaged.
    """
    config, tensors = read_shapes(path)
    try:
        with torch.device("meta"):  # shapes without memory
            networks = zip(("generator", "visible", "occluded"), checkpoints.new_networks(config), strict=True)
            wanted = {
                f"{part}.{key}": value for part, net in networks if net for key, value in net.state_dict().items()
            }
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsDamaged(f"The weights file {path.name} does not fit together.") from error
    problems = conversion.differences(tensors, wanted)
    if problems:
        raise WeightsDamaged(
            f"The weights file {path.name} does not fit together. {'; '.join(problems)}.",
            "Copy or convert the model again.",
        )
    return config


def read_shapes(path: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """As `checkpoints.read`, with tensors that have shapes and no values. Raises WeightsDamaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata()
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
    except SafetensorError as error:
        raise WeightsDamaged(f"The weights file {path.name} is damaged.", "Copy or convert the model again.") from error
    config = checkpoints.parse_config(metadata, path.name)
    return config, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
