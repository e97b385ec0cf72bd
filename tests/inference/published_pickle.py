"""A pickle in the form PanoHead publishes, of a generator filled by the parity rule, written without PanoHead.

The classes the file names exist only while it is written: their modules are made up, and gone before anything is read.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference.conversion import PLANE_AXES
from inference.generator import PANOHEAD, GeneratorConfig, TriPlaneGenerator

from .parity_weights import fill

KWARGS = json.loads((Path(__file__).parent.parent / "data" / "parity_tiny.json").read_text())["kwargs"]
# The published class; the fixture's small one follows the same law.
KWARGS["rendering_kwargs"]["superresolution_module"] = "training.superresolution.SuperresolutionHybrid8XDC"
FULL_SIZES: dict[str, Any] = {"z_dim": 512, "w_dim": 512, "channel_base": 32768, "channel_max": 512}
FULL_RENDERING = {"triplane_size": 256, "depth_resolution": 48, "depth_resolution_importance": 48}
RENDER_RESOLUTION = 16  # px, of the fixture
MODULE_SRC = "raise SystemExit('the source in the file was run')\n"
CLASS_OF_PART = {
    "": "TriPlaneGenerator",
    "backbone": "Generator",
    "synthesis": "SynthesisNetwork",
    "bcg_synthesis": "SynthesisNetwork",
    "mapping": "MappingNetwork",
    "t_mapping": "MappingNetwork",
    "superresolution": "SuperresolutionHybrid8XDC",
    "decoder": "OSGDecoder",
    "torgb": "ToRGBLayer",
    "renderer": "ImportanceRenderer",
    "ray_marcher": "MipRayMarcher2",
}


class EasyDict(dict):
    """A dict whose keys are attributes too; the file names it dnnlib.util.EasyDict."""


class Persistent:
    """A torch module that pickles with the source of its class, as StyleGAN's persistence does."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        self.meta: dict[str, Any] = {"type": "class", "version": 6, "module_src": MODULE_SRC, "class_name": class_name}
        self.state = {**nn.Module().__dict__, "_init_args": (), "_init_kwargs": {}, **attributes}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[dict[str, Any]]]:
        return _reconstruct_persistent_obj, ({**self.meta, "state": self.state},)


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("PanoHead's own way of reading was taken")


class RaySampler(nn.Module):
    """In the published file without its source: the file names its module."""


class Blob:
    """A storage as the file holds it: bytes in the old form of torch.save."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes]]:
        return torch.storage._load_from_bytes, (self.content,)


class ViewOf:
    """A tensor of given sizes over any storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


def storage_bytes(tensor: Tensor) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are old-fashioned, which is the point
        stream = io.BytesIO()
        torch.save(tensor.storage(), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def on_a_gpu(tensor: Tensor) -> ViewOf:
    """The tensor as a machine with a graphics card would have pickled it."""
    content = storage_bytes(tensor)
    here, there = (b"X" + len(name).to_bytes(4, "little") + name for name in (b"cpu", b"cuda:0"))
    assert content.count(here) == 1
    return ViewOf(Blob(content.replace(here, there)), 0, tuple(tensor.shape), tensor.stride())


def tiny_config() -> GeneratorConfig:
    return GeneratorConfig(
        z_dim=64,
        w_dim=64,
        channel_base=1024,
        channel_max=32,
        planes_resolution=64,
        coarse_samples=12,
        fine_samples=12,
        superresolution_input=32,
        superresolution_channels=(16, 8),
        render_resolution=RENDER_RESOLUTION,
    )


def full_kwargs() -> dict[str, Any]:
    """What the published generator was made with."""
    kwargs = copy.deepcopy(KWARGS) | FULL_SIZES | {"img_resolution": 512}
    kwargs["sr_kwargs"] |= {name: FULL_SIZES[name] for name in ("channel_base", "channel_max")}
    kwargs["rendering_kwargs"] |= FULL_RENDERING | {"image_resolution": 512}
    return kwargs


def filled_state(config: GeneratorConfig | None = None) -> tuple[dict[str, Tensor], set[str]]:
    """A generator's tensors by key, and which of them are parameters; of the tiny one when no config is given."""
    generator = TriPlaneGenerator(config or tiny_config())
    state = {key: torch.from_numpy(fill(key, tuple(value.shape))) for key, value in generator.state_dict().items()}
    return state, {key for key, _ in generator.named_parameters()}


def published_generator(full: bool = False) -> Persistent:
    """G_ema with the modules, attributes and oddities of the published file, small or with its sizes."""
    kwargs, config = (full_kwargs(), PANOHEAD) if full else (copy.deepcopy(KWARGS), tiny_config())
    root = Persistent(
        "TriPlaneGenerator",
        _init_kwargs=kwargs,
        rendering_kwargs=EasyDict(copy.deepcopy(kwargs["rendering_kwargs"]), box_warp=np.float64(1.0)),
        neural_rendering_resolution=config.render_resolution,
        _last_planes=None,
    )
    state, parameters = filled_state(config)
    for key, value in state.items():
        *path, name = key.split(".")
        here: Any = root
        for depth, part in enumerate(path):
            modules = members(here)["_modules"]
            if part not in modules:
                modules[part] = module_for(path[: depth + 1])
            here = modules[part]
        if key in parameters:
            members(here)["_parameters"][name] = nn.Parameter(value)
        else:
            members(here)["_buffers"][name] = value
    modules = root.state["_modules"]
    modules["decoder"].state["_modules"]["net"]._modules["1"] = nn.Softplus()
    modules["ray_sampler"] = RaySampler()
    modules["renderer"] = Persistent("ImportanceRenderer", plane_axes=on_a_gpu(torch.tensor(PLANE_AXES).float()))
    modules["renderer"].state["_modules"]["ray_marcher"] = Persistent("MipRayMarcher2")
    modules["renderer"].state["_buffers"]["passing"] = torch.zeros(3)
    modules["renderer"].state["_non_persistent_buffers_set"] = {"passing"}
    return root


def members(module: Any) -> dict[str, Any]:
    return module.state if isinstance(module, Persistent) else module.__dict__


def module_for(path: list[str]) -> Any:
    if path == ["decoder", "net"]:
        return nn.Sequential()
    part = path[-1]
    if part.startswith(("conv", "b", "fc")) and part not in CLASS_OF_PART:
        kind = {"c": "SynthesisLayer", "b": "SynthesisBlock", "f": "FullyConnectedLayer"}[part[0]]
    else:
        kind = CLASS_OF_PART.get(part, "FullyConnectedLayer")
    return Persistent(kind)


def published_content(full: bool = False) -> dict[str, Any]:
    """What the published pickle holds: both generators, the discriminator, and how they were trained."""
    discriminator = Persistent("MaskDualDiscriminatorV2")
    discriminator.state["_parameters"]["weight"] = nn.Parameter(torch.ones(3, 3))
    return {
        "training_set_kwargs": EasyDict(class_name="training.dataset.MaskLabeledDataset", path="/data", max_size=None),
        "G": published_generator(full),
        "D": discriminator,
        "G_ema": published_generator(full),
        "augment_pipe": None,
    }


@contextmanager
def made_up_modules() -> Iterator[None]:
    """The modules the file names, with what is pickled by reference."""
    homes = {
        "torch_utils.persistence": _reconstruct_persistent_obj,
        "dnnlib.util": EasyDict,
        "training.volumetric_rendering.ray_sampler": RaySampler,
    }
    names = {".".join(home.split(".")[:depth]) for home in homes for depth in range(1, home.count(".") + 2)}
    before = {name: sys.modules.get(name) for name in names}
    own = {thing: thing.__module__ for thing in homes.values()}
    try:
        for name in sorted(names):
            sys.modules[name] = types.ModuleType(name)
        for home, thing in homes.items():
            setattr(sys.modules[home], thing.__name__, thing)
            thing.__module__ = home
        yield
    finally:
        for thing, module in own.items():
            thing.__module__ = module
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def dumps(content: Any, protocol: int = 4) -> bytes:
    with made_up_modules():
        return pickle.dumps(content, protocol)
