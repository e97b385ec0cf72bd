"""The files heads are made of: Wavefront meshes, MakeHuman proxies (hair, brows, eyes) and textures.

Base vertices are MakeHuman's 19,158, in metres, y up and z to the front.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

METRES_PER_DECIMETRE = 0.1  # MakeHuman's files are in decimetres
ALPHA_CUT = 0.45  # texels of a hair card below this opacity are no hair


@dataclass(frozen=True)
class WavefrontMesh:
    """Triangles of an .obj file.

    vertices (v, 3), uv (t, 2) with v up, faces (f, 3) into vertices, uv_faces (f, 3) into uv, groups (f,) of names.
    """

    vertices: FloatArray
    uv: FloatArray
    faces: IntArray
    uv_faces: IntArray
    groups: NDArray[np.str_]


def read_wavefront(path: Path) -> WavefrontMesh:
    """Read an .obj file; polygons are split into fans."""
    vertices, uv, faces, uv_faces, groups = [], [], [], [], []
    group = ""
    for line in path.read_text(errors="ignore").splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(word) for word in words[1:4]])
        elif words[0] == "vt":
            uv.append([float(word) for word in words[1:3]])
        elif words[0] == "g":
            group = words[1] if len(words) > 1 else ""
        elif words[0] == "f":
            corners = [word.split("/") for word in words[1:]]
            corner_vertices = [int(corner[0]) - 1 for corner in corners]
            corner_uv = [int(corner[1]) - 1 if len(corner) > 1 and corner[1] else 0 for corner in corners]
            for k in range(1, len(corners) - 1):
                faces.append([corner_vertices[0], corner_vertices[k], corner_vertices[k + 1]])
                uv_faces.append([corner_uv[0], corner_uv[k], corner_uv[k + 1]])
                groups.append(group)
    return WavefrontMesh(
        np.array(vertices, np.float32), np.array(uv, np.float32), np.array(faces), np.array(uv_faces), np.array(groups)
    )


@dataclass(frozen=True)
class Proxy:
    """A mesh that follows the body: each vertex hangs on three base vertices (MakeHuman's .mhclo).

    anchors (n, 3) base vertices, weights (n, 3), offsets (n, 3) in units of `scales`, which maps an axis 0..2 to
    (base vertex, base vertex, their distance at rest): the offset grows with that distance.
    """

    mesh: WavefrontMesh
    anchors: IntArray
    weights: FloatArray
    offsets: FloatArray
    scales: dict[int, tuple[int, int, float]]

    def fit(self, base_vertices: FloatArray) -> FloatArray:
        """(n, 3) vertices on a body; base_vertices (19158, 3) in metres."""
        on_body = (base_vertices[self.anchors] * self.weights[..., None]).sum(1)
        scale = np.full(3, METRES_PER_DECIMETRE, np.float32)
        for axis, (a, b, rest) in self.scales.items():
            scale[axis] = abs(base_vertices[a, axis] - base_vertices[b, axis]) / rest
        return (on_body + self.offsets * scale).astype(np.float32)


def read_proxy(path: Path) -> Proxy:
    """Read an .mhclo file and the .obj file it names."""
    anchors, weights, offsets, scales = [], [], [], {}
    mesh_name = ""
    in_vertices = False
    for line in path.read_text(errors="ignore").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "obj_file":
            mesh_name = words[1]
        elif words[0] in ("x_scale", "y_scale", "z_scale"):
            scales["xyz".index(words[0][0])] = (int(words[1]), int(words[2]), float(words[3]))
        elif words[0] == "verts":
            in_vertices = True
        elif in_vertices and words[0].lstrip("-").isdigit():
            if len(words) == 1:  # lies exactly on one base vertex
                anchors.append([int(words[0])] * 3)
                weights.append([1.0, 0.0, 0.0])
                offsets.append([0.0, 0.0, 0.0])
            else:
                anchors.append([int(word) for word in words[:3]])
                weights.append([float(word) for word in words[3:6]])
                offsets.append([float(word) for word in words[6:9]] if len(words) >= 9 else [0.0, 0.0, 0.0])
        elif in_vertices and words[0].startswith(("delete", "weights")):
            in_vertices = False
    return Proxy(
        read_wavefront(path.parent / mesh_name),
        np.array(anchors),
        np.array(weights, np.float32),
        np.array(offsets, np.float32),
        scales,
    )


def linear_from_srgb(srgb: FloatArray) -> FloatArray:
    """Light from sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb_from_linear(linear: FloatArray) -> FloatArray:
    """Inverse of `linear_from_srgb`; values beyond [0, 1] are clipped."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def bytes_from_linear(linear: FloatArray) -> NDArray[np.uint8]:
    """sRGB bytes from linear light."""
    return (srgb_from_linear(linear) * 255 + 0.5).astype(np.uint8)


def read_texture(path: Path, size: int, mode: str = "RGB") -> FloatArray:
    """(size, size, channels) float32 in [0, 1], as stored (sRGB); `mode` is Pillow's."""
    image = Image.open(path).convert(mode)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS if image.width > size else Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255
    return pixels if pixels.ndim == 3 else pixels[..., None]


def sample_texture(texture: FloatArray, uv: FloatArray) -> FloatArray:
    """Bilinear look-up: texture (h, w, c), uv (n, 2) in [0, 1] with v up. Returns (n, c)."""
    height, width = texture.shape[:2]
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1.001)
    y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left)[:, None].astype(np.float32), (y - top)[:, None].astype(np.float32)
    upper = texture[top, left] * (1 - fx) + texture[top, right] * fx
    lower = texture[bottom, left] * (1 - fx) + texture[bottom, right] * fx
    return upper * (1 - fy) + lower * fy


def scatter_on_mesh(
    vertices: FloatArray, faces: IntArray, count: int, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Points spread evenly over a surface: (count, 3) points, (count,) faces, (count, 3) barycentric weights."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = np.searchsorted(np.cumsum(area) / area.sum(), rng.random(count)).clip(0, len(faces) - 1)
    root, second = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - root, root * (1 - second), root * second], axis=1).astype(np.float32)
    return (corners[chosen] * weights[..., None]).sum(1), chosen, weights
