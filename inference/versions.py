"""Other versions of the unseen side: what the occluded encoder would imagine of somebody a little different.

Of an encoder, a photo has one answer, and random latents near it are mostly no heads: of the starter's 256 numbers a
row heads use few, and a step of a third of the way to the average head may end in a lump. So the way is the encoder's
own: it is shown the portrait stretched, sheared, lighter or darker, perhaps mirrored, as if seen from elsewhere, and
the latent goes where that answer lies. Length of hair, volume and tone vary; what the photo itself told, the residual,
stays.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import orbit_camera
from .encoders import Encoder, PortraitInput

VARIETY = 0.4  # of the latent's distance from the average. At .6 napes grow lumps, at .2 versions look alike
STRETCH = 0.15  # natural logarithm, each way, across and up
SHEAR = 0.12
LIFT = 0.06  # of half the picture's side, up or down
BRIGHTNESS, TINT = 0.25, 0.08  # natural logarithms, each way, of all colours and of each
AZIMUTH_DEG, ELEVATION_DEG = 40.0, 15.0  # each way, of the camera told
GREY = 0.5  # behind the portrait


def other_version(w_plus: Tensor, seed: int, given: PortraitInput, encoder: Encoder) -> Tensor:
    """The latent of another version of what a photo does not show.

    w_plus:  (1, num_ws, w_dim) what the encoder makes of `given`: the version of seed 0.
    Returns: the same for the same seed.
    """
    if seed == 0:
        return w_plus
    with torch.no_grad():
        way = encoder.latent(altered(given, seed)) - w_plus
        length = VARIETY * (w_plus - encoder.average).norm()
        return w_plus + way * (length / way.norm().clamp(min=1e-12))


def altered(given: PortraitInput, seed: int) -> PortraitInput:
    """The portrait of somebody a little different, from elsewhere: the same for the same seed, on every device."""
    random = torch.Generator().manual_seed(seed)  # on the CPU: other devices draw other numbers

    def within(limit: float, count: int = 1) -> Tensor:
        return (torch.rand(count, generator=random) * 2 - 1) * limit

    portraits = given.portraits
    across, up = within(STRETCH, 2).exp().tolist()
    mirrored = -1.0 if bool(torch.rand(1, generator=random) < 0.5) else 1.0
    shear, lift = float(within(SHEAR)), float(within(LIFT))
    turn = portraits.new_tensor([[[mirrored * across, shear, 0.0], [0.0, up, lift]]])
    grid = F.affine_grid(turn, list(portraits.shape), align_corners=False)
    # Beyond the picture there is grey, as behind the person.
    moved = F.grid_sample(
        torch.cat([portraits[:, :3] - GREY, portraits[:, 3:]], dim=1), grid, padding_mode="zeros", align_corners=False
    )
    matte = moved[:, 3:]
    gain = (within(BRIGHTNESS) + within(TINT, 3)).exp().view(1, 3, 1, 1).to(portraits.device)
    person = moved[:, :3] + GREY * matte  # multiplied by the matte
    colour = (person * gain).clamp(0, 1) + GREY * (1 - matte)
    camera = orbit_camera(float(within(AZIMUTH_DEG)), float(within(ELEVATION_DEG)))
    cameras = torch.from_numpy(camera.vector)[None].to(given.cameras)
    return replace(given, portraits=torch.cat([colour, matte], dim=1), cameras=cameras)
