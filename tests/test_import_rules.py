"""Who may import whom, read from the syntax trees: layers, network, pickles, and bpy only where Blender calls."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BLENDER = {"addon_utils", "bl_ui", "bmesh", "bpy", "bpy_extras", "gpu", "gpu_extras", "mathutils"}
INFERENCE_LIBRARIES = {
    "fast_simplification", "numpy", "PIL", "safetensors", "scipy", "skimage", "torch", "trimesh",
}  # fmt: skip
TRAINING_LIBRARIES = INFERENCE_LIBRARIES | {"anny", "embreex", "numba"}
PROJECT = {"addon", "inference", "tests", "training", "wheels"}
NETWORK = {
    "aiohttp", "ftplib", "http", "httpx", "imaplib", "poplib", "requests", "smtplib", "socket", "socketserver", "ssl",
    "urllib", "urllib3", "webbrowser", "xmlrpc",
}  # fmt: skip
RUNS_CODE_OF_FILES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}

BARE_PACKAGES = {"__init__.py", "inference/__init__.py"}  # imported at Blender's start, by a Blender without the wheels
EXTRAS = {"inference/ray_cluster.py": "ray"}  # installed by those who want it, imported in a function
# Fetches the locked files of the GPU engine on the user's click. No other shipped file opens a connection.
CONNECTS = {"addon/gpu_engine.py": {"http.client", "urllib.error", "urllib.request"}}
# Run as files, outside any package: a relative import is impossible there.
SCRIPTS = {"inference/start_worker.py", "inference/try_gpu_engine.py"}


@dataclass(frozen=True)
class Layer:
    """What the files of one package may import beside the standard library.

    libraries: installed packages, by their top name.
    absolute:  packages of this project by their own name.
    siblings:  dotted names in sister packages that a relative import may reach; its own package is always open.
    offline:   network modules are refused too.
    """

    libraries: frozenset[str]
    absolute: frozenset[str] = frozenset()
    siblings: frozenset[str] = frozenset()
    offline: bool = False


LAYERS = {
    "": Layer(frozenset({"bpy"}), siblings=frozenset({"addon"}), offline=True),  # Blender's entry, __init__.py
    "addon": Layer(frozenset(BLENDER | {"numpy"}), siblings=frozenset({"inference.messages"}), offline=True),
    "inference": Layer(frozenset(INFERENCE_LIBRARIES), offline=True),
    "training": Layer(frozenset(TRAINING_LIBRARIES), absolute=frozenset({"inference", "training"})),
    # Runs on any Python, before anything is installed.
    "wheels": Layer(frozenset({"pip"}), absolute=frozenset({"wheels"})),
}
MESSAGES = Layer(frozenset(), offline=True)  # both sides of the wire read it


def layer_of(path: str) -> Layer:
    """The rules for a file, by its path from the project's folder."""
    if path == "inference/messages.py":
        return MESSAGES
    return LAYERS[path.split("/")[0] if "/" in path else ""]


def violations(source: str, path: str) -> list[str]:
    """Every broken rule as `path:line: what`."""
    tree, layer = ast.parse(source, path), layer_of(path)
    found = [
        f"{path}:{line}: {problem}"
        for line, name in imported_names(tree, path)
        if (problem := refused(name, path, layer))
    ]
    found += [f"{path}:{line}: {problem}" for line, problem in calls_that_run_code_of_files(tree)]
    if path in BARE_PACKAGES:
        found += [f"{path}:{line}: {problem}" for line, problem in work_at_import(tree)]
    return found


def imported_names(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    """(line, name) of each import, wherever it stands.

    Relative ones are resolved and written from the project's folder with a leading dot: `.inference.messages`.
    """
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package) + 1:
                yield node.lineno, ".."  # above the project's folder
                continue
            base = package[: len(package) + 1 - node.level]
            for alias in node.names:
                # `from . import camera` names a module, `from .camera import Camera` a thing in one.
                yield node.lineno, "." + ".".join([*base, node.module or alias.name])
        elif isinstance(node, ast.Call) and called(node) in {"__import__", "importlib.import_module", "import_module"}:
            first = node.args[0] if node.args else None
            constant = isinstance(first, ast.Constant) and isinstance(first.value, str)
            yield node.lineno, first.value if constant else "a name not written out"


def refused(name: str, path: str, layer: Layer) -> str | None:
    """Why this file may not import that name, or None if it may."""
    if name.startswith("."):
        return refused_relative(name[1:], path, layer)
    top = name.split(".")[0]
    if top in RUNS_CODE_OF_FILES:
        return f"{name} runs code found in files"
    if layer.offline and top in NETWORK and name != "urllib.parse" and name not in CONNECTS.get(path, ()):
        return f"{name} reaches for the network; nothing leaves the machine"
    if top in PROJECT:
        allowed = top in layer.absolute or (path in SCRIPTS and top == path.split("/")[0])
        return None if allowed else f"{name} is not importable by that name here; import it relatively, if at all"
    if top in sys.stdlib_module_names or top in layer.libraries or top == EXTRAS.get(path):
        return None
    return f"{name} does not belong in this layer"


def refused_relative(name: str, path: str, layer: Layer) -> str | None:
    """The same for a relative import, `name` written from the project's folder without its leading dot."""
    own = path.split("/")[0] if "/" in path else None
    if layer is MESSAGES:
        return f".{name}: messages.py stands alone"
    if own is not None and name.split(".")[0] == own:
        return None
    if any(name == sibling or name.startswith(sibling + ".") for sibling in layer.siblings):
        return None
    return f".{name} is another layer's"


def called(node: ast.Call) -> str:
    """The dotted name of what is called, as written; empty for anything that is not a plain name."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def calls_that_run_code_of_files(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of eval, exec, and loaders that unpickle."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        options = {option.arg: option.value for option in node.keywords}
        match called(node):
            case "eval" | "exec" as name:
                yield node.lineno, f"{name} runs text as code"
            case "torch.load" if not is_true(options.get("weights_only")):
                yield node.lineno, "torch.load without weights_only=True unpickles"
            case "np.load" | "numpy.load" if "allow_pickle" in options:
                yield node.lineno, "numpy.load with allow_pickle unpickles"


def is_true(node: ast.expr | None) -> bool:
    """Whether the expression is the word True."""
    return isinstance(node, ast.Constant) and node.value is True


def work_at_import(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of statements that do anything when the package is imported."""
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (docstring or future or isinstance(node, ast.FunctionDef)):
            yield node.lineno, "this __init__.py only defines functions"


def project_files() -> list[str]:
    """Every Python file the rules are for, by its path from the project's folder."""
    files = [file for package in LAYERS if package for file in (ROOT / package).rglob("*.py")]
    files += ROOT.glob("*.py")
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


@pytest.mark.parametrize("path", project_files())
def test_file_imports_only_what_its_layer_may(path: str) -> None:
    assert violations((ROOT / path).read_text(encoding="utf-8"), path) == []


def test_every_layer_has_files() -> None:
    """An empty list would pass the test above in silence."""
    assert {path.split("/")[0] if "/" in path else "" for path in project_files()} == set(LAYERS)


BROKEN = {
    "addon reaches torch": ("addon/panel.py", "import torch"),
    "addon reaches skimage in a function": ("addon/panel.py", "def f():\n    from skimage import measure"),
    "addon reaches trimesh by name": ("addon/panel.py", "import importlib\nimportlib.import_module('trimesh')"),
    "addon reaches the pipeline": ("addon/operators.py", "from ..inference import pipeline"),
    "addon reaches the pipeline's inside": ("addon/operators.py", "from ..inference.pipeline import reconstruct"),
    "addon uses an absolute name": ("addon/operators.py", "from inference.messages import Done"),
    "addon climbs out": ("addon/operators.py", "from ...elsewhere import thing"),
    "addon opens a socket": ("addon/preferences.py", "import urllib.request"),
    "the GPU engine listens": ("addon/gpu_engine.py", "import http.server"),
    "the GPU engine opens a socket of its own": ("addon/gpu_engine.py", "import socket"),
    "inference reaches Blender": ("inference/bake.py", "import bpy"),
    "inference reaches mathutils": ("inference/bake.py", "from mathutils import Vector"),
    "inference reaches the add-on": ("inference/bake.py", "from ..addon.material import skin"),
    "inference reaches training": ("inference/bake.py", "from training.losses import lpips"),
    "inference uses an absolute name": ("inference/bake.py", "from inference.camera import Camera"),
    "inference downloads": ("inference/checkpoints.py", "from urllib.request import urlopen"),
    "inference takes a stray library": ("inference/bake.py", "import cv2"),
    "inference needs an extra": ("inference/batch.py", "import ray"),
    "inference unpickles": ("inference/checkpoints.py", "import pickle"),
    "inference unpickles through torch": ("inference/checkpoints.py", "import torch\ntorch.load(path)"),
    "weights_only is switched off": ("inference/checkpoints.py", "import torch\ntorch.load(p, weights_only=False)"),
    "inference unpickles through numpy": ("inference/photo.py", "import numpy as np\nnp.load(p, allow_pickle=True)"),
    "inference evaluates text": ("inference/generator.py", "eval('1 + 1')"),
    "messages import a sibling": ("inference/messages.py", "from .errors import HeadcastError"),
    "messages import numpy": ("inference/messages.py", "import numpy"),
    "training reaches Blender": ("training/heads/render.py", "import bpy"),
    "training reaches the add-on": ("training/heads/render.py", "from addon import rig"),
    "training unpickles": ("training/checkpoint.py", "import torch\ntorch.load(path, map_location='cpu')"),
    "the entry imports bpy at once": ("__init__.py", "import bpy"),
    "a package works at import": ("inference/__init__.py", "from .pipeline import reconstruct"),
}


@pytest.mark.parametrize(("path", "source"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_rule_is_found(path: str, source: str) -> None:
    assert violations(source, path) != []


KEPT = {
    "addon reads messages": ("addon/operators.py", "import bpy\nfrom ..inference.messages import Done"),
    "inference uses its libraries": ("inference/bake.py", "import json\nimport torch\nfrom .camera import Camera"),
    "a network goes into evaluation mode": ("inference/generator.py", "network.eval()"),
    "training uses inference": ("training/losses.py", "from inference.generator import TriPlaneGenerator"),
    "training resumes": ("training/checkpoint.py", "import torch\ntorch.load(path, weights_only=True)"),
    "the GPU engine fetches": ("addon/gpu_engine.py", "import http.client\nimport urllib.error\nimport urllib.request"),
    "the entry imports bpy when called": ("__init__.py", "def register():\n    import bpy\n    from . import addon"),
}


@pytest.mark.parametrize(("path", "source"), KEPT.values(), ids=KEPT.keys())
def test_kept_rule_is_not_reported(path: str, source: str) -> None:
    assert violations(source, path) == []
