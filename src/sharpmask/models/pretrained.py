"""Model files: safetensors whose metadata says how to build the model; nothing is unpickled."""

import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from sharpmask.models.backbones import Backbone, fold_batch_norm
from sharpmask.models.deepmask import DeepMask, build_deepmask
from sharpmask.models.pyramid import SharpMaskPyramid, build_pyramid
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.sources import WeightsError, resolve
from sharpmask.models.tails import Tail
from sharpmask.models.yolox import PyramidTrunk

Model = DeepMask | SharpMask
AnyModel = Model | SharpMaskPyramid


def build(architecture: Mapping[str, Any]) -> Any:
    """A model with random weights from its description, as model files hold it.

    ``{"model": "deepmask", ...}`` takes the arguments of ``build_deepmask``;
    ``{"model": "sharpmask", "deepmask": {...}, ...}`` those of ``SharpMask``;
    ``{"model": "pyramid", ...}`` those of ``build_pyramid``.

    Raises:
        ValueError: Unknown model or arguments.
    """
    try:
        options = dict(architecture)
        kind = options.pop("model", None)
        if kind == "deepmask":
            model: AnyModel = build_deepmask(**options)
        elif kind == "sharpmask":
            deepmask = build(options.pop("deepmask"))
            if not isinstance(deepmask, DeepMask):
                raise ValueError("architecture: 'deepmask' must describe a deepmask")
            model = SharpMask(deepmask, **options)
        elif kind == "pyramid":
            model = build_pyramid(**options)
        else:
            raise ValueError(f"architecture: expected deepmask, sharpmask or pyramid, got {kind!r}")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"architecture: {error}") from None
    model.architecture = dict(architecture)
    return model


def save(
    model: AnyModel,
    path: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model file, atomically.

    Args:
        model: Made by ``build`` or ``load``.
        path: A .safetensors file.
        metadata: Recipe, data, figures: anything JSON holds.
        dtype: Type of the stored values, e.g. float16 for half the size; theirs if None.
    """
    state = {
        key: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    texts = {"architecture": json.dumps(model.architecture)}
    texts |= {key: json.dumps(value) for key, value in (metadata or {}).items()}
    save_atomically(state, path, texts)


def save_atomically(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str], *, keep: Path | None = None
) -> None:
    """Write a safetensors file that is either whole or not there, even when power fails.

    The file that it replaces is kept as ``keep``, if that is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        # Not save_file: its files are readable by their owner only.
        with temporary.open("wb") as file:
            file.write(serialize(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(source: str | os.PathLike[str]) -> Any:
    """Load a model for inference (eval mode, float32).

    Args:
        source: Name of a model in the package (see ``names``), a .safetensors file, a folder with
            ``model.safetensors``, or a Hugging Face repository "owner/name" that holds that file.

    Raises:
        WeightsError: No such name or file, not a model file, or damaged.
    """
    path = resolve(source)
    state, metadata = read_safetensors(path)
    if "architecture" not in metadata:
        raise WeightsError(
            f"{path}: not a sharpmask model file (no architecture in its metadata); a backbone "
            "for training is given with --init"
        )
    try:
        model = build(json.loads(metadata["architecture"]))
        model.load_state_dict({key: value.float() for key, value in state.items()})
        model.metadata = _parsed(metadata)
        del model.metadata["architecture"]
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: {textwrap.shorten(str(error), 300)}") from None
    return model.eval()


def read_metadata(source: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model file says of itself: architecture, recipe, data, figures.

    Raises:
        WeightsError: No such name or file, or not a model file.
    """
    path = resolve(source)
    try:
        with safe_open(path, framework="pt") as file:
            return _parsed(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable model file: {error}") from None


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Values of metadata; other programs write plain text there, which is left as it is."""
    values: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: It is damaged or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None


CLASSIFIER_PREFIXES = ("fc.", "classifier.", "layer4.", "features.", "bu_conv1.", "C3_n4.")
"""What an ImageNet file holds beyond stride 16; only these may be left over."""


def load_backbone(
    backbone: Backbone, source: str | os.PathLike[str], *, tail: Tail | None = None
) -> None:
    """Fill a backbone from an ImageNet file with torchvision's names, folding batch norm.

    Args:
        backbone: Changed in place.
        tail: The same net's layers beyond stride 16, if they are wanted; changed in place.
        source: A .safetensors file, or a .pth file (read with ``weights_only=True``), or a Hugging
            Face repository "owner/name" with ``model.safetensors``.

    Raises:
        WeightsError: The file cannot be read, or does not fit the backbone in every tensor.
    """
    path = resolve(source)
    if path.suffix == ".safetensors":
        state, _ = read_safetensors(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that is no checkpoint
            reason = str(error).split("\n")[0] or "empty or cut short"
            raise WeightsError(f"{path}: {reason}") from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{path}: expected a state dict of tensors with torchvision's names")
    try:
        state = fold_batch_norm(state)
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: {error}") from None
    expected = backbone.state_dict() | (tail.state_dict() if tail else {})
    missing = [key for key in expected if key not in state]
    strange = [
        key for key in state if key not in expected and not key.startswith(CLASSIFIER_PREFIXES)
    ]
    wrong = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has unknown", strange), ("has misshapen", wrong)):
        if keys:
            raise WeightsError(
                f"{path}: {what} {len(keys)} tensors for this backbone, e.g. {keys[0]!r}; "
                "give the file of the same architecture"
            )
    for part in (backbone, tail):
        if part:
            part.load_state_dict({key: state[key] for key in part.state_dict()})


def load_trunk(trunk: PyramidTrunk, source: str | os.PathLike[str]) -> None:
    """Fill a trunk with a feature pyramid from a file with its own names.

    Args:
        trunk: Changed in place.
        source: A .safetensors file, or a Hugging Face repository "owner/name" with
            ``model.safetensors``.

    Raises:
        WeightsError: The file cannot be read, or does not fit the trunk in every tensor.
    """
    path = resolve(source)
    state, _ = read_safetensors(path)
    try:
        trunk.load_state_dict(state)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 300)
        raise WeightsError(f"{path}: not the weights of this trunk: {reason}") from None
