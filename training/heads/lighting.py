"""Light on a head: soft surroundings as spherical harmonics, and sometimes a hard lamp with cast shadows.

Soft shadows come from precomputed visibility: for each vertex, which part of the sky its hemisphere sees, projected on
nine harmonics (Sloan, Kautz and Snyder, 2002), so that relighting a head is one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .head import EYE, SKIN, TEETH, Head
from .subdivision import neighbour_mean

FloatArray = NDArray[np.floating]

SKY_SAMPLES = 512
HEMISPHERE_RAYS = 20
OFF_SURFACE = 0.004  # box units rays start above their vertex
LAMP_SPREAD = 0.05  # radians: half the apparent size of the lamp, for softened shadow edges
LEAST_LIGHT = 0.02  # harmonics ring below zero
# Strength and exponent of highlights by part (skin, eye, hair, teeth).
GLOSS = np.array([0.035, 2.5, 0.04, 0.15], np.float32)
SHARPNESS = np.array([18.0, 420.0, 14.0, 60.0], np.float32)
SHEEN = 0.10  # of grazing skin, which is nearer to a mirror (Fresnel)
BLEED = np.array(
    [0.14, 0.035, 0.02], np.float32
)  # how far past the shadow's edge light comes through skin, as a cosine
TEARS_REFLECT = 0.022  # of the surroundings, by the film over the eye
# Cameras expose for the face, but not wholly: the exponent, and the luminance of skin that gets none of it.
AUTO_EXPOSURE, MIDDLE_SKIN = 0.22, 0.2
LID_SHADOW = 0.4  # of the sky, which lashes and lid take from the upper white

ENAMEL_GLOW = 0.35  # of open light on teeth: lips and enamel pass light on, which rays to the sky do not count


@dataclass(frozen=True)
class Setup:
    """How a kind of portrait is lit: its share, and the ranges to draw from.

    Strengths are of radiance before it is brought to a mean of one: from everywhere, from above, the key with the
    exponent of its lobe, the fill. side, height, front: where the key is; lamp: its hard part, and the chance of one.
    """

    share: float
    ambient: tuple[float, float]
    overhead: tuple[float, float]
    key: tuple[float, float]
    sharpness: float
    fill: tuple[float, float]
    side: tuple[float, float]
    height: tuple[float, float]
    front: tuple[float, float]
    lamp_chance: float
    lamp: tuple[float, float]
    key_warmth: float = 0.0
    fill_warmth_sd: float = 0.10


# Of real portraits.
SETUPS = {
    "room": Setup(
        0.22, (0.25, 0.6), (0.2, 0.7), (0.4, 2.2), 4, (0, 0.7), (0, 1.2), (0, 0.9), (0.2, 1), 0.25, (0.4, 1.2)
    ),
    "overcast": Setup(0.14, (0.3, 0.6), (0.6, 1.3), (0, 0.4), 2, (0, 0.2), (0, 1), (0.2, 1), (0, 1), 0, (0, 0), -0.03),
    "window": Setup(
        0.16, (0.12, 0.35), (0.05, 0.25), (1.5, 3.5), 5, (0, 0.4), (0.7, 1.4), (0, 0.5), (0.1, 0.7), 0, (0, 0)
    ),
    "beauty": Setup(
        0.12, (0.3, 0.6), (0.1, 0.3), (1.2, 2.6), 7, (0.1, 0.6), (0, 0.2), (0.1, 0.5), (0.9, 1), 0.5, (0.2, 0.6)
    ),
    "rembrandt": Setup(
        0.10, (0.12, 0.3), (0.05, 0.2), (0.4, 1.2), 6, (0, 0.3), (0.6, 1), (0.5, 0.9), (0.5, 0.9), 1, (0.7, 1.5)
    ),
    "office": Setup(
        0.09, (0.25, 0.5), (1.2, 2.4), (0, 0.5), 4, (0, 0.4), (0, 0.5), (0.8, 1), (0.1, 0.5), 0.15, (0.3, 0.7)
    ),
    "backlit": Setup(
        0.06,
        (0.4, 0.7),
        (0.2, 0.5),
        (0.5, 1.5),
        6,
        (0.2, 0.9),
        (0.5, 1.2),
        (0.1, 0.7),
        (-1, -0.5),
        0.7,
        (0.8, 2.0),
        0.06,
    ),
    "low_sun": Setup(
        0.07, (0.2, 0.4), (0.3, 0.6), (0.3, 0.8), 6, (0, 0.3), (0.3, 1.2), (0.05, 0.35), (0.2, 0.9), 1, (0.8, 1.6), 0.16
    ),
    "coloured": Setup(
        0.04, (0.1, 0.3), (0, 0.2), (0.8, 2), 5, (0.8, 2.0), (0.3, 1.2), (0, 0.3), (0.2, 0.9), 0.2, (0.3, 0.8), 0, 0.3
    ),
}


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
    """One of SETUPS: surroundings, sky, a key and a fill from elsewhere, each with its colour temperature."""
    sky = _sphere(SKY_SAMPLES)
    setups = list(SETUPS.values())
    shares = np.array([setup.share for setup in setups])
    setup = setups[rng.choice(len(setups), p=shares / shares.sum())]

    def warmth(sd: float, mean: float = 0.0) -> FloatArray:
        return np.exp(rng.normal(mean, sd) * np.array([1, 0.1, -1]))

    def unit(vector: FloatArray) -> FloatArray:
        return vector / np.linalg.norm(vector)

    side = rng.choice([-1, 1]) * rng.uniform(*setup.side)
    towards = unit(np.array([side, rng.uniform(*setup.height), rng.uniform(*setup.front)]))
    fill = unit(rng.normal(size=3) - 0.7 * towards)  # rather from the other side
    key_warmth = warmth(0.07, setup.key_warmth)
    radiance = rng.uniform(*setup.ambient) * warmth(0.05) * np.ones((SKY_SAMPLES, 1))
    radiance = radiance + np.outer((0.5 + 0.5 * sky[:, 1]) ** 2, rng.uniform(*setup.overhead) * warmth(0.06))
    radiance = radiance + np.outer(np.exp(setup.sharpness * (sky @ towards - 1)), rng.uniform(*setup.key) * key_warmth)
    radiance = radiance + np.outer(
        np.exp(5 * (sky @ fill - 1)), rng.uniform(*setup.fill) * warmth(setup.fill_warmth_sd)
    )
    exposure = np.exp(rng.normal(0, 0.18)) * warmth(0.05)  # the camera's, white balance included
    radiance = radiance / radiance.mean() * exposure
    lamp = np.zeros(3)
    if rng.random() < setup.lamp_chance:
        strength = rng.uniform(*setup.lamp)
        lamp = strength * exposure * key_warmth
        radiance = radiance * (1 - 0.35 * min(strength, 1.4))
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
    _shade_eyes(head, visibility)
    teeth = np.unique(head.faces[head.part == TEETH])
    visibility[teeth] += ENAMEL_GLOW * (_open_sky(np.array([0.0, 0.0, 1.0])) - visibility[teeth])
    return visibility


def _open_sky(normal: FloatArray) -> FloatArray:
    """(9,) cosine-weighted harmonics of a whole hemisphere about a unit vector (Ramamoorthi and Hanrahan, 2001)."""
    return spherical_harmonics(normal) * np.array([1, *[2 / 3] * 3, *[1 / 4] * 5], np.float32)


def _shade_eyes(head: Head, visibility: FloatArray) -> None:
    """Lashes are no part of the mesh; their shadow and the lid's lie on the upper half of the eye."""
    on_eyes = np.unique(head.faces[head.part == EYE])
    for side in (1, -1):
        ball = on_eyes[head.vertices[on_eyes, 0] * side > 0]
        height = head.vertices[ball, 1]
        middle, radius = (height.max() + height.min()) / 2, np.ptp(height) / 2
        covered = np.clip((height - middle) / (0.4 * radius), 0, 1)
        visibility[ball] *= (1 - LID_SHADOW * covered)[:, None]


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
    on_skin = face_part == SKIN
    if light.lamp.any():
        facing = normals @ light.towards
        reach = np.where(on_skin[:, None], BLEED, 0.0)
        lit = np.flatnonzero(facing > -reach[:, 0])
        lifted = np.maximum(0, 0.02 - facing[lit])[:, None] * normals[lit]  # past the edge the ray would start inwards
        lamp_direction = light.towards + LAMP_SPREAD * jitter[lit] + lifted
        free = head.scene.escapes(points[lit] + normals[lit] * OFF_SURFACE, lamp_direction)
        wrapped = np.clip((facing[lit, None] + reach[lit]) / (1 + reach[lit]), 0, 1)
        received[lit] += wrapped * free[:, None] * light.lamp
    half = towards_camera + light.towards
    half = half / (np.linalg.norm(half) + 1e-9)
    open_sky = np.clip(visibility[:, 0] / 0.282095, 0, 1) ** 2
    gloss = GLOSS * np.array([light.gloss, 1, 1, 1], np.float32)
    highlight = gloss[face_part] * open_sky * np.clip(normals @ half, 0, 1) ** SHARPNESS[face_part]
    grazing = np.clip(1 - normals @ towards_camera, 0, 1)
    highlight = highlight + SHEEN * on_skin * open_sky * grazing**4 * received.mean(1)
    radiance = albedo * received + highlight[:, None]
    wet = np.flatnonzero(face_part == EYE)
    if len(wet):
        reflected = 2 * (normals[wet] @ towards_camera)[:, None] * normals[wet] - towards_camera
        radiance[wet] += TEARS_REFLECT * np.maximum(spherical_harmonics(reflected) @ light.harmonics, 0)
    return radiance * (MIDDLE_SKIN / head.look.skin_luminance) ** AUTO_EXPOSURE
