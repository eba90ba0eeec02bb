"""How much two regions overlap: box IoU and boundary IoU; mask IoU is ``masks.rle_iou``.

The numbers equal those of pycocotools bit for bit, because matching compares them with thresholds.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from sharpmask.masks import Rle, decode, rle_boxes

BOUNDARY_RATIO = 0.02
"""Width of a mask's boundary as a share of the image's diagonal (Cheng et al. 2021, section 4)."""


def box_iou(
    first_xywh: Float[np.ndarray, "n 4"], second_xywh: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair of boxes (left, top, width, height)."""
    ends, other_ends = (boxes[:, :2] + boxes[:, 2:] for boxes in (first_xywh, second_xywh))
    intersection = _box_intersection(first_xywh[:, :2], ends, second_xywh[:, :2], other_ends)
    areas = np.add.outer(first_xywh[:, 2:].prod(1), second_xywh[:, 2:].prod(1))
    union = areas - intersection
    iou: Float[np.ndarray, "n m"] = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=intersection > 0)
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


def _box_intersection(
    starts: Float[np.ndarray, "n 2"],
    ends: Float[np.ndarray, "n 2"],
    other_starts: Float[np.ndarray, "m 2"],
    other_ends: Float[np.ndarray, "m 2"],
) -> Float[np.ndarray, "n m"]:
    """Intersect every pair of boxes, given by their corners; areas."""
    width, height = (
        np.minimum.outer(ends[:, axis], other_ends[:, axis])
        - np.maximum.outer(starts[:, axis], other_starts[:, axis])
        for axis in (0, 1)
    )
    area: Float[np.ndarray, "n m"] = np.maximum(width, 0) * np.maximum(height, 0)
    return area


def _erode(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Keep pixels whose square of side ``2 * radius + 1`` is in the mask; outside is empty."""
    side = 2 * radius + 1
    for _ in range(2):  # along each row, then, transposed, along each column
        counts = np.pad(mask, ((0, 0), (radius + 1, radius))).cumsum(1, dtype=np.int32)
        mask = ((counts[:, side:] - counts[:, :-side]) == side).T
    return mask
