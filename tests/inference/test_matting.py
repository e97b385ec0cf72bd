from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data

from inference.alignment import AlignedPortrait, align
from inference.face_networks import load_face_networks
from inference.matting import _follow_edges, _guided_filter, _keep_part_with, _lift_shadows
from inference.photo import Photo
from inference.resampling import build_pyramid, resample

FACE = load_face_networks()
ASTRONAUT = skimage.data.astronaut()


def portrait_of(rgb: np.ndarray, alpha: np.ndarray | None = None) -> AlignedPortrait:
    return align(Photo(np.ascontiguousarray(rgb), alpha, None, Path("astronaut.png")), FACE)


@pytest.fixture(scope="module")
def astronaut() -> AlignedPortrait:
    return portrait_of(ASTRONAUT)


def test_the_face_is_in_the_matte_and_the_upper_corners_are_not(astronaut: AlignedPortrait) -> None:
    pupils_nose_and_lips = astronaut.landmarks[[468, 473, 4, 13, 14, 61, 291], :2]
    x, y = pupils_nose_and_lips.round().astype(int).T
    assert astronaut.matte[y, x].min() > 0.97
    assert astronaut.matte[:60, :60].max() < 0.03
    assert astronaut.matte[:60, -60:].max() < 0.03
    assert astronaut.matte.dtype == np.float32
    assert 0 <= astronaut.matte.min() <= astronaut.matte.max() <= 1


def test_the_matte_ends_where_the_photo_ends() -> None:
    # Cut through the hair: the crop goes on, with the edge's colour, and the matte must not.
    tight = portrait_of(ASTRONAUT[40:])
    _, coverage = resample(build_pyramid(ASTRONAUT[40:]), tight.photo_from_crop, (512, 512))
    assert (coverage == 0).any()
    assert (tight.matte[coverage == 0] == 0).all()
    hair_row = int(np.argmax(coverage[:, 256] > 0)) + 8
    assert tight.matte[hair_row].max() > 0.9


def test_a_mirrored_photo_has_the_mirrored_matte(astronaut: AlignedPortrait) -> None:
    mirrored = portrait_of(ASTRONAUT[:, ::-1])
    # The two crops are fitted apart and may lie a pixel or two apart.
    assert np.abs(mirrored.matte[:, ::-1] - astronaut.matte).mean() < 0.015


def test_a_cut_out_keeps_its_own_edge(astronaut: AlignedPortrait) -> None:
    person = _astronaut_alpha(astronaut)
    alpha = (person * 255).astype(np.uint8)
    drawn, _ = resample(build_pyramid(alpha), astronaut.photo_from_crop, (512, 512))
    cut_out = portrait_of(ASTRONAUT, alpha)
    assert np.allclose(cut_out.matte, drawn / 255, atol=1e-5)


def test_alpha_that_is_no_cut_out_only_hides(astronaut: AlignedPortrait) -> None:
    alpha = np.full(ASTRONAUT.shape[:2], 255, np.uint8)
    alpha[:, :200] = 0  # half of the hair, and the background stays opaque elsewhere
    hidden, _ = resample(build_pyramid(alpha), astronaut.photo_from_crop, (512, 512))
    matte = portrait_of(ASTRONAUT, alpha).matte
    assert np.allclose(matte, astronaut.matte * hidden / 255, atol=1e-5)


def test_other_people_are_dropped_and_holes_are_kept_open_to_doubt() -> None:
    likely = np.zeros((512, 512), np.float32)
    likely[100:400, 100:300] = 0.9
    likely[200:210, 200:210] = 0.1  # a hole inside stays what the network said
    likely[100:400, 350:450] = 0.9  # somebody else
    kept = _keep_part_with(likely, np.array([[180.0, 250.0], [220.0, 260.0]]))
    assert np.array_equal(kept[:, :310], likely[:, :310])
    assert (kept[:, 350:] == 0).all()


def test_a_blurred_matte_snaps_to_the_edge_in_the_picture() -> None:
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[:, 128:] = [200, 160, 140]
    blurred = np.broadcast_to(((np.arange(512) - 123) / 8).clip(0, 1), (512, 512)).astype(np.float32)
    step = np.diff(_follow_edges(blurred, picture)[200])
    assert np.argmax(step) == 127
    assert step[127] > 0.6  # was 1/8 a pixel


def test_the_guided_filter_leaves_a_constant_as_it_is() -> None:
    guide = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)
    assert np.allclose(_guided_filter(np.full((40, 50), 0.37, np.float32), guide, 3, 1e-4), 0.37, atol=1e-4)


def test_only_dark_views_are_lifted() -> None:
    bright = np.full((8, 8, 3), 0.5, np.float32)
    assert _lift_shadows(bright) is bright
    assert np.allclose(_lift_shadows(np.full((8, 8, 3), 0.1, np.float32)), 0.3, atol=1e-5)
    assert np.isfinite(_lift_shadows(np.zeros((8, 8, 3), np.float32))).all()


def _astronaut_alpha(astronaut: AlignedPortrait) -> np.ndarray:
    """The astronaut's own matte, drawn back into the photo and hardened: what a cut-out tool would have written."""
    drawn, inside = resample(build_pyramid(astronaut.matte), np.linalg.inv(astronaut.photo_from_crop), (512, 512))
    return (drawn > 0.5) & (inside > 0.99)
