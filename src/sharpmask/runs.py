"""Masks as runs of pixels down their columns: pasted from the patch frame, cleaned, encoded.

Runs are what COCO's RLE holds; a mask of ten thousand pixels has some hundred of them. The masks of
a photo stand side by side, an empty column after each, so that numpy works on all of them at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharpmask import masks
from sharpmask.masks import Rle
from sharpmask.shapes import Float, Int, UInt8


@dataclass(frozen=True, eq=False)
class Runs:
    """Masks of one image.

    Attributes:
        image_size: Height and width.
        count: How many masks.
        edges: Places where runs begin and end, in turn, ascending. The place before row r of
            column c of mask m is ``((width + 1) * m + c) * (height + 1) + r``.
    """

    image_size: tuple[int, int]
    count: int
    edges: Int[np.ndarray, " k"]

    @classmethod
    def paste(
        cls,
        patches: UInt8[np.ndarray, "n s s"],
        windows: Float[np.ndarray, "n 4"],
        image_size: tuple[int, int],
        threshold: float,
    ) -> "Runs":
        """Masks in the patch frame, at the pixels of their windows.

        A pixel belongs to a mask whose value at the pixel's middle, bilinear between samples,
        exceeds the threshold. Where two samples and more fall on a pixel's side, their means count.

        Args:
            patches: Probabilities times 255.
            windows: Where each patch lies in the image, xyxy.
            image_size: Height and width of the image.
            threshold: Probability above which a pixel belongs to the object.
        """
        height, width = image_size
        level = int(threshold * 255) + 0.5  # never a sample's own value
        sides = (windows[:, 2:] - windows[:, :2]).max(axis=1)
        factors = (patches.shape[-1] / sides).clip(1, patches.shape[-1]).astype(np.int64)
        places = [np.zeros(0, np.int64)]
        for factor in sorted(set(factors.tolist())):  # np.unique would import numpy.ma
            mine = np.flatnonzero(factors == factor)
            averaged = _averaged(patches[mine], windows[mine], factor)
            mask, column, row = _crossings(*averaged, image_size, level)
            places.append(((width + 1) * mine[mask] + column) * (height + 1) + row)
        return cls(image_size, len(patches), _apart(np.sort(np.concatenate(places))))

    @classmethod
    def of(cls, rles: Sequence[Rle], image_size: tuple[int, int]) -> "Runs":
        """Masks given as RLE."""
        height, width = image_size
        parts = [np.zeros(0, np.int64)]
        for number, rle in enumerate(rles):
            framed = np.zeros((width, height + 2), bool)
            framed[:, 1:-1] = masks.decode(rle).T
            first = number * (width + 1) * (height + 1)
            parts.append(first + np.flatnonzero(framed[:, 1:] != framed[:, :-1]))
        return cls(image_size, len(rles), np.concatenate(parts))

    def cleaned(self) -> "Runs":
        """Each mask reduced to its largest piece, with holes filled.

        Pixels of a piece meet at sides, and so do those of the background round it: the outline
        is one ring that never touches itself, as polygons need it. Size counts with holes filled.
        """
        return self._filled()._largest()

    def pieces(self, least: int) -> Int[np.ndarray, " n"]:
        """How many pieces of at least so many pixels each mask has."""
        starts, ends = self.edges[::2], self.edges[1::2]
        areas = np.bincount(_pieces(starts, ends, self._stride), ends - starts)
        mask = starts[np.flatnonzero(areas >= least)] // (self._stride * (self.image_size[1] + 1))
        return np.bincount(mask, minlength=self.count)

    def rles(self) -> list[Rle]:
        """Each mask as compressed COCO RLE."""
        height, width = self.image_size
        column, row = np.divmod(self.edges, height + 1)
        # A run to the foot of one column goes on at the head of the next.
        edges = _apart(column * height + row)
        firsts = np.arange(self.count + 1) * (width + 1) * height
        ends = np.searchsorted(edges, firsts).tolist()
        return [
            masks.from_edges(edges[start:end] - first, self.image_size)
            for start, end, first in zip(ends[:-1], ends[1:], firsts.tolist(), strict=False)
        ]

    @property
    def _stride(self) -> int:
        """Places from a pixel to its right neighbour."""
        return self.image_size[0] + 1

    def _largest(self) -> "Runs":
        starts, ends = self.edges[::2], self.edges[1::2]
        piece = _pieces(starts, ends, self._stride)
        areas = np.bincount(piece, ends - starts)
        first = np.flatnonzero(areas)  # a piece has the number of its first run
        mask = starts[first] // (self._stride * (self.image_size[1] + 1))
        order = np.lexsort((-areas[first], mask))
        largest = first[order[np.diff(mask[order], prepend=-1) > 0]]
        return replace(self, edges=self.edges[np.repeat(np.isin(piece, largest), 2)])

    def _filled(self) -> "Runs":
        starts, ends = self.edges[::2], self.edges[1::2]
        column = starts // self._stride
        gap = np.flatnonzero(column[1:] == column[:-1])  # between a run and the next
        top, foot = ends[gap], starts[gap + 1]
        piece = _pieces(top, foot, self._stride)
        is_open = np.zeros(len(gap), bool)
        for side in (-1, 1):
            # Beside a hole's pixels are runs and gaps; beyond a column's runs is the outside.
            shift = side * self._stride
            above = np.searchsorted(starts, top + shift, side="right") - 1
            below = np.searchsorted(ends, foot + shift).clip(max=len(ends) - 1)
            beside = column[gap] + side
            is_open |= (above < 0) | (column[above] != beside)
            is_open |= (column[below] != beside) | (ends[below] < foot + shift)
        holes = ~np.isin(piece, piece[is_open])
        kept = np.ones(len(self.edges), bool)
        kept[2 * gap[holes] + 1] = kept[2 * gap[holes] + 2] = False
        return replace(self, edges=self.edges[kept])


def _averaged(
    patches: UInt8[np.ndarray, "n s s"], windows: Float[np.ndarray, "n 4"], factor: int
) -> tuple[UInt8[np.ndarray, "n t t"], Float[np.ndarray, "n 4"]]:
    """Means of ``factor`` x ``factor`` samples, and windows that hold whole ones."""
    if factor == 1:
        return patches, windows
    size = patches.shape[-1]
    lacking = -size % factor
    padded = np.pad(patches, ((0, 0), (0, lacking), (0, lacking)), mode="edge")
    cells = padded.reshape(len(patches), -1, factor, padded.shape[-1] // factor, factor)
    grown = windows.copy()
    grown[:, 2:] += (windows[:, 2:] - windows[:, :2]) * lacking / size
    return np.rint(cells.mean(axis=(2, 4))).astype(np.uint8), grown


def _crossings(
    patches: UInt8[np.ndarray, "n s s"],
    windows: Float[np.ndarray, "n 4"],
    image_size: tuple[int, int],
    level: float,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Where each column of pixels crosses a mask's outline.

    Returns:
        Mask, column, and the first row below the crossing, in no order.
    """
    height, width = image_size
    size = patches.shape[-1]
    per_x, per_y = size / (windows[:, 2:] - windows[:, :2]).T
    # One more sample all round: beside the window as at its side, above and below it nothing.
    padded = np.pad(patches, ((0, 0), (0, 0), (1, 1)), mode="edge")
    padded = np.pad(padded, ((0, 0), (1, 1), (0, 0)))
    inside = padded > level
    mixed = inside[:, 1:] != inside[:, :-1]
    mixed = mixed[:, :, 1:] | mixed[:, :, :-1] | (inside[:, 1:, 1:] != inside[:, 1:, :-1])
    square = np.flatnonzero(mixed)  # between four samples that differ
    mask, place = np.divmod(square, (size + 1) ** 2)
    row, sample = np.divmod(place, size + 1)
    # The columns whose middles lie between two columns of samples.
    middles = windows[:, :1] + (np.arange(size + 2) - 0.5) / per_x[:, None]
    middles[:, 0], middles[:, -1] = windows[:, 0], windows[:, 2]
    firsts = np.ceil(middles - 0.5).astype(np.int64).clip(0, width)
    first = firsts[mask, sample]
    counts = firsts[mask, sample + 1] - first
    column = np.arange(counts.sum()) + np.repeat(first - counts.cumsum() + counts, counts)
    share = (column - np.repeat(first, counts)) * np.repeat(per_x[mask], counts) + np.repeat(
        (first + 0.5 - windows[mask, 0]) * per_x[mask] + 0.5 - sample, counts
    )
    corner = (mask * (size + 2) + row) * (size + 2) + sample
    values = padded.ravel()
    above, below = (
        np.repeat(values[left], counts)
        + np.repeat(np.subtract(values[left + 1], values[left], dtype=float), counts) * share
        for left in (corner, corner + size + 2)
    )
    mask, row = (np.repeat(each, counts) for each in (mask, row))
    crossed = np.flatnonzero((above > level) != (below > level))
    mask, column, row = mask[crossed], column[crossed], row[crossed]
    above, below = above[crossed], below[crossed]
    down = row + (level - above) / (below - above) - 0.5
    down = np.where(row == 0, 0, np.where(row == size, size, down))  # the window's own edges
    rows = np.ceil(windows[mask, 1] + down / per_y[mask] - 0.5).astype(np.int64)
    return mask, column, rows.clip(0, height)


def _apart(edges: Int[np.ndarray, " k"]) -> Int[np.ndarray, " m"]:
    """Without those that meet: of a run without pixels, or of two runs without a gap."""
    first = np.flatnonzero(np.diff(edges, prepend=-1))
    single = np.diff(first, append=len(edges)) % 2 == 1
    return np.asarray(edges[first[single]], np.int64)


def _pieces(
    starts: Int[np.ndarray, " n"], ends: Int[np.ndarray, " n"], stride: int
) -> Int[np.ndarray, " n"]:
    """The first run of the piece to which each run belongs; pixels of a piece meet at sides."""
    first = np.searchsorted(ends, starts - stride, side="right")
    after = np.searchsorted(starts, ends - stride, side="left")
    # Each run hangs on the first of its left neighbours; the others tie pieces together.
    piece = _roots(np.where(first < after, first, np.arange(len(starts))))
    more = np.maximum(after - first - 1, 0)
    right = np.repeat(np.arange(len(starts)), more)
    left = np.arange(more.sum()) - np.repeat(more.cumsum() - more - first - 1, more)
    while (untied := piece[left] != piece[right]).any():
        left, right = left[untied], right[untied]
        one, other = piece[left], piece[right]
        np.minimum.at(piece, np.maximum(one, other), np.minimum(one, other))
        piece = _roots(piece)
    return piece


def _roots(above: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Where one ends that goes up a tree, from each of its nodes."""
    while not np.array_equal(higher := above[above], above):
        above = higher
    return above
