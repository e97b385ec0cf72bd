from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.blender.conftest import part

pytestmark = pytest.mark.blender


def picture(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_photo_on_disk_is_used_as_it_is(blender: ModuleType, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"Zoë am See.{suffix}"
    Image.fromarray(picture((7, 5, 3))).save(path)
    found = part("photo_file").photo_file(blender.data.images.load(str(path)), tmp_path)
    assert (found.path, found.temporary) == (path, False)


def test_relative_paths_are_found_also_of_a_linked_image(blender: ModuleType, tmp_path: Path) -> None:
    """Relative paths count from the file that holds the image: this one, or the one it is linked from."""
    path, other, own = tmp_path / "library" / "face.png", tmp_path / "library" / "faces.blend", tmp_path / "own.blend"
    path.parent.mkdir()
    Image.fromarray(picture((7, 5, 3))).save(path)
    blender.ops.wm.save_as_mainfile(filepath=str(other))
    image = blender.data.images.load("//face.png")
    image.use_fake_user = True
    assert part("photo_file").photo_file(image, tmp_path).path == path
    blender.ops.wm.save_mainfile()
    blender.ops.wm.read_homefile(use_factory_startup=True)
    blender.ops.wm.save_as_mainfile(filepath=str(own))
    with blender.data.libraries.load(str(other), link=True, relative=True) as (_held, wanted):
        wanted.images = ["face.png"]
    linked = blender.data.images["face.png"]
    assert linked.filepath == "//face.png"
    assert part("photo_file").photo_file(linked, tmp_path).path == path


def test_packed_photo_is_written_byte_for_byte(blender: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(picture((7, 5, 3))).save(path)
    content = path.read_bytes()
    image = blender.data.images.load(str(path))
    image.pack()
    path.unlink()
    (tmp_path / "passing").mkdir()
    found = part("photo_file").photo_file(image, tmp_path / "passing")
    assert found.temporary and found.path.suffix == ".jpg" and found.path.read_bytes() == content


def test_painted_photo_is_written_as_seen(blender: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    values = picture((7, 5, 4))
    Image.fromarray(values).save(path)
    image = blender.data.images.load(str(path))
    pixels = np.array(image.pixels[:])
    pixels[0:4] = (1.0, 0.0, 0.0, 1.0)  # the lower left one
    image.pixels.foreach_set(pixels.astype(np.float32))
    assert image.is_dirty
    (tmp_path / "passing").mkdir()
    found = part("photo_file").photo_file(image, tmp_path / "passing")
    values[-1, 0] = (255, 0, 0, 255)
    assert found.temporary and np.array_equal(np.asarray(Image.open(found.path)), values)
    assert image.is_dirty and image.filepath == str(path)


def test_float_image_becomes_srgb_with_straight_alpha(blender: ModuleType, tmp_path: Path) -> None:
    image = blender.data.images.new("light", 2, 1, alpha=True, float_buffer=True)
    # Linear light 0.2140 is the middle of sRGB; the second pixel holds it under an alpha of one half.
    image.pixels.foreach_set(np.array([0.2140] * 3 + [1.0] + [0.1070] * 3 + [0.5], np.float32))
    found = part("photo_file").photo_file(image, tmp_path)
    written = np.asarray(Image.open(found.path))
    assert np.abs(written.astype(int) - [[[128, 128, 128, 255], [128, 128, 128, 128]]]).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_any_channels_is_read_back_as_written(tmp_path: Path, channels: int, blender: ModuleType) -> None:
    values = picture((6, 9, channels))
    (tmp_path / "x.png").write_bytes(part("photo_file").encode_png(values))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")).reshape(values.shape), values)


def test_missing_file_is_left_to_the_engine_to_tell(blender: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(picture((7, 5, 3))).save(path)
    image = blender.data.images.load(str(path))
    path.unlink()
    assert part("photo_file").photo_file(image, tmp_path).path == path


def test_render_result_is_refused_with_a_hint(blender: ModuleType, tmp_path: Path) -> None:
    scene = blender.context.scene
    scene.render.engine = "BLENDER_WORKBENCH"
    scene.render.resolution_x = scene.render.resolution_y = 16
    blender.ops.render.render()
    with pytest.raises(part("photo_file").ImageUnusable) as refused:
        part("photo_file").photo_file(blender.data.images["Render Result"], tmp_path)
    assert refused.value.hint
