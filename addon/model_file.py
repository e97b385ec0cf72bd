"""A model file seen from Blender: its header, read with the standard library alone, and its place among the others.

No bpy in here, and no torch: a safetensors file begins with the length of its header, 8 bytes, little-endian, and the
header, which is JSON. It names each tensor's type, shape and bytes, and in `__metadata__` the file's own words.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..inference.messages import CHECKSUM_SUFFIX, MODEL_FORMAT, MODEL_METADATA_KEY, MODEL_SUFFIX

LENGTH_BYTES = 8
LONGEST_HEADER = 2**23  # bytes; a full-size model's is a twentieth of it, and Blender waits while it is read
TYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
GENERATOR, ENCODERS = {"generator"}, {"visible", "occluded"}  # prefixes of tensors
UNFIT_FOR_FILES = r'[<>:"/\\|?*\x00-\x1f]'  # on Windows, the strictest
GET_AGAIN = "Copy or download the file again."


class ModelUnusable(Exception):
    """No model comes of a file: `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True)
class ModelFile:
    """What a model file tells of itself.

    size:           bytes.
    licence:        its maker's words; "" where there are none.
    commercial_use: whether they allow it; None where they do not say.
    has_encoders:   a head takes seconds; a generator alone has to search each head's latents for minutes.
    """

    path: Path
    size: int
    licence: str
    commercial_use: bool | None
    has_encoders: bool


def inspect_model(path: Path) -> ModelFile | ModelUnusable:
    """What a file tells of itself, or why it is no model; read again only when it has changed, for panels ask often."""
    try:
        now = path.stat()
    except OSError as error:
        return _unreadable(path, error)
    return _inspect_model(path, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=256)
def _inspect_model(path: Path, _mtime_ns: int, _size: int) -> ModelFile | ModelUnusable:
    try:
        return read_model_file(path)
    except ModelUnusable as error:
        return error


def read_model_file(path: Path) -> ModelFile:
    """Read the header and hold it against the file's length; no weight is read. Raises ModelUnusable."""
    header, start, size = _read_header(path)
    config = _own_words(header.pop("__metadata__", None), path)
    try:
        spans = sorted((*tensor["data_offsets"], tensor["dtype"], tensor["shape"]) for tensor in header.values())
        end = 0
        for begin, stop, kind, shape in spans:
            if begin != end or stop - begin != TYPE_BYTES[kind] * math.prod(shape):
                raise _damaged(path)
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    if start + end != size:
        raise _damaged(path)
    parts = {name.partition(".")[0] for name in header}
    has_encoders = "encoders" in config
    if parts != (GENERATOR | ENCODERS if has_encoders else GENERATOR):
        raise _damaged(path)
    licence, commercial_use = config.get("licence"), config.get("commercial_use")
    return ModelFile(
        path,
        size,
        licence if isinstance(licence, str) else "",
        commercial_use if isinstance(commercial_use, bool) else None,
        has_encoders,
    )


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the tensors' bytes start, and where the file ends."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > min(LONGEST_HEADER, size - LENGTH_BYTES):
                raise _damaged(path)
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(header, dict):
        raise _damaged(path)
    return header, LENGTH_BYTES + length, size


def _own_words(metadata: Any, path: Path) -> dict[str, Any]:
    """Headcast's entry of the metadata."""
    text = metadata.get(MODEL_METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelUnusable(
            f"The file {path.name} holds no Headcast model.", "Choose a file that Headcast made or converted."
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(config, dict):
        raise _damaged(path)
    if config.get("format") != MODEL_FORMAT:
        raise ModelUnusable(
            f"The file {path.name} was made for another version of Headcast.",
            "Update Headcast, or choose another model.",
        )
    return config


def _unreadable(path: Path, error: OSError) -> ModelUnusable:
    return ModelUnusable(f"The file {path} cannot be read ({error.strerror or error}).", "Check the file, or copy it.")


def _damaged(path: Path) -> ModelUnusable:
    return ModelUnusable(f"The model file {path.name} is damaged, or no model file.", GET_AGAIN)


def place_for(name: str, sources: list[Path], folder: Path) -> Path:
    """Where the model made of `sources` will lie: named as asked, or after its generator's file.

    Raises ModelUnusable where there is nothing to name it after, or such a model already.
    """
    generators = [source for source in sources if source.suffix.lower() in (MODEL_SUFFIX, ".pkl")]
    stem = name.strip().removesuffix(MODEL_SUFFIX) or (generators[0].stem if generators else "")
    stem = re.sub(UNFIT_FOR_FILES, "_", stem).strip(". ")  # Windows drops them at the end; elsewhere a dot hides a file
    if not stem:
        raise ModelUnusable(
            "None of the files is a generator.",
            f"Choose PanoHead's .pkl file with the encoders' files, or a {MODEL_SUFFIX} file.",
        )
    place = folder / (stem + MODEL_SUFFIX)
    if place.exists():
        raise ModelUnusable(
            f"There is a model named {stem} already.", "Give the new one another name, or remove the other one first."
        )
    return place


def publish(fresh: Path, sha256: str, place: Path) -> None:
    """Bring a finished model from beside its place to it, with its checksum in a file beside it.

    The model comes last, so it is never there without its checksum. Raises OSError; then neither file is there.
    """
    note, fresh_note = _beside(place), _beside(fresh)
    fresh_note.write_text(f"{sha256}  {place.name}\n", encoding="utf-8")
    os.replace(fresh_note, note)
    try:
        os.replace(fresh, place)
    except OSError:
        note.unlink()
        raise


def remove(place: Path) -> None:
    """Delete a model and its checksum. Raises OSError; then the model is still there."""
    place.unlink()
    _beside(place).unlink(missing_ok=True)


def noted_sha256(place: Path) -> str:
    """The checksum in the file beside a model; "" without one."""
    try:
        return _beside(place).read_text(encoding="utf-8").partition(" ")[0]
    except OSError:
        return ""


def _beside(place: Path) -> Path:
    return place.with_name(place.name + CHECKSUM_SUFFIX)
