"""FAIR's Torch7 models as ours: DeepMask, SharpMask, and the ImageNet trunk they started from.

A Lua module tree is read into the list of its layers, in order; each must be of a known class, and
each must find its place in our model. What is not understood is an error, never passed over.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import Model, build
from sharpmask.models.sharpmask import SharpMask
from sharpmask.shapes import Float
from sharpmask.torch7.format import Torch7Error, TorchObject, read_torch7

Array = Float[np.ndarray, "..."]

CONTAINERS = {"Sequential", "ConcatTable", "ParallelTable"}
LAYERS = {"SpatialConvolution", "SpatialConvolutionMM", "Linear"}
AFFINES = {"ConstAffine", "SpatialConstDiagonal"}
NORMS = {"SpatialBatchNormalization", "BatchNormalization"}
WITHOUT_PARAMETERS = {
    *("ReLU", "Threshold", "Identity", "CAddTable", "Dropout", "View", "Reshape", "Copy"),
    *("SpatialMaxPooling", "SpatialAveragePooling", "SpatialZeroPadding"),
    *("SpatialSymmetricPadding", "SpatialReSamplingEx", "SpatialUpSamplingNearest"),
}
MAX_DEPTH = 16
MAX_LEAVES = 1000
"""Bounds of a module tree; FAIR's nest 9 deep and have some 200 leaves."""
PARAMETERS = ("weight", "bias", "running_mean", "running_var", "a", "b")


@dataclass
class Layer:
    """A convolution or linear layer with what followed it folded in.

    Attributes:
        path: Where it stands in the file, 1-based module numbers.
        weight: (out, in, kernel, kernel), or (out, in) of a linear layer.
        bias: (out,), zeros where the file has none.
    """

    path: str
    weight: Array
    bias: Array


def convert_torch7(path: Path) -> Model | dict[str, Tensor]:
    """Convert a Torch7 file.

    Returns:
        A DeepMask or SharpMask for a file of FAIR's trainers; for an ImageNet ResNet-50 the state
        dict of its trunk under torchvision's names, batch norm folded.

    Raises:
        Torch7Error: The file is damaged, or holds something else than these models.
    """
    root = read_torch7(path)
    try:
        model = root.get("model") if isinstance(root, dict) else root
        if not isinstance(model, TorchObject):
            raise Torch7Error("holds no model: expected a table {model, config} or a network")
        if model.class_name == "nn.DeepMask":
            return convert_deepmask(model, coarse="maskBranch")
        if model.class_name == "nn.SharpMask":
            return convert_sharpmask(model)
        if model.class_name == "nn.Sequential":
            return convert_resnet(model)
        raise Torch7Error(
            f"holds {model.class_name}; expected nn.DeepMask, nn.SharpMask or a ResNet-50"
        )
    except Torch7Error as error:
        raise Torch7Error(f"{path}: {error}") from None


def convert_deepmask(source: TorchObject, *, coarse: str) -> DeepMask:
    """nn.DeepMask, or the DeepMask inside nn.SharpMask, whose coarse mask branch is ``coarse``."""
    trunk, score, mask = (
        list(layers(child(source, key), key)) for key in ("trunk", "scoreBranch", coarse)
    )
    *convolutions, bottleneck, joint = trunk
    grid = round((joint.weight[0].size / max(1, bottleneck.weight.shape[0])) ** 0.5)
    model = build(
        {
            "model": "deepmask",
            "backbone": "resnet50",
            "width": convolutions[0].weight.shape[0],
            "bottleneck_channels": bottleneck.weight.shape[0],
            "vector": joint.weight.shape[0],
            "score_channels": score[0].weight.shape[0],
            "padding": padding_of(child(source, "trunk")),
        }
    )
    assert isinstance(model, DeepMask)
    if grid != model.geometry.grid:
        raise Torch7Error(f"patches of {16 * grid} px; expected {model.geometry.patch_size}")
    fill(model, {"backbone": convolutions, "bottleneck": [bottleneck], "head.joint": [joint]})
    fill(model, {"head.score_head": score, "mask_head": mask})
    return model


def convert_sharpmask(source: TorchObject) -> SharpMask:
    """nn.SharpMask with its DeepMask, whose coarse mask head it keeps as maskBranchDM."""
    deepmask = convert_deepmask(source, coarse="maskBranchDM")
    horizontals, verticals, modules = (
        table(source, key, first) for key, first in (("neths", 1), ("netvs", 0), ("refs", 0))
    )
    encoding, *vertical = (list(layers(v, f"netvs.{i}")) for i, v in enumerate(verticals))
    horizontal = [list(layers(h, f"neths.{i + 1}")) for i, h in enumerate(horizontals)]
    if not len(horizontal) == len(vertical) == len(deepmask.backbone.channels):
        raise Torch7Error(f"{len(horizontal)} refinement modules; expected 4")
    # Both branches stand in refs once more, as the same objects; after them comes the last layer.
    predict = list(layers(modules[-1], "refs.4"))[len(horizontal[-1]) + len(vertical[-1]) :]
    model = build(
        {
            "model": "sharpmask",
            "deepmask": deepmask.architecture,
            "mask_channels": number(source, "km"),
            "skip_channels": number(source, "ks"),
            "lateral_channels": [branch[0].weight.shape[0] for branch in horizontal],
            "upsampling": "nearest",
        }
    )
    assert isinstance(model, SharpMask)
    model.deepmask.load_state_dict(deepmask.state_dict())
    fill(model, {"mask_encoding": encoding, "predict": predict})
    for index, (across, down) in enumerate(zip(horizontal, vertical, strict=True)):
        name = f"refinement.{index}"
        fill(model, {f"{name}.skip": across[:-1], f"{name}.horizontal": across[-1:]})
        fill(model, {f"{name}.mask": down[:-1], f"{name}.vertical": down[-1:]})
    return model


def convert_resnet(source: TorchObject) -> dict[str, Tensor]:
    """The trunk of an ImageNet ResNet-50 (fb.resnet.torch) under torchvision's names."""
    deepmask = build({"model": "deepmask", "backbone": "resnet50", "bottleneck_channels": 8})
    assert isinstance(deepmask, DeepMask)
    convolutions = list(layers(source, "model"))
    trunk = sum(name.endswith(".weight") for name in deepmask.backbone.state_dict())
    fill(deepmask, {"backbone": convolutions[:trunk]})
    return deepmask.backbone.state_dict()


def layers(module: TorchObject, path: str) -> Iterator[Layer]:
    """Layers with parameters below a module, in order, norms and affine maps folded in.

    Raises:
        Torch7Error: A class is unknown, or parameters are found where none are understood.
    """
    last: Layer | None = None
    for place, leaf in leaves(module, path):
        kind = leaf.class_name.rpartition(".")[2]
        found = {key for key in PARAMETERS if has_values(leaf.fields.get(key))}
        if kind in LAYERS and found <= {"weight", "bias"} and "weight" in found:
            if last:
                yield last
            weight = array(leaf, "weight", place)
            bias = array(leaf, "bias", place) if "bias" in found else np.zeros(len(weight))
            if kind == "SpatialConvolutionMM" and weight.ndim == 2:
                side = number(leaf, "kW")
                weight = weight.reshape(len(weight), -1, side, side)
            last = Layer(place, weight, bias)
        elif last and kind in AFFINES and found == {"a", "b"}:
            affine(last, array(leaf, "a", place), array(leaf, "b", place))
        elif last and kind in NORMS and found == {"weight", "bias", "running_mean", "running_var"}:
            eps = leaf.fields.get("eps", 1e-5)
            if not isinstance(eps, float):
                raise Torch7Error(f"{place}: eps must be a number")
            gain = array(leaf, "weight", place) / np.sqrt(array(leaf, "running_var", place) + eps)
            shift = array(leaf, "bias", place) - array(leaf, "running_mean", place) * gain
            affine(last, gain, shift)
        elif kind not in WITHOUT_PARAMETERS or found:
            what = f" with {', '.join(sorted(found))}" if found else ""
            raise Torch7Error(f"{place}: {leaf.class_name}{what} is not understood here")
    if last:
        yield last


def affine(layer: Layer, gain: Array, shift: Array) -> None:
    """Fold x -> gain * x + shift into the layer before it."""
    # SpatialConstDiagonal keeps its vectors as (1, channels, 1, 1).
    gain, shift = gain.reshape(-1), shift.reshape(-1)
    if not len(gain) == len(shift) == len(layer.weight):
        raise Torch7Error(f"{layer.path}: {len(layer.weight)} channels, then a map of {len(gain)}")
    shape = (-1, *(1,) * (layer.weight.ndim - 1))
    layer.weight = layer.weight.astype(np.float64) * gain.reshape(shape)
    layer.bias = layer.bias * gain + shift


def leaves(module: TorchObject, path: str) -> Iterator[tuple[str, TorchObject]]:
    """The modules below a module that contain no others, with their paths."""
    # A file may nest a container in itself, or one in another over and over.
    if path.count(".") > MAX_DEPTH:
        raise Torch7Error(f"{path}: modules are nested too deeply")
    if module.class_name.rpartition(".")[2] not in CONTAINERS:
        yield path, module
        return
    found = (
        leaf
        for index, inner in enumerate(table(module, "modules", 1), 1)
        for leaf in leaves(inner, f"{path}.{index}")
    )
    for count, leaf in enumerate(found):
        if count == MAX_LEAVES:
            raise Torch7Error(f"{path}: more than {MAX_LEAVES} modules")
        yield leaf


def child(source: TorchObject, key: str) -> TorchObject:
    """A field that must be a module."""
    value = source.fields.get(key)
    if not isinstance(value, TorchObject):
        raise Torch7Error(f"{source.class_name} has no module {key!r}")
    return value


def table(source: TorchObject, key: str, first: int) -> list[TorchObject]:
    """A field that must be a list of modules, numbered from ``first``."""
    value = source.fields.get(key)
    if isinstance(value, dict) and set(value) == set(range(first, first + len(value))):
        modules = [value[index] for index in range(first, first + len(value))]
        checked = [module for module in modules if isinstance(module, TorchObject)]
        if len(checked) == len(modules):
            return checked
    raise Torch7Error(f"{source.class_name} has no list of modules {key!r}")


def number(source: TorchObject, key: str) -> int:
    """A field that must be a whole number."""
    value = source.fields.get(key)
    if not isinstance(value, float) or not value.is_integer():
        raise Torch7Error(f"{source.class_name}: {key} must be a whole number")
    return int(value)


def has_values(value: object) -> bool:
    """Whether a field is a tensor with elements."""
    return isinstance(value, np.ndarray) and value.size > 0


def array(source: TorchObject, key: str, path: str) -> Array:
    """A parameter tensor. Refused unless contiguous: a view that repeats may claim any size."""
    value = source.fields[key]
    if not isinstance(value, np.ndarray) or not value.flags.c_contiguous:
        raise Torch7Error(f"{path}: {key} must be a contiguous tensor")
    return value


def padding_of(trunk: TorchObject) -> str:
    """How the trunk pads its 3x3 convolutions."""
    mirrored = any(leaf.class_name == "nn.SpatialSymmetricPadding" for _, leaf in leaves(trunk, ""))
    padded = any(
        leaf.fields.get("padW") for _, leaf in leaves(trunk, "") if "Convolution" in leaf.class_name
    )
    if mirrored and padded:
        raise Torch7Error("trunk: some layers mirror their border, others pad with zeros")
    return "symmetric" if mirrored else "zero"


def fill(model: Model, places: dict[str, Sequence[Layer]]) -> None:
    """Put layers, in order, into the parameters below each name; counts and shapes must agree."""
    state = model.state_dict()
    for prefix, found in places.items():
        keys = [key for key in state if key.startswith(f"{prefix}.") and key.endswith(".weight")]
        if len(keys) != len(found):
            raise Torch7Error(f"{prefix}: {len(keys)} layers expected, the file has {len(found)}")
        for key, layer in zip(keys, found, strict=True):
            shape = tuple(state[key].shape)
            # A linear layer and the convolution it becomes hold the same numbers in the same order.
            if len(layer.weight) != shape[0] or layer.weight.size != math.prod(shape):
                raise Torch7Error(
                    f"{layer.path}: expected a weight of shape {shape}, got {layer.weight.shape}"
                )
            weight = np.asarray(layer.weight, np.float32).reshape(shape)
            state[key].copy_(torch.from_numpy(weight))
            bias = key.removesuffix("weight") + "bias"
            state[bias].copy_(torch.from_numpy(np.asarray(layer.bias, np.float32)))
