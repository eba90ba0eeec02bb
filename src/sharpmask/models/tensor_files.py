"""Safetensors files: tensors, and texts that say what they are; nothing is unpickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from sharpmask.files import replacing_file
from sharpmask.models.sources import WeightsError, resolve


def save_atomically(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str], *, keep: Path | None = None
) -> None:
    """Write a safetensors file that is either whole or not there, even when power fails.

    The file that it replaces is kept as ``keep``, if that is given. The same content gives the same
    bytes, so that a run which names its model by a hash goes on when the model is saved again.
    """
    # Not save_file: its files are readable by their owner only.
    content = _in_order(serialize(tensors, metadata))
    with replacing_file(path, keep=keep) as file:
        file.write(content)


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes them in any order."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of eight bytes
    return len(text).to_bytes(8, "little") + text + content[start:]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: It is damaged or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None


def read_metadata(source: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model file says of itself: architecture, recipe, data, figures.

    Raises:
        WeightsError: No such name or file, or not a model file.
    """
    path = resolve(source)
    try:
        with safe_open(path, framework="pt") as file:
            return parsed(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable model file: {error}") from None


def parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Values of metadata by key; other programs write plain text there, which is left as it is."""
    values: dict[str, Any] = {}
    for key, text in sorted(metadata.items()):
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values
