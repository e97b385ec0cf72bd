"""The GPU engine's installer: small wheels, a server that breaks off, and a Python that tries what came."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import stat
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import pytest
from headcast.addon import gpu_engine
from headcast.addon.gpu_engine import (
    EngineTrouble,
    InstallCancelled,
    LockedFile,
    engine_in_use,
    install,
    load_lock,
    remove,
)

from inference import start_worker

BARE_PYTHON = (sys.executable, "-I", "-S")  # without this Python's own torch, as Blender's is
TORCH = """
from types import SimpleNamespace
import companion
__version__ = "2.13.0+cu130"
class Matrix:
    def __matmul__(self, other): return self
    def sum(self): return 64.0 ** 3
def ones(rows, columns, device): return Matrix()
card = SimpleNamespace(name="Test Card", total_memory=8_000_000_000)
def init(): pass
cuda = SimpleNamespace(init=init, get_device_properties=lambda index: card)
"""
PADDING = bytes(range(256)) * 4096  # a megabyte, so that a connection can break off in mid-file


def wheel_at(folder: Path, name: str, files: dict[str, bytes | str]) -> Path:
    """A wheel with these files in it, not compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
    return path


def locked(wheel: Path, address: str = "http://127.0.0.1:9") -> LockedFile:
    """The lock's entry of a wheel."""
    content = wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    return LockedFile(
        platform="linux-x64",
        python="3.11",
        name=wheel.name.partition("-")[0],
        version="1.0",
        file=wheel.name,
        url=f"{address}/{wheel.name}",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        unpacked=unpacked,
        measured=True,
        licence="MIT",
    )


@dataclass
class Server:
    """Gives away the files of a folder by ranges; `cuts` are after how many bytes it breaks off, answer by answer."""

    folder: Path
    address: str = ""
    ranges: bool = True
    tells_sizes: bool = True
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)  # (file, Range header)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    own = Server(tmp_path / "served")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            own.asked.append((self.path[1:], wanted))
            path = own.folder / self.path[1:]
            if not path.exists():
                self.send_error(404)
                return
            content = path.read_bytes()
            begin, _, end = wanted.removeprefix("bytes=").partition("-") if wanted and own.ranges else ("", "", "")
            piece = content[int(begin or 0) : int(end or len(content)) + 1]
            if begin and not piece:
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                last = int(begin) + len(piece) - 1
                self.send_header("Content-Range", f"bytes {begin}-{last}/{len(content)}")
            if own.tells_sizes:
                self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            if not end:  # the question how long the file is cannot be cut
                piece = piece[: own.cuts.pop(0)] if own.cuts else piece
            self.wfile.write(piece)

        def log_message(self, *_args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        own.address = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield own
        running.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "headcast" / "gpu-engine" / "linux-x64-cp311"


@pytest.fixture
def files(server: Server) -> tuple[LockedFile, ...]:
    """An engine of two wheels; the first imports what is in the second."""
    torch = wheel_at(server.folder, "torch", {"torch/__init__.py": TORCH, "torch/padding": PADDING})
    companion = wheel_at(server.folder, "companion", {"companion.py": "", "bin/tool": "#!/bin/sh\n"})
    return locked(torch, server.address), locked(companion, server.address)


def run(
    files: tuple[LockedFile, ...],
    home: Path,
    source: Path | None = None,
    cancelled: threading.Event | None = None,
    told: list[tuple[float, str]] | None = None,
) -> gpu_engine.Engine:
    """The install as the add-on calls it."""
    heard = [] if told is None else told
    return install(
        files, home, source, BARE_PYTHON, (), lambda *what: heard.append(what), cancelled or threading.Event()
    )


def imported(engine: gpu_engine.Engine) -> str:
    """The torch that a Python finds in the engine's folder."""
    code = "import sys; sys.path.append(sys.argv[1]); import torch; print(torch.__version__)"
    command = [*BARE_PYTHON, "-c", code, str(engine.folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_fetched_engine_is_used_and_its_wheels_are_gone(files: tuple[LockedFile, ...], home: Path) -> None:
    told: list[tuple[float, str]] = []
    engine = run(files, home, told=told)
    assert engine_in_use(home, files) == engine
    assert engine.trial == gpu_engine.Trial("2.13.0+cu130", "Test Card", 8_000_000_000)
    assert imported(engine) == "2.13.0+cu130"
    assert sorted(path.name for path in home.iterdir()) == sorted(["busy", "engine.json", engine.folder.name])
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[0] > 0 and fractions[-1] < 1


def test_a_broken_connection_goes_on_where_it_stopped(
    files: tuple[LockedFile, ...], server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    server.cuts = [300_000, 500_000]
    run(files, home)
    torch = files[0].file
    assert server.asked == [(torch, ""), (torch, "bytes=300000-"), (torch, "bytes=800000-"), (files[1].file, "")]


def test_a_server_without_ranges_is_read_from_the_beginning(
    files: tuple[LockedFile, ...], server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    server.cuts, server.ranges = [300_000], False
    assert imported(run(files, home)) == "2.13.0+cu130"


def test_a_connection_that_brings_nothing_is_told_and_keeps_what_came(
    files: tuple[LockedFile, ...], server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    server.cuts = [300_000, *[0] * gpu_engine.TRIES]
    with pytest.raises(EngineTrouble, match=r"broke off while torch-1\.0"):
        run(files, home)
    assert (home / "parts" / files[0].file).stat().st_size == 300_000
    assert gpu_engine.to_fetch(home, files) == sum(file.size for file in files) - 300_000
    assert imported(run(files, home)) == "2.13.0+cu130"  # the next click
    assert server.asked[-2] == (files[0].file, "bytes=300000-")


def test_a_file_that_the_server_refuses_is_named_at_once(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    (server.folder / files[1].file).unlink()
    with pytest.raises(EngineTrouble, match=r"companion-1.0-py3-none-any.whl away: HTTP 404"):
        run(files, home)
    assert len(server.asked) == 2


def test_wrong_content_is_refused_before_anything_is_unpacked(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    path = server.folder / files[1].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(EngineTrouble, match=r"companion-1.0-py3-none-any.whl is not the one"):
        run(files, home)
    assert not list(home.glob("staging")) and not list(home.glob("engine*"))
    assert [part.name for part in (home / "parts").iterdir()] == [files[0].file]  # fetched anew the next time


def test_a_longer_file_than_the_lock_says_is_not_read_on(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    path = server.folder / files[1].file
    path.write_bytes(b"?" * files[1].size + path.read_bytes())
    with pytest.raises(EngineTrouble, match="is not the one"):
        run(files, home)


@pytest.fixture
def about(files: tuple[LockedFile, ...]) -> tuple[LockedFile, ...]:
    """The same engine, locked without having been measured: the first wheel is shorter than it says."""
    return replace(files[0], size=files[0].size + 5_000, measured=False), files[1]


def test_a_file_of_unknown_size_is_as_long_as_the_server_says(
    about: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    told: list[tuple[float, str]] = []
    assert imported(run(about, home, told=told)) == "2.13.0+cu130"
    assert [wanted for _, wanted in server.asked] == ["bytes=0-0", "", ""]
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] < 1


def test_a_file_that_is_longer_than_it_was_thought_is_fetched_whole(
    about: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    longer = (replace(about[0], size=about[0].size - 10_000), about[1])
    told: list[tuple[float, str]] = []
    assert imported(run(longer, home, told=told)) == "2.13.0+cu130"
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)


def test_a_file_of_unknown_size_goes_on_where_it_stopped(
    about: tuple[LockedFile, ...], server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    server.cuts = [300_000, *[0] * gpu_engine.TRIES]
    with pytest.raises(EngineTrouble, match=r"broke off while torch-1\.0"):
        run(about, home)
    assert gpu_engine.to_fetch(home, about) == sum(file.size for file in about) - 300_000
    server.asked.clear()
    server.cuts = [100_000]
    assert imported(run(about, home)) == "2.13.0+cu130"  # the next click
    assert [wanted for _, wanted in server.asked] == ["bytes=0-0", "bytes=300000-", "bytes=400000-", ""]


def test_a_whole_file_of_unknown_size_is_not_fetched_again(
    about: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    (home / "parts").mkdir(parents=True)
    (home / "parts" / about[0].file).write_bytes((server.folder / about[0].file).read_bytes())
    assert imported(run(about, home)) == "2.13.0+cu130"
    assert server.asked == [(about[0].file, "bytes=0-0"), (about[1].file, "")]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(
    about: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    (home / "parts").mkdir(parents=True)
    for file in about:
        (home / "parts" / file.file).write_bytes(bytes(file.size + 1))
    assert imported(run(about, home)) == "2.13.0+cu130"
    assert [wanted for _, wanted in server.asked] == ["bytes=0-0", "", ""]


def test_a_server_without_ranges_tells_the_size_too(
    about: tuple[LockedFile, ...], server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    server.cuts, server.ranges = [300_000], False
    assert imported(run(about, home)) == "2.13.0+cu130"


@pytest.mark.parametrize("tells_sizes", [True, False])
def test_a_page_of_words_in_place_of_a_file_of_unknown_size_is_refused(
    about: tuple[LockedFile, ...], server: Server, home: Path, tells_sizes: bool
) -> None:
    """A hotel's network that wants to be logged into; or a server that tells no end, which might fill the disk."""
    server.tells_sizes, server.ranges = tells_sizes, False
    (server.folder / about[0].file).write_bytes(b"<html>Please log in</html>")
    with pytest.raises(EngineTrouble, match=r"torch-1.0-py3-none-any.whl is not the one"):
        run(about, home)
    assert len(server.asked) == 1 and not list((home / "parts").iterdir())


def test_wrong_content_of_unknown_size_is_refused(about: tuple[LockedFile, ...], server: Server, home: Path) -> None:
    path = server.folder / about[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(EngineTrouble, match=r"torch-1.0-py3-none-any.whl is not the one"):
        run(about, home)
    assert not list(home.glob("staging")) and not list((home / "parts").iterdir())


def test_a_server_that_does_not_answer_is_told(
    about: tuple[LockedFile, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    nowhere = (replace(about[0], url=f"http://127.0.0.1:9/{about[0].file}"), about[1])
    with pytest.raises(EngineTrouble, match=r"broke off while torch-1\.0.* fetched: Connection refused"):
        run(nowhere, home)


def test_cancel_keeps_what_has_come(files: tuple[LockedFile, ...], home: Path) -> None:
    cancelled = threading.Event()
    with pytest.raises(InstallCancelled):
        install(files, home, None, BARE_PYTHON, (), lambda _fraction, _label: cancelled.set(), cancelled)
    assert (home / "parts" / files[0].file).stat().st_size > 0
    assert engine_in_use(home, files) is None


def test_cancel_ends_a_trial_that_hangs(files: tuple[LockedFile, ...], home: Path, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ntime.sleep(600)\n")
    cancelled = threading.Event()

    def told(_fraction: float, label: str) -> None:
        if label == "Trying the GPU engine":
            threading.Timer(0.3, cancelled.set).start()

    with pytest.raises(InstallCancelled):
        install(files, home, None, (*BARE_PYTHON, str(hanging)), (), told, cancelled)
    assert engine_in_use(home, files) is None


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped", "C:/escaped", "a\\..\\escaped"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    wheel = wheel_at(tmp_path, "bad", {"good.py": "", name: "escaped"})
    with pytest.raises(EngineTrouble, match=r"bad-1.0-py3-none-any.whl is not a sound wheel"):
        gpu_engine.unpack(wheel, tmp_path / "in" / "here", lambda _count: None)
    assert not (tmp_path / "in").exists()  # not even the good file


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    wheel = wheel_at(tmp_path, "bad", {})
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(EngineTrouble, match="is not a sound wheel"):
        gpu_engine.unpack(wheel, tmp_path / "here", lambda _count: None)


def test_programs_stay_programs_and_data_goes_where_it_belongs(tmp_path: Path) -> None:
    program = zipfile.ZipInfo("triton/bin/ptxas")
    program.external_attr = (stat.S_IFREG | 0o755) << 16
    wheel = wheel_at(tmp_path, "w", {})
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(program, "#!/bin/sh\n")
        archive.writestr("w-1.0.data/purelib/pure.py", "")
        archive.writestr("w-1.0.data/scripts/command", "")
    gpu_engine.unpack(wheel, tmp_path / "here", lambda _count: None)
    found = {path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here").rglob("*.*")}
    assert found == {"pure.py"} and not list((tmp_path / "here").rglob("command"))
    assert (tmp_path / "here/triton/bin/ptxas").stat().st_mode & stat.S_IXUSR


def test_too_little_room_is_told_before_anything_is_fetched(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    huge = (files[0], replace(files[1], unpacked=10**18))
    with pytest.raises(EngineTrouble, match=r"needs 1000000000\.5 GB"):
        run(huge, home)
    assert server.asked == []
    assert not home.parent.parent.exists()  # no folder for nothing


def test_an_engine_that_fails_its_trial_leaves_the_former_one_on(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    former = run(files, home)
    broken = wheel_at(server.folder, "broken", {"companion/__init__.py": "raise ImportError('libcuda.so is missing')"})
    newer = (files[0], locked(broken, server.address))
    with pytest.raises(EngineTrouble, match=r"does not run on this computer: libcuda.so is missing") as trouble:
        run(newer, home)
    assert "Traceback" in trouble.value.log
    assert engine_in_use(home, files) == former and imported(former)
    assert not (home / "staging").exists()
    assert gpu_engine.to_fetch(home, newer) == 0  # a new driver is tried without a download


TOO_OLD = "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your driver"
KERNELS = """Traceback (most recent call last):
torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (TOO_OLD, "too old: The NVIDIA driver on your system is too old", "newest driver"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "No NVIDIA graphics card answers", "CPU as before"),
        (KERNELS, "know: CUDA error: no kernel image is available for execution on the device.", "RTX 20"),
        ("", "the process ended without a word", "Update the graphics driver"),
    ],
)
def test_a_failed_trial_is_told_in_words(tmp_path: Path, said: str, message: str, hint: str) -> None:
    speaking = tmp_path / "speaking.py"
    speaking.write_text(f"import sys\nsys.stderr.write({said!r})\nsys.exit(1)\n")
    with pytest.raises(EngineTrouble, match=re.escape(message)) as trouble:
        gpu_engine.try_engine(tmp_path, (*BARE_PYTHON, str(speaking)), (), threading.Event())
    assert hint in trouble.value.hint


def test_a_python_with_a_torch_of_its_own_is_told(files: tuple[LockedFile, ...], home: Path, tmp_path: Path) -> None:
    """The engine comes behind Python's own packages and would not be used."""
    other = tmp_path / "other"
    gpu_engine.unpack(wheel_at(tmp_path, "torch", {"torch/__init__.py": ""}), other, lambda _count: None)
    starter = tmp_path / "starter.py"
    starter.write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(other)!r})\ndel sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    with pytest.raises(EngineTrouble, match="has a torch of its own"):
        install(files, home, None, (*BARE_PYTHON, str(starter)), (), lambda *_what: None, threading.Event())


def test_a_crash_before_the_note_costs_no_second_download(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    engine = run(files, home)
    (home / "engine.json").unlink()  # as a crash between the last two steps leaves it
    assert engine_in_use(home, files) is None
    server.asked.clear()
    assert run(files, home) == engine and engine_in_use(home, files) == engine
    assert server.asked == []


def test_a_crash_while_unpacking_costs_no_second_download(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    for folder in ("parts", "staging/torch"):
        (home / folder).mkdir(parents=True)
    for file in files:
        (home / "parts" / file.file).write_bytes((server.folder / file.file).read_bytes())
    (home / "staging/torch/__init__.py").write_text("half")
    assert engine_in_use(home, files) is None
    assert imported(run(files, home)) == "2.13.0+cu130"
    assert server.asked == []


def test_an_engine_of_another_lock_is_not_used(files: tuple[LockedFile, ...], home: Path) -> None:
    """An update of Headcast brings another torch: the old one must not run under it."""
    run(files, home)
    assert engine_in_use(home, (files[0], replace(files[1], sha256="0" * 64))) is None


def test_former_engines_go_when_the_new_one_is_used(files: tuple[LockedFile, ...], server: Server, home: Path) -> None:
    former = run(files, home)
    other = wheel_at(server.folder, "other", {"companion.py": "more = 1"})
    newer = (files[0], locked(other, server.address))
    engine = run(newer, home)
    assert former.folder.exists()  # a worker may still run on it
    gpu_engine.remove_former(home, newer)
    assert not former.folder.exists() and engine_in_use(home, newer) == engine


def test_a_folder_of_wheels_needs_no_network(files: tuple[LockedFile, ...], server: Server, home: Path) -> None:
    assert imported(run(files, home, server.folder)) == "2.13.0+cu130"
    assert server.asked == []
    assert (server.folder / files[0].file).exists()  # the user's own


def test_a_folder_that_lacks_files_says_which(files: tuple[LockedFile, ...], server: Server, home: Path) -> None:
    (server.folder / files[1].file).unlink()
    with pytest.raises(EngineTrouble, match=r"lacks 1 of the GPU engine's 2 files, such as companion-1.0"):
        run(files, home, server.folder)


def test_a_wrong_file_in_the_folder_is_refused_and_left_alone(
    files: tuple[LockedFile, ...], server: Server, home: Path
) -> None:
    path = server.folder / files[1].file
    path.write_bytes(b"not a wheel")
    with pytest.raises(EngineTrouble, match="is not the one"):
        run(files, home, server.folder)
    assert path.read_bytes() == b"not a wheel"


def test_an_engine_that_is_in_use_stays_whole(
    files: tuple[LockedFile, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows neither renames nor deletes what a worker has loaded."""
    engine = run(files, home)

    def refused(_path: Path, _name: Path) -> None:
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(EngineTrouble, match=r"cannot be removed: Access is denied.") as trouble:
        remove(home)
    assert "Close other Blenders" in trouble.value.hint
    assert engine_in_use(home, files) == engine and imported(engine) == "2.13.0+cu130"


def test_an_engine_that_was_deleted_in_part_is_not_taken_for_whole(
    files: tuple[LockedFile, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(files, home)
    with monkeypatch.context() as locked_files:
        locked_files.setattr(gpu_engine.shutil, "rmtree", lambda *_args, **_options: None)  # as if all were open
        gpu_engine._delete_engine(next(home.glob("engine-*")))
    assert engine_in_use(home, files) is None and gpu_engine.anything_left(home)
    engine = run(files, home)  # fetched anew
    assert engine_in_use(home, files) == engine and not (home / "discarded").exists()


def test_a_scanner_that_looks_into_the_new_engine_is_waited_for(
    files: tuple[LockedFile, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "RETRY_WAIT_S", 0.0)
    looking = [True, True]
    rename = Path.rename

    def renamed(path: Path, name: Path) -> Path:
        if looking:
            looking.pop()
            raise PermissionError(13, "Access is denied")
        return rename(path, name)

    monkeypatch.setattr(Path, "rename", renamed)
    assert imported(run(files, home)) == "2.13.0+cu130" and not looking


def test_removal_leaves_nothing(files: tuple[LockedFile, ...], home: Path, tmp_path: Path) -> None:
    run(files, home)
    (home / "parts").mkdir()
    (home / "parts" / "half.whl").write_bytes(b"half")
    assert gpu_engine.anything_left(home)
    remove(home)
    assert not gpu_engine.anything_left(home)
    assert list((tmp_path / "caches").iterdir()) == []
    remove(home)  # twice is no error


def test_two_blenders_do_not_install_at_once(files: tuple[LockedFile, ...], home: Path) -> None:
    refused: list[str] = []

    def told(_fraction: float, _label: str) -> None:
        if not refused:
            with pytest.raises(EngineTrouble) as trouble:
                remove(home)
            refused.append(trouble.value.message)
            assert (home / "busy").exists()  # still the first one's

    install(files, home, None, BARE_PYTHON, (), told, threading.Event())
    assert refused == ["Another Blender is installing or removing the GPU engine."]


ADDRESSES = {"linux-x64": "files.pythonhosted.org", "windows-x64": "download-r2.pytorch.org"}
OF_LINUX = {"triton", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime", "nvidia-nccl-cu13"}


@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("platform", sorted(ADDRESSES))
def test_the_shipped_lock_is_whole(platform: str, python: str) -> None:
    """Torch with CUDA's libraries, once each, from its maker's own server, by checksum, and no NumPy."""
    files = load_lock(platform, python)
    names = [file.name for file in files]
    wanted = {"torch"} | (OF_LINUX if platform == "linux-x64" else set())  # for Windows they are in torch's own file
    assert len(set(names)) == len(names) and wanted <= set(names) and "numpy" not in names
    for file in files:
        address = urllib.parse.urlsplit(file.url)
        assert (address.scheme, address.hostname) == ("https", ADDRESSES[platform]) and file.measured == (
            platform == "linux-x64"
        )
        name = urllib.parse.unquote(address.path.rpartition("/")[2])
        assert name == file.file and re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert 0 < file.size < file.unpacked * 1.01 + 10_000
    torch = files[names.index("torch")]
    assert torch.version.removesuffix("+cu130") == "2.13.0" and f"-cp{python.replace('.', '')}-" in torch.file
    assert 1.8e9 < sum(file.size for file in files) < 4e9
    assert gpu_engine.hosts(files) == ADDRESSES[platform]


def test_no_engine_is_offered_elsewhere() -> None:
    assert load_lock("windows-arm64", "3.11") == () and load_lock("macos-arm64", "3.13") == ()


@pytest.mark.parametrize(
    ("path", "extended"),
    [
        (r"C:\Users\Ann\AppData\Local", r"\\?\C:\Users\Ann\AppData\Local"),
        (r"\\?\C:\Users", r"\\?\C:\Users"),
        (r"\\server\share", r"\\server\share"),
    ],
)
def test_windows_takes_paths_of_any_length(path: str, extended: str) -> None:
    assert gpu_engine.extended(path) == extended
    deep = PureWindowsPath(extended) / PurePosixPath("torch/lib/c10.dll")  # as a wheel's files are put below it
    assert str(deep) == extended + r"\torch\lib\c10.dll"


def test_the_worker_on_windows_finds_the_libraries_of_its_torch_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("engine", "wheels"):
        (tmp_path / name / "torch" / "lib").mkdir(parents=True)
    added: list[str] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "add_dll_directory", added.append, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    start_worker.prepare("root", [str(tmp_path / "engine"), str(tmp_path / "wheels")])
    assert added == [str(tmp_path / "engine" / "torch" / "lib")]


def test_cards_are_named_by_their_driver(tmp_path: Path) -> None:
    """/proc/driver/nvidia, as the driver for Linux writes it."""
    for bus, model in (("0000:01:00.0", "NVIDIA GeForce RTX 3060"), ("0000:02:00.0", "NVIDIA RTX A2000")):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
        (tmp_path / "gpus" / bus / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 130\n")
    assert gpu_engine.nvidia_cards(tmp_path) == ("NVIDIA GeForce RTX 3060", "NVIDIA RTX A2000")
    assert gpu_engine.nvidia_cards(tmp_path / "none") == ()


DEVICES = r"SYSTEM\CurrentControlSet\Services\nvlddmkm\Enum"
CARD = r"PCI\VEN_10DE&DEV_2504&SUBSYS_397D1462&REV_A1\4&2283F625&0&0019"


@pytest.mark.parametrize(
    ("registry", "cards"),
    [
        (
            {
                DEVICES: {"Count": 1, "NextInstance": 1, "0": CARD},
                rf"SYSTEM\CurrentControlSet\Enum\{CARD}": {
                    "DeviceDesc": "@oem12.inf,%nvidia_dev.2504%;NVIDIA GeForce RTX 3060"
                },
            },
            ("NVIDIA GeForce RTX 3060",),
        ),
        ({DEVICES: {"Count": 0}}, ()),  # the card was taken out
        ({}, ()),
    ],
)
def test_cards_are_named_by_windows_registry(
    registry: dict[str, dict[str, object]], cards: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_key(root: str, key: str) -> nullcontext[dict[str, object]]:
        if root != "HKLM" or key not in registry:
            raise FileNotFoundError(2, "The system cannot find the file specified", key)
        return nullcontext(registry[key])

    fake = SimpleNamespace(
        HKEY_LOCAL_MACHINE="HKLM", OpenKey=open_key, QueryValueEx=lambda key, name: (key[name], "a type")
    )
    monkeypatch.setitem(sys.modules, "winreg", fake)
    monkeypatch.setattr(sys, "platform", "win32")
    gpu_engine.nvidia_cards.cache_clear()
    assert gpu_engine.nvidia_cards() == cards
    gpu_engine.nvidia_cards.cache_clear()
