"""Where the windows on the levels of a feature pyramid lie; frames as in ``geometry``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from sharpmask.geometry import SHARPMASK_GEOMETRY, Aim, PatchGeometry, Pyramids, octaves_of
from sharpmask.shapes import Float, Int

READINGS = (0.4, -0.6)
"""Octaves at which a photo is read, chosen by recall and time (docs/log.md)."""
NUM_CANDIDATES = 120
"""Masks decoded for 100 proposals of a pyramid, chosen by recall (docs/log.md)."""


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
