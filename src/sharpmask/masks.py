"""Masks: from the patch frame into the image, and COCO run-length encoding.

RLE work is done by hotcoco, whose reader is memory-safe: hostile input raises, it never crashes.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import hotcoco.mask
import numpy as np
from PIL import Image

from sharpmask.shapes import Bool, Float, UInt8


class Rle(TypedDict):
    """A compressed COCO mask: ``size`` is [height, width], ``counts`` the run lengths."""

    size: list[int]
    counts: str


BOUNDARY_RATIO = 0.02
"""Width of a mask's boundary as a share of the image's diagonal (Cheng et al. 2021, section 4)."""


def paste(
    mask: UInt8[np.ndarray, "s s"],
    window: Float[np.ndarray, "4"],
    image_size: tuple[int, int],
    threshold: float,
) -> tuple[Bool[np.ndarray, "h w"], int, int]:
    """Resample a patch-frame mask to the pixels of its window and binarise it.

    Args:
        mask: Probabilities times 255.
        window: Where the patch lies in the image, xyxy.
        image_size: Height and width of the image.
        threshold: Probability above which a pixel belongs to the object.

    Returns:
        The part of the mask's box inside the image, and its top row and left column there.
    """
    size = len(mask)
    x0, y0, x1, y1 = (float(v) for v in window)
    per_x, per_y = size / (x1 - x0), size / (y1 - y0)
    # Pixels whose centres lie inside the window, the image, and the reach of the mask's own pixels.
    inside = mask > int(threshold * 255)
    first_x, last_x = _reach(inside, 0, per_x)
    first_y, last_y = _reach(inside, 1, per_y)
    left, top = (
        max(0, int(np.ceil(start + first / per - 0.5)))
        for start, first, per in ((x0, first_x, per_x), (y0, first_y, per_y))
    )
    right = min(image_size[1], int(np.ceil(x0 + last_x / per_x - 0.5)))
    bottom = min(image_size[0], int(np.ceil(y0 + last_y / per_y - 0.5)))
    if right <= left or bottom <= top:
        return np.zeros((0, 0), bool), min(top, image_size[0]), min(left, image_size[1])
    box = (
        max(0.0, (left - x0) * per_x),
        max(0.0, (top - y0) * per_y),
        min(float(size), (right - x0) * per_x),
        min(float(size), (bottom - y0) * per_y),
    )
    pixels = Image.fromarray(mask).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=box
    )
    return np.asarray(pixels) > int(threshold * 255), top, left


def _reach(inside: Bool[np.ndarray, "s s"], axis: int, per_pixel: float) -> tuple[float, float]:
    """From where to where a mask's own values are felt once it is resampled.

    Args:
        inside: The mask.
        axis: That is left out: 0 asks for columns, 1 for rows.
        per_pixel: Values to a pixel; a pixel that holds several takes their mean.
    """
    own = np.flatnonzero(inside.any(axis=axis))
    if not own.size:
        return 0.0, 0.0
    support = max(1.0, per_pixel)
    return max(0.0, own[0] - support), min(float(len(inside)), own[-1] + 1 + support)


def encode(
    mask: Bool[np.ndarray, "h w"], image_size: tuple[int, int], top: int = 0, left: int = 0
) -> Rle:
    """Encode a mask that lies at (top, left) of an empty image, without making that image."""
    height, width = image_size
    rows, columns = mask.shape
    framed = np.zeros((columns, rows + 2), bool)
    framed[:, 1:-1] = mask.T
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), rows + 1)
    edges = (left + column) * height + top + row
    # A run to the foot of one column goes on at the head of the next: drop the seam's two edges.
    seam = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([seam, seam + 1]))
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
    """Intersection over union of every pair; where it does not reach ``at_least`` it may read 0.

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
