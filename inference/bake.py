"""Paint the head: the photo's own pixels where the camera saw the surface, the model's colours everywhere else.

The two never meet at an edge. Trust in the photo fades over several millimetres towards everything that spoils it
(grazing angles, an outline behind which another part of the head lies, the border of the matte), and the model's
colours are first matched to the photo: once for the whole head, then by a smooth correction over the surface that
takes up what is left along the border and fades out behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, sparse

from .alignment import AlignedPortrait
from .camera import project, unproject
from .detail import surface_detail
from .face_region import GAMMA, FaceRegion
from .facing import Facing, depth_map_of, smoothstep
from .mirror import MirrorPaint, mirror_paint
from .model_views import ModelViews, ViewPaint
from .photo import Photo
from .progress import Progress
from .raster import face_chunks, fragments_of, sample_image
from .resampling import transform_points
from .shading import even_gain, fit_light
from .side_by_side import in_order
from .sparse_systems import factorised, stiffness_and_area
from .surface import Mesh, weld

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

# The matte's border
MATTE_EROSION = 5  # px of the 512 px crop: the matte is that unsure of where hair ends
MATTE_BLUR = 2.5  # px of the crop
CROP_EDGE = (2.0, 6.0)  # px from the crop's edge between which trust rises
MATTE_RAMP = (0.5, 0.95)  # matte values between which trust rises

LOCAL_COLOUR = 10.0  # px of the crop: background and person have one colour each over such a distance
SURE_BACKGROUND = 0.05  # matte below which a pixel shows the background
SURE_PERSON_DEPTH = 12  # px inside the matte: there, a pixel surely shows the person
BESIDE_BACKGROUND = 0.1  # share of background around a pixel from which on it may be background: up to 13 px inside
TELLING_CONTRAST = (0.1, 0.25)  # distance of the two colours, sRGB: below, they cannot be told apart
PERSON_RAMP = (0.2, 0.6)  # way from the background's to the person's colour over which trust rises

# Matching the model's colours to the photo's
MATCH_BLUR = 4.0  # px of the crop, about the distance of vertices: the match is of colours, not of detail
IDENTITY_PULL = 0.02  # variance of colours, [0, 1]^2: colours that vary less than that do not turn the whole match
PALETTE_CELLS = 32  # along each channel: colours .03 apart
PALETTE_WIDTHS = (1.5, 3.0, 6.0, 10.0)  # cells: a colour becomes the mean of the photo's within the first of these
PALETTE_FALL = 0.03  # weight of each wider one against the last: they speak where there is nothing nearer
PLAIN_MISFIT = 0.05  # of colours, [0, 1], where the photo shows them: there the model is half believed elsewhere
CORRECTION_SMOOTHNESS = 0.012  # box units, 6 mm: below this scale, photo and model may differ
CORRECTION_REACH = 0.15  # box units, 8 cm: how far behind the border the correction fades out
MAX_CORRECTION = 0.35  # of the range of colours; more is a wrong pixel, not a wrong tone

# The mirrored photo
MIRROR_CONFIDENCE = 0.5  # half way between seen and imagined

MIRROR_REACH = 0.02  # box units, 1 cm: how far around the mirrored face the model's colours follow it

DELIGHT_SMOOTHNESS = 0.02  # box units, 1 cm: light changes no faster than that, apart from cast shadows

MAX_PAINT_FACES = 200_000  # faces are split up to this number: sides of 2 mm, finer than the model's colours
FILL_ROWS = 512  # rows of a texture at once where the ground between islands is filled; even
COLOUR_CHUNK = 65536  # points between two progress calls

# Landmarks of the 478-point face mesh, from the subject's point of view
ANCHOR_LANDMARKS = {
    "eye_left": [473],  # centre of the iris
    "eye_right": [468],
    "nose_tip": [1],
    "mouth": [13, 14],  # between the lips
    "chin": [152],
    "ear_left": [454],  # the outline of the face in front of the ear
    "ear_right": [234],
}


class ColourField(Protocol):
    """What the bake needs to know of a model."""

    def colour(self, points: FloatArray) -> FloatArray:
        """(n, 3) sRGB in [0, 1] at (n, 3) points of the head frame."""


@dataclass(frozen=True)
class TexturedHead:
    """A head ready to be written.

    mesh:           unwrapped, so vertices on seams are there once per island.
    uv:             (v, 2) as in `unwrap.UnwrappedMesh`: v runs down.
    albedo:         (t, t, 3) uint8 sRGB, filled beyond the islands.
    visibility:     (v,) float32, 0 not seen in the photo, 1 seen plainly.
    visibility_map: (t, t) uint8, the same per texel, 0..255.
    anchors:        points on the surface by name, (3,) in the head frame.
    source:         name of the photo's file.
    confidence:     (v,) float32, the visibility, and up to MIRROR_CONFIDENCE where the photo saw only the mirror point.
    hair:           (v,) float32, how surely each vertex is covered by hair; None where nobody looked.
    """

    mesh: Mesh
    uv: FloatArray
    albedo: NDArray[np.uint8]
    visibility: NDArray[np.float32]
    visibility_map: NDArray[np.uint8]
    anchors: dict[str, FloatArray]
    source: str
    confidence: NDArray[np.float32]
    hair: NDArray[np.float32] | None = None


def bake(
    mesh: Mesh,
    uv: FloatArray,
    portrait: AlignedPortrait,
    photo: Photo,
    field: ColourField,
    texture_size: int,
    progress: Progress,
    views: ModelViews | None = None,
    detail_seed: int | None = None,
    most_photo: FloatArray | None = None,
    mirror: bool = True,
    delight: float = 0.0,
) -> TexturedHead:
    """Texture the head from its photo and its model.

    mesh, uv:     as `unwrap` returns them.
    portrait:     tells where the camera stood and what of the crop is the person.
    photo:        the file's own pixels, sampled through `portrait.photo_from_crop`.
    field:        the model's colours.
    texture_size: texels along a side.
    views:        the model's own pictures of the head, where it makes some that are sharper than the field's colours.
    detail_seed:  of the photo's fine detail carried on over the unseen side; None leaves that side smooth, and pictures
                  of the model have detail of their own.
    most_photo:   (v,) in [0, 1] share of the photo at each vertex that is not exceeded, however plainly it is seen.
    mirror:       whether the half of the face that was seen also paints the other.
    delight:      how much of the photo's light is taken out of its colours, from 0 to 1; at 0 they stay as they are.
    """
    progress(0.0, "Finding what the photo shows")
    fine, fine_uv = subdivide(mesh, uv, MAX_PAINT_FACES)
    # Vertices that the unwrap split are one in `whole`, so that nothing computed on the surface knows of seams.
    whole, whole_vertex = weld(fine)
    crop_px = project(whole.vertices, portrait.camera)[0] * len(portrait.image)
    trust_map = matte_trust(portrait.matte, portrait.image)
    depth_map = depth_map_of(mesh, portrait.camera)
    surface = Facing(whole)
    facing = surface.weight(portrait.camera, depth_map)
    if most_photo is not None:
        _, most = subdivide(mesh, most_photo[:, None], MAX_PAINT_FACES)
        facing = np.minimum(facing, most[np.unique(whole_vertex, return_index=True)[1], 0])
    visibility = facing * sample_image(trust_map[..., None], crop_px)[:, 0]

    progress(0.1, "Matching colours")
    field_colour = _colour_at(field, whole.vertices, lambda share: progress(0.1 + 0.15 * share, "Matching colours"))
    paint = ViewPaint.of(views, whole, mesh, MATCH_BLUR / len(portrait.image)) if views is not None else None
    model_colour = field_colour if paint is None else paint.soft_colour(field_colour)
    soft = _soft_picture(portrait.image, trust_map)
    seen_colour = sample_image(soft, crop_px).astype(np.float64)
    region = FaceRegion.of(portrait, trust_map)
    gain, shade = _photo_light(surface, seen_colour, visibility, region, crop_px, delight)
    photo_colour = seen_colour * gain[:, None]

    progress(0.25, "Matching colours")
    tone = fit_tone(model_colour, photo_colour, visibility)
    matched = tone.apply(model_colour)
    half: MirrorPaint | None = None
    if mirror:

        def spread(values: FloatArray, weight: FloatArray) -> FloatArray:
            return _spread_on_whole(mesh, fine, whole_vertex, values, weight)

        half = mirror_paint(surface, visibility, gain, shade, soft, photo_colour, matched, portrait, region, spread)
        facing, visibility = half.beside(facing), half.beside(visibility)
        progress(0.3, "Matching colours")
    doubt = doubt_of(matched, photo_colour, visibility)
    matched = matched + doubt * (Palette.of(photo_colour, visibility).nearest(matched) - matched)
    residual = np.clip(photo_colour - matched, -MAX_CORRECTION, MAX_CORRECTION)
    matched = matched[whole_vertex] + _correction(mesh, fine, residual[whole_vertex], visibility[whole_vertex])
    if half is not None:
        # Around the mirrored part the model gives way too, but not far: hair beside it was not seen to be redder.
        copied = half.weight[whole_vertex]
        residual = np.clip(half.colour[whole_vertex] - matched, -MAX_CORRECTION, MAX_CORRECTION)
        matched += _correction(mesh, fine, residual, copied * (1 - visibility[whole_vertex]), MIRROR_REACH)

    # All of these are smooth on the surface: linear between the corners of a face.
    on_vertices = {"matched": matched, "facing": facing, "crop_px": crop_px, "gain": gain}
    if half is not None:
        on_vertices |= {"half_px": half.crop_px, "half_gain": half.gain, "half_tone": half.tone, "half": half.weight}
    if paint is not None:
        on_vertices |= {"field": field_colour, "model": model_colour, "paint": paint.vertex_values}
    vertex_values, column = _side_by_side(on_vertices, whole_vertex)
    texels_per_crop_px = _texels_per_crop_px(portrait, mesh, uv, texture_size)
    pixels, pixels_from_crop = _photo_pixels(photo, portrait, crop_px, texels_per_crop_px)
    detail = None
    if detail_seed is not None and paint is None:
        smooth = np.empty_like(whole.vertices)
        smooth[whole_vertex] = matched
        detail = surface_detail(
            Mesh(whole.vertices, whole_vertex[fine.faces]),
            smooth,
            visibility,
            crop_px,
            portrait,
            pixels,
            pixels_from_crop,
            trust_map,
            detail_seed,
            lambda done, label: progress(0.35 + 0.05 * done, label),
        )

    def photo_at(on_crop: FloatArray) -> NDArray[np.float32]:
        return sample_image(pixels, transform_points(pixels_from_crop, on_crop)) / np.float32(255)

    size, fine_px = (texture_size, texture_size), fine_uv * texture_size
    albedo = np.zeros((*size, 3), dtype=np.uint8)
    visibility_map = np.zeros(size, dtype=np.uint8)
    covered = np.zeros(size, dtype=bool)

    def paint_faces(part: slice) -> None:
        """Every texel belongs to one face, so runs of faces can be painted side by side."""
        cover = fragments_of(part, fine_px, fine.faces, size)
        values = cover.interpolate(vertex_values, fine.faces)
        colour, weight = values[:, column["matched"]], values[:, column["facing"]][:, 0]
        if paint is not None:
            # Soft colours are matched to the photo's; the detail comes on top.
            sharp = paint.colour(values[:, column["field"]], values[:, column["paint"]])
            colour += (sharp - values[:, column["model"]]) @ tone.matrix.astype(np.float32)
        if detail is not None:
            detail.add(colour, cover)
        if half is not None:
            copied = np.flatnonzero(values[:, column["half"]][:, 0] > 0)
            there = values[copied]
            on_crop = there[:, column["half_px"]]
            pixel = photo_at(on_crop) * sample_image(half.spotless, on_crop) * there[:, column["half_gain"]]
            pixel += there[:, column["half_tone"]]
            colour[copied] += there[:, column["half"]] * (pixel - colour[copied])
        seen = np.flatnonzero(weight > 0)
        on_crop = values[seen, column["crop_px"]]
        weight[seen] *= sample_image(trust_map[..., None], on_crop)[:, 0]
        pixel = photo_at(on_crop) * values[seen, column["gain"]]
        colour[seen] += weight[seen, None] * (pixel - colour[seen])
        albedo[cover.row, cover.column] = np.rint(np.clip(colour, 0, 1) * 255)
        visibility_map[cover.row, cover.column] = np.rint(weight * 255)
        covered[cover.row, cover.column] = True

    for part, _ in in_order(paint_faces, face_chunks(fine_px, fine.faces)):
        progress(0.4 + 0.5 * part.stop / len(fine.faces), "Painting")

    progress(0.9, "Padding the texture")
    painted = fill_uncovered(np.dstack([albedo, visibility_map]), covered)
    confidence = visibility if half is None else visibility + (1 - visibility) * MIRROR_CONFIDENCE * half.weight
    own_vertex = whole_vertex[: len(mesh.vertices)]
    return TexturedHead(
        mesh=mesh,
        uv=uv,
        albedo=np.ascontiguousarray(painted[..., :3]),
        visibility=visibility[own_vertex].astype(np.float32),
        visibility_map=np.ascontiguousarray(painted[..., 3]),
        anchors=find_anchors(depth_map, portrait),
        source=photo.path.name,
        confidence=confidence[own_vertex].astype(np.float32),
        hair=None if detail is None else detail.hair[own_vertex].astype(np.float32),
    )


def subdivide(mesh: Mesh, uv: FloatArray, most_faces: int) -> tuple[Mesh, FloatArray]:
    """Split every face into four, again and again while that stays below `most_faces`; old vertices come first.

    Two faces with a common side in space, but not in uv, still get the same point in its middle.
    """
    while 4 * len(mesh.faces) <= most_faces:
        faces = mesh.faces
        sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
        edges, edge_of_side = np.unique(sides[:, 0] * len(mesh.vertices) + sides[:, 1], return_inverse=True)
        start, end = edges // len(mesh.vertices), edges % len(mesh.vertices)
        middle = len(mesh.vertices) + edge_of_side.reshape(-1, 3)  # (f, 3) of sides 0-1, 1-2, 2-0
        corner = [np.stack([faces[:, i], middle[:, i], middle[:, i - 1]], axis=1) for i in range(3)]
        vertices = np.concatenate([mesh.vertices, (mesh.vertices[start] + mesh.vertices[end]) / 2])
        uv = np.concatenate([uv, (uv[start] + uv[end]) / 2])
        mesh = Mesh(vertices, np.concatenate([*corner, middle]))
    return mesh, uv


@dataclass(frozen=True)
class Tone:
    """A map between colours that holds for the whole head: colour @ matrix + offset."""

    matrix: FloatArray  # (3, 3)
    offset: FloatArray  # (3,)

    def apply(self, colour: FloatArray) -> FloatArray:
        """(n, 3) sRGB to (n, 3), not clipped."""
        return colour @ self.matrix + self.offset


def fit_tone(model: FloatArray, photo: FloatArray, weight: FloatArray) -> Tone:
    """The tone that brings the model's colours (n, 3) nearest to the photo's (n, 3) where weight (n,) is high.

    Ridge regression towards "same colours, other brightness": skin and hair may shift differently, but a head of one
    colour does not turn the other colours.
    """
    total = weight.sum()
    if total <= 0:
        return Tone(np.eye(3), np.zeros(3))
    share = (weight / total)[:, None]
    model_mean, photo_mean = (share * model).sum(axis=0), (share * photo).sum(axis=0)
    model_spread, difference = model - model_mean, (photo - photo_mean) - (model - model_mean)
    covariance = model_spread.T @ (share * model_spread)
    change = np.linalg.solve(covariance + IDENTITY_PULL * np.eye(3), model_spread.T @ (share * difference))
    matrix = np.eye(3) + change
    return Tone(matrix, photo_mean - model_mean @ matrix)


def doubt_of(matched: FloatArray, photo: FloatArray, weight: FloatArray) -> float:
    """From 0 to 1, how little matched colours (n, 3) are to be believed where no photo tells better.

    It is measured where one does: by the mean square of their distance to the photo's (n, 3), by weight (n,).
    """
    total = 3 * weight.sum()
    misfit = float((weight[:, None] * (photo - matched) ** 2).sum() / total) if total > 0 else 0.0
    return misfit / (misfit + PLAIN_MISFIT**2)


@dataclass(frozen=True)
class Palette:
    """Which colours the photo shows of the head.

    A tone fitted to what is seen goes wild on colours that are not: dark skin behind turns red, black hair green. So
    the unseen side of a model that misses the photo's colours is painted in them: each becomes the mean of those near.

    means: (PALETTE_CELLS, PALETTE_CELLS, PALETTE_CELLS, 3) that mean for colours on a grid of red, green, blue.
    """

    means: FloatArray

    @classmethod
    def of(cls, photo: FloatArray, weight: FloatArray) -> Palette:
        """The palette of colours (n, 3) that count as much as weight (n,); every colour, if nothing is seen."""
        index = np.rint(np.clip(photo, 0, 1) * (PALETTE_CELLS - 1)).astype(np.int64) @ PALETTE_CELLS ** np.arange(3)
        total = weight.sum()
        if total <= 0:
            axis = np.linspace(0, 1, PALETTE_CELLS)
            return cls(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1))
        sums = [np.bincount(index, weight / total * value, PALETTE_CELLS**3) for value in (1.0, *photo.T)]
        counted = np.stack(sums, axis=-1).reshape(*(PALETTE_CELLS,) * 3, 4).transpose(2, 1, 0, 3)  # red first
        spread = sum(
            PALETTE_FALL**rank * ndimage.gaussian_filter(counted, (width,) * 3 + (0,), mode="constant", truncate=5)
            for rank, width in enumerate(PALETTE_WIDTHS)
        )
        return cls(spread[..., 1:] / np.maximum(spread[..., :1], 1e-12))

    def nearest(self, colour: FloatArray) -> FloatArray:
        """(n, 3) sRGB to the photo's colours about there, (n, 3)."""
        place = np.clip(colour, 0, 1).T * (PALETTE_CELLS - 1)
        channels = [ndimage.map_coordinates(self.means[..., c], place, order=1, mode="nearest") for c in range(3)]
        return np.stack(channels, axis=1)


def spread_over_surface(
    mesh: Mesh, values: FloatArray, weight: FloatArray, reach: float = CORRECTION_REACH
) -> FloatArray:
    """A smooth function on the mesh that follows values where they are trusted and fades to 0 far from there.

    values: (v, k); weight: (v,) trust from 0 to 1; reach: box units, over which it fades.
    Returns: (v, k), the minimiser of weight (f - values)^2 + smoothness^2 |grad f|^2 + (smoothness / reach)^2 f^2, the
             last where the trust is 0: a membrane that decays over the reach.
    """
    stiffness, area = stiffness_and_area(mesh.vertices, mesh.faces)
    decay = (CORRECTION_SMOOTHNESS / reach) ** 2 * (1.0 - weight)
    system = CORRECTION_SMOOTHNESS**2 * stiffness + sparse.diags(area * (weight + decay))
    return factorised(system).solve((area * weight)[:, None] * values)


def fill_uncovered(image: NDArray[np.uint8], covered: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Colour texels outside all islands like the nearest island, so that filtering and mip levels find no border.

    Each ring around the islands is the mean of its neighbours; the next ring is one texel wide at half the resolution,
    and so on.
    image: (h, w, k); covered: (h, w).
    """
    if covered.all() or not covered.any():
        return image
    filled, covered = _grow(image, covered)
    half = fill_uncovered(*_halved(filled, covered))
    for start in range(0, len(filled), FILL_ROWS):
        rows = slice(start, start + FILL_ROWS)
        row, column = np.nonzero(~covered[rows])
        filled[rows][row, column] = half[(start + row) // 2, column // 2]
    return filled


def _halved(image: NDArray[np.uint8], covered: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """At half the resolution, rounded up: the mean of what is covered, and whether anything is."""
    height, width = covered.shape
    shape = ((height + 1) // 2, (width + 1) // 2)
    half, half_covered = np.zeros((*shape, image.shape[2]), np.uint8), np.zeros(shape, bool)
    for start in range(0, height, FILL_ROWS):  # sums of a whole picture of 8192 texels would take gigabytes
        part = covered[start : start + FILL_ROWS]
        padding = ((0, len(part) % 2), (0, width % 2))
        weight = np.pad(part, padding)[..., None].astype(np.uint16)
        weighted = np.pad(image[start : start + FILL_ROWS], (*padding, (0, 0))) * weight
        count = weight[::2, ::2] + weight[1::2, ::2] + weight[::2, 1::2] + weight[1::2, 1::2]
        total = weighted[::2, ::2] + weighted[1::2, ::2] + weighted[::2, 1::2] + weighted[1::2, 1::2]
        rows = slice(start // 2, start // 2 + len(count))
        half[rows], half_covered[rows] = total // np.maximum(count, 1), count[..., 0] > 0
    return half, half_covered


def find_anchors(depth_map: NDArray[np.float32], portrait: AlignedPortrait) -> dict[str, FloatArray]:
    """Named points of the face, where the rays through the photo's landmarks meet the surface, head frame.

    A landmark beside the mesh (an ear's, often) becomes the nearest point of the outline.
    depth_map: (s, s) as for `Facing.weight`.
    """
    size = len(depth_map)
    row, column = np.nonzero(np.isfinite(depth_map))
    anchors = {}
    for name, landmarks in ANCHOR_LANDMARKS.items():
        picture = portrait.landmarks[landmarks, :2].mean(axis=0) / len(portrait.image)
        at_column, at_row = np.clip((picture * size).astype(int), 0, size - 1)
        if not np.isfinite(depth_map[at_row, at_column]):
            nearest = np.argmin((column + 0.5 - picture[0] * size) ** 2 + (row + 0.5 - picture[1] * size) ** 2)
            at_row, at_column = row[nearest], column[nearest]
            picture = (np.array([at_column, at_row]) + 0.5) / size
        anchors[name] = unproject(picture, np.asarray(depth_map[at_row, at_column]), portrait.camera)
    return anchors


def _grow(image: NDArray[np.uint8], covered: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Colour the ring of texels around what is covered by the mean of its covered neighbours."""
    height, width = covered.shape
    grown = ndimage.binary_dilation(covered, np.ones((3, 3), dtype=bool))
    row, column = np.nonzero(grown & ~covered)
    total = np.zeros((len(row), image.shape[2]), dtype=np.uint16)
    count = np.zeros((len(row), 1), dtype=np.uint16)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            y, x = np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)
            weight = covered[y, x, None].astype(np.uint16)
            total += image[y, x] * weight
            count += weight
    image = image.copy()
    image[row, column] = total // count
    return image, grown


def matte_trust(matte: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(s, s) how surely a crop pixel shows the person and not what is behind.

    The matte, drawn in and feathered; and, near its border, less where a pixel has the colour of the background there
    rather than that of the person: mattes bridge gaps between strands of hair. Where the crop ends the person goes on,
    and only what may lie in part beyond it is not trusted.
    """
    eroded = ndimage.minimum_filter(matte, size=2 * MATTE_EROSION + 1, mode="nearest")
    blurred = ndimage.gaussian_filter(eroded, MATTE_BLUR, mode="nearest")
    from_edge = [np.minimum(np.arange(side), np.arange(side)[::-1]) for side in matte.shape]
    within = smoothstep(np.minimum(from_edge[0][:, None], from_edge[1]).astype(np.float64), *CROP_EDGE)
    trust = smoothstep(blurred, *MATTE_RAMP) * within

    pixels = image.astype(np.float32) / 255
    behind, beside_background = _local_mean(pixels, (matte < SURE_BACKGROUND).astype(np.float32))
    person, _ = _local_mean(pixels, ndimage.minimum_filter(matte, size=2 * SURE_PERSON_DEPTH + 1))
    contrast = person - behind
    squared = np.maximum(np.einsum("hwc,hwc->hw", contrast, contrast), 1e-6)
    person_share = np.einsum("hwc,hwc->hw", pixels - behind, contrast) / squared
    sure = smoothstep(beside_background, 0.0, BESIDE_BACKGROUND) * smoothstep(np.sqrt(squared), *TELLING_CONTRAST)
    return (trust * (1 - sure * (1 - smoothstep(person_share, *PERSON_RAMP)))).astype(np.float32)


def _local_mean(image: NDArray[np.float32], weight: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """(h, w, 3) weighted mean of the pixels around each pixel, and (h, w) how much weight there was, of 1."""
    support = ndimage.gaussian_filter(weight, LOCAL_COLOUR)
    total = ndimage.gaussian_filter(image * weight[..., None], (LOCAL_COLOUR, LOCAL_COLOUR, 0))
    return total / np.maximum(support, 1e-6)[..., None], support


def _soft_picture(image: NDArray[np.uint8], trust: NDArray[np.float32]) -> NDArray[np.float32]:
    """(s, s, 3) sRGB in [0, 1]: the crop, each pixel the average of the trusted ones around it."""
    weight = trust + np.float32(1e-4)  # far from all trusted pixels, any average will do: its weight is 0
    blurred_weight = ndimage.gaussian_filter(weight, MATCH_BLUR)
    colour = ndimage.gaussian_filter(image * (weight[..., None] / np.float32(255)), (MATCH_BLUR, MATCH_BLUR, 0))
    return colour / blurred_weight[..., None]


def _photo_light(
    surface: Facing,
    seen_colour: FloatArray,
    visibility: FloatArray,
    region: FaceRegion,
    crop_px: FloatArray,
    delight: float,
) -> tuple[FloatArray, FloatArray]:
    """(v,) what the photo's sRGB is multiplied with to even out its light, and (v,) such a factor of the light left."""
    bare = region.face * region.skin * (1 - region.features)
    skin = visibility * sample_image(bare[..., None], crop_px)[:, 0]
    light = fit_light(surface.normals, seen_colour, skin)
    shade = light.shading(surface.normals) ** ((1 - delight) / GAMMA)
    gain = even_gain(surface.normals, seen_colour, skin, light, delight)
    return surface.averaged(gain, DELIGHT_SMOOTHNESS), surface.averaged(shade, DELIGHT_SMOOTHNESS)


def _side_by_side(
    values: dict[str, FloatArray], whole_vertex: IntArray
) -> tuple[NDArray[np.float32], dict[str, slice]]:
    """Values by name, (v,) or (v, k) each, as the columns of one array, and which columns each has.

    Those of welded vertices are given to all that `whole_vertex` (v,) names.
    """
    columns: dict[str, slice] = {}
    parts: list[FloatArray] = []
    width = 0
    for name, value in values.items():
        part = value.reshape(len(value), -1)
        parts.append(part if len(part) == len(whole_vertex) else part[whole_vertex])
        columns[name] = slice(width, width + part.shape[1])
        width += part.shape[1]
    return np.column_stack(parts).astype(np.float32), columns


def _spread_on_whole(
    mesh: Mesh, fine: Mesh, whole_vertex: IntArray, values: FloatArray, weight: FloatArray
) -> FloatArray:
    """`_correction` of values (v, k) and weights (v,) at the welded vertices of `fine`."""
    spread = _correction(mesh, fine, values[whole_vertex], weight[whole_vertex])
    return spread[np.unique(whole_vertex, return_index=True)[1]]


def _correction(
    coarse: Mesh, fine: Mesh, residual: FloatArray, weight: FloatArray, reach: float = CORRECTION_REACH
) -> FloatArray:
    """(v, 3) `spread_over_surface` for a subdivided, unwrapped mesh, solved on the mesh before it was subdivided.

    residual, weight: (v, 3) and (v,) at the vertices of `fine`, whose first ones are those of `coarse`.
    """
    whole, whole_vertex = weld(coarse)
    count = len(coarse.vertices)
    first = np.unique(whole_vertex, return_index=True)[1]
    correction = spread_over_surface(whole, residual[:count][first], weight[:count][first], reach)[whole_vertex]
    # What subdivision did to the places it also does to the values.
    return subdivide(coarse, correction, len(fine.faces))[1]


def _colour_at(field: ColourField, points: FloatArray, progress: Callable[[float], None]) -> FloatArray:
    """(n, 3) the model's colours at surface points."""
    chunks = []
    for start in range(0, len(points), COLOUR_CHUNK):
        progress(start / len(points))
        chunks.append(field.colour(points[start : start + COLOUR_CHUNK].astype(np.float32)))
    return np.concatenate(chunks).astype(np.float64)


def _texels_per_crop_px(portrait: AlignedPortrait, mesh: Mesh, uv: FloatArray, texture_size: int) -> float:
    """How many texels a pixel of the crop spans on a surface that faces the camera at the head's middle."""
    corners, flat = mesh.vertices[mesh.faces], uv[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    flat_area = np.abs(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])).sum()
    distance = np.linalg.norm(portrait.camera.position)
    crop_px_per_unit = portrait.camera.intrinsics[0, 0] * len(portrait.image) / distance
    return texture_size * float(np.sqrt(flat_area / area)) / crop_px_per_unit


def _photo_pixels(
    photo: Photo, portrait: AlignedPortrait, crop_px: FloatArray, texels_per_crop_px: float
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The part of the photo with the head in it, reduced where its pixels are finer than texels.

    Returns: (h, w, 3) uint8 sRGB and the (3, 3) map from crop pixels to its pixels.
    """
    height, width = photo.rgb.shape[:2]
    corners = transform_points(portrait.photo_from_crop, crop_px)
    left, top = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, (left + 1, top + 1), (width, height))
    pixels = Image.fromarray(np.ascontiguousarray(photo.rgb[top:bottom, left:right]))
    photo_px_per_texel = np.sqrt(np.linalg.det(portrait.photo_from_crop[:2, :2])) / texels_per_crop_px
    factor = max(1, int(photo_px_per_texel))
    to_part = np.diag([1 / factor, 1 / factor, 1.0]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    return np.asarray(pixels.reduce(factor)), to_part @ portrait.photo_from_crop
