"""What comes into the file comes in whole: after an error nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import bpy

# Everything an import may add to the file, objects before what they show.
DATABLOCKS = (
    "objects", "meshes", "armatures", "cameras", "materials", "images", "collections", "node_groups", "actions",
)  # fmt: skip


class ImportFailed(Exception):
    """A result folder could not be brought into the scene: `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


def everything() -> dict[str, set[bpy.types.ID]]:
    """What the file holds of each of these kinds."""
    return {kind: set(getattr(bpy.data, kind)) for kind in DATABLOCKS}


@contextmanager
def all_or_nothing(context: bpy.types.Context) -> Iterator[None]:
    """Take everything out of the file again that came in during the block, if the block raises.

    Selection and active object are as before then; what else the block has changed is its own to restore.
    """
    known = everything()
    active = context.view_layer.objects.active
    selected = [thing for thing in context.view_layer.objects if thing.select_get()]
    try:
        yield
    except BaseException:
        for kind in DATABLOCKS:
            bpy.data.batch_remove([thing for thing in getattr(bpy.data, kind) if thing not in known[kind]])
        for thing in selected:
            thing.select_set(True)
        context.view_layer.objects.active = active
        raise


def select_only(context: bpy.types.Context, chosen: bpy.types.Object) -> None:
    """Select one object of the view layer and make it active."""
    for thing in context.view_layer.objects:
        thing.select_set(thing == chosen)
    context.view_layer.objects.active = chosen
