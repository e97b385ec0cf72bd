"""What a rig is made of: skin with its maps, wet eyes and lips, a moist mouth, hair. For Cycles and EEVEE."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..material import HAIR_SURFACE, SKIN_SURFACE, Shader, principled_material, scatter
from ..packed_image import packed_image
from .rig_mesh import LIPS, UV_NAME

SKIN_NAME, EYES_NAME, MOUTH_NAME, HAIR_NAME = "rig_skin.png", "rig_eyes.png", "rig_mouth.png", "rig_hair.png"
NORMAL_NAME, SURFACE_NAME = "rig_normal.png", "rig_surface.png"

# Linear colours for rigs whose worker did not paint these.
EYE_WHITE = (0.62, 0.56, 0.52)
MOUTH_RED = (0.30, 0.10, 0.09)
HAIR_BROWN = (0.05, 0.03, 0.02)

LIP_COAT = {"Coat Roughness": 0.25}  # moist, not glossed
LIP_COAT_WEIGHT = 0.35
# Eyes: the coat is the tear film over the cornea, which mirrors sharply. What lies below it hardly does, or the pupil
# would look grey.
EYE_SURFACE = {
    "Roughness": 0.5,
    "Specular IOR Level": 0.1,
    "Coat Weight": 1.0,
    "Coat Roughness": 0.02,
    "Coat IOR": 1.376,  # of the cornea
}
MOUTH_SURFACE = {"Roughness": 0.4, "Coat Weight": 0.5, "Coat Roughness": 0.15, "Subsurface Weight": 0.2}


def skin_with_maps(folder: Path, title: str, unit_m: float) -> bpy.types.Material:
    """New material of the quad mesh's skin, with normals, roughness and specular level where the folder has them.

    Raises RuntimeError for a picture that cannot be read.
    """
    shader = principled_material(f"{title} rig skin", packed_image(folder / SKIN_NAME, f"{title} rig albedo"))
    shader.set(SKIN_SURFACE)
    shader.set(LIP_COAT)
    scatter(shader, unit_m)
    lips = shader.node("ShaderNodeAttribute", -640, -500)
    lips.attribute_name = LIPS
    coat = shader.node("ShaderNodeMath", -320, -500)
    coat.label, coat.operation = "Coat of the lips", "MULTIPLY"
    coat.inputs[1].default_value = LIP_COAT_WEIGHT
    shader.link(lips.outputs["Fac"], coat.inputs[0])
    shader.link(coat.outputs["Value"], shader.principled.inputs["Coat Weight"])
    if (folder / SURFACE_NAME).is_file():
        _add_surface(shader, packed_image(folder / SURFACE_NAME, f"{title} rig surface", colours=False))
    if (folder / NORMAL_NAME).is_file():
        _add_normals(shader, packed_image(folder / NORMAL_NAME, f"{title} rig normals", colours=False))
    return shader.material


def eyes(folder: Path, title: str) -> bpy.types.Material:
    """New material of both eyeballs. Raises RuntimeError for a picture that cannot be read."""
    shader = _painted(folder / EYES_NAME, f"{title} rig eyes", EYE_WHITE)
    shader.set(EYE_SURFACE)
    return shader.material


def mouth(folder: Path, title: str, unit_m: float) -> bpy.types.Material:
    """New material of teeth, gums and tongue. Raises RuntimeError for a picture that cannot be read."""
    shader = _painted(folder / MOUTH_NAME, f"{title} rig mouth", MOUTH_RED)
    scatter(shader, unit_m)
    shader.set(MOUTH_SURFACE)
    return shader.material


def hair(folder: Path, title: str) -> bpy.types.Material:
    """New material of the solid of hair. Raises RuntimeError for a picture that cannot be read."""
    shader = _painted(folder / HAIR_NAME, f"{title} rig hair", HAIR_BROWN)
    shader.set(HAIR_SURFACE)
    return shader.material


def _painted(picture: Path, name: str, colour: tuple[float, float, float]) -> Shader:
    """A material in the colours of a picture, or in one colour where the folder has no such picture."""
    shader = principled_material(name, packed_image(picture, name) if picture.is_file() else None)
    shader.principled.inputs["Base Color"].default_value = (*colour, 1.0)
    return shader


def _add_surface(shader: Shader, picture: bpy.types.Image) -> None:
    """Roughness from green, as glTF has it, and specular level from blue."""
    texture = shader.texture(picture, -640, -300)
    channels = shader.node("ShaderNodeSeparateColor", -320, -300)
    shader.link(texture.outputs["Color"], channels.inputs["Color"])
    shader.link(channels.outputs["Green"], shader.principled.inputs["Roughness"])
    shader.link(channels.outputs["Blue"], shader.principled.inputs["Specular IOR Level"])


def _add_normals(shader: Shader, picture: bpy.types.Image) -> None:
    texture = shader.texture(picture, -640, -760)
    bend = shader.node("ShaderNodeNormalMap", -320, -760)  # tangent space, green up: Blender's own convention
    bend.uv_map = UV_NAME
    shader.link(texture.outputs["Color"], bend.inputs["Color"])
    shader.link(bend.outputs["Normal"], shader.principled.inputs["Normal"])
