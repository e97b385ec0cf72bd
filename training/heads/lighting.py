"""Light on a head: soft surroundings as spherical harmonics, and sometimes a hard lamp with cast shadows.

Soft shadows come from precomputed visibility: for each vertex, which part of the sky its hemisphere sees, projected on
nine harmonics (Sloan, Kautz and Snyder, 2002), so that relighting a head is one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .head import Head
from .subdivision import neighbour_mean

FloatArray = NDArray[np.floating]

SKY_SAMPLES = 512
HEMISPHERE_RAYS = 20
OFF_SURFACE = 0.004  # box units rays start above their vertex
HARD_LIGHT_SHARE = 0.35  # of views
LAMP_SPREAD = 0.05  # radians: half the apparent size of the lamp, for softened shadow edges
LEAST_LIGHT = 0.02  # harmonics ring below zero
# Strength and exponent of highlights by part (skin, eye, hair).
GLOSS = np.array([0.035, 0.4, 0.04], np.float32)
SHARPNESS = np.array([18.0, 120.0, 14.0], np.float32)


@dataclass(frozen=True)
class Light:
    """harmonics (9, 3) of the surroundings' radiance; towards (3,) the main light; lamp (3,) its hard part, may be 0.

    A white diffuse surface in the open gets about 1 in the mean over all directions.
    """

    harmonics: FloatArray
    towards: FloatArray
    lamp: FloatArray
    gloss: float


def spherical_harmonics(directions: FloatArray) -> FloatArray:
    """(..., 9) real harmonics up to degree 2 of unit directions (..., 3)."""
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    return np.stack(
        [
            np.full_like(x, 0.282095),
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        -1,
    ).astype(np.float32)


def _sphere(count: int) -> FloatArray:
    """(count, 3) directions spread evenly (Fibonacci)."""
    i = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    return np.stack([np.cos(turn) * np.sin(polar), np.cos(polar), np.sin(turn) * np.sin(polar)], 1).astype(np.float32)


def draw_light(rng: np.random.Generator) -> Light:
    """Room or sky, a key from the front half, a fill from anywhere, each with its colour temperature."""
    sky = _sphere(SKY_SAMPLES)

    def warmth(sd: float) -> FloatArray:
        return np.exp(rng.normal(0, sd) * np.array([1, 0.1, -1]))

    def unit(vector: FloatArray) -> FloatArray:
        return vector / np.linalg.norm(vector)

    towards = unit(np.array([rng.normal(0, 0.8), rng.uniform(0.0, 0.9), rng.uniform(0.2, 1)]))
    fill = unit(rng.normal(size=3))
    radiance = rng.uniform(0.25, 0.6) * warmth(0.05) * np.ones((SKY_SAMPLES, 1))
    radiance = radiance + np.outer((0.5 + 0.5 * sky[:, 1]) ** 2, rng.uniform(0.2, 0.7) * warmth(0.06))
    radiance = radiance + np.outer(np.exp(4 * (sky @ towards - 1)), rng.uniform(0.4, 2.2) * warmth(0.08))
    radiance = radiance + np.outer(np.exp(5 * (sky @ fill - 1)), rng.uniform(0, 0.7) * warmth(0.12))
    exposure = np.exp(rng.normal(0, 0.14)) * warmth(0.06)  # the camera's, white balance included
    radiance = radiance / radiance.mean() * exposure
    lamp = np.zeros(3)
    if rng.random() < HARD_LIGHT_SHARE:
        strength = rng.uniform(0.5, 1.6)
        lamp = strength * exposure * warmth(0.08)
        radiance = radiance * (1 - 0.3 * min(strength, 1.2))
    harmonics = (spherical_harmonics(sky)[:, :, None] * radiance[:, None, :]).mean(0) * 4 * np.pi
    return Light(harmonics.astype(np.float32), towards.astype(np.float32), lamp.astype(np.float32), rng.uniform(0, 2))


def sky_visibility(head: Head, rng: np.random.Generator) -> FloatArray:
    """(v, 9) harmonics of the cosine-weighted sky each vertex sees; only what pictures can show is computed."""
    shown = np.flatnonzero((head.vertices[:, 1] > -0.45) & (np.abs(head.vertices[:, 0]) < 0.5))
    position, normal = head.vertices[shown], head.normals[shown]
    helper = np.where(np.abs(normal[:, :1]) > 0.9, [[0, 1, 0]], [[1, 0, 0]])
    tangent = np.cross(helper, normal)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    bitangent = np.cross(normal, tangent)
    origins = position + normal * OFF_SURFACE
    start = rng.random(len(shown)) * 2 * np.pi  # turns the pattern per vertex: noise instead of bands
    total = np.zeros((len(shown), 9), np.float32)
    for ray in range(HEMISPHERE_RAYS):
        radius = np.sqrt((ray + 0.5) / HEMISPHERE_RAYS)
        turn = np.pi * (1 + 5**0.5) * (ray + 0.5) + start
        direction = (
            tangent * (radius * np.cos(turn))[:, None]
            + bitangent * (radius * np.sin(turn))[:, None]
            + normal * np.sqrt(1 - radius**2)
        ).astype(np.float32)
        total += spherical_harmonics(direction) * head.scene.escapes(origins, direction)[:, None]
    visibility = np.zeros((len(head.vertices), 9), np.float32)
    visibility[shown] = total / HEMISPHERE_RAYS
    mean = neighbour_mean(head.faces, len(head.vertices)).astype(np.float32)
    for _ in range(2):
        visibility = 0.5 * visibility + 0.5 * (mean @ visibility)
    return visibility


def shade(
    head: Head,
    light: Light,
    visibility: FloatArray,
    face_part: NDArray[np.integer],
    albedo: FloatArray,
    normals: FloatArray,
    points: FloatArray,
    towards_camera: FloatArray,
    jitter: FloatArray,
) -> FloatArray:
    """(n, 3) linear light leaving points (n, 3) for the camera.

    visibility (n, 9), albedo (n, 3), unit normals (n, 3); towards_camera (3,);
    jitter (n, 3): directions inside the unit ball that soften the lamp's shadow.
    """
    received = np.maximum(visibility @ light.harmonics, LEAST_LIGHT)
    if light.lamp.any():
        facing = np.clip(normals @ light.towards, 0, 1)
        lit = np.flatnonzero(facing > 0)
        lamp_direction = light.towards + LAMP_SPREAD * jitter[lit]
        free = head.scene.escapes(points[lit] + normals[lit] * OFF_SURFACE, lamp_direction)
        received[lit] += (facing[lit] * free)[:, None] * light.lamp
    half = towards_camera + light.towards
    half = half / (np.linalg.norm(half) + 1e-9)
    open_sky = np.clip(visibility[:, 0] / 0.282095, 0, 1) ** 2
    gloss = GLOSS * np.array([light.gloss, 1, 1], np.float32)
    highlight = gloss[face_part] * open_sky * np.clip(normals @ half, 0, 1) ** SHARPNESS[face_part]
    return albedo * received + highlight[:, None]
