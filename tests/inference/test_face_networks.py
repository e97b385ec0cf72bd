from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file

from inference.alignment import find_faces, find_landmarks
from inference.errors import WeightsDamaged, WeightsMissing
from inference.face_networks import FACE_WEIGHTS_FOLDER, GraphNetwork, load_face_networks, load_landmark_template
from inference.resampling import build_pyramid

FACE = load_face_networks()


def run_node(
    tmp_path: Path, operation: str, options: dict[str, Any], picture: torch.Tensor, *constants: torch.Tensor
) -> torch.Tensor:
    """The output of a graph with one node."""
    names = [str(index + 1) for index in range(len(constants))]
    graph = {"nodes": [[operation, [0, *map(int, names)], [99], options]], "inputs": [0], "outputs": [99]}
    path = tmp_path / "graph.safetensors"
    tensors = {name: value.contiguous() for name, value in zip(names, constants, strict=True)}
    save_file(tensors or {"7": torch.zeros(1)}, path, metadata={"graph": json.dumps(graph)})
    return GraphNetwork(path)(picture)[0]


def test_same_padding_puts_the_odd_pixel_right_and_below(tmp_path: Path) -> None:
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    options = {"s": [2, 2], "d": [1, 1], "pad": 0, "act": 0}
    sums = run_node(tmp_path, "CONV_2D", options, picture, torch.ones(1, 1, 3, 3), torch.zeros(1))
    # Windows start at 0 and 2 (not at -1): 45 = 0+1+2+4+5+6+8+9+10; the last one sees 2 x 2 pixels.
    assert sums[0, :, :, 0].tolist() == [[45, 39], [66, 50]]


def test_depth_to_space_puts_the_block_before_the_channel(tmp_path: Path) -> None:
    # TensorFlow's own example: depth 12 in 2 x 2 blocks gives 3 channels, [1 2 3] [4 5 6] / [7 8 9] [10 11 12].
    picture = torch.arange(1.0, 13.0).view(1, 12, 1, 1)
    block = run_node(tmp_path, "DEPTH_TO_SPACE", {"b": 2}, picture)
    assert block[0].tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]


def test_reshape_reads_pictures_channel_last(tmp_path: Path) -> None:
    picture = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (n, channel, h, w): two pixels of two channels
    flat = run_node(tmp_path, "RESHAPE", {"shape": [1, 4]}, picture)
    assert flat.tolist() == [[1, 3, 2, 4]]


def test_padding_can_add_channels(tmp_path: Path) -> None:
    padded = run_node(tmp_path, "PAD", {"pads": [[0, 0], [1, 0], [0, 2], [0, 3]]}, torch.ones(1, 2, 4, 5))
    assert tuple(padded.shape) == (1, 5, 7, 5)
    assert padded.sum() == 40


def test_prelu_scales_what_is_negative_by_channel(tmp_path: Path) -> None:
    picture = torch.tensor([-2.0, -2.0, 3.0]).view(1, 3, 1, 1)
    out = run_node(tmp_path, "PRELU", {}, picture, torch.tensor([0.5, 0.25, 9.0]).view(1, 1, 3))
    assert out.flatten().tolist() == [-1.0, -0.5, 3.0]


def test_irises_of_the_astronaut_are_where_a_person_sees_them() -> None:
    """Pupils read off an enlarged print of the picture, to about half a pixel."""
    photo = build_pyramid(skimage.data.astronaut())
    points = find_landmarks(photo, find_faces(photo, FACE)[0], FACE).points
    assert np.linalg.norm(points[468, :2] - [203.8, 101.1]) < 1.5
    assert np.linalg.norm(points[473, :2] - [246.6, 103.4]) < 1.5


def test_segmentation_of_a_batch_equals_each_picture_alone() -> None:
    picture = torch.from_numpy(skimage.data.astronaut()[::2, ::2].copy()).permute(2, 0, 1)[None] / 255.0
    with torch.inference_mode():
        together = FACE.segmentation(torch.cat([picture, picture.flip(-1)]))[0]
        alone = FACE.segmentation(picture.flip(-1))[0]
    assert torch.allclose(together[1], alone[0], atol=1e-3)  # convolutions of two sum in another order


def test_the_template_is_symmetric_and_stands_in_the_head_frame() -> None:
    template = FACE.template.points_head
    left, right, nose, chin = template[263], template[33], template[4], template[152]
    assert left[0] > 0  # the subject's left is +x
    assert np.allclose(left, right * [-1, 1, 1], atol=1e-6)
    assert left[0] == pytest.approx(0.086, abs=0.01)
    assert chin[1] == pytest.approx(-0.24, abs=0.03)
    assert nose[2] > left[2] > template[234][2]  # nose before eyes before cheeks
    assert np.allclose(FACE.template.axes_head @ FACE.template.axes_head.T, np.eye(3), atol=1e-6)


def test_a_missing_network_and_a_damaged_one_say_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        load_face_networks(tmp_path)
    whole = (FACE_WEIGHTS_FOLDER / "face_detection_short_range.safetensors").read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"\0" * 100):
        (tmp_path / "face_detection_short_range.safetensors").write_bytes(damage)
        with pytest.raises(WeightsDamaged):
            load_face_networks(tmp_path)


def test_a_missing_template_and_a_damaged_one_say_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        load_landmark_template(tmp_path / "landmark_template.safetensors")
    (tmp_path / "landmark_template.safetensors").write_bytes(b"not a template")
    with pytest.raises(WeightsDamaged):
        load_landmark_template(tmp_path / "landmark_template.safetensors")


def test_the_licence_travels_with_the_networks() -> None:
    notice = (FACE_WEIGHTS_FOLDER / "NOTICE").read_text(encoding="utf-8")
    assert "MediaPipe" in notice
    assert "Google" in notice
    assert "Version 2.0, January 2004" in (FACE_WEIGHTS_FOLDER / "LICENSE.Apache-2.0.txt").read_text(encoding="utf-8")
