"""What training reads of a head: points with signed distance and colour, surface points, and lit views.

Everything is in the head frame, in box units; see `training/README.md` for the arrays of a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from inference.camera import FOCAL, orbit_camera

from .assets import bytes_from_linear, scatter_on_mesh
from .head import GRID, Head
from .lighting import draw_light, shade, sky_visibility
from .raster import rasterise

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

BOX_HALF = 0.35  # the starter model's box, box units
SURFACE_CANDIDATES = 150_000  # points on all surfaces, of which those in sight are kept
SURFACE_POINTS = 30_000
NEAR = ((28_000, 0.006), (16_000, 0.023))  # number of points and their spread about the surface
UNIFORM_POINTS = 16_000
FARTHEST = 0.06  # distances are cut here
PLANE_RANGE = 0.008  # box units within which the tangent plane is nearer the truth than the nearest sample
SIGHT_RAYS = 7  # tries to see the outside from a surface point
VIEW_SIZE, SUPERSAMPLING = 128, 2
FRONT_VIEWS, OTHER_VIEWS = 6, 2
ELEVATION_SD_DEG, MOST_ELEVATION_DEG = 8.0, 24.0


@dataclass(frozen=True)
class SurfaceSample:
    """Points in sight (n, 3); normals (n, 3) of their faces and smooth ones; albedo as sRGB bytes (n, 3)."""

    points: FloatArray
    normals: FloatArray
    smooth: FloatArray
    colours: NDArray[np.uint8]


def sample_surface(head: Head, rng: np.random.Generator) -> SurfaceSample:
    """Points of the box's part of the surface that somebody outside can see."""
    corners = head.vertices[head.faces]
    in_box = np.flatnonzero((np.abs(corners) < BOX_HALF).all(2).any(1))
    points, chosen, weights = scatter_on_mesh(head.vertices, head.faces[in_box], SURFACE_CANDIDATES, rng)
    face = in_box[chosen]
    inside = (np.abs(points) < BOX_HALF).all(1)
    points, face, weights = points[inside], face[inside], weights[inside]
    corners = head.vertices[head.faces[face]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12

    seen = np.zeros(len(points), bool)
    hidden = np.arange(len(points))
    for _ in range(SIGHT_RAYS):
        direction = rng.normal(size=(len(hidden), 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        direction += normals[hidden] * 1.05  # cosine-weighted about the normal
        free = head.scene.escapes(points[hidden] + normals[hidden] * 7e-4, direction)
        seen[hidden[free]] = True
        hidden = hidden[~free]
    voxel = GRID.index(points + normals * 1.5 * (2 * GRID.half / GRID.count))
    seen &= ~head.pockets[tuple(voxel.T)]
    points, face, weights, normals = points[seen], face[seen], weights[seen], normals[seen]
    smooth = (head.normals[head.faces[face]] * weights[..., None]).sum(1)
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True) + 1e-9
    return SurfaceSample(points, normals, smooth, bytes_from_linear(head.albedo(face, weights, points)))


def signed_distances(head: Head, surface: SurfaceSample, points: FloatArray) -> tuple[FloatArray, IntArray, float]:
    """How far points (n, 3) are from the visible surface.

    Returns: (n,) distance, negative inside, cut at +-FARTHEST; (n,) index of the nearest sample; and the share of
    points at middle distance where the sample's normal and the voxels agree on the side.
    """
    distance, nearest = cKDTree(surface.points).query(points, distance_upper_bound=FARTHEST)
    far = nearest >= len(surface.points)
    nearest = np.minimum(nearest, len(surface.points) - 1)
    distance = np.minimum(distance, FARTHEST)
    height = ((points - surface.points[nearest]) * surface.normals[nearest]).sum(1)
    on_plane = np.maximum(np.abs(height), 0.3 * distance)  # beyond a rim the plane means nothing
    distance = np.where(distance < PLANE_RANGE, np.minimum(distance, on_plane), distance)
    in_solid = head.solid[tuple(GRID.index(points).T)]
    # Voxels are too coarse right at the surface, normals misleading away from it.
    inside = np.where((distance < PLANE_RANGE) & ~far, height < 0, in_solid)
    compared = (distance > 0.003) & (distance < 0.019) & ~far
    agreement = float(((height < 0) == in_solid)[compared].mean()) if compared.any() else 1.0
    if far.any():  # colours of far points matter little, but must not be those of sample 0
        nearest[far] = cKDTree(surface.points[::20]).query(points[far])[1] * 20
    return np.where(inside, -distance, distance), nearest, agreement


def _view_directions(rng: np.random.Generator) -> FloatArray:
    """(views, 2) azimuth and elevation in degrees: portraits first, then any other side."""
    azimuths = [rng.uniform(-15, 15)]
    azimuths += list(rng.uniform(-45, 45, 3))
    azimuths += list(rng.uniform(-75, 75, FRONT_VIEWS - 4))
    azimuths += list(rng.uniform(75, 285, OTHER_VIEWS))
    elevations = np.clip(rng.normal(0, ELEVATION_SD_DEG, len(azimuths)), -MOST_ELEVATION_DEG, MOST_ELEVATION_DEG)
    return np.stack([azimuths, elevations], 1).astype(np.float32)


def render_view(
    head: Head,
    visibility: FloatArray,
    azimuth_deg: float,
    elevation_deg: float,
    rng: np.random.Generator,
    size: int = VIEW_SIZE,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], FloatArray]:
    """The head under some light.

    Returns: (size, size, 3) straight (not premultiplied) sRGB bytes, black where the matte is 0; the matte (size, size)
    uint8; and the distance (size, size) along each pixel's ray, 0 where it meets nothing.
    """
    camera = orbit_camera(azimuth_deg, elevation_deg)
    fine = size * SUPERSAMPLING
    fragments = rasterise(head.vertices, head.faces, camera, fine)
    covered = fragments.face >= 0
    face, weights = fragments.face[covered], fragments.weights[covered]
    corners = head.faces[face]

    def interpolate(per_vertex: FloatArray) -> FloatArray:
        return (per_vertex[corners] * weights[..., None]).sum(1)

    points, normals = interpolate(head.vertices), interpolate(head.normals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    rows, columns = np.nonzero(covered)
    quarter = (rows % 2) * 2 + columns % 2  # each of the four subpixels sees another part of the lamp
    jitter = _LAMP_PATTERN[quarter]
    light = draw_light(rng)
    towards_camera = camera.position / np.linalg.norm(camera.position)
    albedo = head.albedo(face, weights, points)
    radiance = shade(
        head, light, interpolate(visibility), head.part[face], albedo, normals, points, towards_camera, jitter
    )
    linear = np.zeros((fine, fine, 3), np.float32)
    linear[covered] = np.clip(radiance, 0, 1.2)  # as sensors do: before averaging, so that glints stay small

    def shrink(values: FloatArray) -> FloatArray:
        return values.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, -1).mean((1, 3))

    matte = shrink(covered.astype(np.float32))
    image = bytes_from_linear(shrink(linear) / np.maximum(matte, 1e-3))
    image[matte[..., 0] == 0] = 0

    centres = (np.arange(fine) + 0.5) / fine - 0.5
    ray_per_depth = np.sqrt(1 + (centres[:, None] ** 2 + centres[None, :] ** 2) / FOCAL**2)
    distance = np.where(covered, fragments.depth * ray_per_depth, np.inf)
    distance = distance.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).min((1, 3))  # a mean would bridge outlines
    return image, (matte[..., 0] * 255 + 0.5).astype(np.uint8), np.where(np.isfinite(distance), distance, 0)


_LAMP_PATTERN = np.array([[0.6, 0.6, -0.3], [-0.6, 0.5, 0.4], [0.5, -0.6, 0.5], [-0.6, -0.5, -0.4]], np.float32)


def sample_head(head: Head, seed: int, rng: np.random.Generator) -> tuple[dict[str, NDArray], str]:
    """All arrays of a head's file, and why it is unfit for training ('' if it is fit)."""
    surface = sample_surface(head, rng)
    middles = rng.choice(len(surface.points), sum(count for count, _ in NEAR))
    spread = np.concatenate([np.full(count, sd) for count, sd in NEAR])[:, None]
    near = np.clip(surface.points[middles] + rng.normal(size=(len(middles), 3)) * spread, -BOX_HALF, BOX_HALF)
    uniform = rng.uniform(-BOX_HALF, BOX_HALF, (UNIFORM_POINTS, 3))
    # Distances are of the points as stored.
    points = np.concatenate([near, uniform]).astype(np.float16).astype(np.float32)
    distance, nearest, agreement = signed_distances(head, surface, points)
    colour = surface.colours[nearest]
    kept = rng.choice(len(surface.points), SURFACE_POINTS, replace=False)

    visibility = sky_visibility(head, rng)
    directions = _view_directions(rng)
    views = [render_view(head, visibility, float(a), float(e), rng) for a, e in directions]
    person, look = head.person, head.look
    meta = {
        "seed": seed,
        "style": look.style,
        "hair_colour": look.hair_colour,
        "beard": look.beard,
        "iris": look.iris,
        "origin": [round(float(weight), 3) for weight in person.origin],
        "age": round(person.age, 3),
        "gender": round(person.gender, 3),
        "expression": {name: round(value, 3) for name, value in person.expression.items()},
        "side_agreement": round(agreement, 4),
    }
    n = len(near)
    arrays = {
        "near_points": points[:n].astype(np.float16),
        "near_distance": distance[:n].astype(np.float16),
        "near_colour": colour[:n],
        "uniform_points": points[n:].astype(np.float16),
        "uniform_distance": distance[n:].astype(np.float16),
        "uniform_colour": colour[n:],
        "surface_points": surface.points[kept].astype(np.float16),
        "surface_normals": np.rint(surface.smooth[kept] * 127).astype(np.int8),
        "surface_colour": surface.colours[kept],
        "images": np.stack([view[0] for view in views]),
        "mattes": np.stack([view[1] for view in views]),
        "depths": np.stack([view[2] for view in views]).astype(np.float16),
        "cameras": np.stack([orbit_camera(float(a), float(e)).vector for a, e in directions]),
        "azimuth_elevation": directions,
        "meta": np.array(json.dumps(meta)),
    }
    return arrays, audit(points[n:], distance[n:] < 0, agreement)


def audit(points: FloatArray, inside: NDArray[np.bool_], agreement: float) -> str:
    """Why a head is unfit, '' if it is not: full where heads are full, empty where they are empty.

    points: (n, 3) spread evenly over the box; inside (n,).
    """
    x, y, z = points.T
    core = np.linalg.norm(points - [0, 0.0, 0.02], axis=1) < 0.10
    neck = (y < -0.31) & (np.abs(x) < 0.06) & (np.abs(z + 0.05) < 0.05)
    sky = (y > 0.32) | (z > 0.32)
    if inside[core].mean() < 0.98:
        return f"the skull is {inside[core].mean():.0%} full"
    if inside[neck].mean() < 0.85:
        return f"the neck is {inside[neck].mean():.0%} full"
    if inside[sky].mean() > 0.02:
        return f"{inside[sky].mean():.0%} of the air above and before the head is full"
    if agreement < 0.93:
        return f"normals and voxels agree on only {agreement:.1%} of the sides"
    return ""
