"""What a head is made from: all that photo and networks gave, before anything is shaped or painted.

Whoever holds it makes the head again, finer, on another mesh or with another unseen side, and needs neither the
photo's file nor the face networks nor the encoders for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import AlignedPortrait
from .generator import TriPlaneGenerator
from .photo import Photo
from .refinement import Refinement
from .resampling import transform_points
from .stitching import stitch
from .tri_grid import TriGrid
from .w_plus_optimisation import WPlusFit

FADE_SHARE = 0.1  # of the box's side, 7 cells of the starter's 64: over which a version sets in behind what is seen
PART_MARGIN_PX = 2  # of the photo, around the portrait's corners: bilinear reading never meets the part's edge


@dataclass(frozen=True)
class UnseenSide:
    """What the occluded encoder made, as it is for seed 0, and which version of it this head has.

    planes:  (3, channels, depth, res, res).
    mask:    (3, depth, res, res) in [0, 1], 1 where the photo decides: as `stitching.occlusion_mask`.
    w_plus:  (1, num_ws, w_dim) of the planes.
    version: (1, num_ws, w_dim) of the version that this head has; for seed 0 the same.
    seed:    which version that is.
    """

    planes: Tensor
    mask: Tensor
    w_plus: Tensor
    version: Tensor
    seed: int


@dataclass(frozen=True)
class HeadSource:
    """What a head is made from.

    photo:      the part of the photo that the portrait shows, at the photo's own resolution.
    corner_px:  (x, y) of that part's upper left corner in the photo.
    photo_size: (height, width) px of the whole photo.
    portrait:   its `photo_from_crop` leads to the whole photo.
    w_plus:     (1, num_ws, w_dim) of the side the photo shows.
    visible:    the tri-grid faithful to the photo.
    unseen:     None where W+ optimisation moved the generator's own head as a whole.
    fit:        what that optimisation achieved; None where encoders found the latents.
    refinement: None before the head is fitted to its photo, or where it is left as it is.
    level:      of `refinement.LEVELS`, by which the refinement was found.
    """

    photo: Photo
    corner_px: tuple[int, int]
    photo_size: tuple[int, int]
    portrait: AlignedPortrait
    w_plus: Tensor
    visible: TriGrid
    unseen: UnseenSide | None
    fit: WPlusFit | None
    refinement: Refinement | None = None
    level: str = "off"

    @property
    def portrait_of_part(self) -> AlignedPortrait:
        """The portrait with a `photo_from_crop` that leads to pixels of `photo`."""
        to_part = np.eye(3)
        to_part[:2, 2] = [-self.corner_px[0], -self.corner_px[1]]
        return replace(self.portrait, photo_from_crop=to_part @ self.portrait.photo_from_crop)

    def whole(self, generator: TriPlaneGenerator) -> TriGrid:
        """The stitched tri-grid: what the photo shows, and this head's version of the rest."""
        if self.unseen is None:
            return self.visible
        return stitch(self.visible, TriGrid(version_planes(self.unseen, generator), self.visible.box_side), self.mask)

    @property
    def mask(self) -> Tensor:
        """The mask of the unseen side; there must be one."""
        assert self.unseen is not None
        return self.unseen.mask


def version_planes(unseen: UnseenSide, generator: TriPlaneGenerator) -> Tensor:
    """(3, channels, depth, res, res) of the version: the encoder's planes, moved as the generator's own planes move.

    The encoder's residual, which holds what photo and visible side told it, stays; of seed 0 every bit stays.
    """
    if torch.equal(unseen.version, unseen.w_plus):
        return unseen.planes
    with torch.no_grad():
        change = generator.synthesise_planes(unseen.version) - generator.synthesise_planes(unseen.w_plus)
    return unseen.planes + change[0].to(unseen.planes.dtype) * _fade(unseen.mask)[:, None]


def _fade(mask: Tensor) -> Tensor:
    """How much of a version each cell takes: nothing beside cells that are seen, all of it FADE_SHARE of the box away.

    mask: (3, depth, res, res). A mask alone changes within a cell or two, which shows as a jagged edge of tone.
    """
    half = max(1, round(FADE_SHARE * mask.shape[-1] / 4))
    side = 2 * half + 1
    near = F.max_pool2d(mask, side, 1, half)
    for _ in range(2):
        near = F.avg_pool2d(near, side, 1, half, count_include_pad=False)
    return 1 - torch.maximum(near, mask)


def kept_precision(planes: Tensor) -> Tensor:
    """Planes rounded to half precision, as a result folder keeps them, where they fit in it.

    Rounded before the head is made, so that the head made again is the same to the last bit. A surface moves by less
    than a hundredth of a millimetre for it.
    """
    rounded = planes.half().to(planes.dtype)
    return rounded if bool(torch.isfinite(rounded).all()) else planes


def part_of_photo(photo: Photo, portrait: AlignedPortrait) -> tuple[Photo, tuple[int, int]]:
    """The pixels of a photo that a portrait shows, and where their upper left corner (x, y) lies in the photo."""
    side = float(len(portrait.image))
    corners = transform_points(portrait.photo_from_crop, np.array([[0, 0], [side, 0], [0, side], [side, side]]))
    height, width = photo.rgb.shape[:2]
    low = np.floor(corners.min(axis=0)).astype(int) - PART_MARGIN_PX
    high = np.ceil(corners.max(axis=0)).astype(int) + PART_MARGIN_PX
    left, top = np.clip(low, 0, (width - 1, height - 1)).tolist()
    right, bottom = np.clip(high, (left + 1, top + 1), (width, height)).tolist()
    rgb = np.ascontiguousarray(photo.rgb[top:bottom, left:right])
    return replace(photo, rgb=rgb, alpha=None), (left, top)
