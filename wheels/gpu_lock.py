"""The lock of the GPU engine: what torch for NVIDIA's cards needs beyond the wheels an extension carries.

Asked of PyPI's index alone; torch for Windows, which that lacks, is looked up in pytorch_index.py. Of a wheel only its
directory and METADATA are read, by HTTP ranges: the files together have gigabytes, and pip would fetch them to resolve.
No NumPy in here either: the worker takes Blender's.
"""

from __future__ import annotations

import functools
import io
import json
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

# pip brings the reference reading of names, versions and markers; it is part of every Python that builds a lock.
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename
from pip._vendor.packaging.version import Version

from .lock import PATIENCE_S, PYTHONS, TORCH, LockedWheel, WheelMismatch, licence_of, load_lock
from .pytorch_index import published
from .rules import NEWEST_GLIBC, needed_glibc

GPU_LOCK = Path(__file__).resolve().parent.parent / "addon" / "gpu_lock.json"
INDEX = "https://pypi.org/simple/{name}/"
INDEX_AS_JSON = "application/vnd.pypi.simple.v1+json"  # PEP 691
CUDA = "cu130"  # what PyPI's torch for Linux is built for too
UNPACKED_PER_BYTE = 2.1  # assumed of a wheel that cannot be read from here; the engine for Linux has 1.73
READ_AHEAD_BYTES = 1 << 16  # of a wheel's directory: a request each


@dataclass(frozen=True, order=True)
class GpuWheel(LockedWheel):
    """One file of the GPU engine; the add-on reads these (addon/gpu_engine.py).

    unpacked: bytes of all files in it.
    measured: whether both sizes are the index's and the file's own word. Else they are others' or estimates, good for
              what is told before; the add-on asks the server how long the file is.
    """

    url: str = ""
    unpacked: int = 0
    measured: bool = True


@dataclass(frozen=True)
class GpuSystem:
    """A platform that there is a GPU engine for.

    wheel:     what the tag of a wheel for it begins and ends with.
    elsewhere: its torch is on PyTorch's own index; PyPI's is the CPU's, which requires the same packages.
    markers:   what a Python there says of its system (PEP 508).
    """

    wheel: tuple[str, str]
    elsewhere: bool
    markers: dict[str, str]


GPU_SYSTEMS = {
    "linux-x64": GpuSystem(
        wheel=("manylinux", "x86_64"),
        elsewhere=False,
        markers={
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
            "platform_machine": "x86_64",
        },
    ),
    "windows-x64": GpuSystem(
        wheel=("win", "amd64"),
        elsewhere=True,
        markers={
            "platform_system": "Windows",
            "sys_platform": "win32",
            "os_name": "nt",
            "platform_machine": "AMD64",
        },
    ),
}


def resolve_gpu(platform: str, python: str) -> list[GpuWheel]:
    """Torch and all it needs, but for what an extension of that platform and Python carries already.

    The newest fitting version of each that every requirement met before it allows. Raises OSError without the index,
    WheelMismatch where nothing fits, or where one of two requirements of the same package is left unfulfilled,
    NotPublished where torch is not on PyPI and not in the table of the others.
    """
    carried = {wheel.name: wheel for wheel in load_lock(platform, python) if wheel.name != "torch"}
    chosen: dict[str, GpuWheel] = {}
    wanted = [Requirement(TORCH)]
    while wanted:
        requirement = wanted.pop(0)
        name = canonicalize_name(requirement.name)
        there: LockedWheel | None = carried.get(name) or chosen.get(name)
        if there is None:
            there = chosen[name] = _newest(requirement, platform, python)
        if not requirement.specifier.contains(there.version):
            raise WheelMismatch(f"{there.name} {there.version} is locked, and {requirement} is wanted")
        if isinstance(there, GpuWheel):
            wanted += _needs(there, requirement.extras)
    if GPU_SYSTEMS[platform].elsewhere:
        chosen["torch"] = _from_pytorch(chosen["torch"])
    return list(chosen.values())


def write_gpu_lock(wheels: Iterable[GpuWheel], lock: Path = GPU_LOCK) -> None:
    """One wheel a line, sorted."""
    lines = ",\n".join(json.dumps(asdict(wheel)) for wheel in sorted(wheels))
    lock.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def lock_gpu() -> list[GpuWheel]:
    """Every platform and Python that there is a GPU engine for."""
    return [wheel for platform in GPU_SYSTEMS for python in PYTHONS for wheel in resolve_gpu(platform, python)]


def _from_pytorch(cpu: GpuWheel) -> GpuWheel:
    """PyTorch's build for cards in place of PyPI's for the CPU; NVIDIA's libraries are in that one file.

    Nothing of it is read here: its index is not to be reached from everywhere.
    """
    wheel = published(cpu.version, CUDA, cpu.python, GPU_SYSTEMS[cpu.platform].wheel[1])
    return replace(
        cpu,
        version=wheel.version,
        file=wheel.file,
        url=wheel.url,
        sha256=wheel.sha256,
        size=wheel.size,
        unpacked=round(wheel.size * UNPACKED_PER_BYTE),
        measured=False,
    )


def _newest(requirement: Requirement, platform: str, python: str) -> GpuWheel:
    """The newest wheel that fits, of those not withdrawn."""
    name = canonicalize_name(requirement.name)
    fitting: dict[Version, dict[str, Any]] = {}
    for file in _files(name):
        if file["filename"].endswith(".whl") and not file.get("yanked") and _fits(file["filename"], platform, python):
            version = parse_wheel_filename(file["filename"])[1]
            if requirement.specifier.contains(version):
                fitting.setdefault(version, file)
    if not fitting:
        raise WheelMismatch(f"no wheel of {requirement} fits {platform} with Python {python}")
    version = max(fitting)
    file = fitting[version]
    metadata, unpacked = _metadata(file["url"], file["size"])
    told = {
        "classifier": metadata.get_all("Classifier", []),
        "license_expression": metadata["License-Expression"],
        "license": metadata["License"] or "",
    }
    return GpuWheel(
        platform=platform,
        python=python,
        name=name,
        version=str(version),
        file=file["filename"],
        url=file["url"],
        sha256=file["hashes"]["sha256"],
        size=file["size"],
        unpacked=unpacked,
        licence=licence_of(name, told),
    )


def _fits(file: str, platform: str, python: str) -> bool:
    """Whether a CPython of that version on that platform, on Linux with Blender's oldest glibc, can load it."""
    own = "cp" + python.replace(".", "")
    begin, end = GPU_SYSTEMS[platform].wheel
    for tag in parse_wheel_filename(file)[3]:
        right_python = tag.interpreter == "py3" or (tag.interpreter == own and tag.abi == own)
        right_platform = tag.platform == "any" or (tag.platform.startswith(begin) and tag.platform.endswith(end))
        if right_python and right_platform and needed_glibc(file) <= NEWEST_GLIBC:
            return True
    return False


def _needs(wheel: GpuWheel, extras: Iterable[str]) -> list[Requirement]:
    """What a wheel requires, for its platform and Python, with these of its extras."""
    there = {
        **GPU_SYSTEMS[wheel.platform].markers,
        "python_version": wheel.python,
        "python_full_version": wheel.python + ".0",
    }
    found = []
    for line in _metadata(wheel.url, wheel.size)[0].get_all("Requires-Dist", []):
        requirement = Requirement(line)
        marker = requirement.marker
        if not marker or any(marker.evaluate({**there, "extra": extra}) for extra in ("", *extras)):
            found.append(requirement)
    return found


@functools.cache
def _files(name: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(INDEX.format(name=name), headers={"Accept": INDEX_AS_JSON})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return list(json.load(answer)["files"])


@functools.cache
def _metadata(url: str, size: int) -> tuple[Any, int]:
    """A wheel's METADATA, as an email's headers, and the bytes of all files in it."""
    with zipfile.ZipFile(io.BufferedReader(RemoteFile(url, size), READ_AHEAD_BYTES)) as wheel:
        (place,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        text = wheel.read(place).decode("utf-8")
        return HeaderParser().parsestr(text, headersonly=True), sum(entry.file_size for entry in wheel.infolist())


class RemoteFile(io.RawIOBase):
    """A file at a URL, of which only what is read is fetched."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from where the file stands. Raises OSError where the server knows no ranges."""
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        span = f"bytes={self._at}-{self._at + count - 1}"
        request = urllib.request.Request(self._url, headers={"Range": span})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            if answer.status != 206:  # "partial content"; anything else would be the whole file
                raise OSError(f"{self._url} cannot be read in parts")
            piece = answer.read(count)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
