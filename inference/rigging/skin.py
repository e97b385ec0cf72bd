"""Where the scan shows the template's own skin, and where hair, a beard, glasses or clothes cover it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..surface import NECK_CUT_Y
from ..template import EYE_LEFT, EYE_RIGHT, MOUTH, SKIN, RigTemplate
from .nearest import Nearest
from .observation import Observation
from .shape_fit import MM

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

BARE_LANDMARKS = (50, 280, 205, 425, 36, 266, 4, 5, 195, 6, 9, 151)  # cheeks, nose, between the brows: never bearded
BARE_REACH = 9 * MM
TOLERANCE = np.array([22.0, 7.0, 8.0])  # CIELAB: lightness, red-green, yellow-blue; light falls on skin unevenly
SAME_COLOUR, OTHER_COLOUR = 1.6, 3.0  # of those tolerances
LID_ZONE = (2 * MM, 9 * MM)  # from the eyeball: the scan has no lids, it runs over them
LIP_RIM = (0.15, 8 * MM)  # trust where the lips meet, and how far from there it is whole again
EAR_TRUST = 0.3  # the scan's ears are coarse
SMOOTHING = 4  # times each vertex takes half of its neighbours' mean
COVERED = (5 * MM, 10 * MM)  # what stands out so far before the fitted shape is hair or cloth, whatever its colour
BALD_REACH = 5 * MM
BALD_SHARE = 0.6  # of the scalp that must have skin's colour and lie where a skull would


def skin_trust(template: RigTemplate, vertices: FloatArray, seen: Observation) -> FloatArray:
    """(v,) in [0, 1] how surely the scan next to a vertex is the template's skin there; 0 on eyes and teeth.

    vertices: (v, 3) a first fit, right to a centimetre.
    """
    outside = template.vertices_of(SKIN)
    near = seen.nearest(vertices[outside])
    alike = skin_likeness(template, vertices, seen, _colour_there(seen, near))
    alike = np.maximum(alike, np.clip(3 * template.lips[outside], 0, 1))

    scalp = template.scalp[outside].astype(np.float64)
    close = np.abs(near.signed_distance(vertices[outside])) < BALD_REACH
    is_scalp = scalp > 0.8
    if (alike * close)[is_scalp].mean() > BALD_SHARE:
        scalp = np.zeros_like(scalp)
    stands_out = -near.signed_distance(vertices[outside])
    covered = np.clip((stands_out - COVERED[0]) / (COVERED[1] - COVERED[0]), 0, 1)
    trust = np.zeros(len(template.vertices))
    trust[outside] = alike * (1 - scalp) * (1 - covered)
    spread = neighbour_mean(template.faces[template.part == SKIN], len(trust))
    for _ in range(SMOOTHING):
        trust[outside] = 0.5 * trust[outside] + 0.5 * (spread @ trust)[outside]
    trust[outside] *= 1 - (1 - EAR_TRUST) * np.clip(2 * template.ears[outside], 0, 1)
    trust[outside] *= vertices[outside, 1] > NECK_CUT_Y
    return trust * _bare_of_detail(template)


def skin_likeness(template: RigTemplate, vertices: FloatArray, seen: Observation, colour: FloatArray) -> FloatArray:
    """(n,) in [0, 1] how far colours (n, 3), sRGB in [0, 1], are those of the scan's bare skin.

    vertices: (v, 3) a first fit of the template, right to a centimetre.
    """
    bare = template.landmarks(vertices)[list(BARE_LANDMARKS)]
    outside = vertices[template.vertices_of(SKIN)]
    is_bare = np.linalg.norm(outside[:, None] - bare, axis=2).min(axis=1) < BARE_REACH
    # At the template's vertices, which lie evenly: the scan's crowd around eyes and nostrils.
    own = np.median(lab_from_srgb(_colour_there(seen, seen.nearest(outside[is_bare]))), axis=0)
    off = np.linalg.norm((lab_from_srgb(colour) - own) / TOLERANCE, axis=1)
    return np.clip((OTHER_COLOUR - off) / (OTHER_COLOUR - SAME_COLOUR), 0, 1)


def _colour_there(seen: Observation, near: Nearest) -> FloatArray:
    """(n, 3) sRGB of the scan at its nearest points."""
    return np.einsum("nk,nkc->nc", near.barycentric, seen.colour[seen.scan.faces[near.face]])


def _bare_of_detail(template: RigTemplate) -> FloatArray:
    """(v,) less where a scan cannot have what the template has: lids and the seam of the lips."""
    share = np.ones(len(template.vertices))
    for part in (EYE_LEFT, EYE_RIGHT):
        ball = template.vertices[template.vertices_of(part)]
        centre = ball.mean(axis=0)
        away = np.linalg.norm(template.vertices - centre, axis=1) - np.linalg.norm(ball - centre, axis=1).mean()
        share *= np.clip((away - LID_ZONE[0]) / (LID_ZONE[1] - LID_ZONE[0]), 0, 1)
    rim = np.intersect1d(template.vertices_of(SKIN), template.vertices_of(MOUTH))
    away = np.linalg.norm(template.vertices[:, None] - template.vertices[rim], axis=2).min(axis=1)
    least, reach = LIP_RIM
    return share * np.clip(least + (1 - least) * away / reach, 0, 1)


def neighbour_mean(faces: IntArray, count: int) -> sparse.csr_matrix:
    """(count, count) the mean over each vertex's neighbours along the sides of quads (f, 4); 0 without neighbours."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    both = np.concatenate([start, end]), np.concatenate([end, start])
    graph = sparse.csr_matrix((np.ones(len(both[0])), both), shape=(count, count))
    graph.data[:] = 1.0
    degree = np.asarray(graph.sum(axis=1)).ravel()
    return (sparse.diags(1 / np.maximum(degree, 1)) @ graph).tocsr()


def lab_from_srgb(srgb: FloatArray) -> FloatArray:
    """(n, 3) CIELAB under D65 from (n, 3) sRGB in [0, 1] (IEC 61966-2-1, CIE 15)."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
