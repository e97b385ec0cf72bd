"""Another unseen side on the same mesh: vertices that the photo does not see follow the new surface, the others stay.

Faces and texture coordinates stay too, so that what the photo painted keeps its texels and an artist keeps the
topology. The vertices travel along their normals in a few short steps, as a level set would move there; each step is
smoothed over the surface, and near what is seen it is held back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from .camera import Camera
from .progress import Progress
from .raster import fragment_chunks, rasterise_view
from .surface import DensityField, Mesh, vertex_normals, weld

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

BORDER_WIDTH = 0.05  # box units, 26 mm: over which vertices behind the border of what is seen become free to move
REACH = 0.024  # box units, 12 mm: farthest that a vertex looks, and goes, in one step
LOOKS = 9  # densities read along a normal in one step
SMOOTHINGS = (12, 12, 8, 8, 4, 2)  # rounds of averaging what a step moves; the last steps follow the surface closely
NORMAL_SMOOTHINGS = 4  # rounds of averaging normals: locks must not send neighbours across each other
SLIDE = 0.5  # of the way to the middle of its neighbours that a free vertex goes along the surface in one step
FULL_SLIDE = 0.004  # box units a vertex must go off the surface to slide that far along it: what stays stays put
GENTLE_TRIES, GENTLE_RINGS = 8, 6  # halvings of the way around faces that would turn over, and how far around
IRON_RINGS, IRON_ROUNDS = 4, 12  # how far around crumpled faces, and how often, vertices are averaged
CRUMPLED_COSINE = 0.4  # between a face and the surface around it: less is a crease that no smooth hair has
LEAST_COSINE = 0.2  # between a face's normal before and after a step; more and it counts as turned over
SLIVER = 1e-3  # height of a face over its longest side, below which a step is undone there
CAP_MARGIN = 1e-6  # box units: vertices of the neck's flat cut stay in it
PICTURE_SIZE = 1024  # px of the photo camera's look at the head


def seen_vertices(mesh: Mesh, uv: FloatArray, visibility_map: NDArray[np.uint8], camera: Camera) -> BoolArray:
    """(v,) whether a vertex must stay: its faces hold texels of the photo, or the photo's camera sees them.

    visibility_map: (t, t), not 0 where a texel holds something of the photo.
    """
    size = visibility_map.shape
    seen_face = np.zeros(len(mesh.faces), dtype=bool)
    for _, cover in fragment_chunks(uv * size[0], mesh.faces, (size[0], size[1])):
        seen_face[cover.face[visibility_map[cover.row, cover.column] > 0]] = True
    in_view = rasterise_view(mesh.vertices, mesh.faces, camera, PICTURE_SIZE)
    seen_face[in_view.face[in_view.covered]] = True
    whole, merged = weld(mesh)
    seen = np.zeros(len(whole.vertices), dtype=bool)
    seen[whole.faces[seen_face]] = True
    return seen[merged]


def follow_unseen(mesh: Mesh, seen: BoolArray, field: DensityField, progress: Progress) -> Mesh:
    """The mesh with its unseen vertices on the field's surface, as far as they can go there smoothly.

    mesh:    unwrapped; vertices at one place stay at one place.
    seen:    (v,) vertices that stay, to the last bit.
    Returns: the same faces; none of them turned over or flattened.
    """
    whole, merged = weld(mesh)
    fixed = np.zeros(len(whole.vertices), dtype=bool)
    fixed[merged[seen]] = True
    fixed |= whole.vertices[:, 1] <= whole.vertices[:, 1].min() + CAP_MARGIN
    freedom = _freedom(whole, fixed)
    if not (freedom > 0).any():
        return mesh
    average = _average(whole)
    limit = field.box_side / 2 - REACH / LOOKS
    for step, rounds in enumerate(SMOOTHINGS):
        progress(step / len(SMOOTHINGS), "Shaping the unseen side")
        normals = vertex_normals(whole)
        for _ in range(NORMAL_SMOOTHINGS):
            normals = average @ normals
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        free = np.flatnonzero(freedom > 0)
        way = np.zeros(len(whole.vertices))
        found = np.zeros(len(whole.vertices))
        way[free], found[free] = _way_to_level(whole.vertices[free], normals[free], field)
        way = _smoothed(way, found, freedom, average, rounds)
        # Along the surface vertices go towards the middle of their neighbours, or faces crowd where it draws in.
        slide = average @ whole.vertices - whole.vertices
        slide -= np.einsum("ij,ij->i", slide, normals)[:, None] * normals
        slide *= np.clip(np.abs(way) / FULL_SLIDE, 0, 1)[:, None]
        target = whole.vertices + freedom[:, None] * (way[:, None] * normals + SLIDE * slide)
        target = np.where((freedom > 0)[:, None], np.clip(target, -limit, limit), whole.vertices)
        target[:, 1] = np.where(freedom > 0, np.maximum(target[:, 1], whole.vertices[fixed, 1].min()), target[:, 1])
        whole = Mesh(_without_turned_faces(whole, target, average), whole.faces)
        whole = Mesh(_ironed(whole, freedom, average), whole.faces)
    moved = mesh.vertices.copy()
    free = (freedom > 0)[merged]
    moved[free] = whole.vertices[merged[free]]
    return Mesh(moved, mesh.faces)


def _freedom(mesh: Mesh, fixed: BoolArray) -> FloatArray:
    """(v,) 0 on fixed vertices, rising smoothly to 1 at BORDER_WIDTH from them along the surface."""
    if not fixed.any():
        return np.ones(len(fixed))
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
    length = np.linalg.norm(mesh.vertices[start] - mesh.vertices[end], axis=1)
    graph = sparse.csr_matrix((np.maximum(length, 1e-12), (start, end)), shape=(len(fixed),) * 2)
    graph = graph.maximum(graph.T)
    away = dijkstra(graph, indices=np.flatnonzero(fixed), min_only=True, limit=BORDER_WIDTH)
    t = np.clip(np.where(np.isfinite(away), away, BORDER_WIDTH) / BORDER_WIDTH, 0, 1)
    return t * t * (3 - 2 * t)


def _average(mesh: Mesh) -> sparse.csr_matrix:
    """(v, v) mean of a vertex's neighbours."""
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
    joined = sparse.csr_matrix(
        (np.ones(2 * len(start)), (np.r_[start, end], np.r_[end, start])), shape=(len(mesh.vertices),) * 2
    )
    joined.data[:] = 1.0
    counts = np.asarray(joined.sum(axis=1)).ravel()
    return sparse.diags(1 / np.maximum(counts, 1)) @ joined


def _way_to_level(points: FloatArray, normals: FloatArray, field: DensityField) -> tuple[FloatArray, FloatArray]:
    """(m,) way along the normal to the nearest place where the field's inside ends, box units, and (m,) 1 or 0.

    Where no such place lies within REACH, the way is REACH: outwards from inside, inwards from outside.
    """
    offsets = np.linspace(-REACH, REACH, LOOKS)
    looks = points[:, None] + offsets[:, None] * normals[:, None]  # (m, LOOKS, 3)
    above = np.asarray(field.density(looks.reshape(-1, 3).astype(np.float32)), dtype=np.float64) - field.level
    above = above.reshape(len(points), LOOKS)
    inner, outer = above[:, :-1], above[:, 1:]
    crossing = (inner > 0) & (outer <= 0)
    share = np.where(crossing, inner / np.where(crossing, inner - outer, 1.0), 0.5)
    places = offsets[:-1] + share * (offsets[1] - offsets[0])
    nearest = np.where(crossing, np.abs(places), np.inf).argmin(axis=1)[:, None]
    way = np.take_along_axis(places, nearest, axis=1)[:, 0]
    inside, outside = (above > 0).all(axis=1), (above <= 0).all(axis=1)
    way = np.where(crossing.any(axis=1), way, np.where(inside, REACH, np.where(outside, -REACH, 0.0)))
    return way, (crossing.any(axis=1) | inside | outside).astype(np.float64)


def _smoothed(
    way: FloatArray, found: FloatArray, freedom: FloatArray, average: sparse.csr_matrix, rounds: int
) -> FloatArray:
    """The way averaged over neighbours, those without an own one following; seen vertices pull it to 0."""
    weight = np.where(freedom > 0, found, 1.0)
    total, count = way * weight, weight
    for _ in range(rounds):
        total, count = average @ total, average @ count
    return total / np.maximum(count, 1e-9)


def _ironed(mesh: Mesh, freedom: FloatArray, average: sparse.csr_matrix) -> FloatArray:
    """(v, 3) the vertices, smoothed where the surface has crumpled: where faces look another way than those around."""
    around = vertex_normals(mesh)
    for _ in range(IRON_RINGS):
        around = average @ around
    around /= np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-9)
    crosses = _crosses(mesh.vertices, mesh.faces)
    crosses /= np.maximum(np.linalg.norm(crosses, axis=1, keepdims=True), 1e-30)
    crumpled = np.einsum("ij,ij->i", crosses, around[mesh.faces].mean(axis=1)) < CRUMPLED_COSINE
    weight = np.zeros(len(mesh.vertices))
    weight[mesh.faces[crumpled]] = 1.0
    for _ in range(IRON_RINGS):
        weight = np.maximum(weight, average @ weight)
    weight *= freedom
    vertices = mesh.vertices
    if (weight > 0).any():
        for _ in range(IRON_ROUNDS):
            vertices = vertices + weight[:, None] * (average @ vertices - vertices)
    return vertices


def _without_turned_faces(before: Mesh, target: FloatArray, average: sparse.csr_matrix) -> FloatArray:
    """(v, 3) the target, but less of the way, or none, around faces that would turn over or flatten."""
    target = target.copy()
    gentle = GENTLE_TRIES
    normal_before = _crosses(before.vertices, before.faces)
    was_flat = _flat(before.vertices, before.faces, normal_before)
    length_before = np.linalg.norm(normal_before, axis=1)
    while True:
        # Undoing some vertices may tip a neighbouring face, so look again; with all undone nothing is left to tip.
        normal = _crosses(target, before.faces)
        cosine = np.einsum("ij,ij->i", normal, normal_before) / (np.linalg.norm(normal, axis=1) * length_before + 1e-30)
        spoilt = (cosine < LEAST_COSINE) | (_flat(target, before.faces, normal) & ~was_flat)
        if spoilt.any() and gentle:
            # All around go half the way: a vertex that alone stays behind is a dent.
            gentle -= 1
            near = np.zeros(len(target))
            near[before.faces[spoilt]] = 1.0
            for _ in range(GENTLE_RINGS):
                near = np.maximum(near, average @ near)
            target = before.vertices + (1 - 0.5 * near)[:, None] * (target - before.vertices)
            continue
        undo = np.unique(before.faces[spoilt])
        undo = undo[(target[undo] != before.vertices[undo]).any(axis=1)]
        if not len(undo):
            return target
        target[undo] = before.vertices[undo]


def _crosses(vertices: FloatArray, faces: NDArray[np.integer]) -> FloatArray:
    """(f, 3) normals of the faces, twice as long as the faces are large."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _flat(vertices: FloatArray, faces: NDArray[np.integer], crosses: FloatArray) -> BoolArray:
    """(f,) whether a face is a sliver."""
    corners = vertices[faces]
    longest = ((np.roll(corners, -1, axis=1) - corners) ** 2).sum(axis=2).max(axis=1)
    return np.linalg.norm(crosses, axis=1) < SLIVER * longest
