"""Masks: from the patch frame into the image, and COCO run-length encoding.

RLE work is done by hotcoco, whose reader is memory-safe: hostile input raises, it never crashes.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import hotcoco.mask
import numpy as np

from sharpmask.shapes import Bool, Float, Int, UInt8


class Rle(TypedDict):
    """A compressed COCO mask: ``size`` is [height, width], ``counts`` the run lengths."""

    size: list[int]
    counts: str


BOUNDARY_RATIO = 0.02
"""Width of a mask's boundary as a share of the image's diagonal (Cheng et al. 2021, section 4)."""


def encode(
    mask: Bool[np.ndarray, "h w"], image_size: tuple[int, int], top: int = 0, left: int = 0
) -> Rle:
    """Encode a mask that lies at (top, left) of an empty image, without making that image."""
    height, _ = image_size
    rows, columns = mask.shape
    framed = np.zeros((columns, rows + 2), bool)
    framed[:, 1:-1] = mask.T
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), rows + 1)
    edges = (left + column) * height + top + row
    # A run to the foot of one column goes on at the head of the next: drop the seam's two edges.
    seam = np.flatnonzero(edges[1:] == edges[:-1])
    return from_edges(np.delete(edges, np.concatenate([seam, seam + 1])), image_size)


def from_edges(edges: Int[np.ndarray, " k"], image_size: tuple[int, int]) -> Rle:
    """The mask whose runs begin and end, in turn, at the given pixels, counted down the columns."""
    height, width = image_size
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if counts[-1] == 0:  # the image's last pixel is in the mask
        counts = counts[:-1]
    rle = hotcoco.mask.frPyObjects(
        {"size": [height, width], "counts": counts.tolist()}, height, width
    )
    return {"size": [height, width], "counts": rle["counts"].decode()}


def decode(rle: Rle) -> UInt8[np.ndarray, "h w"]:
    """Decode to 0 and 1.

    Raises:
        ValueError: The counts are malformed or do not fit the size.
    """
    return np.ascontiguousarray(hotcoco.mask.decode(dict(rle)))


def union(rles: Sequence[Rle]) -> Rle:
    """The mask of all pixels of some masks of one image."""
    merged = hotcoco.mask.merge([dict(rle) for rle in rles])
    return {"size": list(rles[0]["size"]), "counts": merged["counts"].decode()}


def rle_boxes(rles: Sequence[Rle]) -> Float[np.ndarray, "n 4"]:
    """Tight boxes, xyxy; zeros for an empty mask."""
    if not rles:
        return np.zeros((0, 4))
    boxes = hotcoco.mask.to_bbox([dict(rle) for rle in rles])
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def rle_areas(rles: Sequence[Rle]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pixels in each mask."""
    return np.asarray(hotcoco.mask.area([dict(rle) for rle in rles]), np.int64).reshape(-1)


def rle_iou(
    first: Sequence[Rle], second: Sequence[Rle], at_least: float = 0.0
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair; a pair below ``at_least`` may get 0.

    Tight boxes and areas bound the intersection from above, so most pairs need no pixel work.

    Raises:
        ValueError: The counts of a mask are malformed or do not fit its size.
    """
    areas, other_areas = rle_areas(first), rle_areas(second)
    boxes, other_boxes = rle_boxes(first), rle_boxes(second)
    width, height = (
        np.minimum.outer(boxes[:, 2 + axis], other_boxes[:, 2 + axis])
        - np.maximum.outer(boxes[:, axis], other_boxes[:, axis])
        for axis in (0, 1)
    )
    intersection = np.minimum(
        width.clip(min=0) * height.clip(min=0), np.minimum.outer(areas, other_areas)
    )
    # intersection / (areas - intersection) >= at_least, without the division
    sums = np.add.outer(areas, other_areas)
    possible = (intersection > 0) & ((1 + at_least) * intersection >= at_least * sums)
    iou = np.zeros(possible.shape)
    for column, rle in enumerate(second):
        rows = np.flatnonzero(possible[:, column]).tolist()
        if rows:
            pairs = [dict(first[row]) for row in rows], [dict(rle)]
            iou[rows, column] = hotcoco.mask.iou(*pairs, [False])[:, 0]
    return iou


def hold(rles: Sequence[Rle], row: int, column: int) -> Bool[np.ndarray, " n"]:
    """Which masks hold a pixel; their own pixels are not made for it."""
    if not rles:
        return np.zeros(0, bool)
    height, width = rles[0]["size"]
    pixel = encode(np.ones((1, 1), bool), (height, width), row, column)
    return np.asarray(rle_iou(rles, [pixel])[:, 0] > 0)


def boundary_iou(first: Rle, second: Rle) -> float:
    """Intersection over union of two masks' boundaries (Boundary IoU, Cheng et al. 2021).

    A boundary is the part of a mask within ``BOUNDARY_RATIO`` of the image's diagonal from its
    contour, in chessboard distance; the image's border counts as contour, as in the authors' code.
    Two empty masks give 0.
    """
    # Everything happens inside the two masks' common tight box.
    boxes = rle_boxes([first, second])
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    if not len(boxes):
        return 0.0
    left, top = boxes[:, :2].min(0).astype(int)
    right, bottom = boxes[:, 2:].max(0).astype(int)
    width = max(1, round(BOUNDARY_RATIO * math.hypot(*first["size"])))
    boundaries = []
    for rle in (first, second):
        mask = decode(rle)[top:bottom, left:right].astype(bool)
        boundaries.append(mask & ~_erode(mask, width))
    union = np.count_nonzero(boundaries[0] | boundaries[1])
    return np.count_nonzero(boundaries[0] & boundaries[1]) / union


def _erode(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Keep pixels whose square of side ``2 * radius + 1`` is in the mask; outside is empty."""
    side = 2 * radius + 1
    for _ in range(2):  # along each row, then, transposed, along each column
        counts = np.pad(mask, ((0, 0), (radius + 1, radius))).cumsum(1, dtype=np.int32)
        mask = ((counts[:, side:] - counts[:, :-side]) == side).T
    return mask
