"""The pictures of an animatable head: normals, gloss, eyes, mouth, and skin that no scan shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from inference.face_region import EYE_OUTLINES
from inference.photo_check import LUMA
from inference.raster import fragments
from inference.rigging.bare_skin import paint_bare_skin
from inference.rigging.eyes import (
    BROWN,
    IRISES,
    LEAST_EXPOSURE,
    OWN_SHADE,
    WHITE_LUMA,
    IrisColour,
    paint_eyes,
    read_iris,
)
from inference.rigging.mouth import INNER_LIPS, paint_mouth, read_teeth, tongue_share, tooth_places
from inference.rigging.nearest import NearestPoints
from inference.rigging.neutral import Eyeball
from inference.rigging.shape_fit import MM
from inference.rigging.skin_maps import encoded, normal_map, surface_map
from inference.rigging.uv_picture import sampled
from inference.surface import Mesh
from inference.template import (
    EYE_LEFT,
    EYE_RIGHT,
    GUMS,
    MOUTH,
    SKIN,
    SOCKET,
    TEETH_LOWER,
    TEETH_UPPER,
    RigTemplate,
    load_rig_template,
    triangles,
)

FLAT = [128, 128, 255]
BLUE, SKIN_COLOUR = np.array([0.30, 0.45, 0.65]), np.array([0.8, 0.6, 0.5])


@pytest.fixture(scope="module")
def template() -> RigTemplate:
    return load_rig_template()


def skin_mesh(template: RigTemplate, vertices: np.ndarray) -> NearestPoints:
    return NearestPoints(Mesh(vertices, triangles(template.faces[template.part == SKIN])))


def texel(template: RigTemplate, vertex: int, side: int, parts: tuple[int, ...] = (SKIN,)) -> tuple[int, int]:
    """(row, column) of a vertex."""
    chosen = np.isin(template.part, parts)
    at = np.flatnonzero(template.faces[chosen].ravel() == vertex)[0]
    column, row = template.uv[template.uv_faces[chosen].ravel()[at]] * side
    return int(row), int(column)


# --- normals --------------------------------------------------------------------------------------------------------


def test_normals_are_flat_where_the_template_is_the_scan(template):
    trust = np.ones(len(template.vertices))
    picture = normal_map(template, template.vertices, trust, skin_mesh(template, template.vertices), 256)
    assert np.abs(picture.astype(int) - FLAT).max() <= 1


def test_normals_are_flat_where_nothing_was_fitted(template):
    scan = skin_mesh(template, template.vertices * [1, 0.7, 1.2])
    picture = normal_map(template, template.vertices, np.zeros(len(template.vertices)), scan, 64)
    assert (picture == FLAT).all()


def test_around_a_bump_normals_lean_away_from_it_red_to_the_right_and_green_upwards(template):
    forehead = template.landmarks(template.vertices)[151]
    outside = template.vertices_of(SKIN)
    away = np.linalg.norm(template.vertices - forehead, axis=1)
    bump = 6 * MM * np.exp(-((away / (14 * MM)) ** 2))
    scan = skin_mesh(template, template.vertices + bump[:, None] * [0, 0, 1])
    side = 512
    picture = normal_map(template, template.vertices, np.ones(len(away)), scan, side).astype(int)

    def texel_at(x_mm: float, y_mm: float) -> tuple[int, int]:
        place = forehead + [x_mm * MM, y_mm * MM, 0]
        nearest = outside[np.linalg.norm(template.vertices[outside] - place, axis=1).argmin()]
        return texel(template, int(nearest), side)

    row, column = texel_at(0, 0)
    for x_mm, y_mm in ((12, 0), (-12, 0), (0, 12), (0, -12)):
        there = texel_at(x_mm, y_mm)
        red, green, _ = picture[there] - 128
        if x_mm:
            assert np.sign(there[1] - column) * red > 12, x_mm
        else:
            assert np.sign(row - there[0]) * green > 12, y_mm


def test_half_way_is_128_and_the_ends_are_kept():
    np.testing.assert_array_equal(encoded(np.array([[0.0, 1.0, -1.0]])), [[128, 255, 0]])


# --- gloss ----------------------------------------------------------------------------------------------------------


def test_noses_and_lips_shine_more_than_cheeks_and_hair_least(template):
    hair = (template.scalp > 0.9).astype(float)
    picture = surface_map(template, hair, 512).astype(int)
    points = template.landmarks(template.vertices)

    def at(landmark: int) -> np.ndarray:
        vertex = int(np.linalg.norm(template.vertices - points[landmark], axis=1).argmin())
        return picture[texel(template, vertex, 512)]

    nose, cheek, lip = at(4), at(425), at(17)
    crown = picture[texel(template, int(np.flatnonzero(template.scalp > 0.99)[0]), 512)]
    assert (picture[..., 0] == 0).all()
    assert nose[1] < cheek[1] < crown[1]
    assert lip[1] < cheek[1]
    assert nose[2] > cheek[2] > crown[2]


# --- eyes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnPortrait:
    """What `read_iris` needs of a portrait."""

    image: np.ndarray
    landmarks: np.ndarray


def drawn_eyes(colour: np.ndarray, radius: float = 10.0, openness: float = 0.8) -> DrawnPortrait:
    """Two eyes: white, iris, pupil, highlight, and lids of skin over what the outline leaves out."""
    side = 256
    image = np.tile(SKIN_COLOUR, (side, side, 1))
    landmarks = np.zeros((478, 3))
    y, x = np.mgrid[:side, :side] + 0.5
    for (centre, rim), outline, middle in zip(IRISES, EYE_OUTLINES, ((80, 128), (176, 128)), strict=True):
        angle = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
        wide, high = 2.3 * radius, openness * radius
        landmarks[outline, 0] = middle[0] - wide * np.cos(angle)
        landmarks[outline, 1] = middle[1] + high * np.sin(angle)
        landmarks[centre, :2] = middle
        landmarks[list(rim), :2] = middle + radius * np.array([[1, 0], [0, -1], [-1, 0], [0, 1]])
        inside = ((x - middle[0]) / wide) ** 2 + ((y - middle[1]) / high) ** 2 < 1
        away = np.hypot(x - middle[0], y - middle[1])
        image[inside] = [0.9, 0.88, 0.86]
        image[inside & (away < radius)] = colour
        image[inside & (away < 0.35 * radius)] = 0.02
        image[inside & (np.hypot(x - middle[0] - 4, y - middle[1] + 4) < 2)] = 1.0
    return DrawnPortrait(np.rint(image * 255).astype(np.uint8), landmarks)


def test_the_iris_has_the_colour_of_the_photos():
    found = read_iris(drawn_eyes(BLUE))
    assert found.known
    np.testing.assert_allclose(found.srgb, BLUE, atol=0.02)


def test_eyes_in_shade_are_painted_darker_as_a_whole_but_never_black(template):
    bright = drawn_eyes(BLUE)
    light, shade, night = (
        read_iris(DrawnPortrait((bright.image * share).astype(np.uint8), bright.landmarks)) for share in (1, 0.75, 0.3)
    )
    assert light.exposure == 1.0
    assert shade.exposure == pytest.approx(0.75 * 0.88 / (OWN_SHADE * WHITE_LUMA), abs=0.02)
    assert night.exposure == LEAST_EXPOSURE
    full, dim = (paint_eyes(template, IrisColour(BLUE, True, exposure), 128) for exposure in (1.0, 0.75))
    np.testing.assert_allclose(dim, full * 0.75, atol=2)  # of 255, twice rounded


def test_closed_eyes_tiny_eyes_and_dark_glasses_give_brown_and_say_so():
    glasses = drawn_eyes(np.full(3, 0.1))
    dark = DrawnPortrait((glasses.image // 12).astype(np.uint8), glasses.landmarks)
    for portrait in (drawn_eyes(BLUE, openness=0.2), drawn_eyes(BLUE, radius=2.5), dark):
        found = read_iris(portrait)
        assert not found.known
        np.testing.assert_array_equal(found.srgb, BROWN)


def test_the_iris_is_as_wide_on_the_ball_as_in_people(template):
    """11.7 mm on a ball of 24 mm, in the eyes of both sides."""
    side = 512
    picture = paint_eyes(template, IrisColour(BLUE, True, exposure=1.0), side) / 255
    for part in (EYE_LEFT, EYE_RIGHT):
        ball = Eyeball.of(template, template.vertices, part)
        gaze = template.vertices[template.vertices_of(part)[0]] - ball.centre
        quads = template.part == part
        cover = fragments(template.uv * side, triangles(template.uv_faces[quads]), (side, side))
        ray = cover.interpolate(template.vertices, triangles(template.faces[quads])) - ball.centre
        cosine = ray @ gaze / np.linalg.norm(ray, axis=1) / np.linalg.norm(gaze)
        across_mm = 24 * np.sqrt(1 - np.clip(cosine, -1, 1) ** 2)
        light = picture[cover.row, cover.column] @ LUMA
        front = cosine > 0
        assert light[front & (across_mm < 3)].max() < 0.1  # pupil
        assert light[front & (across_mm > 6) & (across_mm < 11.2)].max() < 0.67
        assert light[front & (across_mm > 12.4) & (across_mm < 15)].min() > 0.7
        iris = picture[cover.row, cover.column][front & (across_mm > 6) & (across_mm < 10)]
        np.testing.assert_allclose(np.median(iris, axis=0), BLUE, atol=0.1)


# --- mouth and skin -------------------------------------------------------------------------------------------------


def drawn_mouth(teeth: np.ndarray | None, opening: float) -> tuple[np.ndarray, np.ndarray]:
    """A mouth 60 px wide: a row of teeth over a dark throat, or the throat alone."""
    side = 128
    image = np.tile(SKIN_COLOUR, (side, side, 1))
    landmarks = np.zeros((478, 2))
    angle = np.pi + np.linspace(0, 2 * np.pi, len(INNER_LIPS), endpoint=False)
    landmarks[INNER_LIPS] = np.column_stack([64 + 30 * np.cos(angle), 64 - 30 * opening * np.sin(angle)])
    y, x = np.mgrid[:side, :side] + 0.5
    inside = ((x - 64) / 30) ** 2 + ((y - 64) / (30 * opening)) ** 2 < 1
    image[inside] = [0.25, 0.08, 0.08]
    if teeth is not None:
        image[inside & (y < 64 + 0.4 * 30 * opening)] = teeth
    return image, landmarks


def test_teeth_are_as_light_as_the_photos(template):
    enamel = np.array([0.87, 0.82, 0.73])
    assert read_teeth(*drawn_mouth(enamel, 0.3)) == pytest.approx(1.0, abs=0.01)
    assert read_teeth(*drawn_mouth(0.7 * enamel, 0.3)) == pytest.approx(0.7, abs=0.02)
    assert read_teeth(*drawn_mouth(0.2 * enamel, 0.3)) == pytest.approx(0.55)  # the mouth's shade is the rig's own
    assert read_teeth(*drawn_mouth(None, 0.3)) is None  # a throat
    assert read_teeth(*drawn_mouth(enamel, 0.05)) is None  # lips all but closed
    light, dim = (
        sampled(template, paint_mouth(template, SKIN_COLOUR, exposure, 256), (TEETH_UPPER,)) for exposure in (1.0, 0.6)
    )
    upper = template.vertices_of(TEETH_UPPER)
    assert np.median(dim[upper] @ LUMA) == pytest.approx(0.6 * np.median(light[upper] @ LUMA), abs=0.02)


def test_teeth_are_ivory_and_gums_and_tongue_pink(template):
    picture = paint_mouth(template, SKIN_COLOUR, side=512)
    teeth = sampled(template, picture, (TEETH_UPPER, TEETH_LOWER))[template.vertices_of(TEETH_UPPER, TEETH_LOWER)]
    soft = sampled(template, picture, (GUMS,))[template.vertices_of(GUMS)]
    assert np.median(teeth @ LUMA) > np.median(soft @ LUMA) + 0.2
    assert np.median(soft[:, 0] - soft[:, 2]) > 0.15
    assert np.median(teeth[:, 0] - teeth[:, 2]) < 0.25
    dark = sampled(template, paint_mouth(template, 0.3 * SKIN_COLOUR, side=512), (GUMS,))[template.vertices_of(GUMS)]
    assert np.median(dark @ LUMA) < np.median(soft @ LUMA) - 0.1


def test_each_tooth_goes_from_its_edge_to_its_root(template):
    places = tooth_places(template)
    for part, sign in ((TEETH_UPPER, 1), (TEETH_LOWER, -1)):
        own = template.vertices_of(part)
        height = sign * template.vertices[own, 1]
        assert np.corrcoef(height, places[own, 0])[0, 1] > 0.7
        assert places[own].min() >= 0
        assert places[own].max() <= 1


def test_the_tongue_lies_between_the_lower_teeth(template):
    tongue = np.flatnonzero(tongue_share(template) > 0.5)
    assert np.isin(tongue, template.vertices_of(GUMS)).all()
    lower = template.vertices[template.vertices_of(TEETH_LOWER)]
    assert len(tongue) > 50
    assert np.abs(template.vertices[tongue, 0]).max() < np.abs(lower[:, 0]).max() - 4 * MM
    assert template.vertices[tongue, 2].max() < lower[:, 2].max() - 4 * MM


def test_below_hair_lies_skin_with_dark_roots_and_elsewhere_nothing_changes(template):
    side = 256
    hair_colour = np.array([0.2, 0.12, 0.08])
    albedo = np.full((side, side, 3), np.rint(SKIN_COLOUR * 255), np.uint8)
    crown = template.scalp > 0.9
    for vertex in np.flatnonzero(crown)[::3]:
        row, column = texel(template, int(vertex), side)
        albedo[row - 2 : row + 3, column - 2 : column + 3] = [0, 255, 0]  # hair printed on the scalp
    trust, covered = (template.scalp < 0.1).astype(float), crown.astype(float)
    picture = paint_bare_skin(template, template.vertices, albedo, trust, covered, hair_colour)
    colour = sampled(template, picture, (SKIN,))
    inner = np.intersect1d(np.flatnonzero(template.scalp > 0.995), template.vertices_of(SKIN))
    # All but those whose texel lies beside the island: neither green nor bare.
    assert (colour[inner, 1] < 0.8 * SKIN_COLOUR[1]).mean() > 0.95
    assert (colour[inner] @ LUMA > hair_colour @ LUMA).mean() > 0.95
    face = np.intersect1d(np.flatnonzero(template.scalp == 0), template.vertices_of(SKIN))
    face = np.setdiff1d(face, template.vertices_of(MOUTH, SOCKET))
    np.testing.assert_allclose(np.median(colour[face], axis=0), SKIN_COLOUR, atol=0.01)
    mouth = np.setdiff1d(template.vertices_of(MOUTH), template.vertices_of(SKIN))
    inside = sampled(template, picture, (MOUTH,))[mouth]
    assert np.median(inside[:, 0]) > 2 * np.median(inside[:, 1])
    assert np.median(inside @ LUMA) < 0.3


def test_pictures_are_the_same_every_time(template):
    iris = IrisColour(BLUE, True)
    assert paint_eyes(template, iris, 128).tobytes() == paint_eyes(template, iris, 128).tobytes()
    assert (
        paint_mouth(template, SKIN_COLOUR, side=128).tobytes() == paint_mouth(template, SKIN_COLOUR, side=128).tobytes()
    )
