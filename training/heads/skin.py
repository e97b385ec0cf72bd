"""Skin albedo for a person: photographed skins blended by origin and age, with brows and lips printed on."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .assets import linear_from_srgb
from .people import ORIGINS, Person
from .rig import SKIN_SIZE, Rig

FloatArray = NDArray[np.floating]

LEAST_WEIGHT = 0.08  # skins that would show less are left out
MELANIN_SD = 0.17  # log units; darkens, blue most
BLOOD_SD = 0.05  # log units; reddens
MELANIN = np.array([0.36, 0.6, 0.9])  # absorption in red, green, blue
BLOOD = np.array([0.0, 0.9, 0.7])
DARK_SKIN = 0.18  # median luminance below which the painted skins are too saturated


def _age_weights(age: float) -> dict[str, float]:
    weights = {
        "young": max(0.0, 1 - abs(age - 0.5) / 0.22),
        "middleage": max(0.0, 1 - abs(age - 0.72) / 0.2),
        "old": float(np.clip((age - 0.72) / 0.22, 0, 1)),
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def skin_texture(rig: Rig, person: Person, hair_colour: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(1024, 1024, 3) linear albedo of head and neck, with brows and, on some women, lipstick."""
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
    shift = -MELANIN * rng.normal(0, MELANIN_SD) - BLOOD * rng.normal(0, BLOOD_SD)
    albedo = np.exp(log_albedo / np.float32(total) + shift.astype(np.float32))
    luminance = albedo @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    darkness = np.clip((DARK_SKIN - float(np.median(luminance))) / 0.14, 0, 1)
    saturation = np.float32(np.clip(1 - 0.25 * darkness, 0.7, 1))
    if saturation < 1:
        albedo = luminance[..., None] * (albedo / luminance[..., None]) ** saturation
    _print(albedo, _brow_opacity(rig, rng), hair_colour * 0.4 + np.array([0.021, 0.014, 0.0105]))
    if not person.is_male and rng.random() < 0.5:
        lipstick = np.array([rng.uniform(0.25, 0.5), rng.uniform(0.05, 0.16), rng.uniform(0.05, 0.16)])
        lips = ndi.zoom(rig.lip_texture[..., 0], SKIN_SIZE / rig.lip_texture.shape[0], order=1)
        _print(albedo, lips * 0.35, lipstick * min(1.0, float(albedo.mean()) / 0.25))
    return albedo


def _brow_opacity(rig: Rig, rng: np.random.Generator) -> FloatArray:
    brows = list(rig.brows.values())[rng.integers(len(rig.brows))]
    return np.clip(brows * 1.25, 0, 1) * rng.uniform(0.75, 1)


def _print(albedo: FloatArray, opacity: FloatArray, colour: FloatArray) -> None:
    """Lay a colour over the texture, where opacity (s, s) is above nothing."""
    rows, columns = np.nonzero(opacity > 1e-3)
    share = opacity[rows, columns, None].astype(np.float32)
    albedo[rows, columns] = albedo[rows, columns] * (1 - share) + colour.astype(np.float32) * share


_LOG_OF_BYTE = np.log(np.maximum(linear_from_srgb(np.arange(256, dtype=np.float32) / 255), 0.002))
