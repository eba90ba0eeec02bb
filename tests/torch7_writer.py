"""Writes the binary Torch7 file format, for tests; shares no code with the package's reader."""

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CLASS_PREFIXES = {
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "float16": "Half",
    "float32": "Float",
    "float64": "Double",
}


@dataclass(eq=False)
class LuaObject:
    """An object of a Lua class; `version` None writes the form older than class versions."""

    class_name: str
    fields: Any = field(default_factory=dict)
    version: str | None = "V 1"


@dataclass(eq=False)
class LuaFunction:
    """A function of type 6 (oldest, without an id), 7 or 8 (what Torch writes now)."""

    kind: int = 8
    code: bytes = b"\x1bLJ\x01"
    upvalues: Any = field(default_factory=dict)


@dataclass(eq=False)
class LuaStorage:
    """A storage by itself; a tensor of the same memory shares it."""

    array: np.ndarray


@dataclass(eq=False)
class LuaTensor:
    """A tensor of any content, honest or not; `offset` counts from 1."""

    class_name: str
    sizes: list[int]
    strides: list[int]
    offset: int
    storage: Any


class Torch7Writer:
    """Turns Python values into the bytes that ``torch.save`` would write.

    A NumPy array becomes a tensor, a view into the storage of the array that owns the memory: two
    views of one array share a storage. With `cuda`, classes are named as on a GPU.
    """

    def __init__(self, *, cuda: bool = False) -> None:
        self.cuda = cuda
        self.parts: list[bytes] = []
        self.ids: dict[tuple[str, int], int] = {}
        self.kept: list[object] = []  # an id() may be used again once its object is gone

    def integer(self, value: int) -> None:
        self.parts.append(struct.pack("<i", value))

    def longs(self, *values: int) -> None:
        self.parts.append(struct.pack(f"<{len(values)}q", *values))

    def string(self, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        self.integer(len(data))
        self.parts.append(data)

    def value(self, value: Any) -> None:
        if value is None:
            self.integer(0)
        elif isinstance(value, bool):
            self.integer(5)
            self.integer(value)
        elif isinstance(value, int | float):
            self.integer(1)
            self.parts.append(struct.pack("<d", value))
        elif isinstance(value, str | bytes):
            self.integer(2)
            self.string(value)
        elif isinstance(value, dict):
            self.table(value)
        elif isinstance(value, LuaFunction):
            self.function(value)
        elif isinstance(value, LuaStorage):
            self.storage(value.array)
        elif isinstance(value, LuaTensor):
            self.tensor(value)
        elif isinstance(value, np.ndarray):
            self.array(value)
        else:
            self.lua_object(value)

    def starts_new(self, kind: int, value: object, role: str = "value") -> bool:
        """Write type and id; False when that was a back reference, which has no content.

        One array may be met in two roles, as a tensor and as the storage of tensors.
        """
        new = (role, id(value)) not in self.ids
        self.kept.append(value)
        self.integer(kind)
        self.integer(self.ids.setdefault((role, id(value)), len(self.ids) + 1))
        return new

    def table(self, table: dict[Any, Any]) -> None:
        if self.starts_new(3, table):
            self.integer(len(table))
            for key, value in table.items():
                self.value(key)
                self.value(value)

    def function(self, function: LuaFunction) -> None:
        if function.kind == 6:
            self.integer(6)
        elif not self.starts_new(function.kind, function):
            return
        self.string(function.code)
        self.value(function.upvalues)

    def lua_object(self, lua_object: LuaObject) -> None:
        if self.starts_new(4, lua_object):
            if lua_object.version is not None:
                self.string(lua_object.version)
            self.string(lua_object.class_name)
            self.value(lua_object.fields)

    def storage(self, array: np.ndarray) -> None:
        if self.starts_new(4, array, "storage"):
            self.string("V 1")
            self.string(self.class_of(array, "Storage"))
            self.longs(array.size)
            self.parts.append(array.tobytes())

    def tensor(self, tensor: LuaTensor) -> None:
        if self.starts_new(4, tensor):
            self.tensor_content(tensor)

    def array(self, array: np.ndarray) -> None:
        if self.starts_new(4, array):
            name = self.class_of(array, "Tensor")
            if array.size == 0:
                self.tensor_content(LuaTensor(name, [], [], 1, None))
                return
            owner: Any = array
            while getattr(owner, "base", None) is not None:
                owner = owner.base
            strides = [stride // array.itemsize for stride in array.strides]
            skipped = (array.ctypes.data - owner.ctypes.data) // array.itemsize
            storage = LuaStorage(owner)
            self.tensor_content(LuaTensor(name, list(array.shape), strides, skipped + 1, storage))

    def tensor_content(self, tensor: LuaTensor) -> None:
        self.string("V 1")
        self.string(tensor.class_name)
        self.integer(len(tensor.sizes))
        self.longs(*tensor.sizes, *tensor.strides, tensor.offset)
        self.value(tensor.storage)

    def class_of(self, array: np.ndarray, kind: str) -> str:
        prefix = CLASS_PREFIXES[array.dtype.name]
        if self.cuda:
            prefix = "Cuda" + prefix.removeprefix("Float")
        return f"torch.{prefix}{kind}"


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def class_header(class_name: str) -> bytes:
    """Type, id 1, version and class, to which a test adds a content of its own."""
    return ints(4, 1, 3) + b"V 1" + ints(len(class_name)) + class_name.encode()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three random errors, some of them made to hurt."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(result)) if result else 0
        kind = rng.randrange(6)
        if kind == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del result[at:]
        elif kind == 2:
            result[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 3:
            del result[at : at + rng.randint(1, 8)]
        elif kind == 4:  # a type, an id, a count, a number of dimensions
            value = rng.choice([-(2**31), -1, *range(10), 33, 255, 2**31 - 1])
            result[at : at + 4] = struct.pack("<i", value)
        else:  # a size, a stride, an offset, a count of elements
            value = rng.choice([-(2**63), -1, 0, 1, 2, 3, 19, 21, 2**32, 2**62, 2**63 - 1])
            result[at : at + 8] = struct.pack("<q", value)
    return bytes(result)


def torch7_bytes(value: Any, *, cuda: bool = False) -> bytes:
    writer = Torch7Writer(cuda=cuda)
    writer.value(value)
    return b"".join(writer.parts)


def write_torch7(path: Path, value: Any, *, cuda: bool = False) -> Path:
    """Write one value as a Torch7 file; returns `path`."""
    path.write_bytes(torch7_bytes(value, cuda=cuda))
    return path
