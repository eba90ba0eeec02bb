"""Blocks of which backbones are made. Parameter names are torchvision's."""

import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.layers import Conv2d, Padding
from sharpmask.shapes import Float


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, width, 3, stride=stride, padding=padding)
        self.conv2 = Conv2d(width, width, 3, padding=padding)
        self.downsample = shortcut(in_channels, width, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """Residual sum, rectified."""
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y.add_(self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride (as torchvision and FAIR), 1x1 and a shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, width, 1)
        self.conv2 = Conv2d(width, width, 3, stride=stride, padding=padding)
        self.conv3 = Conv2d(width, 4 * width, 1)
        self.downsample = shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """Residual sum, rectified."""
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y.add_(self.downsample(x)))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity, or a strided 1x1 projection where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(Conv2d(in_channels, out_channels, 1, stride=stride))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 (MobileNetV2)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expand: int, padding: Padding
    ) -> None:
        super().__init__()
        hidden = in_channels * expand
        layers: list[nn.Module] = [] if expand == 1 else [conv_relu6(in_channels, hidden, 1)]
        layers += [
            conv_relu6(hidden, hidden, 3, stride=stride, groups=hidden, padding=padding),
            Conv2d(hidden, out_channels, 1),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """Linear output, plus the input where shapes agree."""
        *expand, depthwise, project = self.conv.children()
        conv, activation = depthwise.children()
        assert isinstance(conv, Conv2d)
        # Mirroring commutes with the pointwise expansion: pad the narrow map, not the wide one.
        mirrored = conv.border == "symmetric"
        y = conv.pad(x) if mirrored else x
        for layer in expand:
            y = layer(y)
        y = project(activation(conv.valid(y) if mirrored else conv(y)))
        return x + y if self.residual else y  # type: ignore[no-any-return]


def conv_relu6(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: Padding = "symmetric",
) -> nn.Sequential:
    """Convolution and ReLU6; stride 2 is padded as TensorFlow does, like the ImageNet weights."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        groups=groups,
        padding=padding,
        tensorflow=stride == 2,
    )
    return nn.Sequential(conv, nn.ReLU6(inplace=True))
