"""The head generator: latents to a tri-grid of features, and features to density and colour.

One class serves both models. With the default configuration its state_dict has the keys and shapes of PanoHead's
public checkpoint (An et al., CVPR 2023, arXiv 2303.13071); `STARTER` is the small model Headcast trains and bundles.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stylegan import FullyConnected, MappingNetwork, NoiseMode, SynthesisBlock, SynthesisNetwork, ToRGB
from .tri_grid import PlaneMerge, sample_planes

DISTANCE_UNIT = 0.05  # box units of signed distance per unit of decoder output, so that outputs are of order 1
SUPERRESOLUTION_CLAMP = 256.0  # PanoHead trained these layers in half precision, with their outputs limited to this
MEAN_PLANES_START = 0.05  # standard deviation of the mean tri-grid before training
MEAN_PLANES_START_RESOLUTION = 8  # px; finer random planes leave a grid of noise on the surface that stays
SMOOTHING_TAPS = (1.0, 4.0, 6.0, 4.0, 1.0)  # binomial filter that keeps the learned mean tri-grid free of pixel noise


@dataclass(frozen=True)
class GeneratorConfig:
    """Every size of a generator. The defaults are PanoHead's public checkpoint."""

    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 25  # numbers of the camera the mapping network is conditioned on; 0 for none
    mapping_layers: int = 2
    channel_base: int = 32768  # width at resolution r is min(channel_base / r, channel_max)
    channel_max: int = 512
    runtime_gain: bool = True  # weights stored with unit variance and scaled in use; see stylegan.FullyConnected

    planes_resolution: int = 256  # px
    planes_depth: int = 3  # slices of each plane
    plane_channels: int = 32  # features per plane and slice
    plane_merge: PlaneMerge = "mean"
    mean_planes: bool = False  # a learned tri-grid the synthesis network's output is added to
    plane_start: float = 1.0  # size of the synthesis network's output before training, relative to StyleGAN's
    box_side: float = 1.0  # box units
    crop_margin: float | None = 0.1  # rendering drops what is closer than this to the sides in x and z, box units;
    # None drops what is outside the box on any axis

    decoder_layers: int = 1  # hidden ones
    decoder_width: int = 64
    decoder_features: int = 32  # colours, or features that super-resolution turns into colours
    decoder_output: Literal["sigma", "distance"] = "sigma"
    decoder_softplus_beta: float = 1.0  # sharpness of the hidden layers' softplus
    colour_activation: Literal["none", "sigmoid"] = "none"
    surface_sigma: float = 10.0  # density level of the surface
    distance_slope: float = 2000.0  # fall of sigma per box unit of signed distance; only with 'distance'

    t_mapping: bool = True  # network that shifts the camera to fit PanoHead's training crops
    background: bool = True
    superresolution: bool = True
    superresolution_input: int = 128  # px; also the background's resolution; the image is four times as large
    superresolution_channels: tuple[int, int] = (256, 128)

    render_resolution: int = 64  # px of the volume rendering, before super-resolution
    ray_start: float = 2.25  # distance from the camera, box units
    ray_end: float = 3.3
    coarse_samples: int = 48  # per ray
    fine_samples: int = 48  # per ray, placed where the coarse ones found density

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorConfig:
        """Inverse of `to_dict`, also after JSON. Raises ValueError for a field this version does not know."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown generator settings: {sorted(unknown)}")
        values = dict(values)
        if "superresolution_channels" in values:
            first, second = values["superresolution_channels"]  # JSON makes a list of the tuple
            values["superresolution_channels"] = (first, second)
        return cls(**values)

    @property
    def num_ws(self) -> int:
        """Rows of w_plus: one for each convolution of the backbone and one for its last image."""
        return 2 * (self.planes_resolution.bit_length() - 1) - 2

    @property
    def plane_features(self) -> int:
        """Numbers a point reads from the tri-grid once the planes are merged."""
        return self.plane_channels * (3 if self.plane_merge == "concat" else 1)


PANOHEAD = GeneratorConfig()

STARTER = GeneratorConfig(
    z_dim=256,
    w_dim=256,
    c_dim=0,
    channel_base=4096,  # 256 channels up to 16 px, 128 at 32, 64 at 64
    channel_max=256,
    runtime_gain=False,  # a short training on a CPU cannot afford StyleGAN's slow steps
    planes_resolution=64,
    plane_channels=8,
    plane_merge="concat",
    mean_planes=True,
    plane_start=0.05,  # measured: the residual then starts with a standard deviation of about 0.1
    box_side=0.7,  # the training heads with their hair fit
    crop_margin=None,
    decoder_layers=2,
    decoder_features=3,
    decoder_output="distance",
    decoder_softplus_beta=10.0,  # plane features start around 0.1, where softplus with beta 1 is a straight line
    colour_activation="sigmoid",
    t_mapping=False,
    background=False,
    superresolution=False,
    ray_start=2.2,
    ray_end=3.2,
    coarse_samples=32,
    fine_samples=32,
)


class Decoder(nn.Module):
    """Small network from tri-grid features to (raw density or distance, colour features)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = config.plane_features
        for _ in range(config.decoder_layers):
            layers.append(FullyConnected(width, config.decoder_width, runtime_gain=config.runtime_gain))
            layers.append(nn.Softplus(beta=config.decoder_softplus_beta))
            width = config.decoder_width
        layers.append(FullyConnected(width, 1 + config.decoder_features, runtime_gain=config.runtime_gain))
        self.net = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (..., plane_features) to raw (...) and colour (..., decoder_features)."""
        out = self.net(features)
        return out[..., 0], out[..., 1:]

    def raw_only(self, features: Tensor) -> Tensor:
        """The first output of `forward` without the cost of the colours."""
        return self._raw_of_hidden(self.net[:-1](features))

    def raw_after_first(self, sums: Tensor) -> Tensor:
        """`raw_only` from what the first layer adds up, before its softplus: (..., first_layer's rows) to (...)."""
        if len(self.net) == 1:
            return sums[..., 0]
        return self._raw_of_hidden(self.net[1:-1](sums))

    @property
    def first_layer(self) -> FullyConnected:
        """The layer that reads the features; without hidden layers the only one."""
        first = self.net[0]
        assert isinstance(first, FullyConnected)
        return first

    def _raw_of_hidden(self, hidden: Tensor) -> Tensor:
        last = self.net[-1]
        assert isinstance(last, FullyConnected)
        return F.linear(hidden, last.weight[:1] * last.weight_gain, last.bias[:1] * last.bias_gain)[..., 0]


class SuperResolution(nn.Module):
    """Rendered features and raw colours to an image four times as large; all layers share one latent."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.input_resolution = config.superresolution_input
        width0, width1 = config.superresolution_channels
        self.block0 = SynthesisBlock(
            config.decoder_features,
            width0,
            config.w_dim,
            2 * self.input_resolution,
            image_channels=3,
            clamp=SUPERRESOLUTION_CLAMP,
        )
        self.block1 = SynthesisBlock(
            width0, width1, config.w_dim, 4 * self.input_resolution, image_channels=3, clamp=SUPERRESOLUTION_CLAMP
        )

    def forward(self, raw: Tensor, features: Tensor, w: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """raw (n, 3, r, r), features (n, c, r, r), w (n, w_dim) to (n, 3, 4 * input_resolution, ...), about [-1, 1].

        dtype: of the convolutions; None takes half precision on CUDA, as the published model was trained and is run
               there, and single precision elsewhere.
        """
        if dtype is None:
            dtype = torch.float16 if features.device.type == "cuda" else torch.float32
        raw = resize(raw, self.input_resolution)
        features = resize(features, self.input_resolution).to(dtype)
        rows = w[:, None].expand(-1, 3, -1)
        # The published model was trained and is used without noise here, though its file holds some.
        features, raw = self.block0(features, raw, rows, "none")
        return self.block1(features, raw, rows, "none")[1]


def resize(image: Tensor, resolution: int) -> Tensor:
    """Bilinear resampling of (n, c, h, w) to a square, low-passed where it gets smaller."""
    if image.shape[-1] == resolution:
        return image
    return F.interpolate(image, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)


def smooth_planes(planes: Tensor) -> Tensor:
    """Low-pass each channel of (1, c, r, r) twice with a fixed 5-tap binomial; edges are repeated."""
    channels = planes.shape[1]
    taps = torch.tensor(SMOOTHING_TAPS, device=planes.device, dtype=planes.dtype)
    taps = taps / taps.sum()
    along_columns = taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5)
    along_rows = taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1)
    for _ in range(2):
        planes = F.conv2d(F.pad(planes, (2, 2, 0, 0), mode="replicate"), along_columns, groups=channels)
        planes = F.conv2d(F.pad(planes, (0, 0, 2, 2), mode="replicate"), along_rows, groups=channels)
    return planes


class Backbone(nn.Module):
    """Mapping and synthesis of the tri-grid, under the names PanoHead's checkpoint gives them."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.synthesis = SynthesisNetwork(
            config.w_dim,
            config.planes_resolution,
            3 * config.plane_channels * config.planes_depth,
            config.channel_base,
            config.channel_max,
            runtime_gain=config.runtime_gain,
            image_start=config.plane_start,
        )
        # The slow learning rate of the mapping network is StyleGAN's.
        self.mapping = MappingNetwork(
            config.z_dim,
            config.c_dim,
            config.w_dim,
            config.num_ws,
            config.mapping_layers,
            lr_multiplier=0.01,
            runtime_gain=config.runtime_gain,
        )


class TriPlaneGenerator(nn.Module):
    """Latents to heads. Everything geometric is in the head frame and box units."""

    dataset_label_std: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.decoder = Decoder(config)
        if config.mean_planes:
            channels = 3 * config.plane_channels * config.planes_depth
            coarse = MEAN_PLANES_START_RESOLUTION
            start = torch.randn(1, channels, coarse, coarse) * MEAN_PLANES_START
            size = (config.planes_resolution, config.planes_resolution)
            self.mean_planes = nn.Parameter(F.interpolate(start, size, mode="bilinear", align_corners=False))
        if config.superresolution:
            self.torgb = ToRGB(config.decoder_features, 3, config.w_dim)
            self.superresolution = SuperResolution(config)
        if config.background:
            self.bcg_synthesis = SynthesisNetwork(
                config.w_dim,
                config.superresolution_input,
                config.decoder_features,
                config.channel_base // 2,
                config.channel_max,
            )
        if config.t_mapping:
            self.t_mapping = MappingNetwork(
                config.z_dim, config.c_dim, 3, num_ws=1, layers=2, lr_multiplier=1.0, last_linear=True
            )
        if config.c_dim > 0:
            # Spread of the training cameras. Nothing here reads it, but the public file carries it.
            self.register_buffer("dataset_label_std", torch.ones(config.c_dim))

    @property
    def num_ws(self) -> int:
        """Rows of w_plus."""
        return self.config.num_ws

    def map_latents(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """w_plus (n, num_ws, w_dim) of random vectors z (n, z_dim), seen by cameras c (n, c_dim) where used.

        truncation_psi: 1 keeps the variety, 0 gives the average head; cutoff limits it to the first rows.
        """
        return self.backbone.mapping(z, c, truncation_psi, cutoff)

    def shift_cameras(self, z: Tensor, c: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """Cameras c (n, 25) moved by what PanoHead's camera self-adaptation finds for the heads of z (n, z_dim)."""
        shift = self.t_mapping(z, c, truncation_psi)[:, 0]  # (n, 3) box units
        c = c.clone()
        c[:, [3, 7, 11]] += shift  # the last column of cam2world, row by row
        return c

    def synthesise_planes(self, w_plus: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """w_plus (n, num_ws, w_dim) to tri-grids (n, 3, plane_channels, planes_depth, resolution, resolution)."""
        image = self.backbone.synthesis(w_plus, noise_mode)
        if self.config.mean_planes:
            image = image + smooth_planes(self.mean_planes)
        resolution = self.config.planes_resolution
        return image.view(-1, 3, self.config.plane_channels, self.config.planes_depth, resolution, resolution)

    def synthesise_background(self, w_plus: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """w_plus to background features (n, decoder_features, superresolution_input, superresolution_input)."""
        return self.bcg_synthesis(w_plus[:, : self.bcg_synthesis.num_ws], noise_mode)

    def features(self, planes: Tensor, points: Tensor) -> Tensor:
        """What points (n, m, 3) read from tri-grids `planes`: (n, m, plane_features)."""
        return sample_planes(planes, points, self.config.box_side, self.config.plane_merge)

    def sigma_from_raw(self, raw: Tensor) -> Tensor:
        """Density before softplus from the decoder's first output; above config.surface_sigma is inside."""
        if self.config.decoder_output == "sigma":
            return raw
        return self.config.surface_sigma - self.config.distance_slope * (raw * DISTANCE_UNIT)

    def colour_from_raw(self, raw: Tensor) -> Tensor:
        """Colours, or colour features, from the decoder's other outputs."""
        return torch.sigmoid(raw) if self.config.colour_activation == "sigmoid" else raw

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (..., plane_features) to sigma (...) and colour (..., decoder_features)."""
        raw, colour = self.decoder(features)
        return self.sigma_from_raw(raw), self.colour_from_raw(colour)

    def query(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """sigma (n, m) and colour (n, m, decoder_features) of `planes` at points (n, m, 3)."""
        return self.decode(self.features(planes, points))

    def query_sigma(self, planes: Tensor, points: Tensor) -> Tensor:
        """sigma (n, m) alone, cheaper than `query`."""
        return self.sigma_from_raw(self.decoder.raw_only(self.features(planes, points)))

    def first_layer_by_plane(self) -> tuple[Tensor, Tensor]:
        """First layer of the decoder: weights (3, width, plane_channels) for what each plane holds, bias (width,)."""
        first = self.decoder.first_layer
        weight = first.weight * first.weight_gain
        if self.config.plane_merge == "mean":
            by_plane = (weight / 3).expand(3, -1, -1)
        else:
            by_plane = weight.unflatten(1, (3, self.config.plane_channels)).transpose(0, 1)
        return by_plane, first.bias * first.bias_gain

    def query_distance(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance (n, m) in box units, negative inside, and colour (n, m, decoder_features).

        Only for decoder_output 'distance'; raises ValueError otherwise.
        """
        if self.config.decoder_output != "distance":
            raise ValueError("this generator decodes density, not distance")
        raw, colour = self.decoder(self.features(planes, points))
        return raw * DISTANCE_UNIT, self.colour_from_raw(colour)

    def raw_colours(self, colour: Tensor, w: Tensor | None) -> Tensor:
        """sRGB, black 0 and white 1 but not limited to them, of decoded or rendered colours, as `point_colours`."""
        if not self.config.superresolution:
            return colour
        if w is None:
            raise ValueError("this generator needs the latent to turn its features into colours")
        rgb = self.torgb(colour.transpose(1, 2)[..., None], w)[..., 0].transpose(1, 2)
        return (rgb + 1.0) / 2.0

    def point_colours(self, colour: Tensor, w: Tensor | None) -> Tensor:
        """sRGB in [0, 1] of decoded colours (n, m, decoder_features) of a head with latent w (n, w_dim).

        PanoHead's features become colours only through a layer steered by the last row of w_plus; the starter's are
        colours already, and w is not read. Raises ValueError where w is needed and missing.
        """
        rgb = self.raw_colours(colour, w)
        return rgb.clamp(0.0, 1.0) if self.config.superresolution else rgb
