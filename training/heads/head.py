"""One synthetic head: skin, eyes and hair as one triangle mesh with an albedo anywhere on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from . import hair as hair_module
from . import mouth as mouth_module
from .assets import IntArray, linear_from_srgb, sample_texture, scatter_on_mesh
from .beard import Beard, beard_hair, draw_beard
from .eyes import draw_iris, turned, wet_normals
from .glasses import Overlay, draw_glasses
from .hair import HairSolid
from .headwear import Bust, draw_collar, draw_headwear, put_on
from .headwear import collar as collar_points
from .mouth import OpenMouth
from .people import Person, draw_person
from .rays import RayScene, VoxelGrid, closing, fill_holes, grow, solid_voxels
from .rig import BUST, Rig, ramp
from .skin import SkinLook, draw_skin
from .subdivision import vertex_normals

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

GRID = VoxelGrid(128, 0.36)  # a little more than the model's box: 2.9 mm voxels
SKIN, EYE, HAIR, TEETH = 0, 1, 2, 3
TINT_OPACITY, BEARD_OPACITY = 0.75, 0.85  # of hair colour on skin that is tinted in full
LID_ABOVE_END = 0.02  # box units above the rim of the bust
BUZZ_HEIGHT = 0.006  # box units buzzed hair stands out
MOUTH_POINTS = 15_000  # on teeth, to find their voxels
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
    beard: float  # 0 none, .25 a shadow, .5 stubble, 1 more
    beard_style: str  # one of `beard.STYLES` or ''
    iris: str
    headwear: str  # '' for none
    collar: str  # '' for none
    glasses: str  # one of `glasses.SHAPES`, with 'sun_' before it if dark, or ''
    skin_tone: str  # 'light', 'medium' or 'dark' by the typology angle
    ita_deg: float  # individual typology angle of the face's median albedo
    skin_luminance: float  # of the face's median albedo, linear


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
    beard: FloatArray  # share of beard colour on the skin
    beard_colour: FloatArray
    hair_colour: FloatArray
    shirt: FloatArray
    neckline: float  # y of the shirt's edge at the neck
    neckline_slope: float


@dataclass(frozen=True)
class Head:
    """A finished head in the head frame.

    vertices (v, 3), normals (v, 3), faces (f, 3), part (f,) of SKIN, EYE, HAIR, TEETH.
    first_face: of each part; hair and teeth may have none.
    solid: voxels of GRID inside the head, its hair, and pockets closed off from the outside.
    pockets: the voxels of those that are only enclosed air.
    """

    person: Person
    look: Look
    vertices: FloatArray
    normals: FloatArray
    faces: IntArray
    part: IntArray
    first_face: tuple[int, int, int, int]
    scene: RayScene
    solid: BoolArray
    pockets: BoolArray
    paint: SkinPaint
    eye_corner_uv: FloatArray
    iris: FloatArray
    hair: HairSolid | None
    mouth: OpenMouth | None
    overlay: Overlay | None = None  # glasses: in pictures only

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
        on_teeth = part == TEETH
        if on_teeth.any() and self.mouth is not None:
            corner_uv = self.mouth.corner_uv[face[on_teeth] - self.first_face[TEETH]]
            colours[on_teeth] = sample_texture(self.mouth.texture, (corner_uv * weights[on_teeth][..., None]).sum(1))
        if on_hair.any() and self.hair is not None:
            strands = self.hair.colours[self.hair.tree.query(points[on_hair])[1]]
            corners = self.hair.faces[face[on_hair] - self.first_face[HAIR]]
            smooth = (self.hair.vertex_colours[corners] * weights[on_hair][..., None]).sum(1)
            colours[on_hair] = 0.6 * strands + 0.4 * smooth
        return colours

    def materials(self, face: IntArray, weights: FloatArray, points: FloatArray) -> FloatArray:
        """(n, 2) share of hair and of skin in the albedo at the same places; clothes, eyes and teeth are neither."""
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
    grain = sample_texture(_grain(), uv)
    shaved = paint.hair_colour * np.exp(grain * np.clip(1.3 * tint, 0, 1))
    albedo = albedo * (1 - TINT_OPACITY * tint) + 0.9 * TINT_OPACITY * tint * shaved
    beard = share(paint.beard)
    beard = BEARD_OPACITY * np.clip(beard * np.exp(0.8 * grain * (beard < 0.9)), 0, 1)  # hairs stand apart
    albedo = albedo * (1 - beard) + paint.beard_colour * beard
    lash = share(paint.lash_line)
    albedo = albedo * (1 - lash) + LASH_COLOUR * lash
    shirt = _shirt_share(paint, points)
    return albedo * (1 - shirt) + paint.shirt * shirt


def _shirt_share(paint: SkinPaint, points: FloatArray) -> FloatArray:
    """(n, 1) 1 below the neckline."""
    edge = paint.neckline - paint.neckline_slope * (points[:, 2] + 0.05)
    return ramp(0, NECKLINE_SOFTNESS, edge - points[:, 1])[:, None]


def _skin_materials(paint: SkinPaint, face: IntArray, weights: FloatArray, points: FloatArray) -> FloatArray:
    """(n, 2) share of hair (shaved, stubble, roots) and of bare skin."""
    corners = paint.faces[face]
    scalp = TINT_OPACITY * (paint.tint[corners] * weights).sum(1)
    beard = BEARD_OPACITY * np.clip((paint.beard[corners] * weights).sum(1), 0, 1)
    hair = np.maximum(scalp, beard)[:, None]
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
    beard = draw_beard(rig, person, colour, rng)
    skin_look = draw_skin(rig, person, colour, rng)
    texture = skin_look.texture

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
    if beard is not None:
        grown = beard_hair(rig, beard, skin, normals, rng)
        parts += [grown] if grown is not None else []

    if style == "buzz":
        skin = skin + normals * (rig.hairline * BUZZ_HEIGHT * (1 + 0.3 * hair_module.noise(skin, 30, 2, rng)))[:, None]
    if beard is not None:
        skin = skin + normals * beard.lift[:, None]
    eyeballs = turned(frame(rig.eyes.fit(base_vertices)), person.gaze_deg)
    mouth = mouth_module.open_mouth(rig.mouth, base_vertices, frame, skin, rng) if person.shows_teeth else None
    body = _body_voxels(rig, skin, eyeballs, mouth, rng)
    hair = hair_module.solidify(hair_module.join(parts), body, GRID, hairdo.thread) if parts else None
    union = body if hair is None else body | hair.voxels
    solid = _fill_pockets(union)

    iris, iris_texture = draw_iris(rig, person, rng)
    glasses, overlay = draw_glasses(rig, skin, eyeballs, rng)
    forehead = (skin[:, 1] > 0.03) & (skin[:, 1] < 0.07) & (skin[:, 2] > 0.14)
    paint = SkinPaint(
        texture=texture,
        corner_uv=rig.corner_uv,
        faces=rig.faces,
        scalp=rig.scalp,
        bare=np.median(sample_texture(texture, rig.uv[forehead]), axis=0),
        tint=hairdo.tint,
        lash_line=skin_look.lash_strength * rig.lash_line**skin_look.lash_exponent,
        beard=np.zeros(len(skin), np.float32) if beard is None else beard.tint,
        beard_colour=np.zeros(3, np.float32) if beard is None else beard.colour.astype(np.float32),
        hair_colour=colour.astype(np.float32),
        shirt=shirt,
        neckline=neckline,
        neckline_slope=neckline_slope,
    )
    look = _look(style, dye.name, beard, iris, (headwear, collar, glasses), skin_look)
    head = _assemble(rig, person, look, skin, eyeballs, hair, mouth, solid, solid & ~union, paint, iris_texture)
    return replace(head, overlay=overlay)


def _look(
    style: str, hair_colour: str, beard: Beard | None, iris: str, worn: tuple[str, str, str], skin: SkinLook
) -> Look:
    beard_style = "" if beard is None else beard.style
    fullness = {"": 0.0, "shadow": 0.25, "stubble": 0.5}.get(beard_style, 1.0)
    return Look(style, hair_colour, fullness, beard_style, iris, *worn, skin.tone, skin.ita_deg, skin.luminance)


def _assemble(
    rig: Rig,
    person: Person,
    look: Look,
    skin: FloatArray,
    eyeballs: FloatArray,
    hair: HairSolid | None,
    mouth: OpenMouth | None,
    solid: BoolArray,
    pockets: BoolArray,
    paint: SkinPaint,
    iris: FloatArray,
) -> Head:
    empty = (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    meshes = [
        (skin, rig.faces),
        (eyeballs, rig.eye_faces),
        empty if hair is None else (hair.vertices, hair.faces),
        empty if mouth is None else (mouth.vertices, mouth.faces),
    ]
    vertex_starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes[:-1]])
    face_starts = np.cumsum([0] + [len(faces) for _, faces in meshes])
    vertices = np.concatenate([vertices for vertices, _ in meshes]).astype(np.float32)
    normals = [vertex_normals(vertices, faces) if len(faces) else vertices for vertices, faces in meshes]
    normals[EYE] = wet_normals(eyeballs, person.gaze_deg)
    faces = np.concatenate([faces + start for (_, faces), start in zip(meshes, vertex_starts, strict=True)])
    return Head(
        person=person,
        look=look,
        vertices=vertices,
        normals=np.concatenate(normals),
        faces=faces.astype(np.int32),
        part=np.repeat(np.arange(len(meshes)), [len(faces) for _, faces in meshes]),
        first_face=(0, int(face_starts[1]), int(face_starts[2]), int(face_starts[3])),
        scene=RayScene(*_with_lid(vertices, faces)),
        solid=solid,
        pockets=pockets,
        paint=paint,
        eye_corner_uv=rig.eye_corner_uv,
        iris=iris,
        hair=hair,
        mouth=mouth,
    )


def _with_lid(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """The mesh with a lid on the bust's open end: what lies inside the neck must not see the sky through it."""
    x, y, z = vertices.min(0)[0], -BUST + LID_ABOVE_END, 0.5
    lid = np.array([[x, y, -z], [-x, y, -z], [-x, y, z], [x, y, z]])
    first = len(vertices)
    lid_faces = np.array([[0, 1, 2], [0, 2, 3]]) + first
    return np.concatenate([vertices, lid]), np.concatenate([faces, lid_faces])


def _body_voxels(
    rig: Rig, skin: FloatArray, eyeballs: FloatArray, mouth: OpenMouth | None, rng: np.random.Generator
) -> BoolArray:
    """Voxels inside skin and eyeballs, the mouth filled from the lips, or from the teeth if it is open, backwards."""
    solid = solid_voxels(RayScene(skin, rig.faces), GRID)
    x, y, z = np.meshgrid(GRID.centres, GRID.centres, GRID.centres, indexing="ij", sparse=True)
    for side in (1, -1):
        ball = eyeballs[eyeballs[:, 0] * side > 0]
        centre = (ball.max(0) + ball.min(0)) / 2
        radius = np.ptp(ball[:, 0]) / 2
        solid |= (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
    if mouth is not None:
        points, _, _ = scatter_on_mesh(mouth.vertices, mouth.faces, MOUTH_POINTS, rng)
        solid[tuple(GRID.index(points).T)] = True
    # Behind the lips all is head, whatever cavity the mesh has there.
    low, high = GRID.index(np.array([[-0.08, rig.mouth_height - 0.06, -0.04], [0.08, rig.mouth_height + 0.12, 0.24]]))
    behind_lips = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    solid[behind_lips] |= np.maximum.accumulate(solid[behind_lips][..., ::-1], axis=2)[..., ::-1]
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


def _draw_shirt(rng: np.random.Generator) -> FloatArray:
    """(3,) linear RGB."""
    if rng.random() < 0.5:
        shirt = np.array(SHIRTS[rng.integers(len(SHIRTS))])
    else:
        grey = rng.uniform(0.1, 0.8)
        shirt = grey + rng.normal(0, 0.12, 3)
    return linear_from_srgb(np.clip(shirt * rng.uniform(0.7, 1.05), 0.02, 0.95).astype(np.float32))
