from __future__ import annotations

import numpy as np

from inference.lenses import FACE_LENSES, MAGNIFICATION, magnified, mirrored_below, put_back
from inference.surface import NECK_CUT_Y

LENSES = mirrored_below(FACE_LENSES, NECK_CUT_Y)


def points_of_the_box(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.35, 0.35, (count, 3))


def test_points_come_back_to_where_they_were() -> None:
    points, known = points_of_the_box(3000, 0), points_of_the_box(3000, 1)
    back = put_back(magnified(points, LENSES), LENSES, known, magnified(known, LENSES))
    np.testing.assert_allclose(back, points, atol=1e-9)


def test_space_never_folds_and_nothing_comes_closer() -> None:
    points, step = points_of_the_box(5000, 2), 1e-5 * np.random.default_rng(3).normal(size=(5000, 3))
    moved = magnified(points + step, LENSES) - magnified(points, LENSES)
    stretch = np.linalg.norm(moved, axis=1) / np.linalg.norm(step, axis=1)
    assert stretch.min() >= 1 - 1e-6
    assert (np.einsum("ni,ni->n", moved, step) > 0).all()


def test_features_are_magnified_more_than_the_back_of_the_head() -> None:
    def stretch(place: tuple[float, float, float]) -> float:
        around = np.asarray(place) + 1e-4 * np.concatenate([np.eye(3), -np.eye(3)])
        return float(np.linalg.norm(np.ptp(magnified(around, LENSES), axis=0)) / np.linalg.norm(np.ptp(around, axis=0)))

    features = [stretch(lens.centre) for lens in FACE_LENSES]
    assert min(features) >= MAGNIFICATION
    assert min(features) > 1.5 * stretch((0.0, 0.1, -0.2))


def test_the_neck_cut_and_the_middle_stay_flat() -> None:
    points = points_of_the_box(500, 4)
    in_cut, in_middle = points * [1, 0, 1] + [0, NECK_CUT_Y, 0], points * [0, 1, 1]
    np.testing.assert_allclose(magnified(in_cut, LENSES)[:, 1], NECK_CUT_Y, atol=1e-12)
    np.testing.assert_allclose(magnified(in_middle, LENSES)[:, 0], 0.0, atol=1e-12)
