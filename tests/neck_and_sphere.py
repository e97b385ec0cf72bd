"""Weights for fast tests: a model whose answer to every portrait is the same sphere on a neck, in known colours.

Everything runs through the real networks, with planes of 32 px; only what they have learned is made up.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from inference import checkpoints
from inference.encoders import EncoderConfig, OccludedEncoder, VisibleEncoder
from inference.generator import DISTANCE_UNIT, Backbone, GeneratorConfig, TriPlaneGenerator
from inference.tri_grid import plane_points

HEAD_RADIUS = 0.24  # box units
NECK_RADIUS = 0.1  # box units
OUTSIDE = 0.3  # signed distance where the planes end
PLIABLE_RESOLUTION = 8  # px, up to which a pliable generator's planes follow the latent: its heads stay smooth
STYLE_SPREAD = 0.5  # of the varied encoders' last layer: latents then lie about one unit from the average
DISTANCE_GAIN = 0.02  # box units of signed distance by which its surface then moves, and colours in units of their own
CONFIG = GeneratorConfig(
    z_dim=8,
    w_dim=8,
    c_dim=0,
    channel_base=256,
    channel_max=8,
    runtime_gain=False,
    planes_resolution=32,
    planes_depth=4,  # slices fade beyond three quarters of the box: 0.2625, outside the head
    plane_channels=4,  # signed distance, and three colours
    plane_merge="concat",
    mean_planes=True,
    box_side=0.7,
    crop_margin=None,
    decoder_layers=0,
    decoder_features=3,
    decoder_output="distance",
    colour_activation="sigmoid",
    t_mapping=False,
    background=False,
    superresolution=False,
)
ENCODER = EncoderConfig(
    input_size=64, channels=(8, 8, 8), feature_channels=8, lift_channels=8, lift_width=8, lift_samples=4, style_width=8
)
PLIABLE_CONFIG = replace(CONFIG, render_resolution=32, coarse_samples=16, fine_samples=16)


def write_weights(path: Path) -> Path:
    """Write the model: a known generator, and encoders that add nothing to it."""
    visible, occluded = VisibleEncoder(ENCODER, CONFIG, CONFIG.num_ws), OccludedEncoder(ENCODER, CONFIG, CONFIG.num_ws)
    zero(visible.lift)
    zero(occluded.lift)
    checkpoints.save(path, known_generator(CONFIG), visible, occluded, "neck and sphere", {"licence": "CC0-1.0"})
    return path


def zero(network: nn.Module) -> None:
    """Forget what a network has learned."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()


def known_generator(config: GeneratorConfig) -> TriPlaneGenerator:
    """Its surface is x^2 + z^2 = R(y)^2, R being the head's circle or the neck's straight line, whatever the latent.

    config: `CONFIG`, or one that differs in what does not touch the tri-grid and its decoder.
    """
    generator = TriPlaneGenerator(config)
    zero(generator.backbone)
    zero(generator.decoder)
    with torch.no_grad():
        points = plane_points(CONFIG.planes_resolution, CONFIG.planes_depth, CONFIG.box_side)
        x, y, z = points.unbind(-1)  # each (plane, depth, rows, columns)
        profile = (HEAD_RADIUS**2 - y**2).clamp(min=-1.0)
        profile = torch.where(y < 0, profile.clamp(min=NECK_RADIUS**2), profile)
        planes = torch.zeros(3, CONFIG.plane_channels, *x.shape[1:])
        # The first plane knows x and y, the third y and z; together they know the squared distance from the axis.
        planes[0, 0] = (x[0] ** 2 - profile[0]) / (2 * HEAD_RADIUS) - OUTSIDE
        planes[2, 0] = z[2] ** 2 / (2 * HEAD_RADIUS)
        planes[0, 1:] = torch.stack([x[0] * 8, y[0] * 8, torch.zeros_like(x[0])])
        generator.mean_planes.copy_(planes.flatten(0, 2)[None])
        layer = generator.decoder.net[-1]
        layer.weight[0, [0, 2 * CONFIG.plane_channels]] = 1 / DISTANCE_UNIT
        layer.bias[0] = OUTSIDE / DISTANCE_UNIT
        layer.weight[1:, 1 : CONFIG.plane_channels] = torch.eye(3)
    return generator


def pliable_generator(config: GeneratorConfig = PLIABLE_CONFIG) -> TriPlaneGenerator:
    """`known_generator` whose surface and colours follow the latent, by random weights that are always the same."""
    generator = known_generator(config)
    torch.manual_seed(0)
    generator.backbone = Backbone(config)
    gains = torch.zeros(3, config.plane_channels, config.planes_depth, 1, 1, 1)
    gains[[0, 2], 0] = DISTANCE_GAIN
    gains[0, 1:] = 1.0
    with torch.no_grad():
        synthesis = generator.backbone.synthesis
        for resolution in synthesis.resolutions:
            weight = synthesis.get_submodule(f"b{resolution}.torgb").weight
            weight *= gains.flatten(0, 2) * (resolution <= PLIABLE_RESOLUTION)
        mapping = generator.backbone.mapping
        mapping.w_avg.copy_(mapping(torch.randn(1000, config.z_dim), None)[:, 0].mean(dim=0))
    return generator.eval().requires_grad_(False)


def write_varied_weights(path: Path) -> Path:
    """Write a model with a pliable generator and encoders without residual: its heads differ by their latents alone."""
    generator = pliable_generator()
    visible, occluded = VisibleEncoder(ENCODER, CONFIG, CONFIG.num_ws), OccludedEncoder(ENCODER, CONFIG, CONFIG.num_ws)
    for encoder in (visible, occluded):
        zero(encoder.lift)
        with torch.no_grad():
            encoder.w_avg.copy_(generator.backbone.mapping.w_avg)
            encoder.style[-1].weight.normal_(std=STYLE_SPREAD)
    checkpoints.save(path, generator, visible, occluded, "varied", {"licence": "CC0-1.0"})
    return path


def write_pliable_weights(path: Path) -> Path:
    """Write a model without encoders."""
    checkpoints.save(path, pliable_generator(), None, None, "pliable", {"licence": "CC0-1.0"})
    return path
