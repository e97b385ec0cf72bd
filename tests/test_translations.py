"""Every text of the interface is in every catalogue, and says the same things with the same gaps."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest

from .interface_texts import ROOT, texts

CATALOGUES = sorted((ROOT / "addon" / "translations").glob("*.json"))


def gaps(text: str) -> list[str]:
    """What `str.format` fills in, sorted."""
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.fixture(params=CATALOGUES, ids=lambda path: path.stem)
def catalogue(request: pytest.FixtureRequest) -> dict[str, str]:
    path: Path = request.param

    def once(pairs: list[tuple[str, str]]) -> dict[str, str]:
        assert len(dict(pairs)) == len(pairs), "a text is translated twice"
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)


def test_german_and_japanese_are_there() -> None:
    assert {path.stem for path in CATALOGUES} >= {"de", "ja"}


def test_it_holds_every_text_and_no_other(catalogue: dict[str, str]) -> None:
    shown = texts()
    assert sorted(shown - set(catalogue)) == [], "not translated"
    assert sorted(set(catalogue) - shown) == [], "no longer shown"


def test_it_keeps_gaps_line_breaks_and_ends(catalogue: dict[str, str]) -> None:
    for text, said in catalogue.items():
        assert said.strip() == said and said, text
        assert gaps(said) == gaps(text) and said.count("\n") == text.count("\n"), text
        # Blender puts no full stop behind tooltips and ours have none either: what ends with one is a message.
        ends = (".", "。")
        assert said.endswith(ends) == text.endswith(ends), text


def test_the_texts_are_found_where_users_read_them() -> None:
    """The search knows each kind of place: a label, a tooltip, a menu, a report, an error, a bar, a warning."""
    assert {
        "Reconstruct Head",
        "Give up the head or the model that is being made. Esc does the same",
        "Draft",
        "Metal",
        "Model added: {name}",
        "No face was found in the photo.",
        "Painting the skin",
        "The face is blurred, and so will its texture be. Use a photo that is in focus.",
        "Choose a photo first",
        "Engine",
        "{total} GB, {free} GB free",
        "failed",
        "Self-test",
        "Little memory is free.",
    } <= texts()
