"""The GPU engine: torch for NVIDIA's cards, fetched on the user's click, checked, tried, and only then used.

No bpy in here. This is the one shipped file that opens network connections: `install` fetches the files that
gpu_lock.json names, from the addresses in it, and nothing else does. What lies in the engine's folder, which belongs to
one platform and Python:

    parts/        files on their way, as far as they came
    staging/      files being unpacked; never used, and thrown away by the next install
    discarded/    an engine being deleted
    engine-ABC/   a whole engine that passed its trial
    engine.json   which of these the worker takes; written last, in one step
    busy          held by the process that installs or removes
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import json
import os
import platform as computer
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from .worker_client import clean_environment

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path(__file__).with_name("gpu_lock.json")
TRIAL = ROOT / "inference" / "try_gpu_engine.py"
NOTE = "engine.json"
PIECE_BYTES = 1 << 20  # read, written and hashed at a time; a cancel is noticed between two
CONNECTION_PATIENCE_S = 30.0  # without a single byte
TRIES = 5  # in a row that bring nothing, before a download gives up
RETRY_WAIT_S = 1.0
TRIAL_PATIENCE_S = 180.0  # the first import of torch from a cold disk, and the first start of a card
SPARE_BYTES = 500_000_000  # that stay free on the disk
SIZE_LEEWAY = 0.05  # of a size that was not measured; more than that, and what the server has is something else
RENAME_PATIENCE_S = 10.0  # for scanners of viruses: Windows renames no folder while a file in it is open
FETCHED, UNPACKED = 0.75, 0.97  # of the progress bar; the rest is the trial
DROPPED_DATA = ("scripts", "headers", "data")  # of a wheel: no program of it is ever called

DRIVER_HINT = "Install the newest driver from NVIDIA, restart the computer, and install the GPU engine again."
AGAIN_HINT = "Install the GPU engine again: it goes on from where it stopped."

Progress: TypeAlias = Callable[[float, str], None]


class EngineTrouble(Exception):
    """No GPU engine comes of it: `message` says why, `hint` what to do, `gaps` what fills the `{gaps}` in both.

    log: the other process's own words, for a bug report.
    """

    def __init__(self, message: str, hint: str, log: str = "", **gaps: str) -> None:
        super().__init__(message.format(**gaps))
        self.message, self.hint, self.gaps, self.log = message, hint, gaps, log


class InstallCancelled(Exception):
    """The user gave the install up; what has come so far stays for the next one."""


@dataclass(frozen=True)
class LockedFile:
    """One file of the engine; `python -m wheels gpu-lock` writes these.

    size, unpacked: bytes of the file and of what is in it.
    measured:       whether they are the index's and the file's own word; else they are only about right, and the server
                    is asked how long the file is.
    licence:        in its maker's words.
    """

    platform: str
    python: str
    name: str
    version: str
    file: str
    url: str
    sha256: str
    size: int
    unpacked: int
    measured: bool
    licence: str


@dataclass(frozen=True)
class Trial:
    """What an engine said when it was tried: torch's version, the card's name and its memory in bytes."""

    torch: str
    device: str
    memory: int


@dataclass(frozen=True)
class Engine:
    """An engine that passed its trial, and where it lies."""

    folder: Path
    trial: Trial


@functools.cache  # panels ask often
def load_lock(platform: str, python: str, lock: Path = LOCK) -> tuple[LockedFile, ...]:
    """The files of the engine for one platform and Python; () where there is none."""
    files = [LockedFile(**entry) for entry in json.loads(lock.read_text(encoding="utf-8"))]
    return tuple(file for file in files if (file.platform, file.python) == (platform, python))


def this_platform() -> str:
    """This computer as Blender's extensions name it, such as linux-x64."""
    system = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = computer.machine().lower()
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(machine, machine)
    return f"{system}-{machine}"


def engine_home(platform: str, python: str) -> Path:
    """The folder of the engine; may not exist yet.

    Outside Blender's own folders: Blender copies those on an upgrade, gigabytes and all. One Blender's engine serves
    every Blender of the same Python. Among caches, because it can be had again and needs no backup.
    """
    home = Path.home()
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = home / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return caches / "headcast" / "gpu-engine" / f"{platform}-cp{python.replace('.', '')}"


@functools.cache  # cards stay where they are
def nvidia_cards(driver: Path = Path("/proc/driver/nvidia")) -> tuple[str, ...]:
    """The names of NVIDIA's cards, as their driver tells the system; () without card or driver, and elsewhere.

    Asked while a panel is drawn, so no program is started for it: nvidia-smi takes seconds to wake a laptop's card.
    """
    if sys.platform == "win32":
        return _cards_in_registry()
    found = []
    for told in sorted(driver.glob("gpus/*/information")):
        with contextlib.suppress(OSError):  # the driver is being replaced
            found += re.findall(r"^Model:\s*(.+?)\s*$", told.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return tuple(found)


def _cards_in_registry() -> tuple[str, ...]:
    """The devices that NVIDIA's display driver runs since Windows was started, by their names in the Device Manager."""
    found: list[str] = []
    if sys.platform == "win32":
        import winreg

        def value(key: str, name: str) -> Any:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"SYSTEM\CurrentControlSet\{key}") as opened:
                return winreg.QueryValueEx(opened, name)[0]

        driver = r"Services\nvlddmkm\Enum"
        with contextlib.suppress(OSError):  # there is no such key: no driver
            for index in range(value(driver, "Count")):
                device = value(driver, str(index))
                # Behind where the name comes from: @oem12.inf,%nvidia_dev.2504%;NVIDIA GeForce RTX 3060
                found.append(value(rf"Enum\{device}", "DeviceDesc").rpartition(";")[2])
    return tuple(found)


def engine_in_use(home: Path, files: Sequence[LockedFile]) -> Engine | None:
    """The engine that the worker takes; None where there is none, or only one of other files than the lock's."""
    try:
        note = json.loads((home / NOTE).read_text(encoding="utf-8"))
        engine = Engine(home / note["folder"], Trial(**note["trial"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = engine.folder == _place(home, files) and engine.folder.is_dir()
    return engine if whole else None


def has_note(home: Path) -> bool:
    """Whether an engine, be it of another version, was installed to the end."""
    return (home / NOTE).exists()


def anything_left(home: Path) -> bool:
    """Whether something of an engine lies there, be it whole, half fetched or of another version."""
    return any((home / name).exists() for name in ("parts", "staging", "discarded", NOTE)) or any(home.glob("engine-*"))


def to_fetch(home: Path, files: Sequence[LockedFile]) -> int:
    """Bytes that an install from the network would still fetch; about, where files were not measured."""
    return sum(max(0, file.size - _size_of(_part(home, file))) for file in files)


def hosts(files: Sequence[LockedFile]) -> str:
    """The servers that an install from the network fetches from."""
    return ", ".join(sorted({file.url.split("/")[2] for file in files}))


def install(
    files: Sequence[LockedFile],
    home: Path,
    source: Path | None,
    python_command: Sequence[str],
    other_paths: Sequence[str],
    progress: Progress,
    cancelled: threading.Event,
) -> Engine:
    """Fetch, check, unpack and try the engine, and let the worker use it from its next start on.

    files:          what the lock says; not empty.
    source:         a folder in which all of these lie; None: they are fetched from the network.
    python_command: starts the worker's Python.
    other_paths:    where it finds the packages that torch needs beside these; searched after the engine.
    progress:       is told a fraction in [0, 1], which never falls, and what is being done.
    Raises EngineTrouble or InstallCancelled; then the engine in use stays in use, and files that were fetched stay
    for the next time.
    """
    place = _place(home, files)
    try:
        with _alone(home):
            _sweep(home, keep=place)
            try:
                tried = place  # there and whole, if only the note was not written any more
                if not place.is_dir():
                    tried = home / "staging"
                    _check_room(files, home, source)
                    wheels = _collect(files, home, source, progress, cancelled)
                    _unpack_all(files, wheels, tried, progress, cancelled)
                progress(UNPACKED, "Trying the GPU engine")
                trial = try_engine(tried, python_command, other_paths, cancelled)
                if tried != place:
                    if hasattr(os, "sync"):
                        os.sync()  # a power cut must not leave a folder that looks whole with files that are not
                    _rename(tried, place)
            finally:
                # Gigabytes, unpacked again in a minute.
                shutil.rmtree(_of_any_length(home / "staging"), ignore_errors=True)
            _write_note(home, Engine(place, trial))
            shutil.rmtree(home / "parts", ignore_errors=True)
    except OSError as error:
        raise _unwritable(home, error) from error
    return Engine(place, trial)


def remove(home: Path) -> None:
    """Delete the engine with all that was fetched for it. Raises EngineTrouble."""
    if not home.exists():
        return
    try:
        with _alone(home):
            for engine in home.glob("engine-*"):
                _delete_engine(engine)
            for left in home.iterdir():
                if left.is_dir():
                    shutil.rmtree(_of_any_length(left))
                elif left.name != "busy":
                    left.unlink()
    except OSError as error:
        raise EngineTrouble(
            "The GPU engine cannot be removed: {reason}.",
            "Close other Blenders that use it and try again.",
            reason=error.strerror or str(error),
        ) from error


def remove_former(home: Path, files: Sequence[LockedFile]) -> None:
    """Delete the engines of other versions, once no worker runs on them. Raises EngineTrouble."""
    try:
        with _alone(home):
            _sweep(home, keep=_place(home, files))
    except OSError as error:
        raise _unwritable(home, error) from error


def _place(home: Path, files: Sequence[LockedFile]) -> Path:
    """Where an engine of just these files lies."""
    names = hashlib.sha256("".join(sorted(file.sha256 for file in files)).encode("ascii"))
    return home / f"engine-{names.hexdigest()[:12]}"


def _sweep(home: Path, keep: Path) -> None:
    """Throw away what is left half unpacked or half deleted, and engines that are neither used nor `keep`."""
    for left in ("staging", "discarded"):
        shutil.rmtree(_of_any_length(home / left), ignore_errors=True)
    used = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        used = json.loads((home / NOTE).read_text(encoding="utf-8"))["folder"]
    for engine in home.glob("engine-*"):
        if engine != keep and engine.name != used:
            with contextlib.suppress(OSError):  # a worker of another Blender runs on it
                _delete_engine(engine)


def _delete_engine(engine: Path) -> None:
    """Delete an engine. Raises OSError, on Windows where a worker runs on it.

    Renamed first: what can be deleted only in part must not pass for whole.
    """
    discarded = _of_any_length(engine.with_name("discarded"))
    if discarded.exists():
        shutil.rmtree(discarded)
    engine.rename(discarded)
    shutil.rmtree(discarded)


def _rename(folder: Path, name: Path) -> None:
    """Rename a folder, as soon as nobody looks into it. Raises OSError."""
    ends = time.monotonic() + RENAME_PATIENCE_S
    while True:
        try:
            folder.rename(name)
            return
        except PermissionError:
            if time.monotonic() > ends:
                raise
            time.sleep(RETRY_WAIT_S)


def _of_any_length(path: Path) -> Path:
    """The path as Windows takes it at any length, for writing and deleting.

    Licences deep inside torch's wheel have names of 173 characters, and with the folder of the engine before it such a
    path passes the 260 that Windows takes otherwise. What torch reads stays below: no name is longer than 116, that of
    compiled code, and the folder has some 80 and the name of the user.
    """
    return Path(extended(str(path.absolute()))) if sys.platform == "win32" else path


def extended(path: str) -> str:
    """An absolute path of Windows without a limit to its length; one of a network or extended already stays."""
    return path if path.startswith("\\\\") else "\\\\?\\" + path


def _write_note(home: Path, engine: Engine) -> None:
    fresh = home / (NOTE + ".part")
    fresh.write_text(json.dumps({"folder": engine.folder.name, "trial": asdict(engine.trial)}), encoding="utf-8")
    os.replace(fresh, home / NOTE)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep other Blenders from installing at the same time; the system frees it when this process ends anyhow.

    Where nothing was installed in the end, no folder stays behind.
    """
    home.mkdir(parents=True, exist_ok=True)
    ours = False
    try:
        with _held(home / "busy"):
            ours = True
            yield
    finally:
        if ours and [left.name for left in home.iterdir()] == ["busy"]:
            with contextlib.suppress(OSError):  # another Blender has begun; or the folders above hold other things
                (home / "busy").unlink()
                for folder in (home, home.parent, home.parent.parent):  # up to headcast/ among the caches
                    folder.rmdir()


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold the file against other processes. Raises EngineTrouble where one of them holds it."""
    with lock.open("a") as held:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(held.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EngineTrouble(
                "Another Blender is installing or removing the GPU engine.", "Wait until it is done, and try again."
            ) from error
        yield


def _check_room(files: Sequence[LockedFile], home: Path, source: Path | None) -> None:
    """Raise EngineTrouble unless files and what is in them fit on the disk together."""
    needed = sum(file.unpacked for file in files) + (to_fetch(home, files) if source is None else 0) + SPARE_BYTES
    free = shutil.disk_usage(home).free
    if free < needed:
        raise EngineTrouble(
            "The GPU engine needs {needed} GB on the disk of {folder}, and {free} GB are free.",
            "Free some space there, and install the GPU engine again.",
            needed=f"{needed / 1e9:.1f}",
            free=f"{free / 1e9:.1f}",
            folder=str(home),
        )


def _collect(
    files: Sequence[LockedFile], home: Path, source: Path | None, progress: Progress, cancelled: threading.Event
) -> list[Path]:
    """Where each file lies, whole and with the lock's checksum."""
    if source is not None:
        missing = [file.file for file in files if not (source / file.file).is_file()]
        if missing:
            raise EngineTrouble(
                "The folder lacks {count} of the GPU engine's {total} files, such as {file}.",
                "Put all files that gpu_lock.json in Headcast's folder names into one folder, and choose that.",
                count=str(len(missing)),
                total=str(len(files)),
                file=missing[0],
            )
    total, done = sum(file.size for file in files), 0
    wheels = []
    for file in files:
        wheel = _part(home, file) if source is None else source / file.file
        if source is None:
            # What a fetch has brought is told at once, for one file alone takes minutes.
            def told(bytes_there: int, before: int = done, own: int = file.size) -> None:
                progress(FETCHED * (before + min(bytes_there, own)) / total, "Fetching the GPU engine")

            _fetch(file, wheel, told, cancelled)
        if _sha256_of(wheel, cancelled) != file.sha256:
            if source is None:
                wheel.unlink()
            raise _not_the_one(file)
        done += file.size
        progress(FETCHED * done / total, "Fetching the GPU engine" if source is None else "Checking the files")
        wheels.append(wheel)
    return wheels


def _not_the_one(file: LockedFile) -> EngineTrouble:
    return EngineTrouble(
        "The file {file} is not the one that Headcast asked for.",
        "Install the GPU engine again, or fetch the file anew. If this happens again, something on the way "
        "changes files: ask whoever runs your network.",
        file=file.file,
    )


class _Broken(Exception):
    """A connection that could not be made or broke off; another try may do."""


class _PastTheEnd(_Broken):
    """The server's file ends before the first byte that was asked for."""


def _fetch(file: LockedFile, part: Path, told: Callable[[int], None], cancelled: threading.Event) -> None:
    """Fetch what the part lacks, again and again as long as something comes."""
    part.parent.mkdir(parents=True, exist_ok=True)
    size = file.size if file.measured else None
    tries = 0
    while (there := _size_of(part)) != size:
        try:
            if size is None:
                size = _size_on_server(file)
                continue
            if there > size:
                part.unlink()
            _fetch_on(file, size, part, told, cancelled)
            reason = "the server closed it"
        except _Broken as error:
            reason = str(error)
        tries = 0 if _size_of(part) > there else tries + 1
        if _size_of(part) != size:
            if tries == TRIES:
                raise EngineTrouble(
                    "The connection broke off while {file} was fetched: {reason}.",
                    AGAIN_HINT,
                    file=file.file,
                    reason=reason,
                )
            if cancelled.wait(RETRY_WAIT_S):
                raise InstallCancelled


def _size_on_server(file: LockedFile) -> int:
    """Bytes of the file, as the server tells them. Raises _Broken, or EngineTrouble where they cannot be right."""
    with _asked(file, "bytes=0-0") as answer:
        told = str(answer.headers["Content-Range" if answer.status == 206 else "Content-Length"]).rpartition("/")[2]
    size = int(told) if told.isdecimal() else 0
    if abs(size - file.size) > SIZE_LEEWAY * file.size:  # a page with words instead of the file, or no end told
        raise _not_the_one(file)
    return size


def _asked(file: LockedFile, range_wanted: str) -> Any:
    """The server's answer, a response to be closed. Raises _Broken, or EngineTrouble if refused."""
    request = urllib.request.Request(file.url, headers={"Range": range_wanted} if range_wanted else {})
    try:
        return urllib.request.urlopen(request, timeout=CONNECTION_PATIENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _PastTheEnd(f"HTTP {error.code}") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _Broken(f"HTTP {error.code}") from error
        raise EngineTrouble(
            "The server does not give {file} away: HTTP {code}.",
            "Update Headcast, or install the GPU engine from a folder of its files.",
            file=file.file,
            code=str(error.code),
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_words_of(error)) from error


def _fetch_on(file: LockedFile, size: int, part: Path, told: Callable[[int], None], cancelled: threading.Event) -> None:
    """One connection: append what comes, up to that size. Raises _Broken, or EngineTrouble if refused."""
    there = _size_of(part)
    try:
        answer = _asked(file, f"bytes={there}-" if there else "")
    except _PastTheEnd:
        part.unlink()  # begin anew
        raise
    with answer:
        goes_on = answer.status == 206 and str(answer.headers["Content-Range"]).startswith(f"bytes {there}-")
        with part.open("ab" if goes_on else "wb") as stream:
            there = there if goes_on else 0  # a server without ranges sends the whole file
            while there < size:
                if cancelled.is_set():
                    raise InstallCancelled
                try:
                    piece = answer.read(min(PIECE_BYTES, size - there))
                except http.client.IncompleteRead as error:
                    piece = error.partial
                except (OSError, http.client.HTTPException) as error:
                    raise _Broken(_words_of(error)) from error
                if not piece:
                    return
                stream.write(piece)
                there += len(piece)
                told(there)


def _words_of(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error  # URLError wraps what it is about
    return str(getattr(reason, "strerror", None) or reason)


def _unpack_all(
    files: Sequence[LockedFile], wheels: Sequence[Path], staging: Path, progress: Progress, cancelled: threading.Event
) -> None:
    """Unpack every wheel into one fresh folder."""
    _of_any_length(staging).mkdir()
    total, done = sum(file.unpacked for file in files), 0

    def told(count: int) -> None:
        nonlocal done
        if cancelled.is_set():
            raise InstallCancelled
        done += count
        progress(FETCHED + (UNPACKED - FETCHED) * min(1.0, done / total), "Unpacking the GPU engine")

    for file, wheel in zip(files, wheels, strict=True):
        try:
            unpack(wheel, staging, told)
        except zipfile.BadZipFile as error:
            raise _not_sound(file.file) from error


def unpack(wheel: Path, folder: Path, told: Callable[[int], None]) -> None:
    """Unpack a wheel; `told` hears of every piece of so many bytes.

    Raises EngineTrouble for a wheel that would write outside the folder, before it writes anything.
    """
    with zipfile.ZipFile(wheel) as archive:
        entries = [(entry, _inside(entry, wheel.name)) for entry in archive.infolist()]
        for entry, path in entries:
            if path is None or entry.is_dir():
                continue
            target = _of_any_length(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as packed, target.open("wb") as stream:
                while piece := packed.read(PIECE_BYTES):
                    stream.write(piece)
                    told(len(piece))
            if (entry.external_attr >> 16) & stat.S_IXUSR:  # zipfile drops it, and triton starts programs of its own
                target.chmod(0o755)


def _inside(entry: zipfile.ZipInfo, wheel: str) -> PurePosixPath | None:
    """Where a wheel's file belongs; None for what is left out. Raises EngineTrouble for a path out of the folder."""
    name = entry.filename
    path = PurePosixPath(name)
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if link or path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name:
        raise _not_sound(wheel)
    if path.parts[0].endswith(".data") and len(path.parts) > 2:  # PEP 427: parts that belong elsewhere
        if path.parts[1] in DROPPED_DATA:
            return None
        return PurePosixPath(*path.parts[2:])
    return path


def _not_sound(wheel: str) -> EngineTrouble:
    return EngineTrouble(
        "The file {file} is not a sound wheel, and nothing of it is used.",
        "Install the GPU engine again, and report this if it happens again.",
        file=wheel,
    )


def try_engine(
    folder: Path, python_command: Sequence[str], other_paths: Sequence[str], cancelled: threading.Event
) -> Trial:
    """Import torch from the folder in a process of its own and multiply two matrices on the card.

    Raises EngineTrouble with the reason in words, or InstallCancelled.
    """
    try:
        said, log = _run([*python_command, str(TRIAL), str(ROOT), str(folder), *other_paths], cancelled)
    except OSError as error:
        raise EngineTrouble(
            "The Python that the GPU engine is for could not be started: {reason}.",
            "Check the Python chosen in Headcast's preferences, or install Headcast again.",
            reason=error.strerror or str(error),
        ) from error
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError, IndexError):  # no last line, or none of ours: it failed before
        answer = json.loads(said.strip().splitlines()[-1])
    if "device" in answer:
        return Trial(**answer)
    if "other" in answer:
        raise EngineTrouble(
            "This Python has a torch of its own, which would be used instead: {path}.",
            "Nothing is to be installed for it: see with Check Installation whether it knows your card.",
            path=answer["other"],
        )
    raise _why_not(log)


def _run(command: Sequence[str], cancelled: threading.Event) -> tuple[str, str]:
    """Both outputs of a process, which is killed when the user cancels or it takes too long. Raises OSError."""
    process = subprocess.Popen(
        command,
        env=clean_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would flash a console
    )
    with process:
        ends = time.monotonic() + TRIAL_PATIENCE_S
        while True:
            try:
                return process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                if cancelled.is_set():
                    process.kill()
                    raise InstallCancelled from None
                if time.monotonic() > ends:
                    process.kill()
                    return "", f"no answer within {TRIAL_PATIENCE_S:.0f} s"


def _why_not(log: str) -> EngineTrouble:
    """A failed trial in words: what its last exception said, and what to do about such."""
    lines = log.strip().splitlines() or ["the process ended without a word"]
    # CUDA's errors go on for lines with advice for programmers.
    said = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception): ", line)] or lines
    reason = re.sub(r"^[\w.]+(Error|Exception): ", "", said[-1]).rstrip(".")
    if "driver" in log and ("too old" in log or "insufficient" in log):
        return EngineTrouble("The driver of the graphics card is too old: {reason}.", DRIVER_HINT, log, reason=reason)
    if "no NVIDIA driver" in log or "no cuda gpus" in log.lower():
        return EngineTrouble(
            "No NVIDIA graphics card answers: {reason}.",
            "The GPU engine needs a card of NVIDIA's and its driver. Without, heads are made on the CPU as before.",
            log,
            reason=reason,
        )
    if "no kernel image" in log:
        return EngineTrouble(
            "The graphics card is of a generation that this engine does not know: {reason}.",
            "It takes a card of the GTX 16, RTX 20 or a later series. Heads are made on the CPU as before.",
            log,
            reason=reason,
        )
    return EngineTrouble(
        "The GPU engine does not run on this computer: {reason}.",
        "Update the graphics driver and install again. Heads are made as before; report this with the lines in the "
        "console.",
        log,
        reason=reason,
    )


def _unwritable(home: Path, error: OSError) -> EngineTrouble:
    return EngineTrouble(
        "The folder of the GPU engine cannot be written: {reason}.",
        "Free some space on its disk, and check that you may write to {folder}.",
        reason=error.strerror or str(error),
        folder=str(home),
    )


def _part(home: Path, file: LockedFile) -> Path:
    return home / "parts" / file.file


def _size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256_of(path: Path, cancelled: threading.Event) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            if cancelled.is_set():
                raise InstallCancelled
            digest.update(piece)
    return digest.hexdigest()
