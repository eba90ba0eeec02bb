"""The state of a run in one safetensors file: weights, moving average, optimizer, step."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpmask.models.sources import WeightsError
from sharpmask.models.weights import read_safetensors, save_atomically
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
    save_atomically(tensors, path, metadata)


def load_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: Optimizer,
    recipe: Recipe,
) -> int:
    """Restore a run in place.

    Returns:
        The number of batches already done.

    Raises:
        ValueError: The file is damaged or belongs to a run with another recipe or model.
    """
    tensors, metadata = read_safetensors(path)
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
