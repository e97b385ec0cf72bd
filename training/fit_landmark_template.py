"""Bring the mean face's landmarks into the head frame, so that photos are cropped as the training views are.

    python -m training.fit_landmark_template HEADS_FOLDER

The encoders know heads as the training views show them: by the true camera. A photo's camera is fitted with the mean
face. Here that face is turned, scaled and shifted until, over the near-frontal training views, the fitted camera is
the true one in the median: no bias in elevation, scale or height of the crop. Writes the similarity into the face
networks' template file, and prints what is left.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.optimize import least_squares

from inference.alignment import CROP_SIZE_PX, MESH_POINTS, find_faces, find_landmarks, fit_view, without_shortfall
from inference.camera import orbit_camera, project
from inference.face_networks import LANDMARK_TEMPLATE_FILE, FaceNetworks, LandmarkTemplate, load_face_networks
from inference.resampling import build_pyramid, transform_points

FITTED_AZIMUTH_DEG = 35.0  # beyond it landmarks fall short of the true direction
SEEN_AZIMUTH_DEG = 80.0  # views up to it are measured
SURE_SCORE = 0.9
OUTLIER_PX = 10.0  # of 512: people differ from the mean face by as much
ELEVATION_ROUNDS = 4  # the last ones change nothing


@dataclass(frozen=True)
class KnownView:
    """A training view, enlarged to the size of a portrait, and what the landmark network saw in it.

    landmarks: (468, 2) portrait pixels.
    """

    azimuth_deg: float
    elevation_deg: float
    landmarks: NDArray[np.float64]


def main() -> None:
    """Measure, fit, measure again, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", type=Path, help="folder of training heads (*.npz)")
    parser.add_argument("--count", type=int, default=80, help="heads to measure")
    arguments = parser.parse_args()
    face = load_face_networks()
    views = [
        view for path in sorted(arguments.heads.glob("*.npz"))[: arguments.count] for view in known_views(path, face)
    ]
    points = load_file(LANDMARK_TEMPLATE_FILE)["points"]
    print("before")
    print_bias(views, face.template)
    head_from_template = fit_similarity_of_template(points.astype(np.float64), views)
    save_file({"points": points, "head_from_template": head_from_template.astype(np.float32)}, LANDMARK_TEMPLATE_FILE)
    print("after")
    print_bias(views, load_face_networks().template)


def known_views(path: Path, face: FaceNetworks) -> list[KnownView]:
    """The views of one head in which a face is seen plainly."""
    head = np.load(path)
    views = []
    for image, matte, (azimuth_deg, elevation_deg) in zip(
        head["images"], head["mattes"], head["azimuth_elevation"], strict=True
    ):
        if abs(azimuth_deg) > SEEN_AZIMUTH_DEG:
            continue
        share = matte[..., None] / 255.0
        over_grey = np.rint(image * share + 128 * (1 - share)).astype(np.uint8)
        enlarged = Image.fromarray(over_grey).resize((CROP_SIZE_PX, CROP_SIZE_PX), Image.Resampling.BICUBIC)
        picture = build_pyramid(np.asarray(enlarged))
        for detection in find_faces(picture, face)[:1]:
            landmarks = find_landmarks(picture, detection, face)
            if landmarks.score > SURE_SCORE:
                views.append(KnownView(float(azimuth_deg), float(elevation_deg), landmarks.points[:MESH_POINTS, :2]))
    return views


def fit_similarity_of_template(points: NDArray[np.float64], views: list[KnownView]) -> NDArray[np.float64]:
    """(4, 4) head from template: turned about x, scaled, and shifted in y and z; faces are symmetric.

    The projections of all views are fitted robustly; then the turn is moved by the median error of the elevation,
    which feels the mean face's deviations in depth most, and the rest is fitted again.
    """
    frontal = [view for view in views if abs(view.azimuth_deg) < FITTED_AZIMUTH_DEG]
    cameras = [orbit_camera(view.azimuth_deg, view.elevation_deg) for view in frontal]

    def residuals(scale: float, turn_rad: float, y: float, z: float) -> NDArray:
        head = transform_head(similarity_about_x(scale, turn_rad, y, z), points)
        seen = [project(head, camera)[0] * CROP_SIZE_PX for camera in cameras]
        return np.concatenate([(s - view.landmarks).ravel() for s, view in zip(seen, frontal, strict=True)])

    start = [0.26 / float(np.ptp(points[:, 0])), 0.0, -0.07, 0.11]  # a face is .26 box units wide
    scale, turn_rad, y, z = least_squares(
        lambda unknowns: residuals(*unknowns) / OUTLIER_PX, start, loss="soft_l1", x_scale=np.abs(start) + 0.01
    ).x
    for _ in range(ELEVATION_ROUNDS):
        template = LandmarkTemplate(
            transform_head(similarity_about_x(scale, turn_rad, y, z), points),
            similarity_about_x(1.0, turn_rad, 0.0, 0.0)[:3, :3],
        )
        turn_rad += np.radians(
            np.median([fit_view(v.landmarks, template).elevation_deg - v.elevation_deg for v in frontal])
        )
        fixed = turn_rad
        scale, y, z = least_squares(
            lambda unknowns, turn=fixed: residuals(unknowns[0], turn, unknowns[1], unknowns[2]) / OUTLIER_PX,
            [scale, y, z],
            loss="soft_l1",
        ).x
    return similarity_about_x(scale, turn_rad, y, z)


def similarity_about_x(scale: float, turn_rad: float, y: float, z: float) -> NDArray[np.float64]:
    """(4, 4) turn about x (from y towards z), scale, shift in y and z."""
    cosine, sine = np.cos(turn_rad), np.sin(turn_rad)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    matrix[:3, 3] = [0.0, y, z]
    return matrix


def transform_head(matrix: NDArray, points: NDArray) -> NDArray[np.float64]:
    """(n, 3) points through a (4, 4) map."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def print_bias(views: list[KnownView], template: LandmarkTemplate) -> None:
    """Median error (and median deviation from it) of the fitted camera and crop, by how far the head is turned."""
    rows = []
    for known in views:
        view = without_shortfall(fit_view(known.landmarks, template), known.landmarks, template)
        middle = np.full((1, 2), CROP_SIZE_PX / 2)
        shift = (transform_points(view.photo_from_crop, middle) - middle)[0]
        side = np.sign(known.azimuth_deg)
        rows.append(
            [
                abs(known.azimuth_deg),
                side * (view.azimuth_deg - known.azimuth_deg),
                view.elevation_deg - known.elevation_deg,
                np.hypot(*view.photo_from_crop[:2, 0]),
                side * shift[0],
                shift[1],
            ]
        )
    table = np.array(rows)
    print("  true azimuth  views   azimuth     elevation   scale          shift x     shift y (px of 512)")
    for low, high in ((0, 15), (15, 30), (30, 45), (45, 60), (60, 80)):
        part = table[(table[:, 0] >= low) & (table[:, 0] < high), 1:]
        if len(part):
            median = np.median(part, axis=0)
            spread = np.median(np.abs(part - median), axis=0)
            numbers = "  ".join(
                f"{m:+6.{d}f} ({s:.{d}f})" for m, s, d in zip(median, spread, (1, 1, 3, 1, 1), strict=True)
            )
            print(f"  {low:5d} .. {high:2d}  {len(part):6d}  {numbers}")


if __name__ == "__main__":
    main()
