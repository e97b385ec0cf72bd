"""Synthetic heads as batches: points with signed distance and colour, and lit views with matte, depth and camera."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from torch import Tensor

from .heads.assets import linear_from_srgb, srgb_from_linear

HELD_OUT_SEEDS = 32  # heads 0 to 31 are never trained on
MAX_INPUT_AZIMUTH_DEG = 75.0  # input views beyond this show no face to encode
SURFACE_SHARE, UNIFORM_SHARE = 0.35, 0.15  # of a batch's points; the rest lies near the surface
EMPTY_DEPTH = 1e3  # box units; where a view shows nothing


@dataclass(frozen=True)
class Points:
    """Supervision in space: points (n, m, 3) head frame, distance (n, m) box units, colour (n, m, 3) in [0, 1]."""

    points: Tensor
    distance: Tensor
    colour: Tensor


@dataclass(frozen=True)
class Surface:
    """Points on the visible surface (n, m, 3), their outward unit normals (n, m, 3), colours (n, m, 3) in [0, 1]."""

    points: Tensor
    normals: Tensor
    colour: Tensor


@dataclass(frozen=True)
class Views:
    """Input views: portraits (n, 4, h, w) as encoders take them, cameras (n, 25), depths (n, h, w) along the rays."""

    portraits: Tensor
    cameras: Tensor
    depths: Tensor


@dataclass
class HeadSet:
    """The heads of a folder, held in memory; `refresh` takes in what has been built since.

    seeds: of the heads, in the order of their index.
    meta:  what each head is said to be: style, age, skin tone and the like.
    """

    folder: Path
    held_out: bool = False
    limit: int = 1_000_000
    seeds: list[int] = field(default_factory=list)
    heads: list[dict[str, NDArray]] = field(default_factory=list)
    meta: list[dict[str, Any]] = field(default_factory=list)

    def refresh(self) -> int:
        """Read new heads; returns how many there are now."""
        known = set(self.seeds)
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            seed = int(path.stem)
            if seed not in known and (seed < HELD_OUT_SEEDS) == self.held_out and len(self.heads) < self.limit:
                self.read(seed)
        return len(self.heads)

    def read(self, seed: int) -> None:
        """Add one head; its index is the next one."""
        path = self.folder / f"{seed:05d}.npz"
        try:
            with np.load(path) as arrays:
                self.heads.append({name: arrays[name] for name in arrays.files if name != "meta"})
                self.meta.append(json.loads(str(arrays["meta"])))
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is damaged; delete it and build seed {seed} again") from error
        self.seeds.append(seed)

    def points(self, indices: NDArray[np.integer], count: int, rng: np.random.Generator) -> Points:
        """`count` supervised points of each head."""
        on_surface, uniform = int(count * SURFACE_SHARE), int(count * UNIFORM_SHARE)
        near = count - on_surface - uniform
        points, distance, colour = [], [], []
        for index in indices:
            head = self.heads[index]
            i = rng.integers(0, len(head["near_points"]), near)
            j = rng.integers(0, len(head["uniform_points"]), uniform)
            k = rng.integers(0, len(head["surface_points"]), on_surface)
            zeros = np.zeros(on_surface, np.float16)
            place = (head["near_points"][i], head["uniform_points"][j], head["surface_points"][k])
            shade = (head["near_colour"][i], head["uniform_colour"][j], head["surface_colour"][k])
            points.append(np.concatenate(place))
            distance.append(np.concatenate([head["near_distance"][i], head["uniform_distance"][j], zeros]))
            colour.append(np.concatenate(shade))
        return Points(_float(points), _float(distance), _float(colour) / 255)

    def surface(self, indices: NDArray[np.integer], count: int, rng: np.random.Generator) -> Surface:
        """`count` visible surface points of each head."""
        picks = [rng.integers(0, len(self.heads[index]["surface_points"]), count) for index in indices]
        rows = list(zip(indices, picks, strict=True))
        points = _float([self.heads[index]["surface_points"][pick] for index, pick in rows])
        normals = _float([self.heads[index]["surface_normals"][pick] for index, pick in rows]) / 127
        colour = _float([self.heads[index]["surface_colour"][pick] for index, pick in rows]) / 255
        return Surface(points, normals, colour)

    def views(self, indices: NDArray[np.integer], rng: np.random.Generator, photographic: bool = True) -> Views:
        """One input view of each head; `photographic` adds what cameras, mattes and alignment do to a picture."""
        portraits, cameras, depths = [], [], []
        for index in indices:
            head = self.heads[index]
            azimuth = np.abs((head["azimuth_elevation"][:, 0] + 180) % 360 - 180)
            view = rng.choice(np.nonzero(azimuth <= MAX_INPUT_AZIMUTH_DEG)[0])
            portraits.append(self.portrait(index, view, rng if photographic else None))
            cameras.append(head["cameras"][view])
            depth = head["depths"][view].astype(np.float32)
            depths.append(np.where(depth > 0, depth, EMPTY_DEPTH))
        return Views(_float(portraits), _float(cameras), _float(depths))

    def portrait(self, index: int, view: int, rng: np.random.Generator | None) -> NDArray[np.float32]:
        """(4, h, w) one view as the encoders take it; degraded like a photo when `rng` is given."""
        head = self.heads[index]
        colour = head["images"][view].astype(np.float32).transpose(2, 0, 1) / 255
        matte = head["mattes"][view].astype(np.float32) / 255
        if rng is not None:
            colour, matte = _photograph(colour, matte, rng)
        return np.concatenate([colour * matte + 0.5 * (1 - matte), matte[None]])


def colours_in_view(albedo: NDArray[np.uint8], gain: NDArray[np.floating]) -> NDArray[np.float32]:
    """(n, 3) sRGB in [0, 1] that a view's exposure and white balance make of albedos.

    albedo: (n, 3) sRGB bytes; gain: (3,) of linear light.
    """
    return srgb_from_linear(linear_from_srgb(albedo.astype(np.float32) / 255) * gain)


def _photograph(
    colour: NDArray[np.float32], matte: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Exposure, white balance, contrast, blur, noise, a soft or cut-off matte, and a slightly wrong crop."""
    gain = rng.uniform(0.8, 1.25) * np.exp(rng.normal(0, 0.06, 3))
    colour = np.clip(colour * gain[:, None, None].astype(np.float32), 0, 1) ** np.float32(rng.uniform(0.8, 1.25))
    if rng.random() < 0.5:
        colour = gaussian_filter(colour, (0, *(rng.uniform(0.2, 0.9),) * 2))
    colour = colour + rng.normal(0, rng.uniform(0, 0.025), colour.shape).astype(np.float32)
    if rng.random() < 0.3:
        matte = gaussian_filter(matte, rng.uniform(0.3, 1.2))
    side = matte.shape[0]
    if rng.random() < 0.3:  # the photo ends above the neck's base, and seldom level
        rows = np.arange(side)[:, None] + rng.uniform(-0.15, 0.15) * (np.arange(side)[None] - side / 2)
        matte = matte * (rows < rng.uniform(0.78, 0.99) * side)
    # Landmarks are not exact: shift, size and roll of the crop err by about this much.
    roll, scale = np.radians(rng.normal(0, 1.5)), np.exp(rng.normal(0, 0.015))
    turn = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    middle = np.full(2, (side - 1) / 2)
    offset = middle - turn @ middle + rng.normal(0, 0.01, 2) * side
    moved = [affine_transform(c, turn, offset, order=1, mode="nearest") for c in colour]
    matte = affine_transform(matte, turn, offset, order=1, mode="constant")
    return np.clip(np.stack(moved), 0, 1), np.clip(matte, 0, 1)


def _float(arrays: list[NDArray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
