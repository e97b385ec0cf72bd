"""Weights on disk: one safetensors file holds a generator, its two encoders if any, and the sizes to rebuild them.

The file's metadata has one entry, `headcast`: JSON with the format's number, the model's name, the sizes of generator
and encoders, and what its maker says of licence and training. Tensors lie under the prefixes generator., visible. and
occluded., in half precision unless the file was converted, and run in single precision; whole numbers stay what they
are. Reading such a file runs none of its content. A file beside a model may hold its sha256, which must then match:
index.json for all bundled ones, NAME.safetensors.sha256 for any other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .encoder_weights import empty_encoder
from .encoders import Encoder, EncoderConfig, OccludedEncoder, VisibleEncoder
from .errors import WeightsDamaged, WeightsMissing
from .generator import GeneratorConfig, TriPlaneGenerator
from .messages import CHECKSUM_SUFFIX, MODEL_FORMAT, MODEL_METADATA_KEY, MODEL_SUFFIX
from .panohead_encoders import KIND as PANOHEAD_KIND
from .panohead_encoders import PanoHeadEncoderConfig

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
INDEX_FILE = WEIGHTS_FOLDER / "index.json"  # sha256 of each bundled file, by file name
METADATA_KEY, FORMAT, SUFFIX = MODEL_METADATA_KEY, MODEL_FORMAT, MODEL_SUFFIX  # the add-on reads such files too
SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_CHECKSUM_FILE = 4096  # bytes; one line with a file's name


@dataclass(frozen=True)
class HeadModel:
    """The networks of one model, ready to use: on their device, in single precision, without gradients.

    visible, occluded: both, or None where the file holds a generator alone (see w_plus_optimisation).
    config:            the file's own words about itself (format, name, sizes, licence, training).
    sha256:            of the whole file, hexadecimal.
    """

    generator: TriPlaneGenerator
    visible: Encoder | None
    occluded: Encoder | None
    config: dict[str, Any]
    sha256: str
    name: str


def load(name_or_path: str | Path, device: torch.device | str = "cpu") -> HeadModel:
    """Read a bundled model by name, or any by the path of its file.

    Raises WeightsMissing when there is no such file, WeightsDamaged when it cannot be read, is of another format, or
    does not have the checksum noted beside it.
    """
    path = find(name_or_path)
    digest = checked_sha256(path)
    config, tensors = read(path)
    try:
        generator, visible, occluded = new_networks(config)
        for part, network in (("generator", generator), ("visible", visible), ("occluded", occluded)):
            if network is not None:
                fill(network, tensors, part, device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsDamaged(f"The weights file {path.name} does not fit together.") from error
    return HeadModel(generator, visible, occluded, config, digest, config["name"])


def new_networks(config: Mapping[str, Any]) -> tuple[TriPlaneGenerator, Encoder | None, Encoder | None]:
    """Generator, visible and occluded encoder of the sizes a file tells, without its values.

    Both encoders are None for a generator alone. Raises KeyError, TypeError or ValueError where the file's words do not
    make sense.
    """
    sizes = GeneratorConfig.from_dict(config["generator"])
    with torch.device("meta"):  # without memory until the values come, and without drawing any at random
        generator = TriPlaneGenerator(sizes)
    if "encoders" not in config:
        return generator, None, None
    visible, occluded = (
        new_encoder(kind, config["encoders"][part], sizes)
        for kind, part in ((VisibleEncoder, "visible"), (OccludedEncoder, "occluded"))
    )
    return generator, visible, occluded


def new_encoder(
    starter: type[VisibleEncoder] | type[OccludedEncoder], described: Mapping[str, Any], generator: GeneratorConfig
) -> Encoder:
    """An encoder as `Encoder.describe` told of it, without its values; of the class `starter` if no kind is told.

    Raises KeyError, TypeError or ValueError where the description does not make sense.
    """
    sizes = dict(described)
    kind = sizes.pop("kind", None)
    if kind is None:
        return starter(EncoderConfig.from_dict(sizes), generator, generator.num_ws)
    if kind != PANOHEAD_KIND:
        raise ValueError(f"unknown kind of encoder: {kind}")
    return empty_encoder(PanoHeadEncoderConfig.from_dict(sizes), generator)


def load_generator(name_or_path: str | Path, device: torch.device | str = "cpu") -> TriPlaneGenerator:
    """The generator alone, also of a file without encoders. Raises as `load` does."""
    path = find(name_or_path)
    checked_sha256(path)
    config, tensors = read(path)
    return new_generator(config, tensors, path.name, device)


def new_generator(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], file: str, device: torch.device | str = "cpu"
) -> TriPlaneGenerator:
    """The generator in what `read` gave; `file` is for messages. Raises WeightsDamaged."""
    try:
        with torch.device("meta"):
            generator = TriPlaneGenerator(GeneratorConfig.from_dict(config["generator"]))
        fill(generator, tensors, "generator", device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsDamaged(f"The weights file {file} does not fit together.") from error
    return generator


def save(
    path: Path,
    generator: TriPlaneGenerator,
    visible: Encoder | None,
    occluded: Encoder | None,
    name: str,
    info: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> str:
    """Write a model.

    visible, occluded: both, or None for a generator without encoders.
    info:              added to the metadata, such as `licence` and `training`; plain values for JSON.
    dtype:             of the stored tensors; half precision keeps a bundled file small.
    Returns: the file's sha256. Raises ValueError where a weight is not finite or too large for half precision.
    """
    config: dict[str, Any] = {"format": FORMAT, "name": name, "generator": generator.config.to_dict(), **info}
    networks: dict[str, nn.Module] = {"generator": generator}
    if visible is not None and occluded is not None:
        networks |= {"visible": visible, "occluded": occluded}
        config["encoders"] = {"visible": visible.describe(), "occluded": occluded.describe()}
    tensors: dict[str, Tensor] = {}
    held: set[int] = set()
    for part, network in networks.items():
        for key, value in network.state_dict().items():
            kept = dtype if value.is_floating_point() else value.dtype
            stored = value.detach().to("cpu", kept).contiguous()
            if not torch.isfinite(stored).all():
                raise ValueError(f"{part}.{key} does not fit in {dtype}")
            # The format takes no two tensors over one memory. Copying all would double the gigabytes of a large model.
            if stored.untyped_storage().data_ptr() in held:
                stored = stored.clone()
            held.add(stored.untyped_storage().data_ptr())
            tensors[f"{part}.{key}"] = stored
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(config)})
    return sha256_of(path)


def note_bundled(path: Path) -> None:
    """Record a file of the weights folder as bundled: from now on its checksum must match."""
    index = json.loads(INDEX_FILE.read_text(encoding="utf-8")) if INDEX_FILE.exists() else {}
    index[path.name] = sha256_of(path)
    INDEX_FILE.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def find(name_or_path: str | Path) -> Path:
    """The file of a model. Raises WeightsMissing."""
    is_path = str(name_or_path).endswith(SUFFIX)
    path = Path(name_or_path) if is_path else WEIGHTS_FOLDER / f"{name_or_path}{SUFFIX}"
    if not path.is_file():
        raise WeightsMissing(f"The weights of the model {name_or_path} are missing.")
    return path


def checked_sha256(path: Path) -> str:
    """The file's sha256. Raises WeightsDamaged when another one is noted beside it."""
    digest = sha256_of(path)
    require_sha256(path, digest, noted_sha256(path))
    if path.resolve().parent == WEIGHTS_FOLDER.resolve() and INDEX_FILE.exists():
        expected = json.loads(INDEX_FILE.read_text(encoding="utf-8")).get(path.name, digest)
        if digest != expected:
            raise WeightsDamaged()
    return digest


def noted_sha256(path: Path) -> str | None:
    """What the checksum file beside a model says of it, or None without one. Raises WeightsDamaged if it says nothing.

    The file is as `sha256sum` writes it: 64 hexadecimal digits, then the file's name.
    """
    beside = path.with_name(path.name + CHECKSUM_SUFFIX)
    if not beside.exists():
        return None
    with beside.open("rb") as file:
        words = file.read(LONGEST_CHECKSUM_FILE).decode("utf-8", errors="replace").lower().split()
    if not words or not SHA256.fullmatch(words[0]):
        raise WeightsDamaged(f"The file {beside.name} holds no SHA-256.", "Copy it again, or delete it.")
    return words[0]


def require_sha256(path: Path, found: str, expected: str | None) -> None:
    """Raises WeightsDamaged where a checksum is expected and another was found."""
    if expected is not None and found != expected:
        raise WeightsDamaged(
            f"The model {path.name} is damaged: its checksum is not the one in {path.name}{CHECKSUM_SUFFIX}.",
            "Copy or download the model again.",
        )


def sha256_of(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of itself, and its tensors as stored, on the CPU. Raises WeightsDamaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise WeightsDamaged(f"The weights file {path.name} is damaged.") from error
    return parse_config(metadata, path.name), tensors


def parse_config(metadata: Mapping[str, str] | None, file: str) -> dict[str, Any]:
    """What a file says of itself, from its metadata. Raises WeightsDamaged."""
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        raise WeightsDamaged(
            f"The file {file} holds no Headcast model.", "Choose a weights file that Headcast made or converted."
        )
    try:
        config: dict[str, Any] = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise WeightsDamaged(f"The weights file {file} is damaged.") from error
    if config.get("format") != FORMAT:
        raise WeightsDamaged(
            f"The weights file {file} was made for another version of Headcast.",
            "Update Headcast, or choose another model.",
        )
    return config


def fill(network: nn.Module, tensors: Mapping[str, Tensor], part: str, device: torch.device | str) -> None:
    """Give a network the tensors under its prefix and make it ready to use; raises RuntimeError if they do not fit."""
    prefix = f"{part}."
    state = {
        # A copy: tensors as read are the mapped file, which the user may want to replace or remove.
        key.removeprefix(prefix): value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    network.load_state_dict(state, strict=True, assign=True)
    network.to(device).eval().requires_grad_(False)
