"""The other half of the face: where the photo did not see a place but its mirror point, that point's pixels.

Faces are nearly symmetric, and a photo from the side shows one half of a face far better than any model imagines the
other. What is not symmetric must not be copied: a parting of the hair, a light from one side, a shape that differs. So
only the face is mirrored, less where the two sides differ in shape or, where both are seen, in colour; and the slow
difference of tone between the two sides, where both are seen, is carried over to the mirrored one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from .alignment import AlignedPortrait
from .camera import project
from .face_region import FaceRegion
from .facing import Facing, smoothstep
from .raster import sample_image
from .surface import METRES_PER_UNIT, Mesh

FloatArray = NDArray[np.floating]

FIT_ROUNDS = 10
FIT_POINTS = 4000
FIT_DEVIATION = 0.002 / METRES_PER_UNIT  # box units, 2 mm: pairs further apart hardly turn the plane
FIT_PULL = 0.01  # of the plane to x = 0, where the landmarks have it, against a weight of 1 of the surface
WIDEST = 0.1  # radians, or box units, of the plane from x = 0; beyond, the surface is no face
FACE_NORMAL_Z = 0.1  # normals of what may be face, head frame
SHAPE_MISFIT = (0.004 / METRES_PER_UNIT, 0.012 / METRES_PER_UNIT)  # box units: mirrored fully, and no more
NORMAL_COSINE = (0.6, 0.85)  # of normal and mirrored normal: not at all, and fully
NEAREST = 4  # vertices whose values a mirrored point takes the mean of
WELL_SEEN = (0.35, 0.65)  # visibility of the mirror point between which it may be copied
EYE_SEEN = 0.5  # mean visibility of an eye from which on it keeps its own pixels: half an eye of each would be none
BORDER = (0.35, 0.65)  # visibility between which mirrored pixels give way to the photo's own
WIDEST_TONE = 0.2  # of the range of colours; more is another thing, not another tone
DISAGREEMENT = (0.05, 0.12)  # of the two sides' colours, sRGB, without their tones, between which mirroring ends
SPOT_PX = 13  # of the crop, 1 cm: dark spots in the skin up to this size are not mirrored
SPOT_BLUR = 0.6  # px of the crop, standard deviation: noise is no spot
SPOT_CONTRAST = (1.06, 1.12)  # how much brighter the skin around is: no spot, and surely one
RELIGHT_RANGE = (0.75, 1.33)  # factors of sRGB between the light of the two sides; the fitted light is not known better
INSIDE_FACE = (0.5, 0.97)  # of the soft outline: from it inwards, over 7 px of the crop
SURPRISE = (0.15, 0.3)  # distance from the model's colours, sRGB, between which mirroring ends: beards differ by .15
FEATHER = 0.012  # box units, 6 mm: over which the mirrored part fades in


@dataclass(frozen=True)
class SymmetryPlane:
    """normal @ point = offset.

    normal: (3,) unit, towards the subject's left.
    offset: box units.
    """

    normal: FloatArray
    offset: float

    def reflect(self, points: FloatArray) -> FloatArray:
        """(n, 3) on the other side."""
        return points - 2 * (points @ self.normal - self.offset)[:, None] * self.normal

    def reflect_directions(self, directions: FloatArray) -> FloatArray:
        """(n, 3) turned over."""
        return directions - 2 * (directions @ self.normal)[:, None] * self.normal


LANDMARKS_PLANE = SymmetryPlane(np.array([1.0, 0.0, 0.0]), 0.0)  # the head frame is that of the mean face's landmarks


@dataclass(frozen=True)
class MirrorPoints:
    """What the vertices of a surface find at their mirror points.

    crop_px: (v, 2) where in the crop the mirror point lies.
    source:  (v, NEAREST) vertices around the mirror point.
    share:   (v, NEAREST) their shares in it; each row sums to 1.
    weight:  (v,) from 0 to 1, how far the mirror point's pixels may paint the vertex.
    """

    crop_px: FloatArray
    source: NDArray[np.integer]
    share: FloatArray
    weight: FloatArray

    def at(self, values: FloatArray) -> FloatArray:
        """Values given per vertex (v, ...), read at the mirror points."""
        return np.einsum("vn,vn...->v...", self.share, values[self.source])


@dataclass(frozen=True)
class MirrorPaint:
    """The photo's other half on a surface: photo(crop_px) * spotless(crop_px) * gain + tone, as much as weight says.

    crop_px: (v, 2) pixels of the crop.
    gain:    (v,) what turns the light at the mirror point into that of the vertex.
    spotless: (s, s, 1) of the crop, what takes dark spots out of the photo's pixels.
    tone:    (v, 3) sRGB, the slow difference of the two sides.
    weight:  (v,) from 0 to 1.
    colour:  (v, 3) sRGB of all that, without the photo's detail.
    """

    crop_px: FloatArray
    gain: FloatArray
    spotless: NDArray[np.float32]
    tone: FloatArray
    weight: FloatArray
    colour: FloatArray

    def beside(self, trust: FloatArray) -> FloatArray:
        """(v,) trust in the photo's own pixels, but with a short ramp where mirrored ones take over.

        The two never agree to the pixel, so features would show twice wherever they mix.
        """
        return trust + self.weight * (smoothstep(trust, *BORDER) - trust)


def fit_symmetry_plane(surface: Mesh, normals: FloatArray, chosen: NDArray[np.bool_]) -> SymmetryPlane:
    """The plane in which the chosen vertices (v,) reflect best onto the surface.

    normals: (v, 3) unit.
    Iterative closest points, point to plane, with Cauchy's weights for what has no counterpart.
    """
    points = surface.vertices[chosen]
    step = max(1, len(points) // FIT_POINTS)
    points = points[::step]
    if len(points) < 100:
        return LANDMARKS_PLANE
    tree = cKDTree(surface.vertices)
    turns = np.zeros(2)  # of the normal, towards y and z
    offset = 0.0
    for _ in range(FIT_ROUNDS):
        plane = SymmetryPlane(*_plane_of(turns, offset))
        reflected = plane.reflect(points)
        nearest = tree.query(reflected, workers=torch.get_num_threads())[1]
        towards = normals[nearest]
        apart = np.einsum("ij,ij->i", reflected - surface.vertices[nearest], towards)
        weight = 1 / (1 + (apart / FIT_DEVIATION) ** 2) / len(points)
        # How the distance changes with the plane: by its offset, and by its normal's y and z.
        height = points @ plane.normal - plane.offset
        across = towards @ plane.normal
        slopes = np.stack(
            [
                -2 * (points[:, 1] * across + height * towards[:, 1]),
                -2 * (points[:, 2] * across + height * towards[:, 2]),
                2 * across,
            ],
            axis=1,
        )
        pull = FIT_PULL * np.diag([np.ptp(points[:, 1]) ** 2, np.ptp(points[:, 2]) ** 2, 1.0]) * weight.sum()
        state = np.array([*turns, offset])
        system = slopes.T @ (weight[:, None] * slopes) + pull
        state = state - np.linalg.solve(system, slopes.T @ (weight * apart) + pull @ state)
        state = np.clip(state, -WIDEST, WIDEST)
        turns, offset = state[:2], float(state[2])
    return SymmetryPlane(*_plane_of(turns, offset))


def mirror_paint(
    facing: Facing,
    visibility: FloatArray,
    gain: FloatArray,
    shade: FloatArray,
    soft: NDArray[np.float32],
    photo_colour: FloatArray,
    expected: FloatArray,
    portrait: AlignedPortrait,
    region: FaceRegion,
    spread: Callable[[FloatArray, FloatArray], FloatArray],
) -> MirrorPaint:
    """Paint for the half of the face that the photo did not see.

    visibility:   (v,) of the photo, from 0 to 1.
    gain:         (v,) what evens out the photo's light.
    shade:        (v,) the light that is left after that, as a factor of sRGB.
    soft:         (s, s, 3) sRGB in [0, 1], the crop without its detail.
    photo_colour: (v, 3) sRGB of `soft` at the vertices, times gain.
    expected:     (v, 3) sRGB, what the model has there, in the photo's tone.
    spread:       carries values (v, k), known as far as a weight (v,) says, over the surface, and fades out.
    """
    points = mirror_points(facing, visibility, portrait, region)
    # The other side has its own light, or a shadowed half would darken the lit one.
    mirrored_gain = points.at(gain) * np.clip(shade / points.at(shade), *RELIGHT_RANGE)
    colour = sample_image(soft, points.crop_px) * mirrored_gain[:, None]
    both = points.weight * smoothstep(visibility, *WELL_SEEN)
    difference = np.clip(photo_colour - colour, -WIDEST_TONE, WIDEST_TONE)
    tone = spread(difference, both)
    disagreement = np.abs(photo_colour - colour - tone).mean(axis=1, keepdims=True)
    agreement = 1 - smoothstep(spread(disagreement, both)[:, 0], *DISAGREEMENT)
    # Where a model that knows faces is far off, the mirror point lies in a cast shadow or under something.
    surprise = np.abs(colour + tone - expected).mean(axis=1)
    feature = sample_image(region.features[..., None], points.crop_px)[:, 0]
    weight = points.weight * agreement * (1 - (1 - feature) * smoothstep(surprise, *SURPRISE))
    # It fades towards what the model paints, not towards the half that was seen.
    weight = np.minimum(weight, facing.faded(np.maximum(weight, visibility), FEATHER))
    spotless = spotless_gain(portrait.image, region)[..., None]
    return MirrorPaint(points.crop_px, mirrored_gain, spotless, tone, weight, colour + tone)


def spotless_gain(image: NDArray[np.uint8], region: FaceRegion) -> NDArray[np.float32]:
    """(s, s) what lifts moles and other dark spots of bare skin to the skin around them; 1 elsewhere.

    Nobody has the same moles on both sides. A spot is what closings along lines of all directions fill; a wrinkle is
    not, since one of the lines follows it.
    """
    light = ndimage.gaussian_filter(image.mean(axis=2, dtype=np.float32), SPOT_BLUR)
    line = np.zeros((SPOT_PX, SPOT_PX), dtype=bool)
    line[SPOT_PX // 2] = True
    slope = np.eye(SPOT_PX, dtype=bool)
    filled = np.minimum.reduce(
        [ndimage.grey_closing(light, footprint=lines) for lines in (line, line.T, slope, slope[::-1])]
    )
    contrast = filled / np.maximum(light, 1.0)
    skin = region.face * region.bald * (1 - region.features)
    spot = smoothstep(contrast, *SPOT_CONTRAST) * smoothstep(skin, 0.5, 0.9)
    # A spot's rim has little contrast of its own.
    spot = ndimage.gaussian_filter(ndimage.grey_dilation(spot, size=(5, 5)), SPOT_BLUR)
    return (1 + spot * (contrast - 1)).astype(np.float32)


def mirror_points(
    facing: Facing, visibility: FloatArray, portrait: AlignedPortrait, region: FaceRegion
) -> MirrorPoints:
    """Mirror points of a surface, and how far each may be used, by shape and by what is seen of it."""
    surface = facing.mesh
    normals, size = facing.normals, len(portrait.image)
    own_px = project(surface.vertices, portrait.camera)[0] * size
    in_face = sample_image(region.face[..., None], own_px)[:, 0] * (normals[:, 2] > FACE_NORMAL_Z)
    plane = fit_symmetry_plane(surface, normals, (in_face > 0.5) & (visibility > 0.5))

    reflected, turned = plane.reflect(surface.vertices), plane.reflect_directions(normals)
    distance, source = cKDTree(surface.vertices).query(reflected, NEAREST, workers=torch.get_num_threads())
    share = 1 / np.maximum(distance, 1e-6) ** 2
    share /= share.sum(axis=1, keepdims=True)
    normal = np.einsum("vn,vni->vi", share, normals[source])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    near = np.einsum("vn,vni->vi", share, surface.vertices[source])
    apart = np.einsum("ij,ij->i", reflected - near, normal)
    on_surface = reflected - apart[:, None] * normal
    crop_px = project(on_surface, portrait.camera)[0] * size

    maps = np.dstack([region.face, region.skin, region.features, region.bald, *region.eyes])
    face, skin, features, bald, *eyes = sample_image(maps, crop_px).T
    # Above the upper lip, what is neither skin nor a feature is hair or a hat, and those need not be symmetric.
    weight = smoothstep(face, *INSIDE_FACE) * (1 - bald * (1 - np.maximum(skin, features)))
    misfit = np.maximum(np.abs(apart), distance[:, 0] / 4)  # beside the surface there is a vertex within 4 misfits
    weight = weight * (1 - smoothstep(misfit, *SHAPE_MISFIT))
    weight = weight * smoothstep(np.einsum("ij,ij->i", turned, normal), *NORMAL_COSINE)
    seen_there = np.einsum("vn,vn->v", share, visibility[source])
    weight = weight * smoothstep(seen_there, *WELL_SEEN)
    for eye in eyes:
        share_of_eye = eye * weight
        if share_of_eye.sum() > 0 and (share_of_eye * visibility).sum() / share_of_eye.sum() > EYE_SEEN:
            weight = weight * (1 - eye)
    return MirrorPoints(crop_px, source, share, weight)


def _plane_of(turns: FloatArray, offset: float) -> tuple[FloatArray, float]:
    normal = np.array([1.0, *turns])
    return normal / np.linalg.norm(normal), offset
