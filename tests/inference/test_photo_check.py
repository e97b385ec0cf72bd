"""Warnings: each is raised by what it warns of, and a plain portrait raises none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from inference.alignment import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, AlignedPortrait, align, inter_ocular
from inference.face_networks import load_face_networks
from inference.photo import Photo, load_photo
from inference.photo_check import photo_warnings

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "photos"
PLAIN = ["pd_grace_hopper", "px001", "px006", "px034", "px037", "px046", "px050", "px051", "px071"]
SEEN = {"px004": "dark glasses", "px009": "cuts the head off", "px012": "turned", "px040": "turned"}


@pytest.fixture(scope="module")
def plain(astronaut: Path) -> tuple[AlignedPortrait, tuple[int, int]]:
    photo = load_photo(astronaut)
    return align(photo, load_face_networks()), photo.rgb.shape[:2]


def seen(path: Path) -> list[str]:
    photo = load_photo(path)
    return photo_warnings(align(photo, load_face_networks()), photo.rgb.shape[:2])


def painted(portrait: AlignedPortrait, where: np.ndarray, colour: tuple[int, int, int]) -> AlignedPortrait:
    return dataclasses.replace(portrait, image=np.where(where[..., None], np.uint8(colour), portrait.image))


def lenses(portrait: AlignedPortrait) -> np.ndarray:
    """(s, s) two round glasses over the eyes."""
    rows, columns = np.mgrid[: len(portrait.image), : len(portrait.image)] + 0.5
    covered = np.zeros(rows.shape, dtype=bool)
    for corners in (LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS):
        x, y = portrait.landmarks[corners, :2].mean(axis=0)
        covered |= np.hypot(columns - x, rows - y) < 0.4 * inter_ocular(portrait.landmarks)
    return covered


def lower_face(portrait: AlignedPortrait) -> np.ndarray:
    """(s, s) rows from the tip of the nose to below the chin."""
    rows = np.mgrid[: len(portrait.image), : len(portrait.image)][0]
    return (rows > portrait.landmarks[1, 1]) & (rows < portrait.landmarks[152, 1] + 20)


def test_a_plain_portrait_raises_none(plain):
    assert photo_warnings(*plain) == []


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the folder shared with photos is not beside this one")
@pytest.mark.parametrize("name", PLAIN)
def test_photos_with_hats_beards_and_spectacles_raise_none(name):
    assert seen(PHOTOS / f"{name}.jpg") == []


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the folder shared with photos is not beside this one")
@pytest.mark.parametrize("name", SEEN)
def test_photos_with_one_trouble_raise_that_one(name):
    (warning,) = seen(PHOTOS / f"{name}.jpg")
    assert SEEN[name] in warning


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"faces_found": 3}, "3 faces"),
        ({"yaw_deg": -50.0}, "turned"),
        ({"pitch_deg": 35.0}, "up or down"),
        ({"landmark_score": 0.6}, "hard to make out"),
        ({"inter_ocular_px": 31.0}, "small"),
    ],
)
def test_pose_score_and_size_are_told(plain, change, word):
    portrait, size = plain
    pose = dataclasses.replace(portrait.pose, **change)
    (warning,) = photo_warnings(dataclasses.replace(portrait, pose=pose), size)
    assert word in warning


def test_blur_is_told(plain):
    portrait, size = plain
    blurred = ndimage.gaussian_filter(portrait.image.astype(float), (6, 6, 0))
    (warning,) = photo_warnings(dataclasses.replace(portrait, image=blurred.astype(np.uint8)), size)
    assert "blurred" in warning


def test_darkness_is_told(plain):
    portrait, size = plain
    (warning,) = photo_warnings(dataclasses.replace(portrait, image=portrait.image // 4), size)
    assert "dark" in warning


def test_dark_glasses_are_told_and_clear_ones_are_not(plain):
    portrait, size = plain
    (warning,) = photo_warnings(painted(portrait, lenses(portrait), (20, 22, 25)), size)
    assert "dark glasses" in warning
    rim = lenses(portrait) & ~ndimage.binary_erosion(lenses(portrait), iterations=3)
    assert photo_warnings(painted(portrait, rim, (20, 22, 25)), size) == []


@pytest.mark.parametrize("colour", [(110, 170, 215), (235, 240, 245), (60, 140, 60)], ids=["blue", "white", "green"])
def test_a_mask_is_told(plain, colour):
    portrait, size = plain
    (warning,) = photo_warnings(painted(portrait, lower_face(portrait), colour), size)
    assert "covered" in warning


def test_a_dark_beard_is_no_mask(plain):
    portrait, size = plain
    assert photo_warnings(painted(portrait, lower_face(portrait), (45, 30, 22)), size) == []


def test_a_head_cut_off_by_the_photo_is_told(astronaut):
    photo = load_photo(astronaut)
    cut = Photo(photo.rgb[60:], photo.focal_px, photo.path, None)
    (warning,) = photo_warnings(align(cut, load_face_networks()), cut.rgb.shape[:2])
    assert "cuts the head off" in warning


def test_black_and_white_photos_raise_none(astronaut, tmp_path):
    Image.open(astronaut).convert("L").save(tmp_path / "grey.png")
    assert seen(tmp_path / "grey.png") == []
