"""The pinhole camera all parts share, and the one place that knows its axes.

Head frame: right-handed, +x the subject's left, +y up, +z out of the face. Camera axes are OpenCV's: x right, y down,
z forward. Intrinsics are divided by the image side, so a square picture runs from 0 to 1 in x and y. The defaults and
the vector of 25 numbers are PanoHead's (An et al., CVPR 2023, arXiv 2303.13071).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.floating]

FOCAL = 4.2647  # normalised by the image side: a full view angle of 13.4 degrees
RADIUS = 2.7  # distance of the camera from the origin of the head frame, box units


@dataclass(frozen=True)
class Camera:
    """A square pinhole camera.

    cam2world:  (4, 4) camera (OpenCV axes) to head frame; the last column is the camera's position, box units.
    intrinsics: (3, 3) divided by the image side.
    """

    cam2world: FloatArray
    intrinsics: FloatArray

    @property
    def position(self) -> FloatArray:
        """(3,) where the camera stands, head frame."""
        return self.cam2world[:3, 3]

    @property
    def vector(self) -> FloatArray:
        """(25,) float32: cam2world row by row, then intrinsics row by row, as PanoHead's networks take it."""
        return np.concatenate([self.cam2world.ravel(), self.intrinsics.ravel()]).astype(np.float32)


def pinhole_intrinsics(focal: float = FOCAL) -> FloatArray:
    """Normalised (3, 3) intrinsics with the principal point in the middle."""
    return np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def orbit_camera(
    azimuth_deg: float, elevation_deg: float = 0.0, radius: float = RADIUS, focal: float = FOCAL
) -> Camera:
    """Camera on a sphere around the head, looking at the origin with +y up and no roll.

    azimuth_deg:   0 faces the face; 90 looks at the subject's left ear (from +x); 180 at the back of the head.
    elevation_deg: above the horizon is positive; must lie within (-90, 90) for the up direction to exist.
    """
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    outward = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    forward = -outward
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    cam2world = np.eye(4)
    cam2world[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    cam2world[:3, 3] = radius * outward
    return Camera(cam2world, pinhole_intrinsics(focal))


def camera_from_vector(vector: FloatArray) -> Camera:
    """Camera from PanoHead's 25 numbers."""
    vector = np.asarray(vector, dtype=np.float64).reshape(25)
    return Camera(vector[:16].reshape(4, 4), vector[16:].reshape(3, 3))


def project(points: FloatArray, camera: Camera) -> tuple[FloatArray, FloatArray]:
    """Where points of the head frame fall in the picture.

    points:  (..., 3) head frame.
    Returns: (..., 2) picture coordinates (x right, y down, 0 to 1 inside), and (...,) depth along the optical axis.
    """
    rotation, position = camera.cam2world[:3, :3], camera.cam2world[:3, 3]
    in_camera = (np.asarray(points, dtype=np.float64) - position) @ rotation
    depth = in_camera[..., 2]
    homogeneous = in_camera @ camera.intrinsics.T
    return homogeneous[..., :2] / homogeneous[..., 2:], depth


def unproject(pixels: FloatArray, depth: FloatArray, camera: Camera) -> FloatArray:
    """Inverse of `project`: (..., 2) picture coordinates and (...,) depth along the optical axis to (..., 3) points."""
    pixels = np.asarray(pixels, dtype=np.float64)
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    in_camera = homogeneous @ np.linalg.inv(camera.intrinsics).T * np.asarray(depth)[..., None]
    return in_camera @ camera.cam2world[:3, :3].T + camera.cam2world[:3, 3]


def camera_rays(camera: Camera, size: int) -> tuple[FloatArray, FloatArray]:
    """Rays through the pixel centres of a size x size picture: origins and unit directions, each (size, size, 3)."""
    centres = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(centres, centres)
    ends = unproject(np.stack([x, y], axis=-1), np.ones_like(x), camera)
    origins = np.broadcast_to(camera.position, ends.shape)
    directions = ends - origins
    return origins, directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def mirrored_cameras(cameras: Tensor) -> Tensor:
    """Cameras that see a mirrored head (x to -x) as the mirror image of what `cameras` (n, 25) see of the head."""
    signs = torch.ones(25, dtype=cameras.dtype, device=cameras.device)
    # What leads from x to the other axes or back: of cam2world in the first row and column, of intrinsics the skew and
    # the principal point, which counts from the picture's other side.
    signs[[1, 2, 3, 4, 8, 12, 17, 18]] = -1.0
    mirrored = cameras * signs
    mirrored[:, 18] += 1.0
    return mirrored


def project_tensor(points: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """`project` for a batch inside the networks, differentiable.

    points:  (n, m, 3) head frame.
    cameras: (n, 25) as `Camera.vector`.
    Returns: (n, m, 2) picture coordinates (x right, y down, 0 to 1 inside), and (n, m) distance from the camera.
    """
    cam2world = cameras[:, :16].view(-1, 4, 4)
    intrinsics = cameras[:, 16:].view(-1, 3, 3)
    offsets = points - cam2world[:, None, :3, 3]
    in_camera = torch.einsum("nmi,nij->nmj", offsets, cam2world[:, :3, :3])
    homogeneous = torch.einsum("nmj,nkj->nmk", in_camera, intrinsics)
    return homogeneous[..., :2] / homogeneous[..., 2:], offsets.norm(dim=-1)


def ray_tensor(cameras: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres of size x size pictures, for the networks.

    cameras: (n, 25) as `Camera.vector`.
    Returns: the rays' points nearest to the origin of the head frame, and unit directions, both (n, 3, size, size).
    """
    n = len(cameras)
    cam2world = cameras[:, :16].view(n, 4, 4)
    intrinsics = cameras[:, 16:].view(n, 3, 3)
    centres = (torch.arange(size, device=cameras.device, dtype=cameras.dtype) + 0.5) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).view(1, 3, -1)  # homogeneous
    directions = F.normalize(cam2world[:, :3, :3] @ torch.linalg.solve(intrinsics, pixels.expand(n, -1, -1)), dim=1)
    position = cam2world[:, :3, 3:]
    nearest = position - (position * directions).sum(dim=1, keepdim=True) * directions
    return nearest.view(n, 3, size, size), directions.view(n, 3, size, size)
