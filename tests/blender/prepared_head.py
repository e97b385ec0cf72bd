"""A job folder as the worker leaves it, with a head of known shape and colours: for tests that need no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from inference.bake import TexturedHead
from inference.camera import Camera, orbit_camera
from inference.gltf import write_glb
from inference.surface import Mesh, metres_from_head

AZIMUTH_DEG, ELEVATION_DEG = 30.0, 10.0  # of the photo's camera: any view that is not symmetric
TEXTURE = 64  # texels along a side
CENTRE = np.array([0.0, -0.05, 0.0])  # of the ellipsoid, head frame
RADII = np.array([0.14, 0.25, 0.18])
BACK_GROWTH = 1.1  # of another version
EAR = CENTRE + [0.2, 0.0, 0.0]  # the marker at the subject's left ear
NOSE = CENTRE + [0.0, 0.0, 0.26]


def head_points() -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Vertices (v, 3) in the head frame and faces of an ellipsoid with a spike at the left ear and one at the nose."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    points = CENTRE + ball.vertices * RADII
    for tip, direction in ((EAR, [1.0, 0, 0]), (NOSE, [0, 0, 1.0])):
        points[np.argmax(ball.vertices @ direction)] = tip
    return points, ball.faces


def camera() -> Camera:
    """The camera of the photo."""
    return orbit_camera(AZIMUTH_DEG, ELEVATION_DEG)


def write_job_folder(folder: Path, version: int = 0) -> Path:
    """Write head.glb, head.json and portrait.png into `folder`.

    version: another one has its back farther out by a tenth, and no green in its texture.

    The subject's left half shows the red half of the texture, the other the blue one; green falls from the crown (255)
    to the neck (0). Vertices between the halves are doubled, as an unwrap doubles them along its seams. Visibility is 1
    at the front, 0 at the back.
    """
    folder.mkdir(parents=True)
    points, faces = head_points()
    left = points[faces].mean(axis=1)[:, 0] > 0
    corners = np.unique(np.stack([faces.ravel(), np.repeat(left, 3)], axis=1), axis=0, return_inverse=True)
    (source, half), split_faces = corners[0].T, corners[1].reshape(-1, 3)
    if version:
        points = points * np.where(points[:, 2:] < 0, [1.0, 1.0, BACK_GROWTH], 1.0)
    vertices = points[source]
    height = (vertices[:, 1] - points[:, 1].min()) / np.ptp(points[:, 1])  # 0 neck, 1 crown
    u = 0.25 + 0.5 * half + 0.2 * np.clip(vertices[:, 2], -1, 1)
    uv = np.stack([u, (0.5 + (1 - height) * (TEXTURE - 1)) / TEXTURE], axis=1)

    texture = np.zeros((TEXTURE, TEXTURE, 3), np.uint8)
    texture[:, TEXTURE // 2 :, 0] = 255
    texture[:, : TEXTURE // 2, 2] = 255
    if not version:
        texture[:, :, 1] = np.linspace(255, 0, TEXTURE)[:, None]
    head = TexturedHead(
        mesh=Mesh(vertices, split_faces),
        uv=uv,
        albedo=texture,
        visibility=(vertices[:, 2] > 0).astype(np.float32),
        visibility_map=np.zeros((TEXTURE, TEXTURE), np.uint8),
        anchors={},
        source="prepared",
        confidence=(vertices[:, 2] > 0).astype(np.float32),
        hair=(vertices[:, 2] < 0).astype(np.float32),
    )
    write_glb(head, folder / "head.glb")

    portrait = np.full((512, 512, 4), 200, np.uint8)
    Image.fromarray(portrait).save(folder / "portrait.png")
    (folder / "head.json").write_text(
        json.dumps(
            {
                "synthetic": True,
                "model": {"name": "prepared", "sha256": "0" * 64},
                "options": {"model": "starter", "grid": 256, "seed": version},
                "camera": {
                    "cam2world": camera().cam2world.tolist(),
                    "intrinsics": camera().intrinsics.tolist(),
                    "head_from_mesh": np.linalg.inv(metres_from_head()).tolist(),
                },
                "warnings": [],
            }
        ),
        encoding="utf-8",
    )
    (folder / "head.safetensors").write_bytes(b"")  # only the worker reads it, and tests have a worker that does not
    return folder
