"""How alike two pictures of faces are: distance of dlib's face embeddings. For training and evaluation only.

The network is dlib's `dlib_face_recognition_resnet_model_v1` (King, CC0) as plain torch. Two photos of one person lie
.33 to .41 apart, a picture and its mirror image about .21, two people .83 on average and seldom below .56. Report the
distance and the rank in a gallery; no threshold tells people apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from skimage.transform import SimilarityTransform
from torch import Tensor, nn

from inference.alignment import find_faces, find_landmarks
from inference.face_networks import FaceNetworks
from inference.resampling import build_pyramid, resample

CHIP_SIZE = 150  # px of the picture the network was trained on
CHIP_MARGIN = 0.25  # around the face, in widths of the face
# Where dlib's mean face has its five landmarks, in widths of the face: the image's right eye outer and inner corner,
# the left eye's, and the base of the nose; and the points of the 478-point face mesh that lie there.
MEAN_FACE = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)
MEAN_FACE_LANDMARKS = [263, 362, 33, 133, 2]
MEAN_COLOUR = (122.782, 117.001, 104.298)  # of 255, subtracted from the picture
BLOCKS = {  # channels in and out; those of equal numbers keep the size unless their name says down
    "conv32_1": (32, 32),
    "conv32_2": (32, 32),
    "conv32_3": (32, 32),
    "conv64_down": (32, 64),
    "conv64_1": (64, 64),
    "conv64_2": (64, 64),
    "conv64_3": (64, 64),
    "conv128_down": (64, 128),
    "conv128_1": (128, 128),
    "conv128_2": (128, 128),
    "conv256_down": (128, 256),
    "conv256_1": (256, 256),
    "conv256_2": (256, 256),
    "conv256_down_out": (256, 256),
}


class IdentityBlock(nn.Module):
    """Two 3x3 convolutions and a short cut; `halve` makes the picture half as large.

    The short cut has no weights: it is averaged where the block halves, and filled up with zeros to the block's size.
    """

    def __init__(self, in_channels: int, out_channels: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=2 if halve else 1, padding=0 if halve else 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.halve:
            x = F.avg_pool2d(x, 2, 2)
            # dlib counts borders differently in the two branches: whichever is smaller is padded.
            height, width = max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3])
            x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, y.shape[1] - x.shape[1]))
            y = F.pad(y, (0, width - y.shape[3], 0, height - y.shape[2]))
        return F.relu(x + y)


class IdentityNetwork(nn.Module):
    """Face chips (n, 3, 150, 150), sRGB in [0, 1], to embeddings (n, 128). Differentiable."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = nn.Conv2d(3, 32, 7, stride=2)
        self.blocks = nn.ModuleDict({name: IdentityBlock(*sizes, "down" in name) for name, sizes in BLOCKS.items()})
        self.fc = nn.Linear(256, 128, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1) / 255, persistent=False)

    def forward(self, chips: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv32_down((chips - self.mean) * (255 / 256))), 3, 2)
        for block in self.blocks.values():
            x = block(x)
        return self.fc(x.mean((2, 3)))


def load_identity_network(path: Path) -> IdentityNetwork:
    """The network with weights from a safetensors file, whose convolutions are followed by a scale and a shift."""
    stored = {name: tensor.float() for name, tensor in load_file(path).items()}
    state = {"fc.weight": stored["fc.weight"]}
    for name in stored:
        if not name.endswith(".c.weight"):
            continue
        layer = name.removesuffix(".c.weight")
        scale, shift = stored[f"{layer}.w"], stored[f"{layer}.b"]
        own = layer if layer == "conv32_down" else f"blocks.{layer}"
        state[f"{own}.weight"] = stored[name] * scale[:, None, None, None]
        state[f"{own}.bias"] = stored[f"{layer}.c.bias"] * scale + shift
    network = IdentityNetwork()
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def embed(picture: NDArray[np.uint8], landmarks: NDArray[np.floating], network: IdentityNetwork) -> NDArray[np.float32]:
    """(128,) embedding of the face in a picture (h, w, 3), sRGB, with landmarks (478, 2 or 3) in its pixels."""
    chip = face_chip(picture, landmarks)
    with torch.no_grad():
        return network(torch.from_numpy(chip).permute(2, 0, 1)[None])[0].numpy()


def embed_found(picture: NDArray[np.uint8], face: FaceNetworks, network: IdentityNetwork) -> NDArray[np.float32] | None:
    """(128,) embedding of the largest face found in a picture (h, w, 3); None when none is found."""
    pyramid = build_pyramid(picture)
    detections = find_faces(pyramid, face)
    if not detections:
        return None
    return embed(picture, find_landmarks(pyramid, detections[0], face).points, network)


def face_chip(picture: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """(150, 150, 3) sRGB in [0, 1]: the face upright and centred as dlib's training faces were."""
    in_chip = (CHIP_MARGIN + MEAN_FACE) / (1 + 2 * CHIP_MARGIN) * CHIP_SIZE
    in_picture = np.asarray(landmarks)[MEAN_FACE_LANDMARKS, :2]
    picture_from_chip = SimilarityTransform.from_estimate(in_chip, in_picture).params
    chip, _ = resample(build_pyramid(picture), picture_from_chip, (CHIP_SIZE, CHIP_SIZE))
    return chip / np.float32(255)


def identity_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Distance of two embeddings (128,)."""
    return float(np.linalg.norm(one - other))


def gallery_rank(embedding: NDArray[np.floating], gallery: NDArray[np.floating], own: int) -> int:
    """Which place the own entry of a gallery (n, 128) takes by its distance from an embedding (128,); 1 is best."""
    distances = np.linalg.norm(gallery - embedding, axis=1)
    return int((distances < distances[own]).sum()) + 1
