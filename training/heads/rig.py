"""What is the same for every head, computed once: topology, UVs, painted regions, skins, brows, hair proxies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import scipy.sparse as sp
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from .assets import (
    IntArray,
    Proxy,
    linear_from_srgb,
    read_proxy,
    read_texture,
    sample_texture,
    scatter_on_mesh,
)
from .body import MASK_TEXTURES, BodyModel, HeadFrame
from .mouth import MouthParts, read_mouth
from .subdivision import loop_subdivision, neighbour_mean, subdivide_corners

FloatArray = NDArray[np.floating]

BUST = 0.72  # box units: what of the body is kept sideways and downwards; well outside every picture
SKIN_SIZE, HAIR_SIZE, BROW_SIZE, EYE_SIZE = 1024, 1024, 1024, 512  # texels
FULL_RESOLUTION = 1024  # source texels; the skins below are photographs too small to be of use
SHORT_HAIR = ("short01", "short02", "short03", "short04", "bob01", "long01")  # their common footprint is the scalp
BROW_REACH = 0.012  # box units between a brow card and the skin it is printed on

# Height of the hairline (box units) at each depth z, from behind over the ear to the forehead, on the mean head.
HAIRLINE_Z = (-0.3, -0.14, -0.10, -0.06, -0.035, -0.01, 0.02, 0.045, 0.07, 0.10, 0.13, 0.2)
HAIRLINE_Y = (-0.17, -0.17, -0.16, -0.11, -0.03, -0.045, -0.06, 0.02, 0.055, 0.085, 0.105, 0.11)
CHEEK = np.array([0.078, -0.085, 0.15])  # box units, where blood shows
IRIS_TEXELS = 60.0  # radius of the iris in its texture


def ramp(start: float, end: float, values: FloatArray) -> FloatArray:
    """0 at `start`, 1 at `end`, straight between; start may be the larger."""
    return np.clip((values - start) / (end - start), 0, 1)


@dataclass(frozen=True)
class Skin:
    """A photographed skin: `pixels` (s, s, 3) uint8 sRGB."""

    pixels: NDArray[np.uint8]
    is_full_resolution: bool


@dataclass(frozen=True)
class Rig:
    """The subdivided bust of the mean head and everything attached to it.

    base_faces:   (f, 3) faces of the bust into base vertices.
    used:         base vertices of the bust; `subdivide` multiplies their positions.
    faces:        (4 f, 3) of the subdivided bust; corner_uv (4 f, 3, 2).
    rest:         (v, 3) the mean head in the head frame; uv (v, 2).
    lips, ears, inside_mouth: (v,) painted regions, 0..1.
    lip_opacity, mouth_texture: (1024, 1024) lips and the inside of the mouth in the skin's UV space.
    face_vertices: vertices of face and ears' front, where spots are; cheeks_and_brow: bare skin that tells the tone.
    cheek_middles, nose_tip: single vertices. spread: (v, v) mean of each vertex's neighbours.
    mouth:        teeth, and the rims of the lips.
    scalp:        (v,) where hair proxies cover the head.
    hairline:     (v,) where strands grow; above_hairline (v,) height over it, box units.
    lash_line:    (v,) dark rim of the lids.
    mouth_height: y of the mouth, head frame.
    skins:        by (age group, origin, gender name); brows: UV-space opacity; irises: linear RGB, is_iris (512, 512).
    hair_cards:   proxies and their RGBA textures by name.
    """

    body: BodyModel
    used: IntArray
    subdivision: sp.csr_matrix
    faces: IntArray
    corner_uv: FloatArray
    rest: FloatArray
    uv: FloatArray
    lips: FloatArray
    ears: FloatArray
    inside_mouth: FloatArray
    scalp: FloatArray
    hairline: FloatArray
    above_hairline: FloatArray
    lash_line: FloatArray
    lip_opacity: FloatArray
    mouth_texture: FloatArray
    face_vertices: IntArray
    cheeks_and_brow: IntArray
    cheek_middles: tuple[int, int]
    nose_tip: int
    spread: sp.csr_matrix
    mouth: MouthParts
    mouth_height: float
    skins: dict[tuple[str, str, str], list[Skin]]
    brows: dict[str, FloatArray]
    eyes: Proxy
    eye_faces: IntArray
    eye_corner_uv: FloatArray
    irises: dict[str, FloatArray]
    is_iris: NDArray[np.bool_]
    hair_cards: dict[str, tuple[Proxy, FloatArray]]

    def subdivide(self, base_points: FloatArray) -> FloatArray:
        """(v, 3) smooth bust from (19158, 3) base vertices."""
        return (self.subdivision @ base_points[self.used]).astype(np.float32)


def load_rig(assets: Path) -> Rig:
    """Read all assets and prepare the mean head; about 15 s. `assets` holds `makehuman` and ICT-FaceKit's files."""
    makehuman = assets / "makehuman"
    body = BodyModel(assets)
    frame = body.head_frame(body.mean)
    mean = frame(body.mean)
    kept = (mean[body.faces][:, :, 1] > -BUST).all(1) & (np.abs(mean[body.faces][:, :, 0]) < BUST).all(1)
    base_faces = body.faces[kept]
    used, compact = np.unique(base_faces, return_inverse=True)
    subdivision, faces = loop_subdivision(compact.reshape(-1, 3), len(used))
    corner_uv = subdivide_corners(body.base.uv[body.uv_faces[kept]])
    rest = (subdivision @ mean[used]).astype(np.float32)
    uv = np.zeros((len(rest), 2), np.float32)
    uv[faces.ravel()] = corner_uv.reshape(-1, 2)
    painted = {name: sample_texture(body.mask_texture(file), uv)[:, 0] for name, file in MASK_TEXTURES.items()}

    eyes = read_proxy(makehuman / "eyes" / "high-poly" / "high-poly.mhclo")
    irises = {
        path.stem.removesuffix("_eye"): read_texture(path, EYE_SIZE, "RGBA")
        for path in sorted((makehuman / "eyes").glob("*_eye.webp"))
    }
    # The eye proxy has a transparent cornea over the ball: its texels have no alpha.
    middles = eyes.mesh.uv[eyes.mesh.uv_faces].mean(1)
    is_ball = sample_texture(irises["brown"][..., 3:], middles)[:, 0] > 0.5

    hair = {
        path.stem: (read_proxy(path), read_texture(path.parent / f"{path.stem}_diffuse.webp", HAIR_SIZE, "RGBA"))
        for path in sorted((makehuman / "hair").glob("*/*.mhclo"))
    }
    above_hairline = rest[:, 1] - np.interp(rest[:, 2], HAIRLINE_Z, HAIRLINE_Y)
    mouth_height = float(rest[painted["lips"] > 0.5, 1].mean())
    is_bare = (painted["lips"] < 0.1) & (painted["inside_mouth"] < 0.1)
    return Rig(
        body=body,
        used=used,
        subdivision=subdivision,
        faces=faces,
        corner_uv=corner_uv,
        rest=rest,
        uv=uv,
        scalp=_scalp(rest, faces, body, frame, hair, painted["ears"]),
        above_hairline=above_hairline,
        hairline=ramp(-0.01, 0.01, above_hairline) * (1 - np.clip(painted["ears"] * 3, 0, 1)),
        lash_line=_lash_line(rest, frame(eyes.fit(body.mean))),
        lip_opacity=_enlarged(body.mask_texture(MASK_TEXTURES["lips"])),
        mouth_texture=ramp(0.35, 0.8, _enlarged(body.mask_texture(MASK_TEXTURES["inside_mouth"]))),
        face_vertices=np.flatnonzero((rest[:, 2] > 0.06) & (rest[:, 1] < 0.10) & (rest[:, 1] > -0.26) & is_bare),
        cheeks_and_brow=np.flatnonzero(
            (rest[:, 2] > 0.12) & (rest[:, 1] < 0.07) & (rest[:, 1] > -0.12) & (np.abs(rest[:, 0]) < 0.1) & is_bare
        ),
        cheek_middles=(_nearest(rest, is_bare, CHEEK), _nearest(rest, is_bare, CHEEK * np.array([-1.0, 1, 1]))),
        nose_tip=int(np.argmax(rest[:, 2])),
        spread=neighbour_mean(faces, len(rest)).astype(np.float32),
        mouth=read_mouth(makehuman / "teeth", rest, painted["inside_mouth"], painted["lips"]),
        mouth_height=mouth_height,
        skins=_read_skins(makehuman / "skins"),
        brows=_print_brows(makehuman / "eyebrows", body, frame, rest, faces, corner_uv),
        eyes=eyes,
        eye_faces=eyes.mesh.faces[is_ball],
        eye_corner_uv=eyes.mesh.uv[eyes.mesh.uv_faces[is_ball]],
        irises={name: linear_from_srgb(texture[..., :3]) for name, texture in irises.items()},
        is_iris=_iris_texels(eyes, irises["brown"]),
        hair_cards=hair,
        **painted,
    )


def _scalp(
    rest: FloatArray,
    faces: IntArray,
    body: BodyModel,
    frame: HeadFrame,
    hair: dict[str, tuple[Proxy, FloatArray]],
    ears: FloatArray,
) -> FloatArray:
    """(v,) where short hair lies on the head; skins carry painted stubble there, which is evened out."""
    covered = np.zeros(len(rest))
    for name in SHORT_HAIR:
        proxy = hair[name][0]
        cards, _, _ = scatter_on_mesh(frame(proxy.fit(body.mean)), proxy.mesh.faces, 40_000, np.random.default_rng(0))
        distance, _ = cKDTree(cards).query(rest)
        covered += np.clip(1.5 - distance / 0.02, 0, 1)
    skin_free = 1 - np.clip(ears * 2, 0, 1)
    core = ramp(0.25, 0.7, covered / len(SHORT_HAIR)) * (rest[:, 1] > -0.25) * skin_free
    core = np.maximum(core, ((rest[:, 1] > 0.12) & (rest[:, 2] < 0.10)).astype(float))
    spread = neighbour_mean(faces, len(rest))
    wide = np.clip(core * 3, 0, 1)
    for _ in range(14):  # grow over the rim of the painted stubble
        wide = np.maximum(wide, 0.97 * (spread @ wide))
    # The photographs end on the neck, with an edge: behind and below the ears all is one colour.
    behind = ramp(0.06, 0.0, rest[:, 2]) * skin_free
    wide = np.maximum(wide, behind)
    on_face = (rest[:, 2] > 0.09) & (rest[:, 1] < 0.08)
    wide = np.where(on_face, np.minimum(wide, np.clip(core * 2, 0, 1)), wide)
    for _ in range(6):
        wide = 0.5 * wide + 0.5 * (spread @ wide)
    return wide.astype(np.float32)


def _enlarged(mask: FloatArray) -> FloatArray:
    """(1024, 1024) from a painted mask."""
    return ndi.zoom(mask[..., 0], SKIN_SIZE / mask.shape[0], order=1).astype(np.float32)


def _nearest(rest: FloatArray, among: NDArray[np.bool_], point: FloatArray) -> int:
    candidates = np.flatnonzero(among)
    return int(candidates[np.argmin(np.linalg.norm(rest[candidates] - point, axis=1))])


def _iris_texels(eyes: Proxy, texture: FloatArray) -> NDArray[np.bool_]:
    """(512, 512) discs about the two darkest spots, which are the pupils."""
    dark = ndi.gaussian_filter((texture[..., :3].mean(2) < 0.1) & (texture[..., 3] > 0.5), 2.0, output=np.float32)
    spots, count = ndi.label(dark > 0.5)
    sizes = np.bincount(spots.ravel(), minlength=count + 1)[1:]
    row, column = np.mgrid[:EYE_SIZE, :EYE_SIZE]
    is_iris = np.zeros((EYE_SIZE, EYE_SIZE), bool)
    for spot in np.argsort(sizes)[-2:] + 1:
        y, x = ndi.center_of_mass(spots == spot)
        is_iris |= np.hypot(row - y, column - x) < IRIS_TEXELS
    return is_iris


def _lash_line(rest: FloatArray, eyeballs: FloatArray) -> FloatArray:
    """(v,) lid rims, stronger above: they touch the eyeballs."""
    distance, _ = cKDTree(eyeballs).query(rest)
    upper = rest[:, 1] > -0.022  # just below the eyes' centres
    return (np.clip(1.35 - distance / 0.0075, 0, 1) * np.where(upper, 1, 0.35) * (rest[:, 2] > 0.12)).astype(np.float32)


def _read_skins(folder: Path) -> dict[tuple[str, str, str], list[Skin]]:
    skins: dict[tuple[str, str, str], list[Skin]] = {}
    for path in sorted(folder.glob("*/*.webp")):
        age, origin, gender = path.parent.name.split("_")
        pixels = (read_texture(path, SKIN_SIZE) * 255 + 0.5).astype(np.uint8)
        skins.setdefault((age, origin, gender), []).append(Skin(pixels, _side(path) > FULL_RESOLUTION))
    return skins


def _side(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def _print_brows(
    folder: Path, body: BodyModel, frame: HeadFrame, rest: FloatArray, faces: IntArray, corner_uv: FloatArray
) -> dict[str, FloatArray]:
    """(1024, 1024) opacity of each pair of brows in the skin's UV space, printed from their cards."""
    brow_height = 0.03  # box units above the head frame's origin
    middles = rest[faces].mean(1)
    band = np.flatnonzero((np.abs(middles[:, 1] - brow_height) < 0.06) & (middles[:, 2] > 0.10))
    skin, chosen, weights = scatter_on_mesh(rest, faces[band], 300_000, np.random.default_rng(2))
    uv = (corner_uv[band[chosen]] * weights[..., None]).sum(1)
    column = np.clip((uv[:, 0] * BROW_SIZE).astype(int), 0, BROW_SIZE - 1)
    row = np.clip(((1 - uv[:, 1]) * BROW_SIZE).astype(int), 0, BROW_SIZE - 1)
    blank = np.zeros((BROW_SIZE, BROW_SIZE), np.float32)
    drawn = blank.copy()
    np.add.at(drawn, (row, column), 1)
    drawn = np.maximum(ndi.gaussian_filter(drawn, 0.6), 1e-3)
    brows = {}
    for path in sorted(folder.glob("*/*.mhclo")):
        proxy = read_proxy(path)
        texture = read_texture(path.with_suffix(".webp"), 512, "RGBA")
        cards = frame(proxy.fit(body.mean))
        points, face, bary = scatter_on_mesh(cards, proxy.mesh.faces, 60_000, np.random.default_rng(1))
        opacity = sample_texture(texture, (proxy.mesh.uv[proxy.mesh.uv_faces[face]] * bary[..., None]).sum(1))[:, 3]
        distance, nearest = cKDTree(points).query(skin, distance_upper_bound=BROW_REACH)
        near = np.isfinite(distance)
        ink = blank.copy()
        np.add.at(ink, (row[near], column[near]), opacity[nearest[near]])
        brows[path.stem] = ndi.gaussian_filter(ink, 0.6) / drawn
    return brows
