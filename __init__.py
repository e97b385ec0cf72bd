"""Headcast for Blender: one portrait photo becomes a textured 360-degree head. Only Blender loads this file."""

from __future__ import annotations


def register() -> None:
    """Add the panel, its operators, settings and preferences to Blender."""
    from .addon import registration

    registration.register()


def unregister() -> None:
    """Take everything out again; a running job is given up and the worker ended."""
    from .addon import registration

    registration.unregister()
