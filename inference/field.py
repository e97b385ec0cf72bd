"""A finished tri-grid as a function of space: density and colour at any point, in plain numpy.

The surface and the texture are made from this alone, so they know nothing of the model behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .chunks import Chunks
from .generator import TriPlaneGenerator
from .progress import Progress, silent
from .tri_grid import TriGrid, cell_by_cell

CHUNK = 1 << 14  # points decoded at once: their features stay in a CPU's cache; measured fastest of 2^12 to 2^18
DEVICE_CHUNK = 1 << 18  # on a GPU, where starting a kernel costs more than memory; about 300 MB with PanoHead's sizes
MOST_THREADS = 16  # on a CPU: each has a chunk and its features, some 20 MB
SMALLEST_CHUNK = 1 << 10  # where even this does not fit, halving further will not help


class Field:
    """Density and colour of one head; density above `level` is inside.

    tri_grid: its planes say on which device the work is done.
    w:        (w_dim,) last row of the head's w_plus. PanoHead needs it to turn features into colours, the starter not.
    """

    def __init__(self, generator: TriPlaneGenerator, tri_grid: TriGrid, w: Tensor | None = None) -> None:
        self._generator = generator
        self._planes = cell_by_cell(tri_grid.planes[None])
        self._w = None if w is None else w[None]
        on_cpu = tri_grid.planes.device.type == "cpu"
        self._chunks = Chunks(CHUNK, SMALLEST_CHUNK, MOST_THREADS) if on_cpu else Chunks(DEVICE_CHUNK, SMALLEST_CHUNK)
        self.box_side = tri_grid.box_side
        self.level = generator.config.surface_sigma

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m,) float32 density at points (m, 3), head frame. Raises OutOfMemory."""
        return self._in_chunks(points, lambda part: self._generator.query_sigma(self._planes, part), (), progress)

    def colour(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m, 3) float32 sRGB in [0, 1] at points (m, 3), head frame. Raises OutOfMemory."""

        def decode(part: Tensor) -> Tensor:
            return self._generator.point_colours(self._generator.query(self._planes, part)[1], self._w)

        return self._in_chunks(points, decode, (3,), progress)

    def _in_chunks(
        self,
        points: NDArray[np.floating],
        evaluate: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        progress: Progress,
    ) -> NDArray[np.float32]:
        """Evaluate (1, k, 3) points at a time into (m, *shape); a chunk that does not fit in memory is halved."""
        points = np.asarray(points, dtype=np.float32)
        values = np.empty((len(points), *shape), dtype=np.float32)

        def evaluated(part: slice) -> NDArray[np.float32]:
            with torch.no_grad():
                return evaluate(torch.from_numpy(points[part]).to(self._planes.device)[None])[0].cpu().numpy()

        for part, value in self._chunks.over(len(points), evaluated):
            values[part] = value
            progress(part.stop / len(points), "Decoding the head")
        return values
