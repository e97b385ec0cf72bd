"""What training reads of a head: points with signed distance and colour, surface points, and lit views.

Everything is in the head frame, in box units; see `training/README.md` for the arrays of a file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from inference.alignment import MESH_POINTS, Detection, find_landmarks
from inference.camera import FOCAL, Camera, orbit_camera, project, unproject
from inference.face_networks import FaceNetworks, LandmarkTemplate
from inference.resampling import build_pyramid

from ..dataset import HELD_OUT_SEEDS
from .assets import bytes_from_linear, scatter_on_mesh
from .head import GRID, Head
from .lighting import draw_light, shade, sky_visibility
from .raster import rasterise

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

BOX_HALF = 0.35  # the starter model's box, box units
SURFACE_CANDIDATES = 90_000  # points on all surfaces, of which those in sight are kept
SURFACE_POINTS = 24_000
NEAR = ((20_000, 0.006), (11_000, 0.023))  # number of points and their spread about the surface
UNIFORM_POINTS = 11_000
FARTHEST = 0.06  # distances are cut here
PLANE_RANGE = 0.008  # box units within which the tangent plane is nearer the truth than the nearest sample
SIGHT_RAYS = 7  # tries to see the outside from a surface point
VIEW_SIZE, SUPERSAMPLING = 128, 2
VIEWS = 6
ELEVATION_SD_DEG, MOST_ELEVATION_DEG = 8.0, 24.0
HELD_OUT_AZIMUTHS_DEG = (0.0, 30.0, 60.0)  # what evaluation asks for; to either side
BACKDROP = 128  # grey level behind a head where networks look at it
LANDMARK_AZIMUTH_DEG = 20.0  # up to it landmarks are true enough to be lifted onto the surface
STRAY_LANDMARK = 0.05  # box units from the mean face: the ray passed the face, or met hair
NO_LANDMARKS_SCORE = 0.5  # of the landmark network, as photos are refused by


@dataclass(frozen=True)
class SurfaceSample:
    """Points in sight (n, 3); normals (n, 3) of their faces and smooth ones; albedo as sRGB bytes (n, 3).

    materials: (n, 2) bytes, share of hair and of skin in the albedo; clothes and eyes are neither.
    """

    points: FloatArray
    normals: FloatArray
    smooth: FloatArray
    colours: NDArray[np.uint8]
    materials: NDArray[np.uint8]


@dataclass(frozen=True)
class RenderedView:
    """The head under some light, size x size.

    image:     (size, size, 3) straight (not premultiplied) sRGB bytes, black where the matte is 0.
    matte:     (size, size) uint8.
    distance:  (size, size) along each pixel's ray to the head, 0 where it meets nothing; glasses do not count.
    materials: (size, size, 2) bytes, share of hair and of skin.
    gain:      (3,) linear light: what light and camera make of the albedo in the mean over the picture.
    fine:      (2 size, 2 size, 3) the picture before it was shrunk, sRGB bytes over grey.
    """

    image: NDArray[np.uint8]
    matte: NDArray[np.uint8]
    distance: FloatArray
    materials: NDArray[np.uint8]
    gain: FloatArray
    fine: NDArray[np.uint8]


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
    albedo = bytes_from_linear(head.albedo(face, weights, points))
    return SurfaceSample(points, normals, smooth, albedo, _bytes(head.materials(face, weights, points)))


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


def _view_directions(seed: int, rng: np.random.Generator) -> FloatArray:
    """(VIEWS, 2) azimuth and elevation in degrees of views that show a face; fixed azimuths on held-out heads."""
    azimuths = [rng.uniform(-15, 15), *rng.uniform(-45, 45, 3), *rng.uniform(-75, 75, VIEWS - 4)]
    elevations = np.clip(rng.normal(0, ELEVATION_SD_DEG, VIEWS), -MOST_ELEVATION_DEG, MOST_ELEVATION_DEG)
    if seed < HELD_OUT_SEEDS:
        azimuths[: len(HELD_OUT_AZIMUTHS_DEG)] = np.array(HELD_OUT_AZIMUTHS_DEG) * rng.choice([-1, 1])
        elevations[: len(HELD_OUT_AZIMUTHS_DEG)] *= 0.5
    return np.stack([azimuths, elevations], 1).astype(np.float32)


def render_view(
    head: Head,
    visibility: FloatArray,
    azimuth_deg: float,
    elevation_deg: float,
    rng: np.random.Generator,
    size: int = VIEW_SIZE,
) -> RenderedView:
    """The head under some light, with its glasses if it has any."""
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
    radiance = np.clip(radiance, 0, 1.2)  # as sensors do: before averaging, so that glints stay small
    shown = np.abs(points).max(1) < BOX_HALF
    gain = radiance[shown].mean(0) / albedo[shown].mean(0)
    linear = np.zeros((fine, fine, 3), np.float32)
    linear[covered] = radiance
    opacity = covered.astype(np.float32)
    materials = np.zeros((fine, fine, 2), np.float32)
    materials[covered] = head.materials(face, weights, points)
    if head.overlay is not None:
        layer = rasterise(head.overlay.vertices, head.overlay.faces, camera, fine)
        before = (layer.face >= 0) & (~covered | (layer.depth < fragments.depth))
        corners = head.overlay.faces[layer.face[before]]
        weights = layer.weights[before]
        share = (head.overlay.opacity[corners] * weights).sum(1)[:, None]
        colour = (head.overlay.colours[corners] * weights[..., None]).sum(1) * gain
        linear[before] = linear[before] * (1 - share) + colour * share
        opacity[before] = np.maximum(opacity[before], share[:, 0])
        materials[before] *= 1 - share

    def shrink(values: FloatArray) -> FloatArray:
        return values.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, -1).mean((1, 3))

    matte = shrink(opacity)
    image = bytes_from_linear(shrink(linear) / np.maximum(matte, 1e-3))
    image[matte[..., 0] == 0] = 0
    over_grey = np.where(opacity[..., None] > 0.5, bytes_from_linear(linear), np.uint8(BACKDROP))

    centres = (np.arange(fine) + 0.5) / fine - 0.5
    ray_per_depth = np.sqrt(1 + (centres[:, None] ** 2 + centres[None, :] ** 2) / FOCAL**2)
    distance = np.where(covered, fragments.depth * ray_per_depth, np.inf)
    distance = distance.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).min((1, 3))  # a mean would bridge outlines
    return RenderedView(
        image,
        (matte[..., 0] * 255 + 0.5).astype(np.uint8),
        np.where(np.isfinite(distance), distance, 0),
        _bytes(shrink(materials)),
        gain.astype(np.float32),
        over_grey,
    )


def _bytes(shares: FloatArray) -> NDArray[np.uint8]:
    return (np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)


_LAMP_PATTERN = np.array([[0.6, 0.6, -0.3], [-0.6, 0.5, 0.4], [0.5, -0.6, 0.5], [-0.6, -0.5, -0.4]], np.float32)


def find_view_landmarks(view: RenderedView, camera: Camera, face: FaceNetworks) -> FloatArray:
    """(468, 3) what the landmark network sees in a view, in picture sides as `AlignedPortrait.landmarks` over 512.

    It looks where the mean face lies. NaN where it is not sure to see a face.
    """
    side = len(view.fine)
    mean_face = project(face.template.points_head, camera)[0] * side
    low, high = mean_face.min(0), mean_face.max(0)
    keypoints = np.tile((low + high) / 2, (6, 1))
    keypoints[1, 0] += 1.0  # upright: training views have no roll
    where = Detection(1.0, np.concatenate([low, high]), keypoints)
    found = find_landmarks(build_pyramid(view.fine), where, face)
    if found.score < NO_LANDMARKS_SCORE:
        return np.full((MESH_POINTS, 3), np.nan, np.float32)
    return (found.points[:MESH_POINTS] / side).astype(np.float32)


def lift_landmarks(landmarks: FloatArray, view: RenderedView, camera: Camera, template: LandmarkTemplate) -> FloatArray:
    """(468, 3) landmarks on the head's surface, head frame; NaN where the ray meets something else than the face."""
    size = len(view.distance)
    index = np.clip((landmarks[:, :2] * size).astype(int), 0, size - 1)
    distance = view.distance[index[:, 1], index[:, 0]]
    ray = np.concatenate([(landmarks[:, :2] - 0.5) / FOCAL, np.ones((len(landmarks), 1))], 1)
    points = unproject(landmarks[:, :2], distance / np.linalg.norm(ray, axis=1), camera)
    stray = np.linalg.norm(points - template.points_head, axis=1) > STRAY_LANDMARK
    return np.where(stray[:, None] | (distance <= 0)[:, None], np.nan, points)


def _landmarks(views: list[RenderedView], directions: FloatArray, face: FaceNetworks) -> tuple[FloatArray, FloatArray]:
    """(views, 468, 3) landmarks in the views, and (468, 3) on the surface as the most frontal view shows them."""
    cameras = [orbit_camera(float(a), float(e)) for a, e in directions]
    seen = np.stack([find_view_landmarks(view, camera, face) for view, camera in zip(views, cameras, strict=True)])
    turned = np.where(np.isnan(seen[:, 0, 0]), np.inf, np.abs(directions).max(1))
    front = int(turned.argmin())
    if turned[front] > LANDMARK_AZIMUTH_DEG:
        return seen, np.full((MESH_POINTS, 3), np.nan)
    return seen, lift_landmarks(seen[front], views[front], cameras[front], face.template)


def sample_head(head: Head, seed: int, rng: np.random.Generator, face: FaceNetworks) -> tuple[dict[str, NDArray], str]:
    """All arrays of a head's file, and why it is unfit for training ('' if it is fit)."""
    surface = sample_surface(head, rng)
    middles = rng.choice(len(surface.points), sum(count for count, _ in NEAR))
    spread = np.concatenate([np.full(count, sd) for count, sd in NEAR])[:, None]
    near = np.clip(surface.points[middles] + rng.normal(size=(len(middles), 3)) * spread, -BOX_HALF, BOX_HALF)
    uniform = rng.uniform(-BOX_HALF, BOX_HALF, (UNIFORM_POINTS, 3))
    # Distances are of the points as stored.
    points = np.concatenate([near, uniform]).astype(np.float16).astype(np.float32)
    distance, nearest, agreement = signed_distances(head, surface, points)
    n = len(near)
    fault = audit(points[n:], distance[n:] < 0, agreement)
    if fault:
        return {}, fault
    colour, materials = surface.colours[nearest], surface.materials[nearest]
    kept = rng.choice(len(surface.points), SURFACE_POINTS, replace=False)

    visibility = sky_visibility(head, rng)
    directions = _view_directions(seed, rng)
    views = [render_view(head, visibility, float(a), float(e), rng) for a, e in directions]
    landmarks, landmarks_head = _landmarks(views, directions, face)
    meta = describe(head, seed) | {"side_agreement": round(agreement, 4)}
    arrays = {
        "near_points": points[:n].astype(np.float16),
        "near_distance": distance[:n].astype(np.float16),
        "near_colour": colour[:n],
        "near_materials": materials[:n],
        "uniform_points": points[n:].astype(np.float16),
        "uniform_distance": distance[n:].astype(np.float16),
        "uniform_colour": colour[n:],
        "uniform_materials": materials[n:],
        "surface_points": surface.points[kept].astype(np.float16),
        "surface_normals": np.rint(surface.smooth[kept] * 127).astype(np.int8),
        "surface_colour": surface.colours[kept],
        "surface_materials": surface.materials[kept],
        "images": np.stack([view.image for view in views]),
        "mattes": np.stack([view.matte for view in views]),
        "depths": np.stack([view.distance for view in views]).astype(np.float16),
        "view_materials": np.stack([view.materials for view in views]),
        "gains": np.stack([view.gain for view in views]),
        "landmarks": landmarks.astype(np.float16),
        "landmarks_head": landmarks_head.astype(np.float16),
        "cameras": np.stack([orbit_camera(float(a), float(e)).vector for a, e in directions]),
        "azimuth_elevation": directions,
        "meta": np.array(json.dumps(meta)),
    }
    return arrays, ""


def describe(head: Head, seed: int) -> dict[str, Any]:
    """What is known of a head, for its file and for measuring by groups; plain values."""
    person, look = head.person, head.look
    return {
        "seed": seed,
        **asdict(look),
        "origin": [round(float(weight), 3) for weight in person.origin],
        "age": round(person.age, 3),
        "gender": round(person.gender, 3),
        "expression": {name: round(value, 3) for name, value in person.expression.items()},
    }


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
