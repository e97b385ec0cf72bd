"""The generator against numbers the published code made (tests/data/parity_tiny.npz, described in parity_tiny.json).

Both sides fill a small generator of the same architecture with the same pseudo-random weights, one stream per parameter
name, and must then make the same latents, tri-grids, densities and pictures. Renders are deterministic.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inference import checkpoints, conversion
from inference.camera import orbit_camera
from inference.generator import PANOHEAD, GeneratorConfig, TriPlaneGenerator, resize
from inference.progress import silent
from inference.render import RenderedImage, View, inside_rendered_region, rays, render_image, render_view
from inference.tri_grid import sample_planes_apart

from . import published_pickle
from .parity_weights import fill

DATA = Path(__file__).parent.parent / "data"
KEYS_FILE = Path(__file__).parents[3] / "shared" / "panohead" / "KEYS.json"

# What two evaluation orders of the published code differ by in float32, times five.
TRI_GRID_TOLERANCE = 5 * 2e-5
SIGMA_TOLERANCE = 5 * 1e-4
IMAGE_TOLERANCE = 5 * 1e-4
DEPTH_TOLERANCE = 5 * 3e-4
MASK_TOLERANCE = 5 * 2e-5
LATENT_TOLERANCE = 1e-5
CAMERA_TOLERANCE = 1e-5
# The crop's edge is a hard step, so a sample within rounding of it may fall on either side.
STEP_OUTLIERS = 0.01

MASK_STRETCH = 0.001  # the published code widens its mask, and only it, by this on either side


def config_of(kwargs: dict[str, Any], **sizes: Any) -> GeneratorConfig:
    """GeneratorConfig of the published code's keyword arguments; `sizes` are those its modules hold as constants."""
    rendering = kwargs["rendering_kwargs"]
    return GeneratorConfig(
        z_dim=kwargs["z_dim"],
        w_dim=kwargs["w_dim"],
        c_dim=kwargs["c_dim"],
        mapping_layers=kwargs["mapping_kwargs"]["num_layers"],
        channel_base=kwargs["channel_base"],
        channel_max=kwargs["channel_max"],
        planes_resolution=rendering["triplane_size"],
        planes_depth=rendering["triplane_depth"],
        box_side=rendering["box_warp"],
        ray_start=rendering["ray_start"],
        ray_end=rendering["ray_end"],
        coarse_samples=rendering["depth_resolution"],
        fine_samples=rendering["depth_resolution_importance"],
        **sizes,
    )


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    with np.load(DATA / "parity_tiny.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module", params=["filled", "converted"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TriPlaneGenerator:
    """The small generator: filled here, and out of a pickle of the published form."""
    if request.param == "converted":
        folder = tmp_path_factory.mktemp("converted")
        source, out = folder / "published.pkl", folder / "converted.safetensors"
        source.write_bytes(published_pickle.dumps(published_pickle.published_content()))
        conversion.convert([source], out, overwrite=False, progress=silent)
        return checkpoints.load_generator(out)
    kwargs = json.loads((DATA / "parity_tiny.json").read_text())["kwargs"]
    config = config_of(kwargs, superresolution_input=32, superresolution_channels=(16, 8), render_resolution=16)
    generator = TriPlaneGenerator(config).eval().requires_grad_(False)
    state = {key: torch.from_numpy(fill(key, tuple(value.shape))) for key, value in generator.state_dict().items()}
    generator.load_state_dict(state, strict=True)
    return generator


@pytest.fixture(scope="module")
def w_plus(generator: TriPlaneGenerator, expected: dict[str, Tensor]) -> Tensor:
    return generator.map_latents(expected["in_z"], expected["in_c_cond"], truncation_psi=0.7)


@pytest.fixture(scope="module")
def planes(generator: TriPlaneGenerator, w_plus: Tensor) -> Tensor:
    return generator.synthesise_planes(w_plus)


@pytest.fixture(scope="module")
def two_views(
    generator: TriPlaneGenerator, w_plus: Tensor, planes: Tensor, expected: dict[str, Tensor]
) -> RenderedImage:
    return render_image(generator, w_plus.expand(2, -1, -1), expected["in_c_view"], planes)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max().item() <= tolerance


def assert_mostly_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Close but for the share of pixels whose rays may fall on either side of the crop's edge."""
    assert actual.shape == expected.shape
    assert ((actual - expected).abs() > tolerance).float().mean().item() <= STEP_OUTLIERS


def stretched(view: View) -> Tensor:
    return view.mask * (1 + 2 * MASK_STRETCH) - MASK_STRETCH


def statistics(image: Tensor) -> Tensor:
    return torch.stack([image.mean(), image.std(correction=0), image.min(), image.max()])


def test_the_same_z_becomes_the_same_latent(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], w_plus: Tensor
) -> None:
    full = generator.map_latents(expected["in_z"], expected["in_c_cond"])
    cut = generator.map_latents(expected["in_z"], expected["in_c_cond"], truncation_psi=0.7, cutoff=8)
    assert_close(full[0, 0], expected["w_psi1"], LATENT_TOLERANCE)
    assert_close(w_plus[0, 0], expected["w_psi07"], LATENT_TOLERANCE)
    assert_close(cut[0, [0, 7, 8, -1], :64], expected["w_psi07_cut8"], LATENT_TOLERANCE)
    assert (w_plus == w_plus[:, :1]).all()


def test_the_camera_is_shifted_as_far_as_published(generator: TriPlaneGenerator, expected: dict[str, Tensor]) -> None:
    camera = expected["in_c_view"][:1]
    shifted = generator.shift_cameras(expected["in_z"], camera)
    assert_close(shifted, expected["c_view0_plus_delta"], LATENT_TOLERANCE)
    assert_close((shifted - camera)[:, [3, 7, 11]], expected["delta_c"], LATENT_TOLERANCE)


def test_the_same_latent_becomes_the_same_tri_grid(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], w_plus: Tensor, planes: Tensor
) -> None:
    channels = planes.reshape(1, 288, 64, 64)[0]
    assert_close(channels[::9, 3::8, 5::8], expected["trigrid_strided"], TRI_GRID_TOLERANCE)
    assert_close(channels.mean(dim=(1, 2)), expected["trigrid_channel_mean"], TRI_GRID_TOLERANCE)
    assert_close(channels.std(dim=(1, 2), correction=0), expected["trigrid_channel_std"], TRI_GRID_TOLERANCE)
    quiet = generator.synthesise_planes(w_plus, noise_mode="none").reshape(1, 288, 64, 64)[0]
    assert_close(quiet[::36, 3::8, 5::8], expected["trigrid_noise_none_strided"], TRI_GRID_TOLERANCE)


def test_points_read_the_same_planes_density_and_features(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], planes: Tensor
) -> None:
    points = expected["in_points"]
    apart = sample_planes_apart(planes, points[:, :50], box_side=1.0)[0].transpose(1, 2)
    assert_close(apart, expected["points_planefeat"], TRI_GRID_TOLERANCE)
    sigma, features = generator.query(planes, points)
    assert_close(sigma[0], expected["points_sigma"], SIGMA_TOLERANCE)
    assert_close(features[0, ::4], expected["points_rgb32"], SIGMA_TOLERANCE)
    assert_close(generator.query_sigma(planes, points)[0], expected["points_sigma"], SIGMA_TOLERANCE)
    culled = ~inside_rendered_region(points[0], box_side=1.0, crop_margin=0.1)
    assert torch.equal(culled.to(torch.uint8), expected["points_cropmask"])


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("kind", ["true", "ref"])
def test_the_density_grid_lies_where_published(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], planes: Tensor, axis: str, kind: str
) -> None:
    size = 64
    index = torch.stack(torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 3, indexing="ij"), dim=-1)
    if kind == "ref":
        # The published script divides indices without rounding, which shears its grid by up to a voxel.
        index[..., 1] += index[..., 2] / size
        index[..., 0] += index[..., 1] / size
    points = (index / (size - 1) - 0.5).float()
    chosen: list[Any] = [slice(None, None, 4)] * 3
    chosen["xyz".index(axis)] = 32
    whole: list[Any] = [slice(None)] * 3
    whole["xyz".index(axis)] = 32
    sigma = generator.query_sigma(planes, points[tuple(chosen)].reshape(1, -1, 3)).view(16, 16)
    # A quarter of a voxel in float32 indices is what the sheared grid itself is rounded to.
    assert_close(sigma, expected[f"grid64_{kind}_{axis}mid_sigma"], SIGMA_TOLERANCE)
    if kind == "ref":
        coordinates = points[tuple(chosen)].reshape(-1, 3)[::37]
        assert_close(coordinates, expected[f"grid64_ref_{axis}mid_xyz"], CAMERA_TOLERANCE)


def test_rays_leave_the_camera_as_published(expected: dict[str, Tensor]) -> None:
    origins, directions = rays(expected["in_c_view"], 64)
    assert_close(origins, expected["rays_origin"], CAMERA_TOLERANCE)
    strided = directions.view(2, 64, 64, 3)[:, ::9, ::9]
    assert_close(strided, expected["rays_dir64_strided"], CAMERA_TOLERANCE)


def test_published_cameras_are_orbit_cameras(expected: dict[str, Tensor]) -> None:
    """Their angles: h grows to the subject's left from -x, v is a share of the way down, not an angle."""
    compared = 0
    table = zip(expected["cam_table_in"].tolist(), expected["cam_table_cam2world"], strict=True)
    for (h, v, radius, *pivot), matrix in table:
        azimuth_deg = np.degrees(h - np.pi / 2)
        elevation_deg = 90.0 - np.degrees(np.arccos(1 - 2 * v / np.pi))
        ours = torch.from_numpy(orbit_camera(azimuth_deg, elevation_deg, radius).cam2world).float()
        assert_close(ours[:3, 3], matrix[:3, 3], 2e-5)  # v is clamped and h rounded to float32 there
        towards = torch.tensor(pivot) - matrix[:3, 3]
        assert_close(matrix[:3, 2], towards / towards.norm(), CAMERA_TOLERANCE)
        if not any(pivot):
            assert_close(ours, matrix, 2e-5)
            compared += 1
    assert compared == 6


def test_published_view_angles_become_focal_lengths(expected: dict[str, Tensor]) -> None:
    """With their constants for pi / 360 and the square root of two."""
    focal = 1 / (torch.tan(expected["fov_in"] * 3.14159 / 360) * 1.414)
    assert_close(focal, expected["fov_focal"], CAMERA_TOLERANCE)


def test_small_renders_show_the_same_head(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], w_plus: Tensor, two_views: RenderedImage
) -> None:
    view = two_views.view
    assert_mostly_close(view.features[:, :, ::2, ::2], expected["det16_feat_nobg"], IMAGE_TOLERANCE)
    assert_mostly_close(two_views.raw, expected["det16_raw"], IMAGE_TOLERANCE)
    assert_mostly_close(view.depth, expected["det16_depth"], DEPTH_TOLERANCE)
    assert_mostly_close(stretched(view), expected["det16_mask"], MASK_TOLERANCE)
    assert_mostly_close(two_views.image[:, :, ::4, ::4], expected["det16_image"], IMAGE_TOLERANCE)
    assert_close(statistics(two_views.image), expected["det16_image_stats"], IMAGE_TOLERANCE)


def test_the_background_shines_through_where_the_head_is_not(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], w_plus: Tensor, planes: Tensor, two_views: RenderedImage
) -> None:
    background = generator.synthesise_background(w_plus)
    assert_close(background[:, :, ::8, ::8], expected["det16_bcg"], TRI_GRID_TOLERANCE)
    headless = replace(generator.config, superresolution=False)
    without_colours = TriPlaneGenerator(headless).requires_grad_(False)
    without_colours.load_state_dict(generator.state_dict(), strict=False)
    mixed = render_image(without_colours, w_plus.expand(2, -1, -1), expected["in_c_view"], planes).raw
    assert_mostly_close(mixed[:, ::4, ::2, ::2], expected["det16_feat_withbg"], IMAGE_TOLERANCE)

    other = torch.from_numpy(np.random.Generator(np.random.PCG64(1003)).standard_normal((1, 64))).float()
    other_w_plus = generator.map_latents(other, expected["in_c_cond"], truncation_psi=0.7)
    swapped = render_image(generator, w_plus, expected["in_c_view"][:1], planes, background_w_plus=other_w_plus)
    assert_mostly_close(swapped.raw[:, :, ::2, ::2], expected["bgswap_raw"], IMAGE_TOLERANCE)


def test_larger_renders_show_the_same_head(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], w_plus: Tensor, planes: Tensor
) -> None:
    rendered = render_image(generator, w_plus, expected["in_c_view"][:1], planes, resolution=32)
    assert_mostly_close(rendered.raw, expected["det32_raw"], IMAGE_TOLERANCE)
    assert_mostly_close(rendered.view.depth, expected["det32_depth"], DEPTH_TOLERANCE)
    assert_mostly_close(stretched(rendered.view), expected["det32_mask"], MASK_TOLERANCE)
    assert_mostly_close(rendered.image[:, :, ::4, ::4], expected["det32_image"], IMAGE_TOLERANCE)
    assert_close(statistics(rendered.image), expected["det32_image_stats"], IMAGE_TOLERANCE)


@pytest.mark.parametrize("loud", [1.0, 1e4])
def test_half_precision_gives_the_same_picture(
    generator: TriPlaneGenerator, w_plus: Tensor, planes: Tensor, expected: dict[str, Tensor], loud: float
) -> None:
    """As on CUDA. Latents may scale a channel to any size: demodulation takes it out, and nothing may overflow."""
    camera = expected["in_c_view"][:1]
    rendered = render_image(generator, w_plus, camera, planes)
    behind = 1 - rendered.view.mask
    features = rendered.view.features + behind * resize(generator.synthesise_background(w_plus), 16)
    w = w_plus[:, -1].clone()
    louder = copy.deepcopy(generator.superresolution)
    for block in (louder.block0, louder.block1):
        for layer in (block.conv0, block.conv1):
            layer.affine.weight *= loud
            layer.affine.bias *= loud
    single = louder(rendered.raw, features, w)
    half = louder(rendered.raw, features, w, torch.float16)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    torch.testing.assert_close(single, rendered.image, atol=1e-3, rtol=1e-3)
    assert (half - single).abs().max() < 0.01 * single.std()


def test_a_z_and_a_camera_alone_give_the_published_picture(
    generator: TriPlaneGenerator, expected: dict[str, Tensor]
) -> None:
    camera = expected["in_c_view"][:1]
    w_plus = generator.map_latents(expected["in_z"], camera, truncation_psi=0.7)
    shifted = generator.shift_cameras(expected["in_z"], camera, truncation_psi=0.7)
    rendered = render_image(generator, w_plus, shifted)
    assert_mostly_close(rendered.image[:, :, ::4, ::4], expected["forward_image"], IMAGE_TOLERANCE)
    assert_mostly_close(rendered.view.depth[:, :, ::4, ::4], expected["forward_depth"], DEPTH_TOLERANCE)


def test_rays_may_start_later(generator: TriPlaneGenerator, expected: dict[str, Tensor], planes: Tensor) -> None:
    late = TriPlaneGenerator(replace(generator.config, ray_start=2.35)).requires_grad_(False)
    late.load_state_dict(generator.state_dict())
    depth = render_view(late, planes, expected["in_c_view"][:1]).depth
    assert_mostly_close(depth[:, :, ::2, ::2], expected["raystart235_depth"], DEPTH_TOLERANCE)


def test_random_samples_are_drawn_in_the_published_order(
    generator: TriPlaneGenerator, expected: dict[str, Tensor], w_plus: Tensor, planes: Tensor
) -> None:
    seeded = torch.Generator().manual_seed(0)
    rendered = render_image(generator, w_plus, expected["in_c_view"][:1], planes, jitter=seeded)
    assert_mostly_close(rendered.raw, expected["seeded16_raw"], IMAGE_TOLERANCE)
    assert_mostly_close(stretched(rendered.view), expected["seeded16_mask"], MASK_TOLERANCE)


@pytest.mark.skipif(not KEYS_FILE.exists(), reason="the list of PanoHead's keys is not beside the repository")
def test_the_full_generator_has_the_keys_and_shapes_of_the_public_checkpoint() -> None:
    published = json.loads(KEYS_FILE.read_text())["published"]
    assert config_of(published["init_kwargs"]) == PANOHEAD
    with torch.device("meta"):  # shapes without 200 MB of random numbers
        generator = TriPlaneGenerator(PANOHEAD)
    shapes = {key: list(value.shape) for key, value in generator.state_dict().items()}
    assert shapes == {key: entry["shape"] for key, entry in published["keys"].items()}
    assert generator.num_ws == published["num_ws"]["backbone"]
    assert generator.bcg_synthesis.num_ws == published["num_ws"]["bcg_synthesis"]
