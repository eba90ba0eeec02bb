"""Models by name, file or repository; backbones from ImageNet files."""

import os
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpmask.models.backbones import Backbone, fold_batch_norm
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.sources import WeightsError, resolve
from sharpmask.models.tensor_files import read_metadata, read_safetensors, save_atomically
from sharpmask.models.window_net import load_as, save
from sharpmask.models.yolox import PyramidTrunk

__all__ = [
    "Model",
    "build",
    "load",
    "load_backbone",
    "read_metadata",
    "read_safetensors",
    "save",
    "save_atomically",
]

PatchModel = DeepMask | SharpMask
"""Networks of the papers: windows of one size, a photo is read at several scales."""
Model = PatchModel | SharpMaskPyramid
KINDS: dict[str, type[Model]] = {net.kind: net for net in (DeepMask, SharpMask, SharpMaskPyramid)}


def build(architecture: Mapping[str, Any]) -> Model:
    """A model with random weights from its description, as model files hold it.

    ``{"model": "deepmask", ...}`` takes the arguments of ``build_deepmask``;
    ``{"model": "sharpmask", "deepmask": {...}, ...}`` those of ``SharpMask``;
    ``{"model": "pyramid", ...}`` those of ``build_pyramid``.

    Raises:
        ValueError: Unknown model or arguments.
    """
    kind = architecture.get("model") if isinstance(architecture, Mapping) else architecture
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"architecture: expected one of {', '.join(KINDS)}, got {kind!r}")
    return KINDS[kind].from_architecture(architecture)


def load(source: str | os.PathLike[str]) -> Model:
    """Load a model for inference (eval mode, float32).

    Args:
        source: Name of a model in the package (see ``names``), a .safetensors file, a folder with
            ``model.safetensors``, or a Hugging Face repository "owner/name" that holds that file.

    Raises:
        WeightsError: No such name or file, not a model file, or damaged.
    """
    return load_as(build, source)


CLASSIFIER_PREFIXES = ("fc.", "classifier.", "layer4.", "features.", "bu_conv1.", "C3_n4.")
"""What an ImageNet file holds beyond stride 16; only these may be left over."""


def load_backbone(backbone: Backbone, source: str | os.PathLike[str]) -> None:
    """Fill a backbone from an ImageNet file with torchvision's names, folding batch norm.

    Args:
        backbone: Changed in place.
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
    expected = backbone.state_dict()
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
    backbone.load_state_dict({key: state[key] for key in expected})


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
