"""Whatever file is given as a photo, the answer is a photo or a named error, never a traceback."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from inference.errors import HeadcastError
from inference.photo import load_photo
from tests.hostile_bench import outcomes
from tests.hostile_images import GIANT_EVERY, KINDS, hostile_image

GIANT = GIANT_EVERY - 1


def test_a_file_is_the_same_whenever_it_is_made() -> None:
    assert [hostile_image(seed) for seed in range(22)] == [hostile_image(seed) for seed in range(22)]


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_a_hostile_file_is_a_photo_or_has_a_reason(kind: int, tmp_path: Path) -> None:
    seeds = [seed for seed in range(kind, 120, len(KINDS)) if seed % GIANT_EVERY != GIANT]
    assert len(seeds) > 8
    for seed in seeds:
        name, content = hostile_image(seed)
        (tmp_path / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PIL, about what it mends
            try:
                photo = load_photo(tmp_path / name)
            except HeadcastError as error:
                assert type(error) is not HeadcastError and error.hint
                continue
        assert photo.rgb.ndim == 3 and photo.rgb.shape[2] == 3 and photo.rgb.size


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory of another process is read from /proc")
def test_the_command_line_keeps_its_promises_for_a_sample(tmp_path: Path) -> None:
    seen = list(outcomes([*range(33), GIANT, GIANT + 6 * GIANT_EVERY], tmp_path))
    assert len(seen) == 35 and [outcome for outcome in seen if not outcome.allowed] == []
