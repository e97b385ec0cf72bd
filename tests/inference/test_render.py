from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from inference import render
from inference.camera import FOCAL, RADIUS, orbit_camera
from inference.generator import DISTANCE_UNIT, STARTER, TriPlaneGenerator
from inference.render import march, render_view

SPHERE_RADIUS = 0.2
SMALL = replace(STARTER, channel_base=64, planes_resolution=8, z_dim=16, w_dim=16)


class Sphere(TriPlaneGenerator):
    """A head whose weights would be a sphere around the origin: red on the subject's left, green elsewhere."""

    def query(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_from_raw((points.norm(dim=-1) - SPHERE_RADIUS) / DISTANCE_UNIT)
        red = (points[..., 0] > 0).float()
        return sigma, torch.stack([red, 1 - red, torch.zeros_like(red)], dim=-1)


@pytest.fixture(scope="module")
def sphere() -> Sphere:
    return Sphere(SMALL).requires_grad_(False)


@pytest.fixture(scope="module")
def head() -> TriPlaneGenerator:
    """An untrained generator."""
    torch.manual_seed(0)
    return TriPlaneGenerator(SMALL)


@pytest.fixture(scope="module")
def planes(head: TriPlaneGenerator) -> Tensor:
    """Tri-grids of two shapes: the decoder is made steep, and moved so that a tenth of the box is inside."""
    with torch.no_grad():
        head.decoder.net[-1].weight *= 30
        planes = head.synthesise_planes(head.map_latents(torch.randn(2, SMALL.z_dim)))
        anywhere = (torch.rand(2, 1000, 3) - 0.5) * SMALL.box_side
        distance, _ = head.query_distance(planes, anywhere)
        head.decoder.net[-1].bias[0] -= distance.quantile(0.1) / DISTANCE_UNIT
        return planes


def cameras(*azimuths_deg: float) -> Tensor:
    return torch.stack([torch.from_numpy(orbit_camera(azimuth).vector) for azimuth in azimuths_deg])


def no_planes(count: int) -> Tensor:
    return torch.zeros(count, 3, 8, 3, 8, 8)


@pytest.mark.parametrize("sigma", [-2.0, 0.5, 4.0])
def test_fog_of_constant_density_stops_light_exponentially(sigma: float) -> None:
    depths = torch.sort(torch.rand(4, 30, dtype=torch.float64), dim=1).values + 2.0
    weights, middles = march(depths, torch.full_like(depths, sigma))
    density = math.log1p(math.exp(sigma - 1.0))
    crossed = depths[:, -1] - depths[:, 0]
    # 1e-8: the floor under the transmittance adds 1e-10 for each of the intervals.
    torch.testing.assert_close(weights.sum(dim=1), 1 - torch.exp(-density * crossed), rtol=0, atol=1e-8)
    entered = depths[:, :-1] - depths[:, :1]
    left = depths[:, 1:] - depths[:, :1]
    expected = torch.exp(-density * entered) - torch.exp(-density * left)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(middles, (depths[:, 1:] + depths[:, :-1]) / 2)


def test_a_generator_filled_with_fog_renders_as_fog() -> None:
    fog = TriPlaneGenerator(replace(SMALL, box_side=10.0)).requires_grad_(False)  # every sample is inside the box
    last = fog.decoder.net[-1]
    last.weight.zero_()
    last.bias.copy_(torch.tensor([0.09, 0.0, 0.0, 0.0]))  # sigma 10 - 2000 * 0.05 * 0.09 = 1
    view = render_view(fog, no_planes(1), cameras(0.0), resolution=4, coarse_samples=8, fine_samples=8)
    # Samples reach from half a step behind ray_start to half a step behind ray_end.
    expected = 1 - math.exp(-math.log(2.0) * (SMALL.ray_end - SMALL.ray_start))
    torch.testing.assert_close(view.mask, torch.full((1, 1, 4, 4), expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(view.features, torch.full((1, 3, 4, 4), expected / 2), rtol=0, atol=1e-5)


def test_a_sphere_is_seen_at_its_distance_with_its_outline(sphere: Sphere) -> None:
    size = 64
    view = render_view(sphere, no_planes(1), cameras(0.0), resolution=size)
    middle = slice(size // 2 - 1, size // 2 + 1)
    # Light enters to where the density, 9 + slope * s at depth s, has stopped it: this is the mean of that depth.
    half_slope, skin = STARTER.distance_slope / 2, STARTER.surface_sigma - 1
    entered = math.sqrt(math.pi / half_slope) / 2 * math.exp(skin**2 / (4 * half_slope))
    entered *= math.erfc(skin / (2 * math.sqrt(half_slope)))
    expected = RADIUS - SPHERE_RADIUS + entered
    assert view.depth[0, 0, middle, middle].mean() == pytest.approx(expected, abs=0.001)
    outline = FOCAL * math.tan(math.asin(SPHERE_RADIUS / RADIUS)) * size  # px, radius of the disc it covers
    assert math.sqrt(view.mask.sum() / math.pi) == pytest.approx(outline, abs=1.0)
    assert view.mask[0, 0, 0, 0] == 0
    assert view.depth[0, 0, 0, 0] > RADIUS + 0.35  # nothing there: the end of the ray


def test_the_subjects_left_is_on_the_right_in_front_and_on_the_left_from_behind(sphere: Sphere) -> None:
    red = render_view(sphere, no_planes(1), cameras(0.0, 180.0), resolution=16).features[:, 0]
    front, behind = red
    assert front[:, 8:].sum() > 20 and front[:, :7].sum() < 0.1
    assert behind[:, :8].sum() > 20 and behind[:, 9:].sum() < 0.1


def test_rendering_twice_gives_the_same_picture_and_jitter_another(head: TriPlaneGenerator, planes: Tensor) -> None:
    with torch.no_grad():
        once, again = (render_view(head, planes, cameras(0.0, 90.0), resolution=8) for _ in range(2))
        jittered, same = (
            render_view(head, planes, cameras(0.0, 90.0), 8, jitter=torch.Generator().manual_seed(3)) for _ in range(2)
        )
    assert torch.equal(once.features, again.features)
    assert torch.equal(jittered.features, same.features)
    assert not torch.equal(once.features, jittered.features)


def test_a_view_does_not_depend_on_what_is_rendered_beside_it(
    head: TriPlaneGenerator, planes: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        both = render_view(head, planes, cameras(0.0, 90.0), resolution=8)
        monkeypatch.setattr(render, "RAYS_PER_CHUNK", 24)  # several chunks, the last one short
        chunked = render_view(head, planes, cameras(0.0, 90.0), resolution=8)
        alone = render_view(head, planes[1:], cameras(90.0), resolution=8)
    for kind in ("features", "depth", "mask"):
        torch.testing.assert_close(getattr(chunked, kind), getattr(both, kind), rtol=0, atol=1e-6)
        torch.testing.assert_close(getattr(alone, kind), getattr(both, kind)[1:], rtol=0, atol=1e-6)


def test_the_picture_pulls_on_planes_and_decoder(head: TriPlaneGenerator, planes: Tensor) -> None:
    wanted = planes.clone().requires_grad_()
    view = render_view(head, wanted, cameras(0.0, 90.0), resolution=8)
    assert 0.01 < view.mask.mean() < 0.99  # some surface, some empty space
    (view.mask.mean() + view.depth.mean() + view.features.mean()).backward()
    for gradient in [wanted.grad, *(parameter.grad for parameter in head.decoder.parameters())]:
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().max() > 0
