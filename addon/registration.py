"""What Headcast adds to Blender, and takes out again."""

from __future__ import annotations

import bpy

from . import (
    doctor_operators,
    gpu_operators,
    model_operators,
    operators,
    panel,
    preferences,
    properties,
    reuse_operators,
    rig_operators,
    seen_in_photo,
    translations,
    turntable,
)
from .rig.face_control import HEADCAST_PG_rig
from .session import SESSION
from .worker_job import timers

CLASSES = (
    *properties.CLASSES,
    HEADCAST_PG_rig,
    *preferences.CLASSES,
    *operators.CLASSES,
    *model_operators.CLASSES,
    *doctor_operators.CLASSES,
    *gpu_operators.CLASSES,
    *reuse_operators.CLASSES,
    *rig_operators.CLASSES,
    *turntable.CLASSES,
    *panel.CLASSES,
)


def register() -> None:
    """Make every class known to Blender; nothing is started."""
    translations.register()
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.headcast = bpy.props.PointerProperty(type=properties.HEADCAST_PG_settings)
    bpy.types.Object.headcast_rig = bpy.props.PointerProperty(type=HEADCAST_PG_rig)
    properties.register()
    seen_in_photo.register()


def unregister() -> None:
    """End what runs, then forget every class: no timer and no process stays behind."""
    timers.stop()
    SESSION.close()
    gpu_operators.stop()
    model_operators.passing.forget()
    seen_in_photo.unregister()
    properties.unregister()
    del bpy.types.Object.headcast_rig
    del bpy.types.Scene.headcast
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    translations.unregister()
