"""The file that the add-on starts to try a GPU engine: says as JSON what torch finds there, or fails with its words.

    python -I try_gpu_engine.py ROOT ENGINE [FOLDER ...]

The arguments are those of start_worker.py, so that packages are found as the worker will find them. Where Python has a
torch of its own, which would be used instead of the engine's, that torch's place is all that is said.
"""

import json
import os
import sys


def tried(engine: str) -> dict[str, str | int]:
    """Multiply two matrices on the card: torch's version, the card's name and its memory in bytes."""
    import torch

    if not os.path.realpath(torch.__file__).startswith(os.path.realpath(engine) + os.sep):
        return {"other": torch.__file__}
    torch.cuda.init()
    card = torch.cuda.get_device_properties(0)
    side = torch.ones(64, 64, device="cuda")
    if float((side @ side).sum()) != 64.0**3:
        raise RuntimeError("the card calculates wrongly")
    return {"torch": torch.__version__, "device": card.name, "memory": card.total_memory}


if __name__ == "__main__":
    root, *folders = sys.argv[1:]
    sys.path.insert(0, root)
    from inference.start_worker import prepare

    prepare(root, folders)
    print(json.dumps(tried(folders[0])))
