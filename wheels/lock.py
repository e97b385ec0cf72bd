"""The lock: every wheel of every platform by name and SHA-256, and the fetching and checking against it.

NumPy is not in it and must never be: Blender puts the wheels of extensions before its own packages, and another NumPy
breaks modules that Blender itself was built with.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import pytorch_index

LOCK = Path(__file__).with_name("lock.json")
PATIENCE_S = 60.0  # for an index to tell a file's size
READ_BYTES = 1 << 20  # wheels of torch have hundreds of megabytes: hashed in pieces

# Blender's name of a platform: pip's tags, the newest system first. The oldest Blender to serve is 4.2.
PLATFORM_TAGS = {
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "windows-x64": ("win_amd64",),
    "macos-arm64": ("macosx_14_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64"),
}
PYTHONS = ("3.11", "3.13")  # Blender 4.2 to 5.0, and 5.1 on
TARGETS = [(platform, python) for platform in PLATFORM_TAGS for python in PYTHONS]

TORCH = "torch==2.13.0"
# PyPI's torch for Linux is CUDA's: 555 MB that want 2.4 GB of NVIDIA's wheels beside them. The CPU build is elsewhere.
CPU_TORCH_ELSEWHERE = {"linux-x64": "x86_64"}  # and how the files' names end

# What `inference` imports, with what that needs. Versions must suit the NumPy that each Blender brings:
# 1.24 (4.2, 4.3), 1.26 (4.5, 5.0), 2.3 (5.1 on).
PACKAGES = (
    TORCH,
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath<1.4",
    "networkx",
    "setuptools",
    "sympy",
    "typing-extensions",
    "scikit-image==0.26.0",
    "imageio",
    "lazy-loader",
    "packaging",
    "pillow",
    "scipy==1.15.3",  # the last that takes NumPy 1.24
    "tifffile==2025.5.10",  # the last for NumPy 1.24
    "trimesh",
    "fast-simplification",
    "safetensors",
)


@dataclass(frozen=True, order=True)
class LockedWheel:
    """One file to fetch for one platform and Python."""

    platform: str
    python: str
    name: str
    version: str
    file: str
    sha256: str
    licence: str = ""  # in its maker's words, an SPDX expression where there is one
    size: int = 0  # bytes


class WheelMismatch(Exception):
    """What lies in the folder is not what the lock says."""


def load_lock(platform: str, python: str, lock: Path = LOCK) -> list[LockedWheel]:
    """The wheels of one platform and Python; raises WheelMismatch if the lock has none for them."""
    wheels = [LockedWheel(**entry) for entry in json.loads(lock.read_text(encoding="utf-8"))]
    chosen = [wheel for wheel in wheels if (wheel.platform, wheel.python) == (platform, python)]
    if not chosen:
        raise WheelMismatch(f"the lock has no wheels for {platform} with Python {python}")
    return chosen


def locked_targets(lock: Path = LOCK) -> list[tuple[str, str]]:
    """(platform, Python) of every target in the lock."""
    return sorted({(entry["platform"], entry["python"]) for entry in json.loads(lock.read_text(encoding="utf-8"))})


def write_lock(wheels: Iterable[LockedWheel], lock: Path = LOCK) -> None:
    """One wheel a line, sorted, so that a change of versions is a change of lines."""
    lines = ",\n".join(json.dumps(asdict(wheel)) for wheel in sorted(wheels))
    lock.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def resolve(platform: str, python: str) -> list[LockedWheel]:
    """Ask pip which wheels PACKAGES mean today; nothing is installed.

    Raises CalledProcessError if one of them is not to be had for that platform, NotPublished if that one is torch for
    Linux, which is not asked for but looked up.
    """
    looked_up = [_cpu_torch(platform, python)] if platform in CPU_TORCH_ELSEWHERE else []
    packages = [package for package in PACKAGES if package_name(package) not in {wheel.name for wheel in looked_up}]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip("install", "--dry-run", "--ignore-installed", "--target", folder, "--report", str(report),
             *_target(platform, python), *packages)  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return looked_up + [
        LockedWheel(
            platform=platform,
            python=python,
            name=item["metadata"]["name"].lower().replace("_", "-"),
            version=item["metadata"]["version"],
            file=item["download_info"]["url"].rpartition("/")[2].replace("%2B", "+"),
            sha256=item["download_info"]["archive_info"]["hashes"]["sha256"],
            licence=licence_of(item["metadata"]["name"], item["metadata"]),
            size=size_of(item["download_info"]["url"]),
        )
        for item in found
    ]


def _cpu_torch(platform: str, python: str) -> LockedWheel:
    """Torch's build for the CPU from where PyTorch publishes it."""
    version = TORCH.partition("==")[2]
    wheel = pytorch_index.published(version, "cpu", python, CPU_TORCH_ELSEWHERE[platform])
    return LockedWheel(
        platform, python, "torch", wheel.version, wheel.file, wheel.sha256, pytorch_index.LICENCE, wheel.size
    )


def package_name(requirement: str) -> str:
    """The package of one of PACKAGES, without its version."""
    return re.split(r"[=<>!~]", requirement, maxsplit=1)[0]


def licence_of(name: str, metadata: Mapping[str, Any]) -> str:
    """A package's licence from the metadata pip tells (PEP 639, or what came before), "" where nobody tells.

    Pips before 24.3 leave `License-Expression` out; then the same package in this Python is asked.
    """
    names = [entry.rpartition(" :: ")[2] for entry in metadata.get("classifier", ()) if "License :: OSI" in entry]
    told = metadata.get("license_expression") or ", ".join(names) or str(metadata.get("license", "")).partition("\n")[0]
    if told:
        return str(told).strip()
    try:
        own = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return str(own["License-Expression"] or own["License"] or "").partition("\n")[0].strip()


def size_of(url: str) -> int:
    """Bytes of a file at a URL, without fetching it. Raises OSError when it cannot be had."""
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE_S) as answer:
        return int(answer.headers["Content-Length"])


def fetch(wheels: Sequence[LockedWheel], folder: Path) -> None:
    """Download what `folder` lacks; pip refuses a file whose hash is not the lock's. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [wheel for wheel in wheels if not (folder / wheel.file).exists()]
    if missing:
        with tempfile.TemporaryDirectory() as passing:
            wanted = Path(passing) / "requirements.txt"
            wanted.write_text("".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in missing))
            page = ["--find-links", pytorch_index.page("cpu")] if missing[0].platform in CPU_TORCH_ELSEWHERE else []
            _pip("download", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted), *page,
                 *_target(missing[0].platform, missing[0].python))  # fmt: skip
    check(wheels, folder)


def check(wheels: Sequence[LockedWheel], folder: Path) -> None:
    """Raise WheelMismatch unless `folder` has exactly the locked wheels, byte for byte."""
    there = {path.name for path in folder.glob("*.whl")}
    wanted = {wheel.file: wheel.sha256 for wheel in wheels}
    complaints = [f"missing: {name}" for name in sorted(wanted.keys() - there)]
    complaints += [f"not in the lock: {name}" for name in sorted(there - wanted.keys())]
    for name in sorted(wanted.keys() & there):
        if sha256_of(folder / name) != wanted[name]:
            complaints.append(f"not the locked content: {name}")
    if complaints:
        raise WheelMismatch("\n".join(complaints))


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _target(platform: str, python: str) -> list[str]:
    tags = [argument for tag in PLATFORM_TAGS[platform] for argument in ("--platform", tag)]
    return ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *tags]


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-qq", *arguments], check=True)
