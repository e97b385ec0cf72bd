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
from ..camera import RADIUS, Camera, project
from ..detail import SEEN_PLAINLY, find_materials
from ..facing import depth_map_of, smoothstep
from ..progress import Progress, silent
from ..raster import fragment_chunks, sample_image
from ..seams import pieces
from ..surface import METRES_PER_UNIT, DensityField, Mesh, extract_solids, vertex_normals
from ..template import SKIN, RigTemplate, triangles
from ..unwrap import PADDING
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
DIP, DIP_SHARE = 5 * MM, (0.5, 0.9)  # so much lower than the scan it is at its edge; share of hair where that ends
LEAST_VOLUME_ML = 4.0  # of a piece: smaller ones are crumbs
LEAST_THICKNESS, PLAIN_PART = 3 * MM, 0.85  # so far out a piece's vertices beyond that quantile lie; half are inside

COVERED = (1.0 * MM, 4 * MM)  # thickness of the hair over which the skin below is no longer the scan's
THINLY_COVERED = (-1 * MM, 1 * MM)  # the same for a lock before the face, which has not skin's colour
BEHIND, MOST_BEHIND = (0.5 * MM, 2.5 * MM), 60 * MM  # how far behind hair a vertex hides; beyond lies another part
TURNED_TO = (0.0, 0.3)  # cosine to the camera: what turns away it did not show anyway
EDGE = 4 * MM  # of the hair in the photo: so far in from it, skin between two vertices may show
SHARE_COVERED = (0.35, 0.6)  # share of hair over which it is
GOES_ALONG = 20 * MM  # from the skin: so far hair follows the face

# Where the scan shows hair
SHARE_CELLS = 80  # along the box, of the lattice on which shares of hair are averaged: 6.5 mm
SHARE_WIDTHS = (0.8, 2.5, 7.5)  # of its cells, standard deviations; wider ones speak where there is nothing nearer
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
SLOPE_STEP, SLOPE_SAMPLE = 1 * MM, 2000  # over which, and at how many points the density's steepness is measured
FAR = 6 * MM  # distances beyond are only known to be large: more than a cell of the lattice


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
        for distance in (self._out_of_skin, self._into_scan):
            # The least only falls: where it tells already that the surface is far, nobody needs to look closer.
            open_ = np.flatnonzero(least > -FAR)
            if len(open_):
                least[open_] = np.minimum(least[open_], distance(points[open_]))
        return np.clip(least, -FAR, FAR)

    def _into_scan(self, points: FloatArray) -> FloatArray:
        # Towards its edge hair dips into the skin: a wall there would look like a wig's.
        dip = DIP * (1 - smoothstep(self.share(points), *DIP_SHARE))
        return (self.scan.density(points) - self.scan.level) / self.steepness - dip

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
    """How much the density rises per box unit inwards at the scan's surface: the median of a sample."""
    sample = slice(None, None, max(1, len(scan.vertices) // SLOPE_SAMPLE))
    points, step = scan.vertices[sample], SLOPE_STEP * vertex_normals(scan)[sample]
    outer, inner = (field.density((points + way * step).astype(np.float32)) for way in (1, -1))
    return max(float(np.median(inner - outer)) / (2 * SLOPE_STEP), 1e-6)


def _lattice_of(scan: Mesh, share: FloatArray, box_side: float) -> NDArray[np.float32]:
    """(n, n, n) shares (s,) of the scan's vertices averaged in space, so that an edge between them is a clean line."""
    corners = scan.vertices[scan.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    weight = area / area.mean()
    place = (corners.mean(axis=1) / box_side + 0.5) * (SHARE_CELLS - 1)
    index = np.clip(np.rint(place), 0, SHARE_CELLS - 1).astype(np.int64)
    flat = np.ravel_multi_index(tuple(index.T), (SHARE_CELLS,) * 3)
    mean = share[scan.faces].mean(axis=1)

    def averaged(values: FloatArray) -> NDArray[np.float32]:
        counted = np.bincount(flat, values, SHARE_CELLS**3).reshape((SHARE_CELLS,) * 3).astype(np.float32)
        blurred = [ndimage.gaussian_filter(counted, width) for width in SHARE_WIDTHS]
        return np.tensordot(SHARE_FALL ** np.arange(len(blurred)), np.stack(blurred), 1).astype(np.float32)

    total, hair = averaged(weight), averaged(weight * mean)
    return (hair / np.maximum(total, 1e-30)).astype(np.float32)


@dataclass(frozen=True)
class Hair:
    """Hair and beard as closed pieces; head frame, as photographed. All of length 0 where none stands out.

    mesh:     closed, several pieces maybe.
    uv:       (t, 2), v running down, in the layout of the scan; uv_faces (f, 3) into it. Its inner side, which lies on
              the skull, shares the texels of what is above.
    colour:   (3,) sRGB, the middle of what the scan shows of it.
    covering: (v,) in [0, 1] how far it covers each of the template's vertices.
    """

    mesh: Mesh
    uv: FloatArray
    uv_faces: IntArray
    colour: FloatArray
    covering: FloatArray


def cut_hair(
    template: RigTemplate, fit: RigFit, seen: Observation, uv: FloatArray, field: HairField, progress: Progress
) -> Hair:
    """The hair of a head. uv: (f, 3, 2) of the corners of the scan's faces."""
    solids = hair_solids(field, progress)
    is_hair = field.share(seen.scan.vertices) > 0.5
    colour = np.median(seen.colour[is_hair], axis=0) if is_hair.any() else np.zeros(3)
    if not solids:
        nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
        return Hair(nothing, np.zeros((0, 2)), nothing.faces, colour, np.zeros(len(template.vertices)))
    first = np.cumsum([0, *(len(solid.vertices) for solid in solids)])
    mesh = Mesh(
        np.concatenate([solid.vertices for solid in solids]),
        np.concatenate([solid.faces + start for solid, start in zip(solids, first, strict=False)]),
    )
    hair_uv, uv_faces = lay_out(mesh, seen, uv)
    return Hair(mesh, hair_uv, uv_faces, colour, covering(mesh, field, template, fit.photographed, seen))


def hair_solids(hair: HairField, progress: Progress = silent) -> list[Mesh]:
    """The pieces of hair and beard, each closed, largest first; none of a head whose hair hardly stands out."""
    solids = extract_solids(hair, GRID, FACES, LEAST_VOLUME_ML * 1e-6 / METRES_PER_UNIT**3, progress)
    return [solid for solid in solids if stands_out(solid, hair.skin)]


def stands_out(solid: Mesh, skin: NearestPoints) -> bool:
    """Whether a good part of a piece is more than a haircut that a picture of the skin shows as well."""
    distance = skin(solid.vertices).signed_distance(solid.vertices)
    return bool(np.quantile(distance, PLAIN_PART) > LEAST_THICKNESS)


def lay_out(mesh: Mesh, seen: Observation, uv: FloatArray) -> tuple[FloatArray, IntArray]:
    """Texture coordinates (t, 2) and faces in them (f, 3): those of the scan where it is nearest, island by island.

    So the head's own albedo fits the hair, and nothing is laid flat or painted a second time.
    uv: (s, 3, 2) of the corners of the scan's faces.
    """
    island = islands(uv)
    island_of = island[seen.nearest(mesh.vertices[mesh.faces].mean(axis=1)).face]
    uv_faces = np.empty_like(mesh.faces)
    laid = []
    count = 0
    for one in np.unique(island_of):
        vertex, numbered = np.unique(mesh.faces[island_of == one], return_inverse=True)
        scan_face = np.flatnonzero(island == one)
        near = NearestPoints(Mesh(seen.scan.vertices, seen.scan.faces[scan_face]))(mesh.vertices[vertex])
        laid.append(np.einsum("nk,nkd->nd", near.barycentric, uv[scan_face[near.face]]))
        uv_faces[island_of == one] = numbered.reshape(-1, 3) + count
        count += len(vertex)
    return np.concatenate(laid), uv_faces


def islands(uv: FloatArray) -> IntArray:
    """(f,) which island of the layout each face, (f, 3, 2) corners, belongs to."""
    corner = np.unique(uv.reshape(-1, 2), axis=0, return_inverse=True)[1].reshape(-1, 3)
    pairs = np.concatenate([corner[:, :2], corner[:, 1:]])
    return pieces(int(corner.max()) + 1, pairs)[corner[:, 0]]


def hair_picture(hair: Hair, albedo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(t, t, 3) the head's albedo (t, t, 3) on hair and a little around it, and plain hair's colour elsewhere."""
    side = len(albedo)
    kept = np.zeros((side, side), bool)
    for _, cover in fragment_chunks(hair.uv * side, hair.uv_faces, (side, side)):
        kept[cover.row, cover.column] = True
    kept = ndimage.maximum_filter(kept, 2 * round(PADDING * side) + 1)
    return np.where(kept[..., None], albedo, np.rint(hair.colour * 255).astype(np.uint8))


def covering(
    mesh: Mesh, field: HairField, template: RigTemplate, photographed: FloatArray, seen: Observation
) -> FloatArray:
    """(v,) in [0, 1] how far the hair covers each vertex of the template's skin: softly, where it begins thin."""
    covered = np.zeros(len(photographed))
    skin = template.vertices_of(SKIN)
    points = photographed[skin]
    met = seen.nearest(points)
    thickness = -met.signed_distance(points)
    near = np.linalg.norm(NearestPoints(mesh)(points).points - points, axis=1)
    # A lock close to the skin prints its colour there; hair cropped so short has no object and stays printed.
    alike = skin_likeness(template, photographed, seen, seen.colour)
    alike = np.einsum("nk,nk->n", met.barycentric, alike[seen.scan.faces[met.face]])
    thin = smoothstep(thickness, *THINLY_COVERED) * (1 - alike) * (1 - template.scalp[skin])
    covered[skin] = np.maximum(smoothstep(thickness, *COVERED), thin) * smoothstep(field.share(points), *SHARE_COVERED)
    covered[skin] *= near < 2 * INTO_SKIN  # pieces that were left out cover nothing
    covered *= 1 - beside(mesh, template, photographed, seen.camera)
    covered[skin] = np.maximum(covered[skin], hidden(mesh, template, photographed, seen.camera)[skin])
    return covered


def beside(mesh: Mesh, template: RigTemplate, photographed: FloatArray, camera: Camera) -> FloatArray:
    """(v,) in [0, 1] how far a vertex turns to the photo's camera where no hair, or only its very edge, is before it.

    There the photo's own pixels stay, with the roots and strands they show: skin painted up to the edge of the hair
    would lie around the face as a bare band.
    """
    depth_map = depth_map_of(mesh, camera)
    pixel = RADIUS / camera.intrinsics[0, 0] / len(depth_map)  # box units on the head
    bare = Mesh(photographed, triangles(template.faces[template.part == SKIN]))
    inner = ndimage.minimum_filter(depth_map < depth_map_of(bare, camera), 2 * round(EDGE / pixel) + 1)
    picture = project(photographed, camera)[0]
    column, row = np.clip((picture * len(depth_map)).astype(np.int64), 0, len(depth_map) - 1).T
    return _turned_to(template, photographed, camera) * ~inner[row, column]


def hidden(mesh: Mesh, template: RigTemplate, photographed: FloatArray, camera: Camera) -> FloatArray:
    """(v,) in [0, 1] how far hair hides a vertex that turns to the photo's camera: there the photo shows hair."""
    depth_map = depth_map_of(mesh, camera)
    picture, depth = project(photographed, camera)
    column, row = np.clip((picture * len(depth_map)).astype(np.int64), 0, len(depth_map) - 1).T
    behind = depth - depth_map[row, column]  # minus infinity beside the hair
    near = smoothstep(np.clip(behind, -FAR, MOST_BEHIND), *BEHIND) * (behind < MOST_BEHIND)
    return _turned_to(template, photographed, camera) * near


def _turned_to(template: RigTemplate, photographed: FloatArray, camera: Camera) -> FloatArray:
    """(v,) in [0, 1] how plainly the template's skin turns to a camera."""
    towards = camera.position - photographed
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    normals = vertex_normals(Mesh(photographed, triangles(template.faces[template.part == SKIN])))
    return smoothstep(np.einsum("ij,ij->i", normals, towards), *TURNED_TO)


def relaxed(hair: Mesh, skin: NearestPoints, moves: FloatArray) -> FloatArray:
    """(h, 3) the hair's vertices when the face below moves by (v, 3): a beard goes along, what is far stays."""
    near = skin(hair.vertices)
    way = np.einsum("nk,nkd->nd", near.barycentric, moves[skin.faces[near.face]])
    away = near.signed_distance(hair.vertices)
    return hair.vertices + way * np.exp(-((away / GOES_ALONG) ** 2))[:, None]
