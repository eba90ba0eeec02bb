"""The YOLOX-Nano trunk: CSPDarknet-nano with its feature pyramid (PAFPN), batch norm folded.

Ge et al. 2021, "YOLOX"; keys are those of Megvii's code. A strided convolution pads both sides, and
the first kernel has six taps: cell c of a map of stride s is centred at coordinate s * c + 1.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.layers import Conv2d, Padding, symmetric_pad
from sharpmask.shapes import Float

MAP_STRIDES = (2, 4, 8, 16, 32)
"""Strides of a feature pyramid's bottom-up maps."""


class FeatureMaps(NamedTuple):
    """What a trunk with a feature pyramid makes of an image.

    Attributes:
        maps: Bottom-up, at strides 2, 4, 8, 16, 32.
        levels: After the pyramid's top-down path, at strides 8, 16, 32.
    """

    maps: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]


class PyramidTrunk(nn.Module):
    """A trunk with a feature pyramid.

    Attributes:
        channels: Widths of the five bottom-up maps.
        level_channels: Widths of the three levels.
        deviations: Rough standard deviation of the bottom-up maps as trained, so that layers that
            read them can start at unit scale.
        cell_offset: Coordinate at which cell 0 of every map is centred.
        architecture: The options of ``build_pyramid`` that describe it; none for a trunk from
            outside the package.
    """

    channels: tuple[int, ...]
    level_channels: tuple[int, ...]
    deviations: tuple[float, ...]
    cell_offset: float
    architecture: Mapping[str, Any] = MappingProxyType({})

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> FeatureMaps:
        """All maps of normalised images; sizes are rounded up at each halving."""
        raise NotImplementedError

    def layers_to(self, stride: int) -> list[nn.Module]:
        """The layers that make the bottom-up maps up to a stride."""
        raise NotImplementedError


class ConvSiLU(nn.Module):
    """A convolution and SiLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: Padding,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, padding=padding
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """Convolve, x * sigmoid(x)."""
        return F.silu(self.conv(x))


class Stem(nn.Module):
    """6x6 convolution of stride 2: YOLOX's focus layer and its 3x3 convolution as one."""

    def __init__(self, out_channels: int, padding: Padding) -> None:
        super().__init__()
        self.border = padding
        self.conv = nn.Conv2d(3, out_channels, 6, stride=2)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d hs ws"]:
        """Pad by two, and an odd side by one more at its far end."""
        right, bottom = (2 + side % 2 for side in (x.shape[3], x.shape[2]))
        if self.border == "zero":
            x = F.pad(x, (2, right, 2, bottom))
        else:
            x = symmetric_pad(x, 2, right, 2, bottom)
        return F.silu(self.conv(x))


class SeparableConv(nn.Module):
    """3x3 convolution of each channel, then 1x1."""

    def __init__(
        self, in_channels: int, out_channels: int, padding: Padding, *, stride: int = 1
    ) -> None:
        super().__init__()
        self.dconv = ConvSiLU(
            in_channels, in_channels, 3, padding, stride=stride, groups=in_channels
        )
        self.pconv = ConvSiLU(in_channels, out_channels, 1, padding)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """Both."""
        return self.pconv(self.dconv(x))  # type: ignore[no-any-return]


class CspBottleneck(nn.Module):
    """1x1 and a separable 3x3, with a shortcut or without."""

    def __init__(self, channels: int, padding: Padding, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvSiLU(channels, channels, 1, padding)
        self.conv2 = SeparableConv(channels, channels, padding)
        self.shortcut = shortcut

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The sum, or the branch alone."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CspBlock(nn.Module):
    """Cross-stage partial block: half the channels go through bottlenecks, half around them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        padding: Padding,
        *,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = ConvSiLU(in_channels, half, 1, padding)
        self.conv2 = ConvSiLU(in_channels, half, 1, padding)
        self.conv3 = ConvSiLU(2 * half, out_channels, 1, padding)
        self.m = nn.Sequential(
            *(CspBottleneck(half, padding, shortcut=shortcut) for _ in range(depth))
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Both halves, mixed."""
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))  # type: ignore[no-any-return]


class SpatialPyramidPooling(nn.Module):
    """Maxima over squares of 1, 5, 9 and 13 cells."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = ConvSiLU(channels, channels // 2, 1, padding)
        self.conv2 = ConvSiLU(2 * channels, channels, 1, padding)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pool at stride 1 and mix."""
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13)]
        return self.conv2(torch.cat([x, *pooled], dim=1))  # type: ignore[no-any-return]


class CspDarknet(nn.Module):
    """The bottom-up half: strides 2 to 32, each twice as wide as the one before."""

    def __init__(self, width: int, padding: Padding) -> None:
        super().__init__()
        self.stem = Stem(width, padding)

        def stage(in_channels: int, depth: int) -> nn.Sequential:
            return nn.Sequential(
                SeparableConv(in_channels, 2 * in_channels, padding, stride=2),
                CspBlock(2 * in_channels, 2 * in_channels, depth, padding),
            )

        self.dark2 = stage(width, 1)
        self.dark3 = stage(2 * width, 3)
        self.dark4 = stage(4 * width, 3)
        self.dark5 = nn.Sequential(
            SeparableConv(8 * width, 16 * width, padding, stride=2),
            SpatialPyramidPooling(16 * width, padding),
            CspBlock(16 * width, 16 * width, 1, padding, shortcut=False),
        )

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """Maps at strides 2, 4, 8, 16, 32."""
        maps = []
        for layer in (self.stem, self.dark2, self.dark3, self.dark4, self.dark5):
            x = layer(x)
            maps.append(x)
        return tuple(maps)


class YoloxLayers(nn.Module):
    """CSPDarknet and the part of PAFPN that makes levels P3 and P4.

    Args:
        width: Channels at stride 2; 16 in the published net, less in tests.
        padding: Border of the convolutions: "zero" as it was trained.
    """

    def __init__(self, width: int, padding: Padding) -> None:
        super().__init__()
        self.widths = tuple(width * 2**k for k in range(5))
        _, _, c3, c4, c5 = self.widths
        self.backbone = CspDarknet(width, padding)
        self.lateral_conv0 = ConvSiLU(c5, c4, 1, padding)
        self.C3_p4 = CspBlock(2 * c4, c4, 1, padding, shortcut=False)
        self.reduce_conv1 = ConvSiLU(c4, c3, 1, padding)
        self.C3_p3 = CspBlock(2 * c3, c3, 1, padding, shortcut=False)
        self.bu_conv2 = SeparableConv(c3, c3, padding, stride=2)
        self.C3_n3 = CspBlock(2 * c3, c4, 1, padding, shortcut=False)

    def to_level4(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """P3, P4, and what P5 is made of besides P4: a top-down and a second bottom-up path."""
        _, _, dark3, dark4, dark5 = maps
        down5 = self.lateral_conv0(dark5)
        down4 = self.reduce_conv1(self.C3_p4(join(down5, dark4)))
        level3 = self.C3_p3(join(down4, dark3))
        level4 = self.C3_n3(torch.cat([self.bu_conv2(level3), down4], dim=1))
        return level3, level4, down5

    def layers_to(self, stride: int) -> list[nn.Module]:
        """stem, dark2, dark3, dark4, dark5 for strides 2, 4, 8, 16, 32."""
        net = self.backbone
        layers = [net.stem, net.dark2, net.dark3, net.dark4, net.dark5]
        return layers[: sum(s <= stride for s in MAP_STRIDES)]


class YoloxNano(YoloxLayers, PyramidTrunk):
    """CSPDarknet-nano and PAFPN: .74 GMAC for a photo of 640x480, all levels.

    Args:
        width: Channels at stride 2; 16 in the published net, less in tests.
        padding: Border of the convolutions: "zero" as it was trained.
    """

    deviations = (3.5, 1.3, 0.5, 0.6, 0.3)
    cell_offset = 1.0

    def __init__(self, *, width: int = 16, padding: Padding = "zero") -> None:
        super().__init__(width, padding)
        self.architecture = {"trunk": "yolox_nano", "width": width, "padding": padding}
        self.channels = self.widths
        self.level_channels = self.widths[2:]
        _, _, _, c4, c5 = self.widths
        self.bu_conv1 = SeparableConv(c4, c4, padding, stride=2)
        self.C3_n4 = CspBlock(2 * c4, c5, 1, padding, shortcut=False)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> FeatureMaps:
        """Bottom-up maps; levels P3, P4, P5."""
        maps = self.backbone(x)
        level3, level4, down5 = self.to_level4(maps)
        level5 = self.C3_n4(torch.cat([self.bu_conv1(level4), down5], dim=1))
        return FeatureMaps(maps, (level3, level4, level5))


def join(
    coarse: Float[Tensor, "b c h w"], fine: Float[Tensor, "b d hf wf"]
) -> Float[Tensor, "b e hf wf"]:
    """The coarse map, each cell repeated twice on both axes, before the fine one."""
    repeated = F.interpolate(coarse, scale_factor=2, mode="nearest")
    return torch.cat([repeated[:, :, : fine.shape[2], : fine.shape[3]], fine], dim=1)
