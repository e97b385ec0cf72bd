"""Models of the published sizes the whole way: files as downloaded, Add Model, the model menu, a head.

The weights are made up, so the head has no likeness; everything it takes is what the published files take.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from inference import checkpoints
from inference.generator import PANOHEAD
from inference.panohead_encoders import PanoHeadEncoder
from tests.blender.conftest import OperatorByHand, part
from tests.inference.published_encoders import write_published

pytestmark = [pytest.mark.blender, pytest.mark.thorough]

CONVERSION_S = 600.0  # half a minute on a fast machine


class AddModel(OperatorByHand):
    """Add Model with several files chosen, driven without a window."""

    def __init__(self, context: Any, sources: list[Path], name: str) -> None:
        super().__init__(part("model_operators").HEADCAST_OT_add_model, context)
        self.directory, self.model_name = str(sources[0].parent), name
        self.files = [SimpleNamespace(name=source.name) for source in sources]

    def progress_until_over(self) -> list[float]:
        """What the bar showed, each value once."""
        self.begin()
        shown, end = [0.0], time.monotonic() + CONVERSION_S
        while (result := self.event("TIMER")) == {"PASS_THROUGH"}:
            assert time.monotonic() < end
            fraction = part("session").SESSION.progress.fraction
            if fraction != shown[-1]:
                shown.append(fraction)
            time.sleep(0.01)
        assert result == {"FINISHED"}, self.reports
        return shown


def test_published_sizes_are_converted_with_progress_chosen_and_make_a_head(
    blender: ModuleType, astronaut: Path, tmp_path: Path
) -> None:
    sources = write_published(tmp_path, full=True)
    shown = AddModel(blender.context, sources, "PanoHead").progress_until_over()
    assert shown == sorted(shown) and len(shown) > 10
    place = part("properties").models_folder() / "PanoHead.safetensors"
    try:
        model = checkpoints.load(place)
        assert model.generator.config == PANOHEAD
        assert isinstance(model.visible, PanoHeadEncoder) and isinstance(model.occluded, PanoHeadEncoder)
        sha256 = model.sha256
        del model  # gigabytes; the worker has its own
        settings = blender.context.scene.headcast
        settings.image = blender.data.images.load(str(astronaut))
        settings.model, settings.device = str(place), "CPU"
        settings.grid, settings.faces, settings.texture_size = 64, 4000, 512
        assert blender.ops.headcast.reconstruct() == {"FINISHED"}
    finally:
        place.unlink()
    collection = blender.data.collections["Headcast astronaut"]
    folder = part("operators").heads_folder() / collection["headcast_folder"]
    report = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    assert report["model"] == {"name": "PanoHead", "sha256": sha256}
    assert report["seconds"]["views"] > 0  # painted from its own super-resolved pictures
    assert report["latents"]["found_by"] == "encoders"
