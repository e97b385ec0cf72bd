"""Hair: cards or grown strands as coloured points, made into one solid with a smooth surface.

Points lie in the head frame (box units); colours are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from .assets import ALPHA_CUT, IntArray, linear_from_srgb, sample_texture, scatter_on_mesh
from .body import HeadFrame
from .people import Person
from .rays import VoxelGrid
from .rig import Rig, ramp

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

COLOURS = {
    "black": (0.025, 0.021, 0.020),
    "dark_brown": (0.060, 0.040, 0.030),
    "brown": (0.130, 0.080, 0.050),
    "light_brown": (0.250, 0.160, 0.095),
    "blond": (0.500, 0.370, 0.200),
    "light_blond": (0.680, 0.560, 0.380),
    "red": (0.360, 0.130, 0.050),
    "grey": (0.380, 0.370, 0.360),
    "white": (0.720, 0.710, 0.690),
}
NATURAL = ("black", "dark_brown", "brown", "light_brown", "blond", "light_blond", "red")
NATURAL_SHARE_CAUCASIAN = (0.14, 0.20, 0.20, 0.16, 0.14, 0.08, 0.08)
NATURAL_SHARE_OTHERS = (0.64, 0.20, 0.08, 0.03, 0.02, 0.01, 0.02)  # dyed hair is not rare

# Relative numbers of men and women with each style. `strands_*` are grown, names with digits are MakeHuman's cards.
# Knots and tails show nothing from the front: more than 3 % of them and the model grows one on everybody.
STYLES = {
    "bald": (6, 0.5),
    "buzz": (11, 1),
    "strands_crop": (16, 2),
    "strands_short": (15, 5),
    "strands_side": (13, 6),
    "strands_receding": (7, 0),
    "short01": (5, 1),
    "short02": (5, 2.5),
    "short03": (5, 3),
    "short04": (5, 3),
    "strands_curly_short": (5, 3),
    "afro01": (1.5, 3),
    "strands_curly_long": (0.8, 9),
    "strands_long": (2.5, 25),
    "long01": (1, 8),
    "bob01": (0.2, 9),
    "bob02": (0.2, 8),
    "strands_bob": (0.5, 8),
    "ponytail01": (0.2, 1.6),
    "braid01": (0, 0.6),
    "strands_bun": (0.4, 1.8),
}
LONG_CARDS = ("long01", "bob01", "bob02", "ponytail01", "braid01")

STRANDS = 14_000
STEPS = 12  # along a strand
POINT_SPACING = 0.008  # box units between points of a strand, about; voxels are a little finer
CLUMPS = 1_200
STRAY_COUNT = 0.2  # points per voxel, blurred, that make a hair voxel
SMALLEST_LOCK = 150  # voxels; less floats in the air
SURFACE_LEVEL = 0.42  # of the blurred solid; below half keeps thin locks
GAP_CLOSED = 5  # voxels between hair and head that are filled


@dataclass(frozen=True)
class HairPoints:
    """points (n, 3) and their colours (n, 3)."""

    points: FloatArray
    colours: FloatArray


@dataclass(frozen=True)
class HairSolid:
    """Closed surface of the hair: vertices (v, 3), faces (f, 3), voxels, and the points for colour look-up."""

    vertices: FloatArray
    faces: IntArray
    voxels: BoolArray
    colours: FloatArray
    vertex_colours: FloatArray
    tree: cKDTree


@dataclass(frozen=True)
class Growth:
    """How strands of a style grow. Lengths in box units.

    length; lift: how far roots stand up; comb: direction all hair is combed in, None to fall to the sides;
    thickness: of the layer; curl: radius of curls.
    """

    length: float
    lift: float
    thickness: float
    comb: FloatArray | None = None
    curl: float = 0.0


def noise(points: FloatArray, frequency: float, octaves: int, rng: np.random.Generator) -> FloatArray:
    """(n,) smooth noise of about unit size: a sum of sine waves in random directions."""
    total = np.zeros(len(points), np.float32)
    for octave in range(octaves):
        for _ in range(4):
            direction = rng.normal(size=3)
            wave = direction / np.linalg.norm(direction) * frequency * 2**octave * 2 * np.pi
            total += np.sin(points @ wave.astype(np.float32) + rng.random() * 2 * np.pi) / 2**octave
    return total / (4 * 1.4)


def draw_style(person: Person, rng: np.random.Generator) -> str:
    """A hair style: old men are bald or receding more often."""
    shares = np.array([share[0 if person.is_male else 1] for share in STYLES.values()], float)
    if person.is_male and person.age > 0.7:
        for style, extra in (("bald", 8), ("buzz", 4), ("strands_receding", 12)):
            shares[list(STYLES).index(style)] += extra
    return str(rng.choice(list(STYLES), p=shares / shares.sum()))


def draw_colour(person: Person, rng: np.random.Generator) -> tuple[str, FloatArray]:
    """Name and linear RGB; greying with age."""
    share = NATURAL_SHARE_CAUCASIAN if person.origin[2] > 0.4 else NATURAL_SHARE_OTHERS
    name = str(rng.choice(NATURAL, p=share))
    tint = np.exp(rng.normal(0, 0.18) + 0.06 * rng.normal() * np.array([1, 0, -1]))
    colour = np.array(COLOURS[name]) * tint
    greyness = float(np.clip(ramp(0.68, 0.98, np.array(person.age)) * rng.uniform(0.2, 1.1), 0, 1))
    if rng.random() < 0.03:
        greyness = max(greyness, 0.8)  # young and grey, or bleached
    grey = np.array(COLOURS[str(rng.choice(["grey", "white"]))])
    return (name if greyness < 0.5 else "grey"), colour * (1 - greyness) + grey * greyness


def card_hair(
    rig: Rig, style: str, base_vertices: FloatArray, frame: HeadFrame, colour: FloatArray, rng: np.random.Generator
) -> HairPoints:
    """MakeHuman's cards, with random volume, length, side and waves."""
    proxy, texture = rig.hair_cards[style]
    points, face, weights = scatter_on_mesh(frame(proxy.fit(base_vertices)), proxy.mesh.faces, 300_000, rng)
    texels = sample_texture(texture, (proxy.mesh.uv[proxy.mesh.uv_faces[face]] * weights[..., None]).sum(1))
    opaque = texels[:, 3] > ALPHA_CUT
    points, brightness = points[opaque], linear_from_srgb(texels[opaque, :3]).mean(1)
    brightness = np.clip(brightness / np.median(brightness), 0.4, 2) ** 0.6
    volume = rng.uniform(-0.03, 0.07)
    points = points + points * volume * ramp(-0.3, 0, points[:, 1:2])
    if style in LONG_CARDS:
        shoulder = -0.1  # below here hair hangs freely
        stretched = shoulder + (points[:, 1] - shoulder) * rng.uniform(0.7, 1.15)
        points[:, 1] = np.where(points[:, 1] < shoulder, stretched, points[:, 1])
    if rng.random() < 0.5:
        points[:, 0] *= -1  # parted on the other side
    wave, frequency = rng.uniform(0, 0.012), rng.uniform(3, 8)
    for axis in range(3):
        points[:, axis] += wave * noise(points, frequency, 2, rng)
    return HairPoints(points.astype(np.float32), (colour * brightness[:, None]).astype(np.float32))


def _draw_growth(style: str, rng: np.random.Generator) -> Growth:
    if style == "strands_crop":
        comb = np.array([rng.normal(0, 0.3), -0.2, 0.3])
        return Growth(rng.uniform(0.02, 0.045), 1.6, rng.uniform(0.008, 0.018), comb)
    if style in ("strands_short", "strands_receding"):
        comb = np.array([rng.normal(0, 0.6), -0.35, rng.choice([0.5, -1.2])])
        return Growth(rng.uniform(0.04, 0.08), 0.9, rng.uniform(0.014, 0.03), comb)
    if style == "strands_side":
        comb = np.array([rng.choice([-1, 1]) * 1.3, -0.25, rng.uniform(-0.6, 0)])
        return Growth(rng.uniform(0.07, 0.12), 0.8, rng.uniform(0.018, 0.04), comb)
    if style == "strands_curly_short":
        return Growth(rng.uniform(0.06, 0.12), 1.3, rng.uniform(0.02, 0.05), None, rng.uniform(0.012, 0.025))
    if style == "strands_curly_long":
        return Growth(rng.uniform(0.16, 0.36), 1.2, rng.uniform(0.03, 0.07), None, rng.uniform(0.02, 0.035))
    if style == "strands_bun":
        return Growth(0.26, 0.0, 0.014)
    if style == "strands_bob":
        return Growth(rng.uniform(0.20, 0.32), 0.4, rng.uniform(0.012, 0.032))
    return Growth(rng.uniform(0.34, 0.66), 0.35, rng.uniform(0.008, 0.027))


def strand_hair(
    rig: Rig,
    style: str,
    skin: FloatArray,
    normals: FloatArray,
    colour: FloatArray,
    rng: np.random.Generator,
) -> HairPoints:
    """Strands grown from the scalp in STEPS steps, combed or falling, never into the skin.

    skin, normals: (v, 3) the bust's vertices in the head frame and their unit normals.
    """
    growth = _draw_growth(style, rng)
    density = rig.hairline[rig.faces].mean(1)
    middles = skin[rig.faces].mean(1)
    if style == "strands_receding":
        density = density * (1 - ramp(0.13, 0.17, middles[:, 2] + rng.uniform(0, 0.16)) * (middles[:, 1] > 0.02))
    growing = np.flatnonzero(density > 0.3)
    roots, chosen, weights = scatter_on_mesh(skin, rig.faces[growing], STRANDS, rng)
    root_normals = _unit((normals[rig.faces[growing[chosen]]] * weights[..., None]).sum(1))
    # Thin at the hairline: full height there would look like the rim of a helmet.
    rise = (rig.above_hairline[rig.faces[growing[chosen]]] * weights).sum(1)[:, None]
    body = 0.2 + 0.8 * ramp(0, 0.07, rise)
    fringe_fade = np.clip((density[growing[chosen]] - 0.3) / 0.5, 0.15, 1)[:, None]  # shorter at the hairline

    clump = cKDTree(roots[:CLUMPS]).query(roots)[1]
    shade = (np.exp(rng.normal(0, 0.12, STRANDS)) * np.exp(rng.normal(0, 0.07, CLUMPS))[clump])[:, None]
    to_clump = roots[clump] - roots
    layer = (0.15 + 0.85 * rng.random(CLUMPS))[clump][:, None]
    phase = rng.random(CLUMPS)[clump] * 2 * np.pi + rng.normal(0, 0.2, STRANDS)
    spread = np.exp(rng.normal(0, 0.08, STRANDS) + rng.normal(0, 0.10, CLUMPS)[clump])[:, None]
    length = growth.length * spread * (0.4 + 0.6 * fringe_fade)
    if growth.comb is not None:
        length = length * (0.3 + 0.7 * ramp(-0.12, 0.06, roots[:, 1:2]))  # a cut: shorter at sides and neck
    parting = rng.choice([-0.06, 0, 0.06])
    has_fringe = rng.random() < 0.3
    bun = np.array([0, rng.uniform(0, 0.2), 0])
    bun[2] = -0.25 + 0.12 * (bun[1] > 0.1)

    nearest_skin = cKDTree(skin[::2])
    tips, velocity = roots.copy(), root_normals.copy()
    points, colours = [roots + root_normals * 0.006], [colour * shade * 0.8]  # roots hide the scalp
    for step in range(STEPS):
        along = (step + 0.5) / STEPS
        distance, index = nearest_skin.query(tips)
        below, outward = skin[::2][index], normals[::2][index]
        near = (distance < 0.07)[:, None]
        if style == "strands_bun":
            direction = bun - tips
        elif growth.comb is not None:
            on_top = ramp(0, 0.1, tips[:, 1:2])  # below, sideways hair would stand off behind the ear
            direction = growth.comb * np.concatenate([on_top, np.ones_like(on_top), np.ones_like(on_top)], 1)
        else:
            direction = _falling(roots, tips, near, along, parting, has_fringe)
        direction = _unit(direction)
        along_skin = direction - outward * (direction * outward).sum(1, keepdims=True)
        direction = np.where(near, along_skin, direction) + outward * near * body * growth.lift * max(0.0, 0.45 - along)
        velocity = _unit(0.35 * velocity * (step > 0) + 0.65 * _unit(direction))
        previous, tips = tips, tips + velocity * length / STEPS + to_clump * 0.05 * (step < 8)
        if growth.curl:
            turn = np.stack(
                [np.sin(phase + 1.5 * step), np.cos(1.7 * phase + 1.2 * step), np.sin(2.3 * phase + step)], 1
            )
            tips = tips + 0.5 * growth.curl * (length / growth.length) * turn
        height = ((tips - below) * outward).sum(1, keepdims=True)
        wanted = 0.006 + growth.thickness * layer * min(1.0, 3 * along) * fringe_fade * np.maximum(body, along)
        tips = tips + outward * np.maximum(0, wanted - height) * (distance < 0.12)[:, None]
        if not growth.curl:  # else hair flies off the temples as a brim, combed hair off the back as a horn
            lies_on = near & (tips[:, 1:2] > (-0.02 if growth.comb is None else -1))
            tips = tips - outward * np.maximum(0, height - 1.3 * wanted - 0.004) * 0.8 * lies_on
        tint = colour * shade * (0.8 + 0.3 * along) * (1 + 0.08 * np.sin(0.7 * step + phase))[:, None]
        # At random places along the step: equal ones would add up to ripples.
        for _ in range(int(np.clip(np.ceil(growth.length / STEPS / POINT_SPACING), 1, 5))):
            points.append(previous + (tips - previous) * rng.random((STRANDS, 1)))
            colours.append(tint)
    if style == "strands_bun":
        ball = _unit(rng.normal(size=(16_000, 3)))
        layers = 0.9 + 0.1 * rng.random((16_000, 1))
        points.append(bun + ball * rng.uniform(0.05, 0.075) * np.array([1.1, 0.9, 0.8]) * layers)
        winding = 1 + 0.35 * np.sin(3 * np.arctan2(ball[:, 1:2], ball[:, :1]) + 9 * ball[:, 2:])
        colours.append(colour * winding * np.exp(rng.normal(0, 0.15, (16_000, 1))))
    return HairPoints(np.concatenate(points).astype(np.float32), np.concatenate(colours).astype(np.float32))


def _falling(
    roots: FloatArray, tips: FloatArray, near: BoolArray, along: float, parting: float, has_fringe: bool
) -> FloatArray:
    """Directions of hair that falls from a parting to the sides and back, and keeps off the face."""
    sideways = np.sign(roots[:, :1] - parting) * np.array([[1, 0, 0]]) * 0.9 * (1 - along) * near
    direction = sideways * np.clip((roots[:, 2:] + 0.14) / 0.2, 0.08, 1)
    direction = direction + np.where(near, [[0, -0.75, -0.35]], [[0, -1, 0]])
    if has_fringe:
        in_face = (tips[:, 2] > 0.05) & (tips[:, 1] < 0.02) & (np.abs(tips[:, 0]) < 0.15)
    else:
        in_face = (tips[:, 2] > 0.04) & (tips[:, 1] < 0.12) & (np.abs(tips[:, 0]) < 0.17)
    aside = np.sign(tips[:, :1] + 1e-3) * np.array([[1.5, 0, 0]]) + np.array([[0, 0.5, -1.6]])
    return direction + in_face[:, None] * aside


def keep_face_free(hair: HairPoints, rng: np.random.Generator) -> HairPoints:
    """Drop hair in front of eyes, nose and mouth."""
    half_width, top, eyes = rng.uniform(0.105, 0.13), rng.uniform(0.03, 0.075), -0.09
    x, y, z = hair.points.T
    inside = (x / half_width) ** 2 + ((y - eyes) / (top - eyes)) ** 2 * (y > eyes) < 1
    kept = ~(inside & (z > 0.085) & (y > -0.4))
    return HairPoints(hair.points[kept], hair.colours[kept])


def join(parts: list[HairPoints]) -> HairPoints:
    """All points in one."""
    return HairPoints(np.concatenate([part.points for part in parts]), np.concatenate([part.colours for part in parts]))


def solidify(hair: HairPoints, body: BoolArray, grid: VoxelGrid) -> HairSolid | None:
    """A closed surface around hair points, with no gap to the head; None if there is hardly any hair.

    body: (count, count, count) voxels of the head.
    """
    inside = (np.abs(hair.points) < grid.half * 0.995).all(1)
    points, colours = hair.points[inside], hair.colours[inside]
    voxel = grid.index(points)
    flat = np.ravel_multi_index(tuple(voxel.T), body.shape)
    count = np.bincount(flat, minlength=body.size).reshape(body.shape)
    dense = ndi.gaussian_filter(np.minimum(count, 2).astype(np.float32), 0.9) > STRAY_COUNT
    locks, lock_count = ndi.label(dense)
    sizes = np.bincount(locks.ravel(), minlength=lock_count + 1)
    dense &= sizes[locks] >= SMALLEST_LOCK
    if not dense.any():
        return None
    closed = _close(dense | body, GAP_CLOSED)
    near_hair = ndi.uniform_filter(ndi.uniform_filter(dense.astype(np.float32), 5), 3) > 0.15
    voxels = dense | (closed & ~body & near_hair)
    voxels &= ndi.binary_opening(voxels | body)  # drops and threads thinner than 3 voxels
    smooth = np.pad(ndi.gaussian_filter(voxels.astype(np.float32), 1.0), 1)
    vertices, faces, _, _ = marching_cubes(smooth, SURFACE_LEVEL)
    vertices = (((vertices - 1 + 0.5) / grid.count * 2 - 1) * grid.half).astype(np.float32)
    fine = VoxelGrid(2 * grid.count, grid.half)
    # One point per half voxel, with the mean colour there, is all a picture can show, and makes look-ups quick.
    cells = np.ravel_multi_index(tuple(fine.index(points).T), (fine.count,) * 3)
    _, chosen, cell_of, members = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
    colours = np.stack([np.bincount(cell_of, channel) for channel in colours.T], 1) / members[:, None]
    tree, colours = cKDTree(points[chosen]), colours.astype(np.float32)
    nearest = tree.query(vertices, k=3)[1]
    return HairSolid(vertices, faces[:, ::-1].astype(np.int32), voxels, colours, colours[nearest].mean(1), tree)


def _close(solid: BoolArray, voxels: int) -> BoolArray:
    """Morphological closing with a ball of the given radius: distances are quicker than repeated dilation."""
    padded = np.pad(solid, voxels + 1)
    grown = ndi.distance_transform_edt(~padded) <= voxels
    shrunk = ndi.distance_transform_edt(grown) > voxels
    inner = slice(voxels + 1, -voxels - 1)
    return shrunk[inner, inner, inner] | solid


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)
