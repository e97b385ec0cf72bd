from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.blender.conftest import part

pytestmark = pytest.mark.blender


def known_types(bpy: ModuleType) -> Iterator[tuple[type, Any]]:
    """Each class of the add-on with what Blender has made of it."""
    for cls in part("registration").CLASSES:
        if issubclass(cls, bpy.types.Operator):
            module, name = cls.bl_idname.split(".")
            yield cls, getattr(getattr(bpy.ops, module), name).get_rna_type()
        else:
            yield cls, cls.bl_rna


def test_what_blender_knows_of_the_addon_is_translated(blender: ModuleType) -> None:
    """The classes are asked, and not the source searched, as the other test of the catalogues does."""
    shown = set()
    for cls, told in known_types(blender):
        shown.add(getattr(cls, "bl_label", ""))
        if issubclass(cls, blender.types.Operator):
            shown.add(told.description)
        for item in told.properties:
            if item.identifier in getattr(cls, "__annotations__", {}) and not item.is_hidden:
                shown |= {item.name, item.description}
                if item.type == "ENUM":
                    shown |= {text for choice in item.enum_items_static for text in (choice.name, choice.description)}
    assert {"Reconstruct Head", "Fit to Photo", "Open a picture from disk as the photo to reconstruct"} <= shown
    # Properties that nobody sees are named by their identifiers.
    shown = {text for text in shown if text and text[0].isupper()}
    for language, texts in part("translations").catalogues().items():
        for context in ("*", "Operator"):
            assert sorted(shown - {text for where, text in texts if where == context}) == [], language
