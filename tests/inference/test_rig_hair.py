"""Hair cut from a scan that is known: a cap of hair on a ball for a head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.camera import orbit_camera
from inference.progress import silent
from inference.rigging import hair as hair_module
from inference.rigging.fit import RigFit
from inference.rigging.hair import (
    DIP_SHARE,
    INTO_SKIN,
    HairField,
    beside,
    cut_hair,
    hair_picture,
    hidden,
    islands,
    lay_out,
    relaxed,
)
from inference.rigging.nearest import NearestPoints
from inference.rigging.observation import Observation
from inference.rigging.shape_fit import MM
from inference.surface import Mesh, extract, extract_solids, is_clean, is_watertight
from inference.template import SKIN, load_rig_template

SKULL, HAIR = 0.2, 0.2 + 20 * MM  # radii; the ball sits above the neck's cut
HAIRLINE_Y = 0.05
GRID = 64  # cells; 8 mm keep the test short, and projection still finds the surface


class Ball:
    """A density that falls with the distance from the middle, `radius` at its level."""

    level = 0.0
    box_side = 1.0

    def __init__(self, radius: float, steepness: float = 700.0) -> None:
        self.radius, self.steepness = radius, steepness

    def density(self, points: np.ndarray) -> np.ndarray:
        """(n,) at points (n, 3)."""
        return (self.radius - np.linalg.norm(points, axis=1)) * self.steepness


@pytest.fixture(scope="module")
def skull() -> NearestPoints:
    return NearestPoints(extract(Ball(SKULL), 48, 4000, silent))


@pytest.fixture(scope="module")
def field(skull: NearestPoints) -> HairField:
    """Hair above HAIRLINE_Y, 20 mm thick."""
    cells = 80
    height = np.linspace(-0.5, 0.5, cells)
    share = np.clip(0.5 + (height - HAIRLINE_Y) / (12 * MM), 0, 1).astype(np.float32)
    shares = np.broadcast_to(share[None, :, None], (cells,) * 3).copy()
    return HairField(Ball(HAIR), 700.0, skull, shares)


@pytest.fixture(scope="module")
def solid(field: HairField) -> Mesh:
    (only,) = extract_solids(field, GRID, 3000, 1e-5, silent)
    return only


def test_hair_is_one_closed_clean_solid(solid):
    assert is_watertight(solid)
    assert is_clean(solid)


def test_its_outside_lies_on_the_scan_and_its_inside_below_the_skin(solid, field):
    radius = np.linalg.norm(solid.vertices, axis=1)
    away_from_edge = field.share(solid.vertices) > DIP_SHARE[1] + 0.05
    outside = away_from_edge & (radius > (SKULL + HAIR) / 2)
    assert outside.sum() > 300
    assert np.abs(radius[outside] - HAIR).max() < 0.5 * MM
    inside = away_from_edge & ~outside
    assert inside.sum() > 100
    assert np.abs(radius[inside] - (SKULL - INTO_SKIN)).max() < 0.7 * MM  # of a skull of flat faces


def test_it_ends_in_a_clean_line_where_hair_ends(solid):
    lowest = solid.vertices[:, 1].min()
    assert abs(lowest - HAIRLINE_Y) < 1.5 * MM
    rim = solid.vertices[solid.vertices[:, 1] < lowest + 4 * MM]
    around = np.unique(np.floor(np.degrees(np.arctan2(rim[:, 2], rim[:, 0])) / 30))
    assert len(around) == 12  # it goes round without a break


def test_no_hair_no_solid(field):
    bald = replace(field, shares=np.zeros_like(field.shares))
    assert extract_solids(bald, GRID, 3000, 1e-5, silent) == []


def test_a_haircut_that_hardly_stands_out_stays_a_picture(field, monkeypatch):
    monkeypatch.setattr(hair_module, "GRID", GRID)
    assert len(hair_module.hair_solids(field)) == 1
    cropped = replace(field, scan=Ball(SKULL + 2 * MM))
    assert hair_module.hair_solids(cropped) == []


def test_pieces_apart_are_all_kept_and_crumbs_are_not(field):
    class Balls(Ball):
        def density(self, points: np.ndarray) -> np.ndarray:
            middles, radii = [[-0.2, 0, 0], [0.2, 0, 0], [0, 0.3, 0]], [0.12, 0.08, 0.02]
            away = np.linalg.norm(points[:, None] - np.array(middles), axis=2)
            return (np.array(radii) - away).max(axis=1) * self.steepness

    found = extract_solids(Balls(0.1), 64, 2000, 1e-4, silent)
    assert [round(float(piece.vertices[:, 0].mean()), 1) for piece in found] == [-0.2, 0.2]
    assert all(is_clean(piece) for piece in found)


def test_hair_reads_the_scans_texels_right_where_it_lies(solid):
    """A scan whose texture tells the direction from the middle, on two islands."""
    scan = extract(Ball(HAIR), 48, 4000, silent)
    right = scan.vertices[scan.faces].mean(axis=1)[:, 0] > 0
    flat = scan.vertices[scan.faces][..., 1:] + 0.5  # y and z
    uv = flat * [0.45, 0.9] + np.where(right, 0.5, 0.0)[:, None, None] * [1, 0]
    seen = Observation(scan, None, None, NearestPoints(scan), None, None, None, None, 0.1)  # type: ignore[arg-type]
    hair_uv, uv_faces = lay_out(solid, seen, uv)
    assert len(np.unique(islands(uv))) == 2
    corner = hair_uv[uv_faces]
    of_right = corner[..., 0] > 0.49
    assert (of_right.all(axis=1) | ~of_right.any(axis=1)).all()  # no face lies across both islands
    points = solid.vertices[solid.faces]
    outside = (np.linalg.norm(points, axis=2) > HAIR - 0.5 * MM).all(axis=1)
    clear = outside & (np.abs(points[..., 0]) > 10 * MM).all(axis=1)
    read = np.stack([(corner[..., 0] % 0.5) / 0.45, corner[..., 1] / 0.9], axis=-1) - 0.5
    assert clear.sum() > 300
    assert np.abs(read - points[..., 1:])[clear].max() < 1.5 * MM  # chords of the scan's faces


def test_hairs_picture_is_the_heads_where_hair_is_and_hair_elsewhere(solid):
    uv = np.array([[0.1, 0.1], [0.4, 0.1], [0.1, 0.4]])
    hair = hair_module.Hair(solid, uv, np.array([[0, 1, 2]]), np.array([0.4, 0.2, 0.0]), np.zeros(1))
    albedo = np.full((256, 256, 3), 200, np.uint8)
    picture = hair_picture(hair, albedo)
    assert (picture[30:60, 30:60] == 200).all()
    assert (picture[128:, 128:] == [102, 51, 0]).all()


def test_a_beard_goes_along_with_the_face_and_what_hangs_far_off_stays(skull):
    points = np.array([[0, 0, SKULL + 1 * MM], [0, 0, SKULL + 80 * MM]])
    moves = np.tile([0.0, -0.01, 0.0], (int(skull.faces.max()) + 1, 1))
    moved = relaxed(Mesh(points, np.zeros((0, 3), int)), skull, moves)
    np.testing.assert_allclose(moved[0] - points[0], [0, -0.01, 0], atol=2e-4)
    np.testing.assert_allclose(moved[1], points[1], atol=1e-6)


def test_what_hair_hides_from_the_photos_camera_is_known_and_nothing_else():
    template = load_rig_template()
    camera = orbit_camera(0.0, 0.0)
    forehead = template.landmarks(template.vertices)[151]
    corners = forehead + np.array([[-30, -8, 12], [30, -8, 12], [30, 8, 12], [-30, 8, 12]]) * MM  # a fringe
    fringe = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))
    share = hidden(fringe, template, template.vertices, camera)
    skin = template.vertices_of(SKIN)
    offset = (template.vertices[skin] - forehead) / MM
    behind = (np.abs(offset[:, 0]) < 20) & (np.abs(offset[:, 1]) < 5) & (np.abs(offset[:, 2]) < 10)
    assert behind.sum() > 4
    assert share[skin[behind]].min() > 0.9
    assert share[skin[np.abs(offset[:, 1]) > 20]].max() == 0  # the camera looks straight
    assert share[template.vertices[:, 2] < 0].max() == 0  # the back of the head turns away


def test_the_photo_stays_on_skin_that_no_hair_is_before():
    template = load_rig_template()
    camera = orbit_camera(0.0, 0.0)
    forehead = template.landmarks(template.vertices)[151]
    corners = forehead + np.array([[-40, 0, 12], [40, 0, 12], [40, 40, 12], [-40, 40, 12]]) * MM
    share = beside(Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]])), template, template.vertices, camera)
    skin = template.vertices_of(SKIN)
    offset = (template.vertices[skin] - forehead) / MM
    middle = (np.abs(offset[:, 0]) < 15) & (offset[:, 2] > -15)
    assert share[skin[middle & (offset[:, 1] > 8) & (offset[:, 1] < 25)]].max() == 0  # behind it
    assert share[skin[middle & (offset[:, 1] < 2) & (offset[:, 1] > -15)]].min() > 0.9  # its edge, and the face
    assert (
        share[(template.scalp > 0.9) & (template.vertices[:, 2] < -0.1)].max() == 0
    )  # the back of the head turns away


def test_the_same_field_gives_the_same_hair(field, solid):
    (again,) = extract_solids(field, GRID, 3000, 1e-5, silent)
    assert again.vertices.tobytes() == solid.vertices.tobytes()
    assert again.faces.tobytes() == solid.faces.tobytes()


def test_a_bald_head_has_arrays_of_length_nought(field):
    template = load_rig_template()
    scan = extract(Ball(SKULL), 32, 1000, silent)
    colour = np.full((len(scan.vertices), 3), 0.6)
    seen = Observation(scan, colour, colour[:, 0], NearestPoints(scan), None, None, None, None, 0.1)  # type: ignore[arg-type]
    bald = replace(field, shares=np.zeros_like(field.shares))
    fit = RigFit(None, np.zeros(52), np.zeros(len(template.vertices)), None, None)  # type: ignore[arg-type]
    hair = cut_hair(template, fit, seen, np.zeros((len(scan.faces), 3, 2)), bald, silent)
    assert len(hair.mesh.vertices) == len(hair.mesh.faces) == len(hair.uv) == len(hair.uv_faces) == 0
    assert not hair.covering.any()
