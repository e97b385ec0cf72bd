"""Which texts a user of the add-on can read, found in its source: what every catalogue of translations must hold.

Sentences are recognised by their looks: they begin with a capital and have a space in them. Single words are those
that stand where Blender shows text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[1]
SHOWN_KEYWORDS = {"name", "description", "text", "title", "message", "hint", "confirm_text"}
SHOWN_ATTRIBUTES = {"bl_label", "message", "hint", "cancelled"}
PROGRESS_CALLS = {"stage", "progress", "step"}  # of the engine: the label on the progress bar
FAILURE_CALLS = {"Failed"}  # of the engine: message and hint
WARNING_CALLS = {"append"}  # of the engine: warnings that come with a head
FINDING_CALLS = {"Finding", "_asked", "replace"}  # of the doctors on both sides: topics and what they are like
FINDING_NAMES = {"text", "trouble", "hint"}  # what the doctors call these texts before they are put together
# Names of data that the add-on makes, which keep their names whatever the language.
NO_TEXTS = frozenset(
    {
        "Subsurface Radius",
        "Subsurface Scale",
        "Subsurface Weight",
        "Specular IOR Level",
        "Base Color",
        "Basis",
        "Coat IOR",
        "Coat Roughness",
        "Coat Weight",
        "Coat of the lips",
        "Held by Face Shapes",
        "Jaw Limits",
        "Look At",
        "Rig",
        "Rigged Head",
        "To Min",
        "To Max",
        "Photo Camera",
        "Turntable Backdrop",
        "Turntable Camera",
        "Turntable Pivot",
        "Matches the photo in a square render, such as 1024 x 1024.",
    }
)


def texts() -> set[str]:
    """Everything that is shown: the add-on's own texts, the engine's errors, and the labels of its progress."""
    found: set[str] = set()
    for path in sorted((ROOT / "addon").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {*_of_addon(tree), *(_of_doctor(tree) if path.name == "doctor.py" else ())}
    for path in sorted((ROOT / "inference").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {*_of_engine(tree, path.name == "errors.py"), *(_of_doctor(tree) if path.name == "doctor.py" else ())}
    return found - NO_TEXTS


def _of_addon(tree: ast.Module) -> Iterator[str]:
    # What is put together while the program runs cannot be looked up.
    composed = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    not_shown = composed | {_docstring_node(node) for node in ast.walk(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name.startswith("HEADCAST_"):
            if "_OT_" in node.name and (told := ast.get_docstring(node)):
                yield told
            yield from _named_texts(node)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in SHOWN_KEYWORDS and not isinstance(keyword.value, ast.JoinedStr):
                    yield from _words(keyword.value)
        elif isinstance(node, ast.Tuple):
            # An item of a menu has its label before its description.
            for label, description in pairwise(node.elts):
                if _is_text(label) and _is_text(description) and _is_sentence(description.value):
                    yield from _words(label)
        elif isinstance(node, ast.Constant) and node not in not_shown and _is_sentence(node.value):
            yield node.value


def _of_engine(tree: ast.Module, is_errors: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if is_errors and isinstance(node, ast.ClassDef):
            yield from _named_texts(node)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in PROGRESS_CALLS and len(node.args) == 2:
                yield from _words(node.args[1])
            elif called in FAILURE_CALLS:
                said = [*node.args[:2], *(given.value for given in node.keywords if given.arg in ("message", "hint"))]
                yield from (text for argument in said for text in _words(argument))
            elif called in WARNING_CALLS and _is_text(node.args[0]) and _is_sentence(node.args[0].value):
                yield node.args[0].value


def _of_doctor(tree: ast.Module) -> Iterator[str]:
    """Findings: small letters too, for a finding goes on after its topic."""
    said: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in FINDING_CALLS:
            said += [*node.args, *(given.value for given in node.keywords if given.arg in FINDING_NAMES)]
        elif isinstance(node, ast.Assign) and {name.id for name in _names(node.targets[0])} & FINDING_NAMES:
            said.append(node.value)
    # What a call within is given, such as a lambda or a number's format, is no text.
    for value in said:
        for part in value.elts if isinstance(value, ast.Tuple) else [value]:
            for text in (part.body, part.orelse) if isinstance(part, ast.IfExp) else [part]:
                if _is_text(text) and re.search("[A-Za-z]", re.sub(r"{\w+}", "", text.value)):
                    yield text.value


def _names(target: ast.expr) -> Iterator[ast.Name]:
    return (node for node in ast.walk(target) if isinstance(node, ast.Name))


def _named_texts(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") in SHOWN_ATTRIBUTES:
            yield from _words(statement.value)


def _words(value: ast.expr) -> Iterator[str]:
    """Texts with letters in an expression: also of both branches of `a if b else c`."""
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value[:1].isupper():
            yield node.value


def _is_text(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and value[:1].isupper() and " " in value.strip()


def _docstring_node(node: ast.AST) -> ast.Constant | None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first.value
    return None
