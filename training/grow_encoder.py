"""Give a visible encoder of the first design the parts it lacked, so that at first it does what it did before.

The first design lifted picture features without rays, surfaces and the coarse stage on the planes (`EncoderConfig` says
what these are). What is new begins with weights of zero where it joins the old (Chen et al., Net2Net, ICLR 2016, arXiv
1511.05641), so hours of training are kept; only the planes' code of the place is made coarser.

    python -m training.grow_encoder --run OLD_RUN --out state.pt     then train_generator --start state.pt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.encoders import STARTER_ENCODER, VisibleEncoder
from inference.generator import STARTER, TriPlaneGenerator

from .run import config_from_arguments

FIRST_LAYERS = ("trunk.0.0.reduce.weight", "trunk.0.0.shortcut.weight")  # they look at the picture
NEW_PARTS = ("surfaces.", "lift.coarse.", "lift.measure")


@dataclass(frozen=True)
class Growing:
    """Which run's encoder grows, and where the result goes."""

    run: Path
    out: Path
    seed: int = 0


def grow(old: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of a `STARTER_ENCODER` that begins as the encoder with state `old`.

    Raises ValueError where `old` is of neither design.
    """
    generator = TriPlaneGenerator(STARTER)
    new = VisibleEncoder(STARTER_ENCODER, generator.config, generator.num_ws).state_dict()
    strange = [name for name in set(old) ^ set(new) if not name.startswith(NEW_PARTS)]
    if strange:
        raise ValueError(f"this encoder is of another design: {sorted(strange)[:3]}")
    for name, values in old.items():
        if name in FIRST_LAYERS and values.shape[1] < new[name].shape[1]:
            new[name] = torch.cat([values, torch.zeros_like(new[name][:, values.shape[1] :])], dim=1)
        elif name == "lift.place":
            new[name] = F.interpolate(values, new[name].shape[-2:], mode="area")
        else:
            new[name] = values
    return new


def main(settings: Growing) -> None:
    """Read a run's state and write the grown one."""
    torch.manual_seed(settings.seed)
    state = torch.load(settings.run / "state.pt", weights_only=True)
    torch.save({"generator": state["generator"], "encoder": grow(state["encoder"])}, settings.out)


if __name__ == "__main__":
    main(config_from_arguments(Growing, "Grow a visible encoder of the first design."))
