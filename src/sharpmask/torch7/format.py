"""Reads the binary Torch7 file format, what ``torch.save`` writes in Lua, as plain data.

A file is one value: a 4-byte type, then its content. Tables, torch objects and functions carry an
id; an id seen before is a back reference and has no content. All numbers are little-endian, a
"long" has 8 bytes. Nothing in a file is executed, and memory stays in proportion to its size.
"""

# Our own reader, because PyPI's `torchfile` 0.1.0 (2017) lets a file point its views outside of
# their storage, believes every count, has no depth limit and lacks the Half and CudaLong types.

import math
import re
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Key = str | int | float | bool
Array = npt.NDArray[Any]

_NIL, _NUMBER, _STRING, _TABLE, _TORCH, _BOOLEAN = range(6)
_FUNCTION, _LEGACY_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION = 6, 7, 8

_ELEMENT_TYPES = {
    "Byte": "u1",
    "Char": "i1",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
    "Half": "<f2",
    "Float": "<f4",
    "Double": "<f8",
}
# torch.CudaTensor is the float tensor of its family; all others repeat the CPU's names.
_DTYPES = {
    prefix + name: np.dtype(code)
    for prefix in ("", "Cuda")
    for name, code in _ELEMENT_TYPES.items()
    if prefix + name != "CudaFloat"
} | {"Cuda": np.dtype("<f4")}

_MAX_DEPTH = 128  # FAIR's models need 25; one level takes up to three Python frames
_MAX_DIMENSIONS = 32  # NumPy's limit before version 2
_MIN_ENTRY_BYTES = 12  # the shortest table entry: a boolean or an empty string, and nil


class Torch7Error(ValueError):
    """A file that is not a whole, honest Torch7 file; names the file, the byte and the cause."""


@dataclass(eq=False)
class TorchObject:
    """A Lua object other than a tensor or storage; equal only to itself, as in Lua.

    A function becomes a ``TorchObject`` of class "function" without fields: its code is dropped.
    """

    class_name: str
    fields: dict[Key, object] = field(repr=False)


def read_torch7(path: Path) -> object:
    """Return the value stored in a binary Torch7 file.

    | Lua | Python |
    |---|---|
    | nil, boolean, number | ``None``, ``bool``, ``float`` |
    | string | ``str`` (UTF-8; other bytes as surrogate escapes) |
    | table | ``dict``; integral keys are ``int`` |
    | torch.*Storage | 1-D array |
    | torch.*Tensor | array, a view into its storage's array; without dimensions: shape (0,) |
    | other objects, functions | ``TorchObject`` |

    What is one object in the file is one object here, so a table may contain itself, and writing
    to one tensor may change another. A view may repeat elements (stride 0) and be far larger than
    the file: compare its shape with the expected one before copying it.

    Raises:
        Torch7Error: The file is truncated, inconsistent, nested too deeply, or of another format.

    """
    reader = _Reader(memoryview(path.read_bytes()), path)
    value = reader.read()
    if reader.offset != len(reader.data):
        raise reader.error(reader.offset, "expected the end of the file, got more bytes")
    return value


class _Reader:
    """A position in the bytes of one file, and the objects met so far by their id."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data = data
        self.path = path
        self.offset = 0
        self.depth = 0
        self.objects: dict[int, object] = {}

    def error(self, offset: int, cause: str) -> Torch7Error:
        return Torch7Error(f"{self.path}: byte {offset}: {cause}")

    def read(self) -> object:
        """Read one value of any type, with all it contains."""
        start = self.offset
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error(start, f"values nested deeper than {_MAX_DEPTH} levels")
        kind = self.integer()
        value: object
        if kind == _NIL:
            value = None
        elif kind == _NUMBER:
            value = struct.unpack("<d", self.take(8, "number"))[0]
        elif kind == _BOOLEAN:
            value = self.boolean()
        elif kind == _STRING:
            value = self.string()
        elif kind == _FUNCTION:
            value = self.function(None)
        elif kind in (_TABLE, _TORCH, _LEGACY_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION):
            index = self.integer()
            if index in self.objects:
                value = self.objects[index]
            elif kind == _TABLE:
                value = self.table(index)
            elif kind == _TORCH:
                value = self.torch_object(index)
            else:
                value = self.function(index)
        else:
            cause = f"expected a type from 0 to 8, got {kind}; is this a binary Torch7 file?"
            raise self.error(start, cause)
        self.depth -= 1
        return value

    def take(self, count: int, what: str) -> memoryview:
        """Take the next `count` bytes without a copy; `count` may come straight from the file."""
        remaining = len(self.data) - self.offset
        if not 0 <= count <= remaining:
            raise self.error(self.offset, f"{what} of {count} bytes, {remaining} bytes remain")
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def integer(self) -> int:
        return int.from_bytes(self.take(4, "integer"), "little", signed=True)

    def longs(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}q", self.take(8 * count, "long integers")))

    def boolean(self) -> bool:
        start = self.offset
        value = self.integer()
        if value not in (0, 1):
            raise self.error(start, f"expected a boolean, 0 or 1, got {value}")
        return value == 1

    def string(self) -> str:
        return str(self.take(self.integer(), "string"), "utf-8", "surrogateescape")

    def function(self, index: int | None) -> TorchObject:
        """Step over a function: no use is made of its bytecode."""
        function = TorchObject("function", {})
        if index is not None:
            self.objects[index] = function
        self.take(self.integer(), "function")
        self.read()  # its upvalues, which may define objects that are referred to later
        return function

    def table(self, index: int) -> dict[Key, object]:
        table: dict[Key, object] = {}
        self.objects[index] = table  # before its content, which may refer to it
        start = self.offset
        count = self.integer()
        remaining = len(self.data) - self.offset
        if not 0 <= count <= remaining // _MIN_ENTRY_BYTES:
            raise self.error(start, f"table of {count} entries, {remaining} bytes remain")
        for _ in range(count):
            start = self.offset
            key = self.read()
            if isinstance(key, float) and key.is_integer():
                key = int(key)
            # Only the type of a wrong key is named: the text of a table that holds another twice,
            # and so on, would be exponentially longer than the file.
            if not isinstance(key, str | int | float):
                cause = (
                    f"expected a string, number or boolean as table key, got {type(key).__name__}"
                )
                raise self.error(start, cause)
            if key != key:
                raise self.error(start, "a table key is NaN")
            if key in table:  # or 1 beside true, which Python cannot keep apart
                raise self.error(start, f"table key {key!r:.99} appears twice")
            table[key] = self.read()
        return table

    def torch_object(self, index: int) -> Array | TorchObject:
        class_name = self.string()
        if re.fullmatch(r"V \d+", class_name):  # files older than class versions lack this string
            class_name = self.string()
        array_class = re.fullmatch(r"torch\.(\w*)(Tensor|Storage)", class_name)
        if array_class and array_class[1] in _DTYPES:
            read = self.tensor if array_class[2] == "Tensor" else self.storage
            return read(index, _DTYPES[array_class[1]])
        torch_object = TorchObject(class_name, {})
        self.objects[index] = torch_object  # before its content, which may refer to it
        start = self.offset
        fields = self.read()
        if not isinstance(fields, dict):
            raise self.error(start, f"expected the fields of {class_name!r:.80} as a table")
        torch_object.fields = fields
        return torch_object

    def storage(self, index: int, dtype: np.dtype[Any]) -> Array:
        (count,) = self.longs(1)
        content = self.take(count * dtype.itemsize, "storage")
        storage = np.frombuffer(content, dtype).copy()  # aligned and writable
        self.objects[index] = storage
        return storage

    def tensor(self, index: int, dtype: np.dtype[Any]) -> Array:
        self.objects[index] = None  # while it is read: a tensor is not its own storage
        start = self.offset
        dimensions = self.integer()
        if not 0 <= dimensions <= _MAX_DIMENSIONS:
            cause = f"expected 0 to {_MAX_DIMENSIONS} tensor dimensions, got {dimensions}"
            raise self.error(start, cause)
        sizes, strides = self.longs(dimensions), self.longs(dimensions)
        axes = list(zip(sizes, strides, strict=True))
        first = self.longs(1)[0] - 1  # Lua counts from 1
        storage = self.read()
        tensor: Array = np.empty(0, dtype)
        if dimensions > 0:
            # A storage owns its memory. A tensor in its place could have more elements than memory.
            if not isinstance(storage, np.ndarray) or not storage.flags.owndata:
                raise self.error(start, "expected a storage at the end of the tensor")
            if storage.dtype != dtype:
                raise self.error(start, f"expected a storage of {dtype}, got {storage.dtype}")
            # In Python's integers, which cannot overflow as the check in np.ndarray could.
            last = first + sum((size - 1) * stride for size, stride in axes)
            if min(sizes) < 1 or min(strides) < 0 or not 0 <= first <= last < storage.size:
                shape = f"sizes {sizes}, strides {strides}, offset {first + 1}"
                cause = f"tensor of {shape} in a storage of {storage.size} elements"
                raise self.error(start, cause)
            if math.prod(sizes) * dtype.itemsize > sys.maxsize:
                raise self.error(start, f"tensor of sizes {sizes} is larger than any memory")
            # The stride of a single element is never used and may be any number.
            steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in axes]
            tensor = np.ndarray(sizes, dtype, storage, first * dtype.itemsize, steps)
        self.objects[index] = tensor
        return tensor
