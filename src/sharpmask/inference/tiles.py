"""Images far larger than a photo: aerial pictures, scans, panoramas."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from sharpmask.images import PhotoLike, read_image, reduce_image
from sharpmask.inference.batch import Progress, unshown
from sharpmask.inference.proposer import Proposer
from sharpmask.proposals import Proposals
from sharpmask.shapes import Bool, Float, UInt8

MAX_PIXELS = 2_000_000_000
"""Larger images are refused by their header; decoded, one of this size takes 6 GB."""
SEAM_IOU = 0.7
"""Masks of two tiles whose IoU exceeds this show the same object."""


@dataclass(frozen=True)
class Tile:
    """A part of the image at a level: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    left: int
    bottom: int
    right: int


class TiledProposer:
    """Proposes objects of all sizes in an image of any size.

    The image is read in overlapping tiles at full size, at half the size, and so on until one tile
    holds all of it. A mask that a tile's inner edge cuts is left out: its object lies whole in a
    neighbour or, if it is larger than the overlap, in a tile of the next level. An object seen in
    several tiles keeps its best mask.

    Args:
        proposer: Reads the tiles; their side is its ``image_size``.
        num_proposals: Maximum number of proposals for the whole image.
        overlap: Share of a tile that its neighbour reads too.
        progress: Shows how many tiles of each level are done.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        proposer: Proposer,
        *,
        num_proposals: int = 1000,
        overlap: float = 0.25,
        progress: Progress = unshown,
    ) -> None:
        if num_proposals < 1:
            raise ValueError(f"num_proposals: expected at least 1, got {num_proposals}")
        if not 0 < overlap < 1:
            raise ValueError(f"overlap: expected a number between 0 and 1, got {overlap}")
        self.proposer = proposer
        self.num_proposals = num_proposals
        self.overlap = overlap
        self.progress = progress

    def __call__(self, image: PhotoLike) -> Proposals:
        """Propose objects in one image.

        Beside the image and its halves (a third of it), memory holds one tile and
        ``num_proposals`` masks. An array may be mapped from a file (``numpy.load(mmap_mode="r")``);
        while a picture file is read it takes seven bytes a pixel.

        Args:
            image: A path, a PIL image, or an RGB uint8 array (H, W, 3).

        Raises:
            ImageError: It cannot be read.
        """
        if isinstance(image, np.ndarray):
            pixels = image  # its tiles are checked as they are read
        else:
            pixels = read_image(image, max_pixels=MAX_PIXELS)
        level = pixels
        best: list[Proposals] = []
        while True:
            tiles = self.tiles(level.shape[:2])
            for tile in self.progress(tiles, len(tiles), "tiles"):
                best.append(self.read(tile, level, pixels))
                if sum(map(len, best)) > 2 * self.num_proposals:
                    best = [self.merge(best)]
            if len(tiles) == 1:
                return self.merge(best)
            level = reduce_image(level, 2)

    def tiles(self, size: tuple[int, int]) -> list[Tile]:
        """The tiles that cover a level of a size (height, width), evenly spread."""
        side = self.proposer.image_size
        step = side - int(self.overlap * side)
        starts = []
        for length in size:
            count = 1 + max(0, -(-(length - side) // step))
            last = max(0, length - side)
            starts.append(np.linspace(0, last, count).round().astype(int).tolist())
        return [
            Tile(top, left, min(top + side, size[0]), min(left + side, size[1]))
            for top, left in product(*starts)
        ]

    def read(
        self, tile: Tile, level: UInt8[np.ndarray, "a b 3"], image: UInt8[np.ndarray, "h w 3"]
    ) -> Proposals:
        """Proposals of a tile, in the frame of the image, without those that its edge cuts."""
        part = np.ascontiguousarray(level[tile.top : tile.bottom, tile.left : tile.right])
        found = self.proposer(part)
        whole = found[~cut(found.boxes, tile, level.shape[:2])]
        factor = np.tile(np.divide(image.shape[1::-1], level.shape[1::-1]), 2)
        windows = (whole.windows + [tile.left, tile.top] * 2) * factor
        return replace(whole, image=image, windows=windows, encoded=None)

    def merge(self, parts: Sequence[Proposals]) -> Proposals:
        """The best of all tiles, each object once."""
        together = Proposals.concat(parts)
        ranked = together[np.argsort(-together.scores, kind="stable")]
        threshold = min(self.proposer.suppression, SEAM_IOU)
        chosen, distinct = ranked.distinct_first(threshold, self.num_proposals)
        return chosen[:distinct]


def cut(
    boxes: Float[np.ndarray, "n 4"], tile: Tile, size: tuple[int, int]
) -> Bool[np.ndarray, " n"]:
    """Which boxes (xyxy, in the tile) touch an inner edge of the tile, not one of the level."""
    touches: Bool[np.ndarray, " n"] = (
        ((boxes[:, 0] <= 0) & (tile.left > 0))
        | ((boxes[:, 1] <= 0) & (tile.top > 0))
        | ((boxes[:, 2] >= tile.right - tile.left) & (tile.right < size[1]))
        | ((boxes[:, 3] >= tile.bottom - tile.top) & (tile.bottom < size[0]))
    )
    return touches
