"""Full-size encoders: against numbers and keys of the published code, on wrong files, and through the pipeline.

The numbers lie in ../shared/encoders: both sides fill small networks of the same architecture with the same
pseudo-random weights, one stream per parameter name, by the rule in fill_rule.py.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.generator import GeneratorConfig
from inference.panohead_encoders import (
    GradualStyleEncoder,
    PanoHeadEncoderConfig,
    ResidualEncoderConfig,
    StyleEncoderConfig,
    TriGridResidualEncoder,
)

FIXTURES = Path(__file__).parents[3] / "shared" / "encoders"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="the published numbers are not beside the repository")
TOLERANCE = 1e-4  # the published code itself differs by 2e-5 between single and double precision

WIDTHS = (16, 32, 48, 64)
STYLE = StyleEncoderConfig(WIDTHS, 14)
SHUFFLE = ResidualEncoderConfig(2, WIDTHS, "shuffle", (64, 48, 32, 24), head_channels=20, plane_channels=36)
NEAREST = replace(SHUFFLE, upsampling="nearest", up_channels=(64, 48, 32, 16))
RESIDUAL_CASES = {
    "tri_v1_tiny": replace(SHUFFLE, version=1),
    "tri_v2_shuffle_tiny": SHUFFLE,
    "tri_v2_nearest_tiny": NEAREST,
}
FULL_SHUFFLE = ResidualEncoderConfig(
    upsampling="shuffle", up_channels=(512, 384, 256, 96), head_channels=96, plane_channels=96
)
FULL = {
    "triplanenet_v1_96": replace(FULL_SHUFFLE, version=1),
    "triplanenet_v2_nearest_96": ResidualEncoderConfig(head_channels=96, plane_channels=96),
    "triplanenet_v2_shuffle_96": FULL_SHUFFLE,
    "triplanenet_v2_nearest_288_mid288 (guess)": ResidualEncoderConfig(),
}
GENERATOR = GeneratorConfig(
    z_dim=64,
    w_dim=64,
    channel_base=1024,
    channel_max=32,
    planes_resolution=64,
    plane_channels=4,
    superresolution_input=32,
    superresolution_channels=(16, 8),
    render_resolution=16,
    coarse_samples=12,
    fine_samples=12,
)
SMALL = PanoHeadEncoderConfig(replace(STYLE, styles=GENERATOR.num_ws), NEAREST)


def rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill_rule", FIXTURES / "fill_rule.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(network: nn.Module, prefix: str) -> nn.Module:
    state = {
        key: torch.from_numpy(rule().fill(prefix + key, tuple(value.shape)))
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


def case(name: str) -> tuple[dict[str, Any], list[Tensor]]:
    """What the fixture's description says of a case, and its inputs."""
    described = json.loads((FIXTURES / "parity_tiny.json").read_text())["cases"][name]
    return described, [torch.from_numpy(rule().make_input(**given)) for given in described["inputs"]]


def cut(array: Tensor, described: str) -> Tensor:
    """The part of an array a fixture keeps, as it describes it: "0, ::5, 1::3, 2::3"."""
    index: list[Any] = []
    for part in described.split(","):
        numbers = [int(number) if number.strip() else None for number in part.split(":")]
        index.append(numbers[0] if len(numbers) == 1 else slice(*numbers))
    return array[tuple(index)]


def assert_as_published(name: str, network: nn.Module, outcome: Any) -> None:
    """Compare the output and every stored intermediate of one case."""
    described, inputs = case(name)
    seen: dict[str, Tensor] = {}
    for module in described.get("intermediates", {}):
        network.get_submodule(module).register_forward_hook(
            lambda _module, _given, made, module=module: seen.__setitem__(module, made)
        )
    out = outcome(*inputs)
    assert list(out.shape) == described["output"]["shape"]
    compared = {"out": cut(out, described["output_slice"])}
    with np.load(FIXTURES / "parity_tiny.npz") as arrays:
        stored = {key.split("/")[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    compared |= {module: cut(seen[module], described["intermediate_slice"]) for module in stored if module != "out"}
    assert set(compared) == set(stored)
    for key, expected in stored.items():
        assert compared[key].shape == expected.shape, key
        worst = np.abs(compared[key].numpy() - expected).max()
        print(f"{name}/{key}: {worst:.1e}")
        assert worst <= TOLERANCE, key


@needs_fixtures
def test_the_same_portrait_becomes_the_same_styles() -> None:
    encoder = filled(GradualStyleEncoder(STYLE), "psp_encoder.")
    assert_as_published("psp_tiny", encoder, encoder)


@needs_fixtures
@pytest.mark.parametrize("name", RESIDUAL_CASES)
def test_the_same_renders_become_the_same_planes(name: str) -> None:
    encoder = filled(TriGridResidualEncoder(RESIDUAL_CASES[name]), "triplanenet_encoder.")
    if RESIDUAL_CASES[name].version == 1:  # that code returns the offset alone, and is not given the planes
        assert_as_published(name, encoder, lambda pictures: encoder(pictures, torch.empty(0)))
    else:
        assert_as_published(name, encoder, lambda pictures, planes: planes + encoder(pictures, planes))


def shapes(network: nn.Module) -> dict[str, Any]:
    return {key: [list(v.shape), str(v.dtype).removeprefix("torch.")] for key, v in network.state_dict().items()}


@needs_fixtures
def test_full_encoders_have_the_keys_shapes_and_kinds_of_the_published_code() -> None:
    published = json.loads((FIXTURES / "KEYS.json").read_text())
    with torch.device("meta"):
        assert shapes(GradualStyleEncoder(StyleEncoderConfig())) == published["psp_gradual_style_encoder_14"]["keys"]
        for name, config in FULL.items():
            assert shapes(TriGridResidualEncoder(config)) == published[name]["keys"], name
        base = {"v1": FULL["triplanenet_v1_96"], "v2_shuffle": FULL_SHUFFLE, "v2_nearest": ResidualEncoderConfig()}
        for name, guess in published["variants_288_guesses"].items():
            kind, middle = name.split("_288_mid")
            config = replace(base[kind], head_channels=int(middle), plane_channels=288)
            found = shapes(TriGridResidualEncoder(config))
            assert {key: found[key] for key in guess["differs_from_96_variant_only_in"]} == guess[
                "differs_from_96_variant_only_in"
            ]
