"""Everything that can go wrong in a way a user can mend, each with what happened and what to do.

The command line prints `error:` and `hint:`; the worker sends the same words to Blender's panel. A `remedy` is a
machine-readable name the panel may turn into a button; it is empty where only the user can act.
"""

from __future__ import annotations

from .messages import WORKER_DIED


class HeadcastError(Exception):
    """A known failure: `message` says what happened, `hint` what to do about it."""

    message = "Headcast could not make a head."
    hint = "Try another photo."
    remedy = ""

    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        self.message = message or type(self).message
        self.hint = hint or type(self).hint
        super().__init__(self.message)


class PhotoMissing(HeadcastError):
    message = "The photo does not exist."
    hint = "Check the path, or choose the image again."


class PhotoEmpty(HeadcastError):
    message = "The photo file is empty."
    hint = "Save or copy the photo again; the file has no content."


class PhotoUnreadable(HeadcastError):
    message = "The file is not an image Headcast can read."
    hint = "Save it as JPEG, PNG, TIFF or WebP and try again."


class PhotoTruncated(HeadcastError):
    message = "The photo is damaged: the file ends too early."
    hint = "Copy or download the photo again."


class PhotoTooLarge(HeadcastError):
    message = "The photo has too many pixels."
    hint = "Scale it down to at most 12,000 pixels on its longer side."


class NoFaceFound(HeadcastError):
    message = "No face was found in the photo."
    hint = "Use a photo where the face is well lit and both eyes are visible."


class FaceTooSmall(HeadcastError):
    message = "The face is too small in the photo."
    hint = "Use a photo, or a crop of the original, where the face is at least 64 pixels wide."


class FaceCutOff(HeadcastError):
    message = "The face is cut off by the edge of the photo."
    hint = "Use a photo that shows the whole face with some room around it."


class FaceTurnedAway(HeadcastError):
    message = "The face is turned too far away from the camera."
    hint = "Use a photo where the face is turned less than 75 degrees."


class WeightsMissing(HeadcastError):
    message = "The model's weights are missing."
    hint = "Install Headcast again, or choose another model."
    remedy = "reinstall"


class WeightsDamaged(HeadcastError):
    message = "The model's weights file is damaged: its checksum does not match."
    hint = "Install Headcast again, or copy the weights file again."
    remedy = "reinstall"


class SourceMissing(HeadcastError):
    message = "The file to convert does not exist."
    hint = "Check the path."


class SourceRefused(HeadcastError):
    message = "The file asks for something that no model needs. Nothing of it was run."
    hint = "Do not open it with other programs; download the model again from its authors' page."


class SourceDamaged(HeadcastError):
    message = "The file to convert is damaged, or no model file."
    hint = "Download the model again from its authors' page."


class SourceUnsupported(HeadcastError):
    message = "This model differs from the ones Headcast can convert."
    hint = "Convert PanoHead's published generator, easy-khair-180-gpc0.8-trans10-025000.pkl."


class NoSurface(HeadcastError):
    message = "The model made no closed surface for this photo."
    hint = "Try a photo with a plainer background and more even light."


class LandmarksMissing(HeadcastError):
    message = "The head has no landmarks of its face, so it cannot be made rig-ready."
    hint = "Make the head again from a photo where both eyes are visible."


class OutputNotWritable(HeadcastError):
    message = "The output folder cannot be written."
    hint = "Choose a folder you may write to, on a disk with free space."


class OutputExists(HeadcastError):
    message = "The output file exists already."
    hint = "Choose another name, or add --force to replace it."


class HeadFileMissing(HeadcastError):
    message = "The folder holds no head that can be made again."
    hint = "Choose the folder of a finished head, with head.json and head.safetensors in it, or reconstruct it anew."


class HeadFileDamaged(HeadcastError):
    message = "What the folder keeps of its head is damaged."
    hint = "Copy the folder again, or reconstruct the head from its photo."


class HeadFileNewer(HeadcastError):
    message = "The head was made by a newer version of Headcast."
    hint = "Update Headcast, or reconstruct the head from its photo."


class HeadOfOtherModel(HeadcastError):
    message = "The head was made by another model."
    hint = "Choose the model that made it, or reconstruct the head from its photo."


class NoOtherVersion(HeadcastError):
    message = "This head's model imagines its unseen side in one way only."
    hint = "Reconstruct the head with another seed, or with a model that has encoders."


class MeshUnreadable(HeadcastError):
    message = "The file is not a mesh Headcast can read."
    hint = "Export the mesh as GLB, OBJ or PLY."


class MeshFarFromHead(HeadcastError):
    message = "The mesh does not lie on the head."
    hint = "Export it where the head lies: in metres, +Y up, face to +Z, origin at the base of the neck."


class TextureCoordinatesUnusable(HeadcastError):
    message = "The mesh's texture coordinates cannot be painted on."
    hint = "Unwrap the mesh anew without overlaps, or re-bake it with a new UV map."


class OutOfMemory(HeadcastError):
    message = "There is not enough memory for this quality."
    hint = "Choose a smaller grid or texture, close other programs, or use the CPU."
    remedy = "lower_quality"


class DeviceUnavailable(HeadcastError):
    message = "The chosen device is not available."
    hint = "Choose Auto or CPU as the device."
    remedy = "device_cpu"


class BadOption(HeadcastError):
    message = "An option has a value that cannot be used."
    hint = "Check the options."


class EngineIncomplete(HeadcastError):
    message = "This Python lacks a package that Headcast needs."
    hint = "Install Headcast again, or choose another Python in its preferences."
    remedy = "reinstall"


class RayMissing(HeadcastError):
    message = "Ray is not installed in this Python."
    hint = "Install it: python -m pip install ray==2.60.0"


class ClusterUnreachable(HeadcastError):
    message = "No Ray cluster answers."
    hint = "Check the address, and that Python and Ray have the same versions there as here."


class ClusterUnusable(HeadcastError):
    message = "The Ray cluster cannot make heads."
    hint = "See with `ray status` what the cluster has."


class UnexpectedFailure(HeadcastError):
    message = "Headcast met a problem it does not know."
    hint = "Try again; if it happens again, report it."


class WorkerDied(HeadcastError):
    message = WORKER_DIED.message
    hint = WORKER_DIED.hint
    remedy = WORKER_DIED.remedy


def is_out_of_memory(error: BaseException) -> bool:
    """Whether numpy or torch, on any device, gave up for want of memory; torch says so in words only."""
    words = str(error).lower()
    phrases = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in words for phrase in phrases)
    )


def known_failure(error: Exception) -> HeadcastError:
    """What to tell the user of any exception that reaches the border of the process."""
    if isinstance(error, HeadcastError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory()
    if isinstance(error, ModuleNotFoundError):
        return EngineIncomplete(f"This Python lacks the package {error.name}, which Headcast needs.")
    return UnexpectedFailure()
