"""SharpMask on a feature pyramid: a photo is read once, objects of every size come from its levels.

Windows lie on the cells of levels P3 to P6 (Lin et al. 2017, section 6) instead of one level of an
image pyramid. From SharpMask come the rest: one vector per window for score and mask encoding
(section 4.2), and top-down refinement in its refactored form (section 3.2): laterals once per
photo, vertical convolutions per window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.layers import Normalize, Padding, flatten, maps_of, read_places
from sharpmask.models.quads import double_and_mix, mix_each, quads_of, samples_of
from sharpmask.models.window_net import SavedNet
from sharpmask.models.yolox import MAP_STRIDES, FeatureMaps, PyramidTrunk, YoloxNano
from sharpmask.pyramid_geometry import NUM_CANDIDATES, READINGS, PyramidGeometry
from sharpmask.shapes import Float, Int

NUM_LEVELS = 4
LEVELS = range(NUM_LEVELS)
TRUNKS = {"yolox_nano": YoloxNano}
"""Trunks with a feature pyramid, by name."""


@dataclass(frozen=True)
class PyramidFeatures:
    """What ``SharpMaskPyramid.encode`` makes of images.

    Attributes:
        vectors: (B, V, rows, columns) of each level: what stands for the window of each cell.
        steps: (B, places, C) for each step of the refinement: what windows read at it, at the last
            step in quads. The places of all levels in order, row by row; then one of zeros for all
            that lies outside.
        levels: (B, C, rows, columns) of the trunk's levels, which tell kinds of objects apart; no
            mask is made of them.
    """

    vectors: tuple[Tensor, ...]
    steps: tuple[Tensor, ...]
    levels: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> "PyramidFeatures":
        """Features for masks from all their maps in order."""
        return cls(tuple(maps[:NUM_LEVELS]), tuple(maps[NUM_LEVELS:]))

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """All that masks are made of, in order."""
        return (*self.vectors, *self.steps)


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


class SharpMaskPyramid(SavedNet):
    """Scores and sharp masks of windows on every level of a feature pyramid.

    Args:
        trunk: Bottom-up maps and levels.
        channels: Common width of the levels.
        vector: Length of the vector that stands for a window.
        blocks: Of the window head.
        block_channels: Their inner width.
        mask_channels: Widths of the refinement steps, from the mask encoding to the finest.
        lateral_hidden: Hidden widths of the laterals at strides 2, 4, 8, 16, 32.
        readings: Octaves at which photos are read by default; no layer depends on them.
        num_candidates: Masks decoded for a photo by default; likewise.
    """

    kind = "pyramid"

    def __init__(
        self,
        trunk: PyramidTrunk,
        *,
        channels: int = 96,
        vector: int = 128,
        blocks: int = 3,
        block_channels: int = 32,
        mask_channels: Sequence[int] = (32, 32, 16, 8),
        lateral_hidden: Sequence[int] = (16, 32, 64, 64, 64),
        readings: Sequence[float] = READINGS,
        num_candidates: int = NUM_CANDIDATES,
    ) -> None:
        super().__init__()
        self.architecture = {}
        if trunk.architecture:
            self.architecture = {
                "model": self.kind, **trunk.architecture, "channels": channels, "vector": vector,
                "blocks": blocks, "block_channels": block_channels,
                "mask_channels": list(mask_channels), "lateral_hidden": list(lateral_hidden),
            }  # fmt: skip
            if tuple(readings) != READINGS:
                self.architecture["readings"] = list(readings)
            if num_candidates != NUM_CANDIDATES:
                self.architecture["num_candidates"] = num_candidates
        self.geometry = PyramidGeometry(
            cell_offset=trunk.cell_offset, readings=tuple(readings), num_candidates=num_candidates
        )
        steps = self.geometry.doublings + 1
        if len(mask_channels) != steps or len(lateral_hidden) != len(MAP_STRIDES):
            raise ValueError(
                f"mask_channels: expected {steps} widths, got {tuple(mask_channels)}; "
                f"lateral_hidden: expected {len(MAP_STRIDES)}, got {tuple(lateral_hidden)}"
            )
        self.mask_channels = list(mask_channels)
        self.normalize = Normalize()
        self.backbone = trunk
        self.levels = LevelFeatures(trunk, channels)
        self.head = WindowHead(channels, vector, blocks, block_channels)
        self.mask_encoding = nn.Linear(vector, mask_channels[0] * self.geometry.grid**2)
        self.level_lateral = nn.Conv2d(channels, mask_channels[0], 1)
        start(self.level_lateral, 2.0)
        self.laterals = nn.ModuleList(
            Lateral(width, hidden, [mask_channels[step] for step in self.steps_at(stride)], spread)
            for stride, width, hidden, spread in zip(
                MAP_STRIDES, trunk.channels, lateral_hidden, trunk.deviations, strict=True
            )
        )
        self.refinement = nn.ModuleList(
            VerticalStep(mask_channels[max(0, step - 1)], width, doubles=step > 0)
            for step, width in enumerate(mask_channels)
        )
        self.predict = nn.Conv2d(mask_channels[-1], 1, 1)
        nn.init.constant_(self.predict.bias, -1.0)  # type: ignore[arg-type]

    @classmethod
    def of_options(cls, options: dict[str, Any]) -> "SharpMaskPyramid":
        """A pyramid from its architecture, without the kind."""
        return build_pyramid(**options)

    def stride_of(self, level: int, step: int) -> int:
        """Stride of the map that a level's windows read at a step; none is finer than 2."""
        return max(MAP_STRIDES[0], self.geometry.strides[level] >> step)

    def steps_at(self, stride: int) -> list[int]:
        """Steps (1 to the last) at which windows of some level read the map of a stride."""
        steps = range(1, self.geometry.doublings + 1)
        return [k for k in steps if any(self.stride_of(level, k) == stride for level in LEVELS)]

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> PyramidFeatures:
        """Read images, RGB 0..255, sides in whole cells of the coarsest level (multiples of 64)."""
        features: FeatureMaps = self.backbone(self.normalize(images))
        levels = self.levels(features)
        fine = {
            (stride, step): part
            for stride, lateral, maps in zip(MAP_STRIDES, self.laterals, features.maps, strict=True)
            for step, part in zip(self.steps_at(stride), lateral(maps), strict=True)
        }
        *steps, last = range(1, self.geometry.doublings + 1)
        maps = [
            [self.level_lateral(level) for level in levels],
            *([F.conv2d(*fine[self.stride_of(k, step), step]) for k in LEVELS] for step in steps),
            [
                quads_of(*fine[self.stride_of(k, last), last], doubles=self.is_doubled(k, last))
                for k in LEVELS
            ],
        ]
        return PyramidFeatures(self.head(levels), tuple(map(flatten, maps)), features.levels)

    def is_doubled(self, level: int, step: int) -> bool:
        """Whether a level's samples at a step are finer than the finest map."""
        return self.geometry.strides[level] >> step < MAP_STRIDES[0]

    def score(self, features: PyramidFeatures) -> list[Float[Tensor, "b rows columns"]]:
        """Score logits of all cells of each level: the IoU to expect of the cell's mask."""
        return self.head.scores(features.vectors)

    def decode(
        self, features: PyramidFeatures, cells: Int[Tensor, "n 4"]
    ) -> Float[Tensor, "n s s"]:
        """Mask logits of the windows at cells (image, level, row, column)."""
        grid = self.geometry.grid
        maps = maps_of([vectors.shape[2:] for vectors in features.vectors], cells)
        vectors = read_places(flatten(features.vectors), maps, cells)
        encoding = self.mask_encoding(vectors.flatten(1)).unflatten(1, (-1, grid, grid))
        windows = []
        for step, flat in enumerate(features.steps):
            finer = 1 << min(step, self.geometry.doublings - 1)  # the last step's are quads
            reach = finer * self.geometry.reach
            windows.append(read_places(flat, maps, cells, finer=finer, reach=reach))
        return self.refine(encoding, windows)

    def refine(
        self, encoding: Float[Tensor, "n m g g"], windows: Sequence[Tensor]
    ) -> Float[Tensor, "n s s"]:
        """Mask logits from a mask encoding and what windows read at each step."""
        mask = F.relu(encoding)
        *steps, last = self.refinement
        for step, lateral in zip(steps, windows[:-1], strict=True):
            mask = step(mask, lateral)
        assert isinstance(last, VerticalStep)
        quads = last.in_quads(mask, windows[-1])
        return samples_of(mix_each(quads, self.predict)).squeeze(1)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], cells: Int[Tensor, "n 4"]
    ) -> tuple[Float[Tensor, "n s s"], list[Float[Tensor, "b rows columns"]]]:
        """Mask logits of chosen cells and score logits of all, of images, RGB 0..255."""
        features = self.encode(images)
        return self.decode(features, cells), self.score(features)


def build_pyramid(
    *, trunk: str = "yolox_nano", width: int = 16, padding: Padding = "zero", **options: Any
) -> SharpMaskPyramid:
    """A pyramid model with random weights.

    Args:
        trunk: One of ``TRUNKS``.
        width: Its channels at stride 2.
        padding: Border of its convolutions.
        options: Of ``SharpMaskPyramid``.

    Raises:
        ValueError: Unknown trunk.
    """
    if trunk not in TRUNKS:
        raise ValueError(f"trunk: expected one of {', '.join(TRUNKS)}, got {trunk!r}")
    return SharpMaskPyramid(TRUNKS[trunk](width=width, padding=padding), **options)


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
