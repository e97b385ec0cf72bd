"""From the portrait to PanoHead's latents and tri-grid, with the networks of the public dual-encoder files.

Two stages, as Bilecen et al. (NeurIPS 2024, arXiv 2409.20530) put them together. The first is pSp's feature pyramid
(Richardson et al., CVPR 2021, arXiv 2008.00951): a w per convolution of the generator, as an offset from the average w.
The second is TriPlaneNet's encoder (Bhattarai et al., WACV 2024, arXiv 2303.13497): it looks at the first stage's
render and at where the portrait differs from it, and corrects the tri-grid. Names of parameters are those of the public
files; `encoder_weights` finds the sizes in such a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .camera import mirrored_cameras
from .encoders import Encoder, Inversion, PortraitInput, SeenPlanes
from .generator import GeneratorConfig, TriPlaneGenerator
from .ir_se50 import IRSE50, PICTURE_SIDES
from .render import render_image
from .stylegan import FullyConnected

KIND = "panohead"  # what a checkpoint's metadata calls these encoders
LARGEST_INPUT = 256  # px: the style blocks bring its pyramid to one pixel

# The pyramid: the trunk's units whose output it reads, from fine to coarse (64, 32 and 16 px of 256).
PYRAMID_UNITS = (6, 20, 23)
COARSE_STYLES = 3  # first styles, from the coarsest map
MIDDLE_STYLES = 7  # styles before this one come from the middle map, the others from the finest
HALVINGS = (4, 5, 6)  # from each map to one pixel: coarse, middle, fine
STYLE_SLOPE = 0.01  # of the style blocks' leaky ReLU

# The residual encoder: the trunk's units it reads (128, 64, 32, 16 and 16 px of 256).
RESIDUAL_UNITS = (2, 6, 20, 21, 23)
PICTURE_CHANNELS: dict[int, int] = {1: 6, 2: 9}  # by version: render and difference; the mirrored difference too


@dataclass(frozen=True)
class StyleEncoderConfig:
    """Sizes of the feature pyramid; the defaults are those for PanoHead. A w has as many numbers as the last width."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    styles: int = 14  # rows of w_plus


@dataclass(frozen=True)
class ResidualEncoderConfig:
    """Sizes of the residual encoder; the defaults are TriPlaneNet's second version with PanoHead's tri-grid."""

    version: Literal[1, 2] = 2  # 1 adds an offset that does not depend on the planes, 2 reads planes and mirror image
    widths: tuple[int, ...] = (64, 128, 256, 512)
    upsampling: Literal["nearest", "shuffle"] = "nearest"
    up_channels: tuple[int, ...] = (512, 256, 128, 64)  # of the four steps back up; with shuffle 512, 384, 256, 96
    head_channels: int = 288
    plane_channels: int = 288  # of the whole tri-grid: planes x features x slices


@dataclass(frozen=True)
class PanoHeadEncoderConfig:
    """Sizes of one encoder's two stages."""

    style: StyleEncoderConfig = StyleEncoderConfig()
    residual: ResidualEncoderConfig = ResidualEncoderConfig()
    render_resolution: int | None = None  # px of the first stage's renders before super-resolution; None: generator's

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PanoHeadEncoderConfig:
        """Inverse of `to_dict`, also after JSON. Raises TypeError for a field this version does not know."""

        def sizes(stage: str) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in values[stage].items()}

        stages = {"style": StyleEncoderConfig(**sizes("style")), "residual": ResidualEncoderConfig(**sizes("residual"))}
        return cls(**{**values, **stages})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class StyleBlock(nn.Module):
    """Halves a map (n, c, r, r) until one pixel is left, and turns it into a style (n, c)."""

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(halvings):
            layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU(STYLE_SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = FullyConnected(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class GradualStyleEncoder(IRSE50):
    """pSp's feature pyramid: portraits to the offsets of w_plus from the average w."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__(3, config.widths)
        _, fine, middle, coarse = config.widths
        self.styles = nn.ModuleList([StyleBlock(coarse, HALVINGS[pyramid_map(i)]) for i in range(config.styles)])
        self.latlayer1 = nn.Conv2d(middle, coarse, 1)
        self.latlayer2 = nn.Conv2d(fine, coarse, 1)

    def forward(self, portraits: Tensor) -> Tensor:
        """portraits (n, 3, s, s) in [-1, 1], s at most 256, to offsets (n, styles, widths[-1])."""
        fine, middle, coarse = self.levels(portraits, PYRAMID_UNITS)
        middle = enlarged(coarse, middle) + self.latlayer1(middle)
        fine = enlarged(middle, fine) + self.latlayer2(fine)
        maps = (coarse, middle, fine)
        return torch.stack([style(maps[pyramid_map(i)]) for i, style in enumerate(self.styles)], dim=1)


def pyramid_map(style: int) -> int:
    """Which map a style reads: 0 the coarsest, 1 the middle, 2 the finest."""
    return 0 if style < COARSE_STYLES else 1 if style < MIDDLE_STYLES else 2


def enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """A coarse map at the size of a finer one; outermost pixel centres lie on each other, as in pSp."""
    return F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)


class DoubleConvolution(nn.Module):
    """Two 3x3 convolutions; the published one ends in two PReLUs in a row, each with slopes of its own."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1),
            nn.PReLU(out_channels),
            nn.PReLU(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class UpStep(nn.Module):
    """Joins a map with a finer one of the trunk."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = DoubleConvolution(in_channels, out_channels)

    def forward(self, x: Tensor, trunk: Tensor) -> Tensor:
        return self.conv(torch.cat([trunk, x], dim=1))


class TriGridResidualEncoder(IRSE50):
    """TriPlaneNet's encoder: what a first tri-grid lacks, from its renders and their differences to the portraits."""

    def __init__(self, config: ResidualEncoderConfig) -> None:
        super().__init__(PICTURE_CHANNELS[config.version], config.widths)
        self.config = config
        self.enlarge: nn.Module
        if config.upsampling == "shuffle":
            self.enlarge, narrower = nn.PixelShuffle(2), 4
        else:
            self.enlarge, narrower = nn.Upsample(scale_factor=2, mode="nearest"), 1
        finest, fine, middle, coarse = config.widths
        up1, up2, up3, up4 = config.up_channels
        self.up1 = UpStep(coarse + coarse, up1)
        self.up2 = UpStep(middle + up1 // narrower, up2)
        self.up3 = UpStep(fine + up2 // narrower, up3)
        self.up4 = UpStep(finest + up3 // narrower, up4)
        tail, width = up4 // narrower, config.head_channels
        in_channels = tail if config.version == 1 else config.plane_channels + tail
        head = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, 1, 1),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.PReLU(width),
            nn.Conv2d(width, config.plane_channels, 1),
        )
        self.final_head = head if config.version == 1 else None
        self.final_head_two = head if config.version == 2 else None

    def forward(self, pictures: Tensor, planes: Tensor) -> Tensor:
        """The residual to add to flat tri-grids.

        pictures: (n, 6 or 9, s, s) the first stage's render in about [-1, 1]; the portrait minus the render; with
                  version 2, the mirrored portrait minus the render of the mirrored camera.
        planes:   (n, plane_channels, s, s) the first stage's tri-grids, plane by plane, feature by feature, slice by
                  slice; version 1 does not read them.
        Returns:  as planes.
        """
        finest, fine, middle, coarse, x = self.levels(pictures, RESIDUAL_UNITS)
        x = self.up1(x, coarse)
        for step, trunk in ((self.up2, middle), (self.up3, fine), (self.up4, finest)):
            x = step(self.enlarge(x), trunk)
        x = self.enlarge(x)
        if self.final_head is not None:
            return self.final_head(x)
        assert self.final_head_two is not None
        return self.final_head_two(torch.cat([planes, x], dim=1))


class PanoHeadEncoder(Encoder):
    """Both stages over one generator; the visible and the occluded encoder differ in weights only.

    Portraits are set on white, as the published encoders saw them: that background is inferred from the authors' code,
    not stated in the paper.
    """

    latent_avg: Tensor

    def __init__(self, config: PanoHeadEncoderConfig, generator: GeneratorConfig) -> None:
        """Raises ValueError, with every reason, where the sizes do not fit the generator."""
        super().__init__()
        reasons = misfits(config, generator)
        if reasons:
            raise ValueError("; ".join(reasons))
        self.config = config
        self._input_size = generator.planes_resolution
        self.psp_encoder = GradualStyleEncoder(config.style)
        self.triplanenet_encoder = TriGridResidualEncoder(config.residual)
        # The public files keep it in a file of its own; here it travels with the encoder it belongs to.
        self.register_buffer("latent_avg", torch.zeros(config.style.styles, generator.w_dim))

    @property
    def input_size(self) -> int:
        return self._input_size

    def describe(self) -> dict[str, Any]:
        return {"kind": KIND, **self.config.to_dict()}

    @property
    def average(self) -> Tensor:
        return self.latent_avg

    def latent(self, given: PortraitInput) -> Tensor:
        w_plus: Tensor = self.psp_encoder(white_portraits(given.portraits)) + self.latent_avg
        return w_plus

    def forward(self, given: PortraitInput, generator: TriPlaneGenerator, seen: SeenPlanes | None = None) -> Inversion:
        """`seen` is not read: of the published encoders, each works on the portrait alone."""
        portraits, w_plus = white_portraits(given.portraits), self.latent(given)
        base = generator.synthesise_planes(w_plus)
        rendered = self.look_back(generator, w_plus, base, given.cameras)
        pictures = [rendered, portraits - rendered]
        if self.config.residual.version == 2:
            # The mirrored camera sees the first stage's head from its other side; faces are nearly symmetric.
            mirrored = self.look_back(generator, w_plus, base, mirrored_cameras(given.cameras))
            pictures.append(portraits.flip(-1) - mirrored)
        residual = self.triplanenet_encoder(torch.cat(pictures, dim=1), base.flatten(1, 3))
        return Inversion(w_plus, base, base + residual.view_as(base))

    def look_back(self, generator: TriPlaneGenerator, w_plus: Tensor, planes: Tensor, cameras: Tensor) -> Tensor:
        """What the cameras see of the first stage's heads, on white: (n, 3, s, s) in about [-1, 1]."""
        image = render_image(
            generator, w_plus, cameras, planes, resolution=self.config.render_resolution, background="white"
        ).image
        return F.adaptive_avg_pool2d(image, self.input_size)


def white_portraits(portraits: Tensor) -> Tensor:
    """The pictures of a PortraitInput (n, 4, s, s), which lie on grey, on white: (n, 3, s, s) in [-1, 1]."""
    grey, matte = portraits[:, :3], portraits[:, 3:]
    return (grey + 0.5 * (1 - matte)) * 2 - 1


def misfits(config: PanoHeadEncoderConfig, generator: GeneratorConfig) -> list[str]:
    """Why encoders of these sizes cannot work with a generator; empty where they can."""
    style, residual, reasons = config.style, config.residual, []
    if style.styles != generator.num_ws:
        reasons.append(f"the encoder makes {style.styles} latents, the generator takes {generator.num_ws}")
    if style.widths[-1] != generator.w_dim:
        reasons.append(f"the encoder's latents have {style.widths[-1]} numbers, the generator's {generator.w_dim}")
    plane_channels = 3 * generator.plane_channels * generator.planes_depth
    if residual.plane_channels != plane_channels:
        reasons.append(
            f"the encoder makes planes of {residual.plane_channels} channels, the generator has {plane_channels}"
        )
    side = generator.planes_resolution  # the residual has the size of the portrait
    if side > LARGEST_INPUT or side % PICTURE_SIDES:
        reasons.append(
            f"planes of {side} px are not supported: at most {LARGEST_INPUT}, and a multiple of {PICTURE_SIDES}"
        )
    if not generator.superresolution:
        reasons.append("the generator makes no pictures for the encoder to look at")
    return reasons
