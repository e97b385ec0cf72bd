"""What panel and preferences both draw: the running job, and sentences longer than a line."""

from __future__ import annotations

import textwrap

import bpy
from bpy.app.translations import pgettext_iface, pgettext_rpt

from .session import SESSION

CHARACTER_WIDTH_PX = 7  # of Blender's interface font at scale 1, on the average
MARGIN_PX = 60  # box borders and the icon
FEWEST_CHARACTERS = 20  # to a line, however narrow the region


def draw_progress(layout: bpy.types.UILayout) -> None:
    """How far the running job is, and the button that gives it up."""
    label = "Cancelling" if SESSION.cancelling else SESSION.progress.label
    layout.progress(factor=SESSION.progress.fraction, type="BAR", text=pgettext_iface(label), translate=False)
    layout.operator("headcast.cancel", icon="CANCEL")


def draw_wrapped(context: bpy.types.Context, layout: bpy.types.UILayout, text: str, icon: str) -> None:
    """Label broken into lines: Blender's labels are cut off at the region's edge."""
    width = context.region.width / context.preferences.system.ui_scale - MARGIN_PX
    column = layout.column(align=True)
    for line in textwrap.wrap(pgettext_rpt(text), max(FEWEST_CHARACTERS, int(width / CHARACTER_WIDTH_PX))):
        column.label(text=line, icon=icon, translate=False)
        icon = "BLANK1"
