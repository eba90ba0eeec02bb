"""RoIAlign (He et al. 2017, section 3): features of boxes, sampled without rounding."""

import numpy as np

from sharpmask.shapes import Float

SAMPLES = 12
"""Places along each side of a bin whose mean is the bin's value."""


def roi_align(
    features: Float[np.ndarray, "c h w"],
    boxes: Float[np.ndarray, "n 4"],
    size: int,
    stride: float,
    offset: float,
) -> Float[np.ndarray, "n c size size"]:
    """Each box cut into ``size`` x ``size`` bins, with the mean of bilinear samples in each.

    Sampling is linear along each axis, so a box is two matrix products with the map. Places beyond
    the map take its border's value.

    Args:
        features: Map of an image.
        boxes: xyxy, pixels of the image.
        size: Bins along each side.
        stride: Pixels from one value to the next.
        offset: Coordinate of the first value, on both axes.
    """
    channels, height, width = features.shape
    places = ((boxes - offset) / stride).astype(features.dtype)
    rows = sampling(places[:, 1], places[:, 3], size, height)
    columns = sampling(places[:, 0], places[:, 2], size, width)
    # Rows first: (n size, h) x (h, c w), then columns.
    lines = np.ascontiguousarray(features.transpose(1, 0, 2)).reshape(height, -1)
    cut = (rows.reshape(-1, height) @ lines).reshape(len(boxes), size * channels, width)
    pooled = cut @ columns.transpose(0, 2, 1)
    by_row = pooled.reshape(len(boxes), size, channels, size)
    return by_row.transpose(0, 2, 1, 3)  # type: ignore[no-any-return]


def sampling(
    start: Float[np.ndarray, " n"], end: Float[np.ndarray, " n"], size: int, length: int
) -> Float[np.ndarray, "n size length"]:
    """Weights with which the values 0, 1, ... of a line enter the bins of intervals of it."""
    count = size * SAMPLES
    steps = (np.arange(count, dtype=start.dtype) + 0.5) / count
    places = (start[:, None] + (end - start)[:, None] * steps).clip(0, length - 1)
    values = np.arange(length, dtype=start.dtype)
    weights = np.maximum(1 - np.abs(places[..., None] - values), 0)
    in_bins = weights.reshape(len(start), size, SAMPLES, length)
    return in_bins.mean(2)  # type: ignore[no-any-return]
