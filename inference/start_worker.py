"""The file Blender starts: finds the packages by its arguments, then becomes the worker.

    python -I start_worker.py ROOT [FOLDER ...]

ROOT holds the package `inference`; each FOLDER holds packages the Python itself lacks, such as the extension's wheels.
Under -I neither PYTHONPATH nor -m work, so folders travel as arguments.
"""

import os
import sys
from pathlib import Path


def prepare(root: str, folders: list[str]) -> None:
    """Make `inference` importable, and the wheels' packages behind those the Python has: Blender's numpy must win."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [root, *(path for path in sys.path if path != here), *folders]
    if sys.platform == "win32":
        for folder in folders:
            libraries = Path(folder) / "torch" / "lib"
            if libraries.is_dir():
                os.add_dll_directory(str(libraries))
                break  # the torch that is imported; another one's libraries must not mix in


if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2:])
    from inference.worker import main

    main()
