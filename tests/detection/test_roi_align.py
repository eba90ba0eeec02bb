"""RoIAlign beside a loop over boxes, bins and samples."""

import numpy as np
import pytest

from sharpmask.detection.roi_align import SAMPLES, roi_align

STRIDE, OFFSET = 16, 1.0


def bilinear(plane, y, x):
    """The value at a place, y and x in values; value (r, c) stands at (r, c)."""
    height, width = plane.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = plane[top, left] * (1 - dx) + plane[top, right] * dx
    below = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
    return above * (1 - dy) + below * dy


def slow_roi_align(features, boxes, size):
    result = np.zeros((len(boxes), len(features), size, size))
    for n, (x0, y0, x1, y1) in enumerate((boxes - OFFSET) / STRIDE):
        for channel, plane in enumerate(features):
            for row in range(size):
                for column in range(size):
                    values = [
                        bilinear(
                            plane,
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
    corners = rng.uniform(-20, 150, (5, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    boxes[0] = [30, 30, 30.5, 31]  # less than a value
    return rng.normal(size=(2, 6, 9)), boxes


@pytest.mark.parametrize("size", [1, 3])
def test_roi_align_equals_the_loops(size):
    features, boxes = example()
    fast = roi_align(features, boxes, size, STRIDE, OFFSET)
    np.testing.assert_allclose(fast, slow_roi_align(features, boxes, size), atol=1e-12)


def test_no_boxes_give_no_features():
    features, boxes = example()
    assert roi_align(features, boxes[:0], 3, STRIDE, OFFSET).shape == (0, 2, 3, 3)


def test_a_plane_is_read_at_the_middles_of_the_bins():
    rows, columns = np.mgrid[:10, :12] * STRIDE + OFFSET
    features = (columns + 100 * rows)[None]  # x + 100 y
    found = roi_align(features, np.array([[20.0, 40, 100, 120]]), 4, STRIDE, OFFSET)[0, 0]
    middles = (np.arange(4) + 0.5) * 20
    np.testing.assert_allclose(found, (20 + middles)[None] + 100 * (40 + middles)[:, None])
