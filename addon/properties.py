"""What the user chooses for a head: `scene.headcast`, saved with the file."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ..inference.messages import MODEL_SUFFIX, Failed, Options
from . import seen_in_photo
from .model_file import ModelFile, inspect_model
from .user_folder import user_folder

DEFAULTS = Options()
BLENDER_5 = bpy.app.version >= (5, 0)  # keeps what it stores of these settings apart from what users add to them
FORMER_NAMES = {"mirror": "mirror_face"}  # of settings that are on or off

# Identifier: label, description, (grid, faces, texture).
QUALITIES = {
    "DRAFT": ("Draft", "Fast, to see whether the photo works", (128, 10_000, 1024)),
    "STANDARD": ("Standard", "For most uses", (DEFAULTS.grid, DEFAULTS.faces, DEFAULTS.texture)),
    "FINE": ("Fine", "Finest surface and texture; takes longer and more memory", (384, 80_000, 4096)),
}
CUSTOM = "CUSTOM"  # the numbers below fit none of them


def models_folder() -> Path:
    """Where the user's own models lie; may not exist yet."""
    return user_folder("models")


def user_models() -> list[Path]:
    """Model files the user has added."""
    return sorted(models_folder().glob("*" + MODEL_SUFFIX))


# Identifier (name of the bundled model, or path), label, description, number.
ModelItem = tuple[str, str, str, int]
# Blender keeps no copy of the strings of a dynamic list, and a menu that is open may still show those of an earlier
# one: none is ever given up. There are as many as models were seen.
_kept_items: dict[ModelItem, ModelItem] = {}
_model_items: list[ModelItem] = []

MISSING_HINT = "Add it again in Headcast's preferences, or choose another model."
REUSABLE = {
    True: "Free for commercial use",
    False: "Non-commercial use only, also of heads made with it",
    None: "Read its licence in the preferences before commercial use",
}


def _models(settings: HEADCAST_PG_settings | None, _context: bpy.types.Context | None) -> list[ModelItem]:
    """Items of the model menu: the bundled one, the user's, and the chosen one even if its file has vanished."""
    items = [(DEFAULTS.model, "Starter", "The model that comes with Headcast. Free for commercial use", 0)]
    models = user_models()
    for path in models:
        seen = inspect_model(path)
        told = REUSABLE[seen.commercial_use] if isinstance(seen, ModelFile) else seen.message
        items.append((str(path), path.stem, told, _number(path.name)))
    chosen = settings.model_file if settings is not None else ""
    if chosen and chosen not in {path.name for path in models}:
        path = models_folder() / chosen
        items.append((str(path), f"{path.stem} (missing)", "Its file is not there any more", _number(chosen)))
    _model_items[:] = [_kept_items.setdefault(item, item) for item in items]
    return _model_items


def _number(file_name: str) -> int:
    """What a .blend stores of a choice: it must not depend on which other models there are."""
    return 1 + zlib.crc32(file_name.encode()) % 2**30


def _remember_model(settings: HEADCAST_PG_settings, _context: bpy.types.Context) -> None:
    """Keep the chosen file's name too: the number alone could not tell it once the file is gone."""
    settings.model_file = "" if settings.model == DEFAULTS.model else Path(settings.model).name


def _show_seen(settings: HEADCAST_PG_settings, _context: bpy.types.Context) -> None:
    """Lay the overlay over the heads of the settings' scene, or take it off."""
    (seen_in_photo.show if settings.show_seen else seen_in_photo.hide)(settings.id_data)


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
    model: EnumProperty(
        items=_models, update=_remember_model, name="Model", description="Trained weights that imagine the unseen side"
    )
    model_file: StringProperty(options={"HIDDEN"})  # its name in the models folder; "" for the bundled one
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
    neck: EnumProperty(
        name="Neck",
        description="How the head ends at its base",
        items=[
            ("CLOSED", "Closed", "A flat cap: the head is watertight"),
            ("OPEN", "Open", "No cap: one clean border loop, for joining the head to a body"),
        ],
        default=DEFAULTS.neck.upper(),
    )
    symmetry: EnumProperty(
        name="Symmetry",
        description="Makes both sides of the head the same, face for face; it fits its photo less closely",
        items=[
            ("OFF", "Off", "Leave the sides as different as they are"),
            ("AVERAGE", "Average", "Both sides become the shape half way between them"),
            ("MIRROR", "Mirror", "The side that the photo shows better is mirrored onto the other"),
        ],
        default=DEFAULTS.symmetry.upper(),
    )
    show_seen: BoolProperty(
        name="Seen in Photo",
        description="Shows on all heads of the scene what the photo showed (orange) and what was guessed (blue), in "
        "the viewport only: renders and the heads' own materials stay as they are",
        update=_show_seen,
    )
    make_rig: BoolProperty(
        name="Make Rig-Ready",
        description="Makes the head animatable at once: quads, 52 face shapes, bones, eyes and mouth. Takes about half "
        "a minute more",
    )
    seed: IntProperty(
        name="Seed", description="Another number gives another version of what the photo does not show", min=0
    )

    detail: BoolProperty(
        name="Hair Detail Behind",
        description="Carries the photo's fine detail of hair and skin on over the side that it does not show",
        default=DEFAULTS.detail,
    )
    mirror_face: BoolProperty(
        name="Mirror Face",
        description="Paints the half of the face that the photo does not show like the half it does",
        default=DEFAULTS.mirror_face,
    )
    delight: FloatProperty(
        name="Even Out Light",
        description="How much of the photo's shadows and gloss is taken out of the skin, so that it can be lit anew",
        default=DEFAULTS.delight,
        min=0,
        max=1,
        subtype="FACTOR",
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
            neck=self.neck.lower(),
            symmetry=self.symmetry.lower(),
            detail=self.detail,
            mirror_face=self.mirror_face,
            delight=self.delight,
        )

    def rig_changes(self) -> dict[str, Any]:
        """What a rig takes of these choices; in all else it is made as its head was."""
        return {"texture": self.texture_size, "device": self.device.lower()}

    def migrate(self) -> None:
        """Settle what another version has saved: former names, choices that are none here, numbers beyond limits.

        A choice that is not known becomes the default, which the system console tells.
        """
        stored = self.bl_system_properties_get() if BLENDER_5 else self
        for former, name in FORMER_NAMES.items():
            if stored and former in stored:
                setattr(self, name, bool(stored[former]))
                del stored[former]
        for item in self.bl_rna.properties:
            if not self.is_property_set(item.identifier) or item.is_readonly:
                continue
            if item.type == "ENUM" and not getattr(self, item.identifier):
                self.property_unset(item.identifier)
                print(f"Headcast: another version's choice of {item.name} is not known here; now it is the default.")
            elif item.type in ("INT", "FLOAT"):
                value = getattr(self, item.identifier)
                if not item.hard_min <= value <= item.hard_max:
                    setattr(self, item.identifier, value)  # Blender limits what is set, not what is loaded

    def missing_model(self) -> Failed | None:
        """What to tell the user if the chosen model's file is not there; None if it is."""
        if self.model == DEFAULTS.model or Path(self.model).is_file():
            return None
        what = f"The model {Path(self.model).stem} is missing: there is no file {self.model}."
        return Failed(what, MISSING_HINT, "preferences")


@bpy.app.handlers.persistent
def migrate_all(*_: object) -> None:
    """Settle the settings of every scene of a file that was just loaded."""
    for scene in bpy.data.scenes:
        if not scene.library:  # a linked scene can only be changed in its own file
            scene.headcast.migrate()


def register() -> None:
    """From now on with each file that is loaded."""
    bpy.app.handlers.load_post.append(migrate_all)


def unregister() -> None:
    """No longer."""
    bpy.app.handlers.load_post.remove(migrate_all)


CLASSES = (HEADCAST_PG_settings,)
