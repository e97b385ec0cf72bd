"""Skin on Blender's Principled BSDF, for Cycles and EEVEE of 4.2 and later."""

from __future__ import annotations

import bpy

# Mean free path of light in skin, red, green, blue, metres (Jensen et al., SIGGRAPH 2001, table 1, "skin1").
SCATTERING_M = (3.673e-3, 1.367e-3, 0.683e-3)
SUBSURFACE_WEIGHT = 0.35  # not 1: hair and brows share the texture, and would glow
ROUGHNESS = 0.55  # dry skin; the photo's own highlights are already in the colours
SKIN_IOR = 1.4


def skin_material(name: str, albedo: bpy.types.Image, unit_m: float) -> bpy.types.Material:
    """New material that shows `albedo` as skin.

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

    skin.inputs["Subsurface Weight"].default_value = SUBSURFACE_WEIGHT
    skin.inputs["Subsurface Radius"].default_value = [path / SCATTERING_M[0] for path in SCATTERING_M]
    skin.inputs["Subsurface Scale"].default_value = SCATTERING_M[0] / unit_m
    skin.inputs["Roughness"].default_value = ROUGHNESS
    skin.inputs["IOR"].default_value = SKIN_IOR
    tree.links.new(texture.outputs["Color"], skin.inputs["Base Color"])
    tree.links.new(skin.outputs["BSDF"], output.inputs["Surface"])
    return material
