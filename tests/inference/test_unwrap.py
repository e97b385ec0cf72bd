"""Texture coordinates of a head: few islands, the face whole and upright, nothing on top of anything else."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy import ndimage

from inference.flattening import borders, distortion
from inference.progress import Cancelled, silent
from inference.raster import fragments
from inference.seams import Sides, cut_open, pieces
from inference.surface import Mesh, extract
from inference.unwrap import FACE_MAGNIFICATION, UnwrappedMesh, unwrap

from .analytic_fields import AnalyticField, head_on_neck

SIZE = 1024


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract(AnalyticField(head_on_neck()), 96, 6000, silent)


@pytest.fixture(scope="module")
def unwrapped(mesh: Mesh) -> UnwrappedMesh:
    return unwrap(mesh, silent)


def test_layout_lies_in_the_unit_square(unwrapped: UnwrappedMesh) -> None:
    assert unwrapped.uv.min() >= 0 and unwrapped.uv.max() <= 1
    assert len(unwrapped.uv) == len(unwrapped.mesh.vertices) == len(unwrapped.source)


def test_faces_keep_their_places_and_their_order(mesh: Mesh, unwrapped: UnwrappedMesh) -> None:
    np.testing.assert_array_equal(unwrapped.source[unwrapped.mesh.faces], mesh.faces)
    np.testing.assert_array_equal(unwrapped.mesh.vertices, mesh.vertices[unwrapped.source])


def islands_of(unwrapped: UnwrappedMesh) -> NDArray:
    """(f,) which island each face is on."""
    faces = unwrapped.mesh.faces
    pairs = np.stack([faces.ravel(), np.roll(faces, -1, axis=1).ravel()], axis=1)
    return pieces(len(unwrapped.uv), pairs)[faces[:, 0]]


def signed_areas(unwrapped: UnwrappedMesh) -> NDArray:
    """(f,) of the triangles in the texture, positive where the outside is seen as it is, not mirrored."""
    a, b, c = np.moveaxis(unwrapped.uv[unwrapped.mesh.faces] * [1, -1], 1, 0)
    first, second = b - a, c - a
    return (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2


def times_covered(unwrapped: UnwrappedMesh, size: int) -> NDArray:
    """(size, size) how many faces each texel belongs to."""
    cover = fragments(unwrapped.uv * size, unwrapped.mesh.faces, (size, size))
    return np.bincount(cover.row * size + cover.column, minlength=size * size).reshape(size, size)


def as_mesh(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(np.array(shape.vertices, dtype=float), np.array(shape.faces, dtype=np.int64))


def uv_at(unwrapped: UnwrappedMesh, x: float, y: float) -> tuple[NDArray, int]:
    """Texture coordinates and index of the vertex of the front that lies nearest to a point seen from the front."""
    vertices = unwrapped.mesh.vertices
    seen = np.where(vertices[:, 2] > 0.05, np.hypot(vertices[:, 0] - x, vertices[:, 1] - y), np.inf)
    return unwrapped.uv[seen.argmin()], int(seen.argmin())


def test_head_has_an_island_for_its_front_two_for_its_back_and_one_for_the_neck(unwrapped: UnwrappedMesh) -> None:
    island = islands_of(unwrapped)
    assert island.max() + 1 == 4
    centres = unwrapped.mesh.vertices[unwrapped.mesh.faces].mean(axis=1)
    back = centres[:, 2] < -0.13
    left, right = island[back & (centres[:, 0] > 0.02)], island[back & (centres[:, 0] < -0.02)]
    assert np.ptp(left) == 0 and np.ptp(right) == 0 and left[0] != right[0]
    level = unwrapped.mesh.vertices[:, 1].min()
    cap = (unwrapped.mesh.vertices[unwrapped.mesh.faces][..., 1] < level + 1e-6).all(axis=1)
    (cap_island,) = np.unique(island[cap])
    assert (island == cap_island).sum() == cap.sum()


def test_face_with_its_ears_is_on_one_island(unwrapped: UnwrappedMesh) -> None:
    centres = unwrapped.mesh.vertices[unwrapped.mesh.faces].mean(axis=1)
    face = (centres[:, 2] > np.where(np.abs(centres[:, 1]) < 0.12, -0.03, 0.02)) & (centres[:, 1] > -0.3)
    assert np.ptp(islands_of(unwrapped)[face]) == 0


def test_face_stands_upright_and_is_not_mirrored(unwrapped: UnwrappedMesh) -> None:
    forehead, chin = uv_at(unwrapped, 0.0, 0.1)[0], uv_at(unwrapped, 0.0, -0.2)[0]
    subjects_left, subjects_right = uv_at(unwrapped, 0.1, -0.05)[0], uv_at(unwrapped, -0.1, -0.05)[0]
    down, across = chin - forehead, subjects_left - subjects_right
    # Rows run down the texture; the subject's left is on the viewer's right.
    assert down[1] > 0.1 and abs(down[0]) < 0.05 * down[1]
    assert across[0] > 0.1 and abs(across[1]) < 0.05 * across[0]


def test_no_triangle_is_turned_over(unwrapped: UnwrappedMesh) -> None:
    assert (signed_areas(unwrapped) > 0).all()


def test_no_texel_belongs_to_two_faces(unwrapped: UnwrappedMesh) -> None:
    assert times_covered(unwrapped, 2 * SIZE).max() == 1


def test_more_than_half_of_the_texture_is_used(unwrapped: UnwrappedMesh) -> None:
    assert (times_covered(unwrapped, SIZE) > 0).mean() > 0.55


def test_face_has_finer_texels_than_the_rest_and_each_island_even_ones(unwrapped: UnwrappedMesh) -> None:
    corners = unwrapped.mesh.vertices[unwrapped.mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    flat = signed_areas(unwrapped)
    island = islands_of(unwrapped)
    density = np.sqrt(np.bincount(island, flat) / np.bincount(island, area))
    face = island[(unwrapped.mesh.faces == uv_at(unwrapped, 0.0, -0.05)[1]).any(axis=1)][0]
    np.testing.assert_allclose(density[face] / np.delete(density, face), FACE_MAGNIFICATION, rtol=1e-6)
    relative = np.sqrt(flat / area) / density[island]
    assert area[(relative > 0.8) & (relative < 1.25)].sum() > 0.9 * area.sum()


def test_islands_are_hardly_stretched(unwrapped: UnwrappedMesh) -> None:
    island = islands_of(unwrapped)
    for index in range(island.max() + 1):
        used, faces = np.unique(unwrapped.mesh.faces[island == index], return_inverse=True)
        faces = faces.reshape(-1, 3)
        vertices = unwrapped.mesh.vertices[used]
        corners = vertices[faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        scale = np.sqrt(area.sum() / signed_areas(unwrapped)[island == index].sum())
        # A sphere's half has 1.04; lengths that are off by a tenth everywhere have 1.02.
        assert area @ distortion(vertices, faces, unwrapped.uv[used] * [scale, -scale]) < 1.1 * area.sum()


def test_islands_keep_their_distance(unwrapped: UnwrappedMesh) -> None:
    """Filtering reads beyond an island; 8 texels at 2048 must not reach the next one, also across the texture's end."""
    island = islands_of(unwrapped)
    cover = fragments(unwrapped.uv * 2 * SIZE, unwrapped.mesh.faces, (2 * SIZE, 2 * SIZE))
    texture = np.full((2 * SIZE, 2 * SIZE), -1)
    texture[cover.row, cover.column] = island[cover.face]
    tiled = np.pad(texture, 16, mode="wrap")
    for index in range(island.max() + 1):
        distance = ndimage.distance_transform_edt(tiled != index)
        others = (tiled >= 0) & (tiled != index)
        assert distance[others].min() > 9


def test_same_mesh_gives_the_same_layout(mesh: Mesh, unwrapped: UnwrappedMesh) -> None:
    again = unwrap(mesh, silent)
    np.testing.assert_array_equal(again.uv, unwrapped.uv)
    np.testing.assert_array_equal(again.mesh.faces, unwrapped.mesh.faces)


def test_unwrapping_stops_when_cancelled(mesh: Mesh) -> None:
    def cancel(fraction: float, label: str) -> None:
        if fraction > 0.3:
            raise Cancelled()

    with pytest.raises(Cancelled):
        unwrap(mesh, cancel)


def torus() -> Mesh:
    """Standing before the face, so that its hole is on the front alone."""
    shape = trimesh.creation.torus(0.1, 0.03, major_sections=48, minor_sections=24)
    shape.apply_translation([0.0, 0.0, 0.1])
    return as_mesh(shape)


def spiky_ball() -> Mesh:
    """Every triangle on the flank of a spike is ten times as long as wide."""
    ball = trimesh.creation.icosphere(4, 0.1)
    spikes = np.sin(80 * ball.vertices[:, 0]) * np.sin(80 * ball.vertices[:, 2]) > 0.3
    ball.vertices = ball.vertices * np.where(spikes, 2.0, 1.0)[:, None]
    return as_mesh(ball)


def two_balls() -> Mesh:
    balls = [trimesh.creation.icosphere(3, 0.1).apply_translation([0, 0, z]) for z in (0.0, 0.3)]
    return as_mesh(trimesh.util.concatenate(balls))


SHAPES = {
    "tetrahedron": lambda: Mesh(np.eye(4)[:, :3] * 0.2, np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]])),
    "ball": lambda: as_mesh(trimesh.creation.icosphere(4, 0.2)),
    "ball aside": lambda: as_mesh(trimesh.creation.icosphere(3, 0.05).apply_translation([0.3, 0.3, 0.3])),
    "torus": torus,
    "spiky ball": spiky_ball,
    "two balls": two_balls,
    "head of 500 faces": lambda: extract(AnalyticField(head_on_neck()), 64, 500, silent),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_closed_mesh_gets_few_islands_without_overlap(shape: str) -> None:
    mesh = SHAPES[shape]()
    unwrapped = unwrap(mesh, silent)
    np.testing.assert_array_equal(unwrapped.mesh.vertices[unwrapped.mesh.faces], mesh.vertices[mesh.faces])
    assert islands_of(unwrapped).max() + 1 <= 12
    assert unwrapped.uv.min() >= 0 and unwrapped.uv.max() <= 1
    assert (signed_areas(unwrapped) > 0).all()
    assert times_covered(unwrapped, SIZE).max() == 1


def test_a_ring_with_a_handle_is_cut_into_a_disc() -> None:
    """What is left of a torus without one face has a border and a handle."""
    mesh = torus()
    sides = Sides.of(mesh)
    part = np.arange(1, len(mesh.faces))
    faces, source = cut_open(mesh, part, sides.inside(part, len(mesh.faces)))
    np.testing.assert_array_equal(source[faces], mesh.faces[part])
    edges = np.unique(np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1), axis=0)
    assert len(borders(faces)) == 1
    assert len(source) - len(edges) + len(faces) == 1


def test_distortion_is_one_for_a_turned_copy_and_that_of_the_stretches_otherwise() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    faces = np.array([[0, 1, 2]])
    turned = np.array([[0.0, 0], [0, 1], [-1, 0]])
    np.testing.assert_allclose(distortion(vertices, faces, turned), 1.0)
    # Twice as long one way, half as long the other: (4 + 1/4 + 1/4 + 4) / 4.
    np.testing.assert_allclose(distortion(vertices, faces, vertices[:, :2] * [2.0, 0.5]), 2.125)
