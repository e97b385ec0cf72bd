"""A mesh that an artist made of the head: read, checked to lie on it, ready to be painted anew.

Sculpted, remeshed or retopologised; open or closed, of triangles or larger faces, with texture coordinates or without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .bake import subdivide
from .errors import MeshFarFromHead, MeshUnreadable
from .raster import fragment_chunks
from .surface import METRES_PER_UNIT, Mesh, metres_from_head, vertex_normals

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

FORMATS = (".glb", ".gltf", ".obj", ".ply")
MOST_FACES = 2_000_000
NEAR = 0.02 / METRES_PER_UNIT  # box units, 2 cm: as far as hair is groomed or a neck is lengthened
LEAST_NEAR = 0.6  # share of the mesh's area that must lie so near the head: the rest may be a bust
LEAST_COVERED = 0.1  # share of the head's area that must have the mesh so near: less than a face alone
COMPARED_FACES = 60_000  # meshes are split up to this number to compare their places
OVERLAP_SIZE = 1024  # texels a side of the picture in which overlaps are counted
MOST_OVERLAP = 0.002  # share of covered texels that may lie under two faces: corners that touch
MOST_FLAT = 0.01  # share of the area whose faces may have no room in the texture
UV_SLACK = 1e-4  # of the texture's side that coordinates may stand out of it

UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # from +z up and a face to -y, as in Blender, to +y up
SCALES = {"in centimetres": 0.01, "in millimetres": 0.001, "a hundred times too small": 100.0}


@dataclass(frozen=True)
class EditedMesh:
    """A mesh in the head frame, and its texture coordinates if the file has some.

    uv: (v, 2), v running down, or None.
    """

    mesh: Mesh
    uv: FloatArray | None


def read_mesh(path: Path) -> EditedMesh:
    """Read GLB, OBJ or PLY as Headcast exports them: metres, +y up, origin at the base of the neck.

    Larger faces become triangles; faces without area go. Raises MeshUnreadable.
    """
    if not path.is_file():
        raise MeshUnreadable(f"The mesh does not exist: {path}", "Check the path.")
    if path.suffix.lower() not in FORMATS:
        raise MeshUnreadable(f"The file {path.name} is none of {', '.join(FORMATS)}.")
    try:
        loaded = trimesh.load_mesh(path, process=False)
        vertices = np.asarray(loaded.vertices, dtype=np.float64)
        faces = np.asarray(loaded.faces, dtype=np.int64)
    except Exception as error:
        raise MeshUnreadable(f"The mesh {path.name} cannot be read.") from error
    if not len(faces):
        raise MeshUnreadable(f"There are no faces in {path.name}.")
    if len(faces) > MOST_FACES:
        raise MeshUnreadable(f"The mesh {path.name} has {len(faces):,} faces.", f"Use at most {MOST_FACES:,} faces.")
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshUnreadable(f"The mesh {path.name} is damaged.")
    uv = getattr(loaded.visual, "uv", None)
    if uv is not None:
        uv = np.asarray(uv, dtype=np.float64)
        if uv.shape != (len(vertices), 2) or not np.isfinite(uv).all():
            uv = None
    to_metres = metres_from_head()
    vertices = np.asarray((vertices - to_metres[:3, 3]) @ np.linalg.inv(to_metres[:3, :3]).T, dtype=np.float64)
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    faces = faces[area > 0]
    if not len(faces):
        raise MeshUnreadable(f"The faces of {path.name} have no area.")
    used, kept = np.unique(faces, return_inverse=True)
    mesh = Mesh(vertices[used], kept.reshape(-1, 3))
    return EditedMesh(mesh, None if uv is None else np.column_stack([uv[used, 0], 1.0 - uv[used, 1]]))


def laid_on_head(edited: EditedMesh, head: Mesh) -> EditedMesh:
    """The edited mesh, its faces wound as the head's are. Raises MeshFarFromHead, which says what seems to be wrong."""
    if not lies_on(edited.mesh, head):
        raise MeshFarFromHead(hint=_advice(edited.mesh, head))
    outward = vertex_normals(head)[cKDTree(head.vertices).query(edited.mesh.vertices)[1]]
    if np.einsum("ij,ij->i", vertex_normals(edited.mesh), outward).sum() >= 0:
        return edited
    return EditedMesh(Mesh(edited.mesh.vertices, edited.mesh.faces[:, ::-1].copy()), edited.uv)


def lies_on(mesh: Mesh, head: Mesh) -> bool:
    """Whether most of a mesh lies near the head, and some of the head near the mesh."""
    points, area = _samples(mesh)
    head_points, head_area = _samples(head)
    near = cKDTree(head_points).query(points, distance_upper_bound=NEAR)[0] <= NEAR
    if area[near].sum() < LEAST_NEAR * area.sum():
        return False
    covered = cKDTree(points).query(head_points, distance_upper_bound=NEAR)[0] <= NEAR
    return bool(head_area[covered].sum() >= LEAST_COVERED * head_area.sum())


def uv_trouble(mesh: Mesh, uv: FloatArray) -> str:
    """What keeps texture coordinates (v, 2) from being painted on, in words; empty when nothing does."""
    if uv.min() < -UV_SLACK or uv.max() > 1 + UV_SLACK:
        return "lie outside the texture"
    corners, flat = mesh.vertices[mesh.faces], uv[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    flat_area = np.abs(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]))
    if area[flat_area <= 0].sum() > MOST_FLAT * area.sum():
        return "leave no room for some faces"
    size = (OVERLAP_SIZE, OVERLAP_SIZE)
    layers = np.zeros(size, dtype=np.int32)
    for _, cover in fragment_chunks(uv * OVERLAP_SIZE, mesh.faces, size):
        np.add.at(layers, (cover.row, cover.column), 1)
    if (layers > 1).sum() > MOST_OVERLAP * max((layers > 0).sum(), 1):
        return "overlap"
    return ""


def _samples(mesh: Mesh) -> tuple[FloatArray, FloatArray]:
    """Points all over a mesh, (n, 3), and the area each stands for."""
    fine, _ = subdivide(mesh, np.zeros((len(mesh.vertices), 2)), COMPARED_FACES)
    corners = fine.vertices[fine.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    return corners.mean(axis=1), area


def _advice(mesh: Mesh, head: Mesh) -> str | None:
    """What would bring the mesh onto the head, if it is one of the usual mistakes."""
    to_metres = metres_from_head()
    exported = mesh.vertices @ to_metres[:3, :3].T + to_metres[:3, 3]
    for turned, turn in (("", np.eye(3)), ("with +Z up", UPRIGHT)):
        for scaled, factor in {"": 1.0, **SCALES}.items():
            if not (turned or scaled):
                continue
            tried = (exported @ turn.T * factor - to_metres[:3, 3]) @ np.linalg.inv(to_metres[:3, :3]).T
            if lies_on(Mesh(tried, mesh.faces), head):
                how = " and ".join(word for word in (turned, scaled) if word)
                return f"It seems to have been exported {how}. Export it in metres with +Y up and the face to +Z."
    return None
