"""What many tests need: a photo, a model that is fast, and the extension as Blender sees it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.neck_and_sphere import write_weights

ROOT = Path(__file__).resolve().parents[1]

if "headcast" not in sys.modules:
    # Inside Blender this folder is bl_ext.user_default.headcast; the add-on reaches its sibling by `..inference`.
    # The folder's own __init__.py is Blender's entry and not run here.
    spec = importlib.machinery.ModuleSpec("headcast", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["headcast"] = importlib.util.module_from_spec(spec)


@pytest.fixture(scope="session")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public-domain portrait of scikit-image, under a path with a space and letters beyond ASCII."""
    path = tmp_path_factory.mktemp("photos of Zoë 写真") / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


@pytest.fixture(scope="session")
def simple_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`Options.model` of a sphere on a neck: fast, and made without training."""
    return str(write_weights(tmp_path_factory.mktemp("weights") / "simple.safetensors"))
