"""A process that speaks the worker's language and copies a prepared job folder or model instead of computing one.

    fake_worker.py HOW FOLDER -I start_worker.py ROOT ...

HOW: "done" answers with a copy of FOLDER, "fail" with an error, "die" ends in mid-job, "wait" works until cancelled.
Of a rig, "done" copies the folder "rig" beside FOLDER into the head's. "fail rig" and "wait for rig" are like "done"
for all but rigs, "wait for a file" once there is a file "go on" beside the photo. "wait at LABEL" is like "wait", with
that label on its progress.
Of a model, "done" makes a copy of the last source, and the others leave half of one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

how, prepared, root = sys.argv[1], Path(sys.argv[2]), sys.argv[5]
sys.path.insert(0, root)

from inference.messages import (  # noqa: E402
    Cancel,
    Cancelled,
    Close,
    Convert,
    Converted,
    Done,
    Examine,
    Examined,
    Failed,
    Finding,
    Message,
    Progress,
    Ready,
    Rebake,
    Rebuild,
    Reconstruct,
    Reroll,
    Rig,
    decode,
    encode,
)  # fmt: skip


def say(message: Message) -> None:
    """One line to Blender."""
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


say(Ready(os.getpid(), "3.11"))
for line in sys.stdin.buffer:
    message = decode(line)
    if isinstance(message, Convert):
        say(Progress(0.5, "Checking the weights"))
        content = Path(message.sources[-1]).read_bytes()
        Path(message.out).write_bytes(content if how == "done" else content[: len(content) // 2])
        if how == "done":
            say(Converted(message.out, hashlib.sha256(content).hexdigest()))
        elif how == "fail":
            say(Failed("The file to convert is damaged, or no model file.", "Download the model again."))
        elif how == "die":
            os._exit(137)
    if isinstance(message, Examine):
        say(Progress(0.5, "Testing the engine"))
        if how == "done":
            memory = {"total": "8.0", "free": "1.0"}
            text, trouble = "{total} GB, {free} GB free", "Little memory is free."
            little = Finding("Memory", text, trouble, "Close programs.", severe=False, gaps=memory)
            asked = Finding("Asked for", f"{message.model} on {message.device}")
            place = Path.home() / "{mine}" / "my.safetensors"
            gone = Finding("Model", "failed", f"There is no file {place}.", "Copy it again.")
            say(Examined((asked, little, gone)))
        elif how == "die":
            os._exit(139)
    if isinstance(message, Rig):
        say(Progress(0.5, "Fitting the face's shape"))
        if how == "done":
            shutil.copytree(prepared.with_name("rig"), message.folder, dirs_exist_ok=True)
            (Path(message.folder) / "request.json").write_bytes(encode(message))
            say(Done(message.folder, {"warnings": []}))
        elif how.startswith("fail"):
            say(Failed("The head has no landmarks of its face.", "Make the head again."))
    elif isinstance(message, Reconstruct):
        say(Progress(0.5, how.removeprefix("wait at ") if how.startswith("wait at ") else "Shaping the surface"))
        while how == "wait for a file" and not Path(message.photo).with_name("go on").exists():
            time.sleep(0.01)
        if how in ("done", "fail rig", "wait for rig", "wait for a file"):
            shutil.copytree(prepared, message.out_dir, dirs_exist_ok=True)
            shutil.copy(message.photo, Path(message.out_dir) / "photo")  # fails if the file is not there
            report = {"device": "cpu", "options": asdict(message.options)}
            say(Done(message.out_dir, report | {"warnings": ["2 faces were found; the largest was taken."]}))
        elif how == "fail":
            say(Failed("No face was found in the photo.", "Use a photo where both eyes are visible."))
        elif how == "die":
            os._exit(139)
    elif isinstance(message, Rebuild | Rebake | Reroll):
        say(Progress(0.5, "Painting the skin"))
        if how == "done":
            # The other version that lies beside the prepared one; of a re-bake, with the mesh that was sent.
            shutil.copytree(prepared.with_name("another version"), message.out_dir, dirs_exist_ok=True)
            if isinstance(message, Rebake):
                shutil.copy(message.mesh, message.out_dir)
            (Path(message.out_dir) / "request.json").write_bytes(encode(message))
            say(Done(message.out_dir, {"warnings": []}))
        elif how == "fail":
            say(Failed("The mesh does not lie on the head.", "Export it where the head lies."))
        elif how == "die":
            os._exit(139)
    elif isinstance(message, Cancel):
        say(Cancelled())
    elif isinstance(message, Close):
        break
