"""Lays a model of ours out as FAIR's Lua classes store it, for files that tests convert back."""

from typing import Any

import numpy as np
import torch

from sharpmask.models.deepmask import DeepMask
from sharpmask.models.layers import Conv2d
from sharpmask.models.sharpmask import SharpMask
from torch7_writer import LuaObject


class FairLayout:
    """Builds Lua objects.

    Args:
        affine: Class of the fixed batch norm; its fields are a and b.
        biases: Whether the trunk's convolutions have a bias of their own.
        convolutional: Whether heads are convolutions already, as in FAIR's inference mode.
        mirrored: Whether convolutions mirror their border.
    """

    def __init__(
        self,
        *,
        affine: str = "inn.ConstAffine",
        biases: bool = True,
        convolutional: bool = False,
        mirrored: bool = True,
    ) -> None:
        self.affine, self.biases = affine, biases
        self.convolutional, self.mirrored = convolutional, mirrored
        self.rng = np.random.default_rng(0)

    def sequential(self, *modules: Any) -> LuaObject:
        return LuaObject("nn.Sequential", {"modules": dict(enumerate(modules, 1))})

    def plain(self, name: str, **fields: Any) -> LuaObject:
        return LuaObject(name, fields)

    def conv(self, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1) -> list[LuaObject]:
        side = weight.shape[-1]
        fields: dict[str, Any] = {"weight": weight, "kW": float(side), "dW": float(stride)}
        if bias is not None:
            fields["bias"] = bias
        if side == 1:
            return [LuaObject("cudnn.SpatialConvolution", fields)]
        if not self.mirrored:
            return [LuaObject("cudnn.SpatialConvolution", fields | {"padW": float(side // 2)})]
        padding = self.plain("nn.SpatialSymmetricPadding", pad_l=float(side // 2))
        return [self.sequential(padding, LuaObject("cudnn.SpatialConvolution", fields))]

    def normed(self, layer: Conv2d) -> list[LuaObject]:
        """A convolution and a fixed map after it that together are ``layer``."""
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        gain = self.rng.uniform(0.5, 2, len(weight)) * self.rng.choice([-1, 1], len(weight))
        shift = self.rng.normal(size=len(weight)) if self.biases else bias
        raw = (weight / gain[:, None, None, None]).astype(np.float32)
        own = ((bias - shift) / gain).astype(np.float32) if self.biases else None
        # The older class keeps its vectors as (1, channels, 1, 1).
        shape = (-1,) if self.affine == "inn.ConstAffine" else (1, -1, 1, 1)
        norm = {
            "a": gain.astype(np.float32).reshape(shape),
            "b": shift.astype(np.float32).reshape(shape),
        }
        return [*self.conv(raw, own, layer.stride[0]), LuaObject(self.affine, norm)]

    def simple(self, layer: torch.nn.Module) -> list[LuaObject]:
        weight, bias = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
        return self.conv(weight, bias)

    def linear(self, layer: torch.nn.Module) -> LuaObject:
        weight, bias = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
        if self.convolutional:
            shape = weight.shape if weight.ndim == 4 else (*weight.shape, 1, 1)
            fields = {"weight": weight.reshape(shape), "bias": bias}
            return LuaObject("cudnn.SpatialConvolution", fields)
        return LuaObject("nn.Linear", {"weight": weight.reshape(len(weight), -1), "bias": bias})

    def bottleneck(self, block: torch.nn.Module) -> LuaObject:
        relu = self.plain("cudnn.ReLU")
        main = self.sequential(
            *self.normed(block.conv1), relu, *self.normed(block.conv2), relu,
            *self.normed(block.conv3),
        )  # fmt: skip
        shortcut = (
            self.plain("nn.Identity")
            if isinstance(block.downsample, torch.nn.Identity)
            else self.sequential(*self.normed(block.downsample[0]))
        )
        both = LuaObject("nn.ConcatTable", {"modules": {1: main, 2: shortcut}})
        return self.sequential(both, self.plain("nn.CAddTable"), relu)

    def trunk(self, model: DeepMask) -> LuaObject:
        stages = [
            self.sequential(*map(self.bottleneck, stage))
            for stage in (model.backbone.layer1, model.backbone.layer2, model.backbone.layer3)
        ]
        return self.sequential(
            *self.normed(model.backbone.conv1), self.plain("cudnn.ReLU"),
            self.plain("nn.SpatialMaxPooling"), *stages,
            self.plain("nn.SpatialZeroPadding", pad_l=-1.0), *self.simple(model.bottleneck[0]),
            self.plain("cudnn.ReLU"), self.plain("nn.View"), self.linear(model.head.joint),
        )  # fmt: skip

    def deepmask_fields(self, model: DeepMask, coarse: str) -> dict[str, Any]:
        score = model.head.score_head
        return {
            "trunk": self.trunk(model),
            "scoreBranch": self.sequential(
                self.plain("nn.Dropout"), self.linear(score[1]), self.plain("nn.Threshold"),
                self.plain("nn.Dropout"), self.linear(score[4]),
            ),
            coarse: self.sequential(
                self.sequential(self.linear(model.mask_head)), self.plain("nn.View")
            ),
            "fSz": 10.0,
        }  # fmt: skip

    def deepmask(self, model: DeepMask) -> dict[str, Any]:
        fields = self.deepmask_fields(model, "maskBranch")
        return {"model": LuaObject("nn.DeepMask", fields), "config": {"iSz": 160.0}}

    def sharpmask(self, model: SharpMask) -> dict[str, Any]:
        relu = self.plain("cudnn.ReLU")
        horizontals, verticals, refs = (
            {},
            {0: self.sequential(self.linear(model.mask_encoding))},
            {},
        )
        refs[0] = verticals[0]
        for index, module in enumerate(model.refinement, 1):
            horizontals[index] = self.sequential(
                *self.simple(module.skip[0]), relu, *self.simple(module.skip[2]), relu,
                *self.simple(module.horizontal),
            )  # fmt: skip
            verticals[index] = self.sequential(
                *self.simple(module.mask[0]), relu, *self.simple(module.vertical)
            )
            both = {1: horizontals[index], 2: verticals[index]}
            last = self.simple(model.predict) if index == len(model.refinement) else []
            refs[index] = self.sequential(
                LuaObject("nn.ParallelTable", {"modules": both}), self.plain("nn.CAddTable"), relu,
                self.plain("nn.SpatialUpSamplingNearest"), *last,
            )  # fmt: skip
        fields = self.deepmask_fields(model.deepmask, "maskBranchDM") | {
            "neths": horizontals,
            "netvs": verticals,
            "refs": refs,
            "km": float(model.architecture["mask_channels"]),
            "ks": float(model.architecture["skip_channels"]),
        }
        return {"model": LuaObject("nn.SharpMask", fields), "config": {"iSz": 160.0}}
