"""How near a reconstructed head comes to the synthetic head it was made from.

Shapes are compared above the neck cut: below it the user gets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.color import deltaE_ciede2000, rgb2lab

from inference.camera import Camera, project
from inference.face_networks import FaceNetworks
from inference.raster import rasterise_view
from inference.silhouette import ColouredField
from inference.surface import NECK_CUT_Y, Mesh

from .dataset import colours_in_view
from .ghost_face import BACK_CAMERA, PICTURE_SIZE, shows_face

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

MADE_SAMPLES = 120_000  # surface points, against all true ones: chance alone is a Chamfer of .4 to .5 %, not .6
ABOVE_CUT = 0.01  # box units: the cut's own flat cap is not compared
HEAD_MM = 240.0  # from chin to crown
CHIN_Y, BROW_Y = -0.242, 0.02  # head frame: the mean face's chin and the upper edge of its brows
FACE_HALF_WIDTH, FACE_Z = 0.11, 0.08  # |x| below and z above are the face: before the cheeks' sides and the ears
# No hair: fringes and beards are told from skin by colour, which must be this near the middle of the face's, CIEDE2000.
MIDDLE_HALF_WIDTH, MIDDLE_Y = 0.06, (-0.12, -0.04)  # nose and cheeks
SKIN_DIFFERENCE = 25.0
SEEN_SLACK = 0.03  # box units behind the view's depth that count as seen
GRAZING_COSINE = 0.05  # closer to grazing, a pixel holds more than one surface
BACKGROUND = 0.5  # grey around a drawn head


@dataclass(frozen=True)
class Cloud:
    """Points (n, 3) on a surface, head frame, with unit normals (n, 3) pointing out."""

    points: FloatArray
    normals: FloatArray


@dataclass(frozen=True)
class Matched:
    """Each point's nearest of the other cloud: n true points and m made ones.

    to_made, nearest_made: (n,) distance from each true point, and index of the made point there.
    to_truth, nearest_true: (m,) the other way round.
    """

    to_made: FloatArray
    nearest_made: NDArray[np.integer]
    to_truth: FloatArray
    nearest_true: NDArray[np.integer]


@dataclass(frozen=True)
class HeadMeasures:
    """Figures of one head from one view; NaN where a side has no points.

    chamfer, chamfer_visible, chamfer_hidden: mean of both directions, percent of the head's height from chin to crown.
    normals:                    mean absolute cosine of true and nearest made normals.
    iou, iou_box:               of the solids above the neck cut, and in the whole box.
    face_mm:                    median distance of the true face from the made surface, heads being HEAD_MM high.
    l1_*, psnr_*:               of colours in [0, 1] at true surface points the view saw, or did not; psnr in dB.
    ghost:                      1 when the back view shows a face, else 0.
    """

    chamfer: float
    chamfer_visible: float
    chamfer_hidden: float
    normals: float
    iou: float
    iou_box: float
    face_mm: float
    l1_visible: float
    l1_hidden: float
    psnr_visible: float
    psnr_hidden: float
    ghost: float


def measure_head(
    mesh: Mesh,
    vertex_colours: FloatArray,
    field: ColouredField,
    head: dict[str, NDArray],
    view: int,
    camera: Camera,
    face: FaceNetworks,
) -> HeadMeasures:
    """Compare a head with the truth it was made from.

    mesh, vertex_colours: the surface of `field` and its colours (v, 3), sRGB.
    head:                 arrays of the true head's file; view: index of the view it was made from, camera: that view's.
    """
    chosen = np.flatnonzero(head["surface_points"][:, 1] > NECK_CUT_Y + ABOVE_CUT)
    truth = Cloud(head["surface_points"][chosen].astype(np.float64), head["surface_normals"][chosen] / 127.0)
    albedo = head["surface_colour"][chosen]
    made = sample_mesh(mesh, MADE_SAMPLES)
    high = made.points[:, 1] > NECK_CUT_Y + ABOVE_CUT
    made = Cloud(made.points[high], made.normals[high])
    height = truth.points[:, 1].max() - CHIN_Y
    matched = match(truth.points, made.points)
    nearest = Cloud(made.points[matched.nearest_made], made.normals[matched.nearest_made])
    visible = was_seen(truth, head["depths"][view], camera)
    skin = face_region(truth.points, albedo)
    across = ((truth.points - nearest.points) * nearest.normals).sum(1)
    face_mm = float(np.median(np.abs(across[skin])) / height * HEAD_MM) if skin.any() else float("nan")
    wanted = colours_in_view(albedo, view_gain(head, view))
    error = field.colour(nearest.points) - wanted
    l1_visible, psnr_visible = colour_errors(error[visible])
    l1_hidden, psnr_hidden = colour_errors(error[~visible])
    solid_true = head["uniform_distance"] < 0
    solid_made = field.density(head["uniform_points"].astype(np.float32)) > field.level
    above = head["uniform_points"][:, 1] > NECK_CUT_Y
    return HeadMeasures(
        chamfer=100 * chamfer(matched, np.ones_like(visible)) / height,
        chamfer_visible=100 * chamfer(matched, visible) / height,
        chamfer_hidden=100 * chamfer(matched, ~visible) / height,
        normals=float(np.abs((nearest.normals * truth.normals).sum(1)).mean()),
        iou=overlap(solid_true[above], solid_made[above]),
        iou_box=overlap(solid_true, solid_made),
        face_mm=face_mm,
        l1_visible=l1_visible,
        l1_hidden=l1_hidden,
        psnr_visible=psnr_visible,
        psnr_hidden=psnr_hidden,
        ghost=float(shows_face(draw_coloured(mesh, vertex_colours, BACK_CAMERA, PICTURE_SIZE), face)),
    )


def match(truth: FloatArray, made: FloatArray) -> Matched:
    """Match points (n, 3) and (m, 3) in both directions."""
    return Matched(*cKDTree(made).query(truth), *cKDTree(truth).query(made))


def chamfer(matched: Matched, of_truth: BoolArray) -> float:
    """Mean of the mean distances in both directions, over some of the true points (n,); NaN when there are none.

    A made point belongs to the side of the true point next to it.
    """
    of_made = of_truth[matched.nearest_true]
    if not of_truth.any() or not of_made.any():
        return float("nan")
    return float(matched.to_made[of_truth].mean() + matched.to_truth[of_made].mean()) / 2


def view_gain(head: dict[str, NDArray], view: int) -> FloatArray:
    """(3,) exposure and white balance of a view, of linear light; heads without any were lit neutrally."""
    return head["gains"][view] if "gains" in head else np.ones(3, np.float32)


def sample_mesh(mesh: Mesh, count: int) -> Cloud:
    """`count` points on a mesh, even by area."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points, faces = trimesh.sample.sample_surface(solid, count, seed=0)[:2]
    return Cloud(np.asarray(points), np.asarray(solid.face_normals)[faces])


def was_seen(cloud: Cloud, depth: NDArray, camera: Camera) -> BoolArray:
    """Whether a view saw each surface point: it faces the camera and nothing of the head stands before it.

    depth: (s, s) distance along each pixel's ray, box units, 0 where it meets nothing.
    """
    pixels, _ = project(cloud.points, camera)
    index = np.clip((pixels * len(depth)).astype(int), 0, len(depth) - 1)
    seen_to = depth[index[:, 1], index[:, 0]].astype(np.float64)
    towards = camera.position - cloud.points
    distance = np.linalg.norm(towards, axis=1)
    facing = (cloud.normals * towards).sum(1) / distance > GRAZING_COSINE
    return facing & (seen_to > 0) & (distance < seen_to + SEEN_SLACK)


def face_region(points: FloatArray, albedo: NDArray[np.uint8]) -> BoolArray:
    """(n,) which surface points (n, 3) with albedo (n, 3) are the face's skin, from chin to brow."""
    x, y, z = points.T
    region = (z > FACE_Z) & (np.abs(x) < FACE_HALF_WIDTH) & (y > CHIN_Y) & (y < BROW_Y)
    middle = region & (np.abs(x) < MIDDLE_HALF_WIDTH) & (y > MIDDLE_Y[0]) & (y < MIDDLE_Y[1])
    if not middle.any():
        return region
    lab = rgb2lab(albedo)
    skin = np.broadcast_to(np.median(lab[middle], axis=0), lab.shape)
    return region & (deltaE_ciede2000(lab, skin) < SKIN_DIFFERENCE)


def colour_errors(error: FloatArray) -> tuple[float, float]:
    """Mean absolute error, and PSNR in dB, of colour differences (n, 3); NaN where there are none."""
    if not len(error):
        return float("nan"), float("nan")
    mean_square = max(float(np.square(error, dtype=np.float64).mean()), 1e-10)  # 100 dB stands for no error
    return float(np.abs(error).mean()), -10 * float(np.log10(mean_square))


def overlap(one: BoolArray, other: BoolArray) -> float:
    """Intersection over union of two solids, told at the same points."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else float("nan")


def draw_coloured(mesh: Mesh, vertex_colours: FloatArray, camera: Camera, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) sRGB picture of a mesh with colours (v, 3) in [0, 1], on grey."""
    raster = rasterise_view(mesh.vertices, mesh.faces, camera, size)
    picture = np.full((size, size, 3), BACKGROUND, np.float32)
    picture[raster.covered] = raster.interpolate(vertex_colours, mesh.faces)
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
