"""Boxes: overlap, their coding for regression, suppression of repeats; points and boxes given."""

from collections.abc import Sequence

import numpy as np

from sharpmask.shapes import Float, Int

MAX_LOG_SCALE = float(np.log(1000 / 16))
"""Logarithm of the largest factor, 62.5, by which regression may enlarge a side."""


def pixel_at(x: float, y: float, image_size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the pixel that holds a point of an image (height, width).

    The right and lower border belong to the last pixel.

    Raises:
        ValueError: The point is not on the image.
    """
    height, width = image_size
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(
            f"x, y: expected a point on the photo, 0 to {width} and 0 to {height}, got {x}, {y}"
        )
    return min(int(y), height - 1), min(int(x), width - 1)


def box_on(
    box: Sequence[float] | Float[np.ndarray, "4"], image_size: tuple[int, int]
) -> Float[np.ndarray, "4"]:
    """The part of a box (xyxy) on an image (height, width).

    Raises:
        ValueError: Not four numbers, or nothing of it lies on the image.
    """
    height, width = image_size
    given = np.asarray(box, float)
    if given.shape == (4,) and np.isfinite(given).all():
        part: Float[np.ndarray, 4] = given.clip(0, [width, height, width, height])
        if (part[2:] > part[:2]).all():
            return part
    raise ValueError(
        f"box: expected x0, y0, x1, y1 with x0 < x1 and y0 < y1 on the photo of {width} x {height} "
        f"pixels, got {box}"
    )


def box_iou(
    first_xywh: Float[np.ndarray, "n 4"], second_xywh: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair of boxes (left, top, width, height).

    Equal to pycocotools bit for bit, because matching compares it with thresholds.
    """
    ends, other_ends = (boxes[:, :2] + boxes[:, 2:] for boxes in (first_xywh, second_xywh))
    intersection = _box_intersection(first_xywh[:, :2], ends, second_xywh[:, :2], other_ends)
    areas = np.add.outer(first_xywh[:, 2:].prod(1), second_xywh[:, 2:].prod(1))
    union = areas - intersection
    iou: Float[np.ndarray, "n m"] = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=intersection > 0)
    return iou


def iou(
    first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair of boxes (xyxy)."""
    return box_iou(*(np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in (first, second)))


def encode_boxes(
    boxes: Float[np.ndarray, "n 4"], targets: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n 4"]:
    """The deltas from boxes to their targets, both xyxy (R-CNN, appendix C).

    A delta is the shift of the centre, in sides of the box, and the logarithm of the ratio of the
    sides.
    """
    (centers, sides), (target_centers, target_sides) = map(_centered, (boxes, targets))
    return np.hstack([(target_centers - centers) / sides, np.log(target_sides / sides)])


def decode_boxes(
    boxes: Float[np.ndarray, "*n 4"], deltas: Float[np.ndarray, "*n 4"], image_size: tuple[int, int]
) -> Float[np.ndarray, "*n 4"]:
    """Boxes (xyxy) moved by deltas of ``encode_boxes``, clipped to the image (height, width)."""
    centers, sides = _centered(boxes)
    centers = centers + deltas[..., :2] * sides
    sides = sides * np.exp(np.minimum(deltas[..., 2:], MAX_LOG_SCALE))
    moved = np.concatenate([centers - sides / 2, centers + sides / 2], axis=-1)
    height, width = image_size
    return moved.clip(0, [width, height, width, height])


def suppress(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], threshold: float
) -> Int[np.ndarray, " m"]:
    """Indices of the boxes that are kept, best first: greedy non-maximum suppression.

    A box is dropped if its IoU with a better one that is kept exceeds ``threshold``.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = iou(boxes, boxes) > threshold
    kept: list[int] = []
    gone = np.zeros(len(boxes), bool)
    for index in order.tolist():
        if not gone[index]:
            kept.append(index)
            gone |= overlaps[index]
    return np.array(kept, np.int64)


def _box_intersection(
    starts: Float[np.ndarray, "n 2"],
    ends: Float[np.ndarray, "n 2"],
    other_starts: Float[np.ndarray, "m 2"],
    other_ends: Float[np.ndarray, "m 2"],
) -> Float[np.ndarray, "n m"]:
    """Area that every pair of boxes, given by their corners, shares."""
    width, height = (
        np.minimum.outer(ends[:, axis], other_ends[:, axis])
        - np.maximum.outer(starts[:, axis], other_starts[:, axis])
        for axis in (0, 1)
    )
    area: Float[np.ndarray, "n m"] = np.maximum(width, 0) * np.maximum(height, 0)
    return area


def _centered(
    boxes: Float[np.ndarray, "*n 4"],
) -> tuple[Float[np.ndarray, "*n 2"], Float[np.ndarray, "*n 2"]]:
    """Centres and sides (x, y)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
