"""Glasses: thin frames with lenses, fitted to a person's nose, eyes and ears; they are in pictures only.

The model learns to take them off, so they are no part of the solid or of its colours. Head frame, box units (0.5 m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .assets import IntArray
from .rig import Rig

FloatArray = NDArray[np.floating]

GLASSES_SHARE = 0.14  # of heads
SUNGLASSES_SHARE = 0.11  # of glasses
# Half width, half height of a lens; exponent of its superellipse; how far its lower part is pulled in; the wire radius.
# Millimetres are twice the thousandths: .050 is a lens 50 mm wide.
SHAPES: dict[str, tuple[float, float, float, float, float]] = {
    "round": (0.045, 0.043, 2.0, 0.0, 0.0022),
    "rectangular": (0.053, 0.033, 4.5, 0.05, 0.0026),
    "aviator": (0.056, 0.050, 2.6, 0.28, 0.0015),
    "half_rim": (0.053, 0.034, 4.0, 0.06, 0.0022),
    "thick": (0.052, 0.040, 3.2, 0.10, 0.0052),
    "cat_eye": (0.054, 0.038, 2.8, 0.22, 0.0036),
}
SHAPE_SHARES = (0.2, 0.28, 0.12, 0.14, 0.18, 0.08)
OUTLINE_POINTS, TUBE_SIDES, LENS_RINGS = 40, 6, 3
WRAP = 0.9  # depth of the frame's bow, per box unit squared
LENS_CLEARANCE = 0.005  # between the lens and brow, lashes or cheek
CORNEA_TO_LENS = 0.022  # box units, 11 mm: opticians' vertex distance is 10 to 14 mm
TEMPLE_CLEARANCE = 0.004
TEMPLE_STEPS = 8


@dataclass(frozen=True)
class Overlay:
    """What pictures show over the head, without being part of it.

    vertices (v, 3) head frame, faces (f, 3), colours (v, 3) linear RGB, opacity (v,) 0..1. Faces have two sides.
    """

    vertices: FloatArray
    faces: IntArray
    colours: FloatArray
    opacity: FloatArray


def draw_glasses(
    rig: Rig, skin: FloatArray, eyeballs: FloatArray, rng: np.random.Generator
) -> tuple[str, Overlay | None]:
    """The shape's name and the mesh, for about every seventh head; '' and None for the others."""
    if rng.random() > GLASSES_SHARE:
        return "", None
    shape = str(rng.choice(list(SHAPES), p=SHAPE_SHARES))
    is_dark = rng.random() < SUNGLASSES_SHARE
    return f"{'sun_' if is_dark else ''}{shape}", build_glasses(rig, skin, eyeballs, shape, is_dark, rng)


def build_glasses(
    rig: Rig, skin: FloatArray, eyeballs: FloatArray, shape: str, is_dark: bool, rng: np.random.Generator
) -> Overlay:
    """Two lenses before the eyes, a bridge on the nose, temples to the ears. skin (v, 3), eyeballs (n, 3)."""
    half_width, half_height, power, pull, radius = SHAPES[shape]
    size = rng.uniform(0.92, 1.08)
    half_width, half_height, radius = half_width * size, half_height * size, radius * rng.uniform(0.8, 1.25)
    left, right = eyeballs[eyeballs[:, 0] > 0], eyeballs[eyeballs[:, 0] < 0]
    eye_height = (left[:, 1].mean() + right[:, 1].mean()) / 2
    apart = (left[:, 0].mean() - right[:, 0].mean()) / 2
    lens_x = max(apart + rng.uniform(-0.002, 0.005), half_width + 0.013)
    lens_y = eye_height - rng.uniform(0.002, 0.010)
    turn = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    cosine, sine = np.cos(turn), np.sin(turn)
    across = np.sign(cosine) * np.abs(cosine) ** (2 / power) * half_width
    up = np.sign(sine) * np.abs(sine) ** (2 / power) * half_height
    across = across * (1 - pull * np.clip(-up / half_height, 0, 1))
    if shape == "cat_eye":
        up = up + 0.22 * np.clip(across, 0, None) * (up > 0)

    depth = _lens_depth(skin, left, lens_x, lens_y, half_width, half_height)
    bow = depth + WRAP * lens_x**2

    def on_front(x: FloatArray, y: FloatArray) -> FloatArray:
        return np.stack([x, y, bow - WRAP * x**2 + 0.12 * (y - lens_y)], 1)  # lenses lean forwards at the brow

    frame_colour = _frame_colour(shape, rng)
    lens_colour, lens_opacity = _lens_look(is_dark, rng)
    pieces = []
    for side in (1, -1):
        outline = on_front(side * (lens_x + across), lens_y + up)
        if shape == "half_rim":
            upper = np.flatnonzero(sine > -0.25)
            order = upper[np.argsort((turn[upper] + np.pi / 2) % (2 * np.pi))]
            pieces.append(_tube(outline[order], radius, False, frame_colour))
        else:
            pieces.append(_tube(outline, radius, True, frame_colour))
        pieces.append(_lens(outline, lens_colour, lens_opacity))
        hinge = on_front(np.array([side * (lens_x + 0.97 * half_width)]), np.array([lens_y + 0.55 * half_height]))[0]
        pieces.append(_tube(_temple(rig, skin, hinge, side), max(radius, 0.002), False, frame_colour))
    inner = lens_x - half_width * (1 - 0.3 * pull)
    bridge_x = np.linspace(-inner, inner, 9)
    arch = lens_y + half_height * 0.3 + 0.006 * (1 - (bridge_x / inner) ** 2)
    bridge = on_front(bridge_x, arch)
    on_bridge = (np.abs(skin[:, 0]) < 0.012) & (np.abs(skin[:, 1] - lens_y - half_height * 0.3) < 0.008)
    nose = skin[on_bridge & (skin[:, 2] > 0.1), 2].max(initial=-1.0)
    bridge[:, 2] = np.maximum(bridge[:, 2], nose + radius + 0.001)
    pieces.append(_tube(bridge, radius, False, frame_colour))
    if shape == "aviator":
        pieces.append(_tube(bridge + [0, 0.62 * half_height, 0.004], radius, False, frame_colour))
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    return Overlay(
        np.concatenate([piece.vertices for piece in pieces]).astype(np.float32),
        np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=True)]).astype(np.int32),
        np.concatenate([piece.colours for piece in pieces]).astype(np.float32),
        np.concatenate([piece.opacity for piece in pieces]).astype(np.float32),
    )


def _lens_depth(
    skin: FloatArray, eyeball: FloatArray, x: float, y: float, half_width: float, half_height: float
) -> float:
    """How far forwards the middle of a lens must lie to clear cornea, brow, nose flank and cheek."""
    aside, up = (np.abs(skin[:, 0]) - x) / half_width, (skin[:, 1] - y) / half_height
    behind = skin[(aside**2 + up**2 < 0.8) & (skin[:, 2] > 0.08)]
    over_skin = (behind[:, 2] + WRAP * (behind[:, 0] ** 2 - x**2) - 0.12 * (behind[:, 1] - y)).max(initial=-1.0)
    return float(max(eyeball[:, 2].max() + CORNEA_TO_LENS, over_skin + LENS_CLEARANCE))


def _temple(rig: Rig, skin: FloatArray, hinge: FloatArray, side: int) -> FloatArray:
    """(n, 3) from the hinge along the temple over the ear, and down behind it."""
    ear = skin[(rig.ears > 0.5) & (skin[:, 0] * side > 0)]
    top = ear[:, 1].max()
    height = top - 0.012  # where the ear leaves the head, a little below its top
    at_root = ear[np.abs(ear[:, 1] - height) < 0.012]
    depth = at_root[:, 2].mean()
    path = []
    for along in np.linspace(0, 1, TEMPLE_STEPS):
        point = hinge + along * (np.array([hinge[0], height, depth]) - hinge)
        near = (np.abs(skin[:, 1] - point[1]) < 0.012) & (np.abs(skin[:, 2] - point[2]) < 0.015)
        head = near & (skin[:, 0] * side > 0) & (rig.ears < 0.3)
        wall = (skin[head, 0] * side).max(initial=0.0) + TEMPLE_CLEARANCE
        straight = abs(hinge[0]) + 0.004
        point[0] = side * (max(wall, straight) if along < 0.7 else max(wall, min(straight, wall + 0.012)))
        path.append(point)
    return np.array([*path, path[-1] + [-0.004 * side, -0.03, -0.022]])


def _tube(path: FloatArray, radius: float, is_closed: bool, colour: FloatArray) -> Overlay:
    """A round wire along (n, 3) points."""
    if is_closed:
        along = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    else:
        along = np.gradient(path, axis=0)
    along = along / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    helper = np.where(np.abs(along[:, :1]) > 0.8, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    aside = np.cross(along, helper)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True) + 1e-9
    other = np.cross(along, aside)
    turn = np.arange(TUBE_SIDES) * 2 * np.pi / TUBE_SIDES
    ring = aside[:, None] * np.cos(turn)[:, None] + other[:, None] * np.sin(turn)[:, None]
    vertices = (path[:, None] + radius * ring).reshape(-1, 3)
    count = len(path)
    here = np.arange(count if is_closed else count - 1)
    there = (here + 1) % count
    a = here[:, None] * TUBE_SIDES + np.arange(TUBE_SIDES)
    b = here[:, None] * TUBE_SIDES + (np.arange(TUBE_SIDES) + 1) % TUBE_SIDES
    c = there[:, None] * TUBE_SIDES + (np.arange(TUBE_SIDES) + 1) % TUBE_SIDES
    d = there[:, None] * TUBE_SIDES + np.arange(TUBE_SIDES)
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    bright = 0.75 + 0.5 * np.clip(ring[..., 1], 0, 1)  # light comes from above
    return Overlay(vertices, faces, bright.reshape(-1, 1) * colour, np.ones(len(vertices)))


def _lens(outline: FloatArray, colour: FloatArray, opacity: tuple[float, float]) -> Overlay:
    """A disc within the outline (n, 3), seen from both sides; opacity at its bottom and top."""
    middle, count = outline.mean(0), len(outline)
    vertices = np.concatenate(
        [middle + (outline - middle) * share for share in np.linspace(1, 0, LENS_RINGS, endpoint=False)]
        + [middle[None]]
    )
    i = np.arange(count)
    j = (i + 1) % count
    faces = []
    for ring in range(LENS_RINGS - 1):
        a, b = ring * count, (ring + 1) * count
        faces += [np.stack([a + i, a + j, b + j], 1), np.stack([a + i, b + j, b + i], 1)]
    last = (LENS_RINGS - 1) * count
    faces.append(np.stack([last + i, last + j, np.full(count, len(vertices) - 1)], 1))
    one_side = np.concatenate(faces)
    height = (vertices[:, 1] - outline[:, 1].min()) / np.ptp(outline[:, 1])
    share = opacity[0] + (opacity[1] - opacity[0]) * height
    reflected = 0.6 + 0.8 * height[:, None]
    return Overlay(vertices, np.concatenate([one_side, one_side[:, ::-1]]), colour * reflected, share)


def _frame_colour(shape: str, rng: np.random.Generator) -> FloatArray:
    """(3,) metal, black, tortoiseshell or coloured plastic."""
    metals = ((0.55, 0.42, 0.20), (0.45, 0.45, 0.46), (0.06, 0.06, 0.065))
    plastics = ((0.012, 0.012, 0.013), (0.012, 0.012, 0.013), (0.08, 0.035, 0.015), (0.15, 0.08, 0.04))
    if shape == "aviator" or (shape in ("round", "half_rim", "rectangular") and rng.random() < 0.5):
        return np.array(metals[rng.integers(len(metals))])
    if rng.random() < 0.15:
        return rng.uniform(0.02, 0.4, 3)
    return np.array(plastics[rng.integers(len(plastics))])


def _lens_look(is_dark: bool, rng: np.random.Generator) -> tuple[FloatArray, tuple[float, float]]:
    """Colour (3,) and opacity at the bottom and top of a lens: a faint reflection of the sky, or dark glass."""
    if is_dark:
        colour = np.array([0.02, 0.018, 0.016]) * rng.uniform(0.6, 2) * np.exp(rng.normal(0, 0.2, 3))
        return colour, (rng.uniform(0.6, 0.97), 0.97)
    sky = np.array([0.75, 0.85, 1.0]) * rng.uniform(0.5, 1)
    return sky, (rng.uniform(0.01, 0.03), rng.uniform(0.02, 0.10))
