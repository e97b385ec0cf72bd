"""The dual encoders' files in the form their authors publish, for the generators of published_pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.generator import PANOHEAD
from inference.panohead_encoders import (
    GradualStyleEncoder,
    ResidualEncoderConfig,
    StyleEncoderConfig,
    TriGridResidualEncoder,
)

from . import published_pickle as published

ENCODER_FILE_NAMES = ("visible_net.pt", "occluded_net.pt", "latent_avg.npy")
TINY_WIDTHS = (16, 32, 48, 64)


@dataclass(frozen=True)
class EncoderFiles:
    """The three files beside a generator, and the tensors that went into them."""

    visible: Path
    occluded: Path
    latent_avg: Path
    states: dict[str, dict[str, Tensor]]
    average: Tensor

    @property
    def paths(self) -> list[Path]:
        return [self.visible, self.occluded, self.latent_avg]


def encoder_state(seed: int, full: bool = False) -> dict[str, Tensor]:
    """Both stages for the generator of the published pickle, as a training names them, small or with their sizes."""
    torch.manual_seed(seed)
    config = published.tiny_config()
    channels = 3 * config.plane_channels * config.planes_depth
    style, residual = StyleEncoderConfig(), ResidualEncoderConfig()
    if not full:
        style = StyleEncoderConfig(TINY_WIDTHS, config.num_ws)
        residual = ResidualEncoderConfig(2, TINY_WIDTHS, "nearest", (64, 48, 32, 16), 8, channels)
    stages = {"psp_encoder": GradualStyleEncoder(style), "triplanenet_encoder": TriGridResidualEncoder(residual)}
    return {f"{stage}.{key}": value for stage, network in stages.items() for key, value in network.state_dict().items()}


def write_encoders(folder: Path, states: dict[str, dict[str, Tensor]], full: bool = False) -> EncoderFiles:
    """Save both encoders' tensors and an average latent under their published names."""
    config = PANOHEAD if full else published.tiny_config()
    average = torch.randn(config.num_ws, config.w_dim, generator=torch.Generator().manual_seed(3))
    visible, occluded, latent_avg = (folder / name for name in ENCODER_FILE_NAMES)
    files = EncoderFiles(visible, occluded, latent_avg, states, average)
    torch.save(states["visible"], files.visible)
    torch.save(states["occluded"], files.occluded)
    np.save(files.latent_avg, average.numpy())
    return files


def write_published(folder: Path, full: bool = False) -> list[Path]:
    """Generator, encoders and average latent as a user downloads them; `full` writes some gigabytes."""
    generator = folder / "easy-khair.pkl"
    generator.write_bytes(published.dumps(published.published_content(full)))
    states = {"visible": encoder_state(1, full), "occluded": encoder_state(2, full)}
    return [generator, *write_encoders(folder, states, full).paths]
