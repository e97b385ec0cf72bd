"""What Blender and the reconstruction process say to each other: one JSON object a line, in both directions.

Standard library only: the add-on imports this file inside Blender, where nothing else of `inference` may be imported.
Blender sends jobs (Reconstruct, Rebuild, Rebake, Reroll, Rig, Convert, Examine), Cancel and Close. The worker says
Ready once, then for each job any number of Progress and exactly one answer: Failed, Cancelled, or Done for a head or a
rig, Converted for a model and Examined for the installation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias

# Of model files, which both sides read; inference/checkpoints.py tells what is in them.
MODEL_SUFFIX = ".safetensors"
MODEL_METADATA_KEY = "headcast"
MODEL_FORMAT = 1  # raised when older readers could not make sense of a file
CHECKSUM_SUFFIX = ".sha256"  # model.safetensors.sha256 beside a model holds its checksum, as `sha256sum` writes it

# What the engine imports -> what pip calls it: the add-on asks a Python for it, and so does the doctor. Blender's own
# Python brings NumPy.
ENGINE_PACKAGES = {
    "numpy": "numpy",
    "torch": "torch==2.13.0",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "trimesh": "trimesh",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "fast_simplification": "fast-simplification",
}


@dataclass(frozen=True)
class Options:
    """How a head is made; the same for the command line, the worker and the panel."""

    model: str = "starter"  # name of bundled weights, or path of a .safetensors file
    device: str = "auto"  # auto, cpu, cuda or mps
    grid: int = 256  # density samples along one side of the head's box
    faces: int = 30_000  # triangles asked for; the mesh has about as many
    texture: int = 2048  # side of the albedo picture, texels
    seed: int = 0  # of every random choice on the way
    refinement: str = "fast"  # off, fast or best: effort spent on fitting the head to its photo
    neck: str = "closed"  # closed by a flat cap, or open: one border loop, for joining to a body
    symmetry: str = "off"  # off; average: both sides alike, half way between; mirror: the side the photo shows better
    detail: bool = True  # whether the photo's fine detail of hair and skin is carried on over what it does not show
    mirror_face: bool = True  # whether the half of the face that the photo saw also paints the half it did not
    delight: float = 0.5  # how much of the photo's light is taken out of its colours, from 0 to 1


@dataclass(frozen=True)
class Reconstruct:
    """Make a head: the photo to read and the folder that shall appear."""

    photo: str
    out_dir: str
    options: Options = Options()


@dataclass(frozen=True)
class Rebuild:
    """Make the head of a result folder again into `out_dir`, with some of its options changed, such as a finer grid."""

    folder: str
    out_dir: str
    changes: dict[str, Any] = field(default_factory=dict)  # by names of `Options`


@dataclass(frozen=True)
class Rebake:
    """Paint a mesh that lies on the head of a result folder.

    own_uv_only: fail where the mesh's texture coordinates cannot be used, rather than unwrap it.
    """

    folder: str
    mesh: str
    out_dir: str
    changes: dict[str, Any] = field(default_factory=dict)
    own_uv_only: bool = False


@dataclass(frozen=True)
class Reroll:
    """Another version of what the photo does not show, on the mesh and texture of a result folder's head."""

    folder: str
    out_dir: str
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rig:
    """Make the head of a result folder animatable; the rig is written into that folder, beside the head."""

    folder: str
    changes: dict[str, Any] = field(default_factory=dict)  # by names of `Options`: model, device, texture


@dataclass(frozen=True)
class Convert:
    """Make the model file `out` of published weights, or check a model file and copy it there.

    sources: one model file; or in any order a generator and, unless it comes alone, its two encoders and their average
             latent.
    """

    sources: tuple[str, ...]
    out: str


@dataclass(frozen=True)
class Examine:
    """Look whether everything is there that heads of this model on this device need; nothing is written."""

    model: str = Options.model
    device: str = Options.device


@dataclass(frozen=True)
class Cancel:
    """Give up the running job; without one, nothing happens."""


@dataclass(frozen=True)
class Close:
    """End the worker, also in the middle of a job. The end of its stdin means the same."""


@dataclass(frozen=True)
class Ready:
    """The worker runs and reads its stdin."""

    pid: int
    python: str  # version, such as 3.11.9


@dataclass(frozen=True)
class Progress:
    """How far the job is: `fraction` in [0, 1] never falls, `label` names the stage for people."""

    fraction: float
    label: str


@dataclass(frozen=True)
class Done:
    """Head or rig are in `folder`; `report` is the content of head.json, or what was written of the rig."""

    folder: str
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """The model is in `file`, whose checksum is `sha256`, hexadecimal."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    topic, text: what was looked at and what it is like, for people.
    trouble:     what is wrong, "" if nothing is.
    hint:        what to do about it.
    severe:      of trouble: no head can be made; else it may yet go well, or only on another device.
    gaps:        what fills the `{gaps}` in all of these, so that they can be translated before; without any, a brace is
                 a brace, as in somebody's path.
    """

    topic: str
    text: str
    trouble: str = ""
    hint: str = ""
    severe: bool = True
    gaps: dict[str, str] = field(default_factory=dict)

    def in_words(self, translated: Callable[[str], str] = str) -> Finding:
        """The same with its gaps filled, each text in the reader's language first."""

        def words(text: str) -> str:
            said = translated(text)
            return said.format(**self.gaps) if self.gaps else said

        return Finding(words(self.topic), words(self.text), words(self.trouble), words(self.hint), self.severe)


@dataclass(frozen=True)
class Examined:
    """What the doctor found."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Failed:
    """No head or model, and nothing was written: what happened, what to do, and a button's name or "".

    log: lines for a bug report, such as a traceback or the worker's last words; never meant for the panel.
    """

    message: str
    hint: str
    remedy: str = ""
    log: str = ""


@dataclass(frozen=True)
class Cancelled:
    """The job was given up as asked, and nothing was written."""


Reuse: TypeAlias = Rebuild | Rebake | Reroll
Job: TypeAlias = Reconstruct | Reuse | Rig | Convert | Examine
Outcome: TypeAlias = Done | Converted | Examined | Failed | Cancelled  # each job has exactly one
Message: TypeAlias = Job | Cancel | Close | Ready | Progress | Outcome

# The add-on says these when the worker cannot speak for itself; `errors.WorkerDied` has its words from here.
WORKER_DIED = Failed(
    message="The reconstruction process stopped unexpectedly.",
    hint="Click Reconstruct Head again; it restarts by itself. If it happens again, choose a smaller grid.",
    remedy="retry",
)
WORKER_NOT_STARTED = Failed(
    message="The reconstruction process could not be started.",
    hint="Check the Python chosen in Headcast's preferences, or install Headcast again.",
    remedy="preferences",
)

_KINDS: dict[str, type] = {
    "reconstruct": Reconstruct,
    "rebuild": Rebuild,
    "rebake": Rebake,
    "reroll": Reroll,
    "rig": Rig,
    "convert": Convert,
    "examine": Examine,
    "cancel": Cancel,
    "close": Close,
    "ready": Ready,
    "progress": Progress,
    "done": Done,
    "converted": Converted,
    "examined": Examined,
    "failed": Failed,
    "cancelled": Cancelled,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def kept_options(values: Mapping[str, Any]) -> tuple[Options, tuple[str, ...]]:
    """The options of a head made earlier, perhaps by another version, and the names of those this one does not know.

    What is missing came later and has its default. Raises ValueError for a value of another kind than the default's.
    """
    kinds = {option.name: type(option.default) for option in fields(Options)}
    known = {name: value for name, value in values.items() if name in kinds}
    for name, value in known.items():
        fits = isinstance(value, kinds[name]) or (kinds[name] is float and isinstance(value, int))
        if not fits or isinstance(value, bool) != (kinds[name] is bool):
            raise ValueError(f"the option {name} cannot be {value!r}")
    return Options(**known), tuple(sorted(set(values) - set(kinds)))


def report_of(findings: Sequence[Finding]) -> str:
    """The findings as lines of English text, troubles with what to do about them below."""
    findings = [finding.in_words() for finding in findings]
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.topic:<{width}}  {finding.text}".rstrip())
        if finding.trouble:
            kind = "PROBLEM" if finding.severe else "WARNING"
            lines.append(f"{'':<{width}}  {kind}: {finding.trouble} {finding.hint}".rstrip())
    return "\n".join(lines)


class BadMessage(ValueError):
    """A line on the wire that is no message."""


def encode(message: Message) -> bytes:
    """One line, newline included, in plain ASCII: no pipe encoding can spoil a path with accents."""
    return json.dumps({"kind": _NAMES[type(message)], **asdict(message)}).encode("ascii") + b"\n"


def decode(line: bytes | str) -> Message:
    """The message of one line; raises BadMessage for anything else."""
    try:
        content = json.loads(line)
        kind = _KINDS[content.pop("kind")]
        if kind is Reconstruct and "options" in content:
            content["options"] = Options(**content["options"])
        if kind is Convert:
            content["sources"] = tuple(content["sources"])  # JSON knows lists only
        if kind is Examined:
            content["findings"] = tuple(Finding(**finding) for finding in content["findings"])
        return kind(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadMessage(f"not a message: {line[:200]!r}") from error
