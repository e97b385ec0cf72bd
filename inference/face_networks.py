"""The four face networks, run as plain torch.

They are MediaPipe's (Google, Apache-2.0; see weights/face/NOTICE), converted once from TensorFlow Lite: a safetensors
file holds the weights, and its metadata the graph as JSON: `nodes` as [operation, inputs, outputs, options], with
tensors named by number. TensorFlow Lite thinks in (n, h, w, channel), torch in (n, channel, h, w): pictures are kept
torch's way, and turned only where an operation's meaning depends on the order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import WeightsDamaged, WeightsMissing

FACE_WEIGHTS_FOLDER = Path(__file__).parent / "weights" / "face"
LANDMARK_TEMPLATE_FILE = FACE_WEIGHTS_FOLDER / "landmark_template.safetensors"

Options = dict[str, Any]
Operation = Callable[[list[Tensor], Options], Tensor]

SAME_PADDING = 0  # TensorFlow Lite's enumerations
RELU_ACTIVATION = 1


class GraphNetwork(torch.nn.Module):
    """A network read from a graph file.

    Call with (n, channel, h, w) float32; returns the graph's outputs in its own order, pictures as (n, h, w, channel).
    Raises WeightsMissing or WeightsDamaged when the file is absent or not readable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise WeightsMissing(f"The face network {path.name} is missing.")
        try:
            with safe_open(str(path), framework="pt") as file:
                graph = json.loads(file.metadata()["graph"])
                constants = {int(name): file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise WeightsDamaged(f"The face network {path.name} cannot be read.") from error
        self.nodes: list[tuple[str, list[int], list[int], Options]] = graph["nodes"]
        self.input: int = graph["inputs"][0]
        self.outputs: list[int] = graph["outputs"]
        self.constants = sorted(constants)
        for name in self.constants:
            self.register_buffer(f"constant_{name}", constants[name].float())

    def forward(self, picture: Tensor) -> list[Tensor]:
        values: dict[int, Tensor] = {name: self.get_buffer(f"constant_{name}") for name in self.constants}
        values[self.input] = picture
        for operation, inputs, outputs, options in self.nodes:
            values[outputs[0]] = OPERATIONS[operation]([values[i] for i in inputs], options)
        return [_channels_last(values[name]) for name in self.outputs]

    def options_of(self, operation: str) -> list[Options]:
        """The options of each node of that kind, in the graph's order."""
        return [options for name, _, _, options in self.nodes if name == operation]


@dataclass(frozen=True)
class LandmarkTemplate:
    """The landmarks of the mean face.

    points_head: (468, 3) head frame, box units.
    axes_head:   (3, 3) rotation whose columns are the axes in which the face was averaged: x to its left, y up, z out
                 of the face. They look some 4 degrees further down than the head frame's.
    """

    points_head: NDArray[np.float64]
    axes_head: NDArray[np.float64]


@dataclass(frozen=True)
class FaceNetworks:
    """The networks that find a face, on one device, and the mean face they are compared with.

    short_range:   faces that fill much of the picture, 128 px in [-1, 1].
    full_range:    smaller faces, 192 px in [-1, 1].
    landmarks:     478 points of one face, 192 px in [0, 1].
    segmentation:  person against background, 256 px in [0, 1].
    template:      the mean face's landmarks.
    """

    short_range: GraphNetwork
    full_range: GraphNetwork
    landmarks: GraphNetwork
    segmentation: GraphNetwork
    template: LandmarkTemplate
    device: torch.device


def load_face_networks(folder: Path = FACE_WEIGHTS_FOLDER, device: torch.device | str = "cpu") -> FaceNetworks:
    """Read the four networks and the landmark template from a folder.

    Raises WeightsMissing or WeightsDamaged.
    """
    device = torch.device(device)

    def network(name: str) -> GraphNetwork:
        return GraphNetwork(folder / f"{name}.safetensors").eval().requires_grad_(False).to(device)

    return FaceNetworks(
        short_range=network("face_detection_short_range"),
        full_range=network("face_detection_full_range_sparse"),
        landmarks=network("face_landmark_with_attention"),
        segmentation=network("selfie_segmentation"),
        template=load_landmark_template(folder / LANDMARK_TEMPLATE_FILE.name),
        device=device,
    )


def load_landmark_template(path: Path = LANDMARK_TEMPLATE_FILE) -> LandmarkTemplate:
    """Read the mean face.

    The file keeps the points as they were averaged, and beside them the similarity that brings them into the head
    frame (training/fit_landmark_template.py finds it), so that a better fit replaces that one matrix.
    Raises WeightsMissing or WeightsDamaged.
    """
    if not path.is_file():
        raise WeightsMissing(f"The landmark template {path.name} is missing.")
    try:
        with safe_open(str(path), framework="np") as file:
            points = file.get_tensor("points").astype(np.float64)
            head_from_template = file.get_tensor("head_from_template").astype(np.float64)
    except (SafetensorError, OSError) as error:
        raise WeightsDamaged(f"The landmark template {path.name} cannot be read.") from error
    linear = head_from_template[:3, :3]
    return LandmarkTemplate(points @ linear.T + head_from_template[:3, 3], linear / np.cbrt(np.linalg.det(linear)))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def _activate(x: Tensor, options: Options) -> Tensor:
    return F.relu(x) if options["act"] == RELU_ACTIVATION else x


def _pad_same(x: Tensor, kernel: list[int], stride: list[int], value: float = 0.0) -> Tensor:
    """TensorFlow's SAME padding: the odd pixel goes to the right and the bottom."""
    pads: list[int] = []
    for axis in (1, 0):  # torch pads the last axis first
        size = x.shape[2 + axis]
        total = max((math.ceil(size / stride[axis]) - 1) * stride[axis] + kernel[axis] - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


def _convolve(inputs: list[Tensor], options: Options, groups: int) -> Tensor:
    x, weight, bias = inputs
    if options["pad"] == SAME_PADDING:
        x = _pad_same(x, list(weight.shape[2:]), options["s"])
    return _activate(F.conv2d(x, weight, bias, stride=options["s"], groups=groups), options)


def _conv_2d(inputs: list[Tensor], options: Options) -> Tensor:
    return _convolve(inputs, options, groups=1)


def _depthwise_conv_2d(inputs: list[Tensor], options: Options) -> Tensor:
    return _convolve(inputs, options, groups=inputs[0].shape[1])


def _transposed_convolution(inputs: list[Tensor], options: Options) -> Tensor:
    x, weight, bias = inputs
    y = F.conv_transpose2d(x, weight, bias, stride=options["s"])
    height, width = options["oshape"][1:3]
    top, left = (y.shape[2] - height) // 2, (y.shape[3] - width) // 2
    return y[:, :, top : top + height, left : left + width]


def _max_pool(inputs: list[Tensor], options: Options) -> Tensor:
    x = inputs[0]
    if options["pad"] == SAME_PADDING:
        x = _pad_same(x, options["k"], options["s"], value=-math.inf)
    return F.max_pool2d(x, options["k"], options["s"])


def _average_pool(inputs: list[Tensor], options: Options) -> Tensor:
    return F.avg_pool2d(inputs[0], options["k"], options["s"])


def _add(inputs: list[Tensor], options: Options) -> Tensor:
    return _activate(inputs[0] + inputs[1], options)


def _multiply(inputs: list[Tensor], options: Options) -> Tensor:
    return _activate(inputs[0] * inputs[1], options)


def _prelu(inputs: list[Tensor], options: Options) -> Tensor:
    return F.prelu(inputs[0], inputs[1].flatten())


def _relu(inputs: list[Tensor], options: Options) -> Tensor:
    return F.relu(inputs[0])


def _hard_swish(inputs: list[Tensor], options: Options) -> Tensor:
    return F.hardswish(inputs[0])


def _logistic(inputs: list[Tensor], options: Options) -> Tensor:
    return torch.sigmoid(inputs[0])


def _pad(inputs: list[Tensor], options: Options) -> Tensor:
    _, height, width, channel = options["pads"]
    return F.pad(inputs[0], [*width, *height, *channel])


def _concatenate(inputs: list[Tensor], options: Options) -> Tensor:
    # Only the detectors' (n, anchors, numbers) lists are joined, never pictures: the axis needs no turning.
    return torch.cat(inputs, options["axis"])


def _resize_bilinear(inputs: list[Tensor], options: Options) -> Tensor:
    # All four graphs ask for half-pixel centres, which is torch's align_corners=False.
    return F.interpolate(inputs[0], options["size"], mode="bilinear", align_corners=False)


def _depth_to_space(inputs: list[Tensor], options: Options) -> Tensor:
    # Not F.pixel_shuffle: TensorFlow puts the block's position before the channel.
    x, block = inputs[0], options["b"]
    n, c, h, w = x.shape
    c //= block * block
    x = x.view(n, block, block, c, h, w).permute(0, 3, 4, 1, 5, 2)  # (n, channel, h, block, w, block)
    return x.reshape(n, c, h * block, w * block)


def _reshape(inputs: list[Tensor], options: Options) -> Tensor:
    return _channels_first(_channels_last(inputs[0]).reshape(inputs[0].shape[0], *options["shape"][1:]))


def _identity_slice(inputs: list[Tensor], options: Options) -> Tensor:
    # The one slice in these graphs takes everything.
    return inputs[0]


def _region_transform(inputs: list[Tensor], options: Options) -> Tensor:
    """(n, 4, 4) from a small upright picture of an eye or the mouth to the face's picture, around its landmarks."""
    points = inputs[0][..., :2]
    left, right = points[:, options["left_rotation_idx"]], points[:, options["right_rotation_idx"]]
    angle = -torch.atan2(right[:, 1] - left[:, 1], right[:, 0] - left[:, 0])
    cosine, sine = torch.cos(angle), torch.sin(angle)
    upright = torch.stack([cosine, -sine, sine, cosine], dim=-1).view(-1, 2, 2)
    subset = points[:, options["subset_idxs"]] @ upright.transpose(1, 2)
    low, high = subset.amin(1), subset.amax(1)
    centre = torch.einsum("nji,nj->ni", upright, (low + high) / 2)
    output_size = torch.tensor(
        [options["output_width"], options["output_height"]], dtype=points.dtype, device=points.device
    )
    margin = torch.tensor([options["scale_x"], options["scale_y"]], dtype=points.dtype, device=points.device)
    scale = margin * (high - low) / output_size
    linear = upright.transpose(1, 2) * scale[:, None, :]
    transform = torch.eye(4, dtype=points.dtype, device=points.device).repeat(len(points), 1, 1)
    transform[:, :2, :2] = linear
    transform[:, :2, 3] = centre - linear @ (output_size / 2)
    return transform


def _warp(inputs: list[Tensor], options: Options) -> Tensor:
    """Cut a region out of a feature picture by the transform; black outside."""
    features, transform = inputs
    n, _, h, w = features.shape
    height, width = options["output_height"], options["output_width"]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=features.dtype, device=features.device) + 0.5,
        torch.arange(width, dtype=features.dtype, device=features.device) + 0.5,
        indexing="ij",
    )
    centres = torch.stack([x, y], dim=-1).view(1, -1, 2)
    source = centres @ transform[:, :2, :2].transpose(1, 2) + transform[:, None, :2, 3]
    size = torch.tensor([w, h], dtype=features.dtype, device=features.device)
    # grid_sample would fade pixels half outside; the original drops them whole.
    inside = ((source >= 0.5) & (source <= size - 0.5)).all(-1).view(n, 1, height, width)
    grid = (source / size * 2 - 1).view(n, height, width, 2)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False) * inside


def _transform_landmarks(inputs: list[Tensor], options: Options) -> Tensor:
    points, transform = inputs
    return points @ transform[:, :2, :2].transpose(1, 2) + transform[:, None, :2, 3]


OPERATIONS: dict[str, Operation] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "Convolution2DTransposeBias": _transposed_convolution,
    "MAX_POOL_2D": _max_pool,
    "AVERAGE_POOL_2D": _average_pool,
    "ADD": _add,
    "MUL": _multiply,
    "PRELU": _prelu,
    "RELU": _relu,
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": _logistic,
    "PAD": _pad,
    "CONCATENATION": _concatenate,
    "RESIZE_BILINEAR": _resize_bilinear,
    "DEPTH_TO_SPACE": _depth_to_space,
    "RESHAPE": _reshape,
    "STRIDED_SLICE": _identity_slice,
    "Landmarks2TransformMatrix": _region_transform,
    "TransformTensorBilinear": _warp,
    "TransformLandmarks": _transform_landmarks,
}
