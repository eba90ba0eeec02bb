"""Where patches, cells and windows lie: the only file that knows the sizes of a patch.

Frames. *Image*: the photo in pixels, origin at the corner of the first pixel. *Scaled image*: the
photo resized by a pyramid scale. *Cell* (row, column): one position of the dense score map.
*Window*: the box in the image that the patch at a cell covers, xyxy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sharpmask.shapes import Float, Int

OCTAVES = tuple(-2.5 + 0.5 * step for step in range(7))
"""The paper's pyramid at patch size 160: 2^-2.5 to 2^.5 in half octaves (section 5)."""

Pyramids = dict[str, tuple[float, ...]]
PYRAMIDS: Pyramids = {
    "default": OCTAVES,
    "zoom": (*OCTAVES, 1.0),
    "zoom2": (*OCTAVES, 1.0, 1.5),
}
"""Named pyramids in octaves; Zoom and Zoom^2 add scales for smaller objects (section 5)."""
READINGS = (0.5, 0.0)
"""The same where one reading gives levels an octave apart: two readings give half octaves."""
NUM_CANDIDATES = 120
"""Masks decoded for 100 proposals of a pyramid, chosen by recall (docs/log.md)."""

GREY = 128
"""Fill value outside the image, half of the uint8 range."""


class Aim(NamedTuple):
    """A window in the middle of a square image, to which an object is brought.

    Attributes:
        side: Of the image, in pixels.
        cell: Level, row and column.
        center: Of the window, in pixels from the left and from the top.
        window_size: Side of the window.
        object_size: Longer side of the object.
    """

    side: int
    cell: tuple[int, int, int]
    center: float
    window_size: float
    object_size: float


@dataclass(frozen=True)
class PatchGeometry:
    """Sizes of a patch in pixels of the scaled image.

    Attributes:
        patch_size: Side of the square whose central object is segmented.
        context: Pixels seen on each side beyond the patch (SharpMask, section 4.1: deeper nets see
            32 px more in total).
        object_size: Longer side of a centred object, ceil(patch_size * 128 / 224).
        coarse_size: Side of the feed-forward mask.
        stride: Pixels between cells.
        cell_offset: Coordinate at which cell 0 of every map is centred, in a trunk whose strided
            layers pad both sides. None takes each cell to be centred in its square of pixels.
    """

    mask_threshold: ClassVar[float] = 0.35
    """Probability above which a pixel belongs to the object, chosen by recall (docs/log.md)."""
    quality_exponent: ClassVar[float] = 2.0
    """How much the certainty of a mask counts in ranking it, chosen likewise."""
    num_candidates: ClassVar[int] = 150
    """Masks decoded for 100 proposals, chosen likewise."""
    nearness: ClassVar[tuple[int, ...]] = (1,)
    """Cells of each level, rows and columns added, within which windows are taken for repeats."""

    patch_size: int = 160
    context: int = 16
    object_size: int = 92
    coarse_size: int = 56
    stride: int = 16
    cell_offset: int | None = None

    def __post_init__(self) -> None:
        if self.patch_size % self.stride or self.context % self.stride:
            raise ValueError(
                f"patch_size {self.patch_size} and context {self.context} must be multiples of "
                f"the stride, {self.stride}"
            )

    @property
    def window_size(self) -> int:
        """Side of the square the network reads for one patch, context included."""
        return self.patch_size + 2 * self.context

    @property
    def grid(self) -> int:
        """Side of the patch in feature cells."""
        return self.patch_size // self.stride

    @property
    def shift(self) -> int:
        """Pixels by which a patch's cells are centred after the middles of their squares."""
        return 0 if self.cell_offset is None else self.cell_offset - self.stride // 2

    def lag(self, stride: int) -> int:
        """Cells by which a map of a finer stride is moved on, to lie under the coarsest one's.

        Where all cells 0 have one centre, a patch shifted by half a coarse cell begins that much
        earlier on the finer maps; what is left of it there is half a cell of their own.
        """
        return 0 if self.cell_offset is None else self.stride // (2 * stride)

    @property
    def border(self) -> int:
        """Grey pixels put round the scaled image so that windows may be centred near its edge."""
        return self.patch_size // 2

    @property
    def object_share(self) -> float:
        """Longer side of a centred object, as a share of its window's."""
        return self.object_size / self.patch_size

    def aim(self, longer: float) -> Aim:  # noqa: ARG002
        """Where an object with a longer side of so many pixels is read by itself."""
        cell = self.num_cells(self.window_size) // 2
        center = cell * self.stride + self.patch_size / 2
        return Aim(self.window_size, (0, cell, cell), center, self.patch_size, self.object_size)

    @property
    def num_levels(self) -> int:
        """Score maps of one reading."""
        return 1

    @property
    def pyramids(self) -> Pyramids:
        """Named pyramids in octaves."""
        return PYRAMIDS

    @property
    def smallest_size(self) -> int:
        """Side of the smallest image that can be read."""
        return self.patch_size

    @property
    def size_step(self) -> int:
        """Sides of images that are read are multiples of this."""
        return self.stride

    def inside(self, level: int, scaled_size: tuple[int, int]) -> tuple[int, int]:  # noqa: ARG002
        """Rows and columns of the score map whose windows are centred on the scaled image."""
        rows, columns = (self.num_cells(self.padded_size(side)) for side in scaled_size)
        return rows, columns

    def padded_size(self, size: int) -> int:
        """Length of a scaled image side with its borders, rounded up to whole strides."""
        return -(-(size + 2 * self.border) // self.stride) * self.stride

    def num_cells(self, padded_size: int) -> int:
        """Number of cells along a padded side of ``padded_size`` pixels."""
        return -(-padded_size // self.stride) - self.grid + 1

    def scaled_size(self, image_size: tuple[int, int], octave: float) -> tuple[int, int]:
        """Size (height, width) of the image at a pyramid scale, at least one pixel."""
        height, width = (max(1, int(2.0**octave * side + 0.5)) for side in image_size)
        return height, width

    def cells_to_windows(
        self,
        cells: Int[np.ndarray, "n _"],
        image_size: tuple[int, int],
        scaled_size: tuple[int, int],
    ) -> Float[np.ndarray, "n 4"]:
        """Windows (xyxy, pixels of the image) of cells ([level,] row, column)."""
        factor = np.array(image_size) / np.array(scaled_size)
        start = ((cells[:, -2:] * self.stride + self.shift - self.border) * factor)[:, ::-1]
        return np.concatenate([start, start + self.patch_size * factor[::-1]], axis=1)

    def windows_to_cells(
        self,
        windows: Float[np.ndarray, "n 4"],
        image_size: tuple[int, int],
        scaled_size: tuple[int, int],
    ) -> Int[np.ndarray, "n 2"]:
        """Cells nearest to the given windows: the inverse of ``cells_to_windows``."""
        factor = np.array(scaled_size) / np.array(image_size)
        start = windows[:, 1::-1] * factor
        places = (start + self.border - self.shift) / self.stride
        cells: Int[np.ndarray, "n 2"] = np.rint(places).astype(np.int64)
        return cells

    def canonical_scale(self, boxes: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
        """Scale at which each box (xyxy) has a longer side of ``object_size``."""
        longer = np.maximum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
        scale: Float[np.ndarray, "*n"] = self.object_size / longer
        return scale


SHARPMASK_GEOMETRY = PatchGeometry()
"""The patch of the rebuilt DeepMask and of SharpMask: 160 px seen in a window of 192."""

DEEPMASK_GEOMETRY = PatchGeometry(patch_size=224, context=0, object_size=128)
"""The patch of the original DeepMask: 224 px without context."""


def octaves_of(scales: str | Sequence[float], pyramids: Pyramids = PYRAMIDS) -> tuple[float, ...]:
    """Octaves of a named pyramid, or the given octaves themselves, also as text: "-1,0,1".

    Args:
        scales: A name or octaves.
        pyramids: The names that a model's geometry knows.

    Raises:
        ValueError: Unknown pyramid name, no scales, or an octave that is not between -10 and 10.
    """
    if isinstance(scales, str):
        if scales in pyramids:
            return pyramids[scales]
        try:
            scales = [float(octave) for octave in scales.split(",")]
        except ValueError:
            raise ValueError(
                f"scales: expected one of {', '.join(pyramids)}, or octaves such as -1,0,1, "
                f"got {scales!r}"
            ) from None
    if not len(scales):
        raise ValueError("scales: expected at least one octave, got none")
    for octave in scales:
        if not abs(octave) <= 10:
            raise ValueError(f"scales: expected octaves between -10 and 10, got {octave}")
    return tuple(scales)


@dataclass(frozen=True)
class PyramidGeometry:
    """Windows on the levels of a feature pyramid: a photo is read once for all of them.

    Strided convolutions pad both sides, so cell c of a map of stride s is centred at
    s * c + ``cell_offset``. Windows have an odd number of cells: their samples are cells of the
    finer maps too (coarse cell c is fine cell 2c), and nothing is read between cells.

    Attributes:
        strides: Of the levels, fine to coarse; each twice the one before.
        grid: Cells on a side of a window, odd.
        doublings: How often a mask doubles on its way from ``grid`` to ``mask_size``.
        cell_offset: Coordinate of cell 0's centre: half a pixel where kernels are odd, one where
            the first is even.
        object_cells: Longer side of a centred object in cells.
        readings: Octaves at which a model reads a photo by default.
        num_candidates: Minimum number of masks decoded for a photo by default; more where photos
            hold hundreds of objects.
    """

    mask_threshold: ClassVar[float] = 0.5
    quality_exponent: ClassVar[float] = 1.0
    nearness: ClassVar[tuple[int, ...]] = (2, 2, 2, 1)

    strides: tuple[int, ...] = (8, 16, 32, 64)
    grid: int = 11
    doublings: int = 3
    cell_offset: float = 0.5
    object_cells: float = 10 * SHARPMASK_GEOMETRY.object_size / SHARPMASK_GEOMETRY.patch_size
    readings: tuple[float, ...] = READINGS
    num_candidates: int = NUM_CANDIDATES

    def __post_init__(self) -> None:
        octaves_of(self.readings)
        if self.grid % 2 == 0:
            raise ValueError(f"grid: expected an odd number of cells, got {self.grid}")
        if any(2 * fine != coarse for fine, coarse in pairwise(self.strides)):
            raise ValueError(f"strides: each must be twice the one before, got {self.strides}")

    @property
    def num_levels(self) -> int:
        """Score maps of one reading."""
        return len(self.strides)

    @property
    def pyramids(self) -> Pyramids:
        """Named pyramids in octaves: round the sizes at which the model reads by default."""
        first = max(self.readings)
        return {
            "default": self.readings,
            "fast": tuple(octave - 0.5 for octave in self.readings),
            "zoom": (first + 0.5, *self.readings),
            "zoom2": (first + 1.0, first + 0.5, *self.readings),
        }

    @property
    def smallest_size(self) -> int:
        """Side of the smallest image that can be read."""
        return self.strides[-1]

    @property
    def size_step(self) -> int:
        """Sides of images that are read are multiples of this."""
        return self.strides[-1]

    @property
    def border(self) -> int:
        """Pixels put before the scaled image: none, as windows may leave the maps."""
        return 0

    @property
    def reach(self) -> int:
        """Cells of a window on each side of its centre."""
        return self.grid // 2

    def side(self, step: int) -> int:
        """Samples on a side of a window after ``step`` doublings: neighbours gain one between."""
        return ((self.grid - 1) << step) + 1

    @property
    def mask_size(self) -> int:
        """Samples on a side of a finished mask."""
        return self.side(self.doublings)

    def sample_size(self, level: int) -> float:
        """Pixels between the samples of a finished mask."""
        return self.strides[level] / (1 << self.doublings)

    def window_size(self, level: int) -> float:
        """Side of a level's windows in pixels: each sample stands for a square round it."""
        return self.mask_size * self.sample_size(level)

    def object_size(self, level: int) -> float:
        """Longer side in pixels of an object that a level's windows are meant for."""
        return self.object_cells * self.strides[level]

    @property
    def object_share(self) -> float:
        """Longer side of a centred object, as a share of its window's."""
        return self.object_size(0) / self.window_size(0)

    @property
    def aim_switch(self) -> float:
        """Longer side in pixels from which an object is read by itself on the third level."""
        return math.sqrt(self.object_size(1) * self.object_size(2))

    def aim(self, longer: float) -> Aim:
        """Where an object with a longer side of so many pixels is read by itself.

        On the second level, which reads maps of every stride, or on the third if the object has
        more pixels than the second shows.
        """
        level = 1 if longer < self.aim_switch else 2
        side = self.padded_size(math.ceil(self.window_size(level)))
        cell = side // 2 // self.strides[level]
        center = cell * self.strides[level] + self.cell_offset
        return Aim(
            side, (level, cell, cell), center, self.window_size(level), self.object_size(level)
        )

    def padded_size(self, size: int) -> int:
        """Length of an image side once its far end is filled up to whole cells of every level."""
        return -(-size // self.strides[-1]) * self.strides[-1]

    def inside(self, level: int, scaled_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a level's score map whose windows are centred on the image."""
        rows, columns = (self.num_cells(level, side) for side in scaled_size)
        return rows, columns

    def num_cells(self, level: int, size: int) -> int:
        """Number of a level's cells whose centres lie within an image side of ``size`` pixels."""
        return max(1, math.ceil((size - self.cell_offset) / self.strides[level]))

    def scaled_size(self, image_size: tuple[int, int], octave: float) -> tuple[int, int]:
        """Size (height, width) of the image read at 2^octave of its own, at least one pixel."""
        return SHARPMASK_GEOMETRY.scaled_size(image_size, octave)

    def cells_to_windows(
        self,
        cells: Int[np.ndarray, "n 3"],
        image_size: tuple[int, int],
        scaled_size: tuple[int, int],
    ) -> Float[np.ndarray, "n 4"]:
        """Windows (xyxy, pixels of the image) of cells (level, row, column)."""
        strides = np.array(self.strides)[cells[:, 0], None]
        centers = cells[:, :0:-1] * strides + self.cell_offset
        half = strides * (self.mask_size / (2 << self.doublings))
        factor = (np.array(image_size) / np.array(scaled_size))[::-1]
        windows: Float[np.ndarray, "n 4"] = np.concatenate(
            [(centers - half) * factor, (centers + half) * factor], axis=1
        )
        return windows

    def windows_to_cells(
        self,
        windows: Float[np.ndarray, "n 4"],
        image_size: tuple[int, int],
        scaled_size: tuple[int, int],
    ) -> Int[np.ndarray, "n 3"]:
        """Cells (level, row, column) nearest to windows: the inverse of ``cells_to_windows``."""
        factor = (np.array(scaled_size) / np.array(image_size))[::-1]
        centers = (windows[:, :2] + windows[:, 2:]) / 2 * factor
        sides = ((windows[:, 2:] - windows[:, :2]) * factor).mean(axis=1)
        octaves = np.log2(sides / self.window_size(0))
        levels = np.rint(octaves).astype(np.int64).clip(0, len(self.strides) - 1)
        strides = np.array(self.strides)[levels, None]
        places = np.rint((centers - self.cell_offset) / strides).astype(np.int64)
        cells: Int[np.ndarray, "n 3"] = np.concatenate([levels[:, None], places[:, ::-1]], axis=1)
        return cells

    def octaves(self, level: int, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
        """How many octaves the longer side of each box (xyxy) exceeds the level's object size."""
        longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        octaves: Float[np.ndarray, " n"] = np.log2(
            np.maximum(longer, 1e-6) / self.object_size(level)
        )
        return octaves


Geometry = PatchGeometry | PyramidGeometry


def geometry_of(description: Mapping[str, Any]) -> Geometry:
    """A geometry from its fields, as exported models describe it.

    Raises:
        TypeError: They are of neither kind.
    """
    if "strides" in description:
        lists = {
            key: tuple(description[key]) for key in ("strides", "readings") if key in description
        }
        return PyramidGeometry(**{**description, **lists})
    return PatchGeometry(**description)
