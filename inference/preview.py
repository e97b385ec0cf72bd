"""Pictures of the finished head: the sheet with the photo and eight views around, and single views for other sheets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .alignment import AlignedPortrait
from .bake import TexturedHead
from .camera import Camera, orbit_camera
from .progress import Progress
from .raster import rasterise_view, sample_image
from .side_by_side import in_order
from .surface import vertex_normals

VIEW_SIZE = 320  # px of one view in the sheet
AROUND_DEG = (0, 45, 90, 135, 180, 225, 270, 315)
OVERSAMPLING = 2  # pixels are averaged from so many along each axis
BACKGROUND = 0.5  # grey, sRGB: neither dark nor light hair melts into it
CLAY = 0.75  # albedo of the grey model
FILL_LIGHT = 0.45  # light that comes from everywhere, of 1
KEY_LIGHT = np.array([0.35, 0.5, 0.8])  # towards the light, in camera axes with y up: over the viewer's right shoulder


def preview_sheet(head: TexturedHead, portrait: AlignedPortrait, progress: Progress) -> Image.Image:
    """Three rows of three: the portrait, then eight views around the head, every 45 degrees, lit softly."""
    tiles = [_shrunk(portrait.image, VIEW_SIZE)]
    albedo, normals = _reduced(head.albedo, VIEW_SIZE), vertex_normals(head.mesh)

    def drawn(azimuth_deg: float) -> NDArray[np.uint8]:
        return _drawn(head, orbit_camera(azimuth_deg), VIEW_SIZE, albedo, normals)

    for _, view in in_order(drawn, AROUND_DEG):
        progress(len(tiles) / len(AROUND_DEG), "Drawing the preview")
        tiles.append(view)
    return Image.fromarray(np.concatenate([np.concatenate(tiles[row : row + 3], axis=1) for row in (0, 3, 6)]))


def contact_rows(head: TexturedHead, portrait: AlignedPortrait, size: int) -> Image.Image:
    """Two rows to judge a head by: the photo, then input view, +45, -45, both profiles, back and top.

    The upper row shows the texture under flat light, the lower one the grey shape.
    """
    cameras = [portrait.camera, *(orbit_camera(azimuth) for azimuth in (45, -45, 90, -90, 180)), orbit_camera(0, 80)]
    matte = np.rint(portrait.matte[..., None].repeat(3, axis=2) * 255).astype(np.uint8)
    upper = [_shrunk(portrait.image, size), *(draw_view(head, camera, size) for camera in cameras)]
    lower = [_shrunk(matte, size), *(draw_view(head, camera, size, textured=False, shaded=True) for camera in cameras)]
    return Image.fromarray(np.concatenate([np.concatenate(upper, axis=1), np.concatenate(lower, axis=1)]))


def draw_view(
    head: TexturedHead, camera: Camera, size: int, textured: bool = True, shaded: bool = False
) -> NDArray[np.uint8]:
    """(size, size, 3) uint8 sRGB picture of the head.

    textured: the albedo, or else grey clay.
    shaded:   soft light from over the viewer's shoulder, or else flat light, which shows the albedo itself.
    """
    albedo = _reduced(head.albedo, size) if textured else None
    return _drawn(head, camera, size, albedo, vertex_normals(head.mesh) if shaded else None)


def _drawn(
    head: TexturedHead,
    camera: Camera,
    size: int,
    albedo: NDArray[np.uint8] | None,
    normals: NDArray[np.floating] | None,
) -> NDArray[np.uint8]:
    """`draw_view` with the albedo as `_reduced` has it, None for clay, and normals of the vertices, None unshaded."""
    mesh = head.mesh
    raster = rasterise_view(mesh.vertices, mesh.faces, camera, size * OVERSAMPLING)
    colour = np.full((raster.covered.sum(), 3), CLAY, dtype=np.float32)
    if albedo is not None:
        uv = raster.interpolate(head.uv.astype(np.float32), mesh.faces)
        colour = sample_image(albedo, uv * np.array(albedo.shape[1::-1], dtype=np.float32))
        colour /= 255
    if normals is not None:
        up_camera = camera.cam2world[:3, :3] * np.array([1.0, -1.0, -1.0])  # x right, y up, z towards the viewer
        towards_key = up_camera @ (KEY_LIGHT / np.linalg.norm(KEY_LIGHT))
        directions = raster.interpolate(normals.astype(np.float32), mesh.faces)
        length = np.maximum(np.sqrt(np.einsum("ni,ni->n", directions, directions)), 1e-6)
        facing = np.maximum(directions @ towards_key.astype(np.float32) / length, 0.0)
        # Light adds up in linear colour, which sRGB approximates by the power 2.2.
        colour *= ((FILL_LIGHT + (1 - FILL_LIGHT) * facing) ** (1 / 2.2))[:, None]
    picture = np.full((*raster.face.shape, 3), BACKGROUND, dtype=np.float32)
    picture[raster.covered] = colour
    blocks = picture.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.rint(np.clip(blocks, 0, 1) * 255).astype(np.uint8)


def _shrunk(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square picture (s, s, 3) at (size, size, 3)."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


def _reduced(albedo: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The albedo at about the resolution of a view, so that small views do not sparkle."""
    # A head of two thirds of the picture shows half of its texture: about this many texels to a pixel.
    factor = max(1, len(albedo) // (size * OVERSAMPLING * 2))
    return np.asarray(Image.fromarray(albedo).reduce(factor))
