import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from sharpmask.masks import (
    decode,
    encode,
    hold,
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


@given(st.lists(masks(size=(3, 4)), max_size=4))
def test_a_pixel_is_held_by_the_masks_that_show_it(some):
    rles = [encode(mask, (3, 4)) for mask in some]
    for row, column in np.ndindex(3, 4):
        expected = [bool(mask[row, column]) for mask in some]
        assert hold(rles, row, column).tolist() == expected


def test_none_at_all():
    assert rle_boxes([]).shape == (0, 4)
    assert rle_areas([]).shape == (0,)
    one = [encode(np.ones((2, 2), bool), (2, 2))]
    assert rle_iou([], one).shape == (0, 1)
    assert rle_iou(one, []).shape == (1, 0)
