"""Hair and beard as a solid of their own, cut out of the scan.

The solid is what lies inside the scan, outside the fitted head, and where the scan shows hair. Each of the three is a
signed distance, about; the least of them is a field whose level set marching cubes finds, so the cuts are as smooth as
the three are, and the outer surface is the scan's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ..alignment import AlignedPortrait
from ..bake import matte_trust
from ..camera import Camera, project
from ..detail import SEEN_PLAINLY, find_materials
from ..facing import Facing, depth_map_of, smoothstep
from ..progress import Progress, silent
from ..raster import sample_image
from ..surface import METRES_PER_UNIT, DensityField, Mesh, extract_solids, vertex_normals
from ..template import SKIN, RigTemplate, triangles
from ..unwrap import unwrap
from .fit import RigFit
from .nearest import NearestPoints
from .observation import Observation
from .shape_fit import MM
from .skin import skin_likeness

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

GRID = 128  # cells along the box: 4 mm; what is finer than a lock is for the texture
FACES = 12_000
INTO_SKIN = 1.5 * MM  # the solid reaches so far below the skin: no gap opens between them
LEAST_VOLUME_ML = 4.0  # of a piece: smaller ones are crumbs
LEAST_THICKNESS, PLAIN_PART = 3 * MM, 0.85  # so far out a piece's vertices beyond that quantile lie; half are inside

INNER_SIDE = 0.16  # of the picture's side, for what lies on the skull and nobody sees
COVERED = (1.0 * MM, 4 * MM)  # thickness of the hair over which the skin below is no longer the scan's
SHARE_COVERED = (0.35, 0.6)  # share of hair over which it is
GOES_ALONG = 20 * MM  # from the skin: so far hair follows the face

# Where the scan shows hair
SHARE_CELLS = 96  # along the box, of the lattice on which shares of hair are averaged: 5.4 mm
SHARE_WIDTHS = (1.0, 3.0, 9.0, 27.0)  # of its cells, standard deviations; wider ones speak where there is nothing nearer
SHARE_FALL = 1e-3  # weight of each wider one against the last
SHARE_SLOPE = 15 * MM  # over which a share averaged so rises from 0 to 1 beside an edge
SURE_SCALP = (0.6, 0.95)  # of the template's: there whatever covers the skin is hair, also where it shines
COVERS = (0.5 * MM, 2 * MM)  # how far that stands out from the skin
BEARD = (1.5 * MM, 4 * MM)  # how far a beard does, which has not skin's colour
NOT_SKIN = (0.3, 0.7)  # of skin's likeness lost
LOCK = (4 * MM, 9 * MM)  # what stands out so far beside the face is a lock of any colour
BELOW_CHIN = (25 * MM, 10 * MM)  # on the template's throat: lower down it is cloth that covers the skin
BEHIND_CHEEK_Z = (0.02, 0.06)  # head frame, on the template: farther back, on the neck, too
EYE_REACH, NOSE_REACH = 24 * MM, 16 * MM  # around them what stands out are glasses
EYES, NOSE, CHIN = (468, 473), (1, 4, 5, 195, 197, 6), 152  # landmarks
SLOPE_STEP = 1 * MM  # over which the density's steepness is measured
FAR = 8 * MM  # distances beyond are only known to be large


@dataclass(frozen=True)
class HairField:
    """Positive inside hair; box units, about the distance from the solid's surface.

    scan:   the head's own field; steepness its density per box unit at the surface.
    skin:   the nearest point of the fitted head's skin, as photographed.
    shares: (n, n, n) share of hair in [0, 1] on a lattice that fills the box.
    """

    scan: DensityField
    steepness: float
    skin: NearestPoints
    shares: NDArray[np.float32]
    level: float = 0.0

    @property
    def box_side(self) -> float:
        """As of the scan."""
        return self.scan.box_side

    def share(self, points: FloatArray) -> FloatArray:
        """(n,) share of hair at points (n, 3)."""
        place = (points / self.box_side + 0.5) * (len(self.shares) - 1)
        return ndimage.map_coordinates(self.shares, place.T, order=1, mode="nearest").astype(np.float64)

    def density(self, points: FloatArray) -> FloatArray:
        """(n,) the least of three distances at points (n, 3): into the scan, into hair, out of the head."""
        least = (self.share(points) - 0.5) * SHARE_SLOPE
        for distance in (self._into_scan, self._out_of_skin):
            # The least only falls: where it tells already that the surface is far, nobody needs to look closer.
            open_ = np.flatnonzero(least > -FAR)
            if len(open_):
                least[open_] = np.minimum(least[open_], distance(points[open_]))
        return np.clip(least, -FAR, FAR)

    def _into_scan(self, points: FloatArray) -> FloatArray:
        return (self.scan.density(points) - self.scan.level) / self.steepness

    def _out_of_skin(self, points: FloatArray) -> FloatArray:
        at = np.asarray(points, dtype=np.float64)
        return self.skin(at).signed_distance(at) + INTO_SKIN


def hair_field(
    template: RigTemplate, fit: RigFit, seen: Observation, portrait: AlignedPortrait, field: DensityField
) -> HairField:
    """Where a head's hair is; `field` is the head's own."""
    skin = NearestPoints(Mesh(fit.photographed, triangles(template.faces[template.part == SKIN])))
    share = hair_share(template, fit, seen, portrait, skin)
    return HairField(field, steepness(field, seen.scan), skin, _lattice_of(seen.scan, share, field.box_side))


def hair_share(
    template: RigTemplate, fit: RigFit, seen: Observation, portrait: AlignedPortrait, skin: NearestPoints
) -> FloatArray:
    """(s,) in [0, 1] how surely each vertex of the scan is hair, beard or hat.

    By its colour and place (`detail.Look`), and by how far it stands out from the fitted skin.
    """
    points = seen.scan.vertices
    trust = matte_trust(portrait.matte, portrait.image)
    _, _, fall, look = find_materials(portrait, trust)
    crop_px = project(points, portrait.camera)[0] * len(portrait.image)
    seen_fall = sample_image(fall[..., None], crop_px)[:, 0] * smoothstep(seen.visibility, *SEEN_PLAINLY)
    around = look.hair(points, seen.colour, seen_fall)

    near = skin(points)
    standing = near.signed_distance(points)
    corners = skin.faces[near.face]

    def of_template(values: FloatArray) -> FloatArray:
        return np.einsum("nk,nk->n", near.barycentric, values[corners])

    landmarks = template.landmarks(template.vertices)
    alike = skin_likeness(template, fit.photographed, seen, seen.colour)
    scalp = smoothstep(of_template(template.scalp), *SURE_SCALP) * smoothstep(standing, *COVERS)
    beard = smoothstep(standing, *BEARD) * smoothstep(1 - alike, *NOT_SKIN)
    lock = smoothstep(standing, *LOCK) * (1 - of_template(fit.skin)) * (1 - alike * of_template(template.ears))
    height = template.vertices[:, 1] - landmarks[CHIN, 1]
    before = np.maximum(beard, lock) * smoothstep(of_template(height), *(-limit for limit in BELOW_CHIN))
    before *= smoothstep(of_template(template.vertices[:, 2]), *BEHIND_CHEEK_Z)
    for spots, reach in ((EYES, EYE_REACH), (NOSE, NOSE_REACH)):
        away = cKDTree(landmarks[list(spots)]).query(template.vertices)[0]
        before *= smoothstep(of_template(away), 0.8 * reach, 1.2 * reach)
    return np.maximum.reduce([around, scalp, before])


def steepness(field: DensityField, scan: Mesh) -> float:
    """How much the density rises per box unit inwards at the scan's surface: the median."""
    step = SLOPE_STEP * vertex_normals(scan)
    outer, inner = (field.density((scan.vertices + way * step).astype(np.float32)) for way in (1, -1))
    return float(max(np.median(inner - outer) / (2 * SLOPE_STEP), 1e-6))


def _lattice_of(scan: Mesh, share: FloatArray, box_side: float) -> NDArray[np.float32]:
    """(n, n, n) shares (s,) of the scan's vertices averaged in space, so that an edge between them is a clean line."""
    corners = scan.vertices[scan.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    weight = area / area.mean()
    place = (corners.mean(axis=1) / box_side + 0.5) * (SHARE_CELLS - 1)
    index = np.clip(np.rint(place), 0, SHARE_CELLS - 1).astype(np.int64)
    flat = np.ravel_multi_index(tuple(index.T), (SHARE_CELLS,) * 3)
    mean = share[scan.faces].mean(axis=1)
    sums = [np.bincount(flat, values, SHARE_CELLS**3).reshape((SHARE_CELLS,) * 3) for values in (weight, weight * mean)]
    total, hair = (
        sum(SHARE_FALL**k * ndimage.gaussian_filter(one.astype(np.float32), width) for k, width in enumerate(SHARE_WIDTHS))
        for one in sums
    )
    return (hair / np.maximum(total, 1e-30)).astype(np.float32)


@dataclass(frozen=True)
class Hair:
    """Hair and beard as closed pieces; head frame, as photographed. All of length 0 where none stands out.

    mesh:     closed, several pieces maybe.
    uv:       (t, 2), v running down; uv_faces (f, 3) into it.
    colour:   (3,) sRGB, the middle of what the scan shows of it.
    covering: (v,) in [0, 1] how far it covers each of the template's vertices.
    """

    mesh: Mesh
    uv: FloatArray
    uv_faces: IntArray
    colour: FloatArray
    covering: FloatArray

    def split(self) -> tuple[Mesh, FloatArray]:
        """The mesh with a vertex for each of `uv`, which comes along, as `pipeline.paint` wants it."""
        source = np.zeros(len(self.uv), dtype=np.int64)
        source[self.uv_faces] = self.mesh.faces
        return Mesh(self.mesh.vertices[source], self.uv_faces), self.uv


def cut_hair(template: RigTemplate, fit: RigFit, seen: Observation, field: HairField, progress: Progress) -> Hair:
    """The hair of a head, with its texture coordinates."""
    pieces = hair_solids(field, lambda done, label: progress(0.6 * done, label))
    is_hair = field.share(seen.scan.vertices) > 0.5
    colour = np.median(seen.colour[is_hair], axis=0) if is_hair.any() else np.zeros(3)
    if not pieces:
        nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
        return Hair(nothing, np.zeros((0, 2)), nothing.faces, colour, np.zeros(len(template.vertices)))
    first = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    mesh = Mesh(
        np.concatenate([piece.vertices for piece in pieces]),
        np.concatenate([piece.faces + start for piece, start in zip(pieces, first, strict=False)]),
    )
    uv, uv_faces = lay_out(mesh, field, lambda done, label: progress(0.6 + 0.4 * done, label))
    return Hair(mesh, uv, uv_faces, colour, covering(mesh, field, template, fit.photographed, seen))


def hair_solids(hair: HairField, progress: Progress = silent) -> list[Mesh]:
    """The pieces of hair and beard, each closed, largest first; none of a head whose hair hardly stands out."""
    pieces = extract_solids(hair, GRID, FACES, LEAST_VOLUME_ML * 1e-6 / METRES_PER_UNIT**3, progress)
    return [piece for piece in pieces if stands_out(piece, hair.skin)]


def stands_out(piece: Mesh, skin: NearestPoints) -> bool:
    """Whether a good part of a piece is more than a haircut that a picture of the skin shows as well."""
    distance = skin(piece.vertices).signed_distance(piece.vertices)
    return bool(np.quantile(distance, PLAIN_PART) > LEAST_THICKNESS)


def lay_out(mesh: Mesh, field: HairField, progress: Progress) -> tuple[FloatArray, IntArray]:
    """Texture coordinates (t, 2) and (f, 3) faces in them: the outside large, what lies on the skull small in a corner."""
    below = field.skin(mesh.vertices).signed_distance(mesh.vertices) < -INTO_SKIN / 2
    inner = below[mesh.faces].sum(axis=1) > 1
    uv_faces = np.empty_like(mesh.faces)
    layouts = []
    count = 0
    for chosen, low, size in ((~inner, 0.0, 1 - INNER_SIDE), (inner, 1 - INNER_SIDE, INNER_SIDE)):
        if not chosen.any():
            continue
        own, numbered = np.unique(mesh.faces[chosen], return_inverse=True)
        flat = unwrap(Mesh(mesh.vertices[own], numbered.reshape(-1, 3)), progress)
        layouts.append(low + size * flat.uv)
        uv_faces[chosen] = flat.mesh.faces + count
        count += len(flat.uv)
    return np.concatenate(layouts), uv_faces


def covering(
    mesh: Mesh, field: HairField, template: RigTemplate, photographed: FloatArray, seen: Observation
) -> FloatArray:
    """(v,) in [0, 1] how far the hair covers each vertex of the template's skin: softly, where it begins thin."""
    covered = np.zeros(len(photographed))
    skin = template.vertices_of(SKIN)
    points = photographed[skin]
    thickness = -seen.nearest(points).signed_distance(points)
    near = np.linalg.norm(NearestPoints(mesh)(points).points - points, axis=1)
    covered[skin] = smoothstep(thickness, *COVERED) * smoothstep(field.share(points), *SHARE_COVERED)
    covered[skin] *= near < 2 * INTO_SKIN  # pieces that were left out cover nothing
    return covered


def seen_plainly(hair: Mesh, scan: Mesh, camera: Camera) -> FloatArray:
    """(h,) in [0, 1] how plainly a camera sees the vertices of the hair, with the head before it."""
    return Facing(hair).weight(camera, depth_map_of(scan, camera))


def relaxed(hair: Mesh, skin: NearestPoints, moves: FloatArray) -> FloatArray:
    """(h, 3) the hair's vertices when the face below moves by (v, 3): a beard goes along, what is far stays."""
    near = skin(hair.vertices)
    way = np.einsum("nk,nkd->nd", near.barycentric, moves[skin.faces[near.face]])
    away = near.signed_distance(hair.vertices)
    return hair.vertices + way * np.exp(-((away / GOES_ALONG) ** 2))[:, None]
