import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sharpmask.boxes import box_iou
from sharpmask.masks import boundary_iou, rle_iou


def random_mask(rng, height, width):
    """A few rectangles, some cut out again; sometimes empty, sometimes full."""
    mask = np.zeros((height, width), np.uint8)
    for value in rng.permutation([1, 1, 1, 0])[: rng.integers(0, 5)]:
        rows, columns = (
            np.sort(rng.integers(0, height + 1, 2)),
            np.sort(rng.integers(0, width + 1, 2)),
        )
        mask[slice(*rows), slice(*columns)] = value
    return mask


def encode(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def slow_boundary(mask, width):
    """As in the authors' code: pad with background, erode ``width`` times by a 3x3 square."""
    height, length = mask.shape
    eroded = np.pad(mask.astype(bool), 1)
    for _ in range(width):
        shrunk = np.zeros_like(eroded)
        for row in range(1, height + 1):
            for column in range(1, length + 1):
                shrunk[row, column] = eroded[row - 1 : row + 2, column - 1 : column + 2].all()
        eroded = shrunk
    return mask.astype(bool) & ~eroded[1:-1, 1:-1]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_box_iou_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    first, second = (np.abs(rng.normal(size=(n, 4))) * 20 for n in (9, 5))
    first[:3] = second[:3]
    second[3, 2:] = 0
    expected = coco_mask.iou(first, second, [0] * len(second))
    assert np.array_equal(box_iou(first, second), expected)


def test_box_iou_of_no_boxes():
    assert box_iou(np.zeros((0, 4)), np.ones((3, 4))).shape == (0, 3)
    assert box_iou(np.ones((2, 4)), np.zeros((0, 4))).shape == (2, 0)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 0.3, 0.5, 0.7]))
def test_mask_iou_equals_pycocotools_from_a_bound_on(seed, bound):
    rng = np.random.default_rng(seed)
    masks = [encode(random_mask(rng, 7, 9)) for _ in range(14)]
    first, second = masks[:10], masks[6:]
    expected = coco_mask.iou(first, second, [0] * len(second))
    iou = rle_iou(first, second, bound)
    high = expected >= bound
    assert np.array_equal(iou[high], expected[high])
    assert (iou[~high] < bound).all() if bound else True


def test_mask_iou_of_exactly_one_half_is_kept():
    one, two = np.zeros((2, 4, 4), np.uint8)
    one[:, :1], two[:, :2] = 1, 1
    assert rle_iou([encode(one)], [encode(two)], 0.5).tolist() == [[0.5]]


@pytest.mark.parametrize("size", [(20, 30), (50, 60), (81, 12)])
@pytest.mark.parametrize("seed", range(4))
def test_boundary_iou_equals_the_slow_truth(size, seed):
    rng = np.random.default_rng(seed)
    width = {(20, 30): 1, (50, 60): 2, (81, 12): 2}[size]  # 2 % of 36, 78 and 82
    first = sum(random_mask(rng, *size) for _ in range(5)) > 0
    second = np.roll(first, (1, -1), (0, 1))
    second[: size[0] // 2, : size[1] // 4] = 1
    a, b = slow_boundary(first, width), slow_boundary(second, width)
    expected = (a & b).sum() / (a | b).sum()
    assert 0 < expected < 1
    assert boundary_iou(encode(first), encode(second)) == expected


def test_boundary_iou_by_hand():
    inner, outer = np.zeros((2, 60, 80), np.uint8)  # diagonal 100: boundary 2 wide
    outer[10:30, 10:30] = 1
    inner[12:28, 12:28] = 1  # begins exactly where the outer boundary ends
    assert boundary_iou(encode(outer), encode(outer)) == 1
    assert boundary_iou(encode(outer), encode(inner)) == 0
    inner[11, 11:29] = inner[11:29, 11] = inner[28, 11:29] = inner[11:29, 28] = 1  # 18 x 18 now
    common = 18**2 - 16**2
    either = 20**2 - 14**2
    assert boundary_iou(encode(outer), encode(inner)) == common / either


def test_boundary_iou_takes_the_border_of_the_image_for_contour():
    full, framed = np.ones((2, 60, 80), np.uint8)
    framed[2:-2, 2:-2] = 0
    assert boundary_iou(encode(full), encode(framed)) == 1


def test_boundary_iou_of_empty_masks_is_zero():
    empty = encode(np.zeros((6, 8), np.uint8))
    assert boundary_iou(empty, empty) == 0
    assert boundary_iou(empty, encode(np.ones((6, 8), np.uint8))) == 0
