"""Fitting to the photo: a known head bends to a known outline, stays smooth, and can be given up at any step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference import refinement
from inference.camera import project
from inference.face_networks import FaceNetworks, load_face_networks
from inference.progress import Cancelled, silent
from inference.refinement import LEVELS, Effort, Lattice, Refinement, WarpedField, least_volume, moved, refine
from tests.inference.analytic_fields import AnalyticField, sphere
from tests.inference.test_silhouette import PIXEL, SIDE, portrait_of_a_disc

PHOTO_SIZE = (SIDE, SIDE)
FAST = LEVELS["fast"]
assert FAST is not None


class Ball(AnalyticField):
    """An analytic field that also takes `progress`, as the model's does."""

    def density(self, points: np.ndarray, progress: object = None) -> np.ndarray:
        return super().density(points)

    def colour(self, points: np.ndarray, progress: object = None) -> np.ndarray:
        return np.full((len(points), 3), 0.5, np.float32)  # no face to be found


@pytest.fixture(scope="module")
def face() -> FaceNetworks:
    return load_face_networks()


def outline_radius(field: WarpedField) -> np.ndarray:
    """Radii, box units at the head's middle, at which the outline of a head in the middle of the picture is crossed."""
    camera = portrait_of_a_disc(1.0).camera
    angles = np.radians(np.arange(-60, 241, 15))  # not below the chin
    radii = np.linspace(0.1, 0.3, 401)
    depths = np.linspace(-0.15, 0.2, 71)
    found = []
    for angle in angles:
        at_middle = radii[:, None] * [np.cos(angle), np.sin(angle)]  # picture's plane through the origin
        scale = (camera.position[2] - depths) / camera.position[2]
        points = np.empty((len(radii), len(depths), 3))
        points[..., :2] = at_middle[:, None] * scale[None, :, None]
        points[..., 2] = depths
        inside = field.density(points.reshape(-1, 3)).reshape(points.shape[:2]) > field.level
        found.append(radii[inside.any(axis=1)].max())
    return np.array(found)


def fitted(radius: float, disc_px: float, face: FaceNetworks, effort: Effort = FAST) -> Refinement:
    return refine(Ball(sphere(radius)), portrait_of_a_disc(disc_px), PHOTO_SIZE, face, effort, silent)


@pytest.mark.parametrize("radius", [0.20, 0.23], ids=["too small", "too big"])
def test_a_sphere_of_the_wrong_size_takes_the_size_of_the_matte(face, radius):
    disc_px = 0.215 / PIXEL
    found = fitted(radius, disc_px, face)
    error = np.abs(outline_radius(WarpedField(Ball(sphere(radius)), found)) - 0.215)
    assert error.mean() < 0.15 * abs(radius - 0.215)  # a sphere's rim is a little larger than the sphere
    assert found.after.outline < 0.5 * found.before.outline
    assert found.before.landmarks is None  # there is no face on a grey ball


def test_a_head_that_fits_is_left_alone(face):
    rim = 0.21 / np.sqrt(1 - (0.21 / 2.7) ** 2)  # a sphere looks a little larger from near
    found = fitted(0.21, rim / PIXEL, face)
    assert found.shift.abs().max() < 0.002  # 1 mm; pixels are 0.6 mm


def test_nothing_is_asked_beyond_the_photos_edge(face):
    portrait = portrait_of_a_disc(0.21 / PIXEL, shift=-120.0)  # the photo begins at row 120 of the crop, in the head
    found = refine(Ball(sphere(0.21)), portrait, PHOTO_SIZE, face, FAST, silent)
    assert found.shift.abs().max() < 0.003


def test_space_never_folds_however_wrong_the_matte(face):
    found = fitted(0.24, 60.0, face)
    assert least_volume(found.shift, found.box_side) >= refinement.LEAST_VOLUME


def test_the_same_photo_gives_the_same_displacement(face):
    assert torch.equal(fitted(0.23, 170.0, face).shift, fitted(0.23, 170.0, face).shift)


def test_every_step_can_be_given_up(face):
    told: list[float] = []
    refine(Ball(sphere(0.23)), portrait_of_a_disc(170.0), PHOTO_SIZE, face, FAST, lambda done, _: told.append(done))
    assert len(told) >= FAST.steps and told == sorted(told) and told[-1] == 1.0
    for moment in told[:: max(1, len(told) // 4)]:

        def give_up(done: float, _label: str, moment: float = moment) -> None:
            if done >= moment:
                raise Cancelled

        with pytest.raises(Cancelled):
            refine(Ball(sphere(0.23)), portrait_of_a_disc(170.0), PHOTO_SIZE, face, FAST, give_up)


def test_landmarks_move_to_where_the_photo_has_them(face, monkeypatch):
    portrait = portrait_of_a_disc(0.21 / np.sqrt(1 - (0.21 / 2.7) ** 2) / PIXEL)
    places = np.array([[x, y, 0.19] for x in (-0.05, 0.05) for y in (-0.05, 0.0, 0.05)])
    pull = refinement.Pull(places, np.tile([0.01, 0.0, 0.0], (len(places), 1)))
    monkeypatch.setattr(refinement, "landmark_pull", lambda *_: pull)
    found = refine(Ball(sphere(0.21)), portrait, PHOTO_SIZE, face, FAST, silent)
    # What the photo shows at a place is what the model had 0.01 to the subject's left of it.
    np.testing.assert_allclose(moved(places, found.shift, 0.7) - places, pull.shifts, atol=0.004)
    assert found.before.landmarks == pytest.approx(0.01) and found.after.landmarks < 0.004
    pixels, _ = project(places, portrait.camera)
    assert (pixels > 0.3).all() and (pixels < 0.7).all()


def test_a_lattice_reproduces_straight_displacements_everywhere():
    lattice = Lattice(8, 0.7)
    at = (np.arange(8) - 1) * lattice.spacing - 0.35  # where the control points lie
    controls = np.stack(np.meshgrid(at, at, at, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.random.default_rng(0).uniform(-0.35, 0.35, (200, 3))
    np.testing.assert_allclose(lattice.weights(points) @ controls, points, atol=1e-12)
    bending = lattice.stiffness(1.0, 0.0, 0.0)
    assert controls[:, 0] @ bending @ controls[:, 0] == pytest.approx(0.0, abs=1e-9)  # straight is not bent


def test_squeezing_space_to_half_halves_its_volume():
    samples = torch.linspace(-0.35, 0.35, refinement.WARP_GRID)
    shift = torch.zeros(1, 3, *[refinement.WARP_GRID] * 3)
    shift[0, 0] = -0.5 * samples[:, None, None]
    assert least_volume(shift, 0.7) == pytest.approx(0.5, abs=1e-4)


def test_what_lies_below_the_neck_stays_where_it_is(face):
    found = fitted(0.23, 0.2 / PIXEL, face)
    below = np.array([[x, -0.34, z] for x in (-0.2, 0.0, 0.2) for z in (-0.1, 0.1)])
    assert np.abs(moved(below, found.shift, found.box_side) - below).max() < 1e-7  # single precision
    assert found.shift.abs().max() > 0.015
