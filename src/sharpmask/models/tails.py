"""The layers of ImageNet classifiers beyond stride 16: what knows classes, for detection.

A tail reads the last map of its ``Backbone``. Parameter names are torchvision's.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.backbones import MobileNetV2
from sharpmask.models.blocks import BasicBlock, Bottleneck, InvertedResidual, conv_relu6
from sharpmask.models.layers import Padding
from sharpmask.shapes import Float


class Tail(nn.Module):
    """From a map at stride 16 to one at stride 32; ``channels`` is its width."""

    channels: int

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """The last map before a classifier pools it."""
        raise NotImplementedError


class ResNetTail(Tail):
    """layer4 of a ResNet, of ``depth`` blocks."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depth: int, *, padding: Padding
    ) -> None:
        super().__init__()
        self.channels = 512 * block.expansion
        inputs = [256 * block.expansion] + [self.channels] * (depth - 1)
        self.layer4 = nn.Sequential(
            *(block(n, 512, 1 if k else 2, padding) for k, n in enumerate(inputs))
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """layer4."""
        return self.layer4(x)  # type: ignore[no-any-return]


class VGGTail(Tail):
    """The last max-pool of a VGG; its fully connected layers are left out."""

    channels = 512

    def forward(self, x: Float[Tensor, "b 512 h w"]) -> Float[Tensor, "b 512 hs ws"]:
        """Max-pool."""
        return F.max_pool2d(x, 2, ceil_mode=True)


class MobileNetV2Tail(Tail):
    """features.14 to features.18 of MobileNetV2 1.0."""

    channels = 1280

    def __init__(self, *, padding: Padding) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        for number, (inputs, outputs, stride) in enumerate(
            ((96, 160, 2), (160, 160, 1), (160, 160, 1), (160, 320, 1)), start=14
        ):
            layers[str(number)] = InvertedResidual(inputs, outputs, stride, 6, padding)
        layers["18"] = conv_relu6(320, self.channels, 1)
        self.features = nn.ModuleDict(layers)

    def forward(self, x: Float[Tensor, "b 96 h w"]) -> Float[Tensor, "b 1280 hs ws"]:
        """The four blocks and the last convolution."""
        x = x * MobileNetV2.FEATURE_DEVIATION
        for layer in self.features.values():
            x = layer(x)
        return x


TAILS: dict[str, Callable[..., Tail]] = {
    "resnet18": lambda **options: ResNetTail(BasicBlock, 2, **options),
    "resnet34": lambda **options: ResNetTail(BasicBlock, 3, **options),
    "resnet50": lambda **options: ResNetTail(Bottleneck, 3, **options),
    "vgg11": lambda **_: VGGTail(),
    "vgg16": lambda **_: VGGTail(),
    "mobilenet_v2": lambda **options: MobileNetV2Tail(**options),
}
"""The tail of each of ``BACKBONES``."""
