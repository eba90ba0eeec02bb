"""The state of a run in one safetensors file: weights, moving average, optimizer, step."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpmask.models.pretrained import read_safetensors, save_atomically
from sharpmask.models.sources import WeightsError
from sharpmask.training.recipes import Recipe


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    average: Mapping[str, Tensor],
    optimizer: Optimizer,
    recipe: Recipe,
    step: int,
) -> None:
    """Write everything a run needs to go on after ``step`` batches as if nothing had happened."""
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state |= {f"average.{key}": value for key, value in average.items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                state[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    metadata = {"step": json.dumps(step), "recipe": json.dumps(asdict(recipe))}
    metadata["sha256"] = digest(tensors, metadata)
    save_atomically(tensors, path, metadata, keep=previous(path))


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A hash of everything that a checkpoint holds: disks do flip bits."""
    sha = hashlib.sha256(json.dumps([metadata["step"], metadata["recipe"]]).encode())
    for key in sorted(tensors):
        value = tensors[key].contiguous()
        sha.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def load_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: Optimizer,
    recipe: Recipe,
) -> int:
    """Restore a run in place; from the checkpoint before the last one if that is damaged.

    Returns:
        The number of batches already done, 0 if there is no checkpoint.

    Raises:
        ValueError: Both files are damaged, or they belong to a run with another recipe or model.
    """
    found = [file for file in (path, previous(path)) if file.exists()]
    if not found:
        return 0
    try:
        tensors, metadata = read_checkpoint(found[0])
    except WeightsError as error:
        if len(found) == 1:
            raise
        warnings.warn(f"{error}; going on from {found[1].name}", stacklevel=2)
        tensors, metadata = read_checkpoint(found[1])
    stored = json.loads(metadata.get("recipe", "{}"))
    differences = [key for key, value in asdict(recipe).items() if stored.get(key) != value]
    if differences:
        raise WeightsError(
            f"{path}: the run there has other settings ({', '.join(differences)}); "
            "give another --output, or the same settings to resume it"
        )
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError:
        raise WeightsError(
            f"{path}: the run there has another model; give another --output, or the same model "
            "to resume it"
        ) from None
    average.update(parts["average"])
    state: dict[int, dict[str, Any]] = {}
    for key, value in parts["optimizer"].items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(json.loads(metadata["step"]))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint that is whole.

    Raises:
        WeightsError: It is damaged, or no checkpoint.
    """
    tensors, metadata = read_safetensors(path)
    if not {"step", "recipe", "sha256"} <= metadata.keys():
        raise WeightsError(f"{path}: not a checkpoint of a training run; give another --output")
    if digest(tensors, metadata) != metadata["sha256"]:
        raise WeightsError(
            f"{path}: the checkpoint is damaged: its hash is not that of its content"
        )
    return tensors, metadata
