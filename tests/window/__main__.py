"""The main click, in a real Blender window: `make test-window`.

    python -m tests.window [--suite trixie] [--root FOLDER] [--out out/window]

A Debian root with Blender is built once and kept. In it, on a virtual screen with software OpenGL, Blender starts with
the extension's zip installed, and a mouse that Blender cannot tell from a real one clicks Reconstruct Head (see
`script.py`). The worker runs under this project's own Python, which is mounted into the root. Pictures of the
window and result.json come into the output folder.

Ends with 0 if everything held, 1 if not, and 0 with the reason where this machine cannot run it: that takes Linux,
root, private mounts and mmdebstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from skimage import data
from skimage.io import imsave

from wheels.extension import build

from .debian_root import cache_folder, make_root

PROJECT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PRIVATE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")  # a program whose mounts and children are its own
PATIENCE_S = 900  # of everything in the root


def main() -> int:
    """Build what is missing, run the script, print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="trixie", help="of Debian: trixie has Blender 4.3, sid the newest")
    parser.add_argument("--root", type=Path, help="a root that was built before")
    parser.add_argument("--out", type=Path, default=PROJECT / "out" / "window")
    chosen = parser.parse_args()
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    root = chosen.root or make_root(chosen.suite, cache_folder())
    shutil.rmtree(chosen.out, ignore_errors=True)
    chosen.out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="headcast-window-") as passing:
        job = Path(passing)
        fill_job(job)
        finished = run_in(root, job)
        for picture in sorted(job.glob("out/*")):
            shutil.copy2(picture, chosen.out)
    result = chosen.out / "result.json"
    if not result.exists():
        print(f"Blender ended (exit code {finished}) before it could tell anything; see {chosen.out}")
        return 1
    told = json.loads(result.read_text(encoding="utf-8"))
    for line in told["checks"]:
        print(f"{'ok  ' if line['held'] else 'FAIL'} {line['what']}")
    print(f"Blender {told['blender']}, {told['renderer']}; pictures in {chosen.out}")
    return 0 if told["finished"] and all(line["held"] for line in told["checks"]) else 1


def why_not() -> str:
    """What keeps this machine from running it; empty if nothing does."""
    if sys.platform != "linux":
        return "the window test needs Linux"
    if os.geteuid() != 0:
        return "the window test needs root, to change into a Debian of its own"
    missing = [program for program in ("mmdebstrap", "unshare", "chroot") if not shutil.which(program)]
    if missing:
        return f"not installed: {', '.join(missing)} (apt install mmdebstrap)"
    tried = subprocess.run([*PRIVATE, "mount", "--make-rprivate", "/"], stderr=subprocess.PIPE, check=False)
    # A container's root may mount nothing; then no test of this kind can be had there.
    return f"private mounts are not allowed here: {tried.stderr.decode().strip()}" if tried.returncode else ""


def fill_job(job: Path) -> None:
    """What the root gets to see under /job: the zip, a photo, and the two programs that run there."""
    (job / "out").mkdir()
    shutil.copy2(build(job), job / "headcast.zip")
    imsave(job / "astronaut.png", data.astronaut())  # Eileen Collins; NASA, public domain
    for name in ("desk.py", "script.py"):
        shutil.copy2(HERE / name, job)


def run_in(root: Path, job: Path) -> int:
    """Run the desk in the root; its exit code. All mounts are private, and end with it together with every process."""
    seen = {Path(sys.prefix), Path(sys.base_prefix)}  # the environment and the Python it was made from
    mounts = [f"mount -t proc proc {root}/proc", f"mkdir -p {root}/dev/shm", f"mount -t tmpfs tmpfs {root}/dev/shm"]
    for source, target in [(job, Path("/job")), *((path, path) for path in sorted(seen))]:
        place = f"{root}{target}"
        mounts += [f"mkdir -p '{place}'", f"mount --bind '{source}' '{place}'"]
    inside = f"exec chroot '{root}' python3 /job/desk.py '{sys.executable}'"
    command = " && ".join(["mount --make-rprivate /", *mounts, inside])
    try:
        return subprocess.run(
            [*PRIVATE, "sh", "-c", command],
            timeout=PATIENCE_S,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return -1


if __name__ == "__main__":
    sys.exit(main())
