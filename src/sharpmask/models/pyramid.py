"""SharpMask on a feature pyramid: a photo is read once, objects of every size come from its levels.

Windows lie on the cells of levels P3 to P6 (Lin et al. 2017, section 6) instead of one level of an
image pyramid. From SharpMask come the rest: one vector per window for score and mask encoding
(section 4.2), and top-down refinement in its refactored form (section 3.2): laterals once per
photo, vertical convolutions per window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.layers import Normalize, Padding, flatten, maps_of, read_places
from sharpmask.models.pyramid_layers import (
    NUM_LEVELS,
    Lateral,
    LevelFeatures,
    VerticalStep,
    WindowHead,
    start,
)
from sharpmask.models.quads import mix_each, quads_of, samples_of
from sharpmask.models.window_net import SavedNet
from sharpmask.models.yolox import MAP_STRIDES, FeatureMaps, PyramidTrunk, YoloxNano
from sharpmask.pyramid_geometry import NUM_CANDIDATES, READINGS, PyramidGeometry
from sharpmask.shapes import Float, Int

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
