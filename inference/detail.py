"""Fine detail for what the photo does not show: its own hair and skin, carried on over the surface.

A model's colours are smooth, so behind the border of the photo's pixels hair looks like lacquer. What the photo shows
of hair and skin, less its own low frequencies, is laid over the unseen side in patches that follow the flow of the
hair. A patch is a window onto the photo: each vertex knows where in the photo it looks through the patches that reach
it, so the synthesis lives on the surface and knows of no texture coordinates or seams. Where patches meet they are
blended as Gaussian noise, which keeps the contrast, and the histogram of the photo's detail is put back afterwards:
tiling and blending (Heitz and Neyret, "High-performance by-example noise using a histogram-preserving blending
operator", 2018) on patches laid as in lapped textures (Praun et al., SIGGRAPH 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtri

from .alignment import AlignedPortrait, inter_ocular
from .camera import Camera, project
from .facing import smoothstep
from .photo_check import LUMA
from .progress import Progress
from .raster import Fragments, sample_image
from .resampling import transform_points
from .side_by_side import in_order
from .silhouette import face_region
from .surface import METRES_PER_UNIT, Mesh, vertex_normals

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

MM = 1e-3 / METRES_PER_UNIT  # box units

# Which colours are hair's and which are skin's, sRGB in [0, 1]
SKIN_LANDMARKS = (50, 280, 205, 425, 151, 108, 337)  # cheeks and forehead
BELOW_CHIN = 0.25  # of the face's height: so far hair is followed down
SKIN_DISC = 0.18  # eye distances around each
SKIN_TOLERANCE = 0.2  # discs whose colour lies farther from the middle of all are covered: a fringe, a beard
SKIN_SHADES = (0.55, 0.7, 0.85, 1.0, 1.15, 1.3)  # of the discs' colours, that skin has elsewhere on the head
COLOUR_CELLS = 32  # of the histograms, along each channel
RARE_COLOUR = 0.02  # of the commonest colour's density: what is much rarer is background or shine
COLOUR_WIDTH = 1.5  # cells over which they are smoothed: JPEG and light vary that much in a place
CLEARLY_HAIR = (0.6, 0.9)  # share of hair among pixels of a colour, between which a pixel becomes hair
COLOUR_SPREAD = 0.1  # sRGB: how far the model's colours stray from the photo's
SKIN_SPREAD = 0.05  # sRGB: how far skin's colours stray from those of the face in other light
TELLING_DISTANCE = (0.05, 0.12)  # between the colours of hair and skin: below the first, a head counts as bald
EAR_SHADE = 0.7  # of the face's light, that ears and neck have at least; darker may be brown hair
SKIN_SHADE = 0.5  # that skin has at least
BRIGHTEST = 1.1
EVIDENCE_LIMIT = 6.0  # logits that a colour alone may speak for or against hair

# Where hair grows, head frame
BROW_Y = 0.03
SCALP_LOGIT, NECK_LOGIT = 3.0, -10.0
NAPE_Y = -0.13  # where short hair ends behind
LONG_Y = -0.27  # hair that is seen down to here may go on to the shoulders
NO_END_Y = -0.5  # below the neck's cut
SIDE_BLEND = 0.1  # box units from the middle over which one side's length becomes the other's
HEM = 0.02  # over which hair ends
FACE_Z = (0.04, 0.1)  # from here on forward, below the brow, is the face

# Detail and its patches
TINT = (0.6, 1.4)  # change of a channel for the lightness's; beyond, light of another colour has fallen on the hair
OUTLIER = 1.5  # ranges between quartiles: what differs more is an edge or a glint, too rare to be repeated
DARKEST = 0.03  # sRGB added below when lightness is divided: black hair's noise stays noise
QUANTILES = 255  # nodes of the histogram
PATTERN = np.stack(np.meshgrid(np.linspace(-1.5, 1.5, 7), np.linspace(-1.5, 1.5, 5)), axis=-1).reshape(-1, 2)
FAINTEST = 0.005  # strength of detail that is worth painting: a tenth of a step of 1/255
NEAREST_PATCHES = 18  # looked at around each vertex; three or four of them count
SMALLEST_WEIGHT = 0.12  # of a patch against the strongest one at a place: below, it does not count
FEWEST_SOURCES = 40  # vertices that show a material plainly: fewer are no example
ENOUGH_SOURCES = 250  # from here on the example is fully believed
EXAMPLE = 0.5  # how plainly a vertex shows a material that it is an example of
SEEN_PLAINLY = (0.3, 0.7)  # visibility between which a vertex becomes an example
MOST_TURN = 1 / (50 * MM)  # radians for each box unit, of the flow's direction in a patch

# Flow of hair
WHORL_DIRECTION = np.array([0.0, 0.8, -0.6])  # the whorl lies where the head ends this way
GRAVITY = 0.6  # of the pull down against that away from the whorl
TENSOR_SIGMA_MM = 3.0  # over which the photo's strands are averaged
UNCLEAR = 0.1  # coherence of strands below which the flow around tells better
JOIN_REACH = 30 * MM  # how far behind the border the flow measured in the photo fades out
FAINT = 0.5  # of summed clearness: the photo's flow takes over from the growth's when it has more
FLOW_CHUNK = 2048  # points at once: their distances stay in the processor's cache
JOIN_CELL = 10 * MM  # measured directions are averaged in cells of this side


@dataclass(frozen=True)
class Material:
    """How the detail of one kind of surface is cut up.

    low_pass_mm:  standard deviation of the mean that is taken off: what is coarser, the model's colours tell.
    across_mm:    standard deviation of a patch's weight across the flow.
    along_mm:     the same along it.
    strength:     of the detail, 1 as in the photo.
    most:         relative lightness: more is a gap or a shine, and not the material.
    """

    low_pass_mm: float
    across_mm: float
    along_mm: float
    strength: float
    most: float


HAIR = Material(low_pass_mm=6.0, across_mm=6.0, along_mm=16.0, strength=0.9, most=1.2)
SKIN = Material(low_pass_mm=1.5, across_mm=5.0, along_mm=5.0, strength=0.6, most=0.06)
ROOM_SHARE = 0.7  # of the width of what is seen that a patch's standard deviation takes
SMALLEST_SIZE = 0.4  # of the full size of patches
ORDERED = (0.3, 0.55)  # mean coherence of strands: curls have less than the first, straight hair more than the last
SPACING = 2.0  # least distance of patches, standard deviations of their weight


@dataclass(frozen=True)
class Exemplar:
    """Detail of a material as the photo shows it.

    picture:   (h, w) float32, relative lightness as a score of the standard normal distribution.
    from_crop: (3, 3) crop pixels to its pixels.
    share:     (s, s) float32, for each crop pixel whether it shows the material, 0 to 1.
    lightness: (q,) relative lightness that equal shares of the pixels stay below, ascending; their mean is 0.
    tint:      (3,) change of each channel for a change of lightness by 1.
    """

    picture: NDArray[np.float32]
    from_crop: FloatArray
    share: NDArray[np.float32]
    lightness: FloatArray
    tint: FloatArray


@dataclass(frozen=True)
class Layer:
    """Patches of one material on a mesh; each of e windows is one face seen through one patch.

    strength: (v,) how much of the detail each vertex gets, 0 to 1.
    start:    (f + 1,) the windows of face i are start[i] to start[i + 1].
    windows:  (e, 3, 3) float32, for each corner of the face x, y in the exemplar's picture and the patch's weight.
    quantiles: (q,) scores that equal shares of the surface stay below: they stand for the exemplar's `lightness`.
    """

    exemplar: Exemplar
    strength: NDArray[np.float32]
    start: IntArray
    windows: NDArray[np.float32]
    quantiles: FloatArray

    def lightness(self, face: IntArray, barycentric: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) relative lightness at points given by face (n,) and weights of its corners (n, 3)."""
        scores = self.scores(face, barycentric)
        return np.interp(scores, self.quantiles, self.exemplar.lightness).astype(np.float32)

    def scores(self, face: IntArray, barycentric: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) the same as scores of the standard normal distribution, about."""
        total = np.zeros(len(face), np.float32)
        squared = np.zeros(len(face), np.float32)
        first, count = self.start[face], self.start[face + 1] - self.start[face]
        chosen = np.flatnonzero(count > 0)
        rank = 0
        while len(chosen):
            corners, share = np.take(self.windows, first[chosen] + rank, axis=0), np.take(barycentric, chosen, axis=0)
            place = np.einsum("nc,nci->in", share, corners)
            weight = place[2]
            total[chosen] += weight * sample_image(self.exemplar.picture[..., None], place[:2].T)[:, 0]
            squared[chosen] += weight**2
            rank += 1
            chosen = chosen[count[chosen] > rank]
        return total / np.sqrt(np.maximum(squared, np.float32(1e-12)))


@dataclass(frozen=True)
class SurfaceDetail:
    """Detail for the unseen side of a mesh: `faces` (f, 3) index the vertices of each layer's strength.

    hair: (v,) how surely each vertex is covered by hair, seen or not.
    """

    layers: tuple[Layer, ...]
    faces: IntArray
    hair: FloatArray

    def add(self, colour: NDArray[np.float32], cover: Fragments) -> None:
        """Give the colours (n, 3) of the fragments their detail, in place."""
        for layer in self.layers:
            chosen = np.flatnonzero(layer.start[cover.face + 1] > layer.start[cover.face])
            if not len(chosen):
                continue
            face, barycentric = cover.face[chosen], cover.barycentric[chosen]
            strength = np.einsum("nc,nc->n", layer.strength[self.faces[face]], barycentric)
            lightness = strength * layer.lightness(face, barycentric)
            colour[chosen] *= 1 + lightness[:, None] * layer.exemplar.tint.astype(np.float32)


def surface_detail(
    surface: Mesh,
    colour: FloatArray,
    visibility: FloatArray,
    crop_px: FloatArray,
    portrait: AlignedPortrait,
    pixels: NDArray[np.uint8],
    pixels_from_crop: FloatArray,
    trust: NDArray[np.float32],
    seed: int,
    progress: Progress,
) -> SurfaceDetail:
    """The photo's detail for what the photo does not show of a head; no layers where it shows no example of any.

    surface:     welded, so that nothing computed on it knows of seams.
    colour:      (v, 3) smooth sRGB in [0, 1] that the detail comes on.
    visibility:  (v,) how plainly the photo shows each vertex, 0 to 1.
    crop_px:     (v, 2) where the photo's camera has them, px of the crop.
    pixels:      (h, w, 3) uint8 sRGB, the photo at about the texture's resolution; pixels_from_crop (3, 3) leads there.
    trust:       (s, s) how surely a crop pixel shows the person, 0 to 1.
    seed:        of the patches' places and of what they show.
    """
    progress(0.0, "Finding hair and skin")
    hair_share, skin_share, fall, look = find_materials(portrait, trust)
    normals = vertex_normals(surface)
    seen_hair = sample_image(hair_share[..., None], crop_px)[:, 0] * smoothstep(visibility, *SEEN_PLAINLY)
    seen_skin = sample_image(skin_share[..., None], crop_px)[:, 0] * smoothstep(visibility, *SEEN_PLAINLY)
    seen_fall = sample_image(fall[..., None], crop_px)[:, 0] * smoothstep(visibility, *SEEN_PLAINLY)
    hair = look.hair(surface.vertices, colour, seen_fall)
    unseen = 1 - visibility
    flow = Flow.of(surface, normals, seen_hair, crop_px, portrait, hair_share)
    skin = (1 - hair) * look.skin(colour)

    def layer_of(source: tuple[Material, NDArray[np.float32], FloatArray, FloatArray]) -> Layer | None:
        material, share, seen, here = source
        enough = smoothstep(np.array([(seen > EXAMPLE).sum()]), FEWEST_SOURCES, ENOUGH_SOURCES)[0]
        strength = material.strength * enough * here * (unseen > 1e-3)
        if strength.max() <= FAINTEST:
            return None
        random = np.random.default_rng(seed if material is HAIR else [seed, 1])
        if material is HAIR:
            material = fitted(HAIR, share, seen, flow, portrait)
        exemplar = exemplar_of(material, share, portrait, pixels, pixels_from_crop)
        # Dark hair varies by a multiple of its lightness; what is lighter must not vary by so much more.
        own = np.average(colour @ LUMA, weights=seen)
        strength *= np.minimum(1.0, (own + DARKEST) / (np.maximum(colour @ LUMA, 0.0) + DARKEST))
        return lay_patches(material, exemplar, surface, normals, strength, seen, flow, crop_px, portrait.camera, random)

    sources = ((HAIR, hair_share, seen_hair, hair), (SKIN, skin_share, seen_skin, skin))
    layers: list[Layer] = []
    for number, (_, layer) in enumerate(in_order(layer_of, sources), 1):
        progress(0.3 + 0.35 * number, "Carrying on hair and skin")
        if layer is not None:
            layers.append(layer)
    return SurfaceDetail(tuple(layers), surface.faces, hair)


def fitted(
    material: Material, share: NDArray[np.float32], seen: FloatArray, flow: Flow, portrait: AlignedPortrait
) -> Material:
    """The material in patches that fit what the photo shows of it: a narrow fringe has none of full size.

    Strands that lie side by side come in long patches, curls and crops in round ones.
    """
    inside = ndimage.distance_transform_edt(share > 0.5)
    room_mm = float(np.quantile(inside[inside > 0], 0.9)) / (MM * _crop_px_per_unit(portrait))
    order = float(np.average(np.abs(flow.measured), weights=seen))
    size = float(np.clip(ROOM_SHARE * room_mm / material.across_mm, SMALLEST_SIZE, 1.0))
    longer = 1 + (material.along_mm / material.across_mm - 1) * float(smoothstep(np.array([order]), *ORDERED)[0])
    across_mm = size * material.across_mm
    return replace(material, low_pass_mm=size * material.low_pass_mm, across_mm=across_mm, along_mm=longer * across_mm)


@dataclass(frozen=True)
class Look:
    """The colours (3,) sRGB of a person's hair and skin, and how far they can be told apart, 0 to 1."""

    hair_colour: FloatArray
    skin_colour: FloatArray
    apart: float

    def hair(self, points: FloatArray, colour: FloatArray, seen_fall: FloatArray) -> FloatArray:
        """(v,) how surely each vertex is covered by hair.

        points: (v, 3) head frame; colour (v, 3) sRGB; seen_fall: (v,) how plainly the photo shows hair there, down to
        the chin.
        """
        from_hair = ((colour - self.hair_colour) ** 2).sum(axis=1)
        from_skin = self._from_skin(colour, EAR_SHADE)
        evidence = np.clip((from_skin - from_hair) / (2 * COLOUR_SPREAD**2), -EVIDENCE_LIMIT, EVIDENCE_LIMIT)
        y, z = points[:, 1], points[:, 2]
        # Hair that hangs beside the neck hangs as far behind, on each side for itself.
        right, left = (_hair_end(y[(seen_fall > 0.5) & (side * points[:, 0] > 0)]) for side in (-1, 1))
        share = smoothstep(points[:, 0], -SIDE_BLEND, SIDE_BLEND)
        end = right + share * (left - right)
        prior = NECK_LOGIT + (SCALP_LOGIT - NECK_LOGIT) * smoothstep(y - end, -HEM, HEM)
        face = smoothstep(z, *FACE_Z) * (1 - smoothstep(y, BROW_Y, BROW_Y + 0.06))
        return self.apart * (1 - face) / (1 + np.exp(-(evidence + prior)))

    def skin(self, colour: FloatArray) -> FloatArray:
        """(v,) how much colours (v, 3) sRGB look like the person's skin, in the light or in the shade."""
        return np.exp(-self._from_skin(colour, SKIN_SHADE) / (2 * SKIN_SPREAD**2))

    def _from_skin(self, colour: FloatArray, darkest: float) -> FloatArray:
        """(v,) squared distance of colours (v, 3) to the face's skin in the best light from `darkest` to BRIGHTEST."""
        shade = colour @ self.skin_colour / max(float(self.skin_colour @ self.skin_colour), 1e-6)
        return ((colour - np.clip(shade, darkest, BRIGHTEST)[:, None] * self.skin_colour) ** 2).sum(axis=1)


def _far(one: FloatArray, other: FloatArray) -> float:
    return float(np.linalg.norm(one - other))


def _hair_end(hanging: FloatArray) -> float:
    """The height at which hair ends on one side, head frame, of the heights (n,) at which the photo shows it hang."""
    end = float(np.quantile(hanging, 0.05)) if len(hanging) > FEWEST_SOURCES else NAPE_Y
    return NO_END_Y if end < LONG_Y else min(NAPE_Y, end)


def find_materials(
    portrait: AlignedPortrait, trust: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Look]:
    """Which pixels of the crop show hair, which show plain skin, each (s, s) in 0..1, and the colours of both.

    Hair is what covers the head above the face and beside it and has not the face's colours; a hat is that too.
    """
    side = len(portrait.image)
    points, eyes_px = portrait.landmarks[:, :2], inter_ocular(portrait.landmarks)
    colour = portrait.image.astype(np.float32) / 255
    centres = (np.arange(side) + 0.5).astype(np.float32)
    discs = [
        (centres[:, None] - y) ** 2 + (centres - x) ** 2 < (SKIN_DISC * eyes_px) ** 2
        for x, y in points[list(SKIN_LANDMARKS)]
    ]
    discs = [disc for disc in discs if disc.any()]
    tones = np.array([np.median(colour[disc], axis=0) for disc in discs])
    bare = [
        disc for disc, tone in zip(discs, tones, strict=True) if _far(tone, np.median(tones, axis=0)) < SKIN_TOLERANCE
    ]
    skin = np.any(bare, axis=0) if bare else np.zeros((side, side), bool)
    skin_colour = np.median(colour[skin], axis=0) if skin.any() else np.zeros(3)
    face = face_region(portrait.landmarks, side)
    brows_px = points[[105, 334], 1].min()
    brows_row = max(0, int(brows_px))
    mouth_px = points[[61, 291], 1].mean()
    rows = centres[:, None]
    outside = ~ndimage.binary_dilation(face, iterations=max(1, round(0.05 * eyes_px)))
    beside = (trust > 0.5) & outside & (rows < mouth_px)
    around = beside & (trust > 0.9) & (rows < points[[33, 263], 1].mean())
    if not skin.any() or around.sum() < FEWEST_SOURCES:
        nothing = np.zeros((side, side), np.float32)
        return nothing, skin * trust, nothing, Look(skin_colour, skin_colour, 0.0)
    # Skin also lies in the shade, or shines.
    tones = np.concatenate([colour[skin] * shade for shade in SKIN_SHADES])
    hair_count, skin_count = _histogram(colour[around]), _histogram(np.clip(tones, 0, 1))
    share_of_colour = hair_count / (hair_count + skin_count + RARE_COLOUR * hair_count.max())
    index = np.rint(colour * (COLOUR_CELLS - 1)).astype(int)
    share = ndimage.gaussian_filter(share_of_colour[index[..., 0], index[..., 1], index[..., 2]], 2.0)
    coloured = smoothstep(share, *CLEARLY_HAIR) * trust
    hair = coloured * beside
    sure = hair > 0.8
    hair_colour = np.median(colour[sure], axis=0) if sure.any() else skin_colour
    apart = float(smoothstep(np.array([_far(hair_colour, skin_colour)]), *TELLING_DISTANCE)[0])
    skin_map = ndimage.gaussian_filter((skin & ~sure).astype(np.float32), 1.0) * trust
    # What hangs together with the hair above, so that a dark coat is not long hair.
    chin_px = points[152, 1]
    columns = np.flatnonzero(face.any(axis=0))
    hanging = (coloured > 0.5) & outside & (rows < chin_px + BELOW_CHIN * (chin_px - brows_px))
    hanging[brows_row:, columns[0] : columns[-1] + 1] = False  # beards, and what is below them
    pieces = ndimage.label(hanging)[0]
    fall = (hanging & np.isin(pieces, np.unique(pieces[sure & hanging]))).astype(np.float32)
    return hair.astype(np.float32), skin_map.astype(np.float32), fall, Look(hair_colour, skin_colour, apart)


def exemplar_of(
    material: Material,
    share: NDArray[np.float32],
    portrait: AlignedPortrait,
    pixels: NDArray[np.uint8],
    pixels_from_crop: FloatArray,
) -> Exemplar:
    """The detail of a material in the photo, where `share` (s, s) says the crop shows it."""
    row, column = np.nonzero(share > 0.01)
    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max() + 1
    scale = float(np.sqrt(np.linalg.det(pixels_from_crop[:2, :2])))
    width, height = max(2, int((right - left) * scale)), max(2, int((bottom - top) * scale))
    from_crop = np.array([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1.0]])
    crop_from = np.linalg.inv(from_crop)

    def cut(image: Image.Image, image_from_crop: FloatArray) -> NDArray[np.float32]:
        matrix = image_from_crop @ crop_from
        moved = image.transform(
            (width, height), Image.Transform.AFFINE, tuple(matrix[:2].ravel()), Image.Resampling.BILINEAR
        )
        return np.asarray(moved, dtype=np.float32)

    sigma = material.low_pass_mm * MM * _crop_px_per_unit(portrait)
    colour = portrait.image.astype(np.float32) / 255
    weight = ndimage.gaussian_filter(share, sigma) + 1e-6
    low = np.dstack([ndimage.gaussian_filter(share * channel, sigma) / weight for channel in np.moveaxis(colour, 2, 0)])
    low_luma = cut(Image.fromarray((low @ LUMA).astype(np.float32)), np.eye(3))
    luma = cut(Image.fromarray(pixels).convert("L"), pixels_from_crop) / 255
    change = np.clip((luma - low_luma) / (low_luma + DARKEST), -material.most, material.most)
    inside = cut(Image.fromarray(share), np.eye(3)) > 0.5
    low_quartile, high_quartile = np.quantile(change[inside], [0.25, 0.75])
    limit = OUTLIER * max(high_quartile - low_quartile, 1e-3)
    change = np.clip(change, -limit, limit)
    lightness = np.quantile(change[inside], _nodes())
    picture = np.interp(change, lightness, ndtri(_nodes())).astype(np.float32)

    shown = share > 0.5
    relative = (colour - low)[shown] / (low[shown] + DARKEST)
    grey = ((colour - low) @ LUMA)[shown] / ((low @ LUMA)[shown] + DARKEST)
    tint = np.clip(grey @ relative / max(float(grey @ grey), 1e-9), *TINT)
    return Exemplar(picture, from_crop, share, lightness - lightness.mean(), tint)


@dataclass(frozen=True)
class Flow:
    """Which way hair runs: away from the whorl and down, turned near the border as the photo's strands are.

    The direction is a line's: strands have no arrow, so turns are averaged as doubled angles.

    whorl:    (3,) head frame.
    places:   (m, 3) where the photo tells; turns (m,) complex, exp(2i angle) from the growth to the strands there,
              less 1, times weights (m,).
    measured: (v,) complex, exp(2i angle) of the strands at each vertex, times how clear they are; 0 where none is
              seen.
    """

    whorl: FloatArray
    places: FloatArray
    turns: NDArray[np.complexfloating]
    weights: FloatArray
    measured: NDArray[np.complexfloating]

    @classmethod
    def of(
        cls,
        surface: Mesh,
        normals: FloatArray,
        seen_hair: FloatArray,
        crop_px: FloatArray,
        portrait: AlignedPortrait,
        share: NDArray[np.float32],
    ) -> Flow:
        """The flow on a surface whose hair the photo shows by `seen_hair` (v,) and `share` (s, s) of the crop."""
        whorl = surface.vertices[np.argmax(surface.vertices @ WHORL_DIRECTION)]
        measured = np.zeros(len(normals), complex)
        growth = cls(whorl, np.zeros((0, 3)), np.zeros(0, complex), np.zeros(0), measured)
        seen = np.flatnonzero(seen_hair > 0.3)
        if not len(seen):
            return growth
        strand, coherence = _strands(portrait, share, crop_px[seen])
        along, across = growth.frame(surface.vertices[seen], normals[seen])
        # Strands are seen as lines of the picture; the surface's line that looks like that lies in its tangent plane.
        right, down, forward = portrait.camera.cam2world[:3, :3].T
        picture = strand[:, :1] * right + strand[:, 1:] * down
        slant = np.einsum("ij,ij->i", picture, normals[seen]) / np.minimum(normals[seen] @ forward, -0.2)
        line = picture - slant[:, None] * forward
        angle = np.arctan2(np.einsum("ij,ij->i", line, across), np.einsum("ij,ij->i", line, along))
        measured[seen] = coherence * np.exp(2j * angle)
        weight = seen_hair[seen] * coherence
        cell = np.unique((surface.vertices[seen] // JOIN_CELL).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
        total = np.maximum(np.bincount(cell, weight), 1e-9)
        places = np.stack([np.bincount(cell, weight * axis) / total for axis in surface.vertices[seen].T], axis=1)
        turns = weight * (np.exp(2j * angle) - 1)
        summed = np.bincount(cell, turns.real) + 1j * np.bincount(cell, turns.imag)
        return cls(whorl, places, summed, total, measured)

    def frame(self, points: FloatArray, normals: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Unit tangents along the flow and across it, both (n, 3), at points of the surface with normals, (n, 3)."""
        along, across = self._growth(points, normals)
        return _turned(along, across, self._doubled(points))

    def strands(self, surface: Mesh, normals: FloatArray, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """Unit tangents along the strands the photo shows at vertices (n,), and across them, both (n, 3)."""
        along, across = self._growth(surface.vertices[at], normals[at])
        flow = self._doubled(surface.vertices[at])
        return _turned(along, across, self.measured[at] + UNCLEAR * flow / np.maximum(np.abs(flow), 1e-9))

    def _growth(self, points: FloatArray, normals: FloatArray) -> tuple[FloatArray, FloatArray]:
        away = points - self.whorl
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        along = away + GRAVITY * np.array([0.0, -1.0, 0.0])
        along -= np.einsum("ij,ij->i", along, normals)[:, None] * normals
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
        return along, np.cross(normals, along)

    def _doubled(self, points: FloatArray) -> NDArray[np.complexfloating]:
        doubled = np.ones(len(points), complex)
        if len(self.places):
            places, scale = self.places.astype(np.float32), np.float32(-0.5 / JOIN_REACH**2)
            told = np.stack([self.turns.real, self.turns.imag, self.weights], axis=1).astype(np.float32)
            for start in range(0, len(points), FLOW_CHUNK):
                near = points[start : start + FLOW_CHUNK].astype(np.float32)
                squared = (near**2).sum(axis=1)[:, None] + (places**2).sum(axis=1) - 2 * near @ places.T
                real, imaginary, weight = (np.exp(squared * scale) @ told).T.astype(np.float64)
                doubled[start : start + FLOW_CHUNK] += (real + 1j * imaginary) / (weight + FAINT)
        return doubled


def _turned(
    along: FloatArray, across: FloatArray, doubled: NDArray[np.complexfloating]
) -> tuple[FloatArray, FloatArray]:
    """Two tangents (n, 3), turned by the angle that doubled (n,) complex has twice."""
    angle = np.angle(doubled) / 2
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return cosine * along + sine * across, cosine * across - sine * along


def lay_patches(
    material: Material,
    exemplar: Exemplar,
    surface: Mesh,
    normals: FloatArray,
    strength: FloatArray,
    seen: FloatArray,
    flow: Flow,
    crop_px: FloatArray,
    camera: Camera,
    random: np.random.Generator,
) -> Layer:
    """Cover the vertices of a positive strength (v,) with patches; seen (v,) says which vertices may be examples."""
    side = len(exemplar.share)
    vertices = surface.vertices
    # With the vertices around, whose strength is 0: patches go on to the far side of the faces at the border.
    covered = np.unique(surface.faces[(strength[surface.faces] > FAINTEST).any(axis=1)])
    sigma = np.array([material.along_mm, material.across_mm]) * MM
    flow_along, flow_across = flow.frame(vertices[covered], normals[covered])
    centres = _spread_out(vertices[covered], flow_along, flow_across, sigma, random)
    anchors = covered[centres]

    # Examples: the surface's frame there, and how a step along it moves in the crop.
    sources = np.flatnonzero(seen > EXAMPLE)
    along, across = flow.strands(surface, normals, sources)
    moves = np.stack(
        [
            (project(vertices[sources] + MM * axis, camera)[0] * side - crop_px[sources]) / MM
            for axis in (along, across)
        ],
        axis=1,
    )  # (source, axis, xy)
    neighbours = cKDTree(vertices[sources]).query(vertices[sources], k=min(150, len(sources)))[1][:, ::4]
    of, other = np.repeat(np.arange(len(sources)), neighbours.shape[1]), neighbours.ravel()
    s, t, turn = _local(vertices[sources], along, across, of, vertices[sources][other], along[other])
    source_bend, source_fan = _turning(of, s, t, turn, len(sources), 1.5 * material.across_mm * MM)
    looked_at = crop_px[sources, None] + np.einsum("pk,nkx->npx", PATTERN * sigma, moves)
    whole = sample_image(exemplar.share[..., None], looked_at.reshape(-1, 2)).reshape(len(sources), -1).mean(axis=1)
    straight = np.exp(-((source_bend / MOST_TURN) ** 2 + (source_fan / MOST_TURN) ** 2))
    # A surface that turns away is stretched, and its strands become stripes.
    plain = np.abs(moves[:, 0, 0] * moves[:, 1, 1] - moves[:, 0, 1] * moves[:, 1, 0])
    chance = whole**4 * seen[sources] * straight * (plain / plain.max()) ** 3
    drawn = random.choice(len(sources), len(anchors), p=chance / chance.sum())
    flips = random.choice([-1.0, 1.0], (len(anchors), 2))

    # Coordinates of the vertices around each patch, straightened along the flow.
    tree = cKDTree(vertices[anchors])
    nearest = min(NEAREST_PATCHES, len(anchors))
    reach = 2.5 * material.along_mm * MM
    distance, patch = tree.query(vertices[covered], k=nearest, distance_upper_bound=reach)
    distance, patch = distance.reshape(len(covered), -1), patch.reshape(len(covered), -1)
    # Weights end before the last patch that is looked at, so that none ends where a neighbour just did not look.
    within = np.minimum(distance[:, -1], reach)
    vertex, rank = np.nonzero(np.isfinite(distance))
    fall = (1 - (distance[vertex, rank] / within[vertex]) ** 2) ** 2
    patch = patch[vertex, rank]
    along, across = flow_along[centres], flow_across[centres]
    s, t, turn = _local(vertices[anchors], along, across, patch, vertices[covered[vertex]], flow_along[vertex])
    bend, fan = _turning(patch, s, t, turn, len(anchors), material.across_mm * MM)
    t = t - bend[patch] * s**2 / 2 - fan[patch] * s * t
    in_source = np.stack([s, t], axis=1) * flips[patch]
    source = drawn[patch]
    in_source[:, 1] += source_bend[source] * in_source[:, 0] ** 2 / 2
    in_source[:, 1] += source_fan[source] * in_source[:, 0] * in_source[:, 1]
    place = crop_px[sources[source]] + np.einsum("nk,nkx->nx", in_source, moves[source])
    weight = np.exp(-((s / sigma[0]) ** 2 + (t / sigma[1]) ** 2) / 2)
    weight *= fall * smoothstep(np.einsum("ij,ij->i", normals[covered[vertex]], normals[anchors[patch]]), 0.0, 0.5)
    weight *= sample_image(exemplar.share[..., None], place)[:, 0] ** 2
    strongest = np.zeros(len(covered))
    np.maximum.at(strongest, vertex, weight)
    kept = np.maximum(weight / np.maximum(strongest[vertex], 1e-9) - SMALLEST_WEIGHT, 0.0) * (strongest[vertex] > 1e-4)
    strength = strength.copy()
    strength[covered] *= smoothstep(strongest, 0.0, 0.05)

    values = np.column_stack([transform_points(exemplar.from_crop, place), kept])
    return _windows(exemplar, surface, strength, covered[vertex], patch, values)


def _windows(
    exemplar: Exemplar,
    surface: Mesh,
    strength: FloatArray,
    vertex: IntArray,
    patch: IntArray,
    values: FloatArray,
) -> Layer:
    """The layer of patches whose place and weight, `values` (e, 3), is known at pairs of a vertex (e,) and patch (e,).

    A face is a window onto every patch that counts at one of its corners.
    """
    patches = int(patch.max()) + 1
    pairs = vertex * patches + patch
    order = np.argsort(pairs)
    pairs, values = pairs[order], values[order]
    counting = values[:, 2] > 0
    at, of = pairs[counting] // patches, pairs[counting] % patches

    face_of_corner = np.argsort(surface.faces.ravel(), kind="stable") // 3  # faces around vertex 0, around 1, ..
    faces_around = np.bincount(surface.faces.ravel(), minlength=len(surface.vertices))
    first = np.cumsum(faces_around) - faces_around
    repeats = faces_around[at]
    running = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    face = face_of_corner[np.repeat(first[at], repeats) + running]
    windows = np.unique(face * patches + np.repeat(of, repeats))
    face, of = windows // patches, windows % patches

    wanted = surface.faces[face] * patches + of[:, None]
    found = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    known = pairs[found] == wanted
    corners = np.where(known[..., None], values[found], 0.0)
    # Beyond a patch's reach its weight is 0, and any place near the other corners' will do.
    middle = corners[..., :2].sum(axis=1) / known.sum(axis=1)[:, None]
    corners[..., :2] = np.where(known[..., None], corners[..., :2], middle[:, None])
    start = np.searchsorted(face, np.arange(len(surface.faces) + 1))
    layer = Layer(exemplar, strength.astype(np.float32), start, corners.astype(np.float32), np.zeros(0))
    # Patches show some of the example more often than the rest. The histogram of what they came to is made the
    # example's, which also keeps the mean.
    shown = np.flatnonzero(np.diff(start) > 0)
    centres = layer.scores(shown, np.full((len(shown), 3), 1 / 3, np.float32))
    return replace(layer, quantiles=np.quantile(centres, _nodes()))


def _nodes() -> FloatArray:
    return (np.arange(QUANTILES) + 0.5) / QUANTILES


def _spread_out(
    points: FloatArray, along: FloatArray, across: FloatArray, sigma: FloatArray, random: np.random.Generator
) -> IntArray:
    """Indices of random points spread evenly: a Poisson disk whose disks are ellipses.

    along, across: (n, 3) axes of each point's ellipse, which has SPACING times sigma (2,) as its radii.
    """
    radii = SPACING * sigma
    order = random.permutation(len(points))
    # One of each small cell first: a few thousand instead of all.
    cells = np.floor(points[order] / (radii.min() / 2)).astype(np.int64)
    candidates = order[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
    points, along, across = points[candidates], along[candidates], across[candidates]
    pairs = cKDTree(points).query_pairs(radii.max(), output_type="ndarray")
    step = points[pairs[:, 1]] - points[pairs[:, 0]]
    axes = along[pairs[:, 0]], across[pairs[:, 0]]
    squared = sum((np.einsum("ij,ij->i", step, axis) / radius) ** 2 for axis, radius in zip(axes, radii, strict=True))
    pairs = pairs[squared < 1]
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    start = np.searchsorted(pairs[:, 0], np.arange(len(points) + 1))
    free = np.ones(len(points), bool)
    chosen = []
    for index in range(len(points)):
        if free[index]:
            chosen.append(index)
            free[pairs[start[index] : start[index + 1], 1]] = False
    return candidates[chosen]


def _strands(
    portrait: AlignedPortrait, share: NDArray[np.float32], crop_px: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Direction (n, 2) of the strands at crop pixels (n, 2), x right and y down, and (n,) how clear it is, 0 to 1.

    By the structure tensor (Bigun and Granlund, ICCV 1987).
    """
    luma = (portrait.image @ LUMA) / 255
    inner = ndimage.minimum_filter(share, 5)
    right = ndimage.gaussian_filter(luma, 1.0, order=(0, 1)) * inner
    down = ndimage.gaussian_filter(luma, 1.0, order=(1, 0)) * inner
    sigma = TENSOR_SIGMA_MM * MM * _crop_px_per_unit(portrait)
    tensor = np.dstack([ndimage.gaussian_filter(product, sigma) for product in (right**2, right * down, down**2)])
    xx, xy, yy = sample_image(tensor, crop_px).T.astype(np.float64)
    steepest = np.arctan2(2 * xy, xx - yy) / 2
    coherence = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-9)
    return np.stack([-np.sin(steepest), np.cos(steepest)], axis=1), coherence


def _local(
    centres: FloatArray, along: FloatArray, across: FloatArray, of: IntArray, points: FloatArray, flow: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (n, 3) seen from the centre (m, 3) `of` (n,) with axes along and across, (m, 3) both.

    Returns: (n,) each: along, across, and the angle of the line `flow` (n, 3) there to the centre's, -pi/2 to pi/2.
    """
    step, first, second = points - centres[of], along[of], across[of]
    turn = np.arctan2(np.einsum("ij,ij->i", flow, second), np.einsum("ij,ij->i", flow, first))
    turn -= np.pi * np.rint(turn / np.pi)
    return np.einsum("ij,ij->i", step, first), np.einsum("ij,ij->i", step, second), turn


def _turning(
    patch: IntArray, s: FloatArray, t: FloatArray, turn: FloatArray, patches: int, width: float
) -> tuple[FloatArray, FloatArray]:
    """How the flow turns in each patch, radians for each box unit along it and across, both (patches,).

    turn: radians between the flow at points (s, t) and the patch's own; least squares over points within about `width`.
    """
    weight = np.exp(-(s**2 + t**2) / (2 * width**2))
    ss, st, tt, sa, ta = (
        np.bincount(patch, weight * product, patches).astype(np.float64)
        for product in (s * s, s * t, t * t, s * turn, t * turn)
    )
    floor = 1e-3 * width**2  # a patch of one vertex does not turn
    ss, tt = ss + floor, tt + floor
    determinant = ss * tt - st**2
    bend, fan = (tt * sa - st * ta) / determinant, (ss * ta - st * sa) / determinant
    return np.clip(bend, -MOST_TURN, MOST_TURN), np.clip(fan, -MOST_TURN, MOST_TURN)


def _histogram(colour: FloatArray) -> FloatArray:
    """(COLOUR_CELLS,) * 3: the density of sRGB colours (n, 3), smoothed; red first."""
    index = np.rint(colour * (COLOUR_CELLS - 1)).astype(int)
    counted = np.zeros((COLOUR_CELLS,) * 3)
    np.add.at(counted, tuple(index.T), 1 / len(colour))
    return ndimage.gaussian_filter(counted, COLOUR_WIDTH)


def _crop_px_per_unit(portrait: AlignedPortrait) -> float:
    camera: Camera = portrait.camera
    return float(camera.intrinsics[0, 0] * len(portrait.image) / np.linalg.norm(camera.position))
