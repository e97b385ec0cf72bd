"""One synthetic head: skin, eyes and hair as one triangle mesh with an albedo anywhere on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from . import hair as hair_module
from .assets import IntArray, linear_from_srgb, sample_texture
from .hair import HairSolid
from .headwear import Bust, draw_collar, draw_headwear, put_on
from .headwear import collar as collar_points
from .people import Person, draw_person
from .rays import RayScene, VoxelGrid, closing, fill_holes, grow, solid_voxels
from .rig import BUST, Rig, ramp
from .skin import skin_texture
from .subdivision import vertex_normals

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

GRID = VoxelGrid(128, 0.36)  # a little more than the model's box: 2.9 mm voxels
SKIN, EYE, HAIR = 0, 1, 2
TINT_OPACITY = 0.75  # of hair colour on skin that is tinted in full
LID_ABOVE_END = 0.02  # box units above the rim of the bust
BUZZ_HEIGHT = 0.006  # box units buzzed hair stands out
EYE_WHITE = np.array([0.62, 0.60, 0.58], np.float32)  # photographed whites are lit; this is their albedo
LASH_COLOUR = np.array([0.02, 0.015, 0.012])
NECKLINE_SOFTNESS = 0.006  # box units
SHIRTS = (  # sRGB; white, black, navy, red, green and grey are half of all portraits' clothes
    (0.9, 0.9, 0.9),
    (0.1, 0.1, 0.12),
    (0.15, 0.2, 0.35),
    (0.5, 0.1, 0.1),
    (0.35, 0.4, 0.35),
    (0.6, 0.6, 0.65),
)


@dataclass(frozen=True)
class Look:
    """What was chosen for a head besides the person; saved with the data."""

    style: str
    hair_colour: str
    beard: float  # 0 none, .25 and .5 stubble, 1 full
    iris: str
    headwear: str  # '' for none
    collar: str  # '' for none


@dataclass(frozen=True)
class SkinPaint:
    """What skin albedo needs: per-vertex shares (v,) of the rig's bust, colours in linear RGB."""

    texture: FloatArray
    corner_uv: FloatArray
    faces: IntArray
    scalp: FloatArray  # where painted stubble is evened out
    bare: FloatArray  # skin colour put there
    tint: FloatArray  # share of hair colour on the skin: shaved hair, stubble, roots
    lash_line: FloatArray
    hair_colour: FloatArray
    shirt: FloatArray
    neckline: float  # y of the shirt's edge at the neck
    neckline_slope: float


@dataclass(frozen=True)
class Head:
    """A finished head in the head frame.

    vertices (v, 3), normals (v, 3), faces (f, 3), part (f,) of SKIN, EYE, HAIR.
    first_face, first_vertex: of each part; hair may have none.
    solid: voxels of GRID inside the head, its hair, and pockets closed off from the outside.
    pockets: the voxels of those that are only enclosed air.
    """

    person: Person
    look: Look
    vertices: FloatArray
    normals: FloatArray
    faces: IntArray
    part: IntArray
    first_face: tuple[int, int, int]
    scene: RayScene
    solid: BoolArray
    pockets: BoolArray
    paint: SkinPaint
    eye_corner_uv: FloatArray
    iris: FloatArray
    hair: HairSolid | None
    overlay: Any = None

    def albedo(self, face: IntArray, weights: FloatArray, points: FloatArray) -> FloatArray:
        """(n, 3) linear RGB at points (n, 3) of faces (n,) with barycentric weights (n, 3)."""
        colours = np.zeros((len(face), 3), np.float32)
        part = self.part[face]
        on_skin, on_eye, on_hair = part == SKIN, part == EYE, part == HAIR
        if on_skin.any():
            colours[on_skin] = _skin_albedo(self.paint, face[on_skin], weights[on_skin], points[on_skin])
        if on_eye.any():
            corner_uv = self.eye_corner_uv[face[on_eye] - self.first_face[EYE]]
            colours[on_eye] = sample_texture(self.iris, (corner_uv * weights[on_eye][..., None]).sum(1))
        if on_hair.any() and self.hair is not None:
            strands = self.hair.colours[self.hair.tree.query(points[on_hair])[1]]
            corners = self.hair.faces[face[on_hair] - self.first_face[HAIR]]
            smooth = (self.hair.vertex_colours[corners] * weights[on_hair][..., None]).sum(1)
            colours[on_hair] = 0.6 * strands + 0.4 * smooth
        return colours

    def materials(self, face: IntArray, weights: FloatArray, points: FloatArray) -> FloatArray:
        """(n, 2) share of hair and of skin in the albedo at the same places; clothes and eyes are neither."""
        shares = np.zeros((len(face), 2), np.float32)
        part = self.part[face]
        on_skin, on_hair = part == SKIN, part == HAIR
        shares[on_skin] = _skin_materials(self.paint, face[on_skin], weights[on_skin], points[on_skin])
        if on_hair.any() and self.hair is not None:
            corners = self.hair.faces[face[on_hair] - self.first_face[HAIR]]
            shares[on_hair, 0] = (self.hair.vertex_hair_share[corners] * weights[on_hair]).sum(1)
        return shares


def _skin_albedo(paint: SkinPaint, face: IntArray, weights: FloatArray, points: FloatArray) -> FloatArray:
    uv = (paint.corner_uv[face] * weights[..., None]).sum(1)
    corners = paint.faces[face]

    def share(per_vertex: FloatArray) -> FloatArray:
        return (per_vertex[corners] * weights).sum(1)[:, None]

    albedo = sample_texture(paint.texture, uv)
    albedo = albedo + (paint.bare - albedo) * 0.95 * share(paint.scalp)
    tint = share(paint.tint)
    grain = np.exp(sample_texture(_grain(), uv) * np.clip(1.3 * tint, 0, 1))
    albedo = albedo * (1 - TINT_OPACITY * tint) + 0.9 * paint.hair_colour * TINT_OPACITY * tint * grain
    lash = 0.8 * share(paint.lash_line)
    albedo = albedo * (1 - lash) + LASH_COLOUR * lash
    shirt = _shirt_share(paint, points)
    return albedo * (1 - shirt) + paint.shirt * shirt


def _shirt_share(paint: SkinPaint, points: FloatArray) -> FloatArray:
    """(n, 1) 1 below the neckline."""
    edge = paint.neckline - paint.neckline_slope * (points[:, 2] + 0.05)
    return ramp(0, NECKLINE_SOFTNESS, edge - points[:, 1])[:, None]


def _skin_materials(paint: SkinPaint, face: IntArray, weights: FloatArray, points: FloatArray) -> FloatArray:
    """(n, 2) share of hair (shaved, stubble, roots) and of bare skin."""
    hair = TINT_OPACITY * (paint.tint[paint.faces[face]] * weights).sum(1)[:, None]
    return np.concatenate([hair, 1 - hair], 1) * (1 - _shirt_share(paint, points))


@lru_cache(maxsize=1)
def _grain() -> FloatArray:
    """(1024, 1024, 1) log brightness of shaved hair: fine dots and soft patches."""
    rng = np.random.default_rng(5)
    fine, soft = (ndi.gaussian_filter(rng.normal(size=(1024, 1024)), sd) for sd in (1.0, 6.0))
    return (0.30 * fine / fine.std() + 0.12 * soft / soft.std()).astype(np.float32)[..., None]


def build_head(
    rig: Rig,
    rng: np.random.Generator,
    style: str | None = None,
    headwear: str | None = None,
    collar: str | None = None,
) -> Head:
    """A head at random; `style`, `headwear` and `collar` force one of `hair.STYLES`, `HEADWEAR` and `COLLARS`."""
    person = draw_person(rig.body.slider_names, rng)
    base_vertices = rig.body.vertices(person)
    frame = rig.body.head_frame(base_vertices)
    skin = rig.subdivide(frame(base_vertices))
    normals = vertex_normals(skin, rig.faces)
    drawn_style = hair_module.draw_style(person, rng)
    style = style or drawn_style
    dye = hair_module.draw_dye(person, rng)
    colour = dye.base
    beard = float(rng.choice([0, 0.25, 0.5, 1], p=[0.42, 0.25, 0.15, 0.18])) if person.is_male else 0.0
    texture = skin_texture(rig, person, colour, rng)

    drawn_headwear, drawn_collar = draw_headwear(person.is_male, rng), draw_collar(person.is_male, rng)
    headwear = drawn_headwear if headwear is None else headwear
    collar = drawn_collar if collar is None else collar
    if headwear == "headscarf":
        collar = ""  # it covers the neck
    shirt, neckline, neckline_slope = _draw_shirt(rng), rng.uniform(-0.335, -0.27), rng.uniform(0.2, 0.7)
    bust, parts, padding = Bust(rig, skin, normals), [], np.zeros(len(skin), np.float32)
    if collar:
        cloth, padding = collar_points(collar, bust, neckline, neckline_slope, shirt, rng)
        parts.append(cloth)
    hairdo = hair_module.dress(rig, style, base_vertices, frame, skin, normals, padding, dye, rng)
    strands = hairdo.points
    if headwear:
        cloth, strands = put_on(headwear, strands, bust, rng)
        parts.append(cloth)
    if strands is not None:
        parts.append(strands)
    if beard == 1:
        parts.append(hair_module.full_beard(rig, skin, normals, colour, rng))

    tint = _hair_tint(rig, skin, hairdo.tint, beard, rng)
    if style == "buzz":
        skin = skin + normals * (rig.hairline * BUZZ_HEIGHT * (1 + 0.3 * hair_module.noise(skin, 30, 2, rng)))[:, None]
    eyeballs = frame(rig.eyes.fit(base_vertices))
    body = _body_voxels(rig, skin, eyeballs)
    hair = hair_module.solidify(hair_module.join(parts), body, GRID, hairdo.thread) if parts else None
    union = body if hair is None else body | hair.voxels
    solid = _fill_pockets(union)

    iris = _draw_iris(rig, person, rng)
    forehead = (skin[:, 1] > 0.03) & (skin[:, 1] < 0.07) & (skin[:, 2] > 0.14)
    paint = SkinPaint(
        texture=texture,
        corner_uv=rig.corner_uv,
        faces=rig.faces,
        scalp=rig.scalp,
        bare=np.median(sample_texture(texture, rig.uv[forehead]), axis=0),
        tint=tint,
        lash_line=rig.lash_line,
        hair_colour=colour.astype(np.float32),
        shirt=shirt,
        neckline=neckline,
        neckline_slope=neckline_slope,
    )
    look = Look(style, dye.name, beard, iris, headwear, collar)
    return _assemble(rig, person, look, skin, eyeballs, hair, solid, solid & ~union, paint)


def _assemble(
    rig: Rig,
    person: Person,
    look: Look,
    skin: FloatArray,
    eyeballs: FloatArray,
    hair: HairSolid | None,
    solid: BoolArray,
    pockets: BoolArray,
    paint: SkinPaint,
) -> Head:
    meshes = [(skin, rig.faces), (eyeballs, rig.eye_faces)]
    if hair is not None:
        meshes.append((hair.vertices, hair.faces))
    vertex_starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes[:-1]])
    face_starts = np.cumsum([0] + [len(faces) for _, faces in meshes])
    vertices = np.concatenate([vertices for vertices, _ in meshes]).astype(np.float32)
    faces = np.concatenate([faces + start for (_, faces), start in zip(meshes, vertex_starts, strict=True)])
    return Head(
        person=person,
        look=look,
        vertices=vertices,
        normals=np.concatenate([vertex_normals(vertices, faces) for vertices, faces in meshes]),
        faces=faces.astype(np.int32),
        part=np.repeat(np.arange(len(meshes)), [len(faces) for _, faces in meshes]),
        first_face=(0, int(face_starts[1]), int(face_starts[2])),
        scene=RayScene(*_with_lid(vertices, faces)),
        solid=solid,
        pockets=pockets,
        paint=paint,
        eye_corner_uv=rig.eye_corner_uv,
        iris=rig.irises[look.iris] * EYE_WHITE,
        hair=hair,
    )


def _with_lid(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """The mesh with a lid on the bust's open end: what lies inside the neck must not see the sky through it."""
    x, y, z = vertices.min(0)[0], -BUST + LID_ABOVE_END, 0.5
    lid = np.array([[x, y, -z], [-x, y, -z], [-x, y, z], [x, y, z]])
    first = len(vertices)
    lid_faces = np.array([[0, 1, 2], [0, 2, 3]]) + first
    return np.concatenate([vertices, lid]), np.concatenate([faces, lid_faces])


def _hair_tint(rig: Rig, skin: FloatArray, scalp: FloatArray, beard: float, rng: np.random.Generator) -> FloatArray:
    """(v,) how much hair colour shows on the skin."""
    patchy = np.clip(0.5 + 0.5 * hair_module.noise(skin, 9, 3, rng), 0, 1)
    tint = scalp
    if beard > 0:
        tint = np.maximum(tint, rig.beard * min(beard, 0.5) * 1.1 * (0.6 + 0.4 * patchy))
    if beard == 1:
        tint = np.maximum(tint, rig.beard * 0.6)
    return tint


def _body_voxels(rig: Rig, skin: FloatArray, eyeballs: FloatArray) -> BoolArray:
    """Voxels inside skin and eyeballs, the mouth filled: the body's mesh goes in at the lips and around the eyes."""
    solid = solid_voxels(RayScene(skin, rig.faces), GRID)
    x, y, z = np.meshgrid(GRID.centres, GRID.centres, GRID.centres, indexing="ij", sparse=True)
    for side in (1, -1):
        ball = eyeballs[eyeballs[:, 0] * side > 0]
        centre = (ball.max(0) + ball.min(0)) / 2
        radius = np.ptp(ball[:, 0]) / 2
        solid |= (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
    # Behind the lips all is head, whatever cavity the mesh has there.
    low, high = GRID.index(np.array([[-0.08, rig.mouth_height - 0.06, -0.04], [0.08, rig.mouth_height + 0.12, 0.24]]))
    mouth = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    solid[mouth] |= np.maximum.accumulate(solid[mouth][..., ::-1], axis=2)[..., ::-1]
    return fill_holes(solid)


def _fill_pockets(solid: BoolArray) -> BoolArray:
    """Fill air nobody can see: enclosed but for pinholes, or ringed by hair and neck in a level slice."""
    sealed = closing(np.pad(solid, 3), 2)[3:-3, 3:-3, 3:-3] | solid
    filled = fill_holes(sealed)
    lowest = GRID.index(np.array([[0, -0.10, 0]]))[0, 1]  # above the jaw, slices cut through ears and mouth
    for level in range(lowest):
        filled[:, level] = fill_holes(filled[:, level])
    enclosed = grow(filled & ~sealed, 3)  # back to the walls that sealing thickened
    return solid | (enclosed & filled)


def _draw_iris(rig: Rig, person: Person, rng: np.random.Generator) -> str:
    if person.origin[2] > 0.5:
        return str(rng.choice(list(rig.irises)))
    return str(rng.choice(["brown", "brown", "brownlight"]))


def _draw_shirt(rng: np.random.Generator) -> FloatArray:
    """(3,) linear RGB."""
    if rng.random() < 0.5:
        shirt = np.array(SHIRTS[rng.integers(len(SHIRTS))])
    else:
        grey = rng.uniform(0.1, 0.8)
        shirt = grey + rng.normal(0, 0.12, 3)
    return linear_from_srgb(np.clip(shirt * rng.uniform(0.7, 1.05), 0.02, 0.95).astype(np.float32))
