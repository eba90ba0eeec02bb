import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from sharpmask.masks import (
    decode,
    encode,
    paste,
    rle_areas,
    rle_boxes,
    rle_iou,
)

RNG = np.random.default_rng(0)


def oracle_rle(full):
    """Encode a full-size mask with pycocotools."""
    rle = coco.encode(np.asfortranarray(full, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@st.composite
def masks(draw, size=None):
    """Masks with long runs, short runs, full and empty columns."""
    height, width = size or (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    kind = draw(st.sampled_from(["noise", "columns", "full", "empty", "seams"]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.random((height, width)) < rng.random()
    if kind == "columns":
        return np.repeat(rng.random((1, width)) < 0.5, height, axis=0)
    if kind == "seams":  # the heads and feet of columns, where runs meet
        mask = np.zeros((height, width), bool)
        mask[0], mask[-1] = rng.random((2, width)) < 0.7
        return mask
    return np.full((height, width), kind == "full")


@st.composite
def same_size_masks(draw, count=3):
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return [draw(masks(size)) for _ in range(count)]


# --- run lengths ---


@given(masks(), *[st.integers(0, 5)] * 4)
def test_a_mask_within_an_image_is_encoded_as_pycocotools_does(mask, top, bottom, left, right):
    full = np.pad(mask, ((top, bottom), (left, right)))
    rle = encode(mask, full.shape, top, left)
    assert rle == oracle_rle(full)
    np.testing.assert_array_equal(decode(rle), full)


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (["..", ".."], [4]),
        (["##", "##"], [0, 4]),
        ([".#", "#."], [1, 2, 1]),  # a run round the foot of the first column
        (["#.", ".#"], [0, 1, 2, 1]),
        (["##", "#."], [0, 3, 1]),
    ],
)
def test_runs_by_hand(rows, counts):
    mask = np.array([[letter == "#" for letter in row] for row in rows])
    rle = encode(mask, mask.shape)
    expected = coco.frPyObjects({"size": [2, 2], "counts": counts}, 2, 2)
    assert rle["counts"] == expected["counts"].decode()
    assert rle["size"] == [2, 2]


def test_an_empty_part_makes_an_empty_mask():
    # What paste gives for a window outside the image.
    rle = encode(np.zeros((0, 0), bool), (5, 7), 5, 7)
    assert rle == oracle_rle(np.zeros((5, 7), bool))


def test_a_large_mask():
    full = np.zeros((480, 640), bool)
    full[100:300, 50:600] = RNG.random((200, 550)) < 0.5
    assert encode(full[100:300, 50:600], full.shape, 100, 50) == oracle_rle(full)


@given(same_size_masks())
def test_boxes_and_areas(some):
    rles = [encode(mask, mask.shape) for mask in some]
    boxes, areas = rle_boxes(rles), rle_areas(rles)
    assert areas.tolist() == [mask.sum() for mask in some]
    for mask, box in zip(some, boxes, strict=True):
        rows, columns = np.nonzero(mask)
        tight = [0, 0, 0, 0]
        if len(rows):
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == tight


@given(same_size_masks(4))
def test_intersection_over_union(some):
    rles = [encode(mask, mask.shape) for mask in some]
    first, second = rles[:1], rles[1:]
    got = rle_iou(first, second)
    assert got.shape == (1, 3)
    for mask, value in zip(some[1:], got[0], strict=True):
        union = (some[0] | mask).sum()
        assert value == pytest.approx((some[0] & mask).sum() / union if union else 0)
    as_bytes = [{**rle, "counts": rle["counts"].encode()} for rle in rles]
    expected = coco.iou(as_bytes[:1], as_bytes[1:], [0] * 3)
    both_empty = [not some[0].any() and not mask.any() for mask in some[1:]]
    np.testing.assert_allclose(got[0], np.where(both_empty, 0, expected[0]))


@pytest.mark.parametrize("counts", ["P" * 1000, "Q14" * 9, "\u4e2d"], ids=repr)
def test_decoding_what_does_not_fit_is_refused(counts):
    with pytest.raises(ValueError, match=r"RLE|counts"):
        decode({"size": [10, 11], "counts": counts})


def test_none_at_all():
    assert rle_boxes([]).shape == (0, 4)
    assert rle_areas([]).shape == (0,)
    one = [encode(np.ones((2, 2), bool), (2, 2))]
    assert rle_iou([], one).shape == (0, 1)
    assert rle_iou(one, []).shape == (1, 0)


# --- pasting ---


def slow_probability(mask, window, row, column):
    """Bilinear value of a patch at the middle of an image's pixel, in patch pixels."""
    size = len(mask)
    x0, y0, x1, y1 = window
    across = (column + 0.5 - x0) * size / (x1 - x0) - 0.5
    down = (row + 0.5 - y0) * size / (y1 - y0) - 0.5
    value = 0.0
    for r in (int(np.floor(down)), int(np.floor(down)) + 1):
        for c in (int(np.floor(across)), int(np.floor(across)) + 1):
            weight = (1 - abs(down - r)) * (1 - abs(across - c))
            value += weight * mask[min(max(r, 0), size - 1), min(max(c, 0), size - 1)]
    return value / 255


def full_size(mask, window, image_size, threshold):
    part, top, left = paste(mask, np.array(window, float), image_size, threshold)
    full = np.zeros(image_size, bool)
    inside = full[top : top + part.shape[0], left : left + part.shape[1]]
    assert inside.shape == part.shape  # the part lies within the image
    inside[:] = part
    return full


def waves(size):
    """A smooth patch: neighbours differ by at most 12 of 255."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    wave = np.sin(rows * 9 / size) * np.cos(columns * 7 / size)
    return np.rint(127.5 + 127.4 * wave).astype(np.uint8)


@given(
    st.floats(-60, 30),
    st.floats(-60, 20),
    st.floats(32, 150),
    st.floats(0.9, 1.1),
    st.sampled_from([0.1, 0.2, 0.5, 0.8]),
)
def test_pasting_pixel_by_pixel(left, top, side, aspect, threshold):
    mask = waves(32)
    image_size = (24, 36)
    window = (left, top, left + side, top + side * aspect)
    got = full_size(mask, window, image_size, threshold)
    # The window's edge may fall half a pixel off the grid, and values are rounded to 1 / 255.
    steepest = np.abs(np.diff(mask.astype(int), axis=0)).max() * 32 / side / aspect / 255
    tolerance = 0.5 * steepest + 2 / 255
    judged = 0
    for row in range(image_size[0]):
        for column in range(image_size[1]):
            inside = window[0] <= column + 0.5 < window[2] and window[1] <= row + 0.5 < window[3]
            value = slow_probability(mask, window, row, column) if inside else 0
            if abs(value - threshold) > tolerance:
                assert got[row, column] == (value > threshold)
                judged += 1
    assert judged > 0.7 * got.size


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5])
def test_a_window_that_is_the_image_is_the_patch_itself(threshold):
    mask = RNG.integers(0, 256, (20, 20), dtype=np.uint8)
    got = full_size(mask, (0, 0, 20, 20), (20, 20), threshold)
    np.testing.assert_array_equal(got, mask > 255 * threshold)


def test_the_threshold_is_exclusive():
    mask = np.array([[50, 51], [52, 255]], np.uint8)
    assert full_size(mask, (0, 0, 2, 2), (2, 2), 0.2).tolist() == [[False, False], [True, True]]


def test_whole_pixels_are_cut_and_moved_exactly():
    mask = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
    expected = np.zeros((12, 12), bool)
    expected[3:9, 4:10] = mask > 102
    np.testing.assert_array_equal(full_size(mask, (4, 3, 10, 9), (12, 12), 0.4), expected)
    # The same patch over each corner of an image.
    for top, left in ((-2, -3), (-2, 5), (4, -3), (4, 5)):
        whole = np.zeros((30, 30), bool)
        whole[10 + top : 16 + top, 10 + left : 16 + left] = mask > 102
        got = full_size(mask, (left, top, left + 6, top + 6), (8, 9), 0.4)
        np.testing.assert_array_equal(got, whole[10:18, 10:19])


def test_integer_scales():
    # Enlarged three times a flat field with a step keeps the step where it is: between the middles
    # of the second and third patch pixels, half way.
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 2:] = 255
    got = full_size(mask, (0, 0, 12, 12), (12, 12), 0.5)
    assert got[0].tolist() == [False] * 6 + [True] * 6
    # Reduced three times every pixel is an average, not a sample.
    mask = np.zeros((12, 12), np.uint8)
    mask[1::2] = 255
    assert full_size(mask, (0, 0, 4, 4), (4, 4), 0.4).all()
    assert not full_size(mask, (0, 0, 4, 4), (4, 4), 0.6).any()


@pytest.mark.parametrize(
    "window",
    [(-20, 0, -10, 10), (30, 0, 40, 10), (0, -20, 10, -10), (0, 30, 10, 40), (-50, -50, 0, 0)],
    ids=str,
)
def test_windows_outside_the_image_are_empty(window):
    part, top, left = paste(np.full((5, 5), 255, np.uint8), np.array(window, float), (20, 30), 0.2)
    assert part.shape == (0, 0)
    assert 0 <= top <= 20
    assert 0 <= left <= 30
    assert encode(part, (20, 30), top, left) == oracle_rle(np.zeros((20, 30), bool))


def test_a_window_round_the_whole_image():
    mask = np.zeros((160, 160), np.uint8)
    mask[40:120, 40:120] = 255
    assert full_size(mask, (-80, -80, 240, 240), (160, 160), 0.2).all()
    assert not full_size(mask, (300, 300, 620, 620), (160, 160), 0.2).any()


def test_a_window_smaller_than_a_pixel():
    mask = np.full((8, 8), 255, np.uint8)
    assert full_size(mask, (2.4, 3.4, 2.6, 3.6), (6, 6), 0.5).sum() == 1  # holds a pixel's middle
    assert full_size(mask, (2.6, 3.6, 2.9, 3.9), (6, 6), 0.5).sum() == 0
