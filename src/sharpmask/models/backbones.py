"""Convolutional trunks to stride 16: ResNet, VGG, MobileNetV2 and YOLOX without batch norm.

Batch norm is folded into the convolutions when ImageNet files are loaded (facts: FAIR turns it into
fixed affine maps), so every convolution has a bias. Parameter names are torchvision's.
Every backbone maps a normalised image (B, 3, H, W) to four feature maps at strides 2, 4, 8 and 16.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.blocks import BasicBlock, Bottleneck, InvertedResidual, conv_relu6
from sharpmask.models.layers import Conv2d, Padding
from sharpmask.models.yolox import YoloxLayers
from sharpmask.shapes import Float

STRIDES = (2, 4, 8, 16)


class Backbone(nn.Module):
    """A trunk with features at strides 2, 4, 8 and 16.

    Attributes:
        channels: Widths of the four maps.
        cell_offset: Coordinate at which cell 0 of every map is centred. None takes each cell to be
            centred in its square of pixels; heads learn what is not so.
        architecture: The options of ``build_deepmask`` that describe it; none for a trunk from
            outside the package.
    """

    channels: tuple[int, int, int, int]
    cell_offset: int | None = None
    architecture: Mapping[str, Any] = MappingProxyType({})

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps at strides 2, 4, 8, 16; sizes are rounded up at each halving."""
        raise NotImplementedError

    def layers_to(self, stride: int) -> list[nn.Module]:
        """The layers that make the maps up to a stride."""
        raise NotImplementedError


class ResNet(Backbone):
    """ResNet to layer3.

    Args:
        block: Residual block.
        layers: Blocks in layer1, layer2, layer3.
        width: Channels of the stem; 64 in every published net, less in tests.
        padding: Border of the 3x3 and 7x7 convolutions. The max-pool keeps its own.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        *,
        width: int = 64,
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__()
        base = "resnet18" if block is BasicBlock else "resnet50"
        named = named_or(base, {name: d for name, (b, d) in RESNETS.items() if b is block}, layers)
        self.architecture = {**named, "width": width, "padding": padding}
        self.conv1 = Conv2d(3, width, 7, stride=2, padding=padding)
        channels = [width]
        stages: list[nn.Module] = []
        for index, depth in enumerate(layers):
            stage_width = width * 2**index
            blocks: list[nn.Module] = []
            in_channels = channels[-1]
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(in_channels, stage_width, stride, padding))
                in_channels = stage_width * block.expansion
            stages.append(nn.Sequential(*blocks))
            channels.append(in_channels)
        self.layer1, self.layer2, self.layer3 = stages
        self.channels = (channels[0], channels[1], channels[2], channels[3])
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            # Without batch norm a deep sum of branches would grow: begin as shallow as a plain net.
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.conv2 if isinstance(module, BasicBlock) else module.conv3
                nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of conv1, layer1, layer2, layer3."""
        stride2 = F.relu(self.conv1(x))
        stride4 = self.layer1(F.max_pool2d(stride2, 3, 2, 1))
        stride8 = self.layer2(stride4)
        return stride2, stride4, stride8, self.layer3(stride8)

    def layers_to(self, stride: int) -> list[nn.Module]:
        """conv1, layer1, layer2, layer3 for strides 2, 4, 8, 16."""
        layers = [self.conv1, self.layer1, self.layer2, self.layer3]
        return layers[: sum(s <= stride for s in STRIDES)]


class VGG(Backbone):
    """VGG without its last max-pool and its fully connected layers; 512 channels at stride 16.

    Args:
        depths: Convolutions in each of the five stages.
        padding: Border of the convolutions.
    """

    WIDTHS = (64, 128, 256, 512, 512)

    def __init__(self, depths: Sequence[int], *, padding: Padding = "symmetric") -> None:
        super().__init__()
        self.architecture = {**named_or("vgg11", VGGS, depths), "padding": padding}
        layers: list[nn.Module] = []
        in_channels = 3
        for stage, (depth, width) in enumerate(zip(depths, self.WIDTHS, strict=True)):
            if stage:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(depth):
                layers += [Conv2d(in_channels, width, 3, padding=padding), nn.ReLU(inplace=True)]
                in_channels = width
        self.features = nn.Sequential(*layers)
        self.channels = (128, 256, 512, 512)
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last map before each pooling from stride 2 on, and the final one."""
        maps: list[Tensor] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps[1], maps[2], maps[3], x

    def layers_to(self, stride: int) -> list[nn.Module]:
        """The layers before the pooling that follows a stride."""
        layers: list[nn.Module] = []
        reached = 1
        for layer in self.features.children():
            reached *= 2 if isinstance(layer, nn.MaxPool2d) else 1
            if reached > stride:
                break
            layers.append(layer)
        return layers


class MobileNetV2(Backbone):
    """MobileNetV2 1.0 to stride 16 (features.0 to features.13).

    Its block outputs are linear with a deviation of 3 to 6, so the four maps are divided by
    ``FEATURE_DEVIATION`` for heads that are initialised for unit features.
    """

    FEATURE_DEVIATION = 4.0
    # expand, channels, repeats, stride
    SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    TAPS = (1, 3, 6, 13)

    def __init__(self, *, padding: Padding = "symmetric") -> None:
        super().__init__()
        self.architecture = {"backbone": "mobilenet_v2", "padding": padding}
        layers: list[nn.Module] = [conv_relu6(3, 32, 3, stride=2, padding=padding)]
        in_channels = 32
        for expand, channels, repeats, first_stride in self.SETTINGS:
            for position in range(repeats):
                stride = first_stride if position == 0 else 1
                layers.append(InvertedResidual(in_channels, channels, stride, expand, padding))
                in_channels = channels
        self.features = nn.Sequential(*layers)
        self.channels = (16, 24, 32, 96)
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of blocks 1, 3, 6, 13, scaled to about unit deviation."""
        maps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.TAPS:
                maps.append(x / self.FEATURE_DEVIATION)
        return maps[0], maps[1], maps[2], maps[3]

    def layers_to(self, stride: int) -> list[nn.Module]:
        """Blocks up to the tap of a stride."""
        taps = [tap for tap, s in zip(self.TAPS, STRIDES, strict=True) if s <= stride]
        return list(self.features.children())[: taps[-1] + 1] if taps else []


class YoloxNanoBackbone(YoloxLayers, Backbone):
    """YOLOX-Nano's trunk: its last map is [dark4, P4], 256 channels at stride 16.

    Args:
        width: Channels at stride 2.
        padding: Border of the convolutions.
    """

    cell_offset = 1

    def __init__(self, *, width: int = 16, padding: Padding = "symmetric") -> None:
        super().__init__(width, padding)
        c1, c2, c3, c4, _ = self.widths
        self.channels = (c1, c2, c3, 2 * c4)
        self.architecture = {"backbone": "yolox_nano", "width": width, "padding": padding}

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of stem, dark2, dark3, and of dark4 with P4."""
        maps = self.backbone(x)
        _, level4, _ = self.to_level4(maps)
        return maps[0], maps[1], maps[2], torch.cat([maps[3], level4], dim=1)


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6)),
    "resnet50": (Bottleneck, (3, 4, 6)),
}
VGGS = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}


def resnet(name: str) -> Callable[..., Backbone]:
    """A ResNet's constructor."""
    block, layers = RESNETS[name]
    return lambda depths=layers, **options: ResNet(block, depths, **options)


def vgg(name: str) -> Callable[..., Backbone]:
    """A VGG's constructor."""
    return lambda depths=VGGS[name], **options: VGG(depths, **options)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    **{name: resnet(name) for name in RESNETS},
    **{name: vgg(name) for name in VGGS},
    "mobilenet_v2": MobileNetV2,
    "yolox_nano": YoloxNanoBackbone,
}
"""Backbones by torchvision's and Megvii's names; vgg11 is the VGG-A of DeepMask."""


def build_backbone(
    name: str,
    *,
    depths: Sequence[int] | None = None,
    width: int | None = None,
    padding: Padding = "symmetric",
) -> Backbone:
    """A backbone with random weights, from what its ``architecture`` holds.

    Args:
        name: One of ``BACKBONES``.
        depths: Blocks of each stage of a ResNet, or convolutions of a VGG; the named net's if None.
        width: Channels of the stem: a ResNet's 64 or YOLOX-Nano's 16 if None.
        padding: Border of the convolutions: "symmetric" or "zero".

    Raises:
        ValueError: Unknown backbone or padding, or an option that the backbone lacks.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, got {name!r}")
    if padding not in ("symmetric", "zero"):
        raise ValueError(f"padding: expected symmetric or zero, got {padding!r}")
    if width is not None and name not in (*RESNETS, "yolox_nano"):
        raise ValueError(
            f"width: a ResNet's or YOLOX-Nano's can be chosen, not that of {name}; leave it out"
        )
    if depths is not None and name not in (*RESNETS, *VGGS):
        raise ValueError(f"depths: {name} has but one form; leave them out")
    given = {"depths": depths, "width": width}
    options = {key: value for key, value in given.items() if value is not None}
    return BACKBONES[name](padding=padding, **options)


def named_or(
    base: str, known: Mapping[str, Sequence[int]], depths: Sequence[int]
) -> dict[str, Any]:
    """The name of the net with these depths; where none has them, ``base`` and the depths."""
    for name, own in known.items():
        if tuple(own) == tuple(depths):
            return {"backbone": name}
    return {"backbone": base, "depths": list(depths)}


def fold_batch_norm(state: dict[str, Tensor], eps: float = 1e-5) -> dict[str, Tensor]:
    """Fold every batch norm of a torchvision state dict into the convolution before it.

    A batch norm ``bnN`` follows ``convN``; in a sequence, position n follows n - 1. In eval mode
    the folded net computes the same function.

    Raises:
        ValueError: A batch norm is incomplete or has no convolution before it.
    """
    folded = {key: value for key, value in state.items() if value.is_floating_point()}
    for key in [key for key in state if key.endswith(".running_mean")]:
        norm = key.removesuffix(".running_mean")
        parent, _, name = norm.rpartition(".")
        before = name.replace("bn", "conv") if name.startswith("bn") else str(int(name) - 1)
        conv = f"{parent}.{before}" if parent else before
        if f"{conv}.weight" not in state:
            raise ValueError(f"batch norm {norm!r} has no convolution {conv!r} to be folded into")
        if not {f"{norm}.{part}" for part in ("running_var", "weight", "bias")} <= folded.keys():
            raise ValueError(f"batch norm {norm!r} lacks its running_var, weight or bias")
        mean, var = folded.pop(f"{norm}.running_mean"), folded.pop(f"{norm}.running_var")
        gain = folded.pop(f"{norm}.weight") / torch.sqrt(var + eps)
        shift = folded.pop(f"{norm}.bias") - mean * gain
        bias = state.get(f"{conv}.bias")
        folded[f"{conv}.weight"] = state[f"{conv}.weight"] * gain[:, None, None, None]
        folded[f"{conv}.bias"] = shift if bias is None else shift + bias * gain
    return folded
