from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from inference.generator import DISTANCE_UNIT, PANOHEAD, STARTER, GeneratorConfig, TriPlaneGenerator
from inference.stylegan import resample_filter, upsample


@pytest.fixture(scope="module")
def starter() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(STARTER).requires_grad_(False)


@pytest.fixture(scope="module")
def some_planes(starter: TriPlaneGenerator) -> torch.Tensor:
    return starter.synthesise_planes(starter.map_latents(torch.randn(2, STARTER.z_dim)))


@pytest.fixture(scope="module")
def some_points() -> torch.Tensor:
    return (torch.rand(2, 50, 3) - 0.5) * STARTER.box_side


@pytest.mark.parametrize("config", [PANOHEAD, STARTER])
def test_a_config_survives_a_json_file(config: GeneratorConfig) -> None:
    assert GeneratorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="plane_count"):
        GeneratorConfig.from_dict({"plane_count": 4})


def test_the_starter_has_only_what_it_uses(starter: TriPlaneGenerator, some_planes: torch.Tensor) -> None:
    parts = {key.split(".")[0] for key in starter.state_dict()}
    assert parts == {"backbone", "decoder", "mean_planes"}
    assert starter.num_ws == 10
    assert some_planes.shape == (2, 3, 8, 3, 64, 64)
    assert all(value.dtype == torch.float32 for value in starter.state_dict().values())


def test_untrained_heads_differ_a_little_from_the_mean(starter: TriPlaneGenerator) -> None:
    without_mean = TriPlaneGenerator(replace(STARTER, mean_planes=False)).requires_grad_(False)
    without_mean.load_state_dict({k: v for k, v in starter.state_dict().items() if k != "mean_planes"})
    residual = without_mean.synthesise_planes(without_mean.map_latents(torch.randn(4, STARTER.z_dim)))
    assert 0.03 < residual.std() < 0.3


def test_each_row_of_w_plus_changes_the_head(starter: TriPlaneGenerator) -> None:
    w_plus = torch.randn(1, starter.num_ws, STARTER.w_dim).requires_grad_()
    (gradient,) = torch.autograd.grad(starter.synthesise_planes(w_plus).square().sum(), w_plus)
    assert (gradient.abs().amax(dim=2) > 0).all()


def test_truncation_zero_gives_the_average_latent(starter: TriPlaneGenerator) -> None:
    w_plus = starter.map_latents(torch.randn(1, STARTER.z_dim), truncation_psi=0.0, cutoff=4)
    average = starter.backbone.mapping.w_avg.expand(4, -1)
    torch.testing.assert_close(w_plus[0, :4], average)
    assert not torch.allclose(w_plus[0, 4], average[0])


def test_a_camera_is_demanded_where_the_mapping_needs_one() -> None:
    small = replace(
        PANOHEAD, z_dim=8, w_dim=8, channel_base=64, planes_resolution=8, background=False, superresolution=False
    )
    with pytest.raises(ValueError, match="camera"):
        TriPlaneGenerator(small).map_latents(torch.randn(1, 8))


def test_density_crosses_the_surface_level_where_the_distance_is_zero(
    starter: TriPlaneGenerator, some_planes: torch.Tensor, some_points: torch.Tensor
) -> None:
    sigma, colour = starter.query(some_planes, some_points)
    distance, same_colour = starter.query_distance(some_planes, some_points)
    # One unit of decoder output is 0.05 box units, or 100 of density: float32 keeps 1e-3 of that.
    torch.testing.assert_close(sigma, 10.0 - 2000.0 * distance, rtol=0, atol=1e-3)
    torch.testing.assert_close(starter.query_sigma(some_planes, some_points), sigma, rtol=0, atol=1e-3)
    assert torch.equal(colour, same_colour)
    assert colour.min() >= 0.0 and colour.max() <= 1.0
    assert starter.sigma_from_raw(torch.zeros(1)).item() == STARTER.surface_sigma
    assert starter.sigma_from_raw(torch.ones(1)).item() == STARTER.surface_sigma - 2000.0 * DISTANCE_UNIT


def test_a_density_model_has_no_distance(starter: TriPlaneGenerator, some_planes: torch.Tensor) -> None:
    density_model = TriPlaneGenerator(replace(STARTER, decoder_output="sigma"))
    with pytest.raises(ValueError, match="density"):
        density_model.query_distance(some_planes, torch.zeros(2, 1, 3))


def test_upsampling_keeps_a_flat_picture_flat() -> None:
    flat = upsample(torch.ones(1, 2, 6, 6), resample_filter())
    assert flat.shape == (1, 2, 12, 12)
    torch.testing.assert_close(flat[:, :, 1:-1, 1:-1], torch.ones(1, 2, 10, 10))  # zeros lie beyond the border
