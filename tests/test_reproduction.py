"""The measures of `make photo-bench` on pictures and heads whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from inference.bake import bake
from inference.progress import silent
from inference.surface import METRES_PER_UNIT, extract
from inference.unwrap import unwrap
from tests.inference.analytic_fields import AnalyticField, head_on_neck
from tests.inference.test_bake import picture_of, texel_positions
from tests.reproduction import border_of, ms_ssim, psnr_db, reproduction, soundness


def test_psnr_of_a_known_error() -> None:
    inside = np.zeros((32, 32), dtype=bool)
    inside[:16] = True
    one = np.full((32, 32, 3), 0.5)
    other = one + np.where(inside, 0.1, 0.4)[..., None]
    assert psnr_db(one, other, inside) == pytest.approx(20.0)


def test_ms_ssim_is_one_for_equals_falls_with_blur_and_ignores_what_is_outside() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((512, 512))
    inside = np.zeros((512, 512), dtype=bool)
    inside[100:400, 100:400] = True
    assert ms_ssim(picture, picture, inside) == pytest.approx(1.0)
    beside = np.where(inside, picture, 1 - picture)
    assert ms_ssim(picture, beside, inside) == pytest.approx(1.0)
    noise = [ms_ssim(picture, picture + rng.normal(0, sigma, picture.shape), inside) for sigma in (0.05, 0.2)]
    assert 1 > noise[0] > noise[1] > 0
    assert ms_ssim(picture, 1 - picture, inside) == 0


def test_known_head_comes_back_in_shape_and_colour() -> None:
    """Surface within half a millimetre at grid 256, and 30 dB on what the photo saw, of stripes 4 mm apart."""

    def stripes(points: np.ndarray) -> np.ndarray:
        bright = 0.5 + 0.3 * np.sin(points[:, 0] * (2 * np.pi / 0.008)) * np.sin(points[:, 1] * (2 * np.pi / 0.008))
        return bright[:, None] * [1.0, 0.8, 0.7]

    distance = head_on_neck()
    mesh = extract(AnalyticField(distance), 256, 30_000, silent)
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    off_cap = centres[:, 1] > centres[:, 1].min() + 0.01
    error_m = np.abs(distance(centres[off_cap])) * METRES_PER_UNIT
    assert error_m.mean() < 0.0005

    flat = unwrap(mesh, silent)
    portrait, photo = picture_of(mesh, stripes, scale=3.0)
    grey = AnalyticField(distance, lambda points: np.tile([0.5, 0.4, 0.35], (len(points), 1)))
    head = bake(flat.mesh, flat.uv, portrait, photo, grey, 2048, silent)
    row, column, points = texel_positions(head)
    seen = head.visibility_map[row, column] > 127
    difference = head.albedo[row[seen], column[seen]] / 255 - stripes(points[seen])
    assert -10 * np.log10((difference**2).mean()) > 30
    border = border_of(head)
    assert border is not None and border.jump < 8  # the stripes' own contrast is in it
    sound = soundness(head)
    assert sound.watertight and sound.outward and sound.degenerate_faces == sound.folded_faces == 0
    shown = reproduction(head, portrait)
    assert shown.covered > 0.999 and shown.psnr_db > 26
