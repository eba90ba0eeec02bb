"""RoIAlign (He et al. 2017, section 3): features of boxes, sampled without rounding."""

import torch
from torch import Tensor

from sharpmask.models.layers import linear_weights
from sharpmask.shapes import Float, Int

SAMPLES = 2
"""Places along each side of a bin whose mean is the bin's value."""


def roi_align(
    features: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "n 4"],
    images: Int[Tensor, " n"],
    size: int,
    stride: float,
) -> Float[Tensor, "n c size size"]:
    """Each box cut into ``size`` x ``size`` bins, with the mean of bilinear samples in each.

    Sampling is linear along each axis, so a box is two matrix products with the map of its image.
    Places beyond the map take its border's value.

    Args:
        features: Maps of a batch of images; a value stands for the middle of its square of pixels.
        boxes: xyxy, pixels of the images.
        images: Index in the batch of each box's image.
        size: Bins along each side.
        stride: Pixels from one value to the next.
    """
    channels, height, width = features.shape[1:]
    rows = sampling(boxes[:, 1] / stride, boxes[:, 3] / stride, size, height)
    columns = sampling(boxes[:, 0] / stride, boxes[:, 2] / stride, size, width)
    pooled = features.new_zeros(len(boxes), channels, size, size)
    for number in range(len(features)):
        mine = torch.nonzero(images == number).squeeze(1)
        # Rows first: (n size, h) x (h, c w), then columns.
        cut = rows[mine].flatten(0, 1) @ features[number].transpose(0, 1).flatten(1)
        cut = cut.view(len(mine), size, channels, width).transpose(1, 2)
        pooled = pooled.index_copy(0, mine, cut @ columns[mine].transpose(1, 2)[:, None])
    return pooled


def sampling(
    start: Float[Tensor, " n"], end: Float[Tensor, " n"], size: int, length: int
) -> Float[Tensor, "n size length"]:
    """Weights with which the values of a line enter the bins of intervals of it."""
    count = size * SAMPLES
    steps = (torch.arange(count, device=start.device, dtype=start.dtype) + 0.5) / count
    places = start[:, None] + (end - start)[:, None] * steps
    return linear_weights(places, length).view(len(start), size, SAMPLES, length).mean(2)
