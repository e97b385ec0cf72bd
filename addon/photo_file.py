"""The file behind an image of Blender's, or one written for it: the worker reads files, not Blender's memory."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

# What the engine reads from disk; other formats that Blender knows reach it as PNG.
READABLE_FORMATS = {"JPEG", "PNG", "TIFF", "WEBP", "BMP"}
PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of channels: grey, grey + alpha, RGB, RGBA
PNG_LEVEL = 1  # zlib's fastest: the file is read once and deleted


class ImageUnusable(Exception):
    """An image of Blender's that is no photo: `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


@dataclass(frozen=True)
class PhotoFile:
    """Where the photo is, and whether the file was written only for this job."""

    path: Path
    temporary: bool


def photo_file(image: bpy.types.Image, folder: Path) -> PhotoFile:
    """File with what the user sees in `image`: its own file if that is the same, else a new one in `folder`.

    The image itself is left as it is. A file that is missing on disk is not an error here: the engine says so.
    Raises ImageUnusable for renders, movies, tiles, and generated images without pixels.
    """
    if image.source in {"MOVIE", "TILED", "VIEWER"}:
        raise ImageUnusable(
            "This image is not a single picture on file.", "Save it as a JPEG or PNG picture and choose that one."
        )
    unchanged = image.source != "GENERATED" and not image.is_dirty
    if unchanged and image.packed_file:
        path = folder / (Path(bpy.path.basename(image.filepath)).name or "packed")
        path.write_bytes(image.packed_file.data)  # as packed: keeps the camera's notes (turn, focal length)
        return PhotoFile(path, temporary=True)
    on_disk = Path(image.filepath_from_user())  # absolute, also where the image is linked from another file
    if unchanged and (image.file_format in READABLE_FORMATS or not image.has_data):
        return PhotoFile(on_disk, temporary=False)
    path = folder / "photo.png"
    path.write_bytes(encode_png(srgb_pixels(image)))
    return PhotoFile(path, temporary=True)


def srgb_pixels(image: bpy.types.Image) -> NDArray[np.uint8]:
    """(height, width, channels) uint8, sRGB, straight alpha, first row at the top."""
    width, height = image.size
    channels = image.channels
    if not width or not height:
        raise ImageUnusable("The image has no pixels.", "Choose another image, or open it again from disk.")
    values = np.empty(width * height * channels, np.float32)
    image.pixels.foreach_get(values)
    values = values.reshape(height, width, channels)[::-1]  # Blender's first row is the lowest
    if image.is_float:  # held as linear light with colour times alpha
        if channels == 4:
            alpha = values[..., 3:]
            values = np.concatenate([values[..., :3] / np.maximum(alpha, 1e-6), alpha], axis=-1)
        colours = values[..., :3] if channels == 4 else values
        colours = np.clip(colours, 0.0, 1.0)
        encoded = np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * colours ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
        values = np.concatenate([encoded, values[..., 3:]], axis=-1) if channels == 4 else encoded
    return np.asarray(np.clip(values, 0.0, 1.0) * 255.0 + 0.5, dtype=np.uint8)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG file of (height, width, 1 to 4) uint8. Blender's own saving would change the image's settings."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes(), PNG_LEVEL)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
