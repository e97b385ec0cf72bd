"""The fitted shape bends onto the scan: smooth displacements that become finer from round to round.

Minimised is, over the surface, trust * (distance to the scan's tangent plane)^2 + length^4 * (Laplacian of the
displacement)^2: a thin plate that follows what is wider than `length` (non-rigid ICP with stiffness that falls, after
Amberg et al., CVPR 2007). Where there is no skin to be seen the plate runs on smoothly, and is kept inside the scan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ..progress import Progress
from ..sparse_systems import factorised, stiffness_and_area
from ..surface import NECK_CUT_Y
from ..template import MOUTH, PARTS, SKIN, SOCKET, RigTemplate, triangles
from .observation import Observation
from .shape_fit import CAP_MARGIN, MM, ShapeFit, across_rays, correspond, landmark_trust

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

LENGTHS = tuple(length * MM for length in (30, 30, 15, 15, 8, 8, 5, 5, 3.5, 3.5, 3, 3))
FAR = (8 * MM, 4 * MM)  # correspondences count half there, first and last
LANDMARK_AREA = 30 * MM**2  # of skin that counts as much as one landmark
SLIDE = 0.02  # of the trust: against sliding along the scan
HOLD = 0.01  # trust of the fitted shape itself where nothing is seen
EAR_GROWTH = (0.85, 1.2)  # against the template's, after the head's own size
BELOW_HAIR = 2 * MM  # the scalp stays so far inside the scan
EAR_SHARE = 0.3  # of the painted region, from which on a vertex is the ear's
EAR_ROOT, EAR_ROOT_BEHIND = 10 * MM, 24 * MM  # around it, before it and behind or above: there the head goes along
COTANGENTS = (0.05, 20.0)  # bounds: no side is slack, and none as stiff as a sliver's
INSIDE_TRUST = 0.5  # of the plane that keeps it there


def plate(vertices: FloatArray, faces: IntArray) -> tuple[sparse.csr_matrix, FloatArray]:
    """(v, v) bending energy of displacements, integral of the squared Laplacian, and (v,) areas."""
    stiffness, area = stiffness_and_area(vertices, faces, *COTANGENTS)
    area = np.where(area > 0, area, 1.0)  # vertices of no face
    return (stiffness.T @ sparse.diags(1 / area) @ stiffness).tocsr(), area


def fit_surface(
    template: RigTemplate, shape: ShapeFit, seen: Observation, skin: FloatArray, progress: Progress
) -> FloatArray:
    """(v, 3) vertices of the fitted shape bent onto the scan; its eyes and teeth stay where they are.

    skin: (v,) trust in [0, 1] that the scan shows the template's skin at a vertex.
    """
    start = shape.vertices(template)
    own = template.vertices_of(SKIN, MOUTH, SOCKET)  # one connected surface; the first vertices of the template
    faces = triangles(template.faces[template.part <= SOCKET])
    outside = template.vertices_of(SKIN)
    count = len(own)
    bending, area = plate(start[:count], faces)
    bending3 = sparse.kron(bending, sparse.eye(3), format="csc")
    across = across_rays(seen.rays)
    on_skin = np.flatnonzero(template.landmark_vertices.max(axis=1) < count)
    pick = sparse.csr_matrix(
        (
            template.landmark_weights[on_skin].ravel(),
            (np.repeat(np.arange(len(on_skin)), 3), template.landmark_vertices[on_skin].ravel()),
        ),
        shape=(len(on_skin), count),
    )
    pick3 = sparse.kron(pick, sparse.eye(3), format="csr")
    vertices = start.copy()
    for round_, length in enumerate(LENGTHS):
        progress(round_ / len(LENGTHS), "Fitting the face's surface")
        share = round_ / (len(LENGTHS) - 1)
        met = correspond(template, vertices, seen, outside, FAR[0] + share * (FAR[1] - FAR[0]))
        trust = met.weight * skin[outside]
        # Only below hair that runs as the skull does: the walls of a parting or around an ear would push aside.
        inside = (met.signed_distance > -BELOW_HAIR) & (skin[outside] < 0.3) & met.alike
        # The scan ends at its cut: shoulders are outside of it and stay there.
        inside &= np.minimum(met.points[:, 1], vertices[outside, 1]) > NECK_CUT_Y + CAP_MARGIN
        target = met.points - np.where(inside, BELOW_HAIR, 0.0)[:, None] * met.normals
        trust = np.maximum(trust, np.where(inside, INSIDE_TRUST, 0.0)) * area[outside]
        planes = np.zeros((count, 3, 3))
        planes[outside] = trust[:, None, None] * (np.einsum("vi,vj->vij", met.normals, met.normals) + SLIDE * np.eye(3))
        pull = np.zeros((count, 3))
        pull[outside] = np.einsum("vij,vj->vi", planes[outside], target - start[outside])
        planes += (HOLD * area)[:, None, None] * np.eye(3)
        weight = landmark_trust(template, vertices, seen)[on_skin] * LANDMARK_AREA
        points = pick @ start[:count]
        sideways = np.einsum("lai,laj->lij", across[on_skin], across[on_skin]) * weight[:, None, None]
        seen_at = np.einsum("lij,lj->li", sideways, seen.camera.position - points)
        blocks = _block_diagonal(planes) + pick3.T @ _block_diagonal(sideways) @ pick3
        system = length**4 * bending3 + blocks
        right = pull.ravel() + pick3.T @ seen_at.ravel()
        vertices[:count] = start[:count] + factorised(system).solve(right).reshape(-1, 3)
    return ears_carried(template, shape, vertices)


def ears_carried(template: RigTemplate, shape: ShapeFit, vertices: FloatArray) -> FloatArray:
    """The template's own ears where the skin around them has gone, turned and sized with it.

    Scans know an ear's outline at most, and landmarks nothing: modes and bending would fold it onto the skull.
    """
    mean = shape.place(template.vertices)
    carried = vertices.copy()
    for side in (1.0, -1.0):
        is_ear = (template.ears > EAR_SHARE) & (template.vertices[:, 0] * side > 0)
        near = cKDTree(template.vertices[is_ear]).query(template.vertices)[0]
        near[template.vertices_of(*range(SOCKET, len(PARTS)))] = np.inf
        middle = template.vertices[is_ear].mean(axis=0)
        behind = (template.vertices[:, 2] < middle[2]) | (template.vertices[:, 1] > middle[1])
        share = np.clip(2 * (1 - near / np.where(behind, EAR_ROOT_BEHIND, EAR_ROOT)), 0, 1)
        ear = np.flatnonzero(share > 0)
        around = ear[share[ear] < 1]
        root, moved = mean[around].mean(axis=0), vertices[around].mean(axis=0)
        turn, _ = Rotation.align_vectors(vertices[around] - moved, mean[around] - root)
        sizes = [np.linalg.norm(points[around] - points[around].mean(axis=0)) for points in (mean, vertices)]
        whole = np.clip(sizes[1] / sizes[0], *EAR_GROWTH) * turn.apply(mean[ear] - root) + moved
        carried[ear] += share[ear, None] * (whole - vertices[ear])
    return carried


def _block_diagonal(blocks: FloatArray) -> sparse.csr_matrix:
    """(3n, 3n) from (n, 3, 3)."""
    n = len(blocks)
    return sparse.bsr_matrix((blocks, np.arange(n), np.arange(n + 1)), shape=(3 * n, 3 * n)).tocsr()
