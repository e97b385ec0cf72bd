"""The matte: how much of each crop pixel belongs to the person, hair included.

A small segmentation network looks at the whole photo and, closer, at the head; both views stay inside the photo,
because the network invents a person in black margins. What they agree on is sharpened along the photo's own edges
by a guided filter (He, Sun and Tang, ECCV 2010).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from .face_networks import FaceNetworks
from .resampling import Pyramid, build_pyramid, resample, transform_points, window_matrix

NETWORK_SIZE_PX = 256
HEAD_WINDOW_IN_FACES = 3.0  # side of the closer view, in extents of the landmarks: head, hair and shoulders
HEAD_WINDOW_RISE = 0.08  # of its side: hair reaches further above the face than the chin below it
FACE_PART_LEVEL = 0.4  # a pixel above it belongs to a part of the matte; the person is the part with the face
PART_MARGIN_PX = 6  # at 512: keeps the soft edge around the person's part
GUIDE_RADIUS = 1 / 85  # of the crop's side: the width of a soft edge
GUIDE_VARIANCE = 1e-4  # of luminance in [0, 1]: contrasts below 1 % are not edges
SHARPENED_RANGE = (0.08, 0.92)  # the guided filter leaves a haze; stretched to 0 and 1
DECIDED_RANGE = (0.2, 0.7)  # away from the border the network's doubt (hats, dark hair) is stretched to 0 and 1
DARK_MEAN = 0.3  # of a view's values in [0, 1]: darker ones are lifted to it, else black hair is lost in black walls
CUT_OUT_AGREEMENT = 0.85  # overlap of alpha and matte from which alpha is taken to be a cut-out of the person


def matte_person(
    picture: Pyramid,
    alpha: Pyramid | None,
    landmarks_photo: NDArray,
    photo_from_crop: NDArray,
    crop: NDArray[np.uint8],
    face: FaceNetworks,
) -> NDArray[np.float32]:
    """Soft matte of the person whose face is given, drawn in the crop.

    picture, alpha:  of the photo; where it has an alpha channel that bounds the matte, and replaces it when it plainly
                     is a cut-out of the person.
    landmarks_photo: (n, 2) of the face, photo pixels.
    photo_from_crop: (3, 3) crop pixels to photo pixels.
    crop:            (size, size, 3) the crop of the photo, edges extended.
    Returns: (size, size) in [0, 1]; 0 outside the photo.
    """
    size = crop.shape[0]
    crop_from_photo = np.linalg.inv(photo_from_crop)
    frame = (0.0, 0.0, float(picture.width), float(picture.height))
    whole, inside_photo = _segment(picture, frame, photo_from_crop, size, face)
    close, seen_close = _segment(picture, _head_window(landmarks_photo, picture), photo_from_crop, size, face)
    likely = whole + 0.5 * seen_close * (close - whole)
    likely = _keep_part_with(likely, transform_points(crop_from_photo, landmarks_photo))
    matte = _follow_edges(likely, crop)
    if alpha is not None:
        matte = _respect_alpha(matte, alpha, photo_from_crop)
    return (matte * inside_photo).astype(np.float32)


def _head_window(landmarks_photo: NDArray, picture: Pyramid) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) around head and shoulders, cut to the photo."""
    side = HEAD_WINDOW_IN_FACES * float(np.ptp(landmarks_photo, axis=0).max())
    x, y = landmarks_photo.mean(axis=0) - [0.0, HEAD_WINDOW_RISE * side]
    left, top = max(0.0, x - side / 2), max(0.0, y - side / 2)
    return left, top, min(picture.width, x + side / 2), min(picture.height, y + side / 2)


def _segment(
    picture: Pyramid,
    window: tuple[float, float, float, float],
    photo_from_crop: NDArray,
    size: int,
    face: FaceNetworks,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The network's opinion of a window of the photo, averaged with that of its mirror image.

    Returns: (size, size) probability drawn in the crop, and (size, size) the share of each pixel inside the window.
    """
    photo_from_network = window_matrix(*window, NETWORK_SIZE_PX)
    view, _ = resample(picture, photo_from_network, (NETWORK_SIZE_PX, NETWORK_SIZE_PX))
    pixels = torch.from_numpy(_lift_shadows(view / np.float32(255.0))).permute(2, 0, 1).to(face.device)
    with torch.inference_mode():
        upright, mirrored = face.segmentation(torch.stack([pixels, pixels.flip(-1)]))[0][..., 0]
        probability = ((upright + mirrored.flip(-1)) / 2).cpu().numpy()
    return resample(build_pyramid(probability), np.linalg.inv(photo_from_network) @ photo_from_crop, (size, size))


def _lift_shadows(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brighten a dark picture in [0, 1] by the gamma that would bring its mean to DARK_MEAN."""
    mean = float(view.mean().clip(1e-3, 1.0))
    return view if mean >= DARK_MEAN else view ** np.float32(np.log(DARK_MEAN) / np.log(mean))


def _keep_part_with(likely: NDArray[np.float32], landmarks_crop: NDArray) -> NDArray[np.float32]:
    """Drop other people: keep the connected part that holds the face, with its holes filled."""
    size = likely.shape[0]
    parts, _ = ndimage.label(likely > FACE_PART_LEVEL)
    x, y = landmarks_crop.mean(axis=0).round().astype(int).clip(0, size - 1)
    part = parts[y, x]
    if part == 0:
        return likely
    margin = round(PART_MARGIN_PX * size / 512)
    kept = ndimage.binary_dilation(ndimage.binary_fill_holes(parts == part), iterations=margin)
    return np.where(kept, likely, np.float32(0.0))


def _follow_edges(likely: NDArray[np.float32], crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Sharpen the matte's border along the picture's edges, and decide the rest."""
    radius = max(2, round(GUIDE_RADIUS * likely.shape[0]))
    solid = likely > 0.5
    border = ndimage.binary_dilation(solid, iterations=2 * radius) & ~ndimage.binary_erosion(
        solid, iterations=2 * radius, border_value=1
    )
    guided = _guided_filter(likely, crop.astype(np.float32) / 255.0, radius, GUIDE_VARIANCE)
    return np.where(border, _stretch(guided, SHARPENED_RANGE), _stretch(likely, DECIDED_RANGE))


def _stretch(values: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.float32]:
    low, high = limits
    return ((values - low) / (high - low)).clip(0.0, 1.0)


def _guided_filter(
    values: NDArray[np.float32], guide: NDArray[np.float32], radius: int, variance: float
) -> NDArray[np.float32]:
    """Smooth `values` (h, w) by what a local linear model of the colour guide (h, w, 3) explains of it."""

    def mean(x: NDArray) -> NDArray:
        sides = (2 * radius + 1, 2 * radius + 1, *(1,) * (x.ndim - 2))
        return ndimage.uniform_filter(x, size=sides, mode="nearest")

    guide_mean, value_mean = mean(guide), mean(values)
    covariance = mean(guide * values[..., None]) - guide_mean * value_mean[..., None]
    products = mean((guide[..., :, None] * guide[..., None, :]).reshape(*values.shape, 9)).reshape(*values.shape, 3, 3)
    spread = products - guide_mean[..., :, None] * guide_mean[..., None, :] + variance * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, covariance[..., None])[..., 0]
    offset = value_mean - (slope * guide_mean).sum(-1)
    return (mean(slope) * guide).sum(-1) + mean(offset)


def _respect_alpha(matte: NDArray[np.float32], alpha: Pyramid, photo_from_crop: NDArray) -> NDArray[np.float32]:
    """A cut-out's own alpha is better than any guess; other alpha (rounded corners, fades) only hides."""
    drawn, _ = resample(alpha, photo_from_crop, (matte.shape[0], matte.shape[1]))
    drawn = drawn / np.float32(255.0)
    either = np.maximum(matte, drawn).sum()
    if np.minimum(matte, drawn).sum() > CUT_OUT_AGREEMENT * either:
        return drawn
    return matte * drawn
