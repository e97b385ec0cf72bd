"""The user's photo: read whole, upright, in sRGB with 8 bits, or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from .errors import PhotoEmpty, PhotoMissing, PhotoTooLarge, PhotoTruncated, PhotoUnreadable

MAX_SIDE_PX = 12_000  # the largest phone sensors; decoded, 430 MB
FILM_DIAGONAL_MM = 43.27  # of the 36 x 24 mm frame that "35 mm equivalent" refers to
BAND_PIXELS = 1 << 24  # turned into sRGB at a time; a whole photo of the largest size, in all its forms, takes 4 GB
CLEAR_PIXEL_GREY = 128  # fully transparent pixels hold leftovers, often black or white; grey pulls no edge
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"RIFF", b"GIF8")


@dataclass(frozen=True)
class Photo:
    """A photo as a person sees it.

    rgb:      (h, w, 3) uint8 sRGB, turned upright by the EXIF orientation; straight, not multiplied by alpha.
    alpha:    (h, w) uint8, or None when the file is opaque.
    focal_px: focal length in pixels of `rgb` when the camera wrote its 35 mm equivalent, else None.
    path:     where it came from.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    focal_px: float | None
    path: Path


def load_photo(path: Path | str) -> Photo:
    """Read a photo: EXIF turn, colour profile to sRGB, alpha, 16 bits, grey, CMYK and palettes.

    Raises PhotoMissing, PhotoEmpty, PhotoUnreadable, PhotoTruncated or PhotoTooLarge.
    """
    path = Path(path)
    if not path.exists():
        raise PhotoMissing(f"The photo does not exist: {path}")
    if not path.is_file():
        raise PhotoUnreadable(f"This is not a file: {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PhotoUnreadable(f"The photo cannot be opened: {path}", "Check that you may read the file.") from error
    if not content:
        raise PhotoEmpty(f"The photo file is empty: {path}")
    image = _decode(content, path)
    focal_px = None
    try:
        focal_px = _focal_px(image)
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, struct.error):
        pass  # spoiled notes of the camera: the picture is good, and stays as it lies, as in browsers
    rgb, alpha = _to_srgb(image, path)
    return Photo(rgb, alpha, focal_px, path)


def _decode(content: bytes, path: Path) -> Image.Image:
    """The first picture in the file, fully decoded; its size is checked from the header, before any pixel is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise PhotoTooLarge(f"The photo has too many pixels: {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
        if content.startswith(IMAGE_SIGNATURES):
            raise PhotoTruncated(f"The photo is damaged: {path}") from error
        raise PhotoUnreadable(f"The file is not an image Headcast can read: {path}") from error
    if max(image.size) > MAX_SIDE_PX:
        raise PhotoTooLarge(f"The photo has too many pixels ({image.width} x {image.height}): {path}")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise PhotoTruncated(f"The photo is damaged, perhaps cut short: {path}") from error
    return image


def _focal_px(image: Image.Image) -> float | None:
    """Focal length in pixels from EXIF's 35 mm equivalent, which is defined by the picture's diagonal."""
    camera_tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
    try:
        equivalent_mm = float(camera_tags.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if equivalent_mm <= 0:  # cameras write 0 for unknown
        return None
    return equivalent_mm / FILM_DIAGONAL_MM * float(np.hypot(*image.size))


def _to_srgb(image: Image.Image, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """(h, w, 3) colours and (h, w) alpha or None, from any of PIL's modes, a band of rows after the other."""
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    alpha: NDArray[np.uint8] | None = None
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        colours, opacity = _band_to_srgb(image.crop((0, top, image.width, bottom)), path)
        rgb[top:bottom] = colours
        if opacity is not None:  # of all bands or none
            alpha = np.empty(rgb.shape[:2], np.uint8) if alpha is None else alpha
            alpha[top:bottom] = opacity
            for channel in range(3):  # ten times as fast as by a list of the clear pixels, where all are
                np.copyto(rgb[top:bottom, :, channel], CLEAR_PIXEL_GREY, where=opacity == 0)
    return rgb, None if alpha is None or alpha.min() == 255 else alpha


def _band_to_srgb(image: Image.Image, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The same of some rows, leftovers of clear pixels and an alpha that is opaque everywhere included."""
    profile = image.info.get("icc_profile")
    if image.mode in SIXTEEN_BIT_MODES:
        image = _eight_bit_grey(image)
    elif image.mode == "F":
        raise PhotoUnreadable(f"The photo holds floating-point numbers: {path}", "Save it as JPEG or PNG.")
    alpha = None
    try:
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("L", "1", "La") else "RGBA")
            alpha = np.asarray(image.getchannel("A"))
        rgb = np.asarray(_apply_profile(_opaque(image), profile).convert("RGB"))
    except ValueError as error:
        raise PhotoUnreadable(f"The photo's colours cannot be read ({image.mode}): {path}") from error
    return rgb, alpha


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: 65535 becomes 255, rounded, where PIL's own conversion would clip."""
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Without its alpha, and a palette spelt out, so that a colour profile can be applied."""
    modes = {"LA": "L", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "1": "L", "RGBX": "RGB"}
    return image.convert(modes[image.mode]) if image.mode in modes else image


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours into sRGB. Without a profile, or with one that does not fit, they are taken as sRGB, as browsers do."""
    if not profile:
        return image
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image
