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
from .lattice_reading import lattice_reader
from .progress import Progress, silent
from .tri_grid import TriGrid, cell_by_cell

CHUNK = 1 << 14  # points decoded at once: their features stay in a CPU's cache; measured fastest of 2^12 to 2^18
DEVICE_CHUNK = 1 << 18  # on a GPU, where starting a kernel costs more than memory; about 300 MB with PanoHead's sizes
MOST_THREADS = 16  # on a CPU: each has a chunk and its features, some 20 MB
LAYERS_AT_ONCE = 64  # of a lattice along x, for which one plane is brought onto it: 33 MB at 512 points a side
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
        self._chunk, self._threads = (CHUNK, MOST_THREADS) if on_cpu else (DEVICE_CHUNK, 1)
        self._chunks = Chunks(self._chunk, SMALLEST_CHUNK, self._threads)
        self.box_side = tri_grid.box_side
        self.level = generator.config.surface_sigma

    def density(self, points: NDArray[np.floating], progress: Progress = silent) -> NDArray[np.float32]:
        """(m,) float32 density at points (m, 3), head frame. Raises OutOfMemory."""
        return self._in_chunks(points, lambda part: self._generator.query_sigma(self._planes, part), (), progress)

    def density_on_lattice(
        self,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        z: NDArray[np.floating],
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """(len(x), len(y), len(z)) density at every point with these coordinates, head frame. Raises OutOfMemory.

        As `density` but for rounding, at half its cost for PanoHead's sizes.
        """
        columns, rows, pieces = (
            torch.from_numpy(np.asarray(axis, dtype=np.float32)).to(self._planes.device) for axis in (x, y, z)
        )
        values = np.empty((len(x), len(y), len(z)), dtype=np.float32)
        chunks = Chunks(max(1, self._chunk // len(z)), 1, self._threads)  # rows of one layer
        for start in range(0, len(x), LAYERS_AT_ONCE):
            layers = slice(start, min(start + LAYERS_AT_ONCE, len(x)))
            with torch.no_grad():
                reader = lattice_reader(self._generator, self._planes, (columns[layers], rows, pieces))

            def read(part: slice, reader: Callable[[slice], Tensor] = reader) -> NDArray[np.float32]:
                with torch.no_grad():
                    return reader(part).cpu().numpy()

            for part, value in chunks.over(len(y), read):
                values[layers, part] = value
                done = start + (layers.stop - start) * part.stop / len(y)
                progress(done / len(x), "Decoding the head")
        return values

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
