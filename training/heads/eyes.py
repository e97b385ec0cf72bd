"""Eyeballs: where they look, and how wet they are. Points lie in the head frame (box units)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .people import Person
from .rig import Rig

FloatArray = NDArray[np.floating]

CORNEA_COSINE = 0.84  # of the angle the cornea takes up on the ball, 33 degrees
CORNEA_BULGE = 0.5  # how much faster its normals turn than the ball's: radii of 8 and 12 mm
EYE_WHITE = np.array([0.56, 0.53, 0.50], np.float32)  # photographed whites are lit; this is their albedo
BRIGHTEST_IRIS = 0.10  # mean linear albedo, pupil included; some textures glow
# Shares of the irises by the weight of European ancestry; elsewhere brown of all depths.
IRIS_SHARES = {
    "brown": 0.24,
    "brownlight": 0.20,
    "blue": 0.12,
    "lightblue": 0.09,
    "deepblue": 0.08,
    "bluegreen": 0.08,
    "green": 0.09,
    "grey": 0.08,
    "ice": 0.02,
}


def _centres(eyeballs: FloatArray) -> tuple[NDArray[np.bool_], FloatArray, float]:
    """Which vertices are the left ball's; (n, 3) the centre of each vertex's ball; the radius."""
    is_left = eyeballs[:, 0] > 0
    middles = [(eyeballs[side].max(0) + eyeballs[side].min(0)) / 2 for side in (is_left, ~is_left)]
    radius = float(np.ptp(eyeballs[is_left, 0]) / 2)
    return is_left, np.where(is_left[:, None], middles[0], middles[1]), radius


def turned(eyeballs: FloatArray, gaze_deg: tuple[float, float]) -> FloatArray:
    """The eyeballs (n, 3) looking to the subject's left and up by these angles."""
    _, centres, _ = _centres(eyeballs)
    return (centres + (eyeballs - centres) @ _rotation(gaze_deg).T).astype(np.float32)


def _rotation(gaze_deg: tuple[float, float]) -> FloatArray:
    left, up = np.radians(gaze_deg)
    tilt = np.array([[1, 0, 0], [0, np.cos(up), np.sin(up)], [0, -np.sin(up), np.cos(up)]])
    turn = np.array([[np.cos(left), 0, np.sin(left)], [0, 1, 0], [-np.sin(left), 0, np.cos(left)]])
    return turn @ tilt


def wet_normals(eyeballs: FloatArray, gaze_deg: tuple[float, float]) -> FloatArray:
    """(n, 3) unit normals of the film of tears: a ball with the bulge of the cornea, which the mesh lacks."""
    _, centres, _ = _centres(eyeballs)
    outward = eyeballs - centres
    outward = outward / (np.linalg.norm(outward, axis=1, keepdims=True) + 1e-9)
    axis = _rotation(gaze_deg) @ np.array([0, 0, 1])
    along = outward @ axis
    bulge = CORNEA_BULGE * np.clip((along - CORNEA_COSINE) / 0.04, 0, 1)[:, None]
    normals = outward + bulge * (outward - along[:, None] * axis)
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)


def draw_iris(rig: Rig, person: Person, rng: np.random.Generator) -> tuple[str, FloatArray]:
    """Name, and texture (512, 512, 3) in linear RGB."""
    european = person.origin[2]
    if rng.random() < 1.2 * european - 0.35:
        names = [name for name in IRIS_SHARES if name in rig.irises]
        shares = np.array([IRIS_SHARES[name] for name in names])
        name = str(rng.choice(names, p=shares / shares.sum()))
    else:
        name = str(rng.choice(["brown", "brownlight"], p=[0.75, 0.25]))
    brightness = np.exp(rng.normal(-0.1 if person.tone_deg > 0 else -0.35, 0.15))
    texture = rig.irises[name]
    is_iris = rig.is_iris[..., None]
    brightness *= min(1.0, BRIGHTEST_IRIS / float(texture[rig.is_iris].mean()))
    white = EYE_WHITE * np.array([1, 1 - rng.uniform(0, 0.05), 1 - rng.uniform(0, 0.12)], np.float32)
    return name, (texture * np.where(is_iris, np.float32(brightness), white)).astype(np.float32)
