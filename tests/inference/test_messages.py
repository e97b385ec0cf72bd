from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inference.errors import WorkerDied
from inference.messages import (
    WORKER_DIED,
    BadMessage,
    Cancel,
    Cancelled,
    Close,
    Convert,
    Converted,
    Done,
    Examine,
    Examined,
    Failed,
    Finding,
    Options,
    Progress,
    Ready,
    Rebake,
    Rebuild,
    Reconstruct,
    Reroll,
    Rig,
    decode,
    encode,
    kept_options,
    report_of,
)

ROOT = Path(__file__).resolve().parents[2]
STRANGE_PATH = "/tmp/Ünï cödé 写真/\udcff\n.jpg"  # accents, Chinese, a byte that is no UTF-8, a line break


@pytest.mark.parametrize(
    "message",
    [
        Reconstruct(
            STRANGE_PATH,
            "out",
            Options("a b", "cpu", 64, 900, 128, seed=7, refinement="best", mirror_face=False, delight=0.25),
        ),
        Rebuild(STRANGE_PATH, "out", {"grid": 384, "device": "cpu"}),
        Rebake("head", STRANGE_PATH, "out", {"texture": 512}, own_uv_only=True),
        Reroll("head", "out", 3),
        Rig(STRANGE_PATH, {"texture": 512, "device": "cpu"}),
        Convert((STRANGE_PATH, "visible_net.pt"), "models/a b.safetensors"),
        Examine("my model", "cpu"),
        Cancel(),
        Close(),
        Ready(pid=12, python="3.11.9"),
        Progress(0.25, "Shaping the surface"),
        Done("out", {"mesh": {"height_m": 0.25}, "warnings": []}),
        Converted(STRANGE_PATH, "0" * 64),
        Examined((Finding("Memory", "{total} GB", "Little.", "Close.", gaps={"total": "8"}), Finding("A", "b"))),
        Failed("What happened.", "What to do.", "retry", "Traceback\n  ..."),
        Cancelled(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(message):
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()
    assert decode(line) == message


def test_options_left_out_are_the_defaults():
    assert decode(b'{"kind": "reconstruct", "photo": "a", "out_dir": "b"}') == Reconstruct("a", "b", Options())


@pytest.mark.parametrize(
    "line",
    [
        b"warning: something\n",
        b"[]",
        b"3",
        b"{}",
        b'{"kind": "sing"}',
        b'{"kind": "progress"}',
        b'{"kind": "done", "x": 1}',
        b'{"kind": "reconstruct", "photo": "a", "out_dir": "b", "options": {"colour": 3}}',
        b'{"kind": ["done"]}',
        b'{"kind": "convert", "sources": 3, "out": "a"}',
        b'{"kind": "examined", "findings": [{"colour": 3}]}',
    ],
)
def test_a_line_that_is_no_message_is_refused(line):
    with pytest.raises(BadMessage):
        decode(line)


def test_options_of_a_head_made_by_another_version_are_understood_as_far_as_they_are_known():
    assert kept_options({"grid": 64, "colour": "red", "age": 3}) == (Options(grid=64), ("age", "colour"))
    assert kept_options({}) == (Options(), ())


@pytest.mark.parametrize("values", [{"grid": "64"}, {"grid": True}, {"model": 3}, {"refinement": None}])
def test_options_of_another_kind_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        kept_options(values)


def test_a_report_sets_texts_below_each_other_and_troubles_with_what_to_do():
    findings = (
        Finding("Python", "3.11"),
        Finding("Memory", "{total} GB", "Little is free.", "Close programs.", severe=False, gaps={"total": "8"}),
        Finding("Model", "failed", "It is damaged.", "Copy it again."),
    )
    assert report_of(findings).splitlines() == [
        "Python  3.11",
        "Memory  8 GB",
        "        WARNING: Little is free. Close programs.",
        "Model   failed",
        "        PROBLEM: It is damaged. Copy it again.",
    ]


def test_the_add_on_and_the_errors_say_the_same_of_a_dead_worker():
    error = WorkerDied()
    assert (error.message, error.hint, error.remedy) == (WORKER_DIED.message, WORKER_DIED.hint, WORKER_DIED.remedy)


def test_messages_need_nothing_but_the_standard_library():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import inference.messages; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names - {'inference'}))"
    )
    printed = subprocess.run([sys.executable, "-I", "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
