"""From a photo to a portrait: find the face, its landmarks and pose, and cut the head out as the model saw heads.

The crop is defined by its camera: it shows the head as `orbit_camera(azimuth, elevation)` would, which looks at the
origin of the head frame without roll. The mean face's landmarks are projected through that camera, and the direction
and the similarity (scale, turn, shift) that bring them onto the landmarks of the photo are fitted together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from .camera import Camera, orbit_camera, project
from .errors import FaceCutOff, FaceTooSmall, FaceTurnedAway, NoFaceFound
from .face_networks import FaceNetworks, GraphNetwork, LandmarkTemplate
from .matting import matte_person
from .photo import Photo
from .progress import Progress, silent
from .resampling import Pyramid, build_pyramid, resample, similarity_matrix, transform_points, window_matrix

CROP_SIZE_PX = 512

# Detectors
SHORT_RANGE_SIZE_PX = 128
FULL_RANGE_SIZE_PX = 192
DETECTION_SCORE = 0.5
OVERLAP_OF_ONE_FACE = 0.3  # boxes that share more of their union are one face
TILE_SHARE = 0.5  # of the photo's sides: overlapping tiles for small faces in large photos
TILES_PER_SIDE = 3
NEAR_WINDOW = 2.0  # side of the near look's window, in faces
NEAR_SCORE = 0.65  # people score above 0.7 from near, a cat 0.5

# Landmarks
LANDMARK_SIZE_PX = 192
FACE_WINDOW = 1.5  # side of the landmark network's window, in extents of the face
LANDMARK_LOOKS = 2  # each look after the first is centred and turned upright by the landmarks before it
MAX_LANDMARK_LOOKS = 5  # as long as the network is not sure; on turned faces a pixel decides
SURE_LANDMARK_SCORE = 0.9
MESH_POINTS = 468
RIGHT_EYE_CORNERS = [33, 133]  # of the subject's right eye: outer, inner
LEFT_EYE_CORNERS = [263, 362]
CHEEKS = [234, 454]

# From the nearest of these the fit of the direction converges.
DIRECTIONS_TRIED_DEG = [
    np.array([azimuth, elevation]) for azimuth in (-60.0, -30.0, 0.0, 30.0, 60.0) for elevation in (-20.0, 20.0)
]

# On heads with known cameras landmarks tell the direction to 1 degree up to about 30, then fall short: by 3 at 40, by
# 6 at 50, by 12 at 70 degrees; on photographs alike.
RELIABLE_AZIMUTH_DEG = 28.0
SHORTFALL = 0.25  # degrees for each degree beyond

# What is refused
MIN_FACE_PX = 64
MAX_AZIMUTH_DEG = 75.0
MIN_LANDMARK_SCORE = 0.5
SURE_DETECTION = 0.8  # a detection that sure without usable landmarks is a profile
CUT_OFF_TOLERANCE = 0.06  # of the face's width: landmarks may stray this far outside the photo


@dataclass(frozen=True)
class FacePose:
    """How the face stands in the photo as its landmarks say, and how sure that is.

    The angles are those of the mean face's own axes, seen along the line of sight to the face, and fall short on
    turned faces; the portrait's camera is in the head frame and makes up for that.

    yaw_deg:         positive when the face looks towards the right of the photo.
    pitch_deg:       positive when it looks up.
    roll_deg:        positive when the top of the head leans to the left of the photo.
    landmark_score:  0 to 1, the landmark network's belief that it saw a face.
    inter_ocular_px: distance of the eye centres in the photo.
    faces_found:     how many faces the photo holds; the largest is taken.
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    landmark_score: float
    inter_ocular_px: float
    faces_found: int


@dataclass(frozen=True)
class AlignedPortrait:
    """The head, cut out for the model.

    image:           (512, 512, 3) uint8 sRGB; outside the photo its edge is extended.
    matte:           (512, 512) float32 in [0, 1]; 0 outside the photo.
    camera:          the camera that sees the head frame as `image` shows it.
    photo_from_crop: (3, 3) crop pixels to photo pixels, a similarity.
    landmarks:       (478, 3) crop pixels; z has the same scale and grows away from the viewer.
    """

    image: NDArray[np.uint8]
    matte: NDArray[np.float32]
    camera: Camera
    photo_from_crop: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    pose: FacePose


@dataclass(frozen=True)
class Detection:
    """A face as a detector sees it, photo pixels.

    box:       (4,) left, top, right, bottom.
    keypoints: (6, 2) the subject's right eye, left eye, nose, mouth, right ear, left ear.
    """

    score: float
    box: NDArray[np.float64]
    keypoints: NDArray[np.float64]

    @property
    def side(self) -> float:
        """The longer side of the box, photo pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def centre(self) -> NDArray[np.float64]:
        """(2,) middle of the box, photo pixels."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def roll_rad(self) -> float:
        """Direction from the right eye to the left; 0 when upright."""
        x, y = self.keypoints[1] - self.keypoints[0]
        return math.atan2(y, x)


@dataclass(frozen=True)
class Landmarks:
    """478 points of a face, photo pixels: 468 of the mesh, 5 of the right iris, 5 of the left (the subject's).

    points: (478, 3); z has the scale of x and y and grows away from the viewer.
    score:  0 to 1.
    """

    points: NDArray[np.float64]
    score: float


@dataclass(frozen=True)
class View:
    """The direction from which the photo was taken, and the crop that goes with it.

    photo_from_crop: (3, 3) similarity, crop pixels to photo pixels.
    error:           root mean square distance of template and landmarks, in eye distances.
    """

    azimuth_deg: float
    elevation_deg: float
    photo_from_crop: NDArray[np.float64]
    error: float

    @property
    def camera(self) -> Camera:
        """The camera of the crop."""
        return orbit_camera(self.azimuth_deg, self.elevation_deg)


def align(photo: Photo, face: FaceNetworks, progress: Progress = silent) -> AlignedPortrait:
    """Find the largest face and cut its head out, with camera and matte.

    Raises NoFaceFound, FaceTooSmall, FaceCutOff or FaceTurnedAway.
    """
    progress(0.0, "Looking for the face")
    picture = build_pyramid(photo.rgb)
    detections = find_faces(picture, face)
    if not detections:
        raise NoFaceFound()
    progress(0.3, "Measuring the face")
    landmarks = _landmarks_of_largest(picture, detections, face)
    _check_size_and_frame(landmarks, picture)
    mesh_photo = landmarks.points[:MESH_POINTS, :2]
    seen = fit_view(mesh_photo, face.template)
    view = without_shortfall(seen, mesh_photo, face.template)
    if abs(view.azimuth_deg) > MAX_AZIMUTH_DEG:
        raise FaceTurnedAway()
    yaw_deg, pitch_deg, roll_deg = face_angles(seen, face.template)
    progress(0.5, "Cutting out the head")
    image = crop_image(picture, view.photo_from_crop)
    alpha = None if photo.alpha is None else build_pyramid(photo.alpha)
    matte = matte_person(picture, alpha, mesh_photo, view.photo_from_crop, image, face)
    progress(1.0, "Cutting out the head")
    return AlignedPortrait(
        image=image,
        matte=matte,
        camera=view.camera,
        photo_from_crop=view.photo_from_crop,
        landmarks=_into_crop(landmarks.points, view.photo_from_crop),
        pose=FacePose(
            yaw_deg=yaw_deg,
            pitch_deg=pitch_deg,
            roll_deg=roll_deg,
            landmark_score=landmarks.score,
            inter_ocular_px=inter_ocular(landmarks.points),
            faces_found=len(detections),
        ),
    )


def find_faces(picture: Pyramid, face: FaceNetworks) -> list[Detection]:
    """All faces in the photo, the largest first. Photos in which none is seen are looked at again in tiles.

    Each face is then looked at again from near and upright: that corrects boxes that hold a face somewhere, and
    drops what only resembled one from afar.
    """
    width, height = picture.width, picture.height
    found = _detect(picture, (0, 0, width, height), face)
    if not found:
        w, h = width * TILE_SHARE, height * TILE_SHARE
        for top in np.linspace(0, height - h, TILES_PER_SIDE):
            for left in np.linspace(0, width - w, TILES_PER_SIDE):
                found += _detect(picture, (left, top, left + w, top + h), face)
    candidates = _one_per_face(found)
    near = [_look_again(picture, detection, face) for detection in candidates]
    faces = [one for one in near if one is not None]
    if not faces:
        # Half a face at the photo's edge convinces nobody; it is kept, to be told apart from no face.
        faces = [one for one in candidates if _stands_out(one, picture)]
    return sorted(_one_per_face(faces), key=lambda detection: -detection.side)


def _stands_out(detection: Detection, picture: Pyramid) -> bool:
    """Whether part of the detected face lies outside the photo."""
    beyond = np.maximum(-detection.box[:2], detection.box[2:] - [picture.width, picture.height]).max()
    return bool(beyond > CUT_OFF_TOLERANCE * detection.side)


def _detect(picture: Pyramid, window: tuple[float, float, float, float], face: FaceNetworks) -> list[Detection]:
    """What both detectors see in a window of the photo, set into a square."""
    left, top, right, bottom = window
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    square = (x - half, y - half, x + half, y + half)
    short = window_matrix(*square, SHORT_RANGE_SIZE_PX)
    full = window_matrix(*square, FULL_RANGE_SIZE_PX)
    return [
        *_run_detector(picture, short, face.short_range, SHORT_RANGE_SIZE_PX, SHORT_RANGE_ANCHORS, face.device),
        *_run_detector(picture, full, face.full_range, FULL_RANGE_SIZE_PX, FULL_RANGE_ANCHORS, face.device),
    ]


def _look_again(picture: Pyramid, detection: Detection, face: FaceNetworks) -> Detection | None:
    """The same face, seen by the short-range detector in an upright window around it; None when it is no face."""
    middle = np.full(2, SHORT_RANGE_SIZE_PX / 2)
    scale = NEAR_WINDOW * detection.side / SHORT_RANGE_SIZE_PX
    photo_from_network = similarity_matrix(scale, detection.roll_rad, middle, detection.centre)
    near = _run_detector(
        picture, photo_from_network, face.short_range, SHORT_RANGE_SIZE_PX, SHORT_RANGE_ANCHORS, face.device
    )
    best = max(_one_per_face(near), key=lambda one: one.score, default=None)
    if best is not None and best.score >= NEAR_SCORE:
        return best
    # Full profiles puzzle the short range; they are kept, to be told apart from photos without a face.
    return detection if detection.score >= SURE_DETECTION else None


def _anchors(size: int, layers: list[tuple[int, int]]) -> NDArray[np.float64]:
    """(n, 2) anchor points in network pixels; layers are (stride in pixels, anchors per cell)."""
    grids = []
    for stride, repeats in layers:
        centres = (np.arange(size // stride) + 0.5) * stride
        x, y = np.meshgrid(centres, centres)
        grids.append(np.stack([x, y], axis=-1).reshape(-1, 2).repeat(repeats, axis=0))
    return np.concatenate(grids)


SHORT_RANGE_ANCHORS = _anchors(SHORT_RANGE_SIZE_PX, [(8, 2), (16, 6)])
FULL_RANGE_ANCHORS = _anchors(FULL_RANGE_SIZE_PX, [(4, 1)])


def _run_detector(
    picture: Pyramid,
    photo_from_network: NDArray,
    network: GraphNetwork,
    size: int,
    anchors: NDArray[np.float64],
    device: torch.device,
) -> list[Detection]:
    """Faces above the score in a size x size view of the photo, black outside as the detectors were trained."""
    view, coverage = resample(picture, photo_from_network, (size, size))
    pixels = view * coverage[..., None] / 127.5 - 1.0
    with torch.inference_mode():
        numbers, logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device))
    scores = torch.sigmoid(logits[0, :, 0]).cpu().numpy()
    sure = scores > DETECTION_SCORE
    # Per anchor: offset of the centre, width and height, then six points' offsets, all in network pixels.
    rows = numbers[0].cpu().numpy().astype(np.float64)[sure].reshape(-1, 8, 2)
    scale = float(np.hypot(*photo_from_network[:2, 0]))
    found = []
    for score, row, anchor in zip(scores[sure], rows, anchors[sure], strict=True):
        points = transform_points(photo_from_network, anchor + np.delete(row, 1, axis=0))
        box = np.concatenate([points[0] - scale * row[1] / 2, points[0] + scale * row[1] / 2])
        found.append(Detection(score=float(score), box=box, keypoints=points[1:]))
    return found


def _one_per_face(found: list[Detection]) -> list[Detection]:
    """Non-maximum suppression that averages the boxes of one face, weighted by their scores."""
    waiting = sorted(found, key=lambda detection: -detection.score)
    faces = []
    while waiting:
        best = waiting[0]
        same = [other for other in waiting if _overlap(best.box, other.box) > OVERLAP_OF_ONE_FACE]
        waiting = [other for other in waiting if not any(other is one for one in same)]
        weights = np.array([one.score for one in same])
        faces.append(
            Detection(
                score=best.score,
                box=np.average([one.box for one in same], axis=0, weights=weights),
                keypoints=np.average([one.keypoints for one in same], axis=0, weights=weights),
            )
        )
    return faces


def _overlap(a: NDArray, b: NDArray) -> float:
    """Intersection over union of two boxes."""
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def find_landmarks(picture: Pyramid, detection: Detection, face: FaceNetworks) -> Landmarks:
    """478 landmarks of a detected face: the second look at it, or the surest of a few when that one is unsure."""
    centre, extent, roll_rad = detection.centre, detection.side, detection.roll_rad
    looks: list[Landmarks] = []
    while len(looks) < MAX_LANDMARK_LOOKS:
        looks.append(_look_at_face(picture, centre, extent, roll_rad, face))
        if len(looks) >= LANDMARK_LOOKS and looks[-1].score >= SURE_LANDMARK_SCORE:
            return looks[-1]
        points = looks[-1].points[:MESH_POINTS, :2]
        along_eyes = points[LEFT_EYE_CORNERS[0]] - points[RIGHT_EYE_CORNERS[0]]
        upright = along_eyes / np.linalg.norm(along_eyes)
        axes = np.stack([upright, [-upright[1], upright[0]]])
        low, high = (points @ axes.T).min(0), (points @ axes.T).max(0)
        centre, extent = (low + high) / 2 @ axes, float((high - low).max())
        roll_rad = math.atan2(upright[1], upright[0])
    return max(looks, key=lambda look: look.score)


def _look_at_face(picture: Pyramid, centre: NDArray, extent: float, angle_rad: float, face: FaceNetworks) -> Landmarks:
    """The landmark network on one turned window; mouth, eyes and irises from its refining branches."""
    middle = np.full(2, LANDMARK_SIZE_PX / 2)
    scale = FACE_WINDOW * extent / LANDMARK_SIZE_PX
    photo_from_window = similarity_matrix(scale, angle_rad, middle, centre)
    view, coverage = resample(picture, photo_from_window, (LANDMARK_SIZE_PX, LANDMARK_SIZE_PX))
    pixels = torch.from_numpy(view * coverage[..., None] / 255.0).permute(2, 0, 1)[None].to(face.device)
    with torch.inference_mode():
        outputs = [output.reshape(-1).cpu().numpy().astype(np.float64) for output in face.landmarks(pixels)]
    mesh, lips, right_eye, left_eye, right_iris, left_iris, flag = outputs
    points = np.zeros((MESH_POINTS + 10, 3))
    points[:MESH_POINTS] = mesh.reshape(-1, 3)
    regions = face.landmarks.options_of("Landmarks2TransformMatrix")
    for region, refined in zip(regions, (lips, right_eye, left_eye), strict=True):
        points[region["subset_idxs"], :2] = refined.reshape(-1, 2)
    for start, iris, corners in ((468, right_iris, RIGHT_EYE_CORNERS), (473, left_iris, LEFT_EYE_CORNERS)):
        points[start : start + 5, :2] = iris.reshape(-1, 2)
        points[start : start + 5, 2] = points[corners, 2].mean()  # the network gives irises no depth
    points[:, :2] = transform_points(photo_from_window, points[:, :2])
    points[:, 2] *= scale
    return Landmarks(points, float(1 / (1 + np.exp(-flag[0]))))


def _landmarks_of_largest(picture: Pyramid, detections: list[Detection], face: FaceNetworks) -> Landmarks:
    """Landmarks of the largest detection that the landmark network takes for a face.

    Raises FaceCutOff, FaceTurnedAway or NoFaceFound, as the detections suggest.
    """
    for detection in detections:
        landmarks = find_landmarks(picture, detection, face)
        if landmarks.score >= MIN_LANDMARK_SCORE:
            return landmarks
    if any(_stands_out(detection, picture) for detection in detections):
        raise FaceCutOff()
    if any(detection.score >= SURE_DETECTION for detection in detections):
        raise FaceTurnedAway()
    raise NoFaceFound()


def _check_size_and_frame(landmarks: Landmarks, picture: Pyramid) -> None:
    """Raise FaceTooSmall or FaceCutOff."""
    mesh = landmarks.points[:MESH_POINTS]
    # With depth, so that turning the head does not make the face smaller.
    face_width = float(np.linalg.norm(mesh[CHEEKS[1]] - mesh[CHEEKS[0]]))
    if face_width < MIN_FACE_PX:
        raise FaceTooSmall(f"The face is too small in the photo: {face_width:.0f} pixels wide.")
    outside = np.maximum(-mesh[:, :2], mesh[:, :2] - [picture.width, picture.height]).max()
    if outside > CUT_OFF_TOLERANCE * face_width:
        raise FaceCutOff()


def fit_view(landmarks_photo: NDArray, template: LandmarkTemplate) -> View:
    """Fit the camera's direction and the crop to landmarks (468, 2), photo pixels.

    For any direction the best similarity has a closed form, so the search has two unknowns. The crop's camera fixes
    the perspective: the photo's own is unknown, and heads are drawn by the model with this one.
    """
    extent = float(np.ptp(landmarks_photo, axis=0).max())

    def residuals(direction: NDArray) -> NDArray:
        return (_misfit(direction, landmarks_photo, template)[0] / extent).ravel()

    start = min(DIRECTIONS_TRIED_DEG, key=lambda direction: float((residuals(direction) ** 2).sum()))
    fit = least_squares(residuals, start, bounds=([-120.0, -80.0], [120.0, 80.0]))
    return _view_from(fit.x, landmarks_photo, template)


def without_shortfall(seen: View, landmarks_photo: NDArray, template: LandmarkTemplate) -> View:
    """The view with the direction that landmarks of turned faces fall short of, and the crop fitted to it anew."""
    beyond = max(0.0, abs(seen.azimuth_deg) - RELIABLE_AZIMUTH_DEG)
    azimuth_deg = seen.azimuth_deg + math.copysign(SHORTFALL * beyond, seen.azimuth_deg)
    return _view_from(np.array([azimuth_deg, seen.elevation_deg]), landmarks_photo, template)


def _view_from(direction: NDArray, landmarks_photo: NDArray, template: LandmarkTemplate) -> View:
    """The best crop for an (azimuth, elevation) in degrees."""
    distances, photo_from_crop = _misfit(direction, landmarks_photo, template)
    error = float(np.sqrt((distances**2).sum(axis=1).mean())) / inter_ocular(landmarks_photo)
    return View(float(direction[0]), float(direction[1]), photo_from_crop, error)


def _misfit(
    direction: NDArray, landmarks_photo: NDArray, template: LandmarkTemplate
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far the template, seen from a direction, misses the landmarks: (468, 2) photo pixels; and its best crop."""
    points, _ = project(template.points_head, orbit_camera(direction[0], direction[1]))
    points = points * CROP_SIZE_PX
    photo_from_crop = fit_similarity(points, landmarks_photo)
    return transform_points(photo_from_crop, points) - landmarks_photo, photo_from_crop


def fit_similarity(source: NDArray, target: NDArray) -> NDArray[np.float64]:
    """(3, 3) turn, scale and shift that brings (n, 2) points nearest to (n, 2) others, least squares, no mirroring."""
    # As complex numbers a similarity is one multiplication and one addition.
    a, b = source @ [1, 1j], target @ [1, 1j]
    a_mean, b_mean = a.mean(), b.mean()
    factor = np.vdot(a - a_mean, b - b_mean) / np.vdot(a - a_mean, a - a_mean)
    centre_from, centre_to = (np.array([z.real, z.imag]) for z in (a_mean, b_mean))
    return similarity_matrix(abs(factor), float(np.angle(factor)), centre_from, centre_to)


def face_angles(view: View, template: LandmarkTemplate) -> tuple[float, float, float]:
    """(yaw, pitch, roll) of the mean face's axes in the photo, degrees, signs as in FacePose."""
    turn = np.eye(3)  # crop to photo, about the viewing axis
    turn[:2, :2] = view.photo_from_crop[:2, :2] / np.hypot(*view.photo_from_crop[:2, 0])
    photo_from_head = turn @ view.camera.cam2world[:3, :3].T  # photo axes: x right, y down, z away from the viewer
    # The camera looks at the middle of the head; the face, lower, is seen from 2 degrees further up.
    sight = photo_from_head @ (template.points_head.mean(axis=0) - view.camera.position)
    along_sight, _ = Rotation.align_vectors([[0.0, 0.0, 1.0]], [sight])
    _, up, out = (along_sight.as_matrix() @ photo_from_head @ template.axes_head).T
    yaw = math.atan2(out[0], -out[2])
    pitch = math.asin(np.clip(-out[1], -1.0, 1.0))
    roll = math.atan2(-up[0], -up[1])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def crop_image(picture: Pyramid, photo_from_crop: NDArray) -> NDArray[np.uint8]:
    """(512, 512, 3) uint8 crop, the photo's edge extended outside of it."""
    drawn, _ = resample(picture, photo_from_crop, (CROP_SIZE_PX, CROP_SIZE_PX))
    return np.rint(drawn).astype(np.uint8)


def inter_ocular(landmarks: NDArray) -> float:
    """Distance of the eye centres, from landmarks (n, 2 or more), in their unit."""
    right, left = (landmarks[corners, :2].mean(axis=0) for corners in (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS))
    return float(np.linalg.norm(left - right))


def _into_crop(points_photo: NDArray, photo_from_crop: NDArray) -> NDArray[np.float64]:
    """(n, 3) photo pixels to crop pixels, z scaled alike."""
    crop_from_photo = np.linalg.inv(photo_from_crop)
    xy = transform_points(crop_from_photo, points_photo[:, :2])
    return np.column_stack([xy, points_photo[:, 2] * np.hypot(*crop_from_photo[:2, 0])])
