"""The rig bench, on the rig that the Blender tests import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from inference.camera import orbit_camera
from inference.preview import draw_view
from inference.rigging.fit import FitQuality
from inference.template import load_rig_template
from tests.blender.prepared_rig import write_rig_files
from tests.rig_bench import Actions, Row, actions_of, broken_bounds, pair_shares, rig_as_head

GOOD = Row(
    "good",
    FitQuality(0.3, 1.0, 0.5, 0.01, 0, 0, 0),
    27.0,
    26.5,
    0.20,
    0.22,
    10.0,
    Actions(pair_share=0.01, lid_gap_mm=0.1, lips_apart_mm=30.0, skull_mm=0.0, crossings=0, other_pairs=0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rig_files(tmp_path_factory.mktemp("rig"))


def test_the_templates_own_actions_keep_every_promise(folder: Path) -> None:
    acts = actions_of(folder, load_rig_template(), ("jawOpen", "mouthPucker"))
    assert acts.crossings == acts.other_pairs == 0 and acts.skull_mm < 1.0 and acts.lips_apart_mm > 20.0
    assert broken_bounds([replace(GOOD, actions=acts)]) == []


def test_each_part_of_a_rig_is_drawn_with_its_own_picture(folder: Path) -> None:
    head = rig_as_head(folder, 64)
    assert head.uv.min() >= 0 and head.uv.max() <= 1 and head.albedo.shape == (128, 128, 3)
    view = draw_view(head, orbit_camera(0), 128)
    assert (view[64, 64] != 128).any()  # a face in the middle, and nothing in the corner
    assert (view[0, 0] == 128).all()


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (replace(GOOD, fit=replace(GOOD.fit, skin_p95_mm=2.1)), "skin p95"),
        (replace(GOOD, fit=replace(GOOD.fit, intersections=1)), "crossing at neutral"),
        (replace(GOOD, psnr_rig_db=25.9), "PSNR"),
        (replace(GOOD, identity_rig=None), "identity"),
        (replace(GOOD, identity_rig=0.24), "identity"),
        (replace(GOOD, fit_and_bake_s=20.5), "fit and bake"),
    ],
)
def test_a_broken_promise_is_told_with_the_heads_name(spoilt: Row, told: str) -> None:
    assert broken_bounds([GOOD]) == []
    (what,) = broken_bounds([GOOD, replace(spoilt, name="bad")])
    assert told in what and what.endswith(": bad")


def test_no_network_is_no_loss_of_likeness() -> None:
    assert broken_bounds([replace(GOOD, identity_scan=None, identity_rig=None, actions=None)]) == []


def test_actions_that_stay_behind_are_told(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "rig.npz") as file:
        rig = dict(file)
    rig["expression_offset"] = rig["expression_offset"] * np.float32(0.2)
    np.savez(tmp_path / "rig.npz", **rig)
    acts = actions_of(tmp_path, load_rig_template(), ())
    told = broken_bounds([replace(GOOD, actions=acts)])
    assert any("blink" in what for what in told) and any("hardly parts" in what for what in told)


def test_pairs_are_compared_in_the_heads_own_mirror() -> None:
    template = load_rig_template()
    number = template.expression_names.index
    left, right = (template.expressions[[number(f"{name}{side}") for name in ("mouthSmile", "eyeBlink", "eyeSquint")]]
                   for side in ("Left", "Right"))  # fmt: skip
    right = right[:, template.mirror]
    turn = Rotation.from_euler("yz", (2.0, 1.0), degrees=True).as_matrix()
    turned = left @ turn.T, right @ turn.T
    assert pair_shares(*turned).max() < 1e-6
    assert np.abs(turned[0] - turned[1] * [-1, 1, 1]).max() > 0.06 * np.abs(left[0]).max()  # in the axes' mirror
    # Each pair for itself would hide that one of them goes astray.
    astray = turned[1].copy()
    astray[1] = astray[1] @ Rotation.from_euler("z", 10.0, degrees=True).as_matrix().T
    assert pair_shares(turned[0], astray)[1] > 0.05
