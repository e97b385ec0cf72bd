"""The model's own pictures of the head from all around: colours finer than its tri-grid holds.

PanoHead's volume rendering has 64 px; a network behind it makes 512 px pictures of what a camera sees (An et al., CVPR
2023, arXiv 2303.13071). Painted onto the surface as photos are, they give the unseen side hair and skin as sharp as the
model can draw them. Pictures from different sides never agree to the pixel, so each place is painted mostly by the
picture that faces it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .camera import Camera, orbit_camera, project
from .facing import Facing, depth_map_of, smoothstep
from .generator import TriPlaneGenerator
from .progress import Progress
from .raster import sample_image
from .render import render_image
from .surface import Mesh
from .tri_grid import TriGrid

FloatArray = NDArray[np.floating]

# Azimuth from the photo's and elevation, degrees. What the photo shows needs no picture, and heads were seen from all
# around in training, but hardly from far above or below.
DIRECTIONS = (*((azimuth, 0.0) for azimuth in range(60, 360, 60)), *((azimuth, 40.0) for azimuth in range(0, 360, 90)))
FACING_POWER = 4.0  # of the cosine in a picture's weight: half way between two pictures both count, elsewhere one
HEAD_RAMP = (0.5, 0.95)  # share of light the head stops between which a pixel becomes the head's
ENOUGH = 0.1  # weight of all pictures from which on they alone are believed


@dataclass(frozen=True)
class ModelView:
    """What the model draws for one camera.

    pixels: (s, s, 4) float32: sRGB in [0, 1], background and all, and the share of light the head stops, from 0 to 1.
    """

    camera: Camera
    pixels: NDArray[np.float32]


@dataclass(frozen=True)
class ModelViews:
    """Pictures around a head, and where the head they show has what the finished head has elsewhere.

    place: from points (n, 3) of the finished head to those of the model's, both in the head frame.
    """

    views: list[ModelView]
    place: Callable[[FloatArray], FloatArray]


def look_around(
    generator: TriPlaneGenerator, tri_grid: TriGrid, w_plus: Tensor, photographer: Camera, progress: Progress
) -> list[ModelView]:
    """Pictures of a head from DIRECTIONS, by a generator with super-resolution.

    tri_grid:     of the whole head.
    w_plus:       (1, num_ws, w_dim), whose last row steers the colours.
    photographer: the photo's camera.
    """
    x, _, z = photographer.position
    start_deg = float(np.degrees(np.arctan2(x, z)))
    views = []
    for done, (azimuth_deg, elevation_deg) in enumerate(DIRECTIONS):
        progress(done / len(DIRECTIONS), "Looking at the head from all sides")
        camera = orbit_camera(start_deg + azimuth_deg, elevation_deg)
        vector = torch.from_numpy(camera.vector)[None].to(tri_grid.planes.device)
        with torch.no_grad():
            made = render_image(generator, w_plus, vector, tri_grid.planes[None])
            mask = F.interpolate(made.view.mask, made.image.shape[-2:], mode="bilinear", align_corners=False)
        pixels = torch.cat([((made.image[0] + 1) / 2).clamp(0, 1), mask[0]]).permute(1, 2, 0)
        views.append(ModelView(camera, pixels.cpu().numpy()))
    return views


@dataclass(frozen=True)
class ViewPaint:
    """Pictures on a surface.

    soft:          the pictures without their detail: colours to be matched to the photo's.
    vertex_values: (v, 3 + pictures) where the model has each vertex, and how much each picture counts there. They are
                   smooth on the surface: between vertices, linear interpolation tells them.
    """

    views: list[ModelView]
    soft: list[ModelView]
    vertex_values: FloatArray

    @classmethod
    def of(cls, views: ModelViews, surface: Mesh, coarse: Mesh, blur: float) -> ViewPaint:
        """Pictures for the vertices of a welded `surface`; `coarse` is the same with fewer faces, to hide behind.

        blur: of the soft pictures, standard deviation in sides of the picture.
        """
        own = Mesh(views.place(surface.vertices), surface.faces)
        before = Mesh(views.place(coarse.vertices), coarse.faces)
        facing = Facing(own)
        weights = [
            facing.weight(view.camera, depth_map_of(before, view.camera))
            * np.clip(facing.cosine(view.camera), 0, 1) ** FACING_POWER
            for view in views.views
        ]
        soft = [softened(view, blur * len(view.pixels)) for view in views.views]
        return cls(views.views, soft, np.column_stack([own.vertices, *weights]))

    def soft_colour(self, field_colour: FloatArray) -> FloatArray:
        """(v, 3) sRGB at the surface's vertices; field_colour (v, 3) is taken where no picture shows them."""
        return _mixed(self.soft, field_colour, self.vertex_values)

    def colour(self, field_colour: FloatArray, values: FloatArray) -> FloatArray:
        """(n, 3) sRGB with all detail at points whose `vertex_values` interpolate to (n, 3 + pictures)."""
        return _mixed(self.views, field_colour, values)


def softened(view: ModelView, blur_px: float) -> ModelView:
    """The picture with every pixel's colour the mean of the head's around it."""
    colour, head = view.pixels[..., :3], view.pixels[..., 3:]
    weight = head + np.float32(1e-4)  # far from the head any mean will do: nothing there counts
    blur = (blur_px, blur_px, 0)
    colour = ndimage.gaussian_filter(colour * weight, blur) / ndimage.gaussian_filter(weight, blur)
    return replace(view, pixels=np.dstack([colour, head]))


def _mixed(views: list[ModelView], field_colour: FloatArray, values: FloatArray) -> FloatArray:
    places, weights = values[:, :3], values[:, 3:]
    total = np.zeros(len(values), np.float32)
    mixed = np.zeros((len(values), 3), np.float32)
    for view, weight in zip(views, weights.T, strict=True):
        counts = np.flatnonzero(weight > 0)
        seen = sample_image(view.pixels, project(places[counts], view.camera)[0] * len(view.pixels))
        share = weight[counts].astype(np.float32) * smoothstep(seen[:, 3], *HEAD_RAMP)
        mixed[counts] += share[:, None] * seen[:, :3]
        total[counts] += share
    mixed /= np.maximum(total, 1e-9)[:, None]
    return field_colour + smoothstep(total, 0.0, ENOUGH)[:, None] * (mixed - field_colour)
