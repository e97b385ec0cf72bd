from __future__ import annotations

import numpy as np
import pytest
import skimage.data

from inference.resampling import build_pyramid, resample, similarity_matrix, transform_points, window_matrix

ASTRONAUT = skimage.data.astronaut()


def test_the_identity_returns_the_picture() -> None:
    drawn, coverage = resample(build_pyramid(ASTRONAUT), np.eye(3), (512, 512))
    # Two samples a pixel at a quarter from its centre see 1/8 of each neighbour along an axis, no shift.
    assert np.abs(drawn - ASTRONAUT).mean() < 2.5
    assert (coverage == 1).all()


def test_a_turn_by_90_degrees_about_the_middle_is_rot90() -> None:
    matrix = similarity_matrix(1.0, np.pi / 2, np.array([256.0, 256.0]), np.array([256.0, 256.0]))
    turned, _ = resample(build_pyramid(ASTRONAUT), matrix, (512, 512))
    straight, _ = resample(build_pyramid(ASTRONAUT), np.eye(3), (512, 512))
    assert np.abs(turned - np.rot90(straight)).max() < 0.1


@pytest.mark.parametrize("shrink", [3, 7.3, 16, 40])
def test_shrinking_a_fine_checkerboard_gives_even_grey(shrink: float) -> None:
    board = (np.indices((800, 800)).sum(0) % 2 * 200).astype(np.uint8)
    drawn, _ = resample(build_pyramid(board), np.diag([shrink, shrink, 1.0]), (20, 20))
    assert np.abs(drawn - 100).max() < 100 * 0.13  # a sampler without averaging would be off by 100


def test_shrinking_by_a_whole_number_equals_averaging_blocks() -> None:
    smooth = np.add.outer(np.arange(256.0), 2 * np.arange(256.0)).astype(np.float32)
    drawn, _ = resample(build_pyramid(smooth), np.diag([4.0, 4.0, 1.0]), (64, 64))
    blocks = smooth.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.abs(drawn - blocks)[1:-1, 1:-1].max() < 1e-2


def test_a_ramp_keeps_its_positions_under_any_scale_and_shift() -> None:
    """The value of a ramp is its x: reading it back tells where each pixel was taken from."""
    ramp = np.broadcast_to(np.arange(300, dtype=np.float32) + 0.5, (300, 300))
    for scale in (0.3, 1.0, 2.6, 5.5):
        matrix = similarity_matrix(scale, 0.2, np.array([8.0, 8.0]), np.array([151.3, 148.2]))
        drawn, _ = resample(build_pyramid(ramp), matrix, (16, 16))
        x, y = np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5)
        wanted = transform_points(matrix, np.stack([x.ravel(), y.ravel()], axis=1))[:, 0].reshape(16, 16)
        assert np.abs(drawn - wanted).max() < 0.02 * scale + 1e-3


def test_outside_the_picture_its_edge_goes_on_and_coverage_is_zero() -> None:
    white = np.full((10, 10, 3), 255, np.uint8)
    drawn, coverage = resample(build_pyramid(white), window_matrix(-10, 0, 10, 20, 40), (40, 40))
    assert (drawn == 255).all()
    assert (coverage[:20, 20:] == 1).all()
    assert (coverage[:, :20] == 0).all()
    assert (coverage[20:] == 0).all()


def test_a_window_wholly_outside_still_has_an_edge_colour() -> None:
    drawn, coverage = resample(
        build_pyramid(np.full((10, 10), 9, np.uint8)), window_matrix(500, 500, 520, 520, 4), (4, 4)
    )
    assert (drawn == 9).all()
    assert (coverage == 0).all()
