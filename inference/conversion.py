"""Published weights become a model file of Headcast: PanoHead's generator, and encoders if given, with their licences.

PanoHead: An et al., CVPR 2023, arXiv 2303.13071. Its settings are translated to ours one by one; one that is unknown,
or has a value the generator here does not compute, ends the conversion, because the heads would silently differ. The
encoders (Bilecen et al., NeurIPS 2024, arXiv 2409.20530) have no settings: all is told by names and shapes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from . import checkpoints, encoder_files, panohead_pickle
from .encoder_weights import encoder_from_tensors
from .errors import (
    BadOption,
    OutputExists,
    OutputNotWritable,
    SourceDamaged,
    SourceMissing,
    SourceUnsupported,
    WeightsDamaged,
)
from .generator import GeneratorConfig, TriPlaneGenerator
from .job_folder import umask
from .panohead_encoders import PanoHeadEncoder
from .panohead_pickle import Network, StoredTensor
from .progress import Progress

LICENCE = (
    "PanoHead's weights, which are not Headcast's: CC BY-NC-SA 4.0 "
    "(https://creativecommons.org/licenses/by-nc-sa/4.0/) and NVIDIA Source Code License for EG3D. "
    "Non-commercial use only, also of the heads made with them; name the authors: An et al., PanoHead, CVPR 2023, "
    "https://github.com/SizheAn/PanoHead."
)
ENCODERS_LICENCE = (
    "The encoders' weights are not Headcast's either: name Bilecen et al., Dual Encoder GAN Inversion for "
    "High-Fidelity 3D Head Reconstruction from Single Images, NeurIPS 2024, https://arxiv.org/abs/2409.20530, and, "
    "whose encoders theirs are made of, pSp (Richardson et al., CVPR 2021) and TriPlaneNet (Bhattarai et al., WACV "
    "2024). Their weights come without a licence known to Headcast; take them as for non-commercial use only."
)
GENERATOR, LATENT = "generator", "average latent"
ENCODER_NAMES = {"visible encoder": "visible_net.pt", "occluded encoder": "occluded_net.pt"}  # as in arXiv 2409.20530
CHECKPOINT_SUFFIXES = {".pt", ".pth"}
LATENT_SUFFIX = ".npy"
ENCODERS_HINT = "Give visible_net.pt, occluded_net.pt and latent_avg.npy with the generator."
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
class EncoderSources:
    """The files of both encoders; the average latent may also lie inside each."""

    visible: Path
    occluded: Path
    latent_avg: Path | None


@dataclass(frozen=True)
class Sources:
    """Which of the given files is what."""

    generator: Path
    encoders: EncoderSources | None


@dataclass(frozen=True)
class EncoderTensors:
    """What was read of one encoder: its file's tensors by name, its average latent, and the files, for messages."""

    tensors: dict[str, Tensor]
    latent_avg: Tensor
    files: str


def convert(sources: Sequence[Path], out: Path, overwrite: bool, progress: Progress) -> Converted:
    """Write the model in `sources` as `out`, which appears whole or not at all.

    sources: in any order, the generator, which is PanoHead's pickle or what an earlier conversion made of it; and
             unless the generator is converted alone, visible_net.pt, occluded_net.pt and latent_avg.npy.

    Raises BadOption, OutputExists, OutputNotWritable, SourceMissing, SourceRefused, SourceDamaged, SourceUnsupported.
    """
    if out.suffix != checkpoints.SUFFIX:
        raise BadOption(f"The name {out.name} does not end in {checkpoints.SUFFIX}.", "Give --out such a name.")
    if out.exists() and not overwrite:
        raise OutputExists(f"The file {out} exists already.")
    if out.is_dir():
        raise OutputNotWritable(f"The file {out} cannot be written: it is a folder.")
    given = sort_sources(sources)
    stored = None
    if given.encoders is not None:
        progress(0.0, "Reading the encoders")  # before the generator: their tensors stay on the disk for now
        stored = read_encoders(given.encoders)
    generator, info = read_model(given.generator, lambda fraction, label: progress(0.6 * fraction, label))
    visible = occluded = None
    if given.encoders is not None and stored is not None:
        progress(0.6, "Checking the encoders")
        visible = build_encoder(stored[0], generator.config)
        progress(0.7, "Checking the encoders")
        occluded = build_encoder(stored[1], generator.config)
        del stored  # closes the files
        info = with_encoders(info, given.encoders)
    progress(0.8, "Writing the file")
    digest = write_whole(out, generator, visible, occluded, info)
    progress(1.0, "Writing the file")
    return Converted(out, out.stat().st_size, digest, info["licence"])


def sort_sources(sources: Sequence[Path]) -> Sources:
    """Tell the files apart by their names. Raises BadOption where that cannot be done, or where one is missing."""
    found: dict[str, Path] = {}
    for source in sources:
        role = role_of(source)
        if role in found:
            raise BadOption(
                f"{found[role].name} and {source.name} are 2 files for one {role}.",
                "Give one generator and, for its encoders, visible_net.pt, occluded_net.pt and latent_avg.npy.",
            )
        found[role] = source
    if GENERATOR not in found:
        raise BadOption(
            "The generator is missing.", f"Give PanoHead's .pkl file too, or the {checkpoints.SUFFIX} file made of it."
        )
    if len(found) == 1:
        if found[GENERATOR].suffix.lower() == checkpoints.SUFFIX:
            raise BadOption(f"The file {found[GENERATOR].name} is converted already.", ENCODERS_HINT)
        return Sources(found[GENERATOR], None)
    missing = [name for role, name in ENCODER_NAMES.items() if role not in found]
    if missing:
        raise BadOption(f"Encoders come together, and there is no {' and no '.join(missing)}.", ENCODERS_HINT)
    encoders = EncoderSources(found["visible encoder"], found["occluded encoder"], found.get(LATENT))
    return Sources(found[GENERATOR], encoders)


def role_of(source: Path) -> str:
    """What a file is, by its name. Raises BadOption where a checkpoint's name does not tell which encoder it is."""
    suffix = source.suffix.lower()
    if suffix == LATENT_SUFFIX:
        return LATENT
    if suffix not in CHECKPOINT_SUFFIXES:
        return GENERATOR
    roles = [role for role in ENCODER_NAMES if role.split()[0] in source.name.lower()]
    if len(roles) != 1:
        raise BadOption(
            f"The name {source.name} does not tell whether it is the visible or the occluded encoder.",
            "Rename the files to visible_net.pt and occluded_net.pt, as their authors call them.",
        )
    return roles[0]


def read_encoders(sources: EncoderSources) -> tuple[EncoderTensors, EncoderTensors]:
    """The visible and the occluded encoder's tensors. Raises as `convert`."""
    outer = None if sources.latent_avg is None else encoder_files.read_latent(sources.latent_avg)
    read = []
    for path in (sources.visible, sources.occluded):
        tensors = encoder_files.read_tensors(path)
        # The file beside the encoders is what their authors tell to use; inside, a training may have left another.
        latent = encoder_files.inner_latent(tensors, path.name) if outer is None else outer
        if latent is None:
            raise BadOption(f"There is no latent_avg.npy, and {path.name} holds no average latent.", ENCODERS_HINT)
        files = path.name if sources.latent_avg is None else f"{path.name} and {sources.latent_avg.name}"
        read.append(EncoderTensors(tensors, latent, files))
    return read[0], read[1]


def build_encoder(stored: EncoderTensors, generator: GeneratorConfig) -> PanoHeadEncoder:
    """An encoder of what its files hold. Raises SourceUnsupported, and SourceDamaged where weights are not finite."""
    try:
        encoder = encoder_from_tensors(stored.tensors, stored.latent_avg, generator)
    except SourceUnsupported as error:
        raise SourceUnsupported(f"{stored.files}: {error.message}", error.hint) from error
    require_finite(encoder.state_dict(), stored.files)
    return encoder


def with_encoders(info: Mapping[str, Any], sources: EncoderSources) -> dict[str, Any]:
    """What a generator's file says of itself, and where its encoders are from."""
    files = {name: path for name, path in vars(sources).items() if path is not None}
    return {
        **info,
        "licence": f"{info['licence']} {ENCODERS_LICENCE}",
        "commercial_use": False,
        "encoder_sources": {name: described(path) for name, path in files.items()},
    }


def described(source: Path) -> dict[str, str]:
    """A source as a converted file names it."""
    return {"file": source.name, "sha256": checkpoints.sha256_of(source)}


def read_model(source: Path, progress: Progress) -> tuple[TriPlaneGenerator, dict[str, Any]]:
    """The generator in a pickle or in a converted file, and what the new file says of it. Raises as `convert`."""
    if source.suffix.lower() == checkpoints.SUFFIX:
        progress(0.0, "Reading the file")
        return read_converted(source)
    content = panohead_pickle.load(source, progress)
    progress(1.0, "Checking the weights")
    generator = read_generator(content, source.name)
    return generator, {"licence": LICENCE, "commercial_use": False, "source": described(source)}


def read_converted(source: Path) -> tuple[TriPlaneGenerator, dict[str, Any]]:
    """The generator in a file of an earlier conversion, and what that says of it.

    Raises SourceMissing, SourceDamaged, and SourceUnsupported where encoders are in it, or no licence.
    """
    if not source.is_file():
        raise SourceMissing(f"There is no file {source}.")
    try:
        config, tensors = checkpoints.read(source)
        if "encoders" in config:
            raise SourceUnsupported(f"The file {source.name} holds encoders already.", "Give one without encoders.")
        generator = checkpoints.new_generator(config, tensors, source.name)
    except WeightsDamaged as error:
        raise SourceDamaged(error.message, "Convert the generator again.") from error
    if not isinstance(config.get("licence"), str):
        raise SourceUnsupported(
            f"The file {source.name} does not say under which licence it is.", "Convert the generator again."
        )
    return generator, {key: value for key, value in config.items() if key not in ("format", "name", "generator")}


def write_whole(
    out: Path,
    generator: TriPlaneGenerator,
    visible: PanoHeadEncoder | None,
    occluded: PanoHeadEncoder | None,
    info: Mapping[str, Any],
) -> str:
    """Save the model beside its place and rename it there; returns the sha256. Raises OutputNotWritable."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", suffix=".part", dir=out.parent) as folder:
            fresh = Path(folder) / out.name
            # Single precision, as published: the authors' own numbers are met to five digits, and half precision has
            # three. These files are not bundled, so their size matters less.
            digest = checkpoints.save(fresh, generator, visible, occluded, out.stem, info, dtype=torch.float32)
            os.chmod(fresh, 0o666 & ~umask())  # safetensors makes files for the user alone
            os.replace(fresh, out)
    except OSError as error:
        raise OutputNotWritable(f"The file {out} cannot be written ({error.strerror or error}).") from error
    except SafetensorError as error:  # its writer has no other error, and tells of a full disk in words only
        raise OutputNotWritable(f"The file {out} cannot be written ({error}).") from error
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
    problems = differences(tensors, generator.state_dict())
    if problems:
        raise SourceUnsupported(f"The tensors of {file} are not PanoHead's. {'; '.join(problems)}.")
    require_finite(tensors, file)
    generator.load_state_dict(tensors, strict=True, assign=True)
    return generator.eval().requires_grad_(False)


def differences(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps a network with the state `wanted` from taking `tensors`, a line for each kind; empty when all fits."""
    lists = {
        "missing": [key for key in wanted if key not in tensors],
        "of another shape": [
            f"{key} is {_by(tensors[key].shape)}, not {_by(value.shape)}"
            for key, value in wanted.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
        "unknown": [key for key in tensors if key not in wanted],
    }
    return [f"{len(keys)} {what}: {_some(keys)}" for what, keys in lists.items() if keys]


def require_finite(tensors: Mapping[str, Tensor], files: str) -> None:
    """Raises SourceDamaged, naming the tensors, where a number is NaN or infinite."""
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise SourceDamaged(f"Weights in {files} are NaN or infinite: {_some(broken)}.")


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
