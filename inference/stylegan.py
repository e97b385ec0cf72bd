"""The StyleGAN2 parts the generator is made of: mapping network, modulated convolutions, synthesis network.

Written from the papers (Karras et al. 2020, arXiv 1912.04958) in plain torch, without custom operators, so that cpu,
cuda and mps take the same path. Module and parameter names are those of PanoHead's checkpoints.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NoiseMode = Literal["const", "none"]

LEAK = 0.2  # slope of the leaky ReLU for negative values
ACTIVATION_GAIN = math.sqrt(2.0)  # keeps the variance through the leaky ReLU
EPSILON = 1e-8  # under the roots of the normalisations
RESAMPLE_TAPS = (1.0, 3.0, 3.0, 1.0)  # binomial low-pass filter of every change of resolution
SMALLEST_RESOLUTION = 4  # px, side of the learned constant


def resample_filter() -> Tensor:
    """(4, 4) low-pass filter with sum 1."""
    taps = torch.tensor(RESAMPLE_TAPS, dtype=torch.float32)
    return torch.outer(taps, taps) / taps.sum() ** 2


def low_pass(x: Tensor, kernel: Tensor, gain: float, padding: int) -> Tensor:
    """Filter each channel of x (n, c, h, w) with the same (4, 4) kernel."""
    channels = x.shape[1]
    return F.conv2d(x, (kernel * gain).expand(channels, 1, 4, 4), padding=padding, groups=channels)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double the resolution of x (n, c, h, w): zeros between the pixels, then the low-pass filter."""
    channels = x.shape[1]
    # Gain 4 makes up for the three zeros put beside every pixel; padding 1 centres the four taps.
    return F.conv_transpose2d(x, (kernel * 4).expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Width of the synthesis network where its feature maps are resolution x resolution."""
    return min(channel_base // resolution, channel_max)


class FullyConnected(nn.Module):
    """A linear layer, with StyleGAN's leaky ReLU behind it where `activate` is set.

    runtime_gain: True stores weights of unit variance and scales them when used (StyleGAN's equalised learning rate);
                  False stores them at the size they are used, so Adam moves them sqrt(in_features) times faster.
    lr_multiplier: slows the layer's learning; only has an effect with runtime_gain.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activate: bool = False,
        bias_start: float = 0.0,
        lr_multiplier: float = 1.0,
        runtime_gain: bool = True,
    ) -> None:
        super().__init__()
        fan_in_gain = 1.0 / math.sqrt(in_features)
        self.weight_gain = lr_multiplier * fan_in_gain if runtime_gain else 1.0
        self.bias_gain = lr_multiplier if runtime_gain else 1.0
        self.activate = activate
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * (fan_in_gain / self.weight_gain))
        self.bias = nn.Parameter(torch.full((out_features,), bias_start / self.bias_gain))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(x, LEAK) * ACTIVATION_GAIN if self.activate else x


def normalise(x: Tensor) -> Tensor:
    """Scale each row of x (n, features) to unit root mean square."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPSILON)


class MappingNetwork(nn.Module):
    """Turn a random vector, and a camera where the model wants one, into a latent w, the same for every row of w_plus.

    last_linear: leave the last layer without activation (the camera shift of PanoHead is such a network).
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        layers: int,
        *,
        lr_multiplier: float = 0.01,
        last_linear: bool = False,
        runtime_gain: bool = True,
    ) -> None:
        super().__init__()
        self.num_ws = num_ws
        self.layers = layers
        self.has_camera = c_dim > 0
        if self.has_camera:
            self.embed = FullyConnected(c_dim, w_dim, runtime_gain=runtime_gain)
        widths = [z_dim + (w_dim if self.has_camera else 0)] + [w_dim] * layers
        for i in range(layers):
            activate = not (last_linear and i == layers - 1)
            layer = FullyConnected(
                widths[i], widths[i + 1], activate=activate, lr_multiplier=lr_multiplier, runtime_gain=runtime_gain
            )
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    w_avg: Tensor

    def forward(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """w_plus (n, num_ws, w_dim) for z (n, z_dim) and cameras c (n, c_dim).

        truncation_psi:    pulls the rows towards the average latent: 1 not at all, 0 gives the average head.
        truncation_cutoff: how many rows are pulled; None means all.
        """
        x = normalise(z)
        if self.has_camera:
            if c is None:
                raise ValueError("this mapping network is conditioned on a camera, and none was given")
            x = torch.cat([x, normalise(self.embed(c))], dim=1)
        for i in range(self.layers):
            x = self.get_submodule(f"fc{i}")(x)
        w_plus = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1.0:
            w_plus[:, :truncation_cutoff] = self.w_avg.lerp(w_plus[:, :truncation_cutoff], truncation_psi)
        return w_plus


class SynthesisLayer(nn.Module):
    """A 3x3 convolution whose input channels are scaled by the latent; optionally doubles the resolution.

    It computes in the precision of its input, half or single; weights and latents are single.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: bool,
        clamp: float | None,
        runtime_gain: bool,
    ) -> None:
        super().__init__()
        self.up = up
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_start=1.0, runtime_gain=runtime_gain)
        # Demodulation removes the scale of these weights; their size only sets how fast an optimiser turns them.
        scale = 1.0 if runtime_gain else 1.0 / math.sqrt(in_channels * 9)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3) * scale)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", resample_filter())

    noise_const: Tensor
    resample_filter: Tensor

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode) -> Tensor:
        """x (n, in, h, w) and one latent per image w (n, w_dim) to (n, out, resolution, resolution)."""
        styles = self.affine(w)  # (n, in)
        weight: Tensor = self.weight
        if x.dtype == torch.float16:
            # Sums must stay below 65504. Demodulation takes these factors out again.
            weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
            styles = styles / styles.abs().amax(dim=1, keepdim=True)
        # Scaling the input and the output is the same function as scaling the weights once per image,
        # and lets the whole batch share one convolution.
        x = x * styles[:, :, None, None].to(x.dtype)
        if self.up:
            x = F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
            x = low_pass(x, self.resample_filter.to(x.dtype), gain=4.0, padding=1)
        else:
            x = F.conv2d(x, weight.to(x.dtype), padding=1)
        energy = styles.square() @ weight.square().sum(dim=(2, 3)).t()  # (n, out)
        demodulation = torch.rsqrt(energy + EPSILON)
        offset = self.bias[:, None, None]  # (out, 1, 1)
        if noise_mode == "const":
            offset = offset + self.noise_const * self.noise_strength  # (out, h, w)
        # The gain goes in before the leaky ReLU, which commutes with positive factors: one pass over x less.
        gain = demodulation[:, :, None, None] * ACTIVATION_GAIN
        x = torch.addcmul((offset * ACTIVATION_GAIN).to(x.dtype), x, gain.to(x.dtype))
        x = F.leaky_relu(x, LEAK)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution without demodulation or activation: feature maps to an image of any channel count.

    start: standard deviation of the weights at the start of training, relative to StyleGAN's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        *,
        clamp: float | None = None,
        runtime_gain: bool = True,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        fan_in_gain = 1.0 / math.sqrt(in_channels)
        self.weight_gain = fan_in_gain if runtime_gain else 1.0
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_start=1.0, runtime_gain=runtime_gain)
        scale = start * fan_in_gain / self.weight_gain
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1) * scale)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (n, in, h, w) and latents w (n, w_dim) to (n, out, h, w)."""
        styles = self.affine(w) * self.weight_gain
        scaled = x * styles[:, :, None, None].to(x.dtype)
        x = F.conv2d(scaled, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution of the synthesis network: up to two convolutions, and this resolution's share of the image.

    in_channels 0 makes the first block, which starts from a learned constant and has a single convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        image_channels: int,
        *,
        clamp: float | None = None,
        runtime_gain: bool = True,
        image_start: float = 1.0,
    ) -> None:
        super().__init__()
        self.is_first = in_channels == 0
        self.convolutions = 1 if self.is_first else 2
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, up=True, clamp=clamp, runtime_gain=runtime_gain
            )
        self.conv1 = SynthesisLayer(
            out_channels, out_channels, w_dim, resolution, up=False, clamp=clamp, runtime_gain=runtime_gain
        )
        self.torgb = ToRGB(
            out_channels, image_channels, w_dim, clamp=clamp, runtime_gain=runtime_gain, start=image_start
        )
        self.register_buffer("resample_filter", resample_filter())

    resample_filter: Tensor

    def forward(
        self, x: Tensor | None, image: Tensor | None, w_rows: Tensor, noise_mode: NoiseMode
    ) -> tuple[Tensor, Tensor]:
        """Features and image at twice the resolution.

        x:      (n, in, r/2, r/2), None for the first block.
        image:  (n, image_channels, r/2, r/2) so far, None for the first block.
        w_rows: (n, convolutions + 1, w_dim), one latent per convolution and the last for the image.
        """
        if self.is_first:
            x = self.const.expand(len(w_rows), -1, -1, -1)
        else:
            assert x is not None
            x = self.conv0(x, w_rows[:, 0], noise_mode)
        x = self.conv1(x, w_rows[:, self.convolutions - 1], noise_mode)
        share = self.torgb(x, w_rows[:, self.convolutions]).float()  # the image is summed in single precision
        image = share if image is None else upsample(image, self.resample_filter) + share
        return x, image


class SynthesisNetwork(nn.Module):
    """w_plus to an image; for the tri-grid, an "image" with one channel per feature of the planes."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        image_channels: int,
        channel_base: int,
        channel_max: int,
        *,
        runtime_gain: bool = True,
        image_start: float = 1.0,
    ) -> None:
        super().__init__()
        self.resolutions = [2**i for i in range(2, int(math.log2(resolution)) + 1)]
        in_channels = 0
        self.num_ws = 1
        for size in self.resolutions:
            out_channels = channels_at(size, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim,
                size,
                image_channels,
                runtime_gain=runtime_gain,
                image_start=image_start,
            )
            self.add_module(f"b{size}", block)
            self.num_ws += block.convolutions
            in_channels = out_channels

    def forward(self, w_plus: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """w_plus (n, num_ws, w_dim) to (n, image_channels, resolution, resolution)."""
        x: Tensor | None = None
        image: Tensor | None = None
        row = 0
        for size in self.resolutions:
            block = self.get_submodule(f"b{size}")
            assert isinstance(block, SynthesisBlock)
            # A block's image shares its latent with the first convolution of the next block.
            rows = w_plus[:, row : row + block.convolutions + 1]
            x, image = block(x, image, rows, noise_mode)
            row += block.convolutions
        assert image is not None
        return image
