"""Texture coordinates of a head: inside the square, nothing on top of anything else."""

from __future__ import annotations

import numpy as np
import pytest

from inference.progress import silent
from inference.raster import fragments
from inference.surface import Mesh, extract
from inference.unwrap import UnwrappedMesh, arrange, unwrap

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


def test_no_texel_belongs_to_two_faces(unwrapped: UnwrappedMesh) -> None:
    cover = fragments(unwrapped.uv * SIZE, unwrapped.mesh.faces, (SIZE, SIZE))
    times = np.bincount(cover.row * SIZE + cover.column, minlength=SIZE * SIZE)
    # Faces of one island share sides, which the raster gives to one of them. Rounding of uv may move a few.
    assert (times > 1).sum() <= 1e-4 * (times > 0).sum()


def test_most_of_the_texture_is_used_and_evenly(unwrapped: UnwrappedMesh) -> None:
    flat = unwrapped.uv[unwrapped.mesh.faces]
    flat_area = np.abs(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])) / 2
    corners = unwrapped.mesh.vertices[unwrapped.mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert flat_area.sum() > 0.4
    density = np.sqrt(flat_area / area / (flat_area.sum() / area.sum()))
    # By area, nine tenths of the head have between half and twice the mean number of texels along a length.
    assert area[(density > 0.5) & (density < 2.0)].sum() > 0.9 * area.sum()


def test_islands_keep_their_distance(unwrapped: UnwrappedMesh) -> None:
    """Filtering reads beyond an island; 8 texels at 2048 must not reach the next one."""
    from scipy import ndimage, sparse

    faces = unwrapped.mesh.faces
    graph = sparse.coo_matrix((np.ones(faces.size), (faces.ravel(), np.roll(faces, 1, axis=1).ravel())))
    _, island = sparse.csgraph.connected_components(graph, directed=False)
    cover = fragments(unwrapped.uv * SIZE, faces, (SIZE, SIZE))
    texture = np.zeros((SIZE, SIZE), dtype=int)
    texture[cover.row, cover.column] = island[faces[cover.face, 0]] + 1
    # Within 4 texels of 1024, all covered texels must be of one island.
    near_most = ndimage.maximum_filter(texture, 5)
    near_least = ndimage.minimum_filter(np.where(texture > 0, texture, texture.max() + 1), 5)
    assert (near_most[texture > 0] == near_least[texture > 0]).mean() > 0.999


def test_rectangles_lie_beside_each_other_in_a_square_that_holds_them() -> None:
    sizes = np.random.default_rng(0).integers(50, 200, (12, 2))
    corners, side = arrange(sizes)
    assert corners.min() >= 0 and (corners + sizes).max() == side
    for i in range(12):
        for j in range(i):
            apart = (corners[i] >= corners[j] + sizes[j]) | (corners[j] >= corners[i] + sizes[i])
            assert apart.any()
    assert sizes.prod(axis=1).sum() > 0.7 * side**2
