"""The IR-SE50 trunk: a residual network with squeeze-and-excitation, made for recognising faces.

The units are of Deng et al. (ArcFace, CVPR 2019, arXiv 1801.07698), squeeze and excitation of Hu et al. (CVPR 2018,
arXiv 1709.01507). Names of parameters are those of the public files, so that they load by key.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGE_UNITS = (3, 4, 14, 3)  # units of one width; the first of each stage halves the picture
SQUEEZE = 16  # how many times narrower the excitation's hidden layer is
PICTURE_SIDES = 16  # the trunk's last pictures are so many times smaller than its input


class SqueezeExcitation(nn.Module):
    """Weighs each channel by what all channels hold on average over the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SQUEEZE, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))


class ResidualUnit(nn.Module):
    """Two convolutions, squeeze and excitation, and a short cut; nothing is activated after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_channels == out_channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)  # takes every other pixel where stride is 2
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            SqueezeExcitation(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRSE50(nn.Module):
    """The trunk, to be built upon; works in evaluation mode only, where batches do not change what it sees.

    in_channels: of the pictures.
    widths:      channels of the four stages, each at least 16; the public files have 64, 128, 256, 512.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        units, width = [], widths[0]
        for out_channels, count in zip(widths, STAGE_UNITS, strict=True):
            for place in range(count):
                units.append(ResidualUnit(width, out_channels, stride=2 if place == 0 else 1))
                width = out_channels
        self.body = nn.Sequential(*units)

    def levels(self, pictures: Tensor, units: Sequence[int]) -> list[Tensor]:
        """What comes out of the body's units of these numbers, rising, for pictures (n, in_channels, s, s)."""
        x, found = self.input_layer(pictures), []
        for number in range(units[-1] + 1):
            x = self.body[number](x)
            if number in units:
                found.append(x)
        return found
