"""From a density field to one clean, closed mesh; the home of real-world size.

The field is read coarse to fine: a coarse lattice finds the head, and only cells that the surface passes through are
split. Refinement follows the surface wherever it leaves the cells already split, so the result is the same as reading
every point of the fine lattice, for everything that hangs together with what the coarse lattice saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy import sparse, spatial
from skimage import measure

from .errors import NoSurface
from .lenses import FACE_LENSES, magnified, mirrored_below, put_back
from .progress import Progress

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

METRES_PER_UNIT = 0.52  # mean training head: .44 units from chin to crown, 0.23 m
NECK_CUT_Y = -0.32  # head frame; below the chin (-.24), above the shoulders

COARSEST_CELLS = 32  # cells of the first lattice along the box: 11 mm, finer than a neck, a nose or a bun
OUTSIDE = -1e9  # stands for "not head" next to a cut: so low that marching cubes puts the wall onto the cut
FIELD_CHUNK = 65536  # points between two progress calls
ON_CUT = 0.05  # cells; decimation moves vertices of a flat cap by rounding only
PROJECTION_STEPS = 2  # secant steps onto the level; the second one moves vertices by less than a hundredth of a cell
KEEP_MORE = 1.3  # when decimation tangles the mesh, keep this many times more faces and try again
DECIMATION_TRIES = 4
# What decimation is given is this many times larger: its first round collapses every side that costs less than 1.5e-3
# of its units, in the order of the faces. As box units that is almost a millimetre, and costs would not be compared.
DECIMATION_SCALE = 100.0
FEWEST_FACES = 200  # of a small piece beside large ones
UNFOLDING_ROUNDS = 8  # of smoothing folded faces; most lie flat after two
SLIVER = 1e-4  # height of a face over its longest side: below, its normal is noise
ON_LEVEL = 1e-5  # of the steepest change between two samples: nearer to the level a sample would collapse faces
APART = 1e-6  # units, half a micrometre: what lies closer becomes one where vertices are joined by their place

NECKS = ("closed", "open")


class DensityField(Protocol):
    """What the surface needs to know of a model."""

    @property
    def level(self) -> float:
        """Density on the surface; more is inside."""

    @property
    def box_side(self) -> float:
        """Side of the cube around the origin of the head frame in which the field is defined, box units."""

    def density(self, points: FloatArray) -> FloatArray:
        """(n,) density at (n, 3) points of the head frame."""


@runtime_checkable
class LatticeField(DensityField, Protocol):
    """One that can read a whole lattice for less than its points one by one."""

    def density_on_lattice(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """(len(x), len(y), len(z)) density at every point with these coordinates in the head frame."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the head frame.

    vertices: (v, 3) box units.
    faces:    (f, 3) int64, anticlockwise seen from outside.
    """

    vertices: FloatArray
    faces: IntArray


@dataclass(frozen=True)
class Lattice:
    """Sample points of the box, with one layer of padding around it that is always outside.

    origin: (3,) head frame position of index (1, 1, 1), the first point in the box.
    cell:   distance of neighbouring points, box units.
    shape:  number of points along x, y, z that lie in the box, padding not counted.
    """

    origin: FloatArray
    cell: float
    shape: tuple[int, int, int]

    def points(self, index: NDArray[Any]) -> FloatArray:
        """(n, 3) positions in the head frame of (n, 3) lattice indices, which may be fractions."""
        return self.origin + (index - 1.0) * self.cell

    def axes(self, stride: int = 1) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coordinates along x, y and z of the points in the box whose indices are multiples of a stride."""
        x, y, z = (
            start + (np.arange(stride, points + 1, stride) - 1.0) * self.cell
            for start, points in zip(self.origin, self.shape, strict=True)
        )
        return x, y, z


def metres_from_head() -> FloatArray:
    """(4, 4) from the head frame to the exported mesh: metres, with the origin in the cut at the base of the neck."""
    matrix = np.diag([METRES_PER_UNIT] * 3 + [1.0])
    matrix[1, 3] = -NECK_CUT_Y * METRES_PER_UNIT
    return matrix


def lattice_points(x: FloatArray, y: FloatArray, z: FloatArray) -> NDArray[np.float32]:
    """(len(x) * len(y) * len(z), 3) every point with these coordinates; z changes fastest."""
    return np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)


def density_on_lattice(field: DensityField, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    """(len(x), len(y), len(z)) density at every point with these coordinates, the cheapest way the field has."""
    if isinstance(field, LatticeField):
        return field.density_on_lattice(x, y, z)
    return field.density(lattice_points(x, y, z)).reshape(len(x), len(y), len(z))


def extract(
    field: DensityField, grid: int, faces: int, progress: Progress, neck: str = "closed", symmetric: bool = False
) -> Mesh:
    """The surface of the head: one closed piece with a flat neck.

    field:     density above `field.level` is inside.
    grid:      cells along the side of the field's box, at least 16.
    faces:     faces to keep; a few more remain where fewer would tangle the mesh, some fewer of an open neck and of a
               symmetric head, whose caps go in the end.
    neck:      one of NECKS: "closed" by a flat cap, or "open", with one border loop in the cut instead of the cap.
    symmetric: the field is the same on both sides of x = 0, and the mesh shall be too, face for face. Only x >= 0 is
               read. Where halves cannot be joined cleanly, the mended faces may differ.
    Raises:    NoSurface when nothing of the field is inside, or no closed piece comes out.
    """
    lattice = head_lattice(field.box_side, grid)
    part = right_of_middle(lattice) if symmetric else lattice
    volume = sample_near_surface(field, part, lambda fraction, label: progress(0.7 * fraction, label))
    dense = march(volume, part)
    progress(0.8, "Cleaning the surface")
    partner = None
    if symmetric:
        mesh, partner = join_mirrored(decimate(dense, faces // 2, lattice.cell, half=True))
    else:
        mesh = decimate(dense, faces, lattice.cell)
    progress(0.9, "Cleaning the surface")
    mesh = unfold(_project_onto_level(mesh, field, lattice), same_faces=partner is not None)
    if partner is not None:
        mesh = _made_symmetric(mesh, partner)
    if neck == "open":
        mesh = open_neck(mesh)
    progress(1.0, "Cleaning the surface")
    return mesh


def extract_solids(field: DensityField, grid: int, faces: int, least_volume: float, progress: Progress) -> list[Mesh]:
    """Every closed piece of a field above the neck's cut, largest first; none where nothing is inside.

    faces:        of all pieces together, about; each gets its share by area.
    least_volume: box units cubed; smaller pieces are left out.
    """
    lattice = head_lattice(field.box_side, grid)
    try:
        volume = sample_near_surface(field, lattice, lambda fraction, label: progress(0.7 * fraction, label))
        pieces = solids(march_all(volume, lattice), least_volume)
    except NoSurface:
        return []
    areas = np.array([np.linalg.norm(_face_crosses(piece.vertices, piece.faces), axis=1).sum() for piece in pieces])
    done: list[Mesh] = []
    for piece, share in zip(pieces, areas / areas.sum(), strict=True):
        progress(0.7 + 0.3 * len(done) / len(pieces), "Cleaning the surface")
        lighter = decimate(piece, max(int(faces * share), FEWEST_FACES), lattice.cell)
        done.append(unfold(_project_onto_level(lighter, field, lattice)))
    return done


def head_lattice(box_side: float, grid: int) -> Lattice:
    """The lattice above the neck cut; one of its layers lies in the cut, so that the cap is flat and sharp."""
    half = box_side / 2
    cell = box_side / grid
    bottom = max(NECK_CUT_Y, -half)
    layers = int(np.floor((half - bottom) / cell + 1e-6)) + 1
    return Lattice(np.array([-half, bottom, -half]), cell, (grid + 1, layers, grid + 1))


def right_of_middle(lattice: Lattice) -> Lattice:
    """The lattice's part with x >= 0; its first layer lies in x = 0, as the lattice's lowest lies in the neck cut."""
    columns = int(np.floor((lattice.shape[0] - 1) / 2 + 1e-6)) + 1
    return Lattice(np.array([0.0, *lattice.origin[1:]]), lattice.cell, (columns, *lattice.shape[1:]))


def sample_near_surface(field: DensityField, lattice: Lattice, progress: Progress) -> NDArray[np.float32]:
    """Density minus level on the lattice with its padding; exact at every point of a cell that the surface crosses.

    Elsewhere only the sign is right. Points outside the box hold OUTSIDE.
    Returns: (x, y, z) float32, one layer of padding at the low and at least one at the high end of each axis.
    """
    stride = 1
    while max(lattice.shape) / (stride * 2) >= COARSEST_CELLS:
        stride *= 2
    # Blocks of the coarsest stride, with at least one layer of padding after the last point in the box.
    blocks = [-(-(points + 1) // stride) for points in lattice.shape]
    shape = [count + 1 for count in blocks]
    total_strides = int(np.log2(stride)) + 1

    values = np.full(shape, OUTSIDE, dtype=np.float32)
    axes = lattice.axes(stride)
    x, y, z = (len(axis) for axis in axes)
    progress(0.0, "Finding the surface")
    values[1 : x + 1, 1 : y + 1, 1 : z + 1] = density_on_lattice(field, *axes) - field.level
    # A lattice read as a whole may be rounded otherwise than its points one by one, and what is kept of it shall not
    # depend on the grid it was first seen in.
    exact = np.zeros(shape, dtype=bool)
    if not (values > 0).any():
        raise NoSurface()
    for step in range(1, total_strides):
        stride //= 2
        start = step / total_strides

        def stage(fraction: float, label: str, start: float = start) -> None:
            progress(start + fraction / total_strides, label)

        values, exact = _refine(field, lattice, stride, values, exact, stage)
    return values


def march(volume: NDArray[np.float32], lattice: Lattice) -> Mesh:
    """Marching cubes, largest closed piece only, vertices in the head frame.

    volume: as `sample_near_surface` returns it.
    Raises: NoSurface.
    """
    return largest_solid(march_all(volume, lattice))


def march_all(volume: NDArray[np.float32], lattice: Lattice) -> Mesh:
    """The same with all pieces, those of hollows inside too."""
    # Only the head's surroundings are copied: the volume of 512^3 samples has half a gigabyte.
    surroundings = _surroundings(volume > 0)
    volume = volume[surroundings].copy()
    # A sample exactly on the level would collapse the faces around it to nothing. How near is too near must not depend
    # on samples away from the surface, which a dense volume knows and a coarse-to-fine one does not.
    smallest = np.float32(ON_LEVEL) * max(_steepest_crossing(volume), np.float32(1e-30))
    for layer in volume:  # layer by layer, because absolute values of the whole would be as large as it
        layer[np.abs(layer) < smallest] = -smallest
    if not volume.max() > 0:
        raise NoSurface()
    index, faces, _, _ = measure.marching_cubes(volume, level=0.0, gradient_direction="ascent")
    vertices = lattice.points(index.astype(np.float64) + [along.start for along in surroundings])
    low = lattice.points(np.ones(3))
    high = lattice.points(np.array(lattice.shape, dtype=np.float64))
    return Mesh(np.clip(vertices, low, high), faces.astype(np.int64))


def largest_solid(mesh: Mesh) -> Mesh:
    """The connected piece that encloses the largest volume. Shells inside it go, as do pieces beside it."""
    return solids(mesh, 0.0)[0]


def solids(mesh: Mesh, least_volume: float) -> list[Mesh]:
    """The connected pieces that enclose more than a volume, box units cubed, largest first; without hollows in them.

    Raises NoSurface when there is none.
    """
    piece_of_face = _pieces(mesh)[mesh.faces[:, 0]]
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    # Inner shells wind the other way round: their volume is negative.
    volume = np.bincount(piece_of_face, weights=np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)
    kept = [piece for piece in np.argsort(-volume, kind="stable") if volume[piece] > least_volume]
    if not kept:
        raise NoSurface()
    return [_compact(mesh.vertices, mesh.faces[piece_of_face == piece]) for piece in kept]


def decimate(mesh: Mesh, faces: int, cell: float, half: bool = False) -> Mesh:
    """Fewer faces, the same solid: still closed, manifold, in one piece and without slivers.

    Eyes, nose, mouth and ears keep more of them than the rest (see `lenses`).

    faces: how many to keep; more are kept where that many cannot be reached cleanly.
    cell:  distance of the samples the mesh came from, box units; vertices a small part of it off the cut go back.
    half:  the mesh is closed in x = 0, which is a cut like that of the neck.
    """
    bottom = float(mesh.vertices[:, 1].min())
    lenses = mirrored_below(FACE_LENSES, bottom)  # the cap stays flat, and so costs next to no faces
    enlarged = magnified(mesh.vertices, lenses)
    keep = faces
    for _ in range(DECIMATION_TRIES):
        if keep >= len(mesh.faces):
            break
        vertices, triangles = fast_simplification.simplify(DECIMATION_SCALE * enlarged, mesh.faces, target_count=keep)
        vertices = put_back(vertices / DECIMATION_SCALE, lenses, mesh.vertices, enlarged)
        for axis, cut in ((1, bottom), (0, 0.0)) if half else ((1, bottom),):
            vertices[np.abs(vertices[:, axis] - cut) < ON_CUT * cell, axis] = cut
        try:
            return repair(Mesh(vertices, triangles.astype(np.int64)))
        except NoSurface:
            keep = int(keep * KEEP_MORE)
    return repair(mesh)


def join_mirrored(half: Mesh) -> tuple[Mesh, IntArray | None]:
    """A half with x >= 0, closed in x = 0, becomes a whole: the wall goes and the mirrored half takes its place.

    Returns: the whole, clean as `is_clean` says, and (v,) the mirrored vertex of each, itself in the middle; None where
             the halves did not fit and had to be mended.
    Raises:  NoSurface when they cannot be mended.
    """
    in_wall = (half.vertices[half.faces][..., 0] == 0).all(axis=1)
    half = _compact(half.vertices, half.faces[~in_wall])
    count = len(half.vertices)
    aside = np.flatnonzero(half.vertices[:, 0] != 0)
    partner = np.arange(count)
    partner[aside] = count + np.arange(len(aside))
    whole = Mesh(
        np.concatenate([half.vertices, half.vertices[aside] * [-1, 1, 1]]),
        np.concatenate([half.faces, partner[half.faces][:, ::-1]]),
    )
    if is_clean(whole):
        return whole, np.concatenate([partner, aside])
    return repair(whole), None


def open_neck(mesh: Mesh) -> Mesh:
    """A closed mesh without the cap in its lowest plane: one border loop is left, for joining the head to a body.

    Where the cut shows several pieces, such as strands of hair beside the neck, the largest is opened and the others
    stay closed; a hollow that reached the cut goes. A mesh without a flat bottom is returned as it is.
    """
    bottom = mesh.vertices[:, 1].min()
    cap = np.flatnonzero((mesh.vertices[mesh.faces][..., 1] == bottom).all(axis=1))
    if not len(cap):
        return mesh
    piece = _pieces_by_side(mesh.faces[cap])
    area = np.linalg.norm(_face_crosses(mesh.vertices, mesh.faces[cap]), axis=1)
    largest = np.bincount(piece, weights=area).argmax()
    rest = np.delete(mesh.faces, cap[piece == largest], axis=0)
    # Where the rim touched itself, each side gets a vertex of its own.
    fans, vertex_of_fan = _fans(rest)
    opened = Mesh(mesh.vertices[vertex_of_fan], fans.reshape(-1, 3))
    # A hollow hung together with the head through the cap alone.
    piece = _pieces(opened)
    outside = piece[opened.faces[:, 0]] == piece[border_loops(opened)[0][0]]
    opened = _compact(opened.vertices, opened.faces[outside])
    return _filled(opened.vertices, opened.faces, border_loops(opened)[1:])


def is_clean(mesh: Mesh, openings: int = 0) -> bool:
    """Whether the mesh is one consistently wound, manifold piece without repeated corners, slivers or twin vertices.

    Twins are two vertices at one place: sound as long as nobody joins vertices by their place, as importers do.

    openings: how many rims it has; without any it is closed.
    """
    faces = mesh.faces
    if len(faces) < 4 or (faces == np.roll(faces, 1, axis=1)).any():
        return False
    if len(_odd_edges(faces)) or len(_pinched_vertices(faces)) or len(border_loops(mesh)) != openings:
        return False
    if _pieces(mesh).max(initial=0) > 0 or _slivers(mesh).any():
        return False
    return not len(_twins(mesh))


def repair(mesh: Mesh) -> Mesh:
    """Mend what marching cubes or decimation tangled: cut out the few bad faces and close the holes.

    Returns: the largest solid, clean as `is_clean` says.
    Raises:  NoSurface when it cannot be mended.
    """
    for _ in range(8):  # each round cuts a wider hole around what the round before could not mend
        if is_clean(mesh):
            return mesh
        mesh = _flip_slivers(_drop_collapsed(mesh))
        faces = mesh.faces
        tangled = [_odd_edges(faces).ravel(), _pinched_vertices(faces), faces[_slivers(mesh)].ravel(), _twins(mesh)]
        bad = np.concatenate(tangled)
        keep = ~np.isin(faces, bad).any(axis=1)
        if not keep.any():
            raise NoSurface()
        closed = _close_holes(mesh.vertices, faces[keep])
        if closed is None:
            raise NoSurface()
        mesh = largest_solid(closed)
    raise NoSurface()


def weld(mesh: Mesh) -> tuple[Mesh, IntArray]:
    """One vertex where several lie at the same place, as an unwrapped mesh has on its seams.

    Returns: the mesh with its faces in the same order, and (v,) which of its vertices each old one became.
    """
    vertices, merged = np.unique(mesh.vertices, axis=0, return_inverse=True)
    merged = merged.reshape(-1)
    return Mesh(vertices, merged[mesh.faces]), merged


def vertex_normals(mesh: Mesh) -> FloatArray:
    """(v, 3) unit normals; vertices at the same place share one, so seams do not show.

    Faces are weighted so that normals are exact where corners lie on a sphere, whatever the faces' shapes (Max,
    "Weights for computing vertex normals from facet normals", Journal of Graphics Tools 4(2), 1999).
    """
    whole, merged = weld(mesh)
    corners = whole.vertices[whole.faces]  # (face, corner, 3)
    sides = np.roll(corners, -1, axis=1) - corners
    squared = np.maximum(np.einsum("fci,fci->fc", sides, sides), 1e-30)
    # At a corner meet the side that starts there and the one before.
    pulls = np.cross(sides[:, 0], sides[:, 1])[:, None] / (squared * np.roll(squared, 1, axis=1))[..., None]
    normals = np.stack(
        [np.bincount(whole.faces.ravel(), pulls[..., axis].ravel(), len(whole.vertices)) for axis in range(3)], axis=1
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.where(length > 0, length, 1.0))[merged]


def height_m(mesh: Mesh) -> float:
    """Height of the mesh in metres."""
    return float(np.ptp(mesh.vertices[:, 1]) * METRES_PER_UNIT)


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge joins exactly two faces that wind the same way."""
    return _each_edge_twice(mesh.faces)


def border_loops(mesh: Mesh) -> list[IntArray]:
    """The rims of the mesh's openings, longest first: (n,) vertices each, in order. A closed mesh has none."""
    return sorted(_loops(*_border(mesh.faces)), key=lambda loop: _length(mesh.vertices[loop]), reverse=True)


# --- coarse to fine -------------------------------------------------------------------------------------------------


def _evaluate(
    field: DensityField,
    lattice: Lattice,
    stride: int,
    places: IntArray,
    values: NDArray[np.float32],
    progress: Progress,
) -> None:
    """Fill `values`, a lattice with every stride-th point, at flat indices `places` as far as they lie in the box."""
    for start in range(0, len(places), FIELD_CHUNK):
        progress(start / len(places), "Finding the surface")
        index = np.stack(np.unravel_index(places[start : start + FIELD_CHUNK], values.shape), axis=1)
        at = index * stride
        in_box = ((at >= 1) & (at <= lattice.shape)).all(axis=1)
        index, at = index[in_box], at[in_box]
        density = field.density(lattice.points(at).astype(np.float32))
        values[index[:, 0], index[:, 1], index[:, 2]] = density - field.level


def _refine(
    field: DensityField,
    lattice: Lattice,
    stride: int,
    coarse: NDArray[np.float32],
    coarse_exact: BoolArray,
    progress: Progress,
) -> tuple[NDArray[np.float32], BoolArray]:
    """The lattice with twice as many points, and which of them are exact: those of blocks with the surface in them.

    Elsewhere signs are copied. Where the surface enters such a place later, at a finer lattice, copies must not be
    taken for density: marching cubes would put its vertices beside the surface.
    """
    values = np.empty([2 * size - 1 for size in coarse.shape], dtype=np.float32)
    # At 512^3 each array here has a tenth or a half of a gigabyte, so none is made on the way.
    for start in np.ndindex(2, 2, 2):
        target = values[tuple(slice(first, None, 2) for first in start)]
        target[...] = coarse[tuple(slice(size) for size in target.shape)]
    known = np.zeros(values.shape, dtype=bool)
    known[::2, ::2, ::2] = coarse_exact
    # A block of 3 x 3 x 3 points, which shares its borders, needs its inner points if its corners disagree in sign.
    crossed = np.argwhere(_cells_with_both_signs(coarse > 0))
    split = np.zeros([size - 1 for size in coarse.shape], dtype=bool)
    flat_values, flat_known = values.reshape(-1), known.reshape(-1)
    while len(crossed):
        split[tuple(crossed.T)] = True
        places = _points_of_blocks(crossed, values.shape)
        places = np.unique(places[~flat_known[places]])
        _evaluate(field, lattice, stride, places, values, progress)
        flat_known[places] = True
        # Points that were filled in may have another sign than the rest of a neighbour.
        beside = _neighbours(crossed, split)
        inside = flat_values[_points_of_blocks(beside, values.shape)] > 0
        crossed = beside[inside.any(axis=1) & ~inside.all(axis=1)]
    return values, known


def _cells_with_both_signs(inside: BoolArray) -> BoolArray:
    """Cells of a lattice whose eight corners are not all inside and not all outside; one fewer along each axis."""
    some = every = inside
    for axis in range(3):
        first, second = (np.moveaxis(part, axis, 0) for part in (some, every))
        some = np.moveaxis(first[:-1] | first[1:], 0, axis)
        every = np.moveaxis(second[:-1] & second[1:], 0, axis)
    return some & ~every


def _points_of_blocks(blocks: IntArray, shape: tuple[int, ...]) -> IntArray:
    """(n, 27) flat indices of the points in and on the border of blocks (n, 3); shape is that of the points."""
    offsets = np.ravel_multi_index(tuple(np.indices((3, 3, 3)).reshape(3, -1)), shape)
    return np.ravel_multi_index(tuple(2 * blocks.T), shape)[:, None] + offsets


def _neighbours(blocks: IntArray, without: BoolArray) -> IntArray:
    """(n, 3) the blocks that touch any of `blocks` (m, 3), if only in a corner, and are not marked in `without`."""
    touched = np.zeros(without.shape, dtype=bool)
    last = np.array(without.shape) - 1
    for step in np.ndindex(3, 3, 3):
        touched[tuple(np.clip(blocks + step - 1, 0, last).T)] = True
    return np.argwhere(touched & ~without)


def _surroundings(inside: BoolArray) -> tuple[slice, ...]:
    """The part of a padded volume that holds all points inside, with one layer around them. Raises NoSurface."""
    part = []
    for axis in range(inside.ndim):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        held = np.flatnonzero(inside.any(axis=others))
        if not len(held):
            raise NoSurface()
        part.append(slice(held[0] - 1, held[-1] + 2))
    return tuple(part)


def _steepest_crossing(volume: NDArray[np.float32]) -> np.float32:
    """Largest difference of two samples next to each other along x between which the surface lies, both in the box."""
    steepest = np.float32(0.0)
    for before, after in itertools.pairwise(volume):
        crossed = ((before > 0) != (after > 0)) & (before != OUTSIDE) & (after != OUTSIDE)
        steepest = max(steepest, np.abs(before[crossed] - after[crossed]).max(initial=0.0))
    return steepest


# --- onto the level -------------------------------------------------------------------------------------------------


def _project_onto_level(mesh: Mesh, field: DensityField, lattice: Lattice) -> Mesh:
    """Slide vertices along their normals onto the level set, at most one cell.

    Where that would turn a face over, or bring two vertices to one place, it is not done.

    Vertices on the cuts stay. Decimation leaves vertices up to half a cell beside the surface; this brings them back.
    """
    reach = lattice.cell
    low = lattice.points(np.ones(3)) + ON_CUT * reach
    high = lattice.points(np.array(lattice.shape, dtype=np.float64)) - ON_CUT * reach
    free = np.flatnonzero(((mesh.vertices > low) & (mesh.vertices < high)).all(axis=1))
    start = mesh.vertices[free]
    normals = vertex_normals(mesh)[free]

    def above_level(offset: FloatArray) -> FloatArray:
        points = (start + offset[:, None] * normals).astype(np.float32)
        return np.asarray(field.density(points), dtype=np.float64) - field.level

    # Bracket the level along the normal, then close in by regula falsi; what is not bracketed stays.
    inner, outer = np.full(len(free), -reach), np.full(len(free), reach)
    value_inner, value_outer = above_level(inner), above_level(outer)
    bracketed = (value_inner > 0) & (value_outer < 0)
    offset, value = np.zeros(len(free)), above_level(np.zeros(len(free)))
    for _ in range(PROJECTION_STEPS):
        within = value > 0
        inner, value_inner = np.where(within, offset, inner), np.where(within, value, value_inner)
        outer, value_outer = np.where(within, outer, offset), np.where(within, value_outer, value)
        drop = np.where(bracketed, value_inner - value_outer, 1.0)
        offset = inner + (outer - inner) * np.where(bracketed, value_inner / drop, 0.0)
        value = above_level(offset)
    moved = mesh.vertices.copy()
    moved[free] += np.where(bracketed, offset, 0.0)[:, None] * normals
    moved = np.clip(moved, low - ON_CUT * reach, high + ON_CUT * reach)

    before = _face_crosses(mesh.vertices, mesh.faces)
    # Undoing some vertices may tip a neighbouring face, so look again; with all undone nothing is left to tip.
    while True:
        after = _face_crosses(moved, mesh.faces)
        cosine = np.einsum("ij,ij->i", before, after) / (
            np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1) + 1e-30
        )
        spoilt = (cosine < 0.5) | _slivers(Mesh(moved, mesh.faces))
        undo = np.union1d(mesh.faces[spoilt], _twins(Mesh(moved, mesh.faces)))
        undo = undo[(moved[undo] != mesh.vertices[undo]).any(axis=1)]
        if not len(undo):
            return Mesh(moved, mesh.faces)
        moved[undo] = mesh.vertices[undo]


def folded_faces(mesh: Mesh) -> BoolArray:
    """(f,) the faces that look against their neighbours, three in a closed mesh, as if laid back over them.

    Those of a cap in the mesh's lowest plane look down and are right, however sharp its rim is.
    """
    crosses = _face_crosses(mesh.vertices, mesh.faces)
    normals = crosses / np.maximum(np.linalg.norm(crosses, axis=1, keepdims=True), 1e-30)
    opposite, is_there = _opposite_sides(mesh.faces)
    around = (normals[opposite // 3] * is_there[:, None]).reshape(-1, 3, 3).sum(axis=1)
    in_cap = (mesh.vertices[mesh.faces][..., 1] == mesh.vertices[:, 1].min()).all(axis=1) & (normals[:, 1] < 0)
    return (np.einsum("fi,fi->f", normals, around) < 0) & ~in_cap


def unfold(mesh: Mesh, same_faces: bool = False) -> Mesh:
    """The mesh with the few faces smoothed that decimation laid back over their neighbours, normals inwards.

    Their corners move half way to the mean of the vertices around them, again and again while it helps; those in the
    cut stay in it. What would leave a sliver or bring two vertices to one place is not done. What is folded then is cut
    otherwise: a side is turned or shortened to nothing.

    same_faces: leave the faces as they are.
    """
    bottom = mesh.vertices[:, 1].min()
    for _ in range(UNFOLDING_ROUNDS):
        count = len(mesh.vertices)
        moving = np.zeros(count, dtype=bool)
        moving[mesh.faces[folded_faces(mesh)]] = True
        moving &= mesh.vertices[:, 1] > bottom
        # Around a vertex inside the surface, each neighbour follows it in exactly one face.
        start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
        start, end = start[moving[start]], end[moving[start]]
        beside = np.maximum(np.bincount(start, minlength=count), 1)[:, None]
        means = np.stack([np.bincount(start, mesh.vertices[end, axis], count) for axis in range(3)], axis=1) / beside
        smoothed = mesh
        while moving.any():
            vertices = np.where(moving[:, None], (mesh.vertices + means) / 2, mesh.vertices)
            smoothed = Mesh(vertices, mesh.faces)
            spoilt = np.union1d(smoothed.faces[_slivers(smoothed)], _twins(smoothed))
            if not moving[spoilt].any():
                break
            moving[spoilt] = False
        if not moving.any():
            break
        mesh = smoothed
    return mesh if same_faces else _cut_otherwise(mesh)


def _cut_otherwise(mesh: Mesh) -> Mesh:
    """With fewer folded faces, none if some order of `_other_cuts`, each of them for the better, leads there."""
    folded = folded_faces(mesh)
    better: list[tuple[int, BoolArray, IntArray]] = []
    for face in np.flatnonzero(folded):
        # Only what lies around can change.
        patch = _around(mesh.faces, _around(mesh.faces, mesh.faces[face], len(mesh.vertices)), len(mesh.vertices))
        before = folded_faces(Mesh(mesh.vertices, mesh.faces[patch])).sum()
        place = int(np.count_nonzero(patch[:face]))
        for cut in _other_cuts(Mesh(mesh.vertices, mesh.faces[patch]), place):
            gain = int(before - folded_faces(Mesh(mesh.vertices, cut)).sum())
            if gain > 0:
                better.append((gain, patch, cut))
    best, fewest = mesh, int(folded.sum())
    for _, patch, cut in sorted(better, key=lambda found: -found[0]):
        candidate = _compact(mesh.vertices, np.concatenate([mesh.faces[~patch], cut]))
        if is_clean(candidate):
            further = _cut_otherwise(candidate)
            if (count := int(folded_faces(further).sum())) < fewest:
                best, fewest = further, count
        if fewest == 0:
            break
    return best


def _around(faces: IntArray, chosen: IntArray | BoolArray, count: int) -> BoolArray:
    """(f,) the faces with one of the chosen vertices, or with a vertex of one of the chosen faces (f,)."""
    touched = np.zeros(count, dtype=bool)
    touched[faces[chosen] if chosen.dtype == bool else chosen] = True
    return touched[faces].any(axis=1)


def _other_cuts(mesh: Mesh, face: int) -> Iterator[IntArray]:
    """Faces with one of the sides of a face turned to the other diagonal of its two faces, or shortened to nothing."""
    bottom = mesh.vertices[:, 1].min()
    opposite, _ = _opposite_sides(mesh.faces)
    for side in range(3):
        a, b, c = np.roll(mesh.faces[face], -side)
        beyond, at = divmod(opposite[3 * face + side], 3)
        d = mesh.faces[beyond, (at + 2) % 3]
        turned = mesh.faces.copy()
        turned[face], turned[beyond] = (a, d, c), (d, b, c)
        yield turned
        for kept, lost in ((a, b), (b, a)):
            if mesh.vertices[lost, 1] > bottom or mesh.vertices[kept, 1] == bottom:  # the rim stays in the cut
                faces = _collapse(mesh.faces, kept, lost)
                yield faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def _made_symmetric(mesh: Mesh, partner: IntArray) -> Mesh:
    """The mesh with every vertex of x < 0 exactly opposite its partner (v,), and those in the middle at x = 0.

    Projection gives both halves the same but for rounding.
    """
    vertices = mesh.vertices.copy()
    middle = partner == np.arange(len(partner))
    vertices[middle, 0] = 0.0
    first = np.flatnonzero(partner > np.arange(len(partner)))
    vertices[partner[first]] = vertices[first] * [-1, 1, 1]
    return Mesh(vertices, mesh.faces)


# --- topology -------------------------------------------------------------------------------------------------------


def _compact(vertices: FloatArray, faces: IntArray) -> Mesh:
    """Mesh of these faces without the vertices that none of them uses."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces] = True
    return Mesh(vertices[used], (np.cumsum(used) - 1)[faces].astype(np.int64))


def _face_crosses(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """(f, 3) outward normals as long as twice the face's area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _sides(mesh: Mesh) -> FloatArray:
    """(f, 3) length of the side from each corner to the next."""
    corners = mesh.vertices[mesh.faces]
    return np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)


def _slivers(mesh: Mesh) -> BoolArray:
    """(f,) faces without a usable normal: their height is next to nothing against their longest side."""
    longest = _sides(mesh).max(axis=1)
    return np.linalg.norm(_face_crosses(mesh.vertices, mesh.faces), axis=1) <= SLIVER * longest**2


def _twins(mesh: Mesh) -> IntArray:
    """Vertices that have another one at the same place."""
    return spatial.cKDTree(mesh.vertices).query_pairs(APART, output_type="ndarray").ravel()


def _pieces(mesh: Mesh) -> IntArray:
    """(v,) which connected piece each vertex belongs to, counted from 0."""
    count = len(mesh.vertices)
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, axis=1).ravel()
    graph = sparse.coo_matrix((np.ones(len(start), dtype=bool), (start, end)), shape=(count, count))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _half_edges(faces: IntArray) -> tuple[IntArray, IntArray]:
    """(3f,) keys of the sides of all faces, in the order of the corners, and of the same sides walked backwards."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    base = faces.max(initial=0) + 1
    return start * base + end, end * base + start


def _each_edge_twice(faces: IntArray) -> bool:
    """Whether each side of a face is the side of exactly one other face, walked the other way."""
    forward, backward = _half_edges(faces)
    forward, backward = np.sort(forward), np.sort(backward)
    return bool((np.diff(forward) > 0).all() and (forward == backward).all())


def _odd_edges(faces: IntArray) -> IntArray:
    """(n, 2) sides with more than two faces, or with two that wind differently. Open borders are not odd."""
    forward, _ = _half_edges(faces)
    values, counts = np.unique(forward, return_counts=True)
    base = faces.max(initial=0) + 1
    repeated = values[counts > 1]
    return np.stack([repeated // base, repeated % base], axis=1)


def _pinched_vertices(faces: IntArray) -> IntArray:
    """Vertices whose faces form several fans that touch only there. Sides must be unique (see `_odd_edges`)."""
    vertices, fans = np.unique(_fans(faces)[1], return_counts=True)
    return vertices[fans > 1]


def _opposite_sides(faces: IntArray) -> tuple[IntArray, BoolArray]:
    """(3f,) for each side, in the order of the corners, the same side walked backwards, and whether it is there."""
    forward, backward = _half_edges(faces)
    order = np.argsort(forward)
    opposite = order[np.minimum(np.searchsorted(forward, backward, sorter=order), len(forward) - 1)]
    return opposite, forward[opposite] == backward


def _fans(faces: IntArray) -> tuple[IntArray, IntArray]:
    """(3f,) the fan of each corner, and (fans,) the vertex in the middle of each fan. Sides must be unique."""
    opposite, has_opposite = _opposite_sides(faces)
    corner = np.flatnonzero(has_opposite)
    # A side belongs to its first corner; across it, the same vertex is the corner after the opposite side's.
    across = opposite[has_opposite]
    across = across - across % 3 + (across + 1) % 3
    count = faces.size
    graph = sparse.coo_matrix((np.ones(len(corner), dtype=bool), (corner, across)), shape=(count, count))
    fan_of_corner = sparse.csgraph.connected_components(graph, directed=False)[1]
    vertex_of_fan = np.zeros(fan_of_corner.max(initial=-1) + 1, dtype=np.int64)
    vertex_of_fan[fan_of_corner] = faces.ravel()
    return fan_of_corner, vertex_of_fan


def _pieces_by_side(faces: IntArray) -> IntArray:
    """(f,) which piece each face belongs to, counted from 0; a shared vertex does not join two, a shared side does."""
    opposite, is_there = _opposite_sides(faces)
    side = np.flatnonzero(is_there)
    shape = (len(faces), len(faces))
    graph = sparse.coo_matrix((np.ones(len(side), dtype=bool), (side // 3, opposite[side] // 3)), shape=shape)
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _border(faces: IntArray) -> tuple[IntArray, IntArray]:
    """(n,) start and end of each side without a second face, walked against its face: so does what closes the hole."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    forward, backward = _half_edges(faces)
    open_side = ~np.isin(backward, forward)
    return end[open_side], start[open_side]


def _loops(sources: IntArray, targets: IntArray) -> list[IntArray]:
    """Sides as `_border` gives them, put together to rings of vertices. No vertex may begin two of them."""
    following = dict(zip(sources.tolist(), targets.tolist(), strict=True))
    loops = []
    while following:
        loop = [next(iter(following))]
        while (after := following.pop(loop[-1])) != loop[0]:
            loop.append(after)
        loops.append(np.array(loop))
    return loops


def _drop_collapsed(mesh: Mesh) -> Mesh:
    """Without faces that repeat a corner, and without faces that lie on each other."""
    faces = mesh.faces[(mesh.faces != np.roll(mesh.faces, 1, axis=1)).all(axis=1)]
    _, group, counts = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    return _compact(mesh.vertices, faces[counts[group.reshape(-1)] == 1])


def _flip_slivers(mesh: Mesh) -> Mesh:
    """Turn the longest side of each sliver to the other diagonal of its two faces; needles lose their short side."""
    faces = mesh.faces.copy()
    for sliver in np.flatnonzero(_slivers(mesh)):
        corners = faces[sliver]
        points = mesh.vertices[corners]
        sides = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
        if sides.min() < 10 * SLIVER * sides.max():
            faces = _collapse(faces, *np.roll(corners, -int(np.argmin(sides)))[:2])
            continue
        a, b, c = np.roll(corners, -int(np.argmax(sides)))  # the longest side is a -> b
        has_b, has_a = (faces == b).any(axis=1), (faces == a).any(axis=1)
        beyond = [face for face in np.flatnonzero(has_a & has_b) if face != sliver]
        if len(beyond) != 1:
            continue
        d = next(corner for corner in faces[beyond[0]] if corner not in (a, b))
        if d == c or ((faces == c).any(axis=1) & (faces == d).any(axis=1)).any():
            continue
        faces[sliver] = a, d, c
        faces[beyond[0]] = d, b, c
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    return _compact(mesh.vertices, faces)


def _collapse(faces: IntArray, kept: int, lost: int) -> IntArray:
    """Faces with one vertex merged into another, unless that would fold the surface onto itself.

    The two faces between them are left with a repeated corner, for the caller to drop.
    """
    around_kept = set(faces[(faces == kept).any(axis=1)].ravel().tolist())
    around_lost = set(faces[(faces == lost).any(axis=1)].ravel().tolist())
    if len((around_kept & around_lost) - {kept, lost}) != 2:
        return faces
    return np.where(faces == lost, kept, faces)


def _close_holes(vertices: FloatArray, faces: IntArray) -> Mesh | None:
    """Close each hole by a fan around its middle. None when nothing is left to close."""
    while True:
        sources, targets = _border(faces)
        values, counts = np.unique(sources, return_counts=True)
        if not (counts > 1).any():
            break
        # Two holes meet in a vertex: cut it out, so that they become one.
        faces = faces[~np.isin(faces, values[counts > 1]).any(axis=1)]
        if not len(faces):
            return None
    return _filled(vertices, faces, _loops(sources, targets))


def _length(ring: FloatArray) -> float:
    """Length of a closed line through points (n, 3)."""
    return float(np.linalg.norm(ring - np.roll(ring, -1, axis=0), axis=1).sum())


def _filled(vertices: FloatArray, faces: IntArray, loops: list[IntArray]) -> Mesh:
    """Mesh with a fan in each loop around its middle, or one face where a loop has three sides."""
    new_vertices, new_faces = [vertices], [faces]
    count = len(vertices)
    for ring in loops:
        if len(ring) == 3:
            new_faces.append(ring[None])
            continue
        new_vertices.append(vertices[ring].mean(axis=0, keepdims=True))
        new_faces.append(np.stack([ring, np.roll(ring, -1), np.full(len(ring), count)], axis=1))
        count += 1
    return Mesh(np.concatenate(new_vertices), np.concatenate(new_faces))
