from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms, TiffImagePlugin

from inference import photo as photo_file
from inference.errors import PhotoEmpty, PhotoMissing, PhotoTooLarge, PhotoTruncated, PhotoUnreadable
from inference.photo import CLEAR_PIXEL_GREY, load_photo
from tests.hostile_images import png, png_chunk

ASTRONAUT = skimage.data.astronaut()[:120, 100:260]
ORIENTATION = 0x0112
# What a camera does to an upright picture before it writes the orientation that undoes it.
STORED_AS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_all_eight_exif_orientations_give_the_same_upright_photo(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation](ASTRONAUT))
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_photo(tmp_path / "turned.png").rgb, ASTRONAUT)


def test_a_path_with_spaces_and_letters_beyond_ascii_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Zoë à la plage 写真.png"
    Image.fromarray(ASTRONAUT).save(path)
    photo = load_photo(str(path))
    assert np.array_equal(photo.rgb, ASTRONAUT)
    assert photo.path == path
    assert photo.alpha is None
    assert photo.focal_px is None


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = ASTRONAUT[..., 1]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(load_photo(tmp_path / "grey.png").rgb, grey[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / name)
    assert np.array_equal(load_photo(tmp_path / name).rgb[..., 0].ravel(), np.arange(256))


def test_sixteen_bit_big_endian_tiff_is_read_in_its_own_byte_order(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(">u2").reshape(16, 16)
    Image.frombytes("I;16B", (16, 16), ramp.tobytes()).save(tmp_path / "big.tif")
    assert np.array_equal(load_photo(tmp_path / "big.tif").rgb[..., 0].ravel(), np.arange(256))


def test_sixteen_bit_colour_png_keeps_its_colours(tmp_path: Path) -> None:
    # PIL writes no 16-bit colour, so the file is put together by hand: filter 0 before each row, big-endian.
    colours = ASTRONAUT.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in colours)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = ASTRONAUT.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    assert np.array_equal(load_photo(tmp_path / "deep.png").rgb, ASTRONAUT)


def test_cmyk_arrives_as_rgb(tmp_path: Path) -> None:
    # Uniform patches, so that JPEG's chroma does not bleed; 3 levels are JPEG's own rounding.
    cyan, key = np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 4), np.uint8)
    cyan[..., 0], key[..., 3] = 255, 255
    Image.fromarray(np.hstack([cyan, key]), "CMYK").save(tmp_path / "print.jpg", quality=100)
    rgb = load_photo(tmp_path / "print.jpg").rgb
    assert np.allclose(rgb[16, 8], [0, 255, 255], atol=3)
    assert np.allclose(rgb[16, 56], 0, atol=3)


def test_palette_with_a_clear_entry_gives_colours_and_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (4, 0, 8, 8))
    image.save(tmp_path / "palette.png", transparency=1)
    photo = load_photo(tmp_path / "palette.png")
    assert photo.alpha is not None
    assert np.array_equal(photo.rgb[0, 0], [255, 0, 0])
    assert np.array_equal(photo.alpha[0], [255] * 4 + [0] * 4)


def test_alpha_is_kept_and_clear_pixels_lose_their_leftover_colour(tmp_path: Path) -> None:
    alpha = np.zeros(ASTRONAUT.shape[:2], np.uint8)
    alpha[20:100, 20:140] = 255
    alpha[20, 20] = 7
    Image.fromarray(np.dstack([ASTRONAUT, alpha])).save(tmp_path / "cut.png")
    photo = load_photo(tmp_path / "cut.png")
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha, alpha)
    assert np.array_equal(photo.rgb[alpha > 0], ASTRONAUT[alpha > 0])
    assert (photo.rgb[alpha == 0] == CLEAR_PIXEL_GREY).all()


def test_a_fully_opaque_alpha_channel_counts_as_none(tmp_path: Path) -> None:
    opaque = np.full(ASTRONAUT.shape[:2], 255, np.uint8)
    Image.fromarray(np.dstack([ASTRONAUT, opaque])).save(tmp_path / "opaque.png")
    assert load_photo(tmp_path / "opaque.png").alpha is None


def test_a_linear_light_profile_is_turned_into_srgb(tmp_path: Path) -> None:
    """A profile with sRGB's primaries and gamma 1: linear 0.5 is sRGB 188."""
    profile = _gamma_one_profile()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(tmp_path / "linear.png", icc_profile=profile)
    assert np.abs(load_photo(tmp_path / "linear.png").rgb.astype(int) - 188).max() <= 1


def test_a_profile_that_does_not_fit_the_picture_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(ASTRONAUT).save(tmp_path / "odd.png", icc_profile=b"no profile at all")
    assert np.array_equal(load_photo(tmp_path / "odd.png").rgb, ASTRONAUT)


def test_the_35_mm_equivalent_gives_the_focal_length_in_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 50
    exif[ORIENTATION] = 6
    Image.fromarray(np.zeros((240, 360, 3), np.uint8)).save(tmp_path / "lens.jpg", exif=exif)
    focal_px = load_photo(tmp_path / "lens.jpg").focal_px
    # A 36 mm wide frame at 360 pixels: 10 pixels a millimetre.
    assert focal_px == pytest.approx(500, rel=1e-3)


def test_a_missing_photo_says_so(tmp_path: Path) -> None:
    with pytest.raises(PhotoMissing, match=r"nowhere\.jpg"):
        load_photo(tmp_path / "nowhere.jpg")


def test_an_empty_photo_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(PhotoEmpty):
        load_photo(tmp_path / "empty.jpg")


def test_a_text_file_and_a_folder_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_text("Dear Zoë,")
    with pytest.raises(PhotoUnreadable):
        load_photo(tmp_path / "letter.jpg")
    with pytest.raises(PhotoUnreadable):
        load_photo(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.005, 0.1, 0.5, 0.97])
def test_a_photo_that_ends_too_early_is_refused_and_not_filled_with_grey(
    tmp_path: Path, kind: str, kept: float
) -> None:
    stream = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(stream, kind)
    content = stream.getvalue()
    (tmp_path / "cut").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(PhotoTruncated):
        load_photo(tmp_path / "cut")


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    # Pixels are announced and none are there: whoever decodes finds a truncated file instead.
    for size, name in (((60_000, 60_000), "bomb.png"), ((12_001, 600), "long.png")):
        header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
        crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc
        png += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        (tmp_path / name).write_bytes(png)
        with pytest.raises(PhotoTooLarge):
            load_photo(tmp_path / name)


def test_spoiled_notes_of_the_camera_leave_the_picture_as_it_lies(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    spoiled = exif.tobytes().replace(b"MM\x00*", b"M\xf5\x00*").replace(b"II*\x00", b"\xd4I*\x00")
    assert spoiled != exif.tobytes()
    Image.fromarray(ASTRONAUT).save(tmp_path / "spoiled.png", exif=spoiled)
    photo = load_photo(tmp_path / "spoiled.png")
    assert np.array_equal(photo.rgb, ASTRONAUT) and photo.focal_px is None


def test_a_palette_that_is_not_there_is_named(tmp_path: Path) -> None:
    clear = png_chunk(b"tRNS", bytes(400))
    (tmp_path / "palette.png").write_bytes(png(40, 40, 8, 3, zlib.compress(bytes(40 * 41)), clear))
    with pytest.raises(PhotoUnreadable, match="colours"):
        load_photo(tmp_path / "palette.png")


def test_a_photo_of_many_bands_is_the_photo_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = np.arange(ASTRONAUT.shape[0] * ASTRONAUT.shape[1], dtype=np.uint32).reshape(ASTRONAUT.shape[:2]) // 60 % 256
    picture = Image.fromarray(np.dstack([ASTRONAUT, alpha.astype(np.uint8)]))
    picture.save(tmp_path / "cut.png", icc_profile=_gamma_one_profile())
    whole = load_photo(tmp_path / "cut.png")
    monkeypatch.setattr(photo_file, "BAND_PIXELS", 7 * ASTRONAUT.shape[1])
    banded = load_photo(tmp_path / "cut.png")
    assert whole.alpha is not None and banded.alpha is not None
    assert np.array_equal(whole.rgb, banded.rgb) and np.array_equal(whole.alpha, banded.alpha)


def test_floating_point_tiffs_are_refused_with_a_way_out(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(PhotoUnreadable) as caught:
        load_photo(tmp_path / "float.tif")
    assert "JPEG" in caught.value.hint


def test_deflated_tiffs_with_an_orientation_are_turned_once(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = 6
    stored = np.ascontiguousarray(STORED_AS[6](ASTRONAUT))
    Image.fromarray(stored).save(tmp_path / "scan.tif", tiffinfo=tags, compression="tiff_adobe_deflate")
    assert np.array_equal(load_photo(tmp_path / "scan.tif").rgb, ASTRONAUT)


def _gamma_one_profile() -> bytes:
    """sRGB's profile with its three tone curves replaced by straight lines."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = struct.unpack(">I", profile[128:132])[0]
    for index in range(tags):
        name, offset, _ = struct.unpack(">4sII", profile[132 + 12 * index : 144 + 12 * index])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            profile[offset : offset + 12] = b"curv" + bytes(4) + struct.pack(">I", 0)  # no entries: the identity
    return bytes(profile)
