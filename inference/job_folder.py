"""The output folder appears whole or not at all: written beside its place under a passing name, then renamed.

What a user has put into an earlier result's folder is carried over; only the files of Headcast are replaced.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputNotWritable


def check_writable(out_dir: Path) -> None:
    """Raise OutputNotWritable now rather than after the head has been computed."""
    place = _place(out_dir)
    try:
        _temporary_sibling(place).rmdir()
    except OSError as error:
        raise _not_writable(out_dir, error) from error


@contextmanager
def whole_folder(out_dir: Path) -> Iterator[Path]:
    """A temporary folder to write into, that takes the place of `out_dir` when the block ends without an error.

    Raises OutputNotWritable; whatever is raised, an earlier `out_dir` is as it was and no temporary folder is left.
    """
    place = _place(out_dir)
    fresh: Path | None = None
    try:
        fresh = _temporary_sibling(place)
        yield fresh
        _publish(fresh, place)
    except OSError as error:
        raise _not_writable(out_dir, error) from error
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)  # gone already if it was published


def _publish(fresh: Path, place: Path) -> None:
    """Rename `fresh` to `place`; an earlier folder there steps aside first and steps back if anything fails."""
    os.chmod(fresh, 0o777 & ~umask())  # mkdtemp's folders are the user's alone; a result may be shared
    if not place.exists():
        os.rename(fresh, place)
        return
    aside = _temporary_sibling(place) / "earlier"
    carried: list[str] = []
    try:
        os.rename(place, aside)
        for name in os.listdir(aside):
            if not (fresh / name).exists():
                os.rename(aside / name, fresh / name)
                carried.append(name)
        os.rename(fresh, place)
    except OSError:
        if aside.exists():
            for name in carried:
                os.rename(fresh / name, aside / name)
            os.rename(aside, place)
        raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


def _place(out_dir: Path) -> Path:
    """The folder's real place. A folder that cannot be renamed (a drive, the current folder, a file) is refused."""
    place = Path(os.path.abspath(out_dir))
    if place.is_symlink():
        place = place.resolve()
    if place.exists() and not place.is_dir():
        raise OutputNotWritable(f"The output folder cannot be made: {out_dir} is a file.", "Choose another folder.")
    if os.path.ismount(place) or place == Path.cwd():
        raise OutputNotWritable(
            f"The output folder {place} cannot be replaced as a whole.", "Choose a new folder inside it."
        )
    return place


def _temporary_sibling(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))


def umask() -> int:
    """The permissions the user's new files do without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _not_writable(out_dir: Path, error: OSError) -> OutputNotWritable:
    return OutputNotWritable(f"The output folder {out_dir} cannot be written ({error.strerror or error}).")
