"""A known light on known skin must be found and taken out, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from inference.face_region import GAMMA
from inference.shading import EVEN_LIGHT, SHADING_RANGE, Light, even_gain, fit_light, harmonics, luminance

SKIN = np.array([0.75, 0.55, 0.45])  # sRGB
HAIR = np.array([0.16, 0.10, 0.07])
FROM_THE_LEFT = Light(np.array([1.0, 0.05, 0.1, 0.25, 0.0, 0.0, 0.0, 0.04, 0.0]))


def front_normals(count: int = 3000) -> np.ndarray:
    """Directions a photo from the front sees, evenly spread."""
    normals = np.random.default_rng(0).normal(size=(count, 3))
    normals[:, 2] = np.abs(normals[:, 2])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def lit(colour: np.ndarray, normals: np.ndarray, light: Light = FROM_THE_LEFT) -> np.ndarray:
    """(n, 3) sRGB of an albedo (3,) or (n, 3) under a light."""
    return colour * (light.shading(normals) ** (1 / GAMMA))[:, None]


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    normals = np.random.default_rng(1).normal(size=(200_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    basis = harmonics(normals)
    np.testing.assert_allclose(basis.T @ basis / len(normals), np.eye(9), atol=0.02)


def test_light_from_one_side_is_found_and_taken_out() -> None:
    normals = front_normals()
    photo, skin = lit(SKIN, normals), np.ones(len(normals))
    light = fit_light(normals, photo, skin)
    even = photo * even_gain(normals, photo, skin, light, 1.0)[:, None]
    assert luminance(photo).std() / luminance(photo).mean() > 0.2
    assert luminance(even).std() / luminance(even).mean() < 0.03
    assert luminance(even).mean() == pytest.approx(luminance(photo).mean(), rel=1e-6)


def test_dark_patches_in_the_skin_do_not_pass_for_shadow() -> None:
    """Brows, stubble, spots: a fifth of the skin, half of what looks down."""
    normals = front_normals()
    beard = np.random.default_rng(2).random(len(normals)) < np.where(normals[:, 1] < -0.3, 0.4, 0.05)
    assert 0.12 < beard.mean() < 0.25
    photo = np.where(beard[:, None], lit(SKIN * 0.45, normals), lit(SKIN, normals))
    light = fit_light(normals, photo, np.ones(len(normals)))
    bare = ~beard
    ratio = light.shading(normals[bare]) / FROM_THE_LEFT.shading(normals[bare])
    assert np.abs(ratio / np.median(ratio) - 1).max() < 0.12


def test_strength_mixes_between_the_photo_and_even_light() -> None:
    normals = front_normals()
    photo, skin = lit(SKIN, normals), np.ones(len(normals))
    light = fit_light(normals, photo, skin)
    spread = [luminance(photo * even_gain(normals, photo, skin, light, s)[:, None]).std() for s in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(even_gain(normals, photo, skin, light, 0.0), 1.0, rtol=1e-12)
    assert 0.4 * spread[0] < spread[1] < 0.6 * spread[0] and spread[2] < 0.2 * spread[0]


def test_gloss_is_pulled_down_to_the_skin() -> None:
    normals = front_normals()
    photo, skin = lit(SKIN, normals), np.ones(len(normals))
    gloss = np.linalg.norm(normals - [0.0, 0.5, 0.866], axis=1) < 0.15
    photo[gloss] = np.minimum(photo[gloss] * 1.25 + 0.05, 1.0)
    light = fit_light(normals, photo, skin)
    even = luminance(photo * even_gain(normals, photo, skin, light, 1.0)[:, None])
    before = luminance(photo[gloss]).mean() / luminance(photo[~gloss]).mean()
    assert before > 1.6 and even[gloss].mean() / even[~gloss].mean() < 1.4


def test_hair_keeps_its_hue_and_stays_dark() -> None:
    normals = front_normals()
    hair = normals[:, 1] > 0.6
    photo = np.where(hair[:, None], lit(HAIR, normals), lit(SKIN, normals))
    skin = (~hair).astype(float)
    even = photo * even_gain(normals, photo, skin, fit_light(normals, photo, skin), 1.0)[:, None]
    np.testing.assert_allclose(
        even[hair] / even[hair].sum(axis=1, keepdims=True), np.tile(HAIR / HAIR.sum(), (hair.sum(), 1))
    )
    assert (even[hair].max(axis=1) < 1.5 * HAIR.max()).all()


def test_without_skin_the_light_is_even() -> None:
    normals = front_normals(50)
    dark = np.zeros((50, 3))
    assert fit_light(normals, dark + 0.5, np.zeros(50)) is EVEN_LIGHT
    assert fit_light(normals, dark, np.ones(50)) is EVEN_LIGHT
    np.testing.assert_array_equal(EVEN_LIGHT.shading(normals), 1.0)
    wild = Light(np.array([1.0, 9.0] + [0.0] * 7)).shading(normals)
    assert wild.min() >= SHADING_RANGE[0] and wild.max() <= SHADING_RANGE[1]
