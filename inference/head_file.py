"""The file in a result folder from which its head can be made again: head.safetensors.

Tensors hold what `HeadSource` holds, and the finished mesh with its texture coordinates; pictures are PNG, byte for
byte in a tensor, since they shrink to half without loss. The metadata has one entry, `headcast_head`: JSON with the
format's number, the model, all small numbers and each tensor's SHA-256. Reading it runs none of its content.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .alignment import AlignedPortrait, FacePose
from .camera import Camera
from .checkpoints import HeadModel
from .errors import HeadFileDamaged, HeadFileMissing, HeadFileNewer, HeadOfOtherModel
from .head_source import HeadSource, UnseenSide
from .job_folder import umask
from .photo import Photo
from .png import save_png
from .refinement import WARP_GRID, Misfit, Refinement
from .surface import Mesh
from .tri_grid import TriGrid
from .w_plus_optimisation import PictureLoss, WPlusFit

FloatArray = NDArray[np.floating]

FILE_NAME = "head.safetensors"
METADATA_KEY = "headcast_head"
FORMAT = 1  # raised when older readers could not make sense of a file


@dataclass(frozen=True)
class FinishedMesh:
    """The surface as it was written into head.glb, and where the photo painted it.

    mesh:           head frame, double precision; vertices on seams are there once per island.
    uv:             (v, 2), v running down.
    visibility:     (v,) float32 in [0, 1].
    visibility_map: (t, t) uint8: texels that are not 0 hold something of the photo.
    """

    mesh: Mesh
    uv: FloatArray
    visibility: NDArray[np.float32]
    visibility_map: NDArray[np.uint8]


@dataclass(frozen=True)
class HeadFile:
    """What `read` finds."""

    source: HeadSource
    finished: FinishedMesh


def write(folder: Path, source: HeadSource, finished: FinishedMesh, model: HeadModel) -> int:
    """Write the file into a result folder; returns its size in bytes."""
    portrait, refinement = source.portrait, source.refinement
    tensors = {
        "portrait.image": _png(portrait.image),
        "portrait.matte": torch.from_numpy(np.ascontiguousarray(portrait.matte)),
        "portrait.landmarks": torch.from_numpy(np.ascontiguousarray(portrait.landmarks)),
        "photo": _png(source.photo.rgb),
        "visible.w_plus": source.w_plus,
        "visible.planes": _smallest(source.visible.planes),
        "mesh.vertices": torch.from_numpy(np.asarray(finished.mesh.vertices, dtype=np.float64)),
        "mesh.faces": torch.from_numpy(np.asarray(finished.mesh.faces, dtype=np.int32)),
        "mesh.uv": torch.from_numpy(np.asarray(finished.uv, dtype=np.float64)),
        "mesh.visibility": torch.from_numpy(finished.visibility),
        "texture.visibility": _png(finished.visibility_map),
    }
    if (unseen := source.unseen) is not None:
        tensors |= {
            "unseen.planes": _smallest(unseen.planes),
            "unseen.mask": unseen.mask,
            "unseen.w_plus": unseen.w_plus,
            "unseen.version": unseen.version,
        }
    if refinement is not None:
        tensors["refinement.shift"] = refinement.shift
    # Copies: the format takes no two tensors over one memory, and no views.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    told = {
        "format": FORMAT,
        "model": {"name": model.name, "sha256": model.sha256},
        "photo": {
            "name": source.photo.path.name,
            "size": list(source.photo_size),
            "corner_px": list(source.corner_px),
            "focal_px": source.photo.focal_px,
        },
        "pose": asdict(portrait.pose),
        "cam2world": portrait.camera.cam2world.tolist(),
        "intrinsics": portrait.camera.intrinsics.tolist(),
        "photo_from_crop": portrait.photo_from_crop.tolist(),
        "box_side": source.visible.box_side,
        "seed": None if unseen is None else unseen.seed,
        "fit": None if source.fit is None else asdict(source.fit),
        "level": source.level,
        "refinement": None
        if refinement is None
        else {"steps": refinement.steps, "before": asdict(refinement.before), "after": asdict(refinement.after)},
        "sha256": {name: _digest(tensor) for name, tensor in tensors.items()},
    }
    path = folder / FILE_NAME
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(told, allow_nan=False)})
    path.chmod(0o666 & ~umask())  # safetensors makes files that are the user's alone; a result may be shared
    return path.stat().st_size


def read(folder: Path, device: torch.device | str = "cpu") -> HeadFile:
    """What a result folder's head was made from, with its tensors on `device`.

    Raises HeadFileMissing, HeadFileDamaged, or HeadFileNewer for a format this version does not know.
    """
    told, tensors = _read_checked(folder)
    try:
        return _understood(told, tensors, torch.device(device))
    except (KeyError, TypeError, ValueError, OSError, Image.DecompressionBombError) as error:  # two are PIL's
        raise HeadFileDamaged(f"The file {folder / FILE_NAME} does not fit together.") from error


def check_model(folder: Path, model: HeadModel) -> None:
    """Raise HeadOfOtherModel if another model made the folder's head."""
    told, _ = _read_metadata(folder)
    if told["model"]["sha256"] != model.sha256:
        raise HeadOfOtherModel(
            f"This head was made by another version of the model {told['model']['name']}, or by another model than "
            f"{model.name}."
        )


def _read_metadata(folder: Path) -> tuple[dict[str, Any], Path]:
    """What the file says of itself, format checked, and its path."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise HeadFileMissing(f"There is no {FILE_NAME} in {folder}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            told = json.loads((file.metadata() or {})[METADATA_KEY])
        number = told["format"]
        if not isinstance(number, int) or not isinstance(told["model"]["sha256"], str):
            raise TypeError
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise HeadFileDamaged(f"The file {path} is damaged, or not one of Headcast's.") from error
    if number > FORMAT:
        raise HeadFileNewer(f"The file {path} was written by a newer version of Headcast.")
    return told, path


def _read_checked(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says of itself, and its tensors, each with the checksum that was noted."""
    told, path = _read_metadata(folder)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise HeadFileDamaged(f"The file {path} is damaged.") from error
    if told.get("sha256") != {name: _digest(tensor) for name, tensor in tensors.items()}:
        raise HeadFileDamaged(f"The file {path} is damaged: a checksum does not match.")
    return told, tensors


def _understood(told: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> HeadFile:
    """Raises KeyError, TypeError, ValueError or OSError where the content makes no sense."""

    def array(name: str, *shape: int) -> NDArray[Any]:
        return _shaped(tensors[name], name, shape).numpy()

    def on_device(name: str, *shape: int) -> Tensor:
        return _shaped(tensors[name], name, shape).to(device, torch.float32)

    image = _picture(tensors["portrait.image"], 3)
    side = len(image)
    portrait = AlignedPortrait(
        image=image,
        matte=array("portrait.matte", side, side),
        camera=Camera(_matrix(told["cam2world"], 4), _matrix(told["intrinsics"], 3)),
        photo_from_crop=_matrix(told["photo_from_crop"], 3),
        landmarks=array("portrait.landmarks", -1, 3),
        pose=FacePose(**told["pose"]),
    )
    height, width = (int(size) for size in told["photo"]["size"])
    left, top = (int(corner) for corner in told["photo"]["corner_px"])
    # A name alone: a path in the file must not lead anywhere.
    name = Path(Path(told["photo"]["name"]).name)
    photo = Photo(_picture(tensors["photo"], 3), None, told["photo"]["focal_px"], name)
    planes = on_device("visible.planes", 3, -1, -1, -1, -1)
    channels, depth, rows, columns = planes.shape[1:]
    w_plus = on_device("visible.w_plus", 1, -1, -1)
    unseen = None
    if told["seed"] is not None:
        unseen = UnseenSide(
            planes=on_device("unseen.planes", 3, channels, depth, rows, columns),
            mask=on_device("unseen.mask", 3, depth, rows, columns),
            w_plus=on_device("unseen.w_plus", *w_plus.shape),
            version=on_device("unseen.version", *w_plus.shape),
            seed=int(told["seed"]),
        )
    box_side = float(told["box_side"])
    source = HeadSource(
        photo=photo,
        corner_px=(left, top),
        photo_size=(height, width),
        portrait=portrait,
        w_plus=w_plus,
        visible=TriGrid(planes, box_side),
        unseen=unseen,
        fit=_fit(told["fit"]),
        refinement=_refinement(told["refinement"], tensors, box_side),
        level=str(told["level"]),
    )
    vertices, faces = array("mesh.vertices", -1, 3), array("mesh.faces", -1, 3).astype(np.int64)
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError("faces name vertices that are not there")
    seen_map = _picture(tensors["texture.visibility"], 1)
    finished = FinishedMesh(
        Mesh(vertices, faces), array("mesh.uv", len(vertices), 2), array("mesh.visibility", len(vertices)), seen_map
    )
    return HeadFile(source, finished)


def _fit(told: Mapping[str, Any] | None) -> WPlusFit | None:
    if told is None:
        return None
    return WPlusFit(int(told["steps"]), PictureLoss(**told["before"]), PictureLoss(**told["after"]))


def _refinement(told: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], box_side: float) -> Refinement | None:
    if told is None:
        return None
    shift = _shaped(tensors["refinement.shift"], "refinement.shift", (1, 3, WARP_GRID, WARP_GRID, WARP_GRID))
    return Refinement(shift, box_side, int(told["steps"]), Misfit(**told["before"]), Misfit(**told["after"]))


def _shaped(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor if it has that shape, -1 standing for any size, and is finite. Raises ValueError."""
    fits = len(shape) == tensor.ndim and all(want in (-1, size) for want, size in zip(shape, tensor.shape, strict=True))
    if not fits:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds numbers that are none")
    return tensor


def _matrix(rows: Any, size: int) -> FloatArray:
    matrix = np.asarray(rows, dtype=np.float64)
    if matrix.shape != (size, size) or not np.isfinite(matrix).all():
        raise ValueError("a matrix of another shape")
    return matrix


def _smallest(planes: Tensor) -> Tensor:
    """In half precision where that loses nothing."""
    half = planes.half()
    return half if torch.equal(half.to(planes.dtype), planes) else planes


def _png(picture: NDArray[np.uint8]) -> Tensor:
    """(n,) uint8: the picture's PNG file."""
    stream = io.BytesIO()
    save_png(Image.fromarray(picture), stream)
    return torch.from_numpy(np.frombuffer(stream.getvalue(), dtype=np.uint8).copy())


def _picture(tensor: Tensor, channels: int) -> NDArray[np.uint8]:
    """(h, w, 3), or (h, w) of one channel. Raises ValueError or OSError."""
    if tensor.dtype != torch.uint8 or tensor.ndim != 1:
        raise ValueError("a picture that is none")
    with Image.open(io.BytesIO(tensor.numpy().tobytes()), formats=["PNG"]) as image:
        picture = np.array(image)
    if picture.dtype != np.uint8 or (1 if picture.ndim == 2 else picture.shape[2]) != channels:
        raise ValueError("a picture with other channels")
    return picture


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
