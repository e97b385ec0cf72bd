"""Is this computer ready to make heads? Versions, devices, memory, weights, and a short test of the engine itself.

Nothing here names the user, the computer or a folder, so the report can be sent along with a question. A part that
fails is one line of the report and does not hide the others.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import HeadcastError
from .messages import ENGINE_PACKAGES, Finding
from .progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from .checkpoints import HeadModel
    from .field import Field

MANIFEST = Path(__file__).resolve().parent.parent / "blender_manifest.toml"  # the one home of the version
ENOUGH_MEMORY_GB = 3.0  # free: a reconstruction at the default quality stays below 2.5
TEST_GRID, TEST_FACES = 96, 4000  # of the test's surface: a second on two cores
TEST_POINTS = 20_000  # at which a device is compared with the CPU
HEIGHT_M = (0.15, 0.40)  # of a head with its neck; the average one has .3
LEAST_OUTLINE = 0.8  # IoU of the drawn dummy and of the head read from it; measured .9
FURTHEST = 0.002  # box units (1 mm): surfaces of device and CPU further apart come from broken kernels

# The dummy: ellipsoids by centre and half axes, head frame, box units.
DUMMY_HEAD = ((0.0, 0.0, 0.0), (0.16, 0.22, 0.2))
DUMMY_NECK = ((0.0, -0.26, -0.06), (0.11, 0.16, 0.11))
DUMMY_SKIN = (0.8, 0.6, 0.5)  # sRGB
DUMMY_EYES = ((0.06, -0.02), (-0.06, -0.02))  # x, y: where everybody's are
DUMMY_EYE_RADIUS = 0.02


def examine(model: str = "starter", device: str = "auto", progress: Progress = silent) -> list[Finding]:
    """Look at everything a reconstruction needs. Takes some seconds; what `progress` raises ends it."""
    findings = [Finding("Headcast", version()), system(), python(), memory(), *packages()]
    if any(finding.trouble for finding in findings if finding.topic.startswith("Package")):
        return findings  # nothing below would even import
    progress(0.1, "Starting the engine")
    findings += _asked("Devices", devices)
    progress(0.3, "Loading the model")
    findings += _asked("Face networks", face_networks)
    findings += _asked("Model", lambda: [weights(model)])
    progress(0.5, "Testing the engine")
    findings += _asked("Self-test", lambda: self_test(model, device, progress))
    return findings


def version() -> str:
    """Headcast's version, from the extension's manifest."""
    return str(tomllib.loads(MANIFEST.read_text(encoding="utf-8"))["version"])


def system() -> Finding:
    """The operating system and its processor's kind; not the computer's name."""
    cores = os.cpu_count()
    kind = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return Finding("System", "{kind}, {cores} cores", gaps={"kind": kind, "cores": str(cores)})


def python() -> Finding:
    """The Python this runs on."""
    return Finding("Python", f"{platform.python_version()}, {platform.python_implementation()}")


def memory() -> Finding:
    """How much memory the computer has, and how much of it is free."""
    total, free = memory_gb()
    if total is None:
        return Finding("Memory", "unknown on this system")
    if free is None:
        return Finding("Memory", f"{total:.1f} GB")
    found = Finding("Memory", "{total} GB, {free} GB free", gaps={"total": f"{total:.1f}", "free": f"{free:.1f}"})
    if free < ENOUGH_MEMORY_GB:
        hint = "Close other programs, or choose a lower quality."
        return replace(found, trouble="Little memory is free.", hint=hint, severe=False)
    return found


def memory_gb() -> tuple[float | None, float | None]:
    """Memory of the computer and what of it a program may still have, GB; None where the system does not tell."""
    if sys.platform == "win32":
        return _windows_memory_gb()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    free = None
    if (told := Path("/proc/meminfo")).exists():
        fields = dict(line.split(":", 1) for line in told.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024 / 1e9
    return total, free


def packages() -> list[Finding]:
    """What the engine imports: the versions in one line, and a line for each that is missing."""
    there, missing = [], []
    for module, pinned in ENGINE_PACKAGES.items():
        name = pinned.partition("==")[0]
        if importlib.util.find_spec(module) is None:
            hint = "Reinstall the extension, or choose a Python that has it in the preferences."
            trouble = "The engine cannot start without it."
            missing.append(Finding("Package {name}", "missing", trouble, hint, gaps={"name": name}))
        else:
            there.append(f"{name} {_version_of(name)}")
    return [Finding("Packages", ", ".join(there)), *missing]


def devices() -> list[Finding]:
    """What torch can compute on: the processor, and graphics cards with their memory."""
    import torch

    gaps = {"version": torch.__version__, "threads": str(torch.get_num_threads())}
    found = [Finding("Device cpu", "torch {version}, {threads} threads", gaps=gaps)]
    if torch.backends.mps.is_available():
        found.append(Finding("Device mps", "Apple graphics"))
    built_for = torch.version.cuda
    if built_for is None:
        return [*found, Finding("Device cuda", "this torch was built without it")]
    if not torch.cuda.is_available():
        text = "torch was built for CUDA {version}, and no card answers"
        return [*found, Finding("Device cuda", text, gaps={"version": built_for})]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        text = f"{card.name}, {card.total_memory / 1e9:.1f} GB, CUDA {built_for}"
        if runs_on(card.major, card.minor, torch.cuda.get_arch_list()):
            found.append(Finding("Device cuda", text))
        else:
            trouble = "This torch has no code for this card."
            hint = "Choose the device CPU, or another build of torch."
            found.append(Finding("Device cuda", text, trouble, hint, severe=False))
    return found


def runs_on(major: int, minor: int, built_for: list[str]) -> bool:
    """Whether a card of that compute capability runs code built for `built_for`, as torch lists it.

    Code for a card ("sm_86") runs on cards of the same major number and an equal or higher minor one; what is compiled
    on first use ("compute_90") on every later card (CUDA C++ Programming Guide, "Application Compatibility").
    """
    for name in built_for:
        kind, _, number = name.partition("_")
        digits = "".join(filter(str.isdigit, number))
        built_major, built_minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= (major, minor):
            return True
    return False


def face_networks() -> list[Finding]:
    """Whether the networks that find the face are whole."""
    from .face_networks import load_face_networks

    load_face_networks()
    return [Finding("Face networks", "whole")]


def weights(model: str) -> Finding:
    """Size and checksum of a model, which is read as for a head. Raises WeightsMissing, WeightsDamaged."""
    from . import checkpoints

    path = checkpoints.find(model)
    loaded = checkpoints.load(path if model.endswith(checkpoints.SUFFIX) else model)
    return Finding("Model", f"{loaded.name}, {path.stat().st_size / 1e6:.1f} MB, SHA-256 {loaded.sha256[:16]}")


def self_test(model: str, device: str, progress: Progress) -> list[Finding]:
    """Read a drawn dummy on the device and make its head, which must be closed, of a head's size and of its outline."""
    from . import pipeline
    from .surface import METRES_PER_UNIT, extract, height_m, is_watertight

    started = time.perf_counter()
    head = pipeline.load_models(model, device).head
    if head.visible is None or head.generator.config.superresolution:
        return [Finding("Self-test", "left out: one with this model takes minutes")]
    chosen = pipeline.choose_device(device)
    field, outline = read_dummy(head, chosen)
    mesh = extract(field, TEST_GRID, TEST_FACES, lambda share, _: progress(0.6 + 0.2 * share, "Testing the engine"))
    height, closed = height_m(mesh), is_watertight(mesh)
    seconds = time.perf_counter() - started
    text = "a head of {faces} faces, {height} m high, closed, {outline} of its outline, on {device} in {seconds} s"
    if not closed:
        text = "a head of {faces} faces, {height} m high, open, {outline} of its outline, on {device} in {seconds} s"
    gaps = {"faces": f"{len(mesh.faces):,}", "height": f"{height:.2f}", "outline": f"{outline:.0%}"}
    gaps |= {"device": chosen.type, "seconds": f"{seconds:.1f}"}
    trouble = hint = ""
    if not closed or not HEIGHT_M[0] < height < HEIGHT_M[1] or outline < LEAST_OUTLINE:
        trouble = "That is no head: this device, or the installation, computes wrongly."
        hint = "Choose the device CPU; if that is no better, reinstall the extension."
    found = [Finding("Self-test", text, trouble, hint, gaps=gaps)]
    if chosen.type != "cpu":
        progress(0.85, "Comparing with the processor")
        reference, _ = read_dummy(pipeline.load_models(model, "cpu").head, pipeline.choose_device("cpu"))
        apart = surfaces_apart(field, reference)
        text = "surfaces by {device} and cpu differ by {apart} mm at most"
        gaps = {"device": chosen.type, "apart": f"{apart * METRES_PER_UNIT * 1e3:.2g}"}
        wrong = not apart < FURTHEST  # also where it is not a number
        trouble = "This device computes wrongly." if wrong else ""
        found.append(Finding("Self-test", text, trouble, "Choose the device CPU." if wrong else "", gaps=gaps))
    return found


def read_dummy(head: HeadModel, device: torch.device) -> tuple[Field, float]:
    """The visible encoder's head of the dummy, and the IoU of its outline with the drawn one."""
    import torch

    from .camera import orbit_camera
    from .encoders import EncoderConfig, PortraitInput, portrait_tensor
    from .field import Field
    from .render import render_view
    from .tri_grid import TriGrid

    assert head.visible is not None  # the caller has looked
    camera = orbit_camera(0.0)
    image, matte = draw_dummy(head.visible.input_size)
    portrait = portrait_tensor(image, matte, head.visible.input_size, device)
    cameras = torch.from_numpy(camera.vector)[None].to(device)
    landmarks = torch.zeros(1, EncoderConfig.landmarks, 3, device=device)  # as where no face was measured
    with torch.no_grad():
        planes = head.visible(PortraitInput(portrait, cameras, landmarks), head.generator).planes
        covered = render_view(head.generator, planes, cameras, len(matte)).mask[0, 0].cpu().numpy() > 0.5
    drawn = matte > 0.5
    outline = float((covered & drawn).sum() / (covered | drawn).sum())
    return Field(head.generator, TriGrid(planes[0], head.generator.config.box_side)), outline


def draw_dummy(size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A shaded egg on a post with two dark eyes, from the front: (size, size, 3) sRGB and its (size, size) matte."""
    import numpy as np

    from .camera import camera_rays, orbit_camera

    origins, directions = camera_rays(orbit_camera(0.0), size)
    image = np.zeros((size, size, 3), np.float32)
    matte = np.zeros((size, size), np.float32)
    for centre, radii in (DUMMY_NECK, DUMMY_HEAD):  # the nearest last
        start, along = (origins - np.array(centre)) / radii, directions / radii
        a, b, c = (along**2).sum(-1), (start * along).sum(-1), (start**2).sum(-1) - 1
        root = b**2 - a * c
        hit = root > 0
        distance = (-b - np.sqrt(np.maximum(root, 0))) / a
        normal = (start + distance[..., None] * along) / radii
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        shade = 0.6 + 0.4 * np.clip(normal @ np.array([0.3, 0.5, 0.8]), 0, 1)
        image[hit] = (np.array(DUMMY_SKIN) * shade[..., None])[hit]
        matte[hit] = 1.0
    point = origins + distance[..., None] * directions
    for eye in DUMMY_EYES:
        image[hit & (np.linalg.norm(point[..., :2] - eye, axis=-1) < DUMMY_EYE_RADIUS)] = 0.1
    return np.round(image * 255).astype(np.uint8), matte


def surfaces_apart(one: Field, other: Field) -> float:
    """How far two surfaces lie apart at most, box units, to first order: density by its slope, at points near both."""
    import numpy as np

    points = np.random.default_rng(0).uniform(-0.3, 0.3, (TEST_POINTS, 3)).astype(np.float32)
    near = points[np.argsort(np.abs(other.density(points) - other.level))[: TEST_POINTS // 50]]
    step = np.float32(1e-3)
    values = other.density(near)
    slopes = [(other.density(near + step * axis) - values) / step for axis in np.eye(3, dtype=np.float32)]
    slope = float(np.median(np.linalg.norm(slopes, axis=0)))
    return float(np.abs(one.density(near) - values).max()) / max(slope, 1e-9)


def _asked(topic: str, question: Callable[[], list[Finding]]) -> list[Finding]:
    """The answer, or what went wrong as a finding: known failures in their own words, others by their kind."""
    try:
        return question()
    except HeadcastError as error:
        return [Finding(topic, "failed", error.message, error.hint)]
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        trouble, hint = "{kind} while looking at it.", "Reinstall the extension, or report this."
        return [Finding(topic, "failed", trouble, hint, gaps={"kind": type(error).__name__})]


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"  # a plain folder on the path


def _windows_memory_gb() -> tuple[float | None, float | None]:
    import ctypes

    class MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        )

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return None, None
    return status.total / 1e9, status.free / 1e9
