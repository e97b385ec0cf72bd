"""docs/animate.md, followed to the letter by the real worker."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.blender, pytest.mark.thorough]

ROOT = Path(__file__).resolve().parents[2]


def test_the_written_example_animates_a_head(blender: ModuleType, astronaut: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "animate.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    # What changes: the reader's photo, and pictures of a size and number that a test can wait for.
    assert code.count("/path/to/portrait.jpg") == code.count("bpy.ops.render.render(animation=True)") == 1
    code = code.replace("/path/to/portrait.jpg", str(astronaut)).replace("bpy.ops.render.render(animation=True)", "")
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "animation.blend"))
    told: dict[str, object] = {}
    exec(compile(code, "docs/animate.md", "exec"), told)  # noqa: S102 - the project's own text

    scene, face = blender.context.scene, told["face"]
    shapes = face.data.shape_keys.key_blocks
    scene.render.resolution_percentage, scene.cycles.samples = 20, 8

    def picture(name: str) -> np.ndarray:
        scene.render.filepath = str(tmp_path / f"{name}.png")
        blender.ops.render.render(write_still=True)
        return np.asarray(Image.open(scene.render.filepath).convert("RGB"), dtype=float)

    for frame, names, expected in ((12, ["jawOpen"], 0.7), (30, ["eyeBlinkLeft", "eyeBlinkRight"], 1.0)):
        scene.frame_set(frame)
        assert [shapes[name].value for name in names] == pytest.approx([expected] * len(names), abs=0.01)
        animated = picture(f"frame {frame}")
        assert 20 < animated.mean() < 235, "a lit face, neither black nor burnt out"
        for name in names:
            shapes[name].mute = True
        rows = np.flatnonzero((np.abs(animated - picture(f"frame {frame} at rest")).max(axis=2) > 40).any(axis=1))
        # In a portrait the mouth is in the lower half, and the eyes are above it.
        middle = len(animated) / 2
        assert len(rows) and ((rows > middle) if frame == 12 else (rows < 1.2 * middle)).mean() > 0.9
        for name in names:
            shapes[name].mute = False
