"""The tensors of a public dual-encoder file become an encoder: which stage is which, and of what sizes.

The authors publish no list of what their files hold, so nothing is assumed that the names and shapes can tell: both
stages are found under whatever prefix they have, every size is read from a shape, and then all tensors must be exactly
those of an encoder of these sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .errors import SourceUnsupported
from .generator import GeneratorConfig
from .ir_se50 import SQUEEZE, STAGE_UNITS
from .panohead_encoders import (
    PICTURE_CHANNELS,
    GradualStyleEncoder,
    PanoHeadEncoder,
    PanoHeadEncoderConfig,
    ResidualEncoderConfig,
    StyleEncoderConfig,
    TriGridResidualEncoder,
    misfits,
)

FIRST_KEY = "input_layer.0.weight"  # both stages begin with it
STAGE_MARKS = {"style": "styles.", "residual": "up1."}  # what only that stage has
FIRST_UNITS = [sum(STAGE_UNITS[:stage]) for stage in range(len(STAGE_UNITS))]  # of the trunk's stages
HINT = "Choose the encoder files made for this generator."
LARGEST_WIDTH = 4096  # channels, eight times the published; wider ones overflow before they can be compared
SHOWN = 12  # lines of a message; a file of something else would fill a screen


def encoder_from_tensors(
    tensors: Mapping[str, Tensor],
    latent_avg: Tensor,
    generator: GeneratorConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PanoHeadEncoder:
    """An encoder ready to use: in evaluation mode, without gradients.

    tensors:    of a checkpoint, under any prefix; those of other networks are left alone.
    latent_avg: the average w, as `average_latents` takes it.
    Raises SourceUnsupported with a list of what does not fit.
    """
    style, residual = split_stages(tensors)
    config = PanoHeadEncoderConfig(style_config(style), residual_config(residual))
    average = average_latents(latent_avg, config.style.styles, config.style.widths[-1])
    reasons = misfits(config, generator)
    if reasons:
        raise _refused("The encoder does not fit the generator", reasons)
    encoder = empty_encoder(config, generator).to_empty(device="cpu")
    encoder.psp_encoder.load_state_dict(style, strict=True)
    encoder.triplanenet_encoder.load_state_dict(residual, strict=True)
    encoder.latent_avg.copy_(average)
    return encoder.to(device, dtype).eval().requires_grad_(False)


def empty_encoder(config: PanoHeadEncoderConfig, generator: GeneratorConfig) -> PanoHeadEncoder:
    """An encoder without values, nor memory for them: drawing 250 million random ones would take seconds.

    Raises ValueError where the sizes do not fit the generator.
    """
    with torch.device("meta"):
        return PanoHeadEncoder(config, generator)


def split_stages(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the style encoder and of the residual encoder, without their prefixes.

    Raises SourceUnsupported where either is missing, or where there are several.
    """
    # The longest first: a prefix may lie within another, and the empty one lies around all.
    prefixes = sorted((key.removesuffix(FIRST_KEY) for key in tensors if _ends_in_first_key(key)), key=len)[::-1]
    groups: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in prefixes}
    for key, value in tensors.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is not None:
            groups[prefix][key.removeprefix(prefix)] = value
    found: list[dict[str, Tensor]] = []
    problems = []
    for stage, mark in STAGE_MARKS.items():
        matching = [prefix for prefix, group in groups.items() if any(key.startswith(mark) for key in group)]
        if len(matching) == 1:
            found.append(groups[matching[0]])
        elif matching:
            problems.append(f"several {stage} encoders: {', '.join(repr(prefix) for prefix in sorted(matching))}")
        else:
            problems.append(f"no {stage} encoder ({mark}* beside {FIRST_KEY})")
    if problems:
        raise _refused("The file does not hold one encoder of two stages", problems)
    return found[0], found[1]


def style_config(tensors: Mapping[str, Tensor]) -> StyleEncoderConfig:
    """Sizes of the style encoder with these tensors. Raises SourceUnsupported with a list of what does not fit."""
    name = "style encoder"
    _require(tensors, _trunk_keys(), name)
    styles = {key.split(".")[1] for key in tensors if key.startswith("styles.")}
    config = StyleEncoderConfig(_trunk_widths(tensors, name), len(styles))
    _compare(_shaped(lambda: GradualStyleEncoder(config)), tensors, name)
    return config


def residual_config(tensors: Mapping[str, Tensor]) -> ResidualEncoderConfig:
    """Sizes of the residual encoder with these tensors. Raises SourceUnsupported with a list of what does not fit."""
    name = "residual encoder"
    ups = [f"up{step}.conv.double_conv.1.weight" for step in range(1, 5)]
    _require(tensors, [*_trunk_keys(), *ups], name)
    in_channels = tensors[FIRST_KEY].shape[1]
    heads: dict[int, Literal[1, 2]] = {PICTURE_CHANNELS[1]: 1, PICTURE_CHANNELS[2]: 2}
    if in_channels not in heads:
        raise _refused(f"The {name} does not fit", [f"it reads {in_channels} channels, known are {sorted(heads)}"])
    version = heads[in_channels]
    head = "final_head" if version == 1 else "final_head_two"
    _require(tensors, [f"{head}.0.weight", f"{head}.4.weight"], name)
    widths = _trunk_widths(tensors, name)
    up_channels = tuple(tensors[key].shape[0] for key in ups)
    # What the second step reads beside the trunk: all of the first one's channels, or a quarter, for 2 x 2 pixels.
    below = tensors[ups[1]].shape[1] - widths[2]
    upsampling: Literal["nearest", "shuffle"]
    if below == up_channels[0]:
        upsampling = "nearest"
    elif below == up_channels[0] // 4:
        upsampling = "shuffle"
    else:
        problem = f"up2 reads {below} channels from up1, neither all {up_channels[0]} nor a quarter of them"
        raise _refused(f"The {name} does not fit", [problem])
    config = ResidualEncoderConfig(
        version=version,
        widths=widths,
        upsampling=upsampling,
        up_channels=up_channels,
        head_channels=tensors[f"{head}.0.weight"].shape[0],
        plane_channels=tensors[f"{head}.4.weight"].shape[0],
    )
    _compare(_shaped(lambda: TriGridResidualEncoder(config)), tensors, name)
    return config


def average_latents(latent_avg: Tensor, styles: int, w_dim: int) -> Tensor:
    """The average w for every row of w_plus.

    latent_avg: (w_dim,), (1, w_dim), (styles, w_dim) or (1, styles, w_dim).
    Returns:    (styles, w_dim) float32.
    Raises SourceUnsupported for another shape or for values that are not finite.
    """
    shape = tuple(latent_avg.shape)
    if shape not in {(w_dim,), (1, w_dim), (styles, w_dim), (1, styles, w_dim)}:
        raise _refused(
            "The average latent does not fit", [f"its shape is {list(shape)}, not [{w_dim}] or [{styles}, {w_dim}]"]
        )
    if not torch.isfinite(latent_avg).all():
        raise _refused("The average latent does not fit", ["it holds values that are not finite numbers"])
    return latent_avg.to(torch.float32).reshape(-1, w_dim).expand(styles, w_dim).clone()


def _ends_in_first_key(key: str) -> bool:
    return key == FIRST_KEY or key.endswith(f".{FIRST_KEY}")


def _trunk_keys() -> list[str]:
    return [FIRST_KEY, *(f"body.{unit}.res_layer.1.weight" for unit in FIRST_UNITS)]


def _trunk_widths(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    widths = tuple(tensors[key].shape[0] for key in _trunk_keys()[1:])
    if min(widths) < SQUEEZE:  # nothing would be left of the excitation's hidden layer
        raise _refused(f"The {name} does not fit", [f"its trunk is {min(widths)} channels wide, not {SQUEEZE} or more"])
    return widths


def _require(tensors: Mapping[str, Tensor], keys: Sequence[str], name: str) -> None:
    """Raise SourceUnsupported unless these weights of convolutions, which tell the sizes, are there."""
    problems = [f"{key} is missing" for key in keys if key not in tensors]
    problems += [
        f"{key} has the shape {list(tensors[key].shape)}, not that of a convolution"
        for key in keys
        if key in tensors and (tensors[key].ndim != 4 or not all(1 <= n <= LARGEST_WIDTH for n in tensors[key].shape))
    ]
    if problems:
        raise _refused(f"The {name} does not fit", problems)


def _shaped(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Names, shapes and kinds of a network's tensors, without their memory."""
    with torch.device("meta"):
        return build().state_dict()


def _compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise SourceUnsupported with every name, shape and kind in which `tensors` differ from those expected."""
    problems = [f"{key} is missing" for key in expected if key not in tensors]
    problems += [f"{key} is not known" for key in tensors if key not in expected]
    for key, value in tensors.items():
        if key not in expected:
            continue
        if value.shape != expected[key].shape:
            problems.append(f"{key} has the shape {list(value.shape)}, not {list(expected[key].shape)}")
        elif value.is_floating_point() != expected[key].is_floating_point():
            problems.append(f"{key} is {value.dtype}, not {expected[key].dtype}")
    if problems:
        raise _refused(f"The {name} does not fit", problems)


def _refused(what: str, problems: list[str]) -> SourceUnsupported:
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return SourceUnsupported(f"{what}: {'; '.join([*problems[:SHOWN], *more])}.", HINT)
