"""Headcast inside Blender: panel, operators, import. Everything that needs torch runs in another process."""

from __future__ import annotations

# What Blender calls the extension, such as bl_ext.user_default.headcast: the repository it came from is in the name.
EXTENSION = __package__.rpartition(".")[0]
