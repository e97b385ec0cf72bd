"""A symmetric head seen from one side must come back whole; what is not symmetric must not be copied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.alignment import AlignedPortrait
from inference.bake import TexturedHead, bake, matte_trust
from inference.camera import project
from inference.face_region import BROW_OUTLINES, EYE_OUTLINES, LIPS_OUTLINE, NOSTRILS, UPPER_LIP, FaceRegion
from inference.facing import Facing
from inference.mirror import fit_symmetry_plane, spotless_gain
from inference.photo import Photo
from inference.progress import silent
from inference.surface import Mesh, extract, vertex_normals
from inference.unwrap import UnwrappedMesh, unwrap

from .analytic_fields import AnalyticField, Distance, head_on_neck
from .test_bake import CROP, picture_of, texel_positions

SIZE = 1024
AZIMUTH_DEG = 40.0
EYE = np.array([0.06, 0.0, 0.17])
BROW = np.array([0.06, 0.05, 0.17])
MOUTH = np.array([0.0, -0.11, 0.165])
BELOW_NOSE = np.array([0.0, -0.08, 0.18])
SKIN = np.array([0.75, 0.55, 0.45])
SPOT = np.array([0.08, -0.06, 0.155])  # on the cheek that the photo shows


def face_landmarks(camera_points: np.ndarray) -> np.ndarray:
    """(478, 3) crop pixels: points spread over the face of `head_on_neck`, its features where they belong."""
    turn = np.arange(478) * np.pi * (3 - np.sqrt(5))
    spread = 0.97 * np.sqrt((np.arange(478) + 0.5) / 478)
    x, y = 0.14 * spread * np.cos(turn), 0.22 * spread * np.sin(turn)
    points = np.stack([x, y, 0.19 * np.sqrt(np.maximum(1 - (x / 0.16) ** 2 - (y / 0.25) ** 2, 0))], axis=1)

    def ring(indices: list[int], centre: np.ndarray, radius: float) -> None:
        angle = 2 * np.pi * np.arange(len(indices)) / len(indices)
        points[indices] = centre + radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)

    for side, eye, brow in zip((-1, 1), EYE_OUTLINES, BROW_OUTLINES, strict=True):
        ring(eye, EYE * [side, 1, 1], 0.015)
        ring(brow, BROW * [side, 1, 1], 0.01)
    ring(LIPS_OUTLINE, MOUTH, 0.03)
    ring(NOSTRILS, BELOW_NOSE, 0.01)
    points[UPPER_LIP] = MOUTH + [0, 0.02, 0]
    return points


def paint(points: np.ndarray) -> np.ndarray:
    """Skin with stripes 6 mm apart, the same on both sides."""
    bright = 1 + 0.12 * np.sin(np.abs(points[:, 0]) * (2 * np.pi / 0.012))
    return SKIN * bright[:, None]


def photographed(mesh: Mesh, colour: Distance) -> tuple[AlignedPortrait, Photo]:
    portrait, photo = picture_of(mesh, colour, AZIMUTH_DEG)
    landmarks = np.zeros((478, 3))
    landmarks[:, :2] = project(face_landmarks(mesh.vertices), portrait.camera)[0] * CROP
    return replace(portrait, landmarks=landmarks), photo


@pytest.fixture(scope="module")
def unwrapped() -> UnwrappedMesh:
    return unwrap(extract(AnalyticField(head_on_neck()), 96, 6000, silent), silent)


def baked(unwrapped: UnwrappedMesh, colour: Distance, mirror: bool) -> TexturedHead:
    portrait, photo = photographed(unwrapped.mesh, colour)
    plain = AnalyticField(head_on_neck(), lambda points: np.tile(SKIN, (len(points), 1)))
    return bake(unwrapped.mesh, unwrapped.uv, portrait, photo, plain, SIZE, silent, mirror=mirror)


def hidden_cheek(head: TexturedHead) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and points of texels on the cheek turned away, whose mirror points were plainly seen."""
    row, column, points = texel_positions(head)
    chosen = np.linalg.norm(points - [-0.10, -0.04, 0.13], axis=1) < 0.03
    return row[chosen], column[chosen], points[chosen]


def test_the_hidden_cheek_gets_the_detail_of_the_seen_one(unwrapped: UnwrappedMesh) -> None:
    plain, mirrored = (baked(unwrapped, paint, mirror) for mirror in (False, True))
    row, column, points = hidden_cheek(mirrored)
    assert (plain.visibility_map[row, column] < 50).all()
    truth = paint(points)
    errors = [np.sqrt(((head.albedo[row, column] / 255 - truth) ** 2).mean()) for head in (plain, mirrored)]
    assert errors[1] < 0.35 * errors[0]


def test_what_the_photo_saw_plainly_stays_its_own(unwrapped: UnwrappedMesh) -> None:
    plain, mirrored = (baked(unwrapped, paint, mirror) for mirror in (False, True))
    seen = (plain.visibility_map == 255) & (mirrored.visibility_map == 255)
    assert seen.any()
    # A map of 255 has weights from .998 on.
    np.testing.assert_allclose(mirrored.albedo[seen].astype(int), plain.albedo[seen].astype(int), atol=1)
    assert (mirrored.visibility_map[plain.visibility_map == 255] == 255).all()


def test_confidence_of_mirrored_places_lies_between_seen_and_imagined(unwrapped: UnwrappedMesh) -> None:
    head = baked(unwrapped, paint, True)
    cheek = np.linalg.norm(head.mesh.vertices - [-0.10, -0.04, 0.13], axis=1) < 0.03
    np.testing.assert_allclose(head.confidence[cheek & (head.visibility == 0)], 0.5, atol=0.1)
    assert (head.confidence[(head.mesh.vertices[:, [0, 2]] < -0.05).all(axis=1)] == 0).all()
    assert (head.confidence >= head.visibility).all()
    plain = baked(unwrapped, paint, False)
    np.testing.assert_array_equal(plain.confidence, plain.visibility)


def test_a_mole_stays_on_its_own_cheek(unwrapped: UnwrappedMesh) -> None:
    def with_mole(points: np.ndarray) -> np.ndarray:
        mole = np.linalg.norm(points - SPOT, axis=1) < 0.006
        return np.where(mole[:, None], SKIN * 0.5, SKIN)

    head = baked(unwrapped, with_mole, True)
    row, column, points = texel_positions(head)
    light = head.albedo[row, column].mean(axis=1) / (255 * SKIN.mean())
    own = np.linalg.norm(points - SPOT, axis=1) < 0.003
    other = np.linalg.norm(points - SPOT * [-1, 1, 1], axis=1) < 0.012
    assert light[own].max() < 0.6
    # At its rim a shade is left, of the half that the mole itself is darker.
    assert light[other].min() > 0.65 and np.quantile(light[other], 0.05) > 0.85


def test_hair_over_one_temple_is_not_copied_to_the_other(unwrapped: UnwrappedMesh) -> None:
    """Hair over the temple of one side: the hidden temple stays the model's skin."""

    def fringe(points: np.ndarray) -> np.ndarray:
        hair = (points[:, 0] > 0.085) & (points[:, 1] > 0.03)
        return np.where(hair[:, None], [0.1, 0.07, 0.05], SKIN)

    head = baked(unwrapped, fringe, True)
    row, column, points = texel_positions(head)
    temple = np.linalg.norm(points - [-0.12, 0.08, 0.09], axis=1) < 0.025
    assert head.albedo[row[temple], column[temple]].min() > 0.8 * 255 * SKIN.min()


def test_plane_of_a_turned_and_shifted_head_is_found() -> None:
    mesh = extract(AnalyticField(head_on_neck()), 96, 20_000, silent)
    angle = np.radians(3.0)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    turned = Mesh(mesh.vertices @ turn.T + [0.01, 0, 0], mesh.faces)
    plane = fit_symmetry_plane(turned, vertex_normals(turned), turned.vertices[:, 2] > 0.05)
    np.testing.assert_allclose(plane.normal, turn[:, 0], atol=0.01)
    assert plane.offset == pytest.approx(0.01 * turn[0, 0], abs=0.002)
    np.testing.assert_allclose(plane.reflect(plane.reflect(mesh.vertices)), mesh.vertices, atol=1e-12)


def test_wrinkles_are_no_spots(unwrapped: UnwrappedMesh) -> None:
    portrait, _ = photographed(unwrapped.mesh, lambda points: np.tile(SKIN, (len(points), 1)))
    x, y = (project(SPOT, portrait.camera)[0] * CROP).astype(int)
    spotted, wrinkled = portrait.image.copy(), portrait.image.copy()
    spotted[y - 2 : y + 3, x - 2 : x + 3] = spotted[y, x] * 0.5
    wrinkled[y - 1 : y + 2, x - 20 : x + 20] = wrinkled[y, x] * 0.5
    gains = []
    for image in (spotted, wrinkled):
        given = replace(portrait, image=image)
        gains.append(spotless_gain(image, FaceRegion.of(given, matte_trust(given.matte, image)))[y, x])
    assert gains[0] > 1.5
    assert gains[1] < 1.05


def test_weights_never_grow_by_fading() -> None:
    mesh = extract(AnalyticField(head_on_neck()), 64, 4000, silent)
    weight = (mesh.vertices[:, 2] > 0).astype(float)
    faded = Facing(mesh).faded(weight, 0.02)
    assert (faded <= weight).all() and (faded[weight == 0] == 0).all()
    assert 0.5 * weight.sum() < faded.sum() < 0.98 * weight.sum()
    assert (faded[mesh.vertices[:, 2] > 0.15] > 0.999).all()
