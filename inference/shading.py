"""The photo's light on the head, and how to take it out of the colours.

A convex matte surface under any distant light is shaded, to 98 %, by the nine spherical harmonics up to order two of
its normal (Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", SIGGRAPH 2001;
Basri and Jacobs, PAMI 25(2), 2003). They are fitted to the skin that the photo shows, as if all of it had one albedo;
what is not so, such as brows and beards, is left out as outliers. Divided by that shading, the colours can be lit anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .face_region import GAMMA

FloatArray = NDArray[np.floating]

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB, ITU-R BT.709
ROUNDS = 12  # of reweighting; the coefficients then move by less than a thousandth
OUTLIER = 4.685  # residuals in standard deviations: Tukey's 95 % efficiency; less loses the shadowed side at the start
DEVIATION = 1.4826  # standard deviations of a normal distribution in a median of its distances
LEAST_DEVIATION = 0.02  # of 1: skin is never more even than that
EVENNESS = 0.02  # pull of all harmonics but the first to 0, against a weight of 1: sides that no skin shows stay even
SHADING_RANGE = (0.45, 1.8)  # of the mean; beyond, a fit says more about hair or cast shadows than about light
HIGHLIGHT = 1.2  # times the shaded skin: more is gloss, not albedo
HIGHLIGHT_KEPT = 0.3  # of what is more


@dataclass(frozen=True)
class Light:
    """Shading of a matte surface by its normal.

    coefficients: (9,) of `harmonics`; the shading is 1 on average over the skin it was fitted to.
    """

    coefficients: FloatArray

    def shading(self, normals: FloatArray) -> FloatArray:
        """(n,) linear light at unit normals (n, 3), in SHADING_RANGE."""
        return np.clip(harmonics(normals) @ self.coefficients, *SHADING_RANGE)


EVEN_LIGHT = Light(np.array([1.0] + [0.0] * 8))


def harmonics(normals: FloatArray) -> FloatArray:
    """(n, 9) real spherical harmonics up to order two at unit normals (n, 3), scaled so that the first is 1."""
    x, y, z = np.asarray(normals, dtype=np.float64).T
    first, second, third = np.sqrt(3), np.sqrt(15), np.sqrt(5) / 2
    return np.stack(
        [
            np.ones_like(x), first * y, first * z, first * x,
            second * x * y, second * y * z, third * (3 * z**2 - 1), second * x * z, second / 2 * (x**2 - y**2),
        ],
        axis=1,
    )  # fmt: skip


def fit_light(normals: FloatArray, colour: FloatArray, weight: FloatArray) -> Light:
    """The light under which skin of one albedo looks as it does in the photo.

    normals: (n, 3) unit, head frame.
    colour:  (n, 3) sRGB in [0, 1] of the photo at those places.
    weight:  (n,) how surely each place shows bare skin. Without any, the light is even.

    Iteratively reweighted least squares with Tukey's biweight.
    """
    chosen = weight > 0
    if not chosen.any():
        return EVEN_LIGHT
    basis, light, weight = harmonics(normals[chosen]), luminance(colour[chosen]), weight[chosen] / weight.sum()
    middle = _weighted_median(light, weight)
    if middle <= 0:
        return EVEN_LIGHT
    light = light / middle
    pull = EVENNESS * np.diag([0.0] + [1.0] * 8)
    # From even light on, so that brows and beards are outliers from the first round.
    coefficients = EVEN_LIGHT.coefficients
    for _ in range(ROUNDS):
        residual = light - basis @ coefficients
        deviation = max(DEVIATION * _weighted_median(np.abs(residual), weight), LEAST_DEVIATION)
        trust = weight * np.clip(1 - (residual / (OUTLIER * deviation)) ** 2, 0, None) ** 2
        weighted = trust[:, None] * basis
        coefficients = np.linalg.solve(basis.T @ weighted + pull * trust.sum(), weighted.T @ light)
    mean = float((trust * (basis @ coefficients)).sum() / trust.sum())
    return Light(coefficients / mean)


def even_gain(normals: FloatArray, colour: FloatArray, skin: FloatArray, light: Light, strength: float) -> FloatArray:
    """(n,) what sRGB colours are multiplied with to take the light out; 1 everywhere at strength 0.

    normals:  (n, 3) unit, head frame.
    colour:   (n, 3) sRGB in [0, 1] of the photo there, without its detail.
    skin:     (n,) how surely each place shows bare skin: only there bright colours are gloss, and its mean is kept.
    strength: from 0 to 1.

    One factor for all three channels: hair becomes lighter or darker, but keeps its hue.
    """
    shading = light.shading(normals)
    even = luminance(colour) / shading
    gain = 1 / shading
    if skin.sum() > 0:
        ratio = even / max(_weighted_median(even, skin), 1e-6)
        kept = np.minimum(ratio, HIGHLIGHT + HIGHLIGHT_KEPT * np.maximum(ratio - HIGHLIGHT, 0))
        gain = gain * (1 + skin * (kept / np.maximum(ratio, 1e-6) - 1))
    gain = gain**strength
    if skin.sum() > 0:
        before = luminance(colour)
        gain = gain * (skin * before).sum() / max((skin * before * gain).sum(), 1e-9)
    return gain ** (1 / GAMMA)


def luminance(colour: FloatArray) -> FloatArray:
    """(n,) linear luminance of sRGB (n, 3) in [0, 1]."""
    return np.clip(colour, 0, 1) ** GAMMA @ LUMINANCE


def _weighted_median(values: FloatArray, weight: FloatArray) -> float:
    order = np.argsort(values)
    share = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(share, share[-1] / 2)]])
