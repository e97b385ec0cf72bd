"""The occlusion-aware discriminator: it judges tri-grids, and only where the input view saw nothing.

Bilecen et al. (NeurIPS 2024, arXiv 2409.20530): real tri-grids are the generator's own, fake ones the occluded
encoder's, and the same occlusion mask multiplies both, so that the encoder is never punished for what the photo shows.
The paper's net is 288-64-128-256-512-1 at 256 px; this one keeps its kind with widths for 64 px on a CPU.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU, as in the paper


class OcclusionAwareDiscriminator(nn.Module):
    """Convolutions over the flattened tri-grid; no sigmoid, one score per patch.

    planes: (n, 3, channels, depth, res, res). occlusion: (n, 3, depth, res, res), 1 where the input view saw nothing.
    """

    def __init__(self, plane_channels: int, planes_depth: int, widths: tuple[int, ...] = (48, 64, 96, 128)) -> None:
        super().__init__()
        # The mask is an input too: else a masked zero and a feature that is zero look alike.
        in_channels = 3 * planes_depth * (plane_channels + 1)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, 1, 1), nn.LeakyReLU(SLOPE)]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, planes: Tensor, occlusion: Tensor) -> Tensor:
        hidden = planes * occlusion[:, :, None]
        return self.layers(torch.cat([hidden.flatten(1, 3), occlusion.flatten(1, 2)], dim=1))


def encoder_loss(discriminator: OcclusionAwareDiscriminator, planes: Tensor, occlusion: Tensor) -> Tensor:
    """softplus(-D(O * T)): the occluded encoder wants its tri-grids taken for the generator's."""
    return F.softplus(-discriminator(planes, occlusion)).mean()


def discriminator_loss(
    discriminator: OcclusionAwareDiscriminator, real: Tensor, fake: Tensor, occlusion: Tensor, r1_weight: float
) -> Tensor:
    """softplus(-D(real)) + softplus(D(fake)), with the R1 gradient penalty on the real ones if its weight is not 0."""
    real = real.detach().requires_grad_(r1_weight > 0)
    real_score = discriminator(real, occlusion)
    loss = F.softplus(discriminator(fake.detach(), occlusion)).mean() + F.softplus(-real_score).mean()
    if r1_weight > 0:
        (gradient,) = torch.autograd.grad(real_score.sum(), real, create_graph=True)
        loss = loss + r1_weight / 2 * gradient.square().flatten(1).sum(dim=1).mean()
    return loss
