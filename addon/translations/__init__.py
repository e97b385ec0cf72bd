"""The interface in other languages: a catalogue for each, JSON from the English text to the language's.

Catalogues are named by language alone, such as de.json: Blender looks there for de_DE and every other country too, and
shows English where a text is missing. A test keeps them whole.
"""

from __future__ import annotations

import json
from pathlib import Path

import bpy

from .. import EXTENSION

# Blender looks up buttons of operators in a context of their own.
CONTEXTS = (bpy.app.translations.contexts.default, bpy.app.translations.contexts.operator_default)


def register() -> None:
    """Make every catalogue known to Blender."""
    bpy.app.translations.register(EXTENSION, catalogues())


def unregister() -> None:
    """Have Blender forget them."""
    bpy.app.translations.unregister(EXTENSION)


def catalogues() -> dict[str, dict[tuple[str, str], str]]:
    """By language, then by context and English text: what Blender wants."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.json")):
        texts: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = {(context, text): said for text, said in texts.items() for context in CONTEXTS}
    return found
