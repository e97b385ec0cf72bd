"""A Debian root with Blender, a virtual screen and a mouse for it: built once, 1.2 GB."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

PACKAGES = (
    *("blender", "python3-numpy", "fonts-dejavu-core"),
    *("xvfb", "xdotool", "x11-utils", "x11-apps", "imagemagick"),
    *("libgl1-mesa-dri", "libegl1", "libgl1", "libglx-mesa0"),
)
PACKAGES_OF = {"sid": ("python3-cattr", "python3-requests")}  # Blender's own add-ons ask for them there
UNREAD = ("doc", "man", "locale")  # folders of /usr/share that nobody reads in a test
MIRROR = "http://deb.debian.org/debian"


def cache_folder() -> Path:
    """Where roots are kept between runs, outside the clone: a fresh clone need not build one again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headcast"


def make_root(suite: str, folder: Path) -> Path:
    """The root of a Debian suite; built if it is not there, some minutes. Appears whole or not at all.

    Raises CalledProcessError with mmdebstrap's words on the terminal.
    """
    root = folder / f"debian-{suite}"
    if root.exists():
        return root
    passing = folder / f"debian-{suite}.part"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Building a Debian {suite} with Blender in {root}: some minutes, once.", flush=True)
    subprocess.run(["rm", "-rf", "--one-file-system", str(passing)], check=True)
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNREAD]
    packages = ",".join([*PACKAGES, *PACKAGES_OF.get(suite, ())])
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=apt",
            '--aptopt=Apt::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            # sid's lists are valid for a week; a mirror that stands still serves older ones, signed all the same.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *options,
            f"--include={packages}",
            suite,
            str(passing),
            _mirror(),
        ],
        check=True,
    )
    # Under its own name or not at all: a build that was stopped is begun again.
    (passing / "etc" / "mtab").unlink(missing_ok=True)
    (passing / "etc" / "mtab").symlink_to("/proc/self/mounts")
    passing.rename(root)
    return root


def _mirror() -> str:
    """The mirror that this machine itself uses, if it is a Debian."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    found = re.search(r"^URIs:\s*(\S+/debian)/?\s*$", sources.read_text(), re.MULTILINE) if sources.exists() else None
    return found[1] if found else MIRROR
