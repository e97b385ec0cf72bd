"""Skin and hair on Blender's Principled BSDF, for Cycles and EEVEE of 4.2 and later."""

from __future__ import annotations

import bpy

# Mean free path of light in skin, red, green, blue, metres (Jensen et al., SIGGRAPH 2001, table 1, "skin1").
SCATTERING_M = (3.673e-3, 1.367e-3, 0.683e-3)
HAIR = "hair"  # point attribute: how surely a place is covered by hair, 0 where there is no such attribute
# Inputs of the Principled BSDF: on skin, and on hair, which is a smooth solid and would shine like lacquer.
SURFACE = {
    "Roughness": (0.55, 0.85),  # dry skin; the photo's own highlights are already in the colours
    "Specular IOR Level": (0.5, 0.15),
    "Subsurface Weight": (0.35, 0.0),  # of skin not 1: brows and beards share it, and would glow
}
SKIN_IOR = 1.4


def skin_material(name: str, albedo: bpy.types.Image, unit_m: float) -> bpy.types.Material:
    """New material that shows `albedo` as skin and, where the mesh's attribute says so, as hair.

    unit_m: metres in one Blender unit of the scene, since light travels a real distance under the skin.
    """
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0, 0):  # later ones always do, and warn when asked
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()

    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image = albedo
    texture.location = (-320, 0)
    skin = tree.nodes.new("ShaderNodeBsdfPrincipled")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    output.location = (320, 0)

    skin.inputs["Subsurface Radius"].default_value = [path / SCATTERING_M[0] for path in SCATTERING_M]
    skin.inputs["Subsurface Scale"].default_value = SCATTERING_M[0] / unit_m
    skin.inputs["IOR"].default_value = SKIN_IOR
    hair = tree.nodes.new("ShaderNodeAttribute")
    hair.attribute_name = HAIR
    hair.location = (-560, -320)
    for row, (name, (on_skin, on_hair)) in enumerate(SURFACE.items()):
        between = tree.nodes.new("ShaderNodeMapRange")
        between.label = name
        between.inputs["To Min"].default_value, between.inputs["To Max"].default_value = on_skin, on_hair
        between.location = (-320, -320 - 280 * row)
        skin.inputs[name].default_value = on_skin  # what is left if a user takes the link away
        tree.links.new(hair.outputs["Fac"], between.inputs["Value"])
        tree.links.new(between.outputs["Result"], skin.inputs[name])
    tree.links.new(texture.outputs["Color"], skin.inputs["Base Color"])
    tree.links.new(skin.outputs["BSDF"], output.inputs["Surface"])
    return material
