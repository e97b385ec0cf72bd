"""Published weights converted: the parity fixture's generator, pickled as PanoHead pickles and read without running it.

What the converted generator computes is compared with the published code's numbers in test_parity.
"""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inference import checkpoints, cli, conversion, encoder_files, panohead_pickle
from inference.encoder_weights import encoder_from_tensors
from inference.errors import (
    BadOption,
    HeadcastError,
    OutputExists,
    OutputNotWritable,
    SourceDamaged,
    SourceMissing,
    SourceRefused,
    SourceUnsupported,
)
from inference.panohead_encoders import PanoHeadEncoder
from inference.progress import Cancelled, silent

from . import published_pickle as published
from .published_encoders import ENCODER_FILE_NAMES, EncoderFiles, encoder_state, write_encoders
from .published_pickle import Blob, Persistent, ViewOf, storage_bytes

ROOT = Path(__file__).resolve().parents[2]
LONGEST_REFUSAL_S = 30.0  # a hang takes for ever; the slowest bomb here takes a few seconds on a busy machine


@pytest.fixture(scope="module")
def content() -> bytes:
    return published.dumps(published.published_content())


@pytest.fixture
def source(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "easy-khair.pkl"
    path.write_bytes(content)
    return path


def read(content: bytes, tmp_path: Path) -> Any:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    return panohead_pickle.load(path, silent)


def convert_generator(g_ema: Any, tmp_path: Path) -> Path:
    """Convert a file of nothing but this generator."""
    source, out = tmp_path / "model.pkl", tmp_path / "model.safetensors"
    source.write_bytes(published.dumps({"G_ema": g_ema}))
    conversion.convert([source], out, False, silent)
    return out


# What a file means


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_published_pickle_becomes_the_same_generator(protocol: int, tmp_path: Path) -> None:
    source, out = tmp_path / "easy-khair.pkl", tmp_path / "new folder" / "panohead.safetensors"
    source.write_bytes(published.dumps(published.published_content(), protocol))
    converted = conversion.convert([source], out, False, silent)
    generator = checkpoints.load_generator(out)
    assert generator.config == published.tiny_config()
    state, _ = published.filled_state()
    loaded = generator.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert (converted.path, converted.size) == (out, out.stat().st_size)
    assert converted.sha256 == checkpoints.sha256_of(out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    beside = tmp_path / "beside"
    beside.touch()
    assert out.stat().st_mode == beside.stat().st_mode


def test_the_converted_file_says_whose_it_is_and_forbids_commercial_use(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "panohead.safetensors"
    conversion.convert([source], out, False, silent)
    config, tensors = checkpoints.read(out)
    assert config["name"] == "panohead"
    assert config["commercial_use"] is False
    assert "CC BY-NC-SA 4.0" in config["licence"] and "NVIDIA Source Code License" in config["licence"]
    assert config["source"] == {"file": source.name, "sha256": checkpoints.sha256_of(source)}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert b"module_src" not in out.read_bytes() and b"SystemExit" not in out.read_bytes()


def test_the_averaged_generator_is_taken_and_not_the_one_in_training(tmp_path: Path) -> None:
    content = published.published_content()
    content["G"].state["_buffers"]["dataset_label_std"] = torch.full((25,), 7.0)
    source, out = tmp_path / "model.pkl", tmp_path / "model.safetensors"
    source.write_bytes(published.dumps(content))
    conversion.convert([source], out, False, silent)
    assert checkpoints.load_generator(out).dataset_label_std.max() < 1.0


def test_reading_leaves_the_interpreter_as_it_was(source: Path, tmp_path: Path) -> None:
    """Nothing named in the file is imported, not even looked for."""

    class Watch:
        asked: list[str] = []

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            self.asked.append(name)

    watch = Watch()
    sys.meta_path.insert(0, watch)
    try:
        conversion.convert([source], tmp_path / "panohead.safetensors", False, silent)
    finally:
        sys.meta_path.remove(watch)
    assert not {name.split(".")[0] for name in watch.asked} & {"dnnlib", "torch_utils", "training", "legacy"}
    assert "dnnlib" not in sys.modules and "torch_utils" not in sys.modules


def test_views_of_a_shared_storage_are_read_where_they_lie(tmp_path: Path) -> None:
    numbers = torch.arange(24.0)
    across = numbers.view(4, 6).t()[2:5]
    tensors = {"across": across, "half": torch.ones(2).half(), "one": torch.tensor(3), "none": torch.zeros(0, 3)}
    content = read(published.dumps(tensors), tmp_path)
    assert torch.equal(content["across"].read(), across)
    assert content["half"].read().dtype == torch.float16
    assert content["one"].read().item() == 3
    assert content["none"].read().shape == (0, 3)


def test_plain_values_survive(tmp_path: Path) -> None:
    values = {
        "text": "Zoë", "numbers": [1, -(2**40), 0.5, True, None], "pair": (1, ("a", b"bytes")), "set": {1, 2},
        "ordered": OrderedDict(b=1, a=2), "float": np.float32(0.5), "int": np.int64(-3),
        "truth": np.bool_(True),
    }  # fmt: skip
    for protocol in (2, 4):
        content = read(published.dumps(values, protocol), tmp_path)
        assert content == values and list(content["ordered"]) == ["b", "a"]


# Attacks: every one is refused by name and none is run


class Sentinel(Exception):
    """Raised where something of the file is run."""


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Functions an attack may call raise; the returned file appears if a shell is reached after all."""

    def sentinel(*arguments: Any, **options: Any) -> None:
        raise Sentinel(str(arguments))

    for home, name in ((os, "system"), (subprocess, "Popen"), (builtins, "eval"), (builtins, "exec"), (torch, "load")):
        monkeypatch.setattr(home, name, sentinel)
    return tmp_path / "sentinel"


def short_text(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def stack_global(module: str, name: str) -> bytes:
    return short_text(module) + short_text(name) + b"\x93"


def long_bytes(raw: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(raw)) + raw


SHELL = b"X\x0e\x00\x00\x00touch sentinel\x85R"  # its argument tuple, and the call
EVIL = b"\x80\x02cos\nsystem\n" + SHELL + b"."
BLOB = b"ctorch.storage\n_load_from_bytes\n"
EMPTY_DICT_CLASS = b"cdnnlib.util\nEasyDict\n"
RAY_SAMPLER = b"ctraining.volumetric_rendering.ray_sampler\nRaySampler\n"
TORCH_HEAD = (
    pickle.dumps(panohead_pickle.LEGACY_TORCH_MAGIC, 2)
    + pickle.dumps(panohead_pickle.LEGACY_TORCH_VERSION, 2)
    + pickle.dumps({"little_endian": True}, 2)
)

ATTACKS: dict[str, tuple[bytes, str]] = {
    "a function by GLOBAL": (EVIL, "os.system"),
    "a function in protocol 0": (b"cposix\nsystem\n(Vtouch sentinel\ntR.", "posix.system"),
    "a function by STACK_GLOBAL": (b"\x80\x04" + stack_global("os", "system") + SHELL + b".", "os.system"),
    "eval": (b"\x80\x04" + stack_global("builtins", "eval") + short_text("1") + b"\x85R.", "builtins.eval"),
    "python 2's eval": (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", "__builtin__.eval"),
    "getattr": (b"\x80\x04" + stack_global("builtins", "getattr") + b".", "builtins.getattr"),
    "attributes walked from an allowed module": (
        b"\x80\x04" + stack_global("torch.storage", "os.system") + SHELL + b".",
        "torch.storage.os.system",
    ),
    "attributes walked from an allowed class": (
        b"\x80\x04" + stack_global("collections", "OrderedDict.fromkeys") + b".",
        "collections.OrderedDict.fromkeys",
    ),
    "attributes walked from an allowed function": (
        b"\x80\x04" + stack_global("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__") + b".",
        "_reconstruct_persistent_obj.__globals__",
    ),
    "the import of a module": (b"\x80\x02cantigravity\nfly\n.", "antigravity.fly"),
    "a name with a blank": (b"\x80\x02cos system\nx\n.", "os.system x"),
    "a name that would clear the terminal": (b"\x80\x04" + stack_global("os\x1b[2J", "system") + b".", "os?[2J.system"),
    "a call nested in arguments": (
        b"\x80\x02ccollections\nOrderedDict\n(cos\nsystem\n" + SHELL + b"tR.",
        "os.system",
    ),
    "a call as a dictionary's value": (b"\x80\x04}\x8c\x05G_emacos\nsystem\n" + SHELL + b"s.", "os.system"),
    "a pickle in a tensor's bytes": (b"\x80\x03" + BLOB + long_bytes(EVIL) + b"\x85R.", "os.system"),
    "a pickle in place of a tensor's record": (
        b"\x80\x03" + BLOB + long_bytes(TORCH_HEAD + EVIL) + b"\x85R.",
        "os.system",
    ),
    "an allowed call inside a tensor's bytes": (
        b"\x80\x03" + BLOB + long_bytes(TORCH_HEAD + b"\x80\x02" + BLOB + b".") + b"\x85R.",
        "torch.storage._load_from_bytes",
    ),
    "an unknown kind of storage": (
        b"\x80\x03"
        + BLOB
        + long_bytes(TORCH_HEAD + b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nNNNNtQ.")
        + b"\x85R.",
        "os.system",
    ),
    "torch.load itself": (b"\x80\x02ctorch.serialization\nload\n.", "torch.serialization.load"),
    "a class by INST": (b"\x80\x02(X\x01\x00\x00\x00xios\nsystem\n.", "os.system"),
    "a class by OBJ": (b"\x80\x02(" + EMPTY_DICT_CLASS + b"o.", "OBJ"),
    "a function by OBJ": (b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00xo.", "os.system"),
    "a function by NEWOBJ": (b"\x80\x02csubprocess\nPopen\nX\x01\x00\x00\x00x\x85\x81.", "subprocess.Popen"),
    "an allowed function by NEWOBJ": (b"\x80\x02" + BLOB + b")\x81.", "torch.storage._load_from_bytes"),
    "an allowed class by NEWOBJ_EX": (b"\x80\x04" + EMPTY_DICT_CLASS + b")}\x92.", "NEWOBJ_EX"),
    "an allowed class called": (b"\x80\x02" + RAY_SAMPLER + b")R.", "RaySampler"),
    "a call of a result": (b"\x80\x02" + RAY_SAMPLER + b")\x81)R.", "RaySampler"),
    "a call of text": (b"\x80\x02X\x09\x00\x00\x00os.system)R.", "os.system"),
    "a number from the extension registry": (b"\x80\x02\x82\x07)R.", "EXT1 7"),
    "a large number from the extension registry": (b"\x80\x02\x84\x07\x00\x00\x00)R.", "EXT4 7"),
    "a persistent object": (b"\x80\x02X\x09\x00\x00\x00os.systemQ.", "os.system"),
    "a persistent object in text": (b"\x80\x02Pos.system\n.", "PERSID 'os.system'"),
    "a buffer from outside": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "attributes set on a class": (
        b"\x80\x02" + EMPTY_DICT_CLASS + b"}X\x01\x00\x00\x00xK\x01sb.",
        "dnnlib.util.EasyDict",
    ),
    "attributes set on a function": (
        b"\x80\x02" + BLOB + b"}X\x01\x00\x00\x00xK\x01sb.",
        "torch.storage._load_from_bytes",
    ),
    "attributes set on a dictionary": (b"\x80\x02" + EMPTY_DICT_CLASS + b")\x81}X\x01\x00\x00\x00xK\x01sb.", "a dict"),
    "attributes set twice": (b"\x80\x02" + RAY_SAMPLER + b")\x81}b}b.", "RaySampler"),
    "slots set": (b"\x80\x02" + RAY_SAMPLER + b")\x81N}X\x01\x00\x00\x00xK\x01s\x86b.", "RaySampler"),
    "a name filled like a dictionary": (
        b"\x80\x02" + EMPTY_DICT_CLASS + b"X\x01\x00\x00\x00xK\x01s.",
        "dnnlib.util.EasyDict",
    ),
    "text filled like a list": (b"\x80\x02X\x01\x00\x00\x00xK\x01a.", "'x'"),
    "a codec": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00zlib\x86R.", "zlib"),
    "a numpy dtype of objects": (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "O8"),
    "a numpy array": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.", "numpy.core.multiarray._reconstruct"),
    "a tuple as a key": (b"\x80\x02})K\x01s.", "a tuple"),
}


def test_the_attacks_would_work_on_pythons_own_unpickler(guarded: Path) -> None:
    """A control: were anything run, the tests below would notice."""
    with pytest.raises(Sentinel, match="touch sentinel"):
        pickle.loads(EVIL)  # noqa: S301
    with pytest.raises(Sentinel, match="touch sentinel"):
        pickle.loads(ATTACKS["a call nested in arguments"][0])  # noqa: S301


@pytest.mark.parametrize(("attack", "name"), ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_by_its_name_and_not_run(
    attack: bytes, name: str, guarded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    with pytest.raises(SourceRefused) as refused:
        read(attack, tmp_path)
    assert name in refused.value.message and "Nothing of it was run" in refused.value.message
    assert set(sys.modules) == modules
    assert not guarded.exists()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"class_name": "Exploit"}, "Exploit"),
        ({"class_name": ["TriPlaneGenerator"]}, "a list"),
        ({"type": "function"}, "function"),
        ({"version": 7}, "version 7"),
        ({"hook": "os.system"}, "unknown kind"),
    ],
)
def test_a_forged_persistent_object_is_refused(change: dict[str, Any], name: str, tmp_path: Path) -> None:
    forged = Persistent("TriPlaneGenerator")
    forged.meta |= change
    with pytest.raises(SourceRefused, match=name):
        read(published.dumps({"G_ema": forged}), tmp_path)


def test_an_attack_within_a_whole_published_file_is_refused(guarded: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return print, ("the file was run",)

    content = published.published_content()
    content["D"].state["_forward_hooks"][0] = Evil()
    with pytest.raises(SourceRefused, match=r"builtins\.print"):
        read(published.dumps(content), tmp_path)


# Damage, and sizes that cannot be true

TORCH_STORAGE = storage_bytes(torch.arange(4.0))


def tensor_claiming(numbers: int) -> bytes:
    """A storage whose record claims more numbers than follow."""
    claimed = b"K\x04N", b"\x8a\x08" + struct.pack("<q", numbers) + b"N"
    assert TORCH_STORAGE.count(claimed[0]) == 1
    return TORCH_STORAGE.replace(*claimed)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (ViewOf(Blob(TORCH_STORAGE), 0, (4096, 4096, 4096), (0, 0, 0)), "larger than any model"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (2**62, 2**62), (0, 0)), "no sense"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (1000, 1000), (0, 0)), "larger than its storage"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (5,), (1,)), "larger than its storage"),
        (ViewOf(Blob(TORCH_STORAGE), 1, (4,), (1,)), "larger than its storage"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (2, 2), (3, 1)), "larger than its storage"),
        (ViewOf(Blob(TORCH_STORAGE), -1, (2,), (1,)), "no sense"),
        (ViewOf(Blob(TORCH_STORAGE), 3, (2,), (-1,)), "no sense"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (-2, -2), (1, 1)), "no sense"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (2.0,), (1,)), "no sense"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (2,), (1, 1)), "no sense"),
        (ViewOf(Blob(TORCH_STORAGE), 0, (1,) * 40, (1,) * 40), "damaged"),
        (ViewOf(Blob(TORCH_STORAGE[:-1]), 0, (2,), (1,)), "too early or too late"),
        (ViewOf(Blob(TORCH_STORAGE + b"x"), 0, (2,), (1,)), "too early or too late"),
        (ViewOf(Blob(tensor_claiming(2**40)), 0, (2,), (1,)), "too early or too late"),
        (ViewOf(Blob(tensor_claiming(2)), 0, (2,), (1,)), "too early or too late"),
        (ViewOf(Blob(TORCH_STORAGE[:100]), 0, (2,), (1,)), "damaged"),
        (ViewOf(Blob(b""), 0, (2,), (1,)), "damaged"),
        (ViewOf(Blob(pickle.dumps(1)), 0, (2,), (1,)), "does not know"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(tensor: ViewOf, said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged, match=said):
        read(published.dumps({"tensor": tensor}), tmp_path)


def test_a_tensor_without_a_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="without a storage"):
        read(published.dumps(ViewOf("storage", 0, (2,), (1,))), tmp_path)


def test_many_views_of_one_storage_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panohead_pickle, "MOST_NUMBERS", 10_000)
    network = Persistent("MappingNetwork")
    network.state["_buffers"] = dict.fromkeys((f"b{i}" for i in range(11)), torch.zeros(1000))
    content = read(published.dumps(network), tmp_path)
    with pytest.raises(SourceDamaged, match="more numbers"):
        panohead_pickle.state_dict(content, "model.pkl")


def doubled(levels: int) -> bytes:
    """A tuple of two tuples of two tuples ...: small here, 2 ** levels if anybody walks it."""
    return b")" + b"2\x86" * levels


def self_containing_networks(levels: int) -> Persistent:
    """Networks that hold the next one twice."""
    network = Persistent("MappingNetwork")
    for _ in range(levels):
        outer = Persistent("MappingNetwork")
        outer.state["_modules"] = {"a": network, "b": network}
        network = outer
    return network


BOMBS: dict[str, bytes] = {
    "steps without end": b"\x80\x02" + b"N0" * 3_000_000 + b".",
    "a tuple hashed in exponential time": b"\x80\x04\x8f(" + doubled(60) + b"\x90.",
    "a tuple shown in exponential time": b"\x80\x02" + doubled(60) + b")R.",
    "a set copied again and again": (
        b"\x80\x02c__builtin__\nset\nq\x00](" + b"K\x01" * 100_000 + b"e\x85q\x010h\x00" + b"h\x01R0h\x00" * 1000 + b"."
    ),
    "text encoded again and again": (
        b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", 10_000_000) + b"x" * 10_000_000
        + b"X\x06\x00\x00\x00latin1\x86q\x010h\x00" + b"h\x01R0h\x00" * 1000 + b"."
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_ends_early(bomb: bytes, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises((SourceRefused, SourceDamaged)):
        read(bomb, tmp_path)
    assert time.monotonic() - begun < LONGEST_REFUSAL_S


def test_deep_nesting_and_far_memo_places_cost_nothing(tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert type(read(deep, tmp_path)) is list
    assert read(b"\x80\x02K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.", tmp_path) == 7


@pytest.mark.parametrize("networks", [self_containing_networks(50), "cycle"], ids=["twice each", "cycle"])
def test_networks_within_themselves_end(networks: Any, tmp_path: Path) -> None:
    if networks == "cycle":
        networks = published.RaySampler()
        networks._modules["again"] = networks
    content = read(published.dumps(networks), tmp_path)
    with pytest.raises(SourceDamaged, match="more work"):
        panohead_pickle.state_dict(content, "model.pkl")


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html>Quota exceeded</html>",
    "text": b"hello",
    "zeros": bytes(100),
    "a stack without the value asked for": b"\x80\x02\x86.",
    "a mark that was never set": b"\x80\x02t.",
    "a memo place that is empty": b"\x80\x02h\x07.",
    "an end without a value": b"\x80\x02.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "bytes longer than any memory": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "a number too long to read": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "text that is no text": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "a name made of numbers": b"\x80\x04K\x01K\x02\x93.",
    "arguments that are a list": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "too few arguments": b"\x80\x02" + BLOB + b")R.",
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_no_pickle_is_called_damaged(damaged: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged, match=r"model\.pkl"):
        read(damaged, tmp_path)


@pytest.mark.parametrize("kept", [1, 100, 10_000, -1])
def test_a_file_that_ends_early_is_called_damaged(kept: int, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged, match="damaged"):
        read(content[:kept], tmp_path)


def test_a_changed_byte_never_does_more_than_end_the_reading(content: bytes, tmp_path: Path) -> None:
    """Whatever the damage, the error is one that tells the user what to do."""
    generator = np.random.default_rng(0)
    small = published.dumps({"G_ema": published.module_for(["mapping"]), "t": torch.ones(3), "n": np.float64(1)})
    for _ in range(400):
        changed = bytearray(small)
        changed[generator.integers(len(small))] = generator.integers(256)
        try:
            conversion.read_generator(read(bytes(changed), tmp_path), "model.pkl")
        except HeadcastError as error:
            assert type(error) in (SourceRefused, SourceDamaged, SourceUnsupported)


def test_a_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    with path.open("wb") as file:
        file.truncate(panohead_pickle.LARGEST_FILE + 1)
    with pytest.raises(SourceDamaged, match="larger than any model"):
        panohead_pickle.load(path, silent)


# Settings and tensors that differ


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("_init_kwargs", "architecture", "resnet", "'resnet'; Headcast computes 'skip'"),
        ("_init_kwargs", "num_fp16_res", 4, "num_fp16_res"),
        ("_init_kwargs", "conv_clamp", 256, "conv_clamp"),
        ("_init_kwargs", "c_dim", 0, "c_dim"),
        ("_init_kwargs", "z_dim", 10**12, "z_dim"),
        ("_init_kwargs", "z_dim", "64", "z_dim"),
        ("_init_kwargs", "channel_base", 1, "channel_base"),
        ("_init_kwargs", "img_resolution", 512, "img_resolution"),
        ("_init_kwargs", "mapping_kwargs", {"num_layers": 10**9}, "num_layers"),
        ("_init_kwargs", "mapping_kwargs", {"num_layers": 2, "lr_multiplier": 1}, "lr_multiplier"),
        ("_init_kwargs", "sr_kwargs", {"width": 3}, "width"),
        ("_init_kwargs", "hypernetwork", True, "hypernetwork"),
        ("rendering_kwargs", "superresolution_module", "training.superresolution.SuperresolutionHybrid4X", "Hybrid4X"),
        ("rendering_kwargs", "decoder_activation", "sigmoid", "decoder_activation"),
        ("rendering_kwargs", "decoder_lr_mul", 0.5, "decoder_lr_mul"),
        ("rendering_kwargs", "density_noise", 1, "density_noise"),
        ("rendering_kwargs", "white_back", True, "white_back"),
        ("rendering_kwargs", "triplane_size", 2**60, "triplane_size"),
        ("rendering_kwargs", "triplane_size", 48, "triplane_size"),
        ("rendering_kwargs", "ray_start", "auto", "ray_start"),
        ("rendering_kwargs", "ray_end", 2.0, "end before they start"),
        ("rendering_kwargs", "box_warp", float("nan"), "box_warp"),
        ("rendering_kwargs", "depth_resolution", 1, "depth_resolution"),
        ("rendering_kwargs", "fog", 0.1, "fog"),
    ],
)
def test_a_setting_that_would_change_heads_is_named(kind: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    g_ema = published.published_generator()
    g_ema.state[kind][key] = value
    with pytest.raises(SourceUnsupported, match=said):
        convert_generator(g_ema, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("key", ["box_warp", "use_torgb_raw", "triplane_depth"])
def test_a_setting_that_is_missing_is_named(key: str, tmp_path: Path) -> None:
    g_ema = published.published_generator()
    del g_ema.state["rendering_kwargs"][key]
    with pytest.raises(SourceUnsupported, match=f"lacks the rendering setting {key}"):
        convert_generator(g_ema, tmp_path)


def test_settings_changed_while_training_count_and_optional_ones_may_be_left_out(tmp_path: Path) -> None:
    g_ema = published.published_generator()
    g_ema.state["_init_kwargs"]["rendering_kwargs"]["density_noise"] = 0.5  # before it faded
    g_ema.state["rendering_kwargs"] |= {"depth_resolution": 24, "white_back": False}
    del g_ema.state["rendering_kwargs"]["density_noise"]
    assert checkpoints.load_generator(convert_generator(g_ema, tmp_path)).config.coarse_samples == 24


def test_planes_along_other_axes_are_noticed(tmp_path: Path) -> None:
    g_ema = published.published_generator()
    duplicate = torch.tensor(conversion.PLANE_AXES).float()[[0, 1, 1]]  # EG3D's first version
    g_ema.state["_modules"]["renderer"].state["plane_axes"] = duplicate
    with pytest.raises(SourceUnsupported, match="other axes"):
        convert_generator(g_ema, tmp_path)


@pytest.mark.parametrize(("part", "other"), [("decoder", "ToRGBLayer"), ("superresolution", "Generator")])
def test_another_network_in_a_parts_place_is_noticed(part: str, other: str, tmp_path: Path) -> None:
    g_ema = published.published_generator()
    g_ema.state["_modules"][part].meta["class_name"] = other
    with pytest.raises(SourceUnsupported, match=other):
        convert_generator(g_ema, tmp_path)


def test_tensors_that_do_not_match_are_listed(tmp_path: Path) -> None:
    g_ema = published.published_generator()
    torgb = g_ema.state["_modules"]["torgb"]
    del torgb.state["_parameters"]["bias"]
    torgb.state["_parameters"]["weight"] = torch.nn.Parameter(torch.zeros(3, 32, 3, 3))
    torgb.state["_buffers"]["mask"] = torch.zeros(1)
    with pytest.raises(SourceUnsupported) as refused:
        convert_generator(g_ema, tmp_path)
    for said in (r"1 missing: torgb.bias", "torgb.weight is 3x32x3x3, not 3x32x1x1", "1 unknown: torgb.mask"):
        assert said in refused.value.message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    g_ema = published.published_generator()
    g_ema.state["_modules"]["torgb"].state["_parameters"]["bias"].data[1] = float("nan")
    with pytest.raises(SourceDamaged, match=r"torgb\.bias"):
        convert_generator(g_ema, tmp_path)


@pytest.mark.parametrize("content", [[], {"G": 1}, {"G_ema": None}, {"G_ema": {"weight": 1}}], ids=str)
def test_a_harmless_pickle_of_something_else_is_called_so(content: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceUnsupported, match="no generator"):
        conversion.read_generator(read(pickle.dumps(content), tmp_path), "model.pkl")


# Encoders


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {"visible": encoder_state(1), "occluded": encoder_state(2)}


@pytest.fixture
def encoders(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> EncoderFiles:
    return write_encoders(tmp_path, states)


def assert_joined(out: Path, states: dict[str, dict[str, Tensor]], average: Tensor) -> checkpoints.HeadModel:
    """The file's encoders give exactly what those made of the tensors themselves give."""
    model = checkpoints.load(out)
    torch.manual_seed(4)
    pictures = torch.rand(1, 9, 64, 64) * 2 - 1
    planes = torch.randn(1, 3 * 32 * model.generator.config.planes_depth, 64, 64)
    for name, encoder in (("visible", model.visible), ("occluded", model.occluded)):
        direct = encoder_from_tensors(states[name], average, published.tiny_config())
        assert isinstance(encoder, PanoHeadEncoder) and encoder.config == direct.config
        assert torch.equal(encoder.latent_avg, direct.latent_avg)
        assert torch.equal(encoder.psp_encoder(pictures[:, :3]), direct.psp_encoder(pictures[:, :3]))
        assert torch.equal(encoder.triplanenet_encoder(pictures, planes), direct.triplanenet_encoder(pictures, planes))
    return model


def test_generator_and_encoders_join_in_any_order(source: Path, encoders: EncoderFiles, tmp_path: Path) -> None:
    outs = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for out, given in zip(outs, ([source, *encoders.paths], [*encoders.paths[::-1], source]), strict=True):
        converted = conversion.convert(given, out, False, silent)
        assert converted.sha256 == checkpoints.sha256_of(out)
        assert "CC BY-NC-SA 4.0" in converted.licence and "2409.20530" in converted.licence
    model = assert_joined(outs[0], encoders.states, encoders.average)
    assert model.config["encoders"]["visible"]["kind"] == model.config["encoders"]["occluded"]["kind"] == "panohead"
    assert model.config["commercial_use"] is False and model.config["licence"] == converted.licence
    described = {name: checkpoints.sha256_of(tmp_path / name) for name in ENCODER_FILE_NAMES}
    assert {each["file"]: each["sha256"] for each in model.config["encoder_sources"].values()} == described
    tensors = [checkpoints.read(out)[1] for out in outs]
    assert all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())
    assert {value.dtype for value in tensors[0].values()} == {torch.float32, torch.int64}  # batches counted


def test_encoders_join_a_generator_converted_before(source: Path, encoders: EncoderFiles, tmp_path: Path) -> None:
    first, out = tmp_path / "generator.safetensors", tmp_path / "model.safetensors"
    conversion.convert([source], first, False, silent)
    conversion.convert([*encoders.paths, first], out, False, silent)
    model = assert_joined(out, encoders.states, encoders.average)
    before, after = checkpoints.read(first)[1], checkpoints.read(out)[1]
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert model.name == "model" and model.config["source"]["file"] == source.name
    with pytest.raises(BadOption, match="converted already"):
        conversion.convert([first], tmp_path / "again.safetensors", False, silent)
    with pytest.raises(SourceUnsupported, match="holds encoders already"):
        conversion.convert([out, *encoders.paths], tmp_path / "again.safetensors", False, silent)
    unlicensed = tmp_path / "unlicensed.safetensors"
    checkpoints.save(unlicensed, model.generator, None, None, "unlicensed", {})
    with pytest.raises(SourceUnsupported, match="under which licence"):
        conversion.convert([unlicensed, *encoders.paths], tmp_path / "again.safetensors", False, silent)
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(SourceDamaged, match="damaged"):
        conversion.convert([first, *encoders.paths], tmp_path / "again.safetensors", False, silent)
    with pytest.raises(SourceMissing):
        conversion.convert([tmp_path / "no.safetensors", *encoders.paths], tmp_path / "b.safetensors", False, silent)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_trainings_whole_checkpoint_is_searched(
    zipped: bool, source: Path, encoders: EncoderFiles, tmp_path: Path
) -> None:
    """Nested, with a prefix, beside other things, and with the average latent inside."""
    for name, path in (("visible", encoders.visible), ("occluded", encoders.occluded)):
        state = encoders.states[name]
        whole = {
            "state_dict": {f"module.{key}": torch.nn.Parameter(value, False) for key, value in state.items()},
            "opts": {"device": "cuda:0", "stylegan_weights": None, "lambdas": [0.8, 1.0]},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]},
            "latent_avg": encoders.average,
            "step": 500_000,
        }
        torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    out = tmp_path / "model.safetensors"
    conversion.convert([source, encoders.visible, encoders.occluded], out, False, silent)
    assert_joined(out, encoders.states, encoders.average)


def test_the_file_beside_the_encoders_counts_before_the_latents_in_them(encoders: EncoderFiles) -> None:
    torch.save({**encoders.states["visible"], "latent_avg": torch.zeros(64)}, encoders.visible)
    stored, _ = conversion.read_encoders(conversion.EncoderSources(*encoders.paths))
    assert torch.equal(stored.latent_avg, encoders.average)
    torch.save({"latent_avg": torch.zeros(64), "ema": {"latent_avg": torch.ones(64)}}, encoders.visible)
    with pytest.raises(SourceUnsupported, match=r"several average latents: latent_avg, ema\.latent_avg"):
        conversion.read_encoders(conversion.EncoderSources(encoders.visible, encoders.occluded, None))


@pytest.mark.parametrize("left", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_an_incomplete_set_is_refused_by_what_is_missing(
    left: tuple[int, ...], source: Path, encoders: EncoderFiles, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    with pytest.raises(BadOption) as refused:
        conversion.convert([source, *(encoders.paths[i] for i in left)], out, False, silent)
    for i, name in enumerate(ENCODER_FILE_NAMES[:2]):
        assert (f"no {name}" in refused.value.message) == (i not in left)
    if left == (0, 1):
        assert "no latent_avg.npy" in refused.value.message
    assert not out.exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.pt", "occluded_net.pt"), r"a\.pt does not tell"),
        (("visible_and_occluded.pth", "occluded_net.pt"), "visible_and_occluded.pth does not tell"),
        (("Visible.PT", "not visible.pt"), "2 files for one visible encoder"),
    ],
)
def test_a_name_that_does_not_tell_is_refused(names: tuple[str, str], said: str, source: Path) -> None:
    with pytest.raises(BadOption, match=said):
        conversion.sort_sources([source, *map(Path, names), Path("latent_avg.npy")])


def test_names_tell_in_any_case_and_only_names(source: Path) -> None:
    paths = [Path("/occluded/VISIBLE_net_2.PT"), Path("/visible/Occluded.pth"), Path("/mean.NPY")]
    found = conversion.sort_sources([*paths, source])
    assert found.encoders == conversion.EncoderSources(*paths)
    with pytest.raises(BadOption, match="generator is missing"):
        conversion.sort_sources(paths)


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch sentinel",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_code_in_an_encoder_is_refused_by_name_and_not_run(
    zipped: bool, source: Path, encoders: EncoderFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = {**encoders.states["occluded"], "opts": Evil()}
    torch.save(hostile, encoders.occluded, _use_new_zipfile_serialization=zipped)
    out = tmp_path / "model.safetensors"
    with pytest.raises(SourceRefused, match=r"occluded_net\.pt asks for (os|posix|nt)\.system") as refused:
        conversion.convert([source, *encoders.paths], out, False, silent)
    assert "\x1b" not in refused.value.message and "add_safe_globals" not in refused.value.message
    assert not Path("sentinel").exists() and not out.exists()
    torch.load(encoders.occluded, weights_only=False)  # the control: it would have been run
    assert Path("sentinel").exists()


def test_a_program_in_place_of_an_encoder_is_refused(encoders: EncoderFiles) -> None:
    with zipfile.ZipFile(encoders.visible, "a") as archive:
        archive.writestr("visible_net/constants.pkl", b"")
    with pytest.raises(SourceRefused, match="TorchScript"):
        encoder_files.read_tensors(encoders.visible)


def packed(path: Path) -> None:
    """The same archive with compressed entries, as torch never writes them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_short_in_the_old_format(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    cut_short(path)


def huge_view(path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)


def longer_than_any(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(encoder_files.LARGEST_CHECKPOINT + 1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_short, "damaged"),
        (cut_short_in_the_old_format, "damaged"),
        (packed, "not packed as torch"),
        (huge_view, "1,099,511,627,776 numbers"),
        (longer_than_any, "larger than any"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>Quota exceeded</html>"), "damaged"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "damaged"),
    ],
    ids=["cut short", "old format cut short", "packed", "huge view", "too long", "empty", "web page", "no archive"],
)
def test_a_damaged_encoder_is_called_so(spoil: Callable[[Path], None], said: str, encoders: EncoderFiles) -> None:
    spoil(encoders.visible)
    with pytest.raises(SourceDamaged, match=said) as refused:
        encoder_files.read_tensors(encoders.visible)
    assert "visible_net.pt" in refused.value.message


def test_dicts_within_themselves_end_and_odd_values_are_left_out() -> None:
    tensor = torch.zeros(2)
    nested: dict[Any, Any] = {
        "a": tensor,
        0: tensor,
        "b\x1b[2J": tensor,
        "list": [tensor],
        "sparse": tensor.to_sparse(),
    }
    nested["again"] = nested
    nested["meta"] = torch.zeros(2, device="meta")
    assert list(encoder_files.named_tensors({"x": nested, "y": nested})) == ["x.a"]
    assert encoder_files.named_tensors([tensor]) == {}


def test_encoders_that_do_not_fit_are_refused_with_a_list(source: Path, encoders: EncoderFiles, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    state = dict(encoders.states["occluded"])
    state["psp_encoder.latlayer1.bias"] = torch.zeros(7)
    del state["psp_encoder.styles.3.linear.weight"]
    torch.save(state, encoders.occluded)
    with pytest.raises(SourceUnsupported) as refused:
        conversion.convert([source, *encoders.paths], out, False, silent)
    assert refused.value.message.startswith("occluded_net.pt and latent_avg.npy: The style encoder does not fit")
    for said in ("latlayer1.bias has the shape [7], not [64]", "styles.3.linear.weight is missing"):
        assert said in refused.value.message
    assert refused.value.hint == "Choose the encoder files made for this generator."
    state = dict(encoders.states["occluded"])
    state["psp_encoder.latlayer1.bias"] = torch.full((64,), torch.inf)
    torch.save(state, encoders.occluded)
    with pytest.raises(SourceDamaged, match=r"occluded_net\.pt.* NaN or infinite: psp_encoder\.latlayer1\.bias"):
        conversion.convert([source, *encoders.paths], out, False, silent)
    assert not out.exists()


@pytest.mark.parametrize("shape", [(64,), (1, 64), (10, 64), (1, 10, 64)], ids=str)
def test_the_average_latent_is_read_in_every_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "latent_avg.npy"
    numbers = np.random.default_rng(0).normal(size=shape)
    np.save(path, numbers.astype(">f8"))
    read = encoder_files.read_latent(path)
    assert read.dtype == torch.float32 and read.numpy() == pytest.approx(numbers, rel=1e-6)


@pytest.mark.parametrize(
    ("array", "kind", "said"),
    [
        (np.array([{"a": 1}] * 64, dtype=object), SourceRefused, "asks for Python objects"),
        (np.zeros(64, dtype=np.int64), SourceUnsupported, "int64 values"),
        (np.full(64, np.nan), SourceUnsupported, "not finite"),
        (np.full(64, 1e300), SourceUnsupported, "not finite"),
        (np.zeros(63), SourceUnsupported, r"shape is \[63\]"),
        (np.zeros((2, 64)), SourceUnsupported, r"shape is \[2, 64\]"),
        (np.zeros(0), SourceUnsupported, r"shape is \[0\]"),
        (np.zeros(200_000), SourceDamaged, "larger than any"),
    ],
    ids=["objects", "whole numbers", "NaN", "overflow", "63", "2 x 64", "nothing", "long"],
)
def test_an_average_latent_that_cannot_be_is_refused(
    array: Any, kind: type[HeadcastError], said: str, source: Path, encoders: EncoderFiles, tmp_path: Path
) -> None:
    np.save(encoders.latent_avg, array, allow_pickle=True)
    with pytest.raises(kind, match=said) as refused:
        conversion.convert([source, *encoders.paths], tmp_path / "model.safetensors", False, silent)
    assert kind is not SourceUnsupported or refused.value.hint.startswith("Choose the")


@pytest.mark.parametrize(
    "content", [b"\x93NUMPY", EVIL, b"PK\x03\x04" + bytes(50), None], ids=["start", "pickle", "npz", "claims more"]
)
def test_what_is_no_array_is_called_damaged(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "latent_avg.npy"
    np.save(path, np.zeros(64))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(64,), }             ", b"(9999999999999999,), }") if content is None else content)
    with pytest.raises(SourceDamaged, match=r"latent_avg\.npy"):
        encoder_files.read_latent(path)


def test_a_cancelled_join_leaves_nothing(source: Path, encoders: EncoderFiles, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []

    def cancelled(fraction: float, label: str) -> None:
        told.append((fraction, label))
        if fraction >= 0.8:
            raise Cancelled

    before = sorted(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        conversion.convert([source, *encoders.paths], tmp_path / "model.safetensors", False, cancelled)
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    labels = list(dict.fromkeys(label for _, label in told))
    assert labels == [
        "Reading the encoders", "Reading the file", "Checking the weights", "Checking the encoders", "Writing the file"
    ]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before


# The command


def test_the_command_prints_file_size_checksum_and_licence(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ein Kopf.safetensors"
    command = [sys.executable, "-m", "inference", "convert", str(source), "--out", str(out)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()
    assert printed[0] == str(out)
    assert printed[1] == f"size: {out.stat().st_size / 1e6:.1f} MB"
    assert printed[2] == f"sha256: {checkpoints.sha256_of(out)}"
    assert printed[3].startswith("licence: ") and "Non-commercial" in printed[3]
    assert "Reading the file" in result.stderr and "Writing the file" in result.stderr


def test_an_attack_on_the_command_gets_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "model.pkl"
    source.write_bytes(EVIL)
    assert cli.main(["convert", str(source), "--out", str(tmp_path / "out.safetensors")]) == cli.EXIT_KNOWN
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: The file model.pkl asks for os.system") and hint.startswith("hint: Do not open it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pkl"]


def test_a_file_that_exists_is_replaced_only_when_forced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "panohead.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        conversion.convert([source], out, False, silent)
    assert out.read_bytes() == b"mine"
    conversion.convert([source], out, True, silent)
    assert checkpoints.load_generator(out).config == published.tiny_config()


def test_a_failed_or_cancelled_conversion_leaves_what_was_there(
    source: Path, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "panohead.safetensors"
    out.write_bytes(b"mine")

    def cancelled(fraction: float, label: str) -> None:
        if fraction >= 0.8:
            raise Cancelled

    def full_disk(*arguments: Any, **options: Any) -> None:
        arguments[1].write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    with pytest.raises(Cancelled):
        conversion.convert([source], out, True, cancelled)
    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(OutputNotWritable, match="No space left"):
        conversion.convert([source], out, True, silent)
    source.write_bytes(content[:-100])
    with pytest.raises(SourceDamaged):
        conversion.convert([source], out, True, silent)
    assert out.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["easy-khair.pkl", "panohead.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_disk_that_fills_up_while_the_model_is_written_is_told(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "panohead.safetensors"
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); from inference import cli; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY)); "
        "sys.exit(cli.main(['convert', sys.argv[2], '--out', sys.argv[3]]))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(source), str(out)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == cli.EXIT_KNOWN and "cannot be written" in result.stderr, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_sources_that_make_no_model_are_refused_with_a_reason(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "panohead.safetensors"
    with pytest.raises(BadOption, match="2 files"):
        conversion.convert([source, source], out, False, silent)
    with pytest.raises(SourceMissing, match=r"none\.pkl"):
        conversion.convert([tmp_path / "none.pkl"], out, False, silent)
    with pytest.raises(BadOption, match="does not end"):
        conversion.convert([source], tmp_path / "panohead.pkl", False, silent)
    assert not out.exists()
