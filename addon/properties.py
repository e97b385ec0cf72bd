"""What the user chooses for a head: `scene.headcast`, saved with the file."""

from __future__ import annotations

import zlib
from pathlib import Path

import bpy
from bpy.props import EnumProperty, IntProperty, PointerProperty

from ..inference.messages import Options
from . import EXTENSION

DEFAULTS = Options()
MODEL_SUFFIX = ".safetensors"

# Identifier: label, description, (grid, faces, texture).
QUALITIES = {
    "DRAFT": ("Draft", "Fast, to see whether the photo works", (128, 10_000, 1024)),
    "STANDARD": ("Standard", "For most uses", (DEFAULTS.grid, DEFAULTS.faces, DEFAULTS.texture)),
    "FINE": ("Fine", "Finest surface and texture; takes longer and more memory", (384, 80_000, 4096)),
}
CUSTOM = "CUSTOM"  # the numbers below fit none of them


def models_folder() -> Path:
    """Where users put further models; may not exist yet."""
    return Path(bpy.utils.extension_path_user(EXTENSION, path="models"))


def user_models() -> list[Path]:
    """Model files the user has added."""
    return sorted(models_folder().glob("*" + MODEL_SUFFIX))


_model_items: list[tuple[str, str, str, int]] = []  # Blender keeps no copy of the strings of a dynamic list


def _models(
    _settings: bpy.types.bpy_struct | None, _context: bpy.types.Context | None
) -> list[tuple[str, str, str, int]]:
    items = [(DEFAULTS.model, "Starter", "The model that comes with Headcast", 0)]
    for path in user_models():
        # A .blend stores the number: it must not depend on which other models there are.
        items.append((str(path), path.stem, "A model that you have added", 1 + zlib.crc32(path.name.encode()) % 2**30))
    _model_items[:] = items
    return _model_items


_QUALITY_ORDER = [*QUALITIES, CUSTOM]


def _get_quality(settings: HEADCAST_PG_settings) -> int:
    numbers = (settings.grid, settings.faces, settings.texture_size)
    fitting = [name for name, (_, _, preset) in QUALITIES.items() if preset == numbers]
    return _QUALITY_ORDER.index(fitting[0] if fitting else CUSTOM)


def _set_quality(settings: HEADCAST_PG_settings, index: int) -> None:
    if _QUALITY_ORDER[index] != CUSTOM:
        settings.grid, settings.faces, settings.texture_size = QUALITIES[_QUALITY_ORDER[index]][2]


class HEADCAST_PG_settings(bpy.types.PropertyGroup):
    """The panel's choices."""

    image: PointerProperty(
        type=bpy.types.Image,
        name="Photo",
        description="Portrait to reconstruct: one face, both eyes visible",
    )
    model: EnumProperty(items=_models, name="Model", description="Trained weights that imagine the unseen side")
    device: EnumProperty(
        name="Device",
        description="Where the reconstruction is computed",
        items=[
            ("AUTO", "Auto", "The graphics card if it can be used, else the processor"),
            ("CPU", "CPU", "The processor: works everywhere"),
            ("CUDA", "CUDA", "NVIDIA graphics card; needs a Python whose PyTorch was built for CUDA"),
            ("MPS", "Metal", "Apple graphics"),
        ],
        default="AUTO",
    )
    quality: EnumProperty(
        name="Quality",
        description="Sets surface detail, faces and texture size together",
        items=[
            *((name, label, text, i) for i, (name, (label, text, _)) in enumerate(QUALITIES.items())),
            (CUSTOM, "Custom", "As set below", len(QUALITIES)),
        ],
        get=_get_quality,
        set=_set_quality,
    )
    grid: IntProperty(
        name="Surface Detail",
        description="Samples along one side of the head; twice as many take eight times the time",
        default=DEFAULTS.grid,
        min=32,
        max=512,
    )
    faces: IntProperty(
        name="Faces", description="Triangles of the finished head", default=DEFAULTS.faces, min=1000, max=500_000
    )
    texture_size: IntProperty(
        name="Texture Size",
        description="Width and height of the colour texture",
        default=DEFAULTS.texture,
        min=256,
        max=8192,
        subtype="PIXEL",
    )
    refinement: EnumProperty(
        name="Fit to Photo",
        description="Bends the finished head so that its outline and face lie where the photo has them",
        items=[
            ("OFF", "Off", "Leave the head as the model imagines it"),
            ("FAST", "Fast", "Good for most photos; 1 to 2 seconds more"),
            ("BEST", "Best", "Follows hair and chin more closely; 3 to 5 seconds more"),
        ],
        default=DEFAULTS.refinement.upper(),
    )
    seed: IntProperty(
        name="Seed", description="Another number gives another version of what the photo does not show", min=0
    )

    def options(self) -> Options:
        """The same choices in the engine's words."""
        return Options(
            model=self.model,
            device=self.device.lower(),
            grid=self.grid,
            faces=self.faces,
            texture=self.texture_size,
            seed=self.seed,
            refinement=self.refinement.lower(),
        )


CLASSES = (HEADCAST_PG_settings,)
