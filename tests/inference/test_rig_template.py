"""The animatable head template: what an animator may rely on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.errors import WeightsDamaged, WeightsMissing
from inference.face_networks import load_landmark_template
from inference.rigging.intersections import intersecting_pairs
from inference.rigging.neutral import Eyeball, lid_rim, lip_rim
from inference.rigging.shape_fit import MM
from inference.template import (
    BONE_PARENTS,
    BONES,
    EYE_LEFT,
    EYE_RIGHT,
    GUMS,
    PARTS,
    SKIN,
    TEETH_LOWER,
    TEETH_UPPER,
    TEMPLATE_FILE,
    RigTemplate,
    load_rig_template,
    triangles,
)

# https://developer.apple.com/documentation/arkit/arfaceanchor/blendshapelocation, by region and without sides
ARKIT = {
    *("browInnerUp", "cheekPuff", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel"),
    *("mouthLeft", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower"),
    *("mouthShrugUpper", "tongueOut"),
    *(
        f"{name}{side}"
        for side in ("Left", "Right")
        for name in (
            *("browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut"),
            *("eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress"),
            *("mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer"),
        )
    ),
}


@pytest.fixture(scope="module")
def template() -> RigTemplate:
    return load_rig_template()


def action(template: RigTemplate, name: str) -> np.ndarray:
    return template.expressions[template.expression_names.index(name)]


def test_it_has_the_52_facial_actions_under_arkits_names(template):
    assert len(ARKIT) == len(template.expression_names) == 52
    assert set(template.expression_names) == ARKIT


def test_it_is_one_symmetric_mesh_of_quads_with_every_part(template):
    assert template.faces.shape[1] == template.uv_faces.shape[1] == 4
    assert (np.sort(template.faces, axis=1)[:, 1:] > np.sort(template.faces, axis=1)[:, :-1]).all()
    assert set(np.unique(template.part)) == set(range(len(PARTS)))
    mirrored = template.vertices[template.mirror] * [-1, 1, 1]
    assert np.abs(mirrored - template.vertices).max() < 0.05 * MM
    assert (template.mirror[template.mirror] == np.arange(len(template.vertices))).all()


def test_skin_faces_outwards(template):
    corners = template.vertices[triangles(template.faces[template.part == SKIN])]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume > 0


def test_texture_coordinates_of_the_skin_lie_in_their_picture_and_do_not_fold(template):
    quads = template.part < EYE_LEFT
    flat = template.uv[triangles(template.uv_faces[quads])]
    assert flat.min() >= 0
    assert flat.max() <= 1
    turned = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    # v runs down, so what is anticlockwise outside is clockwise here; a few slivers at ears and lids are folded.
    assert (turned > 0).mean() < 0.01


def test_weights_of_each_vertex_are_at_most_four_and_sum_to_one(template):
    assert len(BONES) == len(BONE_PARENTS) == template.weights.shape[1]
    np.testing.assert_allclose(template.weights.sum(axis=1), 1, atol=1e-5)
    assert (template.weights > 0).sum(axis=1).max() <= 4
    for part, bone in ((EYE_LEFT, "eye.L"), (EYE_RIGHT, "eye.R"), (TEETH_UPPER, "head")):
        assert template.weights[template.vertices_of(part), BONES.index(bone)].min() > 0.99


def test_left_and_right_of_an_action_mirror_each_other_within_five_percent(template):
    for name in template.expression_names:
        if name.endswith("Left") and name not in ("jawLeft", "mouthLeft"):
            left, right = action(template, name), action(template, f"{name.removesuffix('Left')}Right")
            mirrored = right[template.mirror] * [-1, 1, 1]
            assert np.abs(left - mirrored).max() < 0.05 * np.abs(left).max(), name


def test_a_blink_closes_the_lids(template):
    for part, side in ((EYE_LEFT, "Left"), (EYE_RIGHT, "Right")):
        rim = lid_rim(template, part)
        blink = action(template, f"eyeBlink{side}")
        way = np.linalg.norm(blink[rim], axis=1)
        upper, lower = rim[way > 0.3 * way.max()], rim[way <= 0.3 * way.max()]
        shut = template.vertices + blink
        # The upper lid's rim comes down to the lower one's or before it, all along.
        line = lower[np.argsort(shut[lower, 0])]
        inner = upper[(shut[upper, 0] > shut[line[0], 0] + 4 * MM) & (shut[upper, 0] < shut[line[-1], 0] - 4 * MM)]
        height = shut[inner, 1] - np.interp(shut[inner, 0], shut[line, 0], shut[line, 1])
        assert height.max() < 0.5 * MM
        assert height.min() > -4 * MM


def test_an_open_jaw_parts_the_lips_and_leaves_skull_and_upper_teeth_still(template):
    opened = action(template, "jawOpen")
    upper, lower = lip_rim(template)
    assert opened[lower, 1].min() < -20 * MM
    assert np.abs(opened[upper[np.abs(template.vertices[upper, 0]) < 7 * MM]]).max() < 3 * MM
    assert np.abs(opened[template.vertices_of(TEETH_UPPER)]).max() < 0.5 * MM
    scalp = np.flatnonzero((template.scalp > 0.9) & (template.vertices[:, 1] > 0))
    assert np.abs(opened[scalp]).max() < 1.0 * MM


def test_the_tongue_comes_out_between_the_lips_and_takes_nothing_along(template):
    tongue = np.flatnonzero(action(template, "tongueOut").any(axis=1))
    assert np.isin(tongue, template.vertices_of(GUMS)).all()
    out = template.vertices + action(template, "tongueOut") + action(template, "jawOpen")
    lower_lip = lip_rim(template)[1]
    opened = template.vertices + action(template, "jawOpen")
    assert out[tongue, 2].max() > opened[lower_lip, 2].max() + 8 * MM
    # Above the teeth and the lip of the open jaw, not through them.
    teeth = template.vertices_of(TEETH_LOWER)
    crowns = teeth[(opened[teeth, 2] > opened[teeth, 2].max() - 8 * MM) & (np.abs(opened[teeth, 0]) < 8 * MM)]
    middle = tongue[np.abs(out[tongue, 0]) < 8 * MM]
    over = middle[np.abs(out[middle, 2] - opened[crowns, 2].mean()) < 4 * MM]
    assert len(over) and out[over, 1].min() > opened[crowns, 1].max() - 2 * MM
    # Its root stays where it is grown on, or it would come off.
    root = tongue[template.vertices[tongue, 2].argmin()]
    assert np.linalg.norm(action(template, "tongueOut")[root]) < 8 * MM


def test_every_action_does_something(template):
    assert (np.abs(template.expressions).max(axis=(1, 2)) > 1 * MM).all()


def test_gaze_turns_balls_without_stretching_them(template):
    for part, side, name in ((EYE_LEFT, "Left", "eyeLookOutLeft"), (EYE_RIGHT, "Right", "eyeLookUpRight")):
        ball = Eyeball.of(template, template.vertices, part)
        moved = template.vertices + action(template, name)
        radii = ball.radii(moved[template.vertices_of(part)])
        np.testing.assert_allclose(radii, 1, atol=0.01, err_msg=side)
        pupil = template.vertices_of(part)[0]
        assert np.linalg.norm(moved[pupil] - template.vertices[pupil]) > 0.15 * ball.radius


def test_lids_lie_outside_the_balls(template):
    for part in (EYE_LEFT, EYE_RIGHT):
        ball = Eyeball.of(template, template.vertices, part)
        assert ball.radii(template.vertices[lid_rim(template, part)]).min() > 0.99
        assert 11 * MM < ball.radius < 15 * MM


def test_landmarks_lie_where_the_mean_face_has_them(template):
    # Two mean faces, MakeHuman's and the landmark network's, brought into one frame by their eyes and mouth.
    mean_face = load_landmark_template().points_head
    away = np.linalg.norm(template.landmarks(template.vertices)[: len(mean_face), :2] - mean_face[:, :2], axis=1)
    assert np.median(away) < 4 * MM
    assert away.max() < 20 * MM
    upper, lower = template.landmark_vertices[13], template.landmark_vertices[14]
    opened = action(template, "jawOpen")[:, 1]
    assert opened[lower].mean() < opened[upper].mean() - 10 * MM


def test_hardly_anything_of_it_passes_through_itself(template):
    faces = triangles(template.faces[template.part <= 1])
    assert len(intersecting_pairs(template.vertices, faces)) <= 12  # where the lips lie on each other


def test_it_is_small_and_carries_its_licence():
    assert TEMPLATE_FILE.stat().st_size < 4e6
    assert "CC0 1.0 Universal" in (TEMPLATE_FILE.parent / "LICENSE.CC0.md").read_text(encoding="utf-8")


def test_a_missing_or_damaged_file_is_named(tmp_path: Path):
    with pytest.raises(WeightsMissing, match="head_template"):
        load_rig_template(tmp_path / TEMPLATE_FILE.name)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(TEMPLATE_FILE.read_bytes()[:2000])
    with pytest.raises(WeightsDamaged, match="broken"):
        load_rig_template(broken)
