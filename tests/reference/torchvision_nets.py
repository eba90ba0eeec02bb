"""torchvision's ResNet, VGG-bn and MobileNetV2 to stride 16, with batch norm and its names.

Written from the published architectures, for torchvision is no dependency: the truth beside which
the folded trunks of the package are put. Zero padding; stride 2 of MobileNetV2 as TensorFlow does.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Basic or bottleneck residual block."""

    def __init__(self, in_channels, width, stride, bottleneck):
        super().__init__()
        out_channels = 4 * width if bottleneck else width
        plan = (
            [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out_channels, 1, 1)]
            if bottleneck
            else [(in_channels, width, 3, stride), (width, width, 3, 1)]
        )
        for number, (inputs, outputs, kernel, step) in enumerate(plan, 1):
            conv = nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
        self.depth = len(plan)
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        y = x
        for number in range(1, self.depth + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.depth:
                y = F.relu(y)
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNetBN(nn.Module):
    """To layer3, or layer4 if four depths are given."""

    def __init__(self, bottleneck, depths, width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layers = len(depths)
        channels = width
        for index, depth in enumerate(depths):
            layer = nn.Sequential()
            for position in range(depth):
                stride = 2 if index and not position else 1
                layer.append(Block(channels, width * 2**index, stride, bottleneck))
                channels = width * 2**index * (4 if bottleneck else 1)
            self.add_module(f"layer{index + 1}", layer)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        maps = [x]
        x = self.maxpool(x)
        for index in range(self.layers):
            x = getattr(self, f"layer{index + 1}")(x)
            maps.append(x)
        return maps


class VGGBN(nn.Module):
    """To the last convolution; even sizes only, for torchvision's pooling rounds down."""

    def __init__(self, depths, widths):
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                self.features.append(nn.MaxPool2d(2, 2))
            for _ in range(depth):
                self.features.append(nn.Conv2d(channels, width, 3, padding=1))
                self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU())
                channels = width

    def forward(self, x):
        maps = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps[1:], x]


class ConvBNReLU(nn.Sequential):
    """torchvision's nesting: 0 the convolution, 1 the batch norm, 2 the ReLU6."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, groups=1):
        padding = 0 if stride == 2 else kernel_size // 2
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())

    def forward(self, x):
        if self[0].stride == (2, 2):
            top, left = (side % 2 for side in x.shape[2:])
            x = F.pad(x, (left, 1, top, 1))
        return super().forward(x)


class InvertedResidualBN(nn.Module):
    """Expand, depthwise, project."""

    def __init__(self, in_channels, out_channels, stride, expand):
        super().__init__()
        hidden = in_channels * expand
        layers = [] if expand == 1 else [ConvBNReLU(in_channels, hidden, 1)]
        layers += [
            ConvBNReLU(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2BN(nn.Module):
    """features.0 to features.13; maps of blocks 1, 3, 6, 13. ``whole``: all, and the last map."""

    def __init__(self, whole=False):
        super().__init__()
        self.features = nn.Sequential(ConvBNReLU(3, 32, 3, 2))
        channels = 32
        for expand, width, repeats, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
        ):  # fmt: skip
            for position in range(repeats):
                step = 1 if position else stride
                self.features.append(InvertedResidualBN(channels, width, step, expand))
                channels = width
        self.taps = [1, 3, 6, 13]
        if whole:
            for width, step in ((160, 2), (160, 1), (160, 1), (320, 1)):
                self.features.append(InvertedResidualBN(channels, width, step, 6))
                channels = width
            self.features.append(ConvBNReLU(320, 1280, 1))
            self.taps.append(18)

    def forward(self, x):
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


def randomised(net, seed=0):
    """The net in eval mode with random weights that keep its values near one."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.5, 0.5)
            uniform(module.running_mean, -0.5, 0.5)
            uniform(module.running_var, 0.5, 2)
        elif isinstance(module, nn.Conv2d):
            reach = (3 / module.weight[0].numel()) ** 0.5
            uniform(module.weight, -reach, reach)
            if module.bias is not None:
                uniform(module.bias, -0.5, 0.5)
    return net.eval()
