"""How the engine's threads wait for each other. Standard library only, and imported before torch."""

from __future__ import annotations

import os

# By default OpenMP's threads wait by spinning. Where something else keeps a core busy, such as Blender rendering, they
# spin for one that is not running: a head then took 57 to 83 seconds on two cores instead of 30, and no less alone.
POLICIES = {
    "OMP_WAIT_POLICY": "PASSIVE",  # GNU's libgomp, which torch brings on Linux
    "KMP_BLOCKTIME": "0",  # milliseconds; LLVM's and Intel's, on Windows and macOS
}


def wait_asleep() -> None:
    """Make waiting threads sleep, unless the user has set it otherwise. Without effect once torch is imported."""
    for name, value in POLICIES.items():
        os.environ.setdefault(name, value)
