"""PanoHead's published pickle as plain values and inert records: nothing it names is imported, called or looked up.

Such a file is a program: opcodes for a small stack machine, some of which fetch a function by name and call it, and
PanoHead's even carries the Python source of its classes to be run. Here the machine is our own. A name stays a name;
the few calls a published file makes (CALLS, INSTANCES) have a stand-in each, and any other name ends the reading.
Python's own unpickler is not used, so no class or function is ever within a file's reach.

The format: https://github.com/python/cpython/blob/3.11/Lib/pickletools.py. What PanoHead's files hold of it was found
by writing one of the same form.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from .errors import SourceDamaged, SourceMissing, SourceRefused
from .progress import Progress

# The published file: 0.6 GB (three networks), some 300,000 opcodes; its largest tensor has 2.4 million numbers, the
# generator 55 million. The limits leave room for relatives and stop a file that would fill the memory or never end.
LARGEST_FILE = 2 * 2**30  # bytes
MOST_STEPS = 5_000_000  # opcodes, and elements copied besides
LARGEST_TENSOR = 2**24  # numbers
MOST_NUMBERS = 2**27  # of all tensors that are asked for
MOST_AXES = 5  # of a tensor
LONGEST_KEY = 256  # characters
LARGEST_NUMBER = 2**48  # of counts, and of integers that are keys
LONGEST_NAME = 120  # characters of a file's own words in a message
STEPS_PER_PROGRESS = 1000

NETWORK_CLASSES = {
    # generator
    "TriPlaneGenerator", "OSGDecoder", "ImportanceRenderer", "MipRayMarcher2", "Generator", "MappingNetwork",
    "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer", "ToRGBLayer", "FullyConnectedLayer",
    "SuperresolutionHybrid8XDC",
    # discriminator and augmentation: in the file, not used
    "MaskDualDiscriminatorV2", "DiscriminatorBlock", "DiscriminatorEpilogue", "Conv2dLayer", "MinibatchStdLayer",
    "AugmentPipe",
}  # fmt: skip
PERSISTENCE_VERSION = 6  # of StyleGAN's records; also PanoHead's

STORAGE_DTYPES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
SCALAR_DTYPES = {"f8", "f4", "i8", "i4", "u1", "b1"}
LEGACY_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first number of what torch.save wrote before it wrote zip archives
LEGACY_TORCH_VERSION = 1001


@dataclass(frozen=True)
class Name:
    """A dotted name the file mentions, such as collections.OrderedDict: text, never the thing."""

    dotted: str


@dataclass(eq=False)
class Network:
    """What the file says of one torch module: its class by name, and its attributes. `state` is None until told."""

    class_name: str
    state: dict[Any, Any] | None = None

    def attribute(self, name: str) -> Any:
        """An attribute as stored, or None."""
        return (self.state or {}).get(name)

    def group(self, name: str) -> dict[Any, Any]:
        """One of torch's tables of members (_parameters, _buffers, _modules); empty if the file has none."""
        members = self.attribute(name)
        return members if isinstance(members, dict) else {}


@dataclass(frozen=True, eq=False)
class Storage:
    """Numbers in a row, little-endian, as torch stored them; `dtype` as numpy spells it."""

    dtype: str
    numbers: int
    content: bytes
    start: int  # bytes before the first number


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A view of a storage that was checked to lie inside it; `read` makes the tensor."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # numbers

    @property
    def numel(self) -> int:
        """How many numbers the tensor has."""
        return int(np.prod(self.shape, dtype=object))

    def read(self) -> Tensor:
        """A tensor of its own on the CPU, whichever device the file says it was on."""
        storage = self.storage
        row = np.frombuffer(storage.content, dtype=storage.dtype, count=storage.numbers, offset=storage.start)
        view = np.lib.stride_tricks.as_strided(
            row[self.offset :], self.shape, [stride * row.itemsize for stride in self.strides], writeable=False
        )
        return torch.from_numpy(view.copy())


@dataclass(frozen=True)
class _Dtype:
    name: str


_Call: TypeAlias = Callable[["_Machine", tuple[Any, ...]], Any]


def check_file(path: Path, largest: int) -> int:
    """Bytes of a file. Raises SourceMissing, and SourceDamaged where it is empty or has more than `largest`."""
    if not path.is_file():
        raise SourceMissing(f"There is no file {path}.")
    size = path.stat().st_size
    if size == 0:
        raise SourceDamaged(f"The file {path.name} is empty.")
    if size > largest:
        raise SourceDamaged(f"The file {path.name} is larger than any model of its kind, {size / 2**20:,.0f} MiB.")
    return size


def load(path: Path, progress: Progress) -> Any:
    """The file's content: dict, list, tuple, set, text, numbers, bytes, and Network and StoredTensor records.

    Raises SourceMissing, SourceRefused when it names what no PanoHead file needs, SourceDamaged when it is no pickle,
    ends early, or claims sizes that cannot be true.
    """
    size = check_file(path, LARGEST_FILE)
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceMissing(f"The file {path} cannot be read ({error.strerror or error}).") from error
    with content:
        stream = cast(IO[bytes], content)  # a map reads like a file
        machine = _Machine(stream, path.name, _Budget(size, path.name), calls=CALLS, instances=INSTANCES)
        return machine.run(lambda position: progress(position / size, "Reading the file"))


@dataclass
class _Budget:
    """How much the whole file, streams inside it included, may still cost."""

    encoded_bytes: int  # text turned into bytes: each piece once, so never more than the file is long
    file: str
    steps: int = MOST_STEPS

    def spend(self, steps: int, encoded_bytes: int = 0) -> None:
        self.steps -= steps
        self.encoded_bytes -= encoded_bytes
        if self.steps < 0 or self.encoded_bytes < 0:
            raise SourceDamaged(f"The file {self.file} asks for more work than any model needs.")


class _Machine:
    """Runs one pickle. Containers are its own and only ever get values put in; no value has behaviour."""

    def __init__(
        self,
        stream: IO[bytes],
        file: str,
        budget: _Budget,
        *,
        calls: Mapping[str, _Call] = MappingProxyType({}),
        instances: Mapping[str, _Call] = MappingProxyType({}),
        names: Collection[str] = (),
        persistent: _Call | None = None,
    ) -> None:
        """Nothing is allowed that is not given here.

        file:             for messages.
        calls, instances: what may be called and made, by dotted name, and what happens instead.
        names:            what else may be named.
        persistent:       what a persistent object becomes.
        """
        self.stream = stream
        self.file = file
        self.budget = budget
        self._calls = calls
        self._instances = instances
        self._names = names
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}  # not a list: an index near 2^32 costs nothing

    def run(self, tick: Callable[[int], None] | None = None) -> Any:
        """The value the pickle describes; `tick` hears of the position, in bytes. Raises as `load`."""
        position = 0
        try:
            for count, (opcode, argument, where) in enumerate(pickletools.genops(self.stream)):
                position = where or 0
                self.budget.spend(1)
                if tick is not None and count % STEPS_PER_PROGRESS == 0:
                    tick(position)
                if opcode.name != "STOP":  # the last one
                    self._step(opcode.name, argument)
            return self._stack.pop()
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            # The library's parser says ValueError; the others are a stack or memo that lacks what is asked for, or
            # holds what cannot be used that way.
            raise SourceDamaged(f"The file {self.file} is no pickle or is damaged (at byte {position}).") from error

    def refuse(self, what: str) -> SourceRefused:
        """The error for something no PanoHead file holds."""
        return SourceRefused(
            f"The file {self.file} asks for {short(what)}, which no model needs. Nothing of it was run."
        )

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self._memo[argument])
            case (
                "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "UNICODE"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
                | "BININT" | "BININT1" | "BININT2" | "INT" | "LONG" | "LONG1" | "LONG4" | "BINFLOAT" | "FLOAT"
            ):  # fmt: skip
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._take(int(opcode[-1]))))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                pairs = self._since_mark()
                stack.append({})
                self._set_items(pairs)
            case "APPEND":
                self._extend(self._take(1))
            case "APPENDS":
                self._extend(self._since_mark())
            case "SETITEM":
                self._set_items(self._take(2))
            case "SETITEMS":
                self._set_items(self._since_mark())
            case "ADDITEMS":
                elements = self._since_mark()
                self._container(set).update(map(self.key, elements))
            case "GLOBAL":
                self._name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                self._name(*self._take(2))
            case "REDUCE":
                self._call(self._calls, "a call of")
            case "NEWOBJ":
                self._call(self._instances, "an instance of")
            case "BUILD":
                (state,) = self._take(1)
                self._build(stack[-1], state)
            case "BINPERSID":
                self._call_persistent()
            case "POP":
                if self._marks and self._marks[-1] == len(stack):
                    self._marks.pop()
                else:
                    stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME":
                pass  # frames only tell how much to read ahead
            case "INST":
                raise self.refuse(f"{argument.replace(' ', '.')} by opcode INST")
            case _:
                shown = "" if argument is None else f" {in_words(argument)}"
                raise self.refuse(f"the opcode {opcode}{shown}")

    def _take(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("the stack is too short")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        height = self._marks.pop()
        taken = self._stack[height:]
        del self._stack[height:]
        return taken

    def _container(self, kind: type) -> Any:
        target = self._stack[-1]
        if type(target) is not kind:
            raise self.refuse(f"filling {in_words(target)} like a {kind.__name__}")
        return target

    def _extend(self, elements: list[Any]) -> None:
        self._container(list).extend(elements)

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        keys = map(self.key, items[::2])
        self._container(dict).update(zip(keys, items[1::2], strict=True))

    def key(self, value: Any) -> str | int:
        """A value that may be a key of a dictionary or an element of a set."""
        # Nothing deeper: the hash of tuples nested in themselves takes exponential time.
        if (isinstance(value, str) and len(value) <= LONGEST_KEY) or _is_small(value):
            return value
        raise self.refuse(f"{in_words(value)} as a key")

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        dotted = f"{module}.{name}"
        if dotted not in self._calls and dotted not in self._instances and dotted not in self._names:
            raise self.refuse(dotted)
        self._stack.append(Name(dotted))

    def _call(self, table: Mapping[str, _Call], what: str) -> None:
        called, arguments = self._take(2)
        if not isinstance(called, Name) or called.dotted not in table:
            raise self.refuse(f"{what} {in_words(called)}")
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        self._stack.append(table[called.dotted](self, arguments))

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Network) and target.state is None and type(state) is dict:
            target.state = state
        elif isinstance(target, _Dtype) and type(state) is tuple and len(state) > 1 and state[1] in ("<", "|"):
            pass  # its other fields describe records and alignment, which scalars do not have
        else:
            raise self.refuse(f"setting the state of {in_words(target)}")

    def _call_persistent(self) -> None:
        (key,) = self._take(1)
        if self._persistent is None:
            raise self.refuse(f"the persistent object {in_words(key)}")
        self._stack.append(self._persistent(self, (key,)))


def short(text: str) -> str:
    """A file's own words, fit for one line of a message."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: LONGEST_NAME + 1])
    return line if len(line) <= LONGEST_NAME else line[:LONGEST_NAME] + "…"


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and abs(value) <= LARGEST_NUMBER


def in_words(value: Any) -> str:
    """A value of the file in a few words, for a message.

    Containers are not written out: nested in themselves, they have no end.
    """
    match value:
        case Name(dotted):
            return short(dotted)
        case Network(class_name):
            return f"the network {short(class_name)}"
        case str():
            return repr(short(value))
        case int() if not _is_small(value):
            return "a huge number"  # Python refuses to write out the longest
        case int() | float() | None:
            return repr(value)
        case _:
            return f"a {type(value).__name__.lstrip('_')}"


def _persistent_network(machine: _Machine, arguments: tuple[Any, ...]) -> Network:
    """StyleGAN's record of a module. It carries the source of the class, which is neither kept nor run."""
    (meta,) = arguments
    if type(meta) is not dict or set(meta) != {"type", "version", "module_src", "class_name", "state"}:
        raise machine.refuse("a persistent object of an unknown kind")
    if meta["type"] != "class" or meta["version"] != PERSISTENCE_VERSION:
        raise machine.refuse(
            f"a persistent object of type {in_words(meta['type'])}, version {in_words(meta['version'])}"
        )
    class_name, state = meta["class_name"], meta["state"]
    if not isinstance(class_name, str) or class_name not in NETWORK_CLASSES:
        raise machine.refuse(f"the persistent class {in_words(class_name)}")
    if type(state) is not dict:
        raise TypeError("a network without attributes")
    return Network(class_name, state)


def _instance(name: str) -> _Call:
    def make(machine: _Machine, arguments: tuple[Any, ...]) -> Network:
        if arguments:
            raise machine.refuse(f"arguments for {name}")
        return Network(name)

    return make


def _dictionary(machine: _Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise machine.refuse("a dictionary made from arguments")
    return {}


def _set(machine: _Machine, arguments: tuple[Any, ...]) -> set[Any]:
    (elements,) = arguments
    if type(elements) is not list:
        raise TypeError("a set of something else than a list")
    machine.budget.spend(len(elements))
    return set(map(machine.key, elements))


def _encode(machine: _Machine, arguments: tuple[Any, ...]) -> bytes:
    """Bytes, as protocol 2 spells them: text of which each letter is a byte."""
    text, encoding = arguments
    if not isinstance(text, str) or encoding != "latin1":
        raise machine.refuse(f"text in the encoding {in_words(encoding)}")
    machine.budget.spend(0, encoded_bytes=len(text))
    return text.encode("latin1")


def _dtype(machine: _Machine, arguments: tuple[Any, ...]) -> _Dtype:
    name = arguments[0]
    if not isinstance(name, str) or name not in SCALAR_DTYPES:
        raise machine.refuse(f"the numpy dtype {in_words(name)}")
    return _Dtype(name)


def _scalar(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    dtype, raw = arguments
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
        raise machine.refuse("a numpy scalar of an unknown kind")
    (value,) = np.frombuffer(raw, dtype=np.dtype(dtype.name).newbyteorder("<"))
    return value.item()


def _parameter(machine: _Machine, arguments: tuple[Any, ...]) -> StoredTensor:
    data = arguments[0]
    if not isinstance(data, StoredTensor):
        raise machine.refuse("a parameter that is no tensor")
    return data


def _tensor(machine: _Machine, arguments: tuple[Any, ...]) -> StoredTensor:
    """A tensor's shape over its storage. Both are checked: strides of 0 would make a huge tensor of a few bytes."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise machine.refuse("a tensor without a storage")
    sizes = (offset, *_counts(shape), *_counts(strides))
    if any(not _is_small(size) or size < 0 for size in sizes) or len(shape) != len(strides):
        raise SourceDamaged(f"The file {machine.file} holds a tensor whose sizes make no sense.")
    tensor = StoredTensor(storage, offset, tuple(shape), tuple(strides))
    numel = tensor.numel
    size_words = "x".join(map(in_words, shape)) or "1"
    if numel > LARGEST_TENSOR:
        raise SourceDamaged(f"The file {machine.file} holds a tensor larger than any model's: {short(size_words)}.")
    if numel:
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if last >= storage.numbers or numel > storage.numbers:
            raise SourceDamaged(
                f"The file {machine.file} holds a tensor larger than its storage: "
                f"{short(size_words)} in {storage.numbers}."
            )
    return tensor


def _counts(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > MOST_AXES:
        raise TypeError("sizes that are no short tuple")
    return value


def _storage(machine: _Machine, arguments: tuple[Any, ...]) -> Storage:
    """One storage out of the bytes torch.save made of it: five pickles, then the count and the numbers.

    Not by torch.load, though its `weights_only` would run no code either: it makes room for as many numbers as the
    bytes claim to hold before it looks at them, and lets them ask for buffers of any size.
    """
    (content,) = arguments
    if not isinstance(content, bytes):
        raise machine.refuse("a storage that is no bytes")
    stream = io.BytesIO(content)
    name = f"{machine.file} (in a tensor)"

    def next_pickle() -> Any:
        return _Machine(stream, name, machine.budget, names=STORAGE_DTYPES, persistent=_storage_record).run()

    if next_pickle() != LEGACY_TORCH_MAGIC or next_pickle() != LEGACY_TORCH_VERSION:
        raise SourceDamaged(f"The file {machine.file} holds a tensor in a form Headcast does not know.")
    system, record, keys = next_pickle(), next_pickle(), next_pickle()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise SourceDamaged(f"The file {machine.file} holds a tensor in another byte order.")
    if not isinstance(record, _StorageRecord) or type(keys) is not list or keys != [record.key]:
        raise SourceDamaged(f"The file {machine.file} holds something else in place of a tensor's numbers.")
    count = int.from_bytes(stream.read(8), "little", signed=True)
    start = stream.tell()
    if count != record.numbers or len(content) - start != count * np.dtype(record.dtype).itemsize:
        raise SourceDamaged(f"The file {machine.file} holds a tensor that ends too early or too late.")
    return Storage(record.dtype, count, content, start)


@dataclass(frozen=True)
class _StorageRecord:
    key: str
    dtype: str
    numbers: int


def _storage_record(machine: _Machine, arguments: tuple[Any, ...]) -> _StorageRecord:
    """('storage', class, key, device, count, None). The device is where it once was; here everything is on the CPU."""
    (record,) = arguments
    if type(record) is not tuple or len(record) != 6 or record[0] != "storage" or record[5] is not None:
        raise machine.refuse("a persistent object that is no storage")
    kind, key, numbers = record[1], record[2], record[4]
    if not isinstance(kind, Name) or not isinstance(key, str) or type(numbers) is not int or numbers < 0:
        raise machine.refuse("a storage of an unknown kind")
    return _StorageRecord(key, STORAGE_DTYPES[kind.dotted], numbers)


CALLS: dict[str, _Call] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_network,
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,  # numpy 1
    "numpy._core.multiarray.scalar": _scalar,  # numpy 2
    "_codecs.encode": _encode,
    "__builtin__.set": _set,  # protocol 2
    "builtins.set": _set,
}

INSTANCES: dict[str, _Call] = {
    "dnnlib.util.EasyDict": _dictionary,
    "torch.nn.modules.container.Sequential": _instance("Sequential"),
    "torch.nn.modules.activation.Softplus": _instance("Softplus"),
    "training.volumetric_rendering.ray_sampler.RaySampler": _instance("RaySampler"),
}


def state_dict(network: Network, file: str) -> dict[str, Tensor]:
    """Every parameter and persistent buffer of a network and the networks in it, in single precision, by dotted key.

    Raises SourceDamaged where they are more than any model has, or no tensors.
    """
    found: dict[str, StoredTensor] = {}
    budget = _Budget(0, file)
    waiting = [("", network)]
    while waiting:
        prefix, here = waiting.pop()
        budget.spend(1 + len(prefix))  # a network that holds itself would go on for ever
        passing = here.attribute("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set) else set()
        for key, value in {**here.group("_parameters"), **here.group("_buffers")}.items():
            budget.spend(1)
            if value is None or key in passing:
                continue
            if not isinstance(value, StoredTensor):
                raise SourceDamaged(
                    f"The file {file} holds {in_words(value)} in place of the tensor {short(f'{prefix}{key}')}."
                )
            found[f"{prefix}{key}"] = value
        for key, child in here.group("_modules").items():
            budget.spend(1)
            if isinstance(child, Network):
                waiting.append((f"{prefix}{key}.", child))
    if sum(tensor.numel for tensor in found.values()) > MOST_NUMBERS:
        raise SourceDamaged(f"The file {file} holds more numbers than any model has.")
    return {key: tensor.read().float() for key, tensor in found.items()}
