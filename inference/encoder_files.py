"""The files of the published dual encoders as named tensors: torch's checkpoints and the average latent beside them.

They are Bilecen et al.'s (NeurIPS 2024, arXiv 2409.20530): visible_net.pt, occluded_net.pt, latent_avg.npy. What is in
them beside the encoders is not documented, so any nesting is searched. Like PanoHead's, such files can ask for code to
be run; torch's restricted reader and numpy's without pickles refuse that, and here the refusals get words.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import SourceDamaged, SourceMissing, SourceRefused, SourceUnsupported, is_out_of_memory
from .panohead_pickle import check_file, short

LATENT_KEY = "latent_avg"  # pSp's training keeps it beside the state dict

# An encoder has 250 million numbers, 1 GB; with a generator and the optimiser's three copies, 5 GB.
LARGEST_CHECKPOINT = 6 * 2**30  # bytes
LARGEST_RECORD = 64 * 2**20  # bytes of the pickle that names a checkpoint's tensors; they lie outside it
LARGEST_LATENT_FILE = 2**20  # bytes; 14 x 512 doubles are a twentieth
MOST_TENSORS = 20_000  # an encoder has 1,000
DEEPEST = 8  # dicts in dicts
LONGEST_KEY = 256  # characters

ZIP_START = b"PK\x03\x04"  # by which torch itself tells its two formats apart
REFUSED_NAME = re.compile(r"GLOBAL (\S+)")  # in what torch says of a name it does not allow


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by the names that lead to them, joined by dots, on the CPU.

    Raises SourceMissing, SourceRefused where the file asks for code to be run, SourceDamaged where it cannot be read or
    claims sizes that cannot be true.
    """
    check_file(path, LARGEST_CHECKPOINT)
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP_START)) == ZIP_START
    except OSError as error:
        raise SourceMissing(f"The file {path} cannot be read ({error.strerror or error}).") from error
    try:
        if zipped:
            check_archive(path)
        # Mapped, a training's other networks and the optimiser never enter the memory. The older format cannot be.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (SourceDamaged, SourceRefused):
        raise
    except Exception as error:
        # What torch raises of a broken or hostile file is not documented: nearly every built-in error, and pickle's
        # UnpicklingError. That class has no base but Exception, and its module may not be imported here.
        if is_out_of_memory(error):
            raise
        name = REFUSED_NAME.search(str(error))
        if name is not None:
            raise refused(path, short(name[1].rstrip("."))) from error
        raise SourceDamaged(f"The file {path.name} is damaged, or no checkpoint of torch.") from error
    tensors = named_tensors(content)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    if len(tensors) > MOST_TENSORS or numbers > path.stat().st_size:  # views of a few bytes may claim any size
        raise SourceDamaged(f"The file {path.name} claims {len(tensors):,} tensors of {numbers:,} numbers.")
    return tensors


def check_archive(path: Path) -> None:
    """Whether a zip archive is one torch.save writes.

    Raises SourceRefused for a program, SourceDamaged for packed entries, which could unpack to any size, and
    zipfile.BadZipFile.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        name = entry.filename.split("/")[-1]
        if name == "constants.pkl":
            raise refused(path, "a TorchScript program to be run")
        if entry.compress_type != zipfile.ZIP_STORED or (name == "data.pkl" and entry.file_size > LARGEST_RECORD):
            raise SourceDamaged(f"The file {path.name} is not packed as torch packs checkpoints.")


def refused(path: Path, what: str) -> SourceRefused:
    """The error for something no encoder needs."""
    return SourceRefused(f"The file {path.name} asks for {what}, which no model needs. Nothing of it was run.")


def named_tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of nested dicts, by their keys joined by dots; each dict counts once, wherever it is met again."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(DEEPEST):
        deeper: list[tuple[str, Any]] = []
        for prefix, value in level:
            if not isinstance(value, dict) or id(value) in seen:
                continue
            seen.add(id(value))
            for key, member in value.items():
                # The optimiser's state has numbers for keys. Names go into messages, so odd ones are left out.
                if isinstance(key, str) and len(key) <= LONGEST_KEY and key.isprintable():
                    deeper.append((f"{prefix}{key}", member))
        found |= {name: value.detach() for name, value in deeper if is_plain(value)}
        level = [(f"{name}.", value) for name, value in deeper]
    return found


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor with numbers in memory: neither sparse, quantised nor without content."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def inner_latent(tensors: Mapping[str, Tensor], file: str) -> Tensor | None:
    """The average latent a checkpoint itself holds, or None. Raises SourceUnsupported where it holds several."""
    found = [key for key in tensors if key == LATENT_KEY or key.endswith(f".{LATENT_KEY}")]
    if len(found) > 1:
        raise SourceUnsupported(
            f"The file {file} holds several average latents: {', '.join(found)}.", f"Give {LATENT_KEY}.npy too."
        )
    return tensors[found[0]] if found else None


def read_latent(path: Path) -> Tensor:
    """The average latent in a .npy file, float32 of the file's shape.

    Raises SourceMissing, SourceRefused where it holds Python objects, SourceDamaged, SourceUnsupported.
    """
    check_file(path, LARGEST_LATENT_FILE)
    try:
        # Mapped, an array that claims to be longer than its file is an error and takes no memory; so are Python
        # objects, for which there is nothing to map. Unlike numpy.load, this reads no other format.
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OverflowError, EOFError, OSError) as error:
        if "Python objects" in str(error):
            raise refused(path, "Python objects") from error
        raise SourceDamaged(f"The file {path.name} is damaged, or no array of numpy.") from error
    if array.dtype.kind != "f":
        raise SourceUnsupported(
            f"The file {path.name} holds {array.dtype} values, not floating-point numbers.",
            "Choose the file that came with the encoders.",
        )
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused where it is used
        return torch.from_numpy(np.array(array, dtype=np.float32))
