"""From the portrait to latents: two encoders of one build, one for what the photo shows, one for what it hides.

Each has the two stages of Bilecen et al. (NeurIPS 2024, arXiv 2409.20530): first a code per convolution of the
generator (W+), as an offset from the average w; then a high-rate residual that is added to the tri-grid's features.
The residual stage carries picture features to the cells that project onto them (lifting), so that whatever the photo
shows ends in the tri-grid itself, where it can be stitched, saved and extracted again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .camera import RADIUS, Camera, project_tensor
from .generator import GeneratorConfig
from .tri_grid import plane_points

GROUPS = 8  # of GroupNorm: batches are too small for BatchNorm to know its statistics
PICTURE_CHANNELS = 6  # red, green, blue, matte, x, y
RESIDUAL_GAIN = 0.1  # initial size of the residual against the generator's planes, so that training starts at the mean
STYLE_GAIN = 0.3  # initial size of the offset from the average w


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of one encoder."""

    input_size: int = 128  # px, side of the portrait the encoder looks at
    channels: tuple[int, ...] = (32, 64, 96, 160, 256)  # of the trunk; each level halves the picture
    feature_channels: int = 32  # of the picture features that are lifted onto the planes
    lift_channels: int = 16  # of a lifted sample
    lift_width: int = 32  # of the mixing layers on the planes; 64 took twice the encoder's whole time
    lift_samples: int = 8  # samples along each cell's normal
    style_width: int = 256  # hidden layer between the trunk and the w's

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """The config a checkpoint carries."""
        return cls(**{**values, "channels": tuple(values["channels"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Latents:
    """What an encoder says of a portrait.

    w_plus:   (n, num_ws, w_dim).
    residual: (n, 3, channels, depth, res, res), added to the generator's planes.
    """

    w_plus: Tensor
    residual: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a short cut; the first halves the picture."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.norm0 = nn.GroupNorm(GROUPS, out_channels)
        self.norm1 = nn.GroupNorm(GROUPS, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm0(self.reduce(x)))
        return F.silu(self.norm1(self.conv(y)) + self.shortcut(F.avg_pool2d(x, 2)))


class PlaneLift(nn.Module):
    """Carries picture features onto the three planes of the tri-grid.

    Every cell looks along its plane's normal: at `lift_samples` points it asks what the picture shows there, and mixes
    the answers into features for each of the plane's depth slices.
    """

    points: Tensor

    def __init__(self, config: EncoderConfig, generator: GeneratorConfig) -> None:
        super().__init__()
        self.samples, self.resolution = config.lift_samples, generator.planes_resolution
        self.shape = (generator.plane_channels, generator.planes_depth)
        width, out_channels = config.lift_width, generator.plane_channels * generator.planes_depth
        self.reduce = nn.Conv2d(config.feature_channels, config.lift_channels, 1)
        self.mix = nn.Linear(config.lift_samples * config.lift_channels, width, bias=False)
        self.plane_code = nn.Parameter(torch.randn(3, width, 1) * 0.1)
        self.refine = nn.Conv2d(width, width, 3, 1, 1)
        self.heads = nn.ModuleList([nn.Conv2d(width, out_channels, 3, 1, 1) for _ in range(3)])
        for head in self.heads:
            assert isinstance(head, nn.Conv2d) and head.bias is not None
            nn.init.zeros_(head.bias)
            head.weight.data.mul_(RESIDUAL_GAIN)
        # (3, samples, res, res, 3): where each cell looks, in the head frame
        points = plane_points(self.resolution, config.lift_samples, generator.box_side)
        self.register_buffer("points", points.reshape(1, -1, 3), persistent=False)

    def forward(self, features: Tensor, cameras: Tensor) -> Tensor:
        n, res = len(features), self.resolution
        features = self.reduce(features)
        pixels, _ = project_tensor(self.points.expand(n, -1, -1), cameras)
        grids = (pixels * 2 - 1).view(n, 3, self.samples, res * res, 2)  # grid_sample counts from -1 to 1
        weight = self.mix.weight.expand(n, -1, -1)
        mixed = []
        for plane in range(3):
            lifted = F.grid_sample(
                features, grids[:, plane], mode="bilinear", padding_mode="zeros", align_corners=False
            )  # (n, channel, sample, cell)
            # A 1x1 convolution as a product of matrices: on a CPU several times faster than conv2d, and without copies.
            mixed.append(torch.bmm(weight, lifted.flatten(1, 2)) + self.plane_code[plane])
        stacked = F.silu(torch.stack(mixed, dim=1)).view(n * 3, -1, res, res)
        mixed_planes = F.silu(self.refine(stacked) + stacked).view(n, 3, -1, res, res)
        planes = torch.stack([head(mixed_planes[:, plane]) for plane, head in enumerate(self.heads)], dim=1)
        return planes.view(n, 3, *self.shape, res, res)


class PortraitEncoder(nn.Module):
    """Both stages over one trunk: portrait and camera to `Latents`.

    portraits: (n, 4, s, s) red, green, blue in [0, 1] composited on mid grey, and the matte.
    cameras:   (n, 25) as `Camera.vector`.
    """

    w_avg: Tensor

    def __init__(self, config: EncoderConfig, generator: GeneratorConfig, num_ws: int) -> None:
        super().__init__()
        self.config = config
        self.num_ws, self.w_dim = num_ws, generator.w_dim
        channels = config.channels
        inputs = (PICTURE_CHANNELS, *channels[:-1])
        self.trunk = nn.ModuleList([ResidualBlock(i, o) for i, o in zip(inputs, channels, strict=True)])
        side = config.input_size >> len(channels)
        to_style = nn.Linear(channels[-1] * side * side + 12, config.style_width)
        to_offset = nn.Linear(config.style_width, num_ws * generator.w_dim)
        to_offset.weight.data.mul_(STYLE_GAIN)
        self.style = nn.Sequential(to_style, nn.SiLU(), to_offset)
        coarse_to_fine = list(range(len(channels) - 1, 0, -1))
        self.merge = nn.ModuleList(
            [nn.Conv2d(channels[i] + channels[i - 1], channels[i - 1], 3, 1, 1) for i in coarse_to_fine]
        )
        self.detail = nn.Conv2d(channels[0], config.feature_channels, 3, 1, 1)
        self.lift = PlaneLift(config, generator)
        self.register_buffer("w_avg", torch.zeros(generator.w_dim))

    def forward(self, portraits: Tensor, cameras: Tensor) -> Latents:
        n, _, height, width = portraits.shape
        x = torch.linspace(-1, 1, width, device=portraits.device).view(1, 1, 1, -1).expand(n, 1, height, -1)
        y = torch.linspace(-1, 1, height, device=portraits.device).view(1, 1, -1, 1).expand(n, 1, -1, width)
        level = torch.cat([portraits * 2 - 1, x, y], dim=1)
        levels = []
        for block in self.trunk:
            level = block(level)
            levels.append(level)
        # Rotation and position of the camera; the position is brought to the rotation's size.
        pose = cameras[:, :12].view(n, 3, 4) * cameras.new_tensor([1.0, 1.0, 1.0, 1.0 / RADIUS])
        styles = self.style(torch.cat([level.flatten(1), pose.flatten(1)], dim=1))
        w_plus = self.w_avg + styles.view(n, self.num_ws, self.w_dim)
        for merge, finer in zip(self.merge, reversed(levels[:-1]), strict=True):
            level = F.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
            level = F.silu(merge(torch.cat([level, finer], dim=1)))
        return Latents(w_plus, self.lift(self.detail(level), cameras))


class VisibleEncoder(PortraitEncoder):
    """Faithful to what the photo shows (the paper's encoder 1)."""


class OccludedEncoder(PortraitEncoder):
    """Plausible where the photo shows nothing (the paper's encoder 2)."""


def portrait_tensor(image: NDArray[np.uint8], matte: NDArray[np.floating], size: int, device: torch.device) -> Tensor:
    """The portrait as the encoders take it.

    image:   (h, w, 3) sRGB; matte: (h, w) in [0, 1].
    Returns: (1, 4, size, size): colour composited on mid grey, matte.
    """
    soft = torch.from_numpy(np.ascontiguousarray(matte, dtype=np.float32))[None, None]
    colour = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    both = torch.cat([compose_on_grey(colour, soft), soft], dim=1)
    return F.interpolate(both, size=(size, size), mode="area").to(device)


def compose_on_grey(colour: Tensor, matte: Tensor) -> Tensor:
    """Straight colour (n, 3, h, w) over mid grey by the matte (n, 1, h, w)."""
    return colour * matte + 0.5 * (1 - matte)


def encode(encoder: PortraitEncoder, image: NDArray[np.uint8], matte: NDArray[np.floating], camera: Camera) -> Latents:
    """Run one encoder on an aligned portrait (see `portrait_tensor`); the device is the encoder's."""
    device = encoder.w_avg.device
    portraits = portrait_tensor(image, matte, encoder.config.input_size, device)
    cameras = torch.from_numpy(camera.vector)[None].to(device)
    with torch.no_grad():
        return encoder(portraits, cameras)
