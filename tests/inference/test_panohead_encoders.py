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

from inference import checkpoints
from inference.camera import Camera, mirrored_cameras, orbit_camera, project_tensor
from inference.encoder_weights import (
    average_latents,
    encoder_from_tensors,
    residual_config,
    split_stages,
    style_config,
)
from inference.encoders import PortraitInput, compose_on_grey
from inference.errors import SourceUnsupported, WeightsDamaged
from inference.generator import PANOHEAD, GeneratorConfig, TriPlaneGenerator
from inference.messages import Options
from inference.panohead_encoders import (
    GradualStyleEncoder,
    PanoHeadEncoder,
    PanoHeadEncoderConfig,
    ResidualEncoderConfig,
    StyleEncoderConfig,
    TriGridResidualEncoder,
    white_portraits,
)
from inference.pipeline import load_models, reconstruct
from inference.render import render_image
from inference.surface import METRES_PER_UNIT, NECK_CUT_Y
from tests.neck_and_sphere import CONFIG as KNOWN_HEAD
from tests.neck_and_sphere import HEAD_RADIUS, known_generator, zero

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


def checkpoint(residual: ResidualEncoderConfig = NEAREST, style: StyleEncoderConfig = STYLE) -> dict[str, Tensor]:
    """An encoder's two stages as a training checkpoint holds them, beside other networks."""
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {
        "psp_encoder": GradualStyleEncoder(style),
        "triplanenet_encoder": TriGridResidualEncoder(residual),
    }
    tensors = {f"{part}.{key}": value for part, network in parts.items() for key, value in network.state_dict().items()}
    # The network that judges identity has the same trunk.
    face = {f"id_loss.facenet.{key}": torch.zeros(1) for key in ("input_layer.0.weight", "output_layer.0.weight")}
    return {**tensors, **face, "decoder.backbone.mapping.w_avg": torch.zeros(64)}


@pytest.mark.parametrize("residual", [*RESIDUAL_CASES.values(), replace(NEAREST, head_channels=36, plane_channels=72)])
@pytest.mark.parametrize("prefix", ["", "module.", "net.visible."])
def test_every_size_is_found_in_the_shapes_under_any_prefix(residual: ResidualEncoderConfig, prefix: str) -> None:
    style_tensors, residual_tensors = split_stages({f"{prefix}{key}": v for key, v in checkpoint(residual).items()})
    assert style_config(style_tensors) == STYLE
    assert residual_config(residual_tensors) == residual


def test_a_stage_without_a_prefix_is_told_from_the_one_with() -> None:
    style = GradualStyleEncoder(STYLE).state_dict()
    found = split_stages({**style, **{k: v for k, v in checkpoint().items() if k.startswith("triplane")}})
    assert set(found[0]) == set(style) and residual_config(found[1]) == NEAREST


@needs_fixtures
def test_every_published_list_of_keys_is_told_apart() -> None:
    published = json.loads((FIXTURES / "KEYS.json").read_text())

    def tensors(name: str) -> dict[str, Tensor]:
        keys = published[name]["keys"].items()
        return {key: torch.empty(shape, dtype=getattr(torch, kind), device="meta") for key, (shape, kind) in keys}

    assert style_config(tensors("psp_gradual_style_encoder_14")) == StyleEncoderConfig()
    for name, config in FULL.items():
        assert residual_config(tensors(name)) == config


def test_wrong_files_are_refused_with_a_list() -> None:
    good = checkpoint()
    with pytest.raises(SourceUnsupported, match=r"no style encoder.*; no residual encoder"):
        split_stages({"decoder.weight": torch.zeros(3)})
    with pytest.raises(SourceUnsupported, match=r"several residual encoders: 'ema\.triplanenet_encoder\.'"):
        split_stages({**good, **{f"ema.{key}": value for key, value in good.items() if key.startswith("tri")}})

    style, residual = split_stages(good)
    changed = {key: value for key, value in style.items() if key != "latlayer1.bias"}
    changed["body.1.res_layer.1.weight"] = torch.zeros(16, 8, 3, 3)
    changed["body.2.res_layer.0.num_batches_tracked"] = torch.tensor(1.0)
    changed["extra.weight"] = torch.zeros(1)
    with pytest.raises(SourceUnsupported) as refusal:
        style_config(changed)
    for told in (
        "latlayer1.bias is missing",
        "extra.weight is not known",
        "body.1.res_layer.1.weight has the shape [16, 8, 3, 3], not [16, 16, 3, 3]",
        "body.2.res_layer.0.num_batches_tracked is torch.float32, not torch.int64",
    ):
        assert told in refusal.value.message

    with pytest.raises(SourceUnsupported, match="trunk is 8 channels wide"):
        style_config({**style, "body.0.res_layer.1.weight": torch.zeros(8, 16, 3, 3)})
    with pytest.raises(SourceUnsupported, match=r"and \d+ more") as refusal:
        style_config({key: value for key, value in style.items() if ".res_layer.2." not in key})
    assert refusal.value.message.count("is missing") == 12
    with pytest.raises(SourceUnsupported, match=r"final_head_two\.0\.weight is missing"):
        residual_config({key: value for key, value in residual.items() if not key.startswith("final_head")})
    with pytest.raises(SourceUnsupported, match=r"reads 7 channels, known are \[6, 9\]"):
        residual_config({**residual, "input_layer.0.weight": torch.zeros(16, 7, 3, 3)})
    with pytest.raises(SourceUnsupported, match="up2 reads 50 channels from up1, neither all 64 nor a quarter"):
        residual_config({**residual, "up2.conv.double_conv.1.weight": torch.zeros(48, 98, 3, 3)})
    with pytest.raises(SourceUnsupported, match="not that of a convolution"):
        residual_config({**residual, "up3.conv.double_conv.1.weight": torch.zeros(3)})
    for shape in ([2**40, 0, 3, 3], [5000, 1, 1, 1]):
        with pytest.raises(SourceUnsupported, match="not that of a convolution"):
            residual_config({**residual, "up3.conv.double_conv.1.weight": torch.zeros(shape)})


def test_encoders_of_another_generator_are_refused_with_every_reason() -> None:
    with pytest.raises(SourceUnsupported) as refusal:
        encoder_from_tensors(checkpoint(), torch.zeros(64), PANOHEAD)
    assert "latents have 64 numbers, the generator's 512" in refusal.value.message
    assert "makes planes of 36 channels, the generator has 288" in refusal.value.message
    with pytest.raises(SourceUnsupported, match="makes 14 latents, the generator takes 10"):
        encoder_from_tensors(checkpoint(), torch.zeros(64), GENERATOR)
    for changes, told in (({"planes_resolution": 512}, "512 px"), ({"superresolution": False}, "no pictures")):
        with pytest.raises(ValueError, match=told):
            PanoHeadEncoder(SMALL, replace(GENERATOR, **changes))


def test_the_average_latent_comes_in_four_shapes() -> None:
    one, each = torch.randn(8), torch.randn(14, 8)
    for given in (one, one[None], one.double()):
        torch.testing.assert_close(average_latents(given, 14, 8), one.expand(14, 8))
    for given in (each, each[None]):
        assert torch.equal(average_latents(given, 14, 8), each)
    for wrong in (torch.zeros(9), torch.zeros(2, 8), torch.zeros(2, 14, 8), torch.tensor(0.0)):
        with pytest.raises(SourceUnsupported, match="shape"):
            average_latents(wrong, 14, 8)
    with pytest.raises(SourceUnsupported, match="finite"):
        average_latents(torch.full((8,), torch.nan), 14, 8)


def test_a_mirrored_camera_sees_the_mirrored_point_at_the_mirrored_place() -> None:
    camera = orbit_camera(35, -12)
    intrinsics = np.array([[4.2, 0.1, 0.47], [0, 4.3, 0.52], [0, 0, 1]])
    cameras = torch.from_numpy(Camera(camera.cam2world, intrinsics).vector)[None]
    points = torch.randn(1, 20, 3) * 0.2
    seen, distance = project_tensor(points, cameras)
    seen_mirrored, distance_mirrored = project_tensor(points * torch.tensor([-1.0, 1, 1]), mirrored_cameras(cameras))
    expected = torch.stack([1 - seen[..., 0], seen[..., 1]], dim=-1)
    torch.testing.assert_close(seen_mirrored, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(distance_mirrored, distance)
    # With the principal point in the middle, what TriPlaneNet changes in its cameras, and no more.
    plain = torch.from_numpy(camera.vector)[None]
    changed = (mirrored_cameras(plain) != plain)[0].nonzero()[:, 0].tolist()
    assert set(changed) <= {1, 2, 3, 4, 8}
    torch.testing.assert_close(mirrored_cameras(mirrored_cameras(plain)), plain)


def some_portraits(n: int = 1) -> PortraitInput:
    torch.manual_seed(1)
    matte = torch.rand(n, 1, 64, 64)
    grey = compose_on_grey(torch.rand(n, 3, 64, 64), matte)
    cameras = torch.from_numpy(np.stack([orbit_camera(20 * i + 10, 5).vector for i in range(n)]))
    return PortraitInput(torch.cat([grey, matte], dim=1), cameras, torch.zeros(n, 468, 3))


def test_portraits_lie_on_white() -> None:
    colour, matte = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
    matte[..., 0] = 0
    white = white_portraits(torch.cat([compose_on_grey(colour, matte), matte], dim=1))
    torch.testing.assert_close(white, (colour * matte + 1 - matte) * 2 - 1)
    torch.testing.assert_close(white[..., 0], torch.ones(1, 3, 4))


@pytest.fixture(scope="module")
def generator() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(GENERATOR).eval().requires_grad_(False)


def loaded(residual: ResidualEncoderConfig) -> PanoHeadEncoder:
    """An encoder for the small generator, from the tensors of a file."""
    torch.manual_seed(2)
    latent_avg = torch.randn(64)
    return encoder_from_tensors(checkpoint(residual, SMALL.style), latent_avg, GENERATOR)


def test_where_nothing_is_white_shines_through(generator: TriPlaneGenerator) -> None:
    nowhere = TriPlaneGenerator(GENERATOR).eval().requires_grad_(False)
    torch.nn.init.zeros_(nowhere.decoder.net[-1].weight)
    torch.nn.init.constant_(nowhere.decoder.net[-1].bias, -100.0)
    given = some_portraits()
    w_plus = torch.randn(1, GENERATOR.num_ws, 64)
    raw = render_image(nowhere, w_plus, given.cameras, background="white").raw
    torch.testing.assert_close(raw, torch.ones_like(raw))
    solid = render_image(generator, w_plus, given.cameras, background="white")
    colours = generator.torgb(solid.view.features, w_plus[:, -1])
    torch.testing.assert_close(solid.raw, colours * solid.view.mask + 1 - solid.view.mask)


@pytest.mark.parametrize("residual", RESIDUAL_CASES.values(), ids=list(RESIDUAL_CASES))
def test_an_inversion_corrects_the_first_stage_by_its_renders(
    generator: TriPlaneGenerator, residual: ResidualEncoderConfig
) -> None:
    encoder, given = loaded(residual), some_portraits(2)
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    looked_at: list[tuple[Tensor, Tensor]] = []
    encoder.triplanenet_encoder.register_forward_pre_hook(lambda _module, inputs: looked_at.append(inputs))
    made = encoder(given, generator)

    portraits = white_portraits(given.portraits)
    torch.testing.assert_close(made.w_plus, encoder.psp_encoder(portraits) + encoder.latent_avg)
    assert torch.equal(made.base, generator.synthesise_planes(made.w_plus))
    assert made.planes.shape == made.base.shape == (2, 3, 4, 3, 64, 64)

    (pictures, planes) = looked_at[0]
    torch.testing.assert_close(planes[:, 12 + 2 * 3 + 1], made.base[:, 1, 2, 1])  # plane, feature, slice
    image = render_image(generator, made.w_plus, given.cameras, background="white").image
    rendered = image.unflatten(2, (64, 2)).unflatten(4, (64, 2)).mean(dim=(3, 5))  # 2 x 2 pixels each
    torch.testing.assert_close(pictures[:, :3], rendered, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pictures[:, 3:6], portraits - pictures[:, :3])
    assert pictures.shape[1] == (6 if residual.version == 1 else 9)
    if residual.version == 2:
        other = replace(given, portraits=given.portraits.flip(-1), cameras=mirrored_cameras(given.cameras))
        seen = encoder.look_back(generator, made.w_plus, made.base, other.cameras)
        torch.testing.assert_close(pictures[:, 6:], white_portraits(other.portraits) - seen)
    correction = encoder.triplanenet_encoder(pictures, planes)
    torch.testing.assert_close(made.planes, made.base + correction.view_as(made.base))
    assert correction.abs().max() > 0


def test_portraits_of_a_batch_do_not_touch_each_other(generator: TriPlaneGenerator) -> None:
    encoder, both = loaded(NEAREST), some_portraits(2)
    alone = PortraitInput(both.portraits[1:], both.cameras[1:], both.landmarks[1:])
    torch.testing.assert_close(
        encoder(both, generator).planes[1:], encoder(alone, generator).planes, atol=1e-3, rtol=1e-3
    )


def test_device_and_precision_are_what_was_asked_for() -> None:
    encoder = encoder_from_tensors(
        checkpoint(NEAREST, SMALL.style), torch.zeros(64), GENERATOR, device="cpu", dtype=torch.float64
    )
    kinds = {value.dtype for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert kinds == {torch.float64}
    counts = {value.dtype for key, value in encoder.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts == {torch.int64}


def test_config_survives_json() -> None:
    config = PanoHeadEncoderConfig(STYLE, SHUFFLE, render_resolution=128)
    assert PanoHeadEncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_model_with_full_encoders_survives_its_file(generator: TriPlaneGenerator, tmp_path: Path) -> None:
    visible, occluded = loaded(NEAREST), loaded(SHUFFLE)
    visible.psp_encoder.body[0].res_layer[0].num_batches_tracked.fill_(500_000)  # more than half precision can hold
    path = tmp_path / "full.safetensors"
    checkpoints.save(path, generator, visible, occluded, "full", {})
    model = checkpoints.load(path)
    for before, after in ((visible, model.visible), (occluded, model.occluded)):
        assert isinstance(after, PanoHeadEncoder) and after.config == before.config and not after.training
        state = after.state_dict()
        for key, value in before.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=2**-11, atol=6e-8)


def test_an_unknown_kind_of_encoder_is_refused(generator: TriPlaneGenerator, tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    visible = loaded(NEAREST)
    visible.describe = lambda: {"kind": "later"}  # type: ignore[method-assign]
    checkpoints.save(path, generator, visible, visible, "later", {})
    with pytest.raises(WeightsDamaged, match="fit together"):
        checkpoints.load(path)


def test_a_photo_becomes_a_head_through_full_encoders(astronaut: Path, tmp_path: Path) -> None:
    """The known head, with a generator that makes pictures and encoders that correct nothing."""
    config = replace(
        KNOWN_HEAD,
        w_dim=64,
        superresolution=True,
        superresolution_input=16,
        superresolution_channels=(8, 8),
        render_resolution=16,
    )
    sizes = PanoHeadEncoderConfig(
        replace(STYLE, styles=config.num_ws),
        replace(NEAREST, plane_channels=3 * config.plane_channels * config.planes_depth),
    )
    torch.manual_seed(3)
    generator, encoder = known_generator(config), PanoHeadEncoder(sizes, config)
    zero(encoder.triplanenet_encoder)
    path = tmp_path / "full.safetensors"
    checkpoints.save(path, generator, encoder, encoder, "full", {})
    models = load_models(str(path), "cpu")
    options = Options(str(path), "cpu", grid=48, faces=1000, texture=64, refinement="off")
    report = reconstruct(astronaut, tmp_path / "head", options, models)
    assert report["mesh"]["watertight"] and report["model"]["name"] == "full"
    assert "views" in report["seconds"]  # such a generator paints its head from its own pictures
    assert report["mesh"]["height_m"] == pytest.approx((HEAD_RADIUS - NECK_CUT_Y) * METRES_PER_UNIT, rel=0.03)
