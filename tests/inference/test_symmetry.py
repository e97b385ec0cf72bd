from __future__ import annotations

import numpy as np
import pytest

from inference.camera import orbit_camera
from inference.progress import Progress, silent
from inference.surface import NECK_CUT_Y, border_loops, extract, is_clean, vertex_normals
from inference.symmetry import CROSSING, MIRROR, SYMMETRIES, SymmetricField, symmetric

from .analytic_fields import AnalyticField, head_on_neck, sphere, union

BUMP = (0.14, 0.08, 0.08)  # head frame: a lump on the subject's left temple, and none on the right


class Lopsided(AnalyticField):
    """A head with a bump on its left side, red there and blue on the right; a field that tells its progress."""

    def density(self, points: np.ndarray, progress: Progress = silent) -> np.ndarray:
        return super().density(points)

    def colour(self, points: np.ndarray, progress: Progress = silent) -> np.ndarray:
        return np.where(points[:, :1] > 0, [[1.0, 0, 0]], [[0, 0, 1.0]]).astype(np.float32)


@pytest.fixture
def lopsided() -> Lopsided:
    return Lopsided(union(head_on_neck(), sphere(0.05, BUMP)))


@pytest.mark.parametrize("symmetry", ["average", "mirror"])
@pytest.mark.parametrize("azimuth_deg", [-20.0, 20.0])
def test_both_sides_are_the_same(lopsided: Lopsided, symmetry: str, azimuth_deg: float) -> None:
    field = symmetric(lopsided, symmetry, orbit_camera(azimuth_deg))
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (2000, 3)).astype(np.float32)
    np.testing.assert_allclose(field.density(points), field.density(points * MIRROR), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(field.colour(points), field.colour(points * MIRROR), atol=1e-6)


def test_off_leaves_the_field_alone(lopsided: Lopsided) -> None:
    assert symmetric(lopsided, SYMMETRIES[0], orbit_camera(0)) is lopsided


@pytest.mark.parametrize("azimuth_deg", [-20.0, 20.0])
def test_mirrored_the_side_counts_that_the_camera_stands_on(lopsided: Lopsided, azimuth_deg: float) -> None:
    camera = orbit_camera(azimuth_deg)
    field = symmetric(lopsided, "mirror", camera)
    left = np.array([[*BUMP], [0.16, 0.0, 0.0]], dtype=np.float32)
    kept = left if camera.position[0] > 0 else left * MIRROR
    for points in (left, left * MIRROR):
        np.testing.assert_allclose(field.density(points), lopsided.density(kept), rtol=1e-6)
        np.testing.assert_allclose(field.colour(points), lopsided.colour(kept))


def test_averaged_a_bump_on_one_side_is_half_as_deep_on_both(lopsided: Lopsided) -> None:
    field = SymmetricField(lopsided, 0)
    at = np.array([BUMP], dtype=np.float32)
    expected = (lopsided.density(at) + lopsided.density(at * MIRROR)) / 2
    np.testing.assert_allclose(field.density(at), expected, rtol=1e-6)


def test_mirroring_leaves_no_crease_in_the_middle() -> None:
    leaning = Lopsided(lambda points: points[:, 2] - 0.2 - 0.5 * points[:, 0])  # a wall at an angle to the middle
    field = SymmetricField(leaning, 1)
    x = np.linspace(-2 * CROSSING, 2 * CROSSING, 401)
    points = np.stack([x, np.zeros_like(x), np.full_like(x, 0.2)], axis=1)
    slope = np.gradient(field.density(points).astype(np.float64), x)
    # Unmixed, the slope would jump by twice its size at 0.
    assert np.abs(np.diff(slope)).max() < 0.05 * np.abs(slope).max()
    assert abs(slope[200]) < 0.02 * np.abs(slope).max()


@pytest.mark.parametrize("neck", ["closed", "open"])
@pytest.mark.parametrize("side", [-1, 0, 1])
def test_the_mesh_is_clean_and_the_same_on_both_sides_face_for_face(lopsided: Lopsided, side: int, neck: str) -> None:
    mesh = extract(SymmetricField(lopsided, side), 96, 5000, silent, neck, symmetric=True)
    assert is_clean(mesh, openings=int(neck == "open"))
    assert 4500 <= len(mesh.faces) <= 5000
    place = {tuple(vertex): index for index, vertex in enumerate(mesh.vertices + 0.0)}  # no -0
    partner = np.array([place[tuple(vertex)] for vertex in mesh.vertices * [-1, 1, 1] + 0.0])
    faces = {tuple(sorted(face)) for face in mesh.faces.tolist()}
    assert {tuple(sorted(face)) for face in partner[mesh.faces].tolist()} == faces
    widest = np.abs(mesh.vertices[mesh.vertices[:, 1] > 0.06, 0]).max()
    bump = 0.19 - 0.002
    assert widest > bump if side == 1 else widest < bump


def test_normals_in_the_middle_lie_in_the_middle(lopsided: Lopsided) -> None:
    mesh = extract(SymmetricField(lopsided, 1), 96, 5000, silent, symmetric=True)
    middle = mesh.vertices[:, 0] == 0
    assert middle.sum() > 50
    np.testing.assert_allclose(vertex_normals(mesh)[middle, 0], 0.0, atol=1e-9)


def test_vertices_of_a_symmetric_head_lie_on_the_level(lopsided: Lopsided) -> None:
    field = SymmetricField(lopsided, 0)
    mesh = extract(field, 96, 5000, silent, "open", symmetric=True)
    free = mesh.vertices[:, 1] > NECK_CUT_Y + 1e-4
    off = np.abs(field.density(mesh.vertices[free]) - field.level) / 2000
    assert np.percentile(off, 99) < 2e-4  # a fortieth of a cell; a few stay where moving would turn a face
    assert len(border_loops(mesh)) == 1
