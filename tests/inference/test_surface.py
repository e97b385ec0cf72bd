"""Known shapes go in as density; what must come out can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from inference.errors import NoSurface
from inference.progress import Cancelled, silent
from inference.surface import (
    METRES_PER_UNIT,
    NECK_CUT_Y,
    OUTSIDE,
    Mesh,
    border_loops,
    decimate,
    extract,
    folded_faces,
    head_lattice,
    height_m,
    is_clean,
    is_watertight,
    largest_solid,
    lattice_points,
    march,
    metres_from_head,
    open_neck,
    repair,
    sample_near_surface,
    unfold,
    vertex_normals,
    weld,
)

from .analytic_fields import AnalyticField, Distance, head_on_neck, sphere, union, upright_cylinder


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def assert_is_one_clean_solid(mesh: Mesh) -> None:
    judged = as_trimesh(mesh)
    assert is_clean(mesh) and is_watertight(mesh)
    assert judged.is_watertight and judged.is_winding_consistent
    assert judged.body_count == 1
    assert judged.euler_number % 2 == 0
    assert judged.nondegenerate_faces().all()
    assert judged.volume > 0


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return extract(AnalyticField(sphere(0.2)), 96, 4000, silent)


@pytest.fixture(scope="module")
def head() -> Mesh:
    return extract(AnalyticField(head_on_neck()), 128, 8000, silent)


def test_sphere_has_its_volume_and_euler_number_2(ball: Mesh) -> None:
    judged = as_trimesh(ball)
    # Flat faces with corners on the sphere lie inside it: 4,000 of them lose half a per cent of its volume.
    assert judged.volume == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.006)
    assert judged.euler_number == 2


def test_vertices_lie_on_the_sphere_and_normals_point_outwards(ball: Mesh) -> None:
    radius = np.linalg.norm(ball.vertices, axis=1)
    np.testing.assert_allclose(radius, 0.2, atol=1e-5)  # a 700th of a cell
    assert (np.einsum("ij,ij->i", vertex_normals(ball), ball.vertices / radius[:, None]) > 0.999).all()


def test_sphere_keeps_about_the_asked_faces_and_is_one_clean_solid(ball: Mesh) -> None:
    assert 3900 <= len(ball.faces) <= 4000
    assert_is_one_clean_solid(ball)


def test_head_is_clean_and_of_human_size(head: Mesh) -> None:
    assert_is_one_clean_solid(head)
    assert height_m(head) == pytest.approx((0.25 - NECK_CUT_Y) * METRES_PER_UNIT, abs=1e-3)
    assert 0.20 <= height_m(head) <= 0.32


def test_neck_is_cut_flat_and_nothing_hangs_below(head: Mesh) -> None:
    assert head.vertices[:, 1].min() == pytest.approx(NECK_CUT_Y, abs=1e-9)
    corners = head.vertices[head.faces]
    in_cut = (corners[..., 1] < NECK_CUT_Y + 1e-9).all(axis=1)
    cap = np.cross(corners[in_cut, 1] - corners[in_cut, 0], corners[in_cut, 2] - corners[in_cut, 0]) / 2
    assert (cap[:, 1] < 0).all()  # looks down
    assert -cap[:, 1].sum() == pytest.approx(np.pi * 0.09**2, rel=0.02)  # the neck's whole cross-section


def test_ears_and_nose_stay_where_they_were(head: Mesh) -> None:
    low, high = head.vertices.min(axis=0), head.vertices.max(axis=0)
    np.testing.assert_allclose([low[0], high[0], high[2]], [-0.20, 0.20, 0.225], atol=2e-3)


@pytest.mark.parametrize(
    "distance",
    # The thread starts in the ball and leaves the cells that coarser lattices found: it is thinner than those.
    [head_on_neck(), union(sphere(0.15), upright_cylinder(0.006, 0.3))],
    ids=["head", "ball_with_a_thread"],
)
def test_refined_lattice_gives_the_mesh_of_a_dense_one(distance: Distance) -> None:
    field = AnalyticField(distance)
    lattice = head_lattice(field.box_side, 128)
    sparse = sample_near_surface(field, lattice, silent)
    read = field.points_read
    dense = np.full(sparse.shape, OUTSIDE, dtype=np.float32)
    index = np.stack(np.meshgrid(*[np.arange(1, n + 1) for n in lattice.shape], indexing="ij"), axis=-1)
    points = lattice.points(index.reshape(-1, 3)).astype(np.float32)
    dense[tuple(index.reshape(-1, 3).T)] = field.density(points) - field.level
    expected, found = march(dense, lattice), march(sparse, lattice)
    np.testing.assert_array_equal(found.faces, expected.faces)
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-7)
    assert read < len(points) / 12


def test_a_lattice_read_as_a_whole_only_leads_to_the_surface() -> None:
    class Rounded(AnalyticField):
        lattices_read = 0

        def density_on_lattice(self, *axes: np.ndarray) -> np.ndarray:
            self.lattices_read += 1
            density = super().density(lattice_points(*axes))
            return (density + np.random.default_rng(0).uniform(-5, 5, density.shape)).reshape([*map(len, axes)])

    field = Rounded(head_on_neck())
    lattice = head_lattice(field.box_side, 128)
    found = march(sample_near_surface(field, lattice, silent), lattice)
    expected = march(sample_near_surface(AnalyticField(head_on_neck()), lattice, silent), lattice)
    assert field.lattices_read == 1
    np.testing.assert_array_equal(found.faces, expected.faces)
    np.testing.assert_array_equal(found.vertices, expected.vertices)


def test_density_deep_inside_does_not_decide_what_lies_on_the_level() -> None:
    lattice = head_lattice(0.7, 64)
    index = np.moveaxis(np.indices([points + 2 for points in lattice.shape]), 0, -1)
    volume = (0.15 - np.linalg.norm(lattice.points(index), axis=-1)).astype(np.float32)
    # A sample hardly inside, as any large volume has: the rest of the volume may not make it one outside.
    hardly = tuple(np.unravel_index(np.where(volume > 0, volume, np.inf).argmin(), volume.shape))
    volume[hardly] = 1e-4 * lattice.cell
    deeper = np.where(volume > 0.05, np.float32(1e3), volume)
    expected, found = march(volume, lattice), march(deeper, lattice)
    np.testing.assert_array_equal(found.faces, expected.faces)
    np.testing.assert_array_equal(found.vertices, expected.vertices)


def test_refinement_follows_a_thread_that_the_coarse_lattice_missed() -> None:
    thread = upright_cylinder(0.006, 0.3)  # thinner than a coarse cell (.022) and starting in the ball
    field = AnalyticField(union(sphere(0.15), thread))
    mesh = extract(field, 256, 10**6, silent)
    assert mesh.vertices[:, 1].max() == pytest.approx(0.3, abs=0.003)


def test_only_the_larger_of_two_spheres_is_kept() -> None:
    field = AnalyticField(union(sphere(0.1, (-0.2, 0, 0)), sphere(0.07, (0.2, 0, 0))))
    mesh = extract(field, 64, 10**6, silent)
    assert mesh.vertices[:, 0].max() < 0
    assert as_trimesh(mesh).volume == pytest.approx(4 / 3 * np.pi * 0.1**3, rel=0.01)


def test_the_inside_of_a_hollow_shell_is_filled() -> None:
    field = AnalyticField(lambda points: np.abs(np.linalg.norm(points, axis=1) - 0.18) - 0.02)
    mesh = extract(field, 64, 10**6, silent)
    assert as_trimesh(mesh).volume == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.01)


def test_what_leaves_the_box_is_closed_at_its_walls() -> None:
    field = AnalyticField(sphere(0.4))  # wider than the box
    mesh = extract(field, 64, 5000, silent)
    assert_is_one_clean_solid(mesh)
    # Layers are counted from the cut upwards, so the last one ends up to a cell below the top.
    np.testing.assert_allclose(mesh.vertices.max(axis=0)[[0, 2]], 0.35, atol=1e-6)
    assert 0.35 - 0.7 / 64 < mesh.vertices[:, 1].max() <= 0.35
    np.testing.assert_allclose(mesh.vertices.min(axis=0), [-0.35, NECK_CUT_Y, -0.35], atol=1e-6)


def test_noise_on_the_level_still_gives_one_clean_solid() -> None:
    """Rough hair: samples that jump from cell to cell make marching cubes and decimation stumble most."""
    rng = np.random.default_rng(0)

    def rough(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points, axis=1) - 0.2 + rng.normal(0, 0.012, len(points))

    for faces in (1000, 6000, 10**6):
        assert_is_one_clean_solid(extract(AnalyticField(rough), 64, faces, silent))


def test_constant_fields_have_no_surface() -> None:
    empty = AnalyticField(lambda points: np.ones(len(points)))
    with pytest.raises(NoSurface):
        extract(empty, 64, 1000, silent)


def test_extract_stops_when_cancelled() -> None:
    def cancel(fraction: float, label: str) -> None:
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        extract(AnalyticField(sphere(0.2)), 64, 1000, cancel)


def test_repair_closes_a_hole_and_drops_a_fin(ball: Mesh) -> None:
    holed = np.delete(ball.faces, [5, 6, 700], axis=0)
    # A fin: one more face on an existing side, to a vertex far away.
    fin = np.array([[ball.faces[100][0], ball.faces[100][1], ball.faces[2000][0]]])
    assert not is_clean(Mesh(ball.vertices, np.concatenate([holed, fin])))
    mended = repair(Mesh(ball.vertices, np.concatenate([holed, fin])))
    assert_is_one_clean_solid(mended)
    assert as_trimesh(mended).volume == pytest.approx(as_trimesh(ball).volume, rel=0.01)


def test_repair_parts_solids_that_share_one_vertex(ball: Mesh) -> None:
    top = int(ball.vertices[:, 1].argmax())
    small = Mesh((ball.vertices - ball.vertices[top]) * [0.5, -0.5, 0.5] + ball.vertices[top], ball.faces[:, ::-1])
    count = len(ball.vertices)
    faces = small.faces + count
    faces[faces == top + count] = top
    touching = Mesh(np.concatenate([ball.vertices, small.vertices]), np.concatenate([ball.faces, faces]))
    mended = repair(touching)
    assert_is_one_clean_solid(mended)
    assert as_trimesh(mended).volume == pytest.approx(as_trimesh(ball).volume, rel=0.01)


def test_repair_leaves_no_two_vertices_at_one_place(ball: Mesh) -> None:
    around = ball.faces[(ball.faces == 50).any(axis=1)]
    beyond = ball.faces[np.isin(ball.faces, around).any(axis=1)]
    twin = np.setdiff1d(beyond, around)[0]  # no face has both
    vertices = ball.vertices.copy()
    vertices[twin] = vertices[50]
    tangled = Mesh(vertices, ball.faces)
    assert is_watertight(tangled) and not is_watertight(weld(tangled)[0]) and not is_clean(tangled)
    mended = repair(tangled)
    assert_is_one_clean_solid(mended)
    welded = weld(mended)[0]
    assert is_watertight(welded) and len(welded.vertices) == len(mended.vertices)


def test_largest_solid_refuses_a_mesh_that_is_inside_out(ball: Mesh) -> None:
    with pytest.raises(NoSurface):
        largest_solid(Mesh(ball.vertices, ball.faces[:, ::-1]))


def test_decimation_keeps_volume_and_flatness(head: Mesh) -> None:
    fewer = decimate(head, 2000, cell=0.7 / 128)
    assert_is_one_clean_solid(fewer)
    assert len(fewer.faces) <= 2000
    assert as_trimesh(fewer).volume == pytest.approx(as_trimesh(head).volume, rel=0.01)
    assert fewer.vertices[:, 1].min() == pytest.approx(NECK_CUT_Y, abs=1e-9)


def test_exported_origin_is_the_base_of_the_neck_and_a_unit_is_52_centimetres() -> None:
    matrix = metres_from_head()
    np.testing.assert_allclose(matrix @ [0, NECK_CUT_Y, 0, 1], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(matrix @ [1, NECK_CUT_Y + 1, 1, 1], [0.52, 0.52, 0.52, 1])


def test_decimation_compares_what_each_collapse_costs() -> None:
    """A needle is a face that no comparison would have made: collapsed in any order, a twelfth of the faces are."""
    lattice = head_lattice(0.7, 128)
    dense = march(sample_near_surface(AnalyticField(head_on_neck()), lattice, silent), lattice)
    fewer = decimate(dense, 8000, cell=0.7 / 128)
    corners = fewer.vertices[fewer.faces]
    in_cut = (corners[..., 1] == NECK_CUT_Y).all(axis=1)
    longest = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max(axis=1)
    height = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / longest
    assert (longest > 10 * height)[~in_cut].mean() < 0.02


def test_the_face_keeps_more_faces_than_the_back_of_the_head() -> None:
    mesh = extract(AnalyticField(sphere(0.24)), 96, 6000, silent)  # without lenses, both sides would get the same
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    belt = np.abs(centres[:, 1] + 0.05) < 0.1
    assert (belt & (centres[:, 2] > 0.15)).sum() > 1.5 * (belt & (centres[:, 2] < -0.15)).sum()


def test_an_open_neck_is_one_clean_rim_in_the_cut(head: Mesh) -> None:
    opened = open_neck(head)
    assert is_clean(opened, openings=1) and not is_clean(opened) and not is_watertight(opened)
    (rim,) = border_loops(opened)
    ring = opened.vertices[rim]
    np.testing.assert_array_equal(ring[:, 1], NECK_CUT_Y)
    length = np.linalg.norm(ring - np.roll(ring, 1, axis=0), axis=1).sum()
    assert length == pytest.approx(2 * np.pi * 0.09, rel=0.02)
    assert not (opened.vertices[opened.faces][..., 1] == NECK_CUT_Y).all(axis=1).any()  # nothing is left of the cap
    # The rest is as it was, vertex by vertex.
    assert {tuple(vertex) for vertex in opened.vertices} <= {tuple(vertex) for vertex in head.vertices}
    wall = (head.vertices[head.faces][..., 1] > NECK_CUT_Y).any(axis=1)
    assert len(opened.faces) == wall.sum()
    assert as_trimesh(opened).is_winding_consistent and height_m(opened) == height_m(head)


def test_only_the_neck_is_opened_where_hair_reaches_the_cut_too() -> None:
    strand = upright_cylinder(0.03, 0.0)
    field = AnalyticField(union(head_on_neck(), lambda points: strand(points - [0.14, 0.0, -0.03])))
    mesh = extract(field, 128, 8000, silent, neck="open")
    assert is_clean(mesh, openings=1)
    (rim,) = border_loops(mesh)
    assert mesh.vertices[rim, 0].max() < 0.1  # the neck's, not the strand's


def test_a_neck_as_a_pipe_is_opened_outside_and_closed_inside() -> None:
    bore = upright_cylinder(0.04, -0.2)
    outer = head_on_neck()
    field = AnalyticField(lambda points: np.maximum(outer(points), -bore(points)))
    mesh = extract(field, 128, 8000, silent, neck="open")
    assert is_clean(mesh, openings=1)
    (rim,) = border_loops(mesh)
    assert np.hypot(*mesh.vertices[rim][:, [0, 2]].T).min() > 0.08
    below = mesh.vertices[mesh.vertices[:, 1] < -0.25]
    assert np.hypot(below[:, 0], below[:, 2]).min() > 0.08  # the bore is gone


def test_a_ball_that_never_reaches_the_cut_has_no_neck_to_open(ball: Mesh) -> None:
    assert open_neck(ball) is ball


def test_a_vertex_laid_over_its_neighbours_is_brought_back(ball: Mesh) -> None:
    def outward(mesh: Mesh) -> np.ndarray:
        corners = mesh.vertices[mesh.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return np.einsum("fi,fi->f", normals, corners.mean(axis=1)) > 0

    strayed = ball.vertices.copy()
    vertex = int(ball.faces[1000, 0])
    beside = np.unique(ball.faces[(ball.faces == vertex).any(axis=1)])
    farthest = beside[np.linalg.norm(strayed[beside] - strayed[vertex], axis=1).argmax()]
    strayed[vertex] += 1.4 * (strayed[farthest] - strayed[vertex])
    folded = Mesh(strayed, ball.faces)
    assert not outward(folded).all()
    mended = unfold(folded)
    assert outward(mended).all()
    np.testing.assert_allclose(np.linalg.norm(mended.vertices, axis=1), 0.2, rtol=0.02)
    assert (mended.vertices == folded.vertices).all(axis=1).sum() > len(strayed) - 30  # the rest is not touched
    assert folded_faces(folded).any() and not folded_faces(mended).any()
    assert unfold(ball) is ball


def test_a_face_turned_over_in_the_cut_is_cut_otherwise(head: Mesh) -> None:
    """Nothing moves out of the cut, so smoothing cannot help there."""
    bottom = head.vertices[:, 1].min()
    cap = np.flatnonzero((head.vertices[head.faces][..., 1] == bottom).all(axis=1))
    a, b, c = head.faces[cap[0]]
    strayed = head.vertices.copy()
    middle = (strayed[b] + strayed[c]) / 2
    strayed[a] = middle + 0.05 * (middle - strayed[a])
    flap = Mesh(strayed, head.faces)
    assert folded_faces(flap).any()
    assert folded_faces(unfold(flap, same_faces=True)).any()
    mended = unfold(flap)
    assert not folded_faces(mended).any()
    assert is_clean(mended)
    assert mended.vertices[:, 1].min() == bottom
