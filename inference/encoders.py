"""From the portrait to latents: two encoders of one build, one for what the photo shows, one for what it hides.

Each has the two stages of Bilecen et al. (NeurIPS 2024, arXiv 2409.20530): first a code per convolution of the
generator (W+), as an offset from the average w; then a high-rate residual that is added to the tri-grid's features.
The residual stage carries picture features to the cells that project onto them (lifting), so that whatever the photo
shows ends in the tri-grid itself, where it can be stitched, saved and extracted again. The second encoder is also given
the first one's tri-grid where the photo shows it, and completes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .camera import RADIUS, Camera, project, project_tensor, ray_tensor
from .generator import DISTANCE_UNIT, GeneratorConfig, TriPlaneGenerator
from .tri_grid import plane_means, plane_points

GROUPS = 8  # of GroupNorm: batches are too small for BatchNorm to know its statistics
PICTURE_CHANNELS = 6  # red, green, blue, matte, x, y
RAY_CHANNELS = 6  # the ray's point nearest to the origin, its direction
RAY_GAIN = 4.0  # brings those points, up to a quarter of a box unit from the origin, to order 1
RESIDUAL_GAIN = 0.1  # initial size of the residual against the generator's planes, so that training starts at the mean
PLACE_START = 0.1  # size of the planes' codes before training
POSE_NUMBERS = 12  # of a camera: three rows of rotation and position
LANDMARK_GAIN = 20.0  # faces differ from the mean by some hundredths of the picture's side
STYLE_GAIN = 0.3  # initial size of the offset from the average w
MEASURES = 3  # of a lifted sample: matte, how far behind the shown surface, how far before the hidden one
SURFACE_REACH = 0.04  # box units (21 mm): up to about this far samples tell their distance from the surfaces
NEAR_SURFACE = 0.06  # box units: a pixel's colour belongs to samples about this near to the surface it shows
LEAST_MATTE = 0.05  # share of a pixel that must be head for its surfaces to mean anything
SURFACES_START = (-2.5, 2.5)  # in `DISTANCE_UNIT` from the head's middle: the training heads' mean surfaces


TUPLES = ("channels", "second_blocks", "coarse_widths")  # fields of EncoderConfig that JSON makes lists of


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of one encoder."""

    input_size: int = 128  # px, side of the portrait the encoder looks at
    channels: tuple[int, ...] = (32, 64, 128, 192, 256)  # of the trunk; each level halves the picture
    second_blocks: tuple[int, ...] = (2, 3)  # levels with a second block: before, it costs time, behind, weights
    feature_channels: int = 32  # of the picture features that are lifted onto the planes
    lift_channels: int = 16  # of a lifted sample
    lift_width: int = 32  # of the mixing layers on the planes; 64 took twice the encoder's whole time
    lift_samples: int = 8  # samples along each cell's normal
    style_width: int = 256  # hidden layer between the trunk and the w's
    landmarks: int = 468  # of the face mesh the style looks at besides the picture; 0 for none
    landmark_width: int = 96  # what they are condensed to
    completes: bool = False  # whether the planes of another encoder, where they are seen, are an input
    rays: bool = False  # whether the trunk is told each pixel's ray in the head frame
    surfaces: bool = False  # whether each pixel's two surfaces are guessed first, and steer the lifting
    near_channels: int = 4  # picture features that are lifted to the shown surface alone; with `surfaces`
    coarse_widths: tuple[int, ...] = ()  # of the coarser levels on the planes, where these exchange what they hold
    place_resolution: int = 64  # of the planes' learned code of the place

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """The config a checkpoint carries."""
        tuples = {name: tuple(values[name]) for name in TUPLES if name in values}
        return cls(**{**values, **tuples})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


STARTER_ENCODER = EncoderConfig(
    landmarks=0, rays=True, surfaces=True, coarse_widths=(64, 64), place_resolution=32
)  # what the bundled model is trained with


@dataclass(frozen=True)
class PortraitInput:
    """What an encoder looks at, n portraits at once.

    portraits: (n, 4, s, s) red, green, blue in [0, 1] composited on mid grey, and the matte.
    cameras:   (n, 25) as `Camera.vector`.
    landmarks: (n, 468, 3) as `landmark_offsets` gives them; zeros where no face was measured.
    """

    portraits: Tensor
    cameras: Tensor
    landmarks: Tensor


@dataclass(frozen=True)
class SeenPlanes:
    """What another encoder made of the same portraits, where they show it.

    planes:     (n, 3, channels, depth, res, res) tri-grids.
    visibility: (n, 3, depth, res, res) in [0, 1], 1 where the photo decides.
    """

    planes: Tensor
    visibility: Tensor


@dataclass(frozen=True)
class Inversion:
    """What an encoder makes of portraits.

    w_plus: (n, num_ws, w_dim).
    base:   (n, 3, channels, depth, res, res) the generator's tri-grid of w_plus.
    planes: the same with the encoder's residual added.
    surfaces: (n, 2, h, w) distance from the camera to where each pixel's ray enters and leaves the head, box units;
              None from encoders that do not guess it.
    """

    w_plus: Tensor
    base: Tensor
    planes: Tensor
    surfaces: Tensor | None = None


class Encoder(nn.Module, ABC):
    """What the pipeline asks of an encoder, whatever networks it is made of."""

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Side of the portraits it looks at, px."""

    @abstractmethod
    def forward(self, given: PortraitInput, generator: TriPlaneGenerator, seen: SeenPlanes | None = None) -> Inversion:
        """Portraits to latents and tri-grids of a generator; `seen` is the visible encoder's, for the occluded one."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a checkpoint must say to rebuild it: plain values, ready for JSON."""

    @property
    @abstractmethod
    def average(self) -> Tensor:
        """W+ of the average head: something that (1, num_ws, w_dim) can be taken from."""

    @abstractmethod
    def latent(self, given: PortraitInput) -> Tensor:
        """(n, num_ws, w_dim) the w_plus of `forward` alone."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a short cut; the first halves the picture unless stride is 1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        self.reduce = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.norm0 = nn.GroupNorm(GROUPS, out_channels)
        self.norm1 = nn.GroupNorm(GROUPS, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm0(self.reduce(x)))
        short = x if self.stride == 1 else F.avg_pool2d(x, self.stride)
        return F.silu(self.norm1(self.conv(y)) + self.shortcut(short))


@dataclass(frozen=True)
class PictureFeatures:
    """What is lifted: features (n, c, h, w), matte (n, 1, h, w), surfaces (n, 2, h, w) as `Inversion` has them."""

    features: Tensor
    matte: Tensor
    surfaces: Tensor | None


class CoarseStage(nn.Module):
    """The coarser half of a U-Net over the three planes, in which they exchange their means along common axes.

    Without the exchange a plane would not know what the others hold of the same place (3D-aware convolution, Wang et
    al., CVPR 2023, arXiv 2212.06135). The planes share all weights.
    """

    def __init__(self, width: int, coarse_widths: tuple[int, ...]) -> None:
        super().__init__()
        widths = (width, *coarse_widths)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList([nn.Conv2d(finer, coarser, 3, 2, 1) for finer, coarser in pairs])
        self.exchange = nn.ModuleList([nn.Conv2d(2 * coarser, coarser, 1) for _, coarser in pairs])
        self.mix = nn.ModuleList([nn.Conv2d(coarser, coarser, 3, 1, 1) for _, coarser in pairs])
        self.up = nn.ModuleList([nn.Conv2d(finer + coarser, finer, 3, 1, 1) for finer, coarser in pairs])
        last = self.up[0]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)  # so that it begins without a say
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(3 n, width, res, res), the planes of one head one after another, to the same shape."""
        levels = [x]
        for down, exchange, mix in zip(self.down, self.exchange, self.mix, strict=True):
            x = F.silu(down(x))
            means = plane_means(x.view(-1, 3, *x.shape[1:])).flatten(0, 1)
            x = F.silu(exchange(means)) + x
            x = F.silu(mix(x)) + x
            levels.append(x)
        for up, finer in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.silu(up(torch.cat([x, finer], dim=1))) + finer
        return x


class PlaneLift(nn.Module):
    """Carries picture features onto the three planes of the tri-grid.

    Every cell looks along its plane's normal: at `lift_samples` points it asks what the picture shows there, and mixes
    the answers into features for each of the plane's depth slices. Seen from the front, cells at the nose and at the
    back of the head look at the same pixels; the generator's planes, a learned code of the place and, where the config
    wants them, guesses of the two surfaces on each pixel's ray tell them apart.
    """

    points: Tensor

    def __init__(self, config: EncoderConfig, generator: GeneratorConfig) -> None:
        super().__init__()
        self.samples, self.resolution = config.lift_samples, generator.planes_resolution
        self.shape = (generator.plane_channels, generator.planes_depth)
        width, out_channels = config.lift_width, generator.plane_channels * generator.planes_depth
        self.reduce = nn.Conv2d(config.feature_channels, config.lift_channels, 1)
        self.mix = nn.Linear(config.lift_samples * config.lift_channels, width, bias=False)
        self.near = config.near_channels
        self.measure: nn.Parameter | None = None
        if config.surfaces:
            inputs = config.lift_samples * (self.near + MEASURES)
            self.measure = nn.Parameter(torch.zeros(3, width, inputs))  # one for each plane
        self.place = nn.Parameter(torch.zeros(3, width, config.place_resolution, config.place_resolution))
        self.place.data += torch.randn(3, width, 1, 1) * PLACE_START
        self.base = nn.Conv2d(out_channels, width, 1)
        self.known: nn.Conv2d | None = None
        if config.completes:
            self.known = nn.Conv2d(out_channels + generator.planes_depth, width, 3, 1, 1)
            assert self.known.bias is not None
            nn.init.zeros_(self.known.weight)
            nn.init.zeros_(self.known.bias)
        self.refine = nn.ModuleList([nn.Conv2d(width, width, 3, 1, 1) for _ in range(2)])
        self.coarse = CoarseStage(width, config.coarse_widths) if config.coarse_widths else None
        self.heads = nn.ModuleList([nn.Conv2d(width, out_channels, 3, 1, 1) for _ in range(3)])
        for head in self.heads:
            assert isinstance(head, nn.Conv2d) and head.bias is not None
            nn.init.zeros_(head.bias)
            head.weight.data.mul_(RESIDUAL_GAIN)
        # (3, samples, res, res, 3): where each cell looks, in the head frame
        points = plane_points(self.resolution, config.lift_samples, generator.box_side)
        self.register_buffer("points", points.reshape(1, -1, 3), persistent=False)

    def forward(self, picture: PictureFeatures, cameras: Tensor, base: Tensor, seen: SeenPlanes | None) -> Tensor:
        """The residual (n, 3, channels, depth, res, res) for the generator's planes `base`."""
        n, res = len(base), self.resolution
        features = self.reduce(picture.features).float()
        with torch.autocast(features.device.type, enabled=False):  # half precision would miss by a pixel
            pixels, distances = project_tensor(self.points.expand(n, -1, -1), cameras)
        grids = (pixels * 2 - 1).view(n, 3, self.samples, res * res, 2)  # grid_sample counts from -1 to 1
        distances = distances.view(n, 3, 1, self.samples, res * res)
        weight = self.mix.weight.expand(n, -1, -1)
        mixed = []
        for plane in range(3):
            # A 1x1 convolution as a product of matrices: on a CPU several times faster than conv2d, and without copies.
            plain = torch.bmm(weight, look_up(features, grids[:, plane]).flatten(1, 2))
            if self.measure is not None and picture.surfaces is not None:
                measures = self.measures(features, picture, grids[:, plane], distances[:, plane])
                plain = plain + torch.bmm(self.measure[plane].expand(n, -1, -1), measures.flatten(1, 2))
            mixed.append(plain.view(n, -1, res, res))
        place: Tensor = self.place
        if place.shape[-1] != res:
            place = F.interpolate(place, (res, res), mode="bilinear", align_corners=False)
        stacked = torch.stack(mixed, dim=1) + place
        stacked = stacked.flatten(0, 1) + self.base(base.reshape(n * 3, -1, res, res))
        if self.known is not None and seen is not None:
            shown = torch.cat([seen.planes * seen.visibility[:, :, None], seen.visibility[:, :, None]], dim=2)
            stacked = stacked + self.known(shown.reshape(n * 3, -1, res, res))
        stacked = F.silu(stacked)
        first, second = self.refine
        stacked = F.silu(first(stacked)) + stacked
        if self.coarse is not None:
            stacked = self.coarse(stacked)
        stacked = F.silu(second(stacked)) + stacked
        per_plane = stacked.view(n, 3, -1, res, res)
        planes = torch.stack([head(per_plane[:, plane]) for plane, head in enumerate(self.heads)], dim=1)
        return planes.float().view(n, 3, *self.shape, res, res)

    def measures(self, features: Tensor, picture: PictureFeatures, grid: Tensor, distances: Tensor) -> Tensor:
        """What samples of one plane know of the surfaces: (n, near + MEASURES, samples, cells).

        features (n, c, h, w); grid (n, samples, cells, 2); distances (n, 1, samples, cells) from the camera.
        """
        assert picture.surfaces is not None
        walls = (picture.surfaces - RADIUS) * picture.matte
        lifted = look_up(torch.cat([features[:, : self.near], picture.matte, walls], dim=1), grid)
        near, shown, walls = lifted.split([self.near, 1, 2], dim=1)
        walls = walls / shown.clamp(min=LEAST_MATTE) + RADIUS
        behind, before = distances - walls[:, :1], walls[:, 1:] - distances
        near = near * torch.exp(-(behind / NEAR_SURFACE).square())
        return torch.cat(
            [near, shown, torch.tanh(behind / SURFACE_REACH) * shown, torch.tanh(before / SURFACE_REACH) * shown], dim=1
        )


def look_up(picture: Tensor, grid: Tensor) -> Tensor:
    """Channels of picture (n, c, h, w) at grid (n, samples, cells, 2) from -1 to 1, nothing outside."""
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class PortraitEncoder(Encoder):
    """Both stages over one trunk: portrait, camera and landmarks to an `Inversion` by a generator."""

    w_avg: Tensor

    def __init__(self, config: EncoderConfig, generator: GeneratorConfig, num_ws: int) -> None:
        super().__init__()
        self.config = config
        self.num_ws, self.w_dim = num_ws, generator.w_dim
        channels = config.channels
        inputs = (PICTURE_CHANNELS + RAY_CHANNELS * config.rays, *channels[:-1])
        self.trunk = nn.ModuleList()
        for level, (wide_in, wide_out) in enumerate(zip(inputs, channels, strict=True)):
            blocks = [ResidualBlock(wide_in, wide_out)]
            if level in config.second_blocks:
                blocks.append(ResidualBlock(wide_out, wide_out, stride=1))
            self.trunk.append(nn.Sequential(*blocks))
        side = config.input_size >> len(channels)
        known = channels[-1] * side * side + POSE_NUMBERS
        self.face: nn.Sequential | None = None
        if config.landmarks:
            self.face = nn.Sequential(nn.Linear(3 * config.landmarks, config.landmark_width), nn.SiLU())
            known += config.landmark_width
        to_style = nn.Linear(known, config.style_width)
        to_offset = nn.Linear(config.style_width, num_ws * generator.w_dim)
        to_offset.weight.data.mul_(STYLE_GAIN)
        self.style = nn.Sequential(to_style, nn.SiLU(), to_offset)
        coarse_to_fine = list(range(len(channels) - 1, 0, -1))
        self.merge = nn.ModuleList(
            [nn.Conv2d(channels[i] + channels[i - 1], channels[i - 1], 3, 1, 1) for i in coarse_to_fine]
        )
        self.detail = nn.Conv2d(channels[0], config.feature_channels, 3, 1, 1)
        self.surfaces: nn.Sequential | None = None
        if config.surfaces:
            wide = config.feature_channels
            last = nn.Conv2d(wide, 2, 3, 1, 1)
            assert last.bias is not None
            last.bias.data.copy_(torch.tensor(SURFACES_START))
            self.surfaces = nn.Sequential(ResidualBlock(wide, wide, stride=1), last)
        self.lift = PlaneLift(config, generator)
        self.register_buffer("w_avg", torch.zeros(generator.w_dim))

    @property
    def input_size(self) -> int:
        return self.config.input_size

    def describe(self) -> dict[str, Any]:
        return self.config.to_dict()

    @property
    def average(self) -> Tensor:
        return self.w_avg

    def latent(self, given: PortraitInput) -> Tensor:
        return self.look(given)[0]

    def forward(self, given: PortraitInput, generator: TriPlaneGenerator, seen: SeenPlanes | None = None) -> Inversion:
        """`seen` is used by encoders whose config says that they complete another's planes."""
        w_plus, features = self.look(given)
        base = generator.synthesise_planes(w_plus).float()
        surfaces = None
        if self.surfaces is not None:
            block, last = self.surfaces
            near = block(features).float()
            with torch.autocast(near.device.type, enabled=False):  # half precision would miss by millimetres
                surfaces = RADIUS + DISTANCE_UNIT * last(near)
        picture = PictureFeatures(features, F.avg_pool2d(given.portraits[:, 3:], 2), surfaces)
        return Inversion(w_plus, base, base + self.lift(picture, given.cameras, base, seen), surfaces)

    def look(self, given: PortraitInput) -> tuple[Tensor, Tensor]:
        """w_plus (n, num_ws, w_dim), and picture features (n, feature_channels, s / 2, s / 2) to be lifted."""
        n, _, height, width = given.portraits.shape
        x = torch.linspace(-1, 1, width, device=given.portraits.device).view(1, 1, 1, -1).expand(n, 1, height, -1)
        y = torch.linspace(-1, 1, height, device=given.portraits.device).view(1, 1, -1, 1).expand(n, 1, -1, width)
        level = torch.cat([given.portraits * 2 - 1, x, y], dim=1)
        if self.config.rays:
            nearest, directions = ray_tensor(given.cameras, height)
            level = torch.cat([level, nearest * RAY_GAIN, directions], dim=1)
        levels = []
        for block in self.trunk:
            level = block(level)
            levels.append(level)
        # Rotation and position of the camera; the position is brought to the rotation's size.
        scale = given.cameras.new_tensor([1.0, 1.0, 1.0, 1.0 / RADIUS])
        pose = given.cameras[:, :POSE_NUMBERS].view(n, 3, 4) * scale
        facts = [level.flatten(1), pose.flatten(1)]
        if self.face is not None:
            facts.append(self.face(given.landmarks.flatten(1)))
        styles = self.style(torch.cat(facts, dim=1))
        w_plus = self.w_avg + styles.view(n, self.num_ws, self.w_dim)
        for merge, finer in zip(self.merge, reversed(levels[:-1]), strict=True):
            level = F.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
            level = F.silu(merge(torch.cat([level, finer], dim=1)))
        return w_plus, self.detail(level)


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


def landmark_offsets(landmarks: NDArray[np.floating], camera: Camera, template: NDArray[np.floating]) -> NDArray:
    """How a face differs from the mean face, seen by the same camera.

    landmarks: (468 or more, 3) in sides of the picture: x right, y down, z with their scale, away from the viewer.
    template:  (468, 3) landmarks of the mean face, head frame.
    Returns:   (468, 3) float32, of order 1; the networks' z has no origin, so its mean is left out.
    """
    pixels, depth = project(template, camera)
    mean_face = np.column_stack([pixels, depth * camera.intrinsics[0, 0] / RADIUS])
    offsets = landmarks[: len(template)] - mean_face
    offsets[:, 2] -= offsets[:, 2].mean()
    return (offsets * LANDMARK_GAIN).astype(np.float32)


def portrait_input(
    image: NDArray[np.uint8],
    matte: NDArray[np.floating],
    landmarks: NDArray[np.floating],
    camera: Camera,
    template: NDArray[np.floating],
    size: int,
    device: torch.device,
) -> PortraitInput:
    """One aligned portrait as encoders take it.

    image (s, s, 3) sRGB, matte (s, s), landmarks (478, 3) in pixels of the image; template as `landmark_offsets` wants.
    """
    offsets = landmark_offsets(landmarks / image.shape[1], camera, template)
    return PortraitInput(
        portrait_tensor(image, matte, size, device),
        torch.from_numpy(camera.vector)[None].to(device),
        torch.from_numpy(offsets)[None].to(device),
    )
