"""Carving: what shows outside the photo's outline goes, everything else stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from inference.alignment import AlignedPortrait, FacePose
from inference.camera import camera_rays, orbit_camera
from inference.silhouette import MARGIN, CarvedField, carve, in_photo, outline_distance
from inference.surface import lattice_points

SIDE = 512
PIXEL = 2.7 / 4.2647 / SIDE  # box units of one pixel at the head's middle


@dataclass
class Everywhere:
    """A field that is solid throughout its box."""

    level: float = 10.0
    box_side: float = 0.7

    def density(self, points: np.ndarray, progress: object = None) -> np.ndarray:
        return np.full(len(points), 1000.0, np.float32)

    def colour(self, points: np.ndarray, progress: object = None) -> np.ndarray:
        return np.tile(np.float32([0.1, 0.2, 0.3]), (len(points), 1))


def portrait_of_a_disc(radius_px: float, azimuth_deg: float = 0.0, shift: float = 0.0) -> AlignedPortrait:
    """A person whose outline is a disc in the middle of the crop, with a small face; the photo is the crop, shifted."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    matte = (np.hypot(rows - SIDE / 2, columns - SIDE / 2) < radius_px).astype(np.float32)
    landmarks = np.array([[x, y, 0.0] for x in (246, 266) for y in (246, 266)])
    photo_from_crop = np.array([[1.0, 0, 0], [0, 1, shift], [0, 0, 1]])
    pose = FacePose(0.0, 0.0, 0.0, 1.0, 60.0, 1)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    return AlignedPortrait(image, matte, orbit_camera(azimuth_deg), photo_from_crop, landmarks, pose)


@pytest.mark.parametrize("azimuth_deg", [0.0, 70.0])
def test_points_inside_the_outline_stay_and_points_outside_go(azimuth_deg: float) -> None:
    portrait = portrait_of_a_disc(150, azimuth_deg)
    carved = carve(Everywhere(), portrait, (SIDE, SIDE))
    origins, directions = camera_rays(portrait.camera, SIDE)
    points = origins + directions * 2.7
    inside = carved.density(points[256, [256, 300, 395]]) > carved.level
    outside = carved.density(points[256, [415, 470, 500]]) > carved.level
    assert inside.all() and not outside.any()


def test_the_wall_stands_at_the_outline_within_its_margin() -> None:
    carved = carve(Everywhere(), portrait_of_a_disc(150), (SIDE, SIDE))
    x = np.linspace(0.1, 0.3, 4001)
    points = np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)
    wall = x[carved.density(points) > carved.level].max()
    # Blurring a disc's edge moves its half level inwards by a fraction of a pixel.
    assert wall == pytest.approx(150 * PIXEL + MARGIN, abs=PIXEL)


def test_a_lattice_is_carved_as_its_points_are() -> None:
    carved = carve(Everywhere(), portrait_of_a_disc(150, 30.0), (SIDE, SIDE))
    x, y, z = np.linspace(-0.3, 0.3, 7), np.linspace(-0.2, 0.3, 8), np.linspace(-0.1, 0.3, 9)
    expected = carved.density(lattice_points(x, y, z)).reshape(7, 8, 9)
    assert (expected > carved.level).any() and (expected < carved.level).any()
    np.testing.assert_array_equal(carved.density_on_lattice(x, y, z), expected)


def test_distance_is_metric_at_every_depth() -> None:
    carved = carve(Everywhere(), portrait_of_a_disc(150), (SIDE, SIDE))
    for depth in (-0.2, 0.0, 0.2):
        edge = 150 * PIXEL * (2.7 - depth) / 2.7
        point = np.array([[edge + 0.02, 0.0, depth]])
        assert carved.distance(point)[0] == pytest.approx(0.02, abs=PIXEL)


def test_colours_are_the_fields_own() -> None:
    carved = carve(Everywhere(), portrait_of_a_disc(150), (SIDE, SIDE))
    assert isinstance(carved, CarvedField)
    np.testing.assert_array_equal(carved.colour(np.zeros((2, 3))), Everywhere().colour(np.zeros((2, 3))))


def test_nothing_is_taken_away_beyond_the_photos_edge() -> None:
    portrait = portrait_of_a_disc(100, shift=200)  # crop row 312 is the photo's last
    distance = outline_distance(portrait, (SIDE, SIDE))
    assert distance[400, 256] < 0  # below the photo: unknown, so kept
    assert distance[256, 480] > 0  # in the photo and background: goes


def test_the_face_stays_though_the_matte_misses_it() -> None:
    portrait = portrait_of_a_disc(0)
    distance = outline_distance(portrait, (SIDE, SIDE))
    assert distance[256, 256] < 0 and distance[100, 100] > 0


def test_a_photo_larger_than_the_crop_hides_nothing() -> None:
    to_photo = np.array([[1.0, 0, 300], [0, 1, 300], [0, 0, 1]])
    assert in_photo(to_photo, (1200, 1200), SIDE).all()
