"""RoIAlign beside a loop over images, boxes, bins and samples."""

import numpy as np
import pytest
import torch

from sharpmask.detection.roi_align import SAMPLES, roi_align

STRIDE = 16


def bilinear(plane, y, x):
    """The value at a place, y and x in values; value (r, c) stands at (r + .5, c + .5)."""
    height, width = plane.shape
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = plane[top, left] * (1 - dx) + plane[top, right] * dx
    below = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
    return above * (1 - dy) + below * dy


def slow_roi_align(features, boxes, images, size):
    result = np.zeros((len(boxes), features.shape[1], size, size))
    for n, ((x0, y0, x1, y1), image) in enumerate(zip(boxes / STRIDE, images, strict=True)):
        for channel in range(features.shape[1]):
            for row in range(size):
                for column in range(size):
                    values = [
                        bilinear(
                            features[image, channel],
                            y0 + (y1 - y0) * (row + (i + 0.5) / SAMPLES) / size,
                            x0 + (x1 - x0) * (column + (j + 0.5) / SAMPLES) / size,
                        )
                        for i in range(SAMPLES)
                        for j in range(SAMPLES)
                    ]
                    result[n, channel, row, column] = np.mean(values)
    return result


def example(seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, 2, 6, 9))
    corners = rng.uniform(-20, 150, (8, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    boxes[0] = [30, 30, 30.5, 31]  # less than a value
    images = np.array([2, 0, 0, 2, 2, 0, 2, 0])  # none in image 1
    return features, boxes, images


@pytest.mark.parametrize("size", [1, 3, 7])
def test_roi_align_equals_the_loops(size):
    features, boxes, images = example()
    fast = roi_align(*map(torch.from_numpy, (features, boxes, images)), size, STRIDE)
    np.testing.assert_allclose(fast, slow_roi_align(features, boxes, images, size), atol=1e-12)


def test_channels_last_maps_and_no_boxes_are_read():
    features, boxes, images = map(torch.from_numpy, example())
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        roi_align(last, boxes, images, 3, STRIDE), roi_align(features, boxes, images, 3, STRIDE)
    )
    assert roi_align(features, boxes[:0], images[:0], 3, STRIDE).shape == (0, 2, 3, 3)


def test_a_plane_is_read_at_the_middles_of_the_bins():
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing="ij")
    # The value at a pixel (x, y) is x + 100 y.
    features = (STRIDE * (columns + 0.5) + 100 * STRIDE * (rows + 0.5))[None, None]
    box = torch.tensor([[20.0, 40.0, 100.0, 120.0]])
    found = roi_align(features, box, torch.zeros(1).long(), 4, STRIDE)[0, 0]
    middles = (torch.arange(4) + 0.5) * 20
    expected = (20 + middles)[None] + 100 * (40 + middles)[:, None]
    torch.testing.assert_close(found, expected)


def test_gradients_equal_finite_differences():
    features, boxes, images = map(torch.from_numpy, example())
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, boxes, images, 2, STRIDE), features, fast_mode=False
    )
