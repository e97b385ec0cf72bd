"""Fit a finished head to its photo: bend the space around it until outline and face lie where the photo has them.

The encoders guess a head in one pass; what they missed is left as an offset between head and photo. Steps on the
latents can close it, but so few views leave them free to put lumps where the camera does not look. Here nothing of the
head changes but its place: a smooth displacement of space (a cubic B-spline lattice, Rueckert et al., IEEE TMI 1999) is
solved for by Gauss-Newton steps. A smooth surface stays smooth, the hidden side follows, and seen and unseen cannot
part, because both are bent by the same field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from scipy.ndimage import distance_transform_edt, map_coordinates, minimum_filter
from torch import Tensor

from .alignment import MESH_POINTS, AlignedPortrait, find_faces, find_landmarks
from .camera import Camera, camera_rays, unproject
from .face_networks import FaceNetworks
from .progress import Progress, silent
from .resampling import build_pyramid
from .silhouette import FALL, ColouredField, in_photo, outline_distance
from .stitching import DEPTH_SIZE, EMPTY_DEPTH, SCOUT_GRID, Scout, input_depth, look_up
from .surface import NECK_CUT_Y

FloatArray = NDArray[np.float64]

RAYS = 64  # px, side of the picture whose pixels are compared with the matte: 5 mm on the head
RAY_SAMPLES = 64  # along each ray: 7 mm, then the field itself is asked at the nearest of them
OWN_PICTURE_SIZE = 256  # px; the landmark network looks at no more
BACKGROUND = 0.5  # mid grey behind the model's own picture, as behind the portrait the encoders see
SURE_LANDMARK_SCORE = 0.5  # of the network on the model's own face; below, its points are guesses
WARP_GRID = 49  # samples a side of the finished displacement, for fast looking up; a lattice cell has 7 or more
LOWEST_Y = -0.24  # head frame, the chin: below it matte and head part company, in collars and shoulders
REACH = 0.03  # box units (15 mm): the decoder's distances mean nothing farther out
DEEP = 0.015  # box units: a ray through the head that goes as deep as this is not asked for more; ears are no thicker
LONGEST_STEP = 0.02  # box units that a Gauss-Newton step may ask of a point
DOUBT = 0.02  # box units: larger disagreements (hats, missed hair) lose weight (Geman and McClure 1987)
TELLING_MISFIT = 1e-4  # box units: rays that agree better ask for nothing
GRADIENT_STEP = 0.002  # box units, over which the slope of the distance is measured
FLATTEST = 0.5  # change of distance along its gradient; where the field is flatter a step would run away
# Weights of the terms, each a mean of squares in box units. Chosen by looking at heads: softer lattices fit the matte
# better and dent the cheeks, stiffer ones leave the landmarks where they were.
OUTLINE_WEIGHT = 3.0
LANDMARK_WEIGHT = 0.5
BENDING_WEIGHT = 7e-6  # of second derivatives
STRETCH_WEIGHT = 3.5e-6  # of first derivatives
SHIFT_WEIGHT = 3.5e-3  # of the displacement itself
PIN_WEIGHT = 1.0  # of the displacement below the neck: else it goes on growing there and folds the neck
STIFFENING = 4.0  # times more weight on bending and stretch while space folds
STIFFENINGS = 4  # at most; with the last, 256 times, nothing has been seen to fold
LEAST_VOLUME = 0.25  # of its former size that no piece of space may be squeezed below


@dataclass(frozen=True)
class Effort:
    """What a level spends: points a side of the lattice, and Gauss-Newton steps."""

    lattice: int
    steps: int


LEVELS: dict[str, Effort | None] = {"off": None, "fast": Effort(8, 3), "best": Effort(10, 6)}


@dataclass(frozen=True)
class Misfit:
    """How far head and photo are apart, box units, means over rays and landmarks.

    landmarks: None where the landmark networks see no face on the model's own colours.
    """

    outline: float
    landmarks: float | None


@dataclass(frozen=True)
class Refinement:
    """A displacement of space, and what it achieved.

    shift: (1, 3, WARP_GRID, WARP_GRID, WARP_GRID) float32, box units; by index x, y, z, from side to side of the box.
           What the fitted head holds at a point, the unfitted one holds at point + shift.
    """

    shift: Tensor
    box_side: float
    steps: int
    before: Misfit
    after: Misfit

    def place(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """(m, 3) where the unfitted head holds what the fitted one holds at points (m, 3), both in the head frame."""
        return moved(points, self.shift, self.box_side)


class WarpedField:
    """A field in bent space: density and colour of the field, read where the refinement says."""

    def __init__(self, field: ColouredField, refinement: Refinement) -> None:
        self._field = field
        self._refinement = refinement
        self.level = field.level
        self.box_side = field.box_side

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m,) density at points (m, 3) of the head frame."""
        return self._field.density(self._refinement.place(points), progress)

    def colour(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m, 3) sRGB at points (m, 3) of the head frame."""
        return self._field.colour(self._refinement.place(points), progress)


@dataclass(frozen=True)
class Lattice:
    """Control points of a displacement, `count` along each side of the box and a little beyond it.

    They lie `spacing` box units apart, and between them the displacement is a uniform cubic B-spline.
    """

    count: int
    box_side: float

    @property
    def spacing(self) -> float:
        """Distance of neighbouring control points, box units."""
        return self.box_side / (self.count - 3)

    @property
    def heights(self) -> FloatArray:
        """(count ** 3,) y of each control point, head frame."""
        along = (np.arange(self.count) - 1) * self.spacing - self.box_side / 2
        return np.broadcast_to(along[:, None], (self.count,) * 3).ravel()

    def weights(self, points: NDArray[np.floating]) -> sparse.csr_matrix:
        """(m, count ** 3) share of each control point at points (m, 3); beyond the box, as on its side."""
        position = (np.clip(points, -self.box_side / 2, self.box_side / 2) + self.box_side / 2) / self.spacing
        first = np.clip(np.floor(position).astype(int), 0, self.count - 4)  # (m, 3)
        t = (position - first)[..., None]
        share = np.concatenate([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], -1) / 6
        index = first[..., None] + np.arange(4)  # (m, axis, 4)
        x, y, z = index[:, 0, :, None, None], index[:, 1, None, :, None], index[:, 2, None, None, :]
        columns = (x * self.count + y) * self.count + z
        values = share[:, 0, :, None, None] * share[:, 1, None, :, None] * share[:, 2, None, None, :]
        rows = np.arange(len(points) + 1) * 64
        return sparse.csr_matrix((values.ravel(), columns.ravel(), rows), shape=(len(points), self.count**3))

    def stiffness(self, bending: float, stretch: float, shift: float) -> FloatArray:
        """(count ** 3, count ** 3) quadratic form of one axis: weighted means over the box of squared derivatives."""
        n, h = self.count, self.spacing
        same = sparse.identity(n)
        slope = sparse.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n)) / h
        curve = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n)) / h**2
        terms = [
            *((shift, factors) for factors in [(same, same, same)]),
            *((stretch, factors) for factors in [(slope, same, same), (same, slope, same), (same, same, slope)]),
            *((bending, factors) for factors in [(curve, same, same), (same, curve, same), (same, same, curve)]),
            # Each mixed derivative stands for two equal ones.
            *((2 * bending, factors) for factors in [(slope, slope, same), (slope, same, slope), (same, slope, slope)]),
        ]
        total = sparse.csr_matrix((n**3, n**3))
        for weight, (x, y, z) in terms:
            derivative = sparse.kron(sparse.kron(x, y), z)
            total = total + weight * (derivative.T @ derivative)
        return total.toarray() * (h / self.box_side) ** 3


@dataclass(frozen=True)
class Pull:
    """Where landmarks of the fitted head shall find what the unfitted one shows.

    places: (n, 3) where the photo has the landmarks, head frame. shifts: (n, 3) from there to the model's own.
    """

    places: FloatArray
    shifts: FloatArray


def refine(
    field: ColouredField,
    portrait: AlignedPortrait,
    photo_size: tuple[int, int],
    face: FaceNetworks,
    effort: Effort,
    progress: Progress,
) -> Refinement:
    """Solve for the displacement that brings a head's outline onto the matte and its face onto the landmarks.

    field:      the whole head, before carving: what carving would cut off is what the outline has to tell.
    photo_size: (height, width) px of the photo; nothing is asked of the head beyond its edges.
    Returns:    the same for the same arguments; there is no chance in it.
    """
    look = look_closely(field, lambda done, _: progress(0.4 * done, "Fitting the head to the photo"))
    pull = landmark_pull(field, look, portrait, face)
    lattice = Lattice(effort.lattice, field.box_side)
    samples = np.linspace(-0.5, 0.5, WARP_GRID) * field.box_side
    everywhere = lattice.weights(np.stack(np.meshgrid(samples, samples, samples, indexing="ij"), -1).reshape(-1, 3))
    outline = Outline(field, look, portrait, photo_size)
    stiffness = lattice.stiffness(BENDING_WEIGHT, STRETCH_WEIGHT, SHIFT_WEIGHT)
    stiffness += np.diag(np.where(lattice.heights < NECK_CUT_Y, PIN_WEIGHT, 0.0))
    pull_weights = None if pull is None else lattice.weights(pull.places)
    controls = np.zeros((lattice.count**3, 3))
    shift = _on_grid(everywhere, controls, field.box_side)
    seen = outline.compare(shift)
    before = after = Misfit(seen.mean, _landmark_misfit(pull, pull_weights, controls))
    for step in range(effort.steps):
        progress(0.5 + 0.5 * step / effort.steps, "Fitting the head to the photo")
        for _ in range(STIFFENINGS):
            controls = solve(lattice, stiffness, seen, controls, pull, pull_weights)
            shift = _on_grid(everywhere, controls, field.box_side)
            if least_volume(shift, field.box_side) >= LEAST_VOLUME:
                break
            stiffness = stiffness * STIFFENING
        seen = outline.compare(shift)
        after = Misfit(seen.mean, _landmark_misfit(pull, pull_weights, controls))
    progress(1.0, "Fitting the head to the photo")
    return Refinement(shift, field.box_side, effort.steps, before, after)


def look_closely(field: ColouredField, progress: Progress) -> Scout:
    """The field's density on the grid that finds surfaces, on the CPU."""
    centres = ((np.arange(SCOUT_GRID) + 0.5) / SCOUT_GRID - 0.5) * field.box_side
    points = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(-1, 3)
    density = field.density(points.astype(np.float32), progress)
    return Scout(torch.from_numpy(density).view(SCOUT_GRID, SCOUT_GRID, SCOUT_GRID), field.level, field.box_side)


def landmark_pull(field: ColouredField, look: Scout, portrait: AlignedPortrait, face: FaceNetworks) -> Pull | None:
    """Compare the landmarks of the photo with those of the model's own face, seen by the same camera and network.

    The network errs alike on both, which a comparison with points known otherwise would not cancel. None when it sees
    no face in the model's own colours.
    """
    depth = input_depth(look, portrait.camera).numpy().astype(np.float64)
    hit = depth < EMPTY_DEPTH
    if not hit.any():
        return None
    origins, directions = camera_rays(portrait.camera, DEPTH_SIZE)
    own = np.full((DEPTH_SIZE, DEPTH_SIZE, 3), BACKGROUND, dtype=np.float32)
    own[hit] = field.colour((origins + directions * depth[..., None])[hit].astype(np.float32))
    picture = Image.fromarray(np.rint(own.clip(0, 1) * 255).astype(np.uint8))
    picture = picture.resize((OWN_PICTURE_SIZE, OWN_PICTURE_SIZE), Image.Resampling.BICUBIC)
    pyramid = build_pyramid(np.asarray(picture))
    faces = find_faces(pyramid, face)
    if not faces:
        return None
    landmarks = find_landmarks(pyramid, faces[0], face)
    if landmarks.score < SURE_LANDMARK_SCORE:
        return None
    found = landmarks.points[:MESH_POINTS, :2] / OWN_PICTURE_SIZE
    # A landmark on the rim may fall beside the head: it takes the depth of the nearest pixel that shows the head.
    nearest = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    filled = depth[tuple(nearest)]
    distance = map_coordinates(filled, found[:, ::-1].T * DEPTH_SIZE - 0.5, order=1, mode="nearest")
    wanted = portrait.landmarks[:MESH_POINTS, :2] / len(portrait.image)
    places = _along_rays(wanted, distance, portrait.camera)
    return Pull(places, _along_rays(found, distance, portrait.camera) - places)


@dataclass(frozen=True)
class OutlineLook:
    """Rays whose nearness to the head disagrees with the matte.

    points:   (k, 3) nearest point of each ray to the head, head frame.
    slopes:   (k, 3) how the distance there changes with the shift.
    misfits:  (k,) distance minus the one wanted, box units; positive where the head is too small.
    rays:     how many were compared, those that agree included.
    mean:     of the misfits' sizes over all of them, box units.
    """

    points: FloatArray
    slopes: FloatArray
    misfits: FloatArray
    rays: int
    mean: float


class Outline:
    """The rays of the photo's camera, and how near to the head each should pass.

    The distance to the head, smallest along a ray, is at the outline of a smooth body the ray's own distance from that
    outline, inside as outside. So the matte asks for a number, and no picture need be rendered.
    """

    def __init__(
        self, field: ColouredField, look: Scout, portrait: AlignedPortrait, photo_size: tuple[int, int]
    ) -> None:
        self._field, self._look = field, look
        camera, side = portrait.camera, len(portrait.matte)
        origins, directions = camera_rays(camera, RAYS)
        middle = float(np.linalg.norm(camera.position))
        along = np.linspace(middle - field.box_side * 0.6, middle + field.box_side * 0.6, RAY_SAMPLES)
        points = origins[..., None, :] + directions[..., None, :] * along[:, None]  # (RAYS, RAYS, RAY_SAMPLES, 3)
        beyond = _block_mean(outline_distance(portrait, photo_size) / side)
        wanted = np.clip(beyond * middle / camera.intrinsics[0, 0], -DEEP, REACH)
        # Beyond the photo's edge there may be more of the person; nearer to it than REACH the outline is not known.
        reach_px = int(np.ceil(REACH / middle * camera.intrinsics[0, 0] * side))
        shown = in_photo(portrait.photo_from_crop, photo_size, side)
        known = _block_mean(minimum_filter(shown, 2 * reach_px + 1, mode="nearest")) == 1
        inside = (np.abs(points) < field.box_side / 2).all(axis=-1)
        known &= inside.any(axis=-1)
        self._points, self._inside, self._wanted = points[known], inside[known], wanted[known]

    def compare(self, shift: Tensor) -> OutlineLook:
        """Look along all rays through the head as a displacement bends it."""
        coarse = look_up(self._look, torch.from_numpy(moved(self._points.reshape(-1, 3), shift, self._look.side)))
        density = np.where(self._inside, coarse.numpy().reshape(self._inside.shape), -np.inf)
        nearest = np.take_along_axis(self._points, density.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        head = nearest[:, 1] > LOWEST_Y
        nearest, wanted = nearest[head], self._wanted[head]
        at = moved(nearest, shift, self._look.side)
        misfits = np.clip(self._distance(at), -DEEP, REACH) - wanted
        telling = np.abs(misfits) > TELLING_MISFIT
        slopes = np.stack(
            [
                (self._distance(at[telling] + step) - self._distance(at[telling] - step)) / (2 * GRADIENT_STEP)
                for step in np.eye(3, dtype=np.float32) * GRADIENT_STEP
            ],
            axis=1,
        )
        slopes /= np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), FLATTEST)
        count = max(len(misfits), 1)
        return OutlineLook(nearest[telling], slopes, misfits[telling], count, float(np.abs(misfits).sum() / count))

    def _distance(self, points: NDArray[np.float32]) -> FloatArray:
        """(m,) box units, negative inside, of the unbent field."""
        return (self._field.level - self._field.density(points).astype(np.float64)) / FALL


def solve(
    lattice: Lattice,
    stiffness: FloatArray,
    seen: OutlineLook,
    controls: FloatArray,
    pull: Pull | None,
    pull_weights: sparse.csr_matrix | None,
) -> FloatArray:
    """One Gauss-Newton step: (count ** 3, 3) control points' shifts from those before."""
    weights = lattice.weights(seen.points)
    jacobian = sparse.hstack([weights.multiply(seen.slopes[:, axis : axis + 1]) for axis in range(3)]).tocsr()
    trust = OUTLINE_WEIGHT / seen.rays / (1 + (seen.misfits / DOUBT) ** 2) ** 2
    goal = jacobian @ controls.T.ravel() - np.clip(seen.misfits, -LONGEST_STEP, LONGEST_STEP)
    matrix = (jacobian.T @ jacobian.multiply(trust[:, None])).toarray()
    right = (jacobian.T @ (trust * goal)).reshape(3, -1)
    each_axis = stiffness
    if pull is not None and pull_weights is not None:
        share = LANDMARK_WEIGHT / len(pull.places)
        each_axis = stiffness + share * (pull_weights.T @ pull_weights).toarray()
        right = right + share * (pull_weights.T @ pull.shifts).T
    count = lattice.count**3
    for axis in range(3):
        block = slice(axis * count, (axis + 1) * count)
        matrix[block, block] += each_axis
    return cho_solve(cho_factor(matrix, overwrite_a=True), right.ravel()).reshape(3, -1).T


def moved(points: NDArray[np.floating], shift: Tensor, box_side: float) -> NDArray[np.float32]:
    """(m, 3) points + shift, trilinear; beyond the box the shift of its side."""
    start = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    grid = (start * (2 / box_side)).flip(-1)[None, None, None]  # grid_sample wants the last axis first
    shifts = F.grid_sample(shift, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return (start + shifts[0, :, 0, 0].T).numpy()


def least_volume(shift: Tensor, box_side: float) -> float:
    """Size of the most squeezed cell of space against its former one; 0 or less where space folds."""
    cell = box_side / (WARP_GRID - 1)
    derivatives = np.stack(np.gradient(shift[0].numpy(), cell, axis=(1, 2, 3)), axis=-1)  # (3, g, g, g, 3)
    return float(np.linalg.det(np.moveaxis(derivatives, 0, -2) + np.eye(3)).min())


def _on_grid(everywhere: sparse.csr_matrix, controls: FloatArray, box_side: float) -> Tensor:
    """The displacement of a lattice as `Refinement.shift`, faded out along the neck: what is below it stays below."""
    shifts = (everywhere @ controls).T.reshape(1, 3, WARP_GRID, WARP_GRID, WARP_GRID)
    heights = np.linspace(-0.5, 0.5, WARP_GRID) * box_side
    shifts = shifts * np.clip((heights - NECK_CUT_Y) / (LOWEST_Y - NECK_CUT_Y), 0, 1)[:, None]
    return torch.from_numpy(shifts.astype(np.float32))


def _landmark_misfit(pull: Pull | None, pull_weights: sparse.csr_matrix | None, controls: FloatArray) -> float | None:
    """Mean distance of landmarks from where they shall be, box units."""
    if pull is None or pull_weights is None:
        return None
    return float(np.linalg.norm(pull.shifts - pull_weights @ controls, axis=1).mean())


def _along_rays(pixels: FloatArray, distance: FloatArray, camera: Camera) -> FloatArray:
    """(n, 3) points at a distance from the camera along the rays of picture coordinates (n, 2)."""
    rays = unproject(pixels, np.ones(len(pixels)), camera) - camera.position
    return camera.position + rays * (distance / np.linalg.norm(rays, axis=1))[:, None]


def _block_mean(picture: NDArray[np.floating]) -> FloatArray:
    """(RAYS, RAYS) means over square blocks of a crop (s, s)."""
    block = len(picture) // RAYS
    return picture.reshape(RAYS, block, RAYS, block).mean(axis=(1, 3))
