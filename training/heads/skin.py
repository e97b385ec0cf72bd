"""Skin albedo for a person.

Photographed skins are blended by origin and age and brought to a drawn tone; brows, lips, moles, freckles and
make-up are printed on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .assets import linear_from_srgb, sample_texture
from .people import ORIGINS, Person
from .rig import SKIN_SIZE, Rig

FloatArray = NDArray[np.floating]

LEAST_WEIGHT = 0.08  # skins that would show less are left out
LIGHT_ITA_DEG, DARK_ITA_DEG = 28.0, -10.0  # individual typology angle (Chardon et al. 1991): above light, below dark
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear sRGB
# CIELAB of facial skin along the typology angle, as spectrophotometers find it: lightness and redness; yellowness
# follows from the angle. Dark skins are hardly more saturated than light ones, which photographs of them suggest.
TONE_ITA_DEG = (-62, -50, -30, -10, 10, 28, 41, 62)
TONE_LIGHTNESS = (30.5, 35, 41.5, 47, 53.2, 60, 65.5, 72.5)
TONE_REDNESS = (6, 7.5, 9.5, 11, 11.5, 11, 10.5, 8.5)
REDNESS_SD, YELLOWNESS_SD = 1.3, 1.2  # CIELAB units
LEAST_YELLOWNESS = 7.0  # where the angle passes zero the quotient says nothing
D65 = np.array([0.9505, 1.0, 1.089])
XYZ_FROM_RGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
PALE_LIP, DARK_LIP = np.array([0.0, -0.35, -0.28]), np.array([-0.30, -0.75, -0.6])  # log tint of lips, least and most
BROWNER_LIP = np.array([-0.35, -0.35, -0.28])  # of dark skins, whose photographs show them too pale
MOUTH_RED = np.array([0.10, 0.018, 0.016])
BROW_SHIFT = 2  # texels (1 mm) brows lie higher or lower, at most
MOST_BROW = 0.45  # thickness (log of the exponent on opacity); more fills the sockets
UP_AXIS = 1  # of the texture: MakeHuman's unwrap lays faces on their side
MASCARA_SHARE, EYELINER_SHARE, LIPSTICK_SHARE = 0.55, 0.15, 0.42  # of women


@dataclass(frozen=True)
class SkinLook:
    """Albedo and what goes with it.

    texture (1024, 1024, 3) linear; tone 'light', 'medium' or 'dark'; median luminance of the face's albedo;
    lash strength 0..1 and its exponent on the lid line: the smaller, the wider.
    """

    texture: FloatArray
    ita_deg: float
    tone: str
    luminance: float
    lash_strength: float
    lash_exponent: float


def lab_from_linear(rgb: FloatArray) -> FloatArray:
    """(..., 3) CIELAB (D65) of linear sRGB."""
    ratio = rgb @ XYZ_FROM_RGB.T / D65
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def linear_from_lab(lab: FloatArray) -> FloatArray:
    """Inverse of `lab_from_linear`; not clipped."""
    middle = (lab[..., 0] + 16) / 116
    f = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], -1)
    ratio = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return ratio * D65 @ np.linalg.inv(XYZ_FROM_RGB).T


def typology_angle_deg(rgb: FloatArray) -> float:
    """Individual typology angle of a linear colour (3,): of its lightness over 50 against its yellowness."""
    lightness, _, yellowness = lab_from_linear(rgb)
    return float(np.degrees(np.arctan2(lightness - 50, yellowness)))


def tone_name(ita_deg: float) -> str:
    """'light', 'medium' or 'dark'."""
    return "light" if ita_deg > LIGHT_ITA_DEG else "medium" if ita_deg > DARK_ITA_DEG else "dark"


def _tone_colour(ita_deg: float, rng: np.random.Generator) -> FloatArray:
    """(3,) linear albedo of facial skin with about that typology angle."""
    lightness = float(np.interp(ita_deg, TONE_ITA_DEG, TONE_LIGHTNESS))
    slope = np.tan(np.radians(ita_deg))
    yellowness = (lightness - 50) / slope if abs(ita_deg) > 12 else 17.5
    redness = float(np.interp(ita_deg, TONE_ITA_DEG, TONE_REDNESS)) + rng.normal(0, REDNESS_SD)
    yellowness = max(LEAST_YELLOWNESS, yellowness + rng.normal(0, YELLOWNESS_SD))
    return np.clip(linear_from_lab(np.array([lightness, redness, yellowness])), 0.005, 0.9)


def _age_weights(age: float) -> dict[str, float]:
    weights = {
        "young": max(0.0, 1 - abs(age - 0.5) / 0.22),
        "middleage": max(0.0, 1 - abs(age - 0.72) / 0.2),
        "old": float(np.clip((age - 0.72) / 0.22, 0, 1)),
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def draw_skin(rig: Rig, person: Person, hair_colour: FloatArray, rng: np.random.Generator) -> SkinLook:
    """Albedo of head and neck, and what else depends on the skin."""
    albedo = _blend(rig, person, rng)
    face_uv = rig.uv[rig.cheeks_and_brow]
    median = np.median(sample_texture(albedo, face_uv), axis=0)
    target = _tone_colour(person.tone_deg, rng)
    shift = np.log(target / median).astype(np.float32)
    # Photographs of light skins carry deep pores and blotches, which pigment evens out.
    contrast = np.float32(np.clip(1 - 0.12 * abs(float(LUMINANCE @ shift)), 0.75, 1))
    albedo = np.exp(np.log(np.maximum(albedo / median.astype(np.float32), 0.004)) * contrast) * target.astype(
        np.float32
    )
    _spots(albedo, rig, person, rng)
    _blush(albedo, rig, rng.uniform(0, 0.10) + (0.12 * rng.random() if not person.is_male else 0))
    _lips(albedo, rig, person, rng)
    _print(albedo, rig.mouth_texture, MOUTH_RED)
    measured = np.median(sample_texture(albedo, face_uv), axis=0)
    ita = typology_angle_deg(measured)
    if rng.random() > 0.015:
        brow_colour = _brow_colour(hair_colour, rng)
        _print(albedo, _brow_opacity(rig, person, rng), np.minimum(brow_colour, 0.75 * measured + 0.01))
    strength, exponent = _draw_lashes(person, rng)
    return SkinLook(albedo, ita, tone_name(ita), float(LUMINANCE @ measured), strength, exponent)


def _blend(rig: Rig, person: Person, rng: np.random.Generator) -> FloatArray:
    """(1024, 1024, 3) linear albedo of photographed skins, mixed in log colour."""
    origin = person.origin**2 / (person.origin**2).sum()
    gender = "male" if person.is_male else "female"
    log_albedo = np.zeros((SKIN_SIZE, SKIN_SIZE, 3), np.float32)
    total = 0.0
    for name, origin_weight in zip(ORIGINS, origin, strict=True):
        for age, age_weight in _age_weights(person.age).items():
            weight = origin_weight * age_weight
            if weight < LEAST_WEIGHT:
                continue
            choices = rig.skins[age, name, gender]
            choices = [skin for skin in choices if skin.is_full_resolution] or choices
            pixels = choices[rng.integers(len(choices))].pixels
            log_albedo += np.float32(weight) * _LOG_OF_BYTE[pixels]
            total += weight
    return np.exp(log_albedo / np.float32(total))


def _spots(albedo: FloatArray, rig: Rig, person: Person, rng: np.random.Generator) -> None:
    """Moles on most faces, freckles on some light ones, age spots and blemishes."""
    light = np.clip(person.tone_deg / 40, 0, 1)
    kinds = [(int(rng.poisson(2.5)), (0.5, 1.0), (0.3, 0.9), (-0.5, -0.9, -1.1))]  # moles
    if rng.random() < 0.22 * light:
        kinds.append((int(rng.integers(80, 350)), (0.45, 0.8), (0.25, 0.8), (-0.22, -0.45, -0.6)))  # freckles
    if rng.random() < 0.25 and person.age < 0.7:
        kinds.append((int(rng.integers(3, 25)), (0.7, 1.6), (0.2, 0.7), (0.0, -0.35, -0.25)))  # blemishes
    if person.age > 0.75:
        kinds.append((int(rng.integers(4, 30)), (0.8, 2.5), (0.15, 0.6), (-0.2, -0.4, -0.5)))  # age spots
    for count, (least, most), (faint, strong), tint in kinds:
        where = rig.uv[rng.choice(rig.face_vertices, count)]
        for uv in where:
            _disc(albedo, uv, rng.uniform(least, most), rng.uniform(faint, strong) * np.array(tint))


def _blush(albedo: FloatArray, rig: Rig, strength: float) -> None:
    for uv in rig.uv[list(rig.cheek_middles)]:
        _disc(albedo, uv, 14.0, strength * np.array([0.1, -1.0, -0.8]))
    _disc(albedo, rig.uv[rig.nose_tip], 6.0, 0.8 * strength * np.array([0.1, -1.0, -0.8]))


def _disc(albedo: FloatArray, uv: FloatArray, radius: float, log_tint: FloatArray) -> None:
    """Multiply a soft disc (radius in texels, one standard deviation) into the texture."""
    x, y = uv[0] * SKIN_SIZE - 0.5, (1 - uv[1]) * SKIN_SIZE - 0.5
    reach = int(np.ceil(2.5 * radius))
    left, top = round(float(x)) - reach, round(float(y)) - reach
    rows = np.arange(max(top, 0), min(top + 2 * reach + 1, SKIN_SIZE))
    columns = np.arange(max(left, 0), min(left + 2 * reach + 1, SKIN_SIZE))
    share = np.exp(-0.5 * (((rows - y) / radius) ** 2)[:, None] - 0.5 * ((columns - x) / radius) ** 2)
    window = np.ix_(rows, columns)
    albedo[window] *= np.exp(share[..., None] * log_tint).astype(np.float32)


def _lips(albedo: FloatArray, rig: Rig, person: Person, rng: np.random.Generator) -> None:
    """Lips from pale to dark, and lipstick on some women."""
    rows, columns = np.nonzero(rig.lip_opacity > 0.01)
    share = rig.lip_opacity[rows, columns, None]
    tint = PALE_LIP + (DARK_LIP - PALE_LIP) * rng.beta(1.5, 3) + rng.normal(0, 0.05, 3)
    if person.is_male:
        tint = 0.6 * tint
    tint = tint + BROWNER_LIP * np.clip(0.5 - person.tone_deg / 60, 0, 1)
    albedo[rows, columns] *= np.exp(0.55 * share * tint).astype(np.float32)
    if not person.is_male and rng.random() < LIPSTICK_SHARE:
        red = rng.uniform(0.2, 0.55)
        lipstick = red * np.array([1, rng.uniform(0.12, 0.5), rng.uniform(0.14, 0.5)])
        brightness = np.clip(albedo[rows, columns].mean(1, keepdims=True) / 0.2, 0.35, 1.3)
        opacity = rng.uniform(0.2, 0.75) * share
        albedo[rows, columns] += (opacity * (lipstick * brightness - albedo[rows, columns])).astype(np.float32)


def _brow_colour(hair_colour: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Darker than light hair, nearly as dark hair; greying later than the head."""
    luminance = float(LUMINANCE @ hair_colour)
    darker = rng.uniform(0.25, 0.6) if luminance > 0.12 else rng.uniform(0.5, 0.9)
    return hair_colour * darker + np.array([0.015, 0.010, 0.008])


def _brow_opacity(rig: Rig, person: Person, rng: np.random.Generator) -> FloatArray:
    """(1024, 1024) from thin and faint to bushy, a little higher or lower."""
    brows = list(rig.brows.values())[rng.integers(len(rig.brows))]
    thickness = min(MOST_BROW, rng.normal(0.2 if person.is_male else -0.35, 0.3))
    opacity = np.clip(2.3 * np.maximum(brows, 0), 0, 1) ** np.exp(-thickness)
    if thickness > 0.1:
        opacity = np.maximum(opacity, 0.5 * ndi.maximum_filter1d(opacity, 3, axis=UP_AXIS))
    # The strip the brows lie on moves; the rest of the texture is empty.
    opacity = np.roll(opacity, int(rng.integers(-BROW_SHIFT, BROW_SHIFT + 1)), axis=UP_AXIS)
    return opacity * rng.uniform(0.6, 0.95 if person.is_male else 0.85)


def _draw_lashes(person: Person, rng: np.random.Generator) -> tuple[float, float]:
    if person.is_male:
        return rng.uniform(0.6, 0.8), 0.9
    if rng.random() < EYELINER_SHARE:
        return rng.uniform(0.85, 0.95), 0.45
    return (rng.uniform(0.8, 0.95), 0.6) if rng.random() < MASCARA_SHARE else (rng.uniform(0.65, 0.85), 0.8)


def _print(albedo: FloatArray, opacity: FloatArray, colour: FloatArray) -> None:
    """Lay a colour over the texture, where opacity (s, s) is above nothing."""
    rows, columns = np.nonzero(opacity > 1e-3)
    share = opacity[rows, columns, None].astype(np.float32)
    albedo[rows, columns] = albedo[rows, columns] * (1 - share) + colour.astype(np.float32) * share


_LOG_OF_BYTE = np.log(np.maximum(linear_from_srgb(np.arange(256, dtype=np.float32) / 255), 0.002))
