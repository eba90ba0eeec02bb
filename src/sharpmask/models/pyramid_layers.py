"""What a SharpMask on a feature pyramid is made of: levels, head, laterals, refinement steps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.quads import double_and_mix
from sharpmask.models.yolox import FeatureMaps, PyramidTrunk
from sharpmask.shapes import Float

NUM_LEVELS = 4


class LevelFeatures(nn.Module):
    """Bottom-up map and pyramid level of the same stride, mixed to a common width; P6 added."""

    def __init__(self, trunk: PyramidTrunk, channels: int) -> None:
        super().__init__()
        widths = zip(trunk.channels[2:], trunk.level_channels, strict=True)
        self.mix = nn.ModuleList(nn.Conv2d(sum(pair), channels, 1) for pair in widths)
        self.coarsest = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for layer, deviation in zip(self.mix, trunk.deviations[2:], strict=True):
            start(layer, deviation)
        start(self.coarsest)

    def forward(self, features: FeatureMaps) -> list[Tensor]:
        """Maps at strides 8, 16, 32, 64."""
        pairs = zip(self.mix, features.maps[2:], features.levels, strict=True)
        levels = [F.silu(layer(torch.cat(pair, dim=1))) for layer, *pair in pairs]
        return [*levels, F.silu(self.coarsest(levels[-1]))]


class WindowBlock(nn.Module):
    """A bottleneck of 1x1, 5x5 and 1x1, added to its input: half a window in three of them.

    A depthwise 5x5 does the same work in fewer products and, on CPUs, in more time to learn.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, width, 1)
        self.spread = nn.Conv2d(width, width, 5, padding=2)
        self.widen = nn.Conv2d(width, channels, 1)
        start(self.narrow)
        start(self.spread)
        start(self.widen, 2.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Residual sum; beyond the image is zero."""
        y: Tensor = self.widen(F.silu(self.spread(F.silu(self.narrow(x)))))
        return x + y


class WindowHead(nn.Module):
    """A vector and a score for the window of every cell, with the same weights on all levels.

    Args:
        channels: Width of the levels.
        vector: Length of the vector.
        blocks: Of 5x5 cells; three see 13 cells, the window has 11.
        block_channels: Width of the blocks' 5x5 convolutions.
    """

    def __init__(self, channels: int, vector: int, blocks: int, block_channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(WindowBlock(channels, block_channels) for _ in range(blocks)))
        self.vector = nn.Conv2d(channels, vector, 1)
        self.hidden = nn.Conv2d(vector, vector, 1)
        self.score = nn.Conv2d(vector, 1, 1)
        self.gain = nn.Parameter(torch.ones(NUM_LEVELS))
        self.bias = nn.Parameter(torch.full((NUM_LEVELS,), -3.0))
        for layer in (self.vector, self.hidden):
            start(layer)
        nn.init.normal_(self.score.weight, std=0.01)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Vectors (B, V, rows, columns) of each level."""
        return tuple(F.relu(self.vector(self.blocks(level))) for level in levels)

    def scores(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Score logits (B, rows, columns) of each level."""
        logits = [self.score(F.relu(self.hidden(vector))).squeeze(1) for vector in vectors]
        pairs = zip(logits, self.gain, self.bias, strict=True)
        return [logit * gain + bias for logit, gain, bias in pairs]


class Lateral(nn.Module):
    """The horizontal path from one map to all the refinement steps that read its stride."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: Sequence[int], deviation: float
    ) -> None:
        super().__init__()
        self.out_channels = list(out_channels)
        self.narrow = nn.Conv2d(in_channels, hidden, 1)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.horizontal = nn.Conv2d(hidden, sum(out_channels), 1)
        start(self.narrow, deviation)
        start(self.spread)
        start(self.horizontal, 2.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each step, finest use last, a 1x1 convolution: its input, weight and bias."""
        x = F.silu(self.spread(F.silu(self.narrow(x))))
        assert self.horizontal.bias is not None
        weights, biases = (
            torch.split(parameter, self.out_channels)
            for parameter in (self.horizontal.weight, self.horizontal.bias)
        )
        # A convolution each, as runtimes take longer to split its result.
        return [(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


class VerticalStep(nn.Module):
    """The vertical path of one refinement step.

    1x1 to the new width, doubling, 3x3: the same map as a 3x3 of low rank after doubling, at a
    third of its cost.
    """

    def __init__(self, in_channels: int, out_channels: int, *, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        if in_channels != out_channels:
            self.narrow = nn.Conv2d(in_channels, out_channels, 1)
            start(self.narrow, 1.4)
        self.vertical = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        start(self.vertical, 1.4)

    def forward(
        self, mask: Float[Tensor, "n m s s"], lateral: Float[Tensor, "n o t t"]
    ) -> Float[Tensor, "n o t t"]:
        """The fused encoding of each window."""
        if hasattr(self, "narrow"):
            mask = self.narrow(mask)
        if self.doubles:
            mask = double(mask)
        return F.relu(self.vertical(mask) + lateral)

    def in_quads(
        self, mask: Float[Tensor, "n m s s"], lateral: Float[Tensor, "n q s s"]
    ) -> Float[Tensor, "n q s s"]:
        """The same in quads; the encoding is doubled with the zeros around it."""
        return F.relu(double_and_mix(mask, getattr(self, "narrow", None), self.vertical) + lateral)


def double(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c hd wd"]:
    """From s to 2 s - 1 samples a side: each stays, their means come between."""
    size = [2 * side - 1 for side in x.shape[2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def start(layer: nn.Module, deviation: float = 1.0) -> None:
    """Begin with outputs of unit scale (He et al. 2015) for inputs of a standard deviation."""
    assert isinstance(layer, nn.Conv2d)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight /= deviation
