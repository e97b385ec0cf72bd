"""The doctor finds what is wrong, says so without naming anybody, and is silent where nothing is."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inference import checkpoints, cli, doctor
from inference.checkpoints import METADATA_KEY
from inference.progress import Cancelled

STARTER = checkpoints.WEIGHTS_FOLDER / "starter.safetensors"


def test_a_sound_computer_has_no_problems_and_the_report_names_nobody(capsys):
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "PROBLEM" not in text
    assert doctor.version() in text and platform.python_version() in text and torch.__version__ in text
    assert checkpoints.sha256_of(STARTER)[:16] in text and "closed" in text
    for private in (str(Path.home()), platform.node(), str(Path(__file__).parent)):
        assert private not in text


def test_a_damaged_model_is_found_and_the_exit_code_tells(tmp_path, capsys):
    damaged = tmp_path / "mine.safetensors"
    content = bytearray(STARTER.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    (tmp_path / "mine.safetensors.sha256").write_text(checkpoints.sha256_of(STARTER) + "  mine.safetensors\n")
    assert cli.main(["doctor", "--device", "cpu", "--model", str(damaged)]) == cli.EXIT_KNOWN
    text = capsys.readouterr().out
    assert "PROBLEM: The model mine.safetensors is damaged" in text and "Copy or download the model again." in text
    assert str(tmp_path) not in text


def test_weights_that_make_no_head_are_found(tmp_path):
    """A file that loads and fits together may still hold nonsense."""
    config, tensors = checkpoints.read(STARTER)
    nonsense = {key: torch.zeros_like(value) for key, value in tensors.items()}
    path = tmp_path / "nonsense.safetensors"
    save_file(nonsense, path, metadata={METADATA_KEY: json.dumps(config)})
    found = {finding.topic: finding for finding in doctor.examine(str(path), "cpu")}
    assert found["Model"].trouble == "" and found["Self-test"].trouble


def test_a_missing_package_is_named_and_nothing_that_needs_it_is_tried(monkeypatch):
    monkeypatch.setitem(doctor.ENGINE_PACKAGES, "no_such_module", "no-such-package")
    findings = doctor.examine()
    troubles = [finding for finding in findings if finding.trouble]
    assert [finding.in_words().topic for finding in troubles] == ["Package no-such-package"]
    assert not any(finding.topic == "Self-test" for finding in findings)


def test_a_device_that_is_not_there_is_a_problem_with_a_way_out():
    if torch.cuda.is_available():
        pytest.skip("this computer has CUDA")
    (finding,) = (f for f in doctor.examine(device="cuda") if f.topic == "Self-test")
    assert "cuda is not available" in finding.trouble and finding.hint


@pytest.mark.parametrize(
    ("card", "built_for", "runs"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),  # same generation, later
        ((8, 0), ["sm_86"], False),  # same generation, earlier
        ((6, 1), ["sm_70", "sm_75", "sm_80", "compute_90"], False),  # a Pascal card and today's torch
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled on first use
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_which_cards_a_torch_has_code_for(card, built_for, runs):
    assert doctor.runs_on(*card, built_for) is runs


def test_surfaces_are_told_apart_by_as_much_as_they_are_moved():
    model = checkpoints.load("starter")
    field, outline = doctor.read_dummy(model, torch.device("cpu"))
    assert outline > doctor.LEAST_OUTLINE
    assert doctor.surfaces_apart(field, field) == 0

    class Moved:
        level = field.level

        def density(self, points):
            return field.density(points + np.float32([0.004, 0, 0]))

    assert 0.5 * 0.004 < doctor.surfaces_apart(Moved(), field) < 2 * 0.004


def test_little_memory_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "memory_gb", lambda: (8.0, 1.0))
    assert "Little memory" in doctor.memory().trouble
    monkeypatch.setattr(doctor, "memory_gb", lambda: (8.0, 6.0))
    assert not doctor.memory().trouble


def test_memory_is_what_the_system_has():
    total, free = doctor.memory_gb()
    assert total is not None and 0.5 < total < 10_000
    assert free is None or 0 < free <= total


def test_it_can_be_cancelled():
    def give_up(_fraction, label):
        if label == "Loading the model":
            raise Cancelled

    with pytest.raises(Cancelled):
        doctor.examine(progress=give_up)
