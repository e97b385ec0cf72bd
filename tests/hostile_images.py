"""Files that no camera wrote: `hostile_image(seed)` gives one by its number, always the same.

Broken, cut short, bloated, oddly coded, or no picture at all under a picture's name; some are sound and only unusual,
and some of those show a face.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import skimage.data
from PIL import Image, ImageCms

ORIENTATION = 0x0112
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP")
SUFFIX_OF = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
ABSURD = (0, 1, 2, 60_000, 65_535, 12_001, 100_000, (1 << 31) - 1, (1 << 32) - 1)  # px
MOST_SIDE_PX = 12_000  # the largest photo that is taken: what is inside the limit must be survived
FACE_SHARE = 0.15  # of pictures: each may become a head, which takes seconds


@cache
def picture(face: bool) -> Image.Image:
    """An astronaut's face, or a meadow of noise."""
    if face:
        return Image.fromarray(skimage.data.astronaut()[:300, 80:380])
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))


def written(image: Image.Image, kind: str, **settings: object) -> bytes:
    """The picture as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its checksum, which is right whatever is in it."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *chunks: bytes, interlaced: int = 0) -> bytes:
    """A PNG that says what it is told to: colour is 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


@cache
def zeros(count: int) -> bytes:
    """So many zero bytes, deflated, without ever holding them."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    packed = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*packed, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])


def profile_of(space: str) -> bytes:
    """A colour profile without the time at which it was made, which would make each another."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
    return content[:24] + bytes(12) + content[36:]


def fuzzed_header(rng: random.Random) -> tuple[str, bytes]:
    return _fuzzed(rng, reach=200)


def fuzzed_anywhere(rng: random.Random) -> tuple[str, bytes]:
    return _fuzzed(rng, reach=1 << 30)


def _fuzzed(rng: random.Random, reach: int) -> tuple[str, bytes]:
    kind = rng.choice(FORMATS)
    content = bytearray(written(_some_picture(rng), kind))
    for _ in range(rng.choice((1, 2, 5, 20, 80))):
        content[rng.randrange(min(reach, len(content)))] = rng.randrange(256)
    return SUFFIX_OF[kind], bytes(content)


def cut_short(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(FORMATS)
    content = written(_some_picture(rng), kind)
    return SUFFIX_OF[kind], content[: rng.randrange(1, len(content))]


def odd_mode(rng: random.Random) -> tuple[str, bytes]:
    mode = rng.choice(MODES)
    image = _some_picture(rng)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "LAB":
        there = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, there[1], there[0], outputMode="LAB") or image
    elif mode == "I":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.int32) * rng.choice((1, 257, -9, 1 << 20)))
    else:
        image = image.convert(mode)
    kinds = {"CMYK": ("JPEG", "TIFF"), "YCbCr": ("JPEG", "TIFF"), "LAB": ("TIFF",), "I": ("TIFF",), "F": ("TIFF",)}
    kind = rng.choice(kinds.get(mode, ("PNG", "TIFF")))
    return SUFFIX_OF[kind], written(image, kind)


def absurd_size(rng: random.Random) -> tuple[str, bytes]:
    """The header announces a size that the content has not got."""
    width, height = rng.choice(ABSURD), rng.choice(ABSURD)
    kind = rng.choice(FORMATS)
    if kind == "PNG":
        return "png", png(width, height, rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6)), zlib.compress(bytes(999)))
    content = bytearray(written(_some_picture(rng), kind))
    if kind == "GIF":
        content[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif kind == "BMP":
        content[18:26] = struct.pack("<II", width, height)
    elif kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif kind == "WEBP":
        content[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    else:
        content = bytearray(b"II*\0" + struct.pack("<IH", 8, 2))
        for tag, value in ((256, width), (257, height)):
            content += struct.pack("<HHII", tag, 4, 1, value)
        content += bytes(rng.randrange(200))
    return SUFFIX_OF[kind], bytes(content)


def animated(rng: random.Random) -> tuple[str, bytes]:
    image = _some_picture(rng)
    frames = [image.rotate(angle) for angle in (0, 3, 6)]
    kind = rng.choice(("GIF", "WEBP", "PNG", "TIFF"))
    content = written(frames[0], kind, save_all=True, append_images=frames[1:])
    return SUFFIX_OF[kind], content if rng.random() < 0.5 else content[: rng.randrange(len(content) // 2, len(content))]


def clear_palette(rng: random.Random) -> tuple[str, bytes]:
    image = _some_picture(rng).convert("P", palette=Image.Palette.ADAPTIVE, colors=rng.choice((2, 16, 256)))
    clear = rng.choice((0, 1, bytes(rng.randrange(256) for _ in range(rng.randrange(1, 257)))))
    return "png", written(image, "PNG", transparency=clear)


def turned(rng: random.Random) -> tuple[str, bytes]:
    exif = Image.Exif()
    exif[ORIENTATION] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65_535))
    content = exif.tobytes()
    if rng.random() < 0.5:
        spoiled = bytearray(content)
        for _ in range(rng.randrange(1, 12)):
            spoiled[rng.randrange(6, len(spoiled))] = rng.randrange(256)
        content = bytes(spoiled) + rng.randbytes(rng.randrange(40))
    kind = rng.choice(("JPEG", "PNG", "WEBP"))
    return SUFFIX_OF[kind], written(_some_picture(rng), kind, exif=content)


def something_else(rng: random.Random) -> tuple[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.jpg", "none")
    contents = (
        b"",
        bytes(rng.randrange(1, 5000)),
        rng.randbytes(rng.randrange(1, 5000)),
        archive.getvalue(),
        b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{} loop\n%%EOF\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='60000' height='60000'/>",
        b"<!doctype html><title>404</title>",
        b"\x7fELF\x02\x01\x01" + rng.randbytes(200),
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.randbytes(200),
        b"8BPS\0\x01" + rng.randbytes(100),
        b"P6\n60000 60000\n255\n" + bytes(100),
        b"P5 12000 12000 65535\n" + bytes(100),
        b"FORM\0\0\0\x20ILBMBMHD" + rng.randbytes(40),
        b"icns" + struct.pack(">I", 60) + rng.randbytes(52),
        b"\0\0\x01\0\x01\0" + rng.randbytes(60),
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + rng.randbytes(60),
        b"\xff\xd8\xff" * 500,
        "Dear Zoë, here is my photo.".encode("utf-16"),
    )
    return rng.choice(tuple(SUFFIX_OF.values())), rng.choice(contents)


def broken_profile(rng: random.Random) -> tuple[str, bytes]:
    good, lab = profile_of("sRGB"), profile_of("LAB")
    spoiled = bytearray(good)
    for _ in range(rng.randrange(1, 30)):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    cut = good[: rng.randrange(1, len(good))]
    profile = rng.choice((bytes(spoiled), cut, rng.randbytes(300), lab, good + bytes(99)))
    image = _some_picture(rng).convert(rng.choice(("RGB", "RGBA", "L", "P", "LA")))
    kind = rng.choice(("PNG", "TIFF"))
    return SUFFIX_OF[kind], written(image, kind, icc_profile=profile)


def odd_png(rng: random.Random) -> tuple[str, bytes]:
    """Sixteen bits, interlaced, texts that grow to a hundred megabytes, palettes that are not there."""
    side, choice = 40, rng.randrange(5)
    if choice == 0:
        return "png", png(side, side, 16, 2, zlib.compress(rng.randbytes(side * (6 * side + 1))))
    if choice == 1:
        return "png", png(side, side, 8, 2, zlib.compress(rng.randbytes(9999)), interlaced=1)
    if choice == 2:
        grown = png_chunk(rng.choice((b"zTXt", b"iCCP")), b"note\0\0" + zeros(1 << 27))
        return "png", png(side, side, 8, 0, zeros(side * (side + 1)), grown)
    if choice == 3:
        return "png", png(side, side, 8, 3, zeros(side * (side + 1)), png_chunk(b"tRNS", rng.randbytes(400)))
    exif = png_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + rng.randbytes(90))
    return "png", png(side, side, 8, 2, zeros(side * (3 * side + 1)), exif)


def giant(rng: random.Random) -> tuple[str, bytes]:
    """The largest picture that is taken, whole, of a few kilobytes; or more data than its header tells."""
    side = MOST_SIDE_PX
    choice = rng.randrange(6)
    if choice == 0:
        return "png", png(100, 100, 8, 2, zeros(1 << 30))
    if choice == 1:
        return "jpg", written(Image.new("RGB", (side, side)), "JPEG", quality=10)
    if choice == 2:
        return "tif", written(Image.new("L", (side, side)), "TIFF", compression="tiff_adobe_deflate")
    kinds = ((8, 2, 3), (8, 6, 4), (16, 0, 1), (16, 2, 3), (16, 6, 4), (8, 4, 2), (1, 0, 1))
    depth, colour, channels = rng.choice(kinds)
    row = -(-side * depth * channels // 8) + 1
    chunks = [png_chunk(b"tRNS", bytes(2 * channels))] if rng.random() < 0.5 and colour in (0, 2) else []
    return "png", png(side, side, depth, colour, zeros(row * side), *chunks)


# Giants take seconds each, so they are one of fifty.
KINDS: tuple[Callable[[random.Random], tuple[str, bytes]], ...] = (
    fuzzed_header,
    fuzzed_anywhere,
    cut_short,
    odd_mode,
    absurd_size,
    animated,
    clear_palette,
    turned,
    something_else,
    broken_profile,
    odd_png,
)
GIANT_EVERY = 50


def hostile_image(seed: int) -> tuple[str, bytes]:
    """A file's name, which tells what is hostile in it, and its content."""
    rng = random.Random(seed)
    make = giant if seed % GIANT_EVERY == GIANT_EVERY - 1 else KINDS[seed % len(KINDS)]
    suffix, content = make(rng)
    return f"{seed:04}_{make.__name__}.{suffix}", content


def _some_picture(rng: random.Random) -> Image.Image:
    return picture(rng.random() < FACE_SHARE)
