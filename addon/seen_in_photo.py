"""The overlay "Seen in Photo": heads show which part of them the photo showed, and which was guessed.

It is a view of the head, not a change to it. A modifier lays a material of two colours over the head in the viewport
and never in a render; the head's own materials, whatever they are, stay in their slots. Solid shading knows no
materials, so the same colours are put into a colour attribute, and viewports show that attribute meanwhile.

All of it but the viewports' choice of colours is part of undo. `follow` brings them into line whenever the file may
have changed under them.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import numpy as np

from .import_head import VISIBILITY

OVERLAY = "Seen in Photo"  # name of the modifier, the colour attribute, the node group and the material
SEEN = np.array([0.90, 0.38, 0.06, 1.0], dtype=np.float32)  # linear; orange and blue differ for every eye
GUESSED = np.array([0.05, 0.20, 0.62, 1.0], dtype=np.float32)
ROUGHNESS = 0.8  # clay: highlights would look like a third colour
BY_ATTRIBUTE = "VERTEX"  # Blender's name for Solid shading in the colours of the active attribute
FORMER_ACTIVE = "headcast_former_active_colour"  # on a mesh: names of its own colour attributes, to be restored
FORMER_RENDER = "headcast_former_render_colour"
FORMER_SHADING = "headcast_former_solid_colours"  # on a screen: what each 3D viewport's Solid shading showed before


def heads(scene: bpy.types.Scene) -> Iterator[bpy.types.Object]:
    """The heads of a scene that know what the photo showed of them, and may be changed."""
    linked = {data for file in bpy.data.libraries for data in file.users_id}  # other files' data, not to be changed
    for thing in scene.objects:
        if thing.type != "MESH" or thing.mode == "EDIT" or not linked.isdisjoint((thing, thing.data)):
            continue
        attribute = thing.data.attributes.get(VISIBILITY)
        if attribute and (attribute.domain, attribute.data_type) == ("POINT", "FLOAT"):
            yield thing


def show(scene: bpy.types.Scene) -> None:
    """Lay the overlay over every head of the scene; where it is already, its colours are made anew."""
    for head in heads(scene):
        _colour(head.data)
        if OVERLAY not in head.modifiers:
            modifier = head.modifiers.new(OVERLAY, "NODES")
            modifier.node_group = _overlay_nodes()
            modifier.show_render = False
            modifier.show_expanded = False
    follow()


def hide(scene: bpy.types.Scene) -> None:
    """Take the overlay off again, with everything that came with it."""
    for head in heads(scene):
        _uncolour(head.data)
        if modifier := head.modifiers.get(OVERLAY):
            head.modifiers.remove(modifier)
    # Another scene of the file may still show it.
    for kind in (bpy.data.node_groups, bpy.data.materials):
        if (data := kind.get(OVERLAY)) and not data.users:
            kind.remove(data)
    follow()


@bpy.app.handlers.persistent
def follow(*_: object) -> None:
    """Have Solid shading show the overlay's colours if a window's scene has it on, and else what it showed before.

    All workspaces' viewports, because no event tells that the user changes to another one.
    """
    on = any(window.scene.headcast.show_seen for window in bpy.context.window_manager.windows)
    for screen in bpy.data.screens:
        shadings = [area.spaces.active.shading for area in screen.areas if area.type == "VIEW_3D"]
        if on and FORMER_SHADING not in screen:
            screen[FORMER_SHADING] = " ".join(shading.color_type for shading in shadings)
            for shading in shadings:
                shading.color_type = BY_ATTRIBUTE
        elif not on and FORMER_SHADING in screen:
            # A viewport that came later, or that the user has switched since, keeps what it shows.
            for shading, former in zip(shadings, screen[FORMER_SHADING].split(), strict=False):
                if shading.color_type == BY_ATTRIBUTE:
                    shading.color_type = former
            del screen[FORMER_SHADING]


# Viewports are not part of undo, nor always of a file that is loaded.
HANDLERS = (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post, bpy.app.handlers.load_post)


def register() -> None:
    """Have the viewports follow the file."""
    for handlers in HANDLERS:
        handlers.append(follow)


def unregister() -> None:
    """Take the overlay off in every scene: without the add-on, nobody could."""
    for scene in bpy.data.scenes:
        scene.headcast.show_seen = False
    for handlers in HANDLERS:
        handlers.remove(follow)


def _colour(mesh: bpy.types.Mesh) -> None:
    """Put visibility as colours into a colour attribute, and have that shown."""
    colours = mesh.color_attributes
    if OVERLAY not in colours:
        mesh[FORMER_ACTIVE] = colours.active_color_name
        mesh[FORMER_RENDER] = colours[colours.render_color_index].name if len(colours) else ""
        colours.new(OVERLAY, "FLOAT_COLOR", "POINT")
    visibility = np.empty(len(mesh.vertices), dtype=np.float32)
    mesh.attributes[VISIBILITY].data.foreach_get("value", visibility)
    shown = GUESSED + np.clip(visibility, 0, 1)[:, None] * (SEEN - GUESSED)
    colours[OVERLAY].data.foreach_set("color", shown.ravel())
    colours.active_color_name = OVERLAY
    mesh.update_tag()


def _uncolour(mesh: bpy.types.Mesh) -> None:
    """Take the colour attribute away; the one that was shown before is shown again."""
    colours = mesh.color_attributes
    if OVERLAY in colours:
        colours.remove(colours[OVERLAY])
    former, render = mesh.pop(FORMER_ACTIVE, ""), mesh.pop(FORMER_RENDER, "")
    if former in colours:
        colours.active_color_name = former
    if render in colours:
        colours.render_color_index = colours.find(render)
    mesh.update_tag()


def _overlay_nodes() -> bpy.types.NodeTree:
    """The modifier's node group: the head as it is, with another material."""
    if known := bpy.data.node_groups.get(OVERLAY):
        return known
    group = bpy.data.node_groups.new(OVERLAY, "GeometryNodeTree")
    group.is_modifier = True
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    came_in, paint = group.nodes.new("NodeGroupInput"), group.nodes.new("GeometryNodeSetMaterial")
    goes_out = group.nodes.new("NodeGroupOutput")
    paint.location, goes_out.location = (200, 0), (400, 0)
    paint.inputs["Material"].default_value = _overlay_material()
    group.links.new(came_in.outputs["Geometry"], paint.inputs["Geometry"])
    group.links.new(paint.outputs["Geometry"], goes_out.inputs["Geometry"])
    return group


def _overlay_material() -> bpy.types.Material:
    """Clay in the colours of the attribute, for Material Preview, EEVEE and Cycles."""
    if known := bpy.data.materials.get(OVERLAY):
        return known
    material = bpy.data.materials.new(OVERLAY)
    if bpy.app.version < (5, 0, 0):  # later ones always do, and warn when asked
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    colour, clay = tree.nodes.new("ShaderNodeVertexColor"), tree.nodes.new("ShaderNodeBsdfPrincipled")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    colour.layer_name = OVERLAY
    colour.location, output.location = (-240, 0), (320, 0)
    clay.inputs["Roughness"].default_value = ROUGHNESS
    tree.links.new(colour.outputs["Color"], clay.inputs["Base Color"])
    tree.links.new(clay.outputs["BSDF"], output.inputs["Surface"])
    return material
