"""The extension as Blender sees it: one package, under a name that is not ours to choose."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if "headcast" not in sys.modules:
    # Inside Blender this folder is bl_ext.user_default.headcast; the add-on reaches its sibling by `..inference`.
    # The folder's own __init__.py is Blender's entry and not run here.
    spec = importlib.machinery.ModuleSpec("headcast", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["headcast"] = importlib.util.module_from_spec(spec)
