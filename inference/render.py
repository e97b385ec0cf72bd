"""Volume rendering of a tri-grid: what a camera sees of a head, and how far away it is.

The rule is PanoHead's (An et al. 2023, arXiv 2303.13071), in two passes: evenly spaced samples find where the density
is, further samples go there, and all are composited in order. Without a `jitter` the samples sit at the middle of their
intervals, so the same call gives the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .generator import TriPlaneGenerator, resize
from .tri_grid import cell_by_cell

EMPTY_SIGMA = -1000.0  # given to samples outside the rendered region: no density after softplus
SOFTPLUS_SHIFT = 1.0  # density is softplus(sigma - 1)
TRANSMITTANCE_FLOOR = 1e-10  # keeps light, and gradients, behind opaque samples
IMPORTANCE_FLOOR = 0.01  # weight every interval gets in the search for density, so that none is overlooked
PROBABILITY_FLOOR = 1e-5
WHITE = 1.0  # in the range of raw colours: [-1, 1] before super-resolution, [0, 1] without
RAYS_PER_CHUNK = 1 << 12  # bounds the memory of large pictures; on a CPU larger chunks are slower, too


@dataclass(frozen=True)
class View:
    """What a camera sees; no background is mixed in.

    features: (n, k, h, w) colours or colour features, times mask.
    depth:    (n, 1, h, w) distance along the unit ray, box units; the ray's end where it met nothing.
    mask:     (n, 1, h, w) in [0, 1], the share of light the head stops.
    """

    features: Tensor
    depth: Tensor
    mask: Tensor


@dataclass(frozen=True)
class RenderedImage:
    """A finished picture.

    image: (n, 3, s, s) in about [-1, 1] after super-resolution; without it, the same as raw.
    raw:   (n, 3, r, r) at the resolution of the volume rendering.
    view:  what was rendered before the background.
    """

    image: Tensor
    raw: Tensor
    view: View


def rays(cameras: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres of square pictures, row by row.

    cameras: (n, 25) PanoHead's vectors, see camera.Camera.vector.
    Returns: origins (n, 3) and unit directions (n, resolution ** 2, 3), head frame.
    """
    cam2world = cameras[:, :16].view(-1, 4, 4)
    intrinsics = cameras[:, 16:].view(-1, 3, 3)
    centres = (torch.arange(resolution, device=cameras.device, dtype=cameras.dtype) + 0.5) / resolution
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    u, v = u.reshape(1, -1), v.reshape(1, -1)
    fx, fy, skew = intrinsics[:, 0, 0, None], intrinsics[:, 1, 1, None], intrinsics[:, 0, 1, None]
    cx, cy = intrinsics[:, 0, 2, None], intrinsics[:, 1, 2, None]
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (n, m, 3)
    directions = in_camera @ cam2world[:, :3, :3].transpose(1, 2)
    return cam2world[:, :3, 3], F.normalize(directions, dim=-1)


def inside_rendered_region(points: Tensor, box_side: float, crop_margin: float | None) -> Tensor:
    """Which points (..., 3) rendering keeps: (...) bool; GeneratorConfig.crop_margin tells the rule."""
    if crop_margin is None:
        return (points.abs() <= box_side / 2).all(dim=-1)
    limit = box_side / 2 - crop_margin
    return (points[..., 0].abs() <= limit) & (points[..., 2].abs() <= limit)


def coarse_depths(
    ray_count: int, start: float, end: float, samples: int, like: Tensor, jitter: torch.Generator | None
) -> Tensor:
    """(rays, samples) distances along the rays, evenly spaced, moved within their interval."""
    even = torch.linspace(start, end, samples, device=like.device, dtype=like.dtype)
    step = (end - start) / (samples - 1)
    if jitter is None:
        return (even + 0.5 * step).expand(ray_count, samples)
    shape = (ray_count, samples)
    return even + torch.rand(shape, generator=jitter, device=like.device, dtype=like.dtype) * step


def march(depths: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Share of light that each interval between neighbouring samples sends to the camera.

    depths:  (rays, samples) rising, box units; sigma: (rays, samples), density before softplus.
    Returns: weights (rays, samples - 1) and the depths of the intervals' middles, the same shape.
    """
    middle_sigma = (sigma[:, :-1] + sigma[:, 1:]) / 2
    density = F.softplus(middle_sigma - SOFTPLUS_SHIFT)  # per box unit
    alpha = 1 - torch.exp(-density * (depths[:, 1:] - depths[:, :-1]))
    passed = torch.cumprod(1 - alpha[:, :-1] + TRANSMITTANCE_FLOOR, dim=1)
    transmittance = torch.cat([torch.ones_like(alpha[:, :1]), passed], dim=1)
    return alpha * transmittance, (depths[:, :-1] + depths[:, 1:]) / 2


def fine_depths(depths: Tensor, weights: Tensor, samples: int, jitter: torch.Generator | None) -> Tensor:
    """(rays, samples) distances drawn where the coarse weights are large; no gradient passes.

    depths:  (rays, coarse samples); weights: (rays, coarse samples - 1) from `march`.

    The cells drawn from reach from one interval's middle to the next and take the weight of the interval after: half
    an interval off, but this is the rule the published model was trained with.
    """
    weights = weights.detach()[:, None]
    widened = F.avg_pool1d(F.max_pool1d(weights, kernel_size=2, stride=1, padding=1), kernel_size=2, stride=1)
    inner = widened[:, 0, 1:-1] + IMPORTANCE_FLOOR + PROBABILITY_FLOOR  # the outermost intervals are left out
    edges = ((depths[:, :-1] + depths[:, 1:]) / 2).detach()
    cumulative = torch.cumsum(inner / inner.sum(dim=1, keepdim=True), dim=1)
    cumulative = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], dim=1)
    shape = (len(depths), samples)
    if jitter is None:
        even = (torch.arange(samples, device=depths.device, dtype=depths.dtype) + 0.5) / samples
        drawn = even.expand(shape).contiguous()
    else:
        drawn = torch.rand(shape, generator=jitter, device=depths.device, dtype=depths.dtype)
    upper = torch.searchsorted(cumulative, drawn, right=True)
    lower = (upper - 1).clamp(min=0)
    upper = upper.clamp(max=cumulative.shape[1] - 1)
    cumulative_lower = cumulative.gather(1, lower)
    width = cumulative.gather(1, upper) - cumulative_lower
    width = torch.where(width < PROBABILITY_FLOOR, torch.ones_like(width), width)
    edge_lower = edges.gather(1, lower)
    return edge_lower + (drawn - cumulative_lower) / width * (edges.gather(1, upper) - edge_lower)


def render_rays(
    generator: TriPlaneGenerator,
    planes: Tensor,
    origins: Tensor,
    directions: Tensor,
    coarse_samples: int,
    fine_samples: int,
    jitter: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite along rays: features (n, m, k), depth (n, m, 1), mask (n, m, 1).

    planes (n, 3, channels, depth, r, r); origins (n, 3); directions (n, m, 3) unit, head frame.
    """
    config = generator.config
    n, m, _ = directions.shape

    def decode_at(depths: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, None, None] + depths.view(n, m, -1, 1) * directions[:, :, None]  # (n, m, samples, 3)
        sigma, colour = generator.query(planes, points.flatten(1, 2))
        kept = inside_rendered_region(points.flatten(1, 2), config.box_side, config.crop_margin)
        sigma = torch.where(kept, sigma, torch.full_like(sigma, EMPTY_SIGMA))
        samples = depths.shape[1]
        return sigma.reshape(n * m, samples), colour.reshape(n * m, samples, -1)

    depths = coarse_depths(n * m, config.ray_start, config.ray_end, coarse_samples, directions, jitter)
    sigma, colour = decode_at(depths)
    if fine_samples:
        weights, _ = march(depths, sigma)
        more_depths = fine_depths(depths, weights, fine_samples, jitter)
        more_sigma, more_colour = decode_at(more_depths)
        depths, order = torch.sort(torch.cat([depths, more_depths], dim=1), dim=1)
        sigma = torch.cat([sigma, more_sigma], dim=1).gather(1, order)
        colour = torch.cat([colour, more_colour], dim=1)
        colour = colour.gather(1, order[..., None].expand_as(colour))
    weights, middles = march(depths, sigma)
    middle_colour = (colour[:, :-1] + colour[:, 1:]) / 2
    features = torch.einsum("rs,rsk->rk", weights, middle_colour)
    mask = weights.sum(dim=1)
    # A ray that meets nothing has no depth of its own; it gets its end. Each ray is limited by its own samples, so a
    # view does not depend on what is rendered beside it.
    met = mask > 0
    depth = (weights * middles).sum(dim=1) / torch.where(met, mask, torch.ones_like(mask))
    depth = torch.where(met, depth, depths[:, -1]).clamp(depths[:, 0], depths[:, -1])
    return features.view(n, m, -1), depth.view(n, m, 1), mask.view(n, m, 1)


def render_view(
    generator: TriPlaneGenerator,
    planes: Tensor,
    cameras: Tensor,
    resolution: int | None = None,
    coarse_samples: int | None = None,
    fine_samples: int | None = None,
    jitter: torch.Generator | None = None,
) -> View:
    """Render each tri-grid with its camera; differentiable in planes, cameras and the decoder.

    planes:     (n, 3, channels, depth, r, r), or one tri-grid (1, ...) for all cameras.
    cameras:    (n, 25).
    resolution: px of the square pictures; the samples are per ray; None takes the generator's own.
    jitter:     random samples from this generator, which must live on the planes' device; None is deterministic.
    """
    config = generator.config
    resolution = config.render_resolution if resolution is None else resolution
    coarse_samples = config.coarse_samples if coarse_samples is None else coarse_samples
    fine_samples = config.fine_samples if fine_samples is None else fine_samples
    origins, directions = rays(cameras, resolution)
    n = len(cameras)
    if not torch.is_grad_enabled():
        planes = cell_by_cell(planes)
    planes = planes.expand(n, -1, -1, -1, -1, -1)
    chunk = max(1, RAYS_PER_CHUNK // n)
    parts = [
        render_rays(generator, planes, origins, part, coarse_samples, fine_samples, jitter)
        for part in directions.split(chunk, dim=1)
    ]
    features, depth, mask = (
        torch.cat(chunks, dim=1).transpose(1, 2).reshape(n, -1, resolution, resolution)
        for chunks in zip(*parts, strict=True)
    )
    return View(features, depth, mask)


def render_image(
    generator: TriPlaneGenerator,
    w_plus: Tensor,
    cameras: Tensor,
    planes: Tensor | None = None,
    background_w_plus: Tensor | None = None,
    resolution: int | None = None,
    jitter: torch.Generator | None = None,
    background: Literal["own", "white"] = "own",
) -> RenderedImage:
    """The picture the whole generator makes: volume rendering, background and super-resolution, where it has them.

    w_plus:            (n, num_ws, w_dim); its last row also steers the colours and the super-resolution.
    planes:            tri-grids to render in place of the ones w_plus synthesises.
    background_w_plus: latents of another background; None takes w_plus.
    background:        "own" is the generator's, none where it has none; "white" lies behind the raw colours, while
                       the features stay without any, as in the code of the dual encoders' authors (arXiv 2409.20530).
    """
    config = generator.config
    if planes is None:
        planes = generator.synthesise_planes(w_plus)
    view = render_view(generator, planes, cameras, resolution, jitter=jitter)
    features = view.features
    if config.background and background == "own":
        behind = generator.synthesise_background(w_plus if background_w_plus is None else background_w_plus)
        features = features + (1 - view.mask) * resize(behind, features.shape[-1])
    if not config.superresolution:
        raw = features + (1 - view.mask) * WHITE if background == "white" else features
        return RenderedImage(image=raw, raw=raw, view=view)
    raw = generator.torgb(features, w_plus[:, -1])
    if background == "white":
        raw = torch.lerp(torch.full_like(raw, WHITE), raw, view.mask)
    return RenderedImage(image=generator.superresolution(raw, features, w_plus[:, -1]), raw=raw, view=view)
