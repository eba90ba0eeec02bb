"""Where patches, cells and windows lie: the only file that knows the sizes of a patch.

Frames. *Image*: the photo in pixels, origin at the corner of the first pixel. *Scaled image*: the
photo resized by a pyramid scale. *Cell* (row, column): one position of the dense score map.
*Window*: the box in the image that the patch at a cell covers, xyxy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

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
