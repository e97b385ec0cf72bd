"""How well a head gives back its photo, and whether its mesh and texture are sound: figures without a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from inference.alignment import AlignedPortrait
from inference.bake import MATTE_EROSION, TexturedHead
from inference.camera import project
from inference.preview import draw_view
from inference.raster import fragments, rasterise_view, sample_image
from inference.surface import METRES_PER_UNIT, SLIVER, Mesh, folded_faces, is_watertight, weld

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, what the published MS-SSIM figures are of
SCALE_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, table of section 3.2
WINDOW_SIGMA = 1.5  # px of each scale
WINDOW_RADIUS = 5  # px: 11 x 11 as published
STABILISERS = (0.01**2, 0.03**2)  # of luminance and of contrast, for values in [0, 1]
INSIDE = 0.5  # matte from which on an eroded pixel counts as the person
WORST_PSNR_DB = 100.0  # stands for no difference at all
SEEN = 127  # of 255: the border of what the photo paints
BORDER_SAMPLES = 400  # places along the border where both sides are compared
BORDER_REACH = 0.010 / METRES_PER_UNIT  # box units, 1 cm: what lies on both sides of the border


@dataclass(frozen=True)
class Reproduction:
    """A head through its photo's camera under flat light, against the photo, inside the drawn-in matte.

    psnr_db: peak signal-to-noise ratio of sRGB.
    ms_ssim: multi-scale structural similarity of luma, 1 is perfect.
    covered: share of those pixels where there is a head at all; the others count as wrong.
    picture: (512, 512, 3) uint8 sRGB, what was compared.
    """

    psnr_db: float
    ms_ssim: float
    covered: float
    picture: NDArray[np.uint8]


def reproduction(head: TexturedHead, portrait: AlignedPortrait) -> Reproduction:
    """Render the head through its photo's own camera and compare."""
    size = len(portrait.image)
    picture = draw_view(head, portrait.camera, size)
    inside = compared_pixels(head.mesh, portrait)
    covered = rasterise_view(head.mesh.vertices, head.mesh.faces, portrait.camera, size).covered
    one, other = picture / 255.0, portrait.image / 255.0
    return Reproduction(
        psnr_db(one, other, inside),
        ms_ssim(one @ LUMA, other @ LUMA, inside),
        float(covered[inside].mean()),
        picture,
    )


def compared_pixels(mesh: Mesh, portrait: AlignedPortrait) -> BoolArray:
    """(s, s) the drawn-in matte, above the neck's cut: below, the photo goes on and the head does not."""
    eroded = ndimage.minimum_filter(portrait.matte, size=2 * MATTE_EROSION + 1, mode="constant", cval=0.0)
    rim = mesh.vertices[:, 1] <= mesh.vertices[:, 1].min() + 1e-6
    last_row = int(np.clip(project(mesh.vertices[rim], portrait.camera)[0][:, 1].min(), 0, 1) * len(eroded))
    inside = eroded >= INSIDE
    inside[last_row:] = False
    return inside


def psnr_db(one: FloatArray, other: FloatArray, inside: BoolArray) -> float:
    """Of two pictures (h, w, k) in [0, 1], over the chosen pixels (h, w)."""
    mean_square = float(((one - other)[inside] ** 2).mean())
    return -10 * np.log10(max(mean_square, 10 ** (-WORST_PSNR_DB / 10)))


def ms_ssim(one: FloatArray, other: FloatArray, inside: BoolArray) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli, Bovik 2003) of grey pictures (h, w) in [0, 1].

    Only chosen pixels (h, w) count, also in the means and variances of each window: what lies beside them could
    otherwise lift or spoil the figure along their border. Negative structure counts as none.
    """
    weight = inside.astype(np.float64)
    result = 1.0
    for scale, exponent in enumerate(SCALE_EXPONENTS):
        last = scale == len(SCALE_EXPONENTS) - 1
        support = np.maximum(_window(weight), 1e-9)
        mean_one, mean_other = _window(one * weight) / support, _window(other * weight) / support
        variance_one = np.maximum(_window(one**2 * weight) / support - mean_one**2, 0)
        variance_other = np.maximum(_window(other**2 * weight) / support - mean_other**2, 0)
        covariance = _window(one * other * weight) / support - mean_one * mean_other
        similarity = (2 * covariance + STABILISERS[1]) / (variance_one + variance_other + STABILISERS[1])
        if last:
            similarity *= (2 * mean_one * mean_other + STABILISERS[0]) / (mean_one**2 + mean_other**2 + STABILISERS[0])
        result *= max(float((similarity * weight).sum() / weight.sum()), 0.0) ** exponent
        one, other, weight = _halved(one, weight), _halved(other, weight), _halved(weight, np.ones_like(weight))
    return result


def _window(picture: FloatArray) -> FloatArray:
    return ndimage.gaussian_filter(picture, WINDOW_SIGMA, radius=WINDOW_RADIUS, mode="constant")


def _halved(picture: FloatArray, weight: FloatArray) -> FloatArray:
    """Weighted mean over blocks of 2 x 2; (h, w) of even numbers."""

    def blocks(values: FloatArray) -> FloatArray:
        return values.reshape(len(values) // 2, 2, -1, 2).sum(axis=(1, 3))

    return blocks(picture * weight) / np.maximum(blocks(weight), 1e-9)


@dataclass(frozen=True)
class Border:
    """Mean colour jumps across the border of what the photo saw, of 255, mean over the channels.

    step: between neighbouring texels on both sides: what a hard seam would show.
    jump: between the mean colours of the two sides within BORDER_REACH: how much a head's own colours change there is
          part of it.
    """

    step: float
    jump: float


def border_of(head: TexturedHead) -> Border | None:
    """None where the photo saw everything or nothing."""
    size = len(head.albedo)
    cover = fragments(head.uv * size, head.mesh.faces, (size, size))
    inside = np.zeros((size, size), dtype=bool)
    inside[cover.row, cover.column] = True
    seen = head.visibility_map > SEEN
    albedo = head.albedo.astype(np.float64)
    steps = []
    for axis in (0, 1):
        first = [slice(None), slice(None)]
        second = [slice(None), slice(None)]
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(first), tuple(second)
        across = inside[a] & inside[b] & (seen[a] != seen[b])
        steps.append(np.abs(albedo[a][across] - albedo[b][across]).mean(axis=1))
    step = np.concatenate(steps)
    if not len(step):
        return None

    points, colours, visibility = _surface_colours(head)
    start, end = head.mesh.faces.ravel(), np.roll(head.mesh.faces, -1, axis=1).ravel()
    crossing = (head.visibility[start] > SEEN / 255) != (head.visibility[end] > SEEN / 255)
    middles = (head.mesh.vertices[start[crossing]] + head.mesh.vertices[end[crossing]]) / 2
    if not len(middles):
        return Border(float(step.mean()), 0.0)
    middles = middles[:: max(1, len(middles) // BORDER_SAMPLES)]
    near = cKDTree(points).query_ball_point(middles, BORDER_REACH)
    jumps = []
    for around in near:
        on_seen = visibility[around] > SEEN / 255
        if on_seen.any() and not on_seen.all():
            difference = colours[around][on_seen].mean(axis=0) - colours[around][~on_seen].mean(axis=0)
            jumps.append(np.abs(difference).mean())
    return Border(float(step.mean()), float(np.mean(jumps)) if jumps else 0.0)


def _surface_colours(head: TexturedHead) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (n, 3), albedo (n, 3) of 255 and visibility (n,) in [0, 1] at the middles of all faces."""
    points = head.mesh.vertices[head.mesh.faces].mean(axis=1)
    at_px = head.uv[head.mesh.faces].mean(axis=1) * len(head.albedo)
    visibility = sample_image(head.visibility_map[..., None], at_px)[:, 0] / 255
    return points, sample_image(head.albedo, at_px), visibility


@dataclass(frozen=True)
class Soundness:
    """Whether the mesh and its layout can be worked with.

    islands:           pieces of the texture layout.
    overlap_texels:    texels that more than one face covers, at the albedo's size.
    degenerate_faces:  whose height is next to nothing against their longest side, so that they have no normal.
    folded_faces:      that look against their neighbours.
    watertight:        one closed surface, every edge shared by two faces that wind alike.
    outward:           the faces point outwards.
    """

    islands: int
    overlap_texels: int
    degenerate_faces: int
    folded_faces: int
    watertight: bool
    outward: bool


def soundness(head: TexturedHead) -> Soundness:
    """The figures of a finished head."""
    whole = weld(head.mesh)[0]
    mesh, size = head.mesh, len(head.albedo)
    cover = fragments(head.uv * size, mesh.faces, (size, size))
    counts = np.bincount(cover.row * size + cover.column)
    corners = mesh.vertices[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    longest = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max(axis=1)
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
    graph = sparse.coo_matrix((np.ones(len(start)), (start, end)), shape=[len(mesh.vertices)] * 2)
    return Soundness(
        islands=int(sparse.csgraph.connected_components(graph, directed=False)[0]),
        overlap_texels=int((counts > 1).sum()),
        degenerate_faces=int((np.linalg.norm(cross, axis=1) <= SLIVER * longest**2).sum()),
        folded_faces=int(folded_faces(whole).sum()),
        watertight=is_watertight(whole),
        outward=bool(volume > 0),
    )
