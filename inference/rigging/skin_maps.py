"""What a skin shader wants besides colour: a normal map from the scan, and roughness and specular by region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..bake import fill_uncovered, subdivide
from ..facing import smoothstep
from ..raster import Fragments, fragment_chunks
from ..surface import Mesh, vertex_normals
from ..template import LANDMARKS, MOUTH, SKIN, SOCKET, RigTemplate, triangles
from .nearest import NearestPoints
from .shape_fit import MM
from .uv_picture import painted

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

NORMAL_FACES = 40_000  # the skin is split up to this number: sides of 3 mm on the face, as fine as a scan's
AGREE = (np.cos(np.radians(60)), np.cos(np.radians(40)))  # cosine of both normals: below, they are of other things
FLAT = (0.0, 0.0, 1.0)

SURFACE_SIDE = 1024  # texels at most: regions have no edges
# Roughness and specular level of a Principled BSDF; measured faces have roughness about .3 on nose and forehead and
# .5 on the cheeks (Weyrich et al., "Analysis of human faces using a measurement-based skin reflectance model", 2006).
SKIN_GLOSS = (0.50, 0.45)
OILY_GLOSS, LIP_GLOSS, LID_GLOSS = (0.38, 0.52), (0.30, 0.55), (0.42, 0.50)
HAIR_GLOSS, EAR_GLOSS, WET_GLOSS = (0.72, 0.20), (0.52, 0.40), (0.18, 0.60)
OILY = {  # landmarks of the oily zone and their reach
    (151, 9, 108, 337, 10): 20 * MM,  # forehead
    (6, 197, 195, 5, 4, 1): 11 * MM,  # bridge and tip of the nose
    (152, 199, 200): 12 * MM,  # chin
}
LIDS, LID_REACH = (159, 145, 386, 374, 33, 133, 263, 362), 10 * MM


def normal_map(
    template: RigTemplate, vertices: FloatArray, trust: FloatArray, scan: NearestPoints, side: int
) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 tangent-space normals that make the smoothly shaded template look as the scan.

    The frame is that of the template with `vertices` (v, 3), as photographed, in its texture coordinates: red along
    rising u, green along falling v (v runs down, so green is up in the picture: OpenGL's convention, as glTF and
    Blender have it), blue along the smooth normal. Tangents are averaged at vertices as MikkTSpace does (Mikkelsen,
    "Simulation of wrinkled surfaces revisited", 2008). Scan and template are compared where they are nearest.

    trust: (v,) in [0, 1] how far a vertex was fitted to skin that the scan shows; without it the map is flat, as it is
    in mouth and sockets and where the normals have nothing to do with each other.
    """
    quads = template.part == SKIN
    corners = np.stack([template.faces[quads].ravel(), template.uv_faces[quads].ravel()], axis=1)
    split, numbered = np.unique(corners, axis=0, return_inverse=True)  # one vertex for each side of a seam
    mesh = Mesh(vertices[split[:, 0]], triangles(numbered.reshape(-1, 4)))
    uv = template.uv[split[:, 1]]
    normals = vertex_normals(mesh)
    values = np.column_stack([uv, normals, uv_tangents(mesh, uv, normals), trust[split[:, 0]]])
    fine, values = subdivide(mesh, values, NORMAL_FACES)
    uv, normal, tangent, trust = values[:, :2], _unit(values[:, 2:5]), values[:, 5:8], values[:, 8]
    tangent = _unit(tangent - np.einsum("ij,ij->i", tangent, normal)[:, None] * normal)
    local = np.tile(FLAT, (len(uv), 1))
    asked = np.flatnonzero(trust > 0)
    seen = scan(fine.vertices[asked]).normals
    frame = np.stack([tangent, np.cross(normal, tangent), normal], axis=1)[asked]
    turned = np.einsum("nij,nj->ni", frame, seen)
    share = trust[asked] * smoothstep(turned[:, 2], *AGREE)
    local[asked] += share[:, None] * (turned - FLAT)

    picture = np.full((side, side, 3), encoded(np.array([FLAT]))[0], np.uint8)
    covered = np.zeros((side, side), bool)
    for _, cover in fragment_chunks(uv * side, fine.faces, (side, side)):
        picture[cover.row, cover.column] = encoded(_unit(cover.interpolate(local, fine.faces)))
        covered[cover.row, cover.column] = True
    return fill_uncovered(picture, covered | _outside_skin(template, side))


def encoded(normals: FloatArray) -> NDArray[np.uint8]:
    """(n, 3) uint8 of unit normals (n, 3): 0 is -1, 255 is 1, and 128 stands for 0."""
    return np.clip(np.floor((normals + 1) * 128), 0, 255).astype(np.uint8)


def uv_tangents(mesh: Mesh, uv: FloatArray, normals: FloatArray) -> FloatArray:
    """(v, 3) unit tangents along rising u, averaged over the faces around a vertex by their angle there."""
    corners, flat = mesh.vertices[mesh.faces], uv[mesh.faces]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    (u1, v1), (u2, v2) = (flat[:, 1] - flat[:, 0]).T, (flat[:, 2] - flat[:, 0]).T
    turn = np.sign(u1 * v2 - u2 * v1)
    along_u = _unit(turn[:, None] * (v2[:, None] * first - v1[:, None] * second))
    total = np.zeros_like(mesh.vertices)
    for corner in range(3):
        at = mesh.faces[:, corner]
        left = _unit(corners[:, (corner + 1) % 3] - corners[:, corner])
        right = _unit(corners[:, (corner + 2) % 3] - corners[:, corner])
        angle = np.arccos(np.clip(np.einsum("ij,ij->i", left, right), -1, 1))
        for axis in range(3):
            total[:, axis] += np.bincount(at, angle * along_u[:, axis], len(total))
    return _unit(total - np.einsum("ij,ij->i", total, normals)[:, None] * normals)


def surface_map(template: RigTemplate, hair: FloatArray, side: int) -> NDArray[np.uint8]:
    """(s, s, 3) uint8 linear: 0, roughness and specular level of the skin by region; s is `side` up to SURFACE_SIDE.

    hair: (v,) in [0, 1] how far the skin's picture shows hair, or has roots of it.
    """
    points = template.vertices
    landmarks = template.landmarks(points)[:LANDMARKS]

    def near(spots: tuple[int, ...], reach: float) -> FloatArray:
        away = cKDTree(landmarks[list(spots)]).query(points)[0]
        return np.exp(-((away / reach) ** 2))

    inner = np.zeros(len(points))
    inner[np.setdiff1d(template.vertices_of(MOUTH, SOCKET), template.vertices_of(SKIN))] = 1.0
    gloss = np.tile(SKIN_GLOSS, (len(points), 1))
    regions = [(near(spots, reach), OILY_GLOSS) for spots, reach in OILY.items()]
    regions += [(near(LIDS, LID_REACH), LID_GLOSS), (template.ears, EAR_GLOSS), (hair, HAIR_GLOSS)]
    regions += [(template.lips, LIP_GLOSS), (inner, WET_GLOSS)]
    for share, there in regions:
        gloss += np.asarray(share, dtype=float)[:, None] * (np.array(there) - gloss)
    values = np.column_stack([np.zeros(len(gloss)), gloss])

    def shade(cover: Fragments, faces: IntArray) -> FloatArray:
        return cover.interpolate(values, faces)

    return painted(template, (SKIN, MOUTH, SOCKET), min(side, SURFACE_SIDE), shade)


def _outside_skin(template: RigTemplate, side: int) -> NDArray[np.bool_]:
    """(side, side) texels of mouth and sockets, which stay flat."""
    chosen = np.isin(template.part, (MOUTH, SOCKET))
    mask = np.zeros((side, side), bool)
    for _, cover in fragment_chunks(template.uv * side, triangles(template.uv_faces[chosen]), (side, side)):
        mask[cover.row, cover.column] = True
    return mask


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
