"""Published weights become a model file of Headcast: PanoHead's pickle to safetensors with its sizes and its licence.

PanoHead: An et al., CVPR 2023, arXiv 2303.13071. Its settings are translated to ours one by one; one that is unknown,
or has a value the generator here does not compute, ends the conversion, because the heads would silently differ.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoints, panohead_pickle
from .errors import BadOption, OutputExists, OutputNotWritable, SourceDamaged, SourceUnsupported
from .generator import GeneratorConfig, TriPlaneGenerator
from .job_folder import umask
from .panohead_pickle import Network, StoredTensor
from .progress import Progress

LICENCE = (
    "PanoHead's weights, which are not Headcast's: CC BY-NC-SA 4.0 "
    "(https://creativecommons.org/licenses/by-nc-sa/4.0/) and NVIDIA Source Code License for EG3D. "
    "Non-commercial use only, also of the heads made with them; name the authors: An et al., PanoHead, CVPR 2023, "
    "https://github.com/SizheAn/PanoHead."
)
ENCODER_SUFFIXES = {".pt", ".pth", ".npy"}  # visible_net.pt, occluded_net.pt, latent_avg.npy of arXiv 2409.20530
SHOWN_KEYS = 6  # of each list in a message

# Rows are (x, y, z): which axes a plane spans, and which runs through its slices. See tri_grid.
PLANE_AXES = [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]]
SUPERRESOLUTION = "SuperresolutionHybrid8XDC"
PARTS = {"superresolution": SUPERRESOLUTION, "decoder": "OSGDecoder", "renderer": "ImportanceRenderer"}  # their classes

CAMERA_NUMBERS = 25  # cam2world and intrinsics

# The generator here computes exactly these.
FIXED = {"architecture": "skip", "num_fp16_res": 0, "conv_clamp": None, "img_channels": 3, "c_dim": CAMERA_NUMBERS}
FIXED_RENDERING = {
    "superresolution_module": f"training.superresolution.{SUPERRESOLUTION}",
    "disparity_space_sampling": False,
    "clamp_mode": "softplus",
    "c_gen_conditioning_zero": False,
    "c_scale": 1,
    "superresolution_noise_mode": "none",
    "decoder_activation": "none",
    "decoder_lr_mul": 1,
    "use_torgb_raw": True,
    "use_background": True,
    "sr_antialias": True,
}
FIXED_IF_PRESENT = {"density_noise": 0, "white_back": False}  # noise for training, and left out where unused

# These change speed or training, not heads. The layers of super-resolution have widths of their own.
WITHOUT_EFFECT = {"fused_modconv_default", "sr_num_fp16_res"}
WITHOUT_EFFECT_SUPERRESOLUTION = {"channel_base", "channel_max", "fused_modconv_default"}
WITHOUT_EFFECT_RENDERING = {
    "image_resolution", "gpc_reg_prob", "density_reg", "density_reg_p_dist", "reg_type", "trans_reg",
    "avg_camera_radius", "avg_camera_pivot",
}  # fmt: skip

# Limits of sizes: four times the published and more. A wrong one would take all memory before any tensor is compared.
LARGEST_WIDTH = 4096
LARGEST_CHANNEL_BASE = 2**18
LARGEST_RESOLUTION = 1024  # px
MOST_LAYERS = 16
MOST_SLICES = 64
MOST_SAMPLES = 1024  # per ray
FEWEST_SAMPLES = 4  # the outermost intervals between them are left out when finer ones are placed
FARTHEST = 100.0  # box units


@dataclass(frozen=True)
class Converted:
    """What a conversion made: the file, its length in bytes, its checksum, and the model's licence."""

    path: Path
    size: int
    sha256: str
    licence: str


@dataclass(frozen=True)
class KeyMatch:
    """Tensors of a file under the names a network gives them, and all that does not fit.

    tensors:     those that fit, by the network's key.
    prefix:      what the file puts before the network's keys.
    rivals:      other prefixes under which just as many fit: two copies of the network, and no telling which is meant.
    missing:     keys of the network the file lacks.
    wrong_shape: key: (shape in the file, shape wanted).
    unexpected:  keys of the file under the prefix that the network does not know.
    outside:     keys of the file that lack the prefix; they belong to other networks.
    """

    tensors: dict[str, Tensor]
    prefix: str
    rivals: list[str]
    missing: list[str]
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unexpected: list[str]
    outside: list[str]

    def problems(self) -> list[str]:
        """What keeps the network from being filled, a line each; empty when all fits."""
        shapes = [f"{key} is {_by(found)}, not {_by(wanted)}" for key, (found, wanted) in self.wrong_shape.items()]
        lists = {
            "missing": self.missing,
            "of another shape": shapes,
            "unknown": self.unexpected,
            "equally good prefixes": [repr(prefix) for prefix in [self.prefix, *self.rivals]] if self.rivals else [],
        }
        return [f"{len(keys)} {what}: {_some(keys)}" for what, keys in lists.items() if keys]


def match_keys(tensors: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> KeyMatch:
    """Find a network's tensors in a file whose keys may carry a prefix, such as `module.` or `psp_encoder.`.

    wanted: shape of each tensor by the network's own key.

    The prefix is the one under which the most keys have the right shape; where several do, the shortest.
    """
    votes: Counter[str] = Counter()
    for key, tensor in tensors.items():
        parts = key.split(".")
        for skipped in range(len(parts)):
            shape = wanted.get(".".join(parts[skipped:]))
            if shape is not None and tuple(shape) == tuple(tensor.shape):
                votes["".join(f"{part}." for part in parts[:skipped])] += 1
    ranked = sorted(votes, key=lambda prefix: (-votes[prefix], len(prefix), prefix)) or [""]
    prefix = ranked[0]
    rivals = [other for other in ranked[1:] if votes[other] == votes[prefix]]
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    shapes = {key: (tuple(inside[key].shape), tuple(shape)) for key, shape in wanted.items() if key in inside}
    wrong = {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}
    return KeyMatch(
        tensors={key: inside[key] for key in shapes if key not in wrong},
        prefix=prefix,
        rivals=rivals,
        missing=[key for key in wanted if key not in inside],
        wrong_shape=wrong,
        unexpected=[key for key in inside if key not in wanted],
        outside=[key for key in tensors if not key.startswith(prefix)],
    )


def convert(sources: Sequence[Path], out: Path, overwrite: bool, progress: Progress) -> Converted:
    """Write the model in `sources` as `out`, which appears whole or not at all.

    sources: so far one file, PanoHead's pickle.

    Raises BadOption, OutputExists, OutputNotWritable, SourceMissing, SourceRefused, SourceDamaged, SourceUnsupported.
    """
    if out.suffix != checkpoints.SUFFIX:
        raise BadOption(f"The name {out.name} does not end in {checkpoints.SUFFIX}.", "Give --out such a name.")
    if out.exists() and not overwrite:
        raise OutputExists(f"The file {out} exists already.")
    if out.is_dir():
        raise OutputNotWritable(f"The file {out} cannot be written: it is a folder.")
    for source in sources:
        if source.suffix.lower() in ENCODER_SUFFIXES:
            raise SourceUnsupported(
                f"This version of Headcast cannot convert encoders yet ({source.name}).",
                "Give PanoHead's generator alone, a .pkl file.",
            )
    if len(sources) != 1:
        raise BadOption(f"{len(sources)} files were given, and one generator makes one model.", "Give one .pkl file.")
    (source,) = sources
    content = panohead_pickle.load(source, lambda fraction, label: progress(0.7 * fraction, label))
    progress(0.7, "Checking the weights")
    generator = read_generator(content, source.name)
    del content  # the training's other networks, two thirds of the file
    info = {
        "licence": LICENCE,
        "commercial_use": False,
        "source": {"file": source.name, "sha256": checkpoints.sha256_of(source)},
    }
    progress(0.8, "Writing the file")
    digest = write_whole(out, generator, info)
    progress(1.0, "Writing the file")
    return Converted(out, out.stat().st_size, digest, LICENCE)


def write_whole(out: Path, generator: TriPlaneGenerator, info: Mapping[str, Any]) -> str:
    """Save the generator beside its place and rename it there; returns the sha256. Raises OutputNotWritable."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", suffix=".part", dir=out.parent) as folder:
            fresh = Path(folder) / out.name
            # Single precision, as published: the authors' own numbers are met to five digits, and half precision has
            # three. These files are not bundled, so their size matters less.
            digest = checkpoints.save(fresh, generator, None, None, out.stem, info, dtype=torch.float32)
            os.chmod(fresh, 0o666 & ~umask())  # safetensors makes files for the user alone
            os.replace(fresh, out)
    except OSError as error:
        raise OutputNotWritable(f"The file {out} cannot be written ({error.strerror or error}).") from error
    return digest


def read_generator(content: Any, file: str) -> TriPlaneGenerator:
    """The averaged generator `G_ema` of a pickle's content; `file` is for messages.

    Raises SourceUnsupported, naming the settings and keys that do not match, and SourceDamaged where weights are NaN
    or infinite.
    """
    network = content.get("G_ema") if isinstance(content, dict) else None
    if not isinstance(network, Network) or network.class_name != "TriPlaneGenerator":
        raise SourceUnsupported(f"The file {file} holds no generator of PanoHead (G_ema).")
    tensors = panohead_pickle.state_dict(network, file)
    config = read_config(network, tensors, file)
    with torch.device("meta"):  # shapes without memory: the file's are compared before anything is allocated
        generator = TriPlaneGenerator(config)
    match = match_keys(tensors, {key: value.shape for key, value in generator.state_dict().items()})
    problems = match.problems()
    if match.outside:
        problems.append(f"{len(match.outside)} unknown: {_some(match.outside)}")
    if problems:
        raise SourceUnsupported(f"The tensors of {file} are not PanoHead's. {'; '.join(problems)}.")
    broken = [key for key, value in match.tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise SourceDamaged(f"The file {file} holds weights that are NaN or infinite: {_some(broken)}.")
    generator.load_state_dict(match.tensors, strict=True, assign=True)
    return generator.eval().requires_grad_(False)


def read_config(network: Network, tensors: Mapping[str, Tensor], file: str) -> GeneratorConfig:
    """Our sizes from PanoHead's settings, and from shapes where its classes hold a size as a constant.

    Raises SourceUnsupported, naming what is unknown, missing or computed otherwise here.
    """
    settings = _Settings(file, network.attribute("_init_kwargs"), "setting")
    # The training writes into the object's own copy after the first was made.
    own = network.attribute("rendering_kwargs")
    given = settings.take("rendering_kwargs")
    rendering = _Settings(file, given if own is None else own, "rendering setting")
    mapping = _Settings(file, settings.take("mapping_kwargs"), "mapping setting")
    superresolution = _Settings(file, settings.take("sr_kwargs"), "super-resolution setting")
    if network.attribute("_init_args"):
        raise SourceUnsupported(f"The generator in {file} was made with settings that have no name.")

    for key, wanted in FIXED.items():
        settings.expect(key, wanted)
    for key, wanted in FIXED_RENDERING.items():
        rendering.expect(key, wanted)
    for key, wanted in FIXED_IF_PRESENT.items():
        if key in rendering.values:
            rendering.expect(key, wanted)
    parts = network.group("_modules")
    check_parts(parts, file)

    input_resolution, widths = superresolution_sizes(tensors, file)
    settings.expect("img_resolution", 4 * input_resolution)
    planes_resolution = rendering.resolution("triplane_size")
    if input_resolution > planes_resolution:
        raise SourceUnsupported(f"The background in {file} is finer than the tri-grid.")
    config = GeneratorConfig(
        z_dim=settings.count("z_dim", LARGEST_WIDTH),
        w_dim=settings.count("w_dim", LARGEST_WIDTH),
        c_dim=CAMERA_NUMBERS,
        mapping_layers=mapping.count("num_layers", MOST_LAYERS),
        # The background has half as many channels; no layer may be left without any.
        channel_base=settings.count("channel_base", LARGEST_CHANNEL_BASE, least=2 * planes_resolution),
        channel_max=settings.count("channel_max", LARGEST_WIDTH),
        planes_resolution=planes_resolution,
        planes_depth=rendering.count("triplane_depth", MOST_SLICES),
        box_side=rendering.number("box_warp", FARTHEST),
        ray_start=rendering.number("ray_start", FARTHEST),
        ray_end=rendering.number("ray_end", FARTHEST),
        coarse_samples=rendering.count("depth_resolution", MOST_SAMPLES, least=FEWEST_SAMPLES),
        fine_samples=rendering.count("depth_resolution_importance", MOST_SAMPLES),
        superresolution_input=input_resolution,
        superresolution_channels=widths,
        render_resolution=_Settings(file, network.state, "attribute").resolution("neural_rendering_resolution"),
    )
    if config.ray_start >= config.ray_end:
        raise SourceUnsupported(f"The rays in {file} end before they start.")
    settings.finish(WITHOUT_EFFECT)
    rendering.finish(WITHOUT_EFFECT_RENDERING)
    mapping.finish(set())
    superresolution.finish(WITHOUT_EFFECT_SUPERRESOLUTION)
    return config


def check_parts(parts: Mapping[Any, Any], file: str) -> None:
    """Whether the networks without sizes of their own are the published ones. Raises SourceUnsupported."""
    for name, wanted in PARTS.items():
        part = parts.get(name)
        if not isinstance(part, Network) or part.class_name != wanted:
            found = part.class_name if isinstance(part, Network) else "nothing"
            raise SourceUnsupported(f"The {name} in {file} is {found}, not {wanted}.")
    # Not a buffer, so not in the state dict; EG3D's two versions of it give different heads from the same weights.
    axes = parts["renderer"].attribute("plane_axes")
    if isinstance(axes, StoredTensor) and axes.read().tolist() != PLANE_AXES:
        raise SourceUnsupported(f"The tri-grid's planes in {file} lie along other axes than PanoHead's.")


def superresolution_sizes(tensors: Mapping[str, Tensor], file: str) -> tuple[int, tuple[int, int]]:
    """Side of the super-resolution's input, pixels, and the widths of its two blocks, from the tensors' shapes."""
    shapes = []
    for key in ("block0.conv1.noise_const", "block0.conv1.weight", "block1.conv1.weight"):
        tensor = tensors.get(f"superresolution.{key}")
        if tensor is None or tensor.ndim < 2:
            raise SourceUnsupported(f"The generator in {file} lacks the tensor superresolution.{key}.")
        shapes.append(tensor.shape)
    side = shapes[0][0] // 2  # the first block doubles its input
    if side & (side - 1) or not 4 <= side <= LARGEST_RESOLUTION:
        raise SourceUnsupported(f"The super-resolution in {file} makes images of {4 * side} px.")
    widths = (shapes[1][0], shapes[2][0])
    if not all(1 <= width <= LARGEST_WIDTH for width in widths):
        raise SourceUnsupported(f"The super-resolution in {file} has {_by(widths)} channels.")
    return side, widths


class _Settings:
    """Settings of the file that are ticked off as they are used, so that none goes unnoticed."""

    def __init__(self, file: str, values: Any, kind: str) -> None:
        if not isinstance(values, dict):
            raise SourceUnsupported(f"The generator in {file} comes without its {kind}s.")
        self.values = values
        self._file = file
        self._kind = kind
        self._used: set[str] = set()

    def take(self, key: str) -> Any:
        """The value of a setting that must be there."""
        if key not in self.values:
            raise SourceUnsupported(f"The generator in {self._file} lacks the {self._kind} {key}.")
        self._used.add(key)
        return self.values[key]

    def expect(self, key: str, wanted: Any) -> None:
        """Hold a setting to the one value the generator here computes."""
        value = self.take(key)
        if type(value) not in (bool, int, float, str, type(None)) or value != wanted:
            raise self._other(key, value, repr(wanted))

    def count(self, key: str, most: int, least: int = 1) -> int:
        """A whole number from `least` to `most`."""
        value = self.take(key)
        if type(value) is not int or not least <= value <= most:
            raise self._other(key, value, f"whole numbers from {least} to {most}")
        return value

    def resolution(self, key: str) -> int:
        """A side in pixels that is a power of two."""
        value = self.take(key)
        if type(value) is not int or not 4 <= value <= LARGEST_RESOLUTION or value & (value - 1):
            raise self._other(key, value, f"powers of two up to {LARGEST_RESOLUTION}")
        return value

    def number(self, key: str, most: float) -> float:
        """A number above 0 and up to `most`."""
        value = self.take(key)
        if type(value) not in (int, float) or not 0 < value <= most:
            raise self._other(key, value, f"numbers up to {most:g}")
        return float(value)

    def finish(self, without_effect: set[str]) -> None:
        """Raise SourceUnsupported for settings that nobody used and that are not known to be without effect."""
        unknown = sorted(str(key) for key in self.values.keys() - self._used - without_effect)
        if unknown:
            raise SourceUnsupported(f"The generator in {self._file} has unknown {self._kind}s: {_some(unknown)}.")

    def _other(self, key: str, value: Any, wanted: str) -> SourceUnsupported:
        told = panohead_pickle.in_words(value)
        return SourceUnsupported(f"The {self._kind} {key} in {self._file} is {told}; Headcast computes {wanted}.")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
