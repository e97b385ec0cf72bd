"""Skin and hair on Blender's Principled BSDF, for Cycles and EEVEE of 4.2 and later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import bpy

# Mean free path of light in skin, red, green, blue, metres (Jensen et al., SIGGRAPH 2001, table 1, "skin1").
SCATTERING_M = (3.673e-3, 1.367e-3, 0.683e-3)
HAIR = "hair"  # point attribute: how surely a place is covered by hair, 0 where there is no such attribute
# Inputs of the Principled BSDF. Dry skin: the photo's own highlights are already in the colours. Its subsurface weight
# is not 1: brows and beards share the skin, and would glow. Hair is a smooth solid and would shine like lacquer.
SKIN_SURFACE = {"Roughness": 0.55, "Specular IOR Level": 0.5, "Subsurface Weight": 0.35}
HAIR_SURFACE = {"Roughness": 0.85, "Specular IOR Level": 0.15, "Subsurface Weight": 0.0}
SKIN_IOR = 1.4


@dataclass(frozen=True)
class Shader:
    """A material in the making, and the Principled BSDF that it is."""

    material: bpy.types.Material
    principled: bpy.types.ShaderNode

    def set(self, inputs: Mapping[str, float]) -> None:
        """Set numbers of the Principled BSDF by their names."""
        for name, value in inputs.items():
            self.principled.inputs[name].default_value = value

    def node(self, kind: str, x: float, y: float) -> bpy.types.ShaderNode:
        """New node of Blender's kind at a place in the editor."""
        made = self.material.node_tree.nodes.new(kind)
        made.location = (x, y)
        return made

    def texture(self, image: bpy.types.Image, x: float, y: float) -> bpy.types.ShaderNode:
        """New node that reads an image by the mesh's UV map."""
        made = self.node("ShaderNodeTexImage", x, y)
        made.image = image
        return made

    def link(self, output: bpy.types.NodeSocket, into: bpy.types.NodeSocket) -> None:
        """Join two sockets."""
        self.material.node_tree.links.new(output, into)


def principled_material(name: str, albedo: bpy.types.Image | None) -> Shader:
    """New material of one Principled BSDF in the colours of `albedo`, or in one colour without."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0, 0):  # later ones always do, and warn when asked
        material.use_nodes = True
    material.node_tree.nodes.clear()
    shader = Shader(material, material.node_tree.nodes.new("ShaderNodeBsdfPrincipled"))
    output = shader.node("ShaderNodeOutputMaterial", 320, 0)
    if albedo is not None:
        shader.link(shader.texture(albedo, -320, 0).outputs["Color"], shader.principled.inputs["Base Color"])
    shader.link(shader.principled.outputs["BSDF"], output.inputs["Surface"])
    return shader


def scatter(shader: Shader, unit_m: float) -> None:
    """Let light travel below the surface as it does in skin.

    unit_m: metres in one Blender unit of the scene, since light travels a real distance.
    """
    shader.principled.inputs["Subsurface Radius"].default_value = [path / SCATTERING_M[0] for path in SCATTERING_M]
    shader.set({"Subsurface Scale": SCATTERING_M[0] / unit_m, "IOR": SKIN_IOR})


def skin_material(name: str, albedo: bpy.types.Image, unit_m: float) -> bpy.types.Material:
    """New material that shows `albedo` as skin and, where the mesh's attribute says so, as hair.

    unit_m: metres in one Blender unit of the scene.
    """
    shader = principled_material(name, albedo)
    scatter(shader, unit_m)
    shader.set(SKIN_SURFACE)  # what is left if a user takes the links away
    hair = shader.node("ShaderNodeAttribute", -560, -320)
    hair.attribute_name = HAIR
    for row, (name, on_skin) in enumerate(SKIN_SURFACE.items()):
        between = shader.node("ShaderNodeMapRange", -320, -320 - 280 * row)
        between.label = name
        between.inputs["To Min"].default_value, between.inputs["To Max"].default_value = on_skin, HAIR_SURFACE[name]
        shader.link(hair.outputs["Fac"], between.inputs["Value"])
        shader.link(between.outputs["Result"], shader.principled.inputs[name])
    return shader.material
