"""A sheet of synthetic heads: what the encoders were given, then truth and result side by side from around."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.camera import Camera, orbit_camera, project
from inference.surface import NECK_CUT_Y, Mesh, vertex_normals

from .dataset import colours_in_view
from .head_measures import BACKGROUND, draw_coloured, view_gain

AROUND_DEG = (45.0, -45.0, 90.0, 180.0)
TILE_SIZE = 160  # px a picture
POINT_SIZE = 3  # px a side: 30,000 points then leave next to no holes


def sheet_rows(
    portrait: NDArray[np.floating],
    mesh: Mesh,
    vertex_colours: NDArray[np.floating],
    head: dict[str, NDArray],
    view: int,
    camera: Camera,
) -> NDArray[np.uint8]:
    """(2 TILE_SIZE, 11 TILE_SIZE, 3): the input, then truth and result from its camera and from around.

    The upper row is in colour, the lower one in grey. portrait: (4, h, w) as encoders take it.
    """
    picture = np.rint(portrait[:3].transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8)
    tile = np.array(Image.fromarray(picture).resize((TILE_SIZE, TILE_SIZE)))
    columns = [np.concatenate([tile, np.full_like(tile, 255)])]
    above = head["surface_points"][:, 1] > NECK_CUT_Y
    points = head["surface_points"][above].astype(np.float64)
    point_normals = head["surface_normals"][above] / 127.0
    point_colours = colours_in_view(head["surface_colour"][above], view_gain(head, view))
    normals = vertex_normals(mesh)
    for eye in (camera, *(orbit_camera(azimuth_deg) for azimuth_deg in AROUND_DEG)):
        truth = [
            draw_points(points, values, point_normals, eye, TILE_SIZE)
            for values in (point_colours, clay(point_normals, eye))
        ]
        result = [draw_coloured(mesh, values, eye, TILE_SIZE) for values in (vertex_colours, clay(normals, eye))]
        columns += [np.concatenate(truth), np.concatenate(result)]
    return np.concatenate(columns, axis=1)


def clay(normals: NDArray[np.floating], camera: Camera) -> NDArray[np.floating]:
    """(n, 3) grey of surfaces with normals (n, 3), lit from over the viewer's shoulder."""
    light = camera.cam2world[:3, :3] @ np.array([0.3, -0.5, -0.8])
    return np.repeat(0.25 + 0.75 * np.clip(normals @ light, 0, 1)[:, None], 3, axis=1)


def draw_points(
    points: NDArray[np.floating],
    colours: NDArray[np.floating],
    normals: NDArray[np.floating],
    camera: Camera,
    size: int,
) -> NDArray[np.uint8]:
    """(size, size, 3) sRGB picture of surface points (n, 3) that face the camera, nearer ones before others."""
    pixels, depth = project(points, camera)
    facing = (normals * (camera.position - points)).sum(1) > 0
    far_to_near = np.flatnonzero(facing)[np.argsort(-depth[facing])]
    corner = np.rint(pixels[far_to_near] * size - POINT_SIZE / 2).astype(int)
    picture = np.full((size, size, 3), BACKGROUND)
    block = np.stack(np.meshgrid(range(POINT_SIZE), range(POINT_SIZE)), axis=-1).reshape(-1, 2)
    column, row = np.clip(corner[:, None] + block, 0, size - 1).reshape(-1, 2).T
    # Where an index repeats, numpy keeps the value written last: the nearest.
    picture[row, column] = colours[far_to_near].repeat(len(block), axis=0)
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
