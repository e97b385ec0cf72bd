"""The pseudo-random weights both sides of the parity fixture (tests/data/parity_tiny.npz) were filled with."""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Pseudo-random value of one tensor: normals seeded by its name, scaled so that activations stay moderate."""
    if key.endswith("resample_filter"):
        taps = np.array([1, 3, 3, 1])
        return (np.outer(taps, taps) / 64).astype(np.float32)
    normals = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode("utf-8")))).standard_normal(shape)
    offset: Any = 0.0
    scale: Any = 1.0
    row = (slice(None),) + (None,) * (len(shape) - 1)  # aligns a per-row factor with the tensor
    if key.endswith("noise_const"):
        pass
    elif key.endswith("noise_strength"):
        scale = 0.1
    elif key == "dataset_label_std":
        offset, scale = 0.5, 0.1
    elif key in ("t_mapping.w_avg", "t_mapping.fc1.bias"):
        scale = 0.01
    elif key == "t_mapping.fc1.weight":
        scale = 0.02
    elif key.endswith("w_avg"):
        scale = 0.3
    elif re.fullmatch(r"backbone\.mapping\.fc\d+\.weight", key):
        scale = 100.0
    elif re.fullmatch(r"backbone\.mapping\.fc\d+\.bias", key):
        scale = 10.0
    elif key.endswith("affine.bias"):
        offset, scale = 1.0, 0.1
    elif key == "decoder.net.2.weight":
        scale = np.where(np.arange(shape[0]) == 0, 40.0, 2.0)[row]  # sigma swings wide, colours do not
    elif key == "decoder.net.2.bias":
        offset, scale = np.where(np.arange(shape[0]) == 0, -10.0, 0.0), 0.1  # most of space is empty
    elif key.endswith("bias"):
        scale = 0.1
    return np.asarray(offset + scale * normals, dtype=np.float32)
