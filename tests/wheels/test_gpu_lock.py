"""The GPU engine's lock: what a small index and its wheels make of it, and the one that is shipped."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wheels import gpu_lock
from wheels.lock import PYTHONS, TORCH, WheelMismatch, load_lock
from wheels.pytorch_index import WHEELS
from wheels.rules import NEWEST_GLIBC, fits, needed_glibc

PADDING_BYTES = 2_000_000  # of each wheel, none of which may be fetched
LINUX = "manylinux_2_28_x86_64"


@dataclass
class Index:
    """Wheels by their package, and how many bytes of them were given away."""

    folder: Path
    yanked: set[str] = field(default_factory=set)
    given: int = 0

    def add(self, file: str, *requires: str) -> None:
        """A wheel that requires these."""
        name, version = file.split("-")[:2]
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self.folder / name / file, "w") as archive:
            archive.writestr(f"{name}/padding", bytes(PADDING_BYTES))
            lines = [f"Name: {name}", f"Version: {version}", "License: MIT", *(f"Requires-Dist: {r}" for r in requires)]
            archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\nWords.\n")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    own = Index(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/simple/"):
                name = self.path.split("/")[2].replace("-", "_")
                files = [
                    {
                        "filename": path.name,
                        "url": f"{address}/{name}/{path.name}",
                        "size": path.stat().st_size,
                        "hashes": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
                        "yanked": path.name in own.yanked,
                    }
                    for path in (own.folder / name).glob("*.whl")
                ]
                status, piece = 200, json.dumps({"files": files}).encode()
            else:
                begin, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                status, piece = 206, (own.folder / self.path[1:]).read_bytes()[begin : end + 1]
                own.given += len(piece)
            self.send_response(status)
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            self.wfile.write(piece)

        def log_message(self, *_args: object) -> None:
            """Quiet."""

    gpu_lock._files.cache_clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        address = f"http://127.0.0.1:{running.server_address[1]}"
        monkeypatch.setattr(gpu_lock, "INDEX", address + "/simple/{name}/")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield own
        running.shutdown()
        thread.join()
    gpu_lock._files.cache_clear()


def test_the_newest_that_fits_is_locked_for_all_that_linux_requires(index: Index) -> None:
    needs = ("filelock", "cuda-kit[blas]==1.0; platform_system == 'Linux'", "winlib; platform_system == 'Windows'")
    index.add(f"torch-2.13.0-cp311-cp311-{LINUX}.whl", *needs)
    index.add(f"torch-2.13.0-cp313-cp313-{LINUX}.whl", *needs)
    index.add("cuda_kit-1.0-py2.py3-none-any.whl", "nv-blas<3; extra == 'blas'", "nv-fft; extra == 'fft'")
    index.add(f"nv_blas-2.0-py3-none-{LINUX}.whl")
    index.add(f"nv_blas-2.1-py3-none-{LINUX}.whl")  # withdrawn
    index.add("nv_blas-2.5-py3-none-manylinux_2_35_x86_64.whl")  # newer glibc than Blender's oldest
    index.add("nv_blas-2.6-py3-none-manylinux_2_28_aarch64.whl")
    index.add(f"nv_blas-3.0-py3-none-{LINUX}.whl")
    index.yanked = {f"nv_blas-2.1-py3-none-{LINUX}.whl"}
    found = gpu_lock.resolve_gpu("linux-x64", "3.11")
    assert [(wheel.name, wheel.version) for wheel in found] == [
        ("torch", "2.13.0"),
        ("cuda-kit", "1.0"),
        ("nv-blas", "2.0"),
    ]
    assert "-cp311-" in found[0].file and all(wheel.unpacked > PADDING_BYTES for wheel in found)
    content = (index.folder / "torch" / found[0].file).read_bytes()
    assert (found[0].sha256, found[0].size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert index.given < 4 * gpu_lock.READ_AHEAD_BYTES * len(found) < PADDING_BYTES


def test_torch_for_windows_is_pytorchs_own_and_needs_what_pypis_needs(index: Index) -> None:
    """PyPI's is the CPU's; of PyTorch's, which has NVIDIA's libraries in it, nothing is fetched."""
    needs = ("filelock", "cuda-kit; platform_system == 'Linux'", "winlib; sys_platform == 'win32'")
    index.add("torch-2.13.0-cp311-cp311-win_amd64.whl", *needs)
    index.add("torch-2.13.0-cp313-cp313-win_amd64.whl", *needs)
    index.add(f"torch-2.13.0-cp313-cp313-{LINUX}.whl")
    index.add("winlib-1.0-py3-none-win_amd64.whl")
    index.add("winlib-1.1-py3-none-win32.whl")
    index.add("winlib-1.2-py3-none-win_arm64.whl")
    torch, winlib = gpu_lock.resolve_gpu("windows-x64", "3.13")
    (published,) = (wheel for wheel in WHEELS if wheel.file == "torch-2.13.0+cu130-cp313-cp313-win_amd64.whl")
    assert (torch.file, torch.url, torch.sha256) == (published.file, published.url, published.sha256)
    assert (torch.version, torch.licence, torch.measured) == ("2.13.0+cu130", "MIT", False)
    assert torch.unpacked > 1.73 * torch.size  # no less than what the engine for Linux was measured to grow by
    assert (winlib.version, winlib.measured) == ("1.0", True)


def test_a_carried_package_that_is_too_old_is_refused(index: Index) -> None:
    index.add(f"torch-2.13.0-cp311-cp311-{LINUX}.whl", "sympy>=99")
    with pytest.raises(WheelMismatch, match=r"sympy 1\..* is locked, and sympy>=99 is wanted"):
        gpu_lock.resolve_gpu("linux-x64", "3.11")


def test_a_package_that_does_not_fit_is_named(index: Index) -> None:
    index.add("torch-2.13.0-cp311-cp311-win_amd64.whl")
    with pytest.raises(WheelMismatch, match=r"no wheel of torch==2\.13\.0 fits linux-x64 with Python 3\.11"):
        gpu_lock.resolve_gpu("linux-x64", "3.11")


@pytest.mark.parametrize("platform", sorted(gpu_lock.GPU_SYSTEMS))
@pytest.mark.parametrize("python", PYTHONS)
def test_the_shipped_engine_fits_blender_and_the_wheels_it_stands_on(platform: str, python: str) -> None:
    entries = json.loads(gpu_lock.GPU_LOCK.read_text(encoding="utf-8"))
    wheels = [gpu_lock.GpuWheel(**entry) for entry in entries]
    wheels = [wheel for wheel in wheels if (wheel.platform, wheel.python) == (platform, python)]
    (torch,) = (wheel for wheel in wheels if wheel.name == "torch")
    assert f"torch=={torch.version.removesuffix('+' + gpu_lock.CUDA)}" == TORCH
    for wheel in wheels:
        assert fits(wheel.file, platform, python) and needed_glibc(wheel.file) <= NEWEST_GLIBC, wheel.file
    # What the extension carries itself is not fetched a second time.
    assert {wheel.name for wheel in wheels} & {wheel.name for wheel in load_lock(platform, python)} == {"torch"}
