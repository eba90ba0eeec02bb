import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from sharpmask.coco.segmentation import extent, segmentation_to_rle
from sharpmask.masks import decode
from test_masks import masks, oracle_rle


def oracle_polygons(polygons, height, width):
    rles = [coco.frPyObjects([polygon], height, width)[0] for polygon in polygons]
    merged = coco.merge(rles)
    return {"size": merged["size"], "counts": merged["counts"].decode()}


POLYGONS = st.lists(
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 30)), min_size=3, max_size=8).map(
        lambda points: [float(v) for point in points for v in point]
    ),
    min_size=1,
    max_size=3,
)


@given(POLYGONS)
def test_polygons_are_drawn_as_pycocotools_does(polygons):
    assert segmentation_to_rle(polygons, (30, 40)) == oracle_polygons(polygons, 30, 40)


def test_polygons_by_hand():
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    mask = np.zeros((10, 12), bool)
    mask[1:4, 2:6] = True
    np.testing.assert_array_equal(decode(segmentation_to_rle([square], (10, 12))), mask)
    mask[5:8, 8:11] = True
    two = [square, [8.0, 5.0, 11.0, 5.0, 11.0, 8.0, 8.0, 8.0]]
    np.testing.assert_array_equal(decode(segmentation_to_rle(two, (10, 12))), mask)
    np.testing.assert_array_equal(decode(segmentation_to_rle(tuple(two), (10, 12))), mask)


def test_polygons_beyond_the_image_are_cut():
    polygon = [[-5, -5, 50, -5, 50, 50, -5, 50]]
    assert decode(segmentation_to_rle(polygon, (10, 12))).all()
    assert segmentation_to_rle(polygon, (10, 12)) == oracle_polygons(polygon, 10, 12)


def test_numbers_that_are_written_as_text_or_floats_are_read():
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    expected = oracle_polygons([square], 10, 12)
    for reading in (str, float, "{:.1f}".format):
        assert segmentation_to_rle([[reading(value) for value in square]], (10, 12)) == expected
    assert segmentation_to_rle({"size": ["10", 11.0], "counts": [50.0, "10", 50]}, (10, 11)) == (
        segmentation_to_rle({"size": [10, 11], "counts": [50, 10, 50]}, (10, 11))
    )


@pytest.mark.parametrize("stray", [[], [5.0], [9, 9], [1, 1, 9, 9], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("at", [0, 1])
def test_a_part_of_fewer_than_three_points_beside_a_polygon_is_left_out(stray, at):
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    parts = [square, square]
    parts[at] = stray
    assert segmentation_to_rle(parts, (10, 12)) == oracle_polygons([square], 10, 12)


def test_the_extent_of_points_is_known_only_if_all_can_be_read():
    assert extent([[5, 9, 1, "2"], [3, 30]]) == (1, 2, 5, 30)
    unreadable = ([[5, 9, 1, 2], [7, float("nan")]], [[5, 9, 1, 2, 7]], [[5, 9], "1,2"])
    for nothing in (None, [], [[]], {"size": [1, 1]}, "text", *unreadable):
        assert extent(nothing) is None


@given(masks())
def test_run_lengths_compressed_and_not(mask):
    expected = oracle_rle(mask)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], mask.T.ravel()]).astype(int)))
    counts = np.diff([0, *runs, mask.size]).tolist()
    plain = {"size": list(mask.shape), "counts": counts}
    for rle in (plain, expected, {**expected, "counts": expected["counts"].encode()}):
        got = segmentation_to_rle(rle, mask.shape)
        np.testing.assert_array_equal(decode(got), mask)
        assert isinstance(got["counts"], str)
        assert got["size"] == list(mask.shape)
    assert segmentation_to_rle(expected, mask.shape) == expected


GOOD = oracle_rle(np.pad(np.ones((4, 5), bool), 3))  # 10 x 11


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        7,
        "polygon",
        b"polygon",
        [],
        {},
        [[]],
        [None],
        ["1,2,3,4,5,6"],
        [[1, 2, 3, 4]],  # two points; COCO would take it for a box
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, 5, 6, 7]],  # x without y
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[1, 2, 3, 4, 5, 1e300]],
        [[1, 2, 3, 4, 5, "six"]],
        [[1, 2, 3, 4, 5, None]],
        [[1, 2, 3, 4, 5, True]],
        [[[1, 2], [3, 4], [5, 6]]],
        [1, 2, 3, 4, 5, 6],  # a polygon without its list
        [[1, 2, 3, 4, 5, 6], "1,2"],
        [[1, 2], [1, 2, 3, 4]],  # parts without area alone
    ],
    ids=str,
)
def test_malformed_polygons_are_refused(segmentation):
    with pytest.raises(ValueError, match="segmentation"):
        segmentation_to_rle(segmentation, (10, 11))


@pytest.mark.parametrize(
    "change",
    [
        {"size": [11, 10]},
        {"size": [10, 12]},
        {"size": None},
        {"size": [10]},
        {"size": "10x11"},
        {"size": [10.5, 11]},
        {"counts": None},
        {"counts": 7},
        {"counts": {}},
        {"counts": []},
        {"counts": [109]},
        {"counts": [111]},
        {"counts": [100, 20]},
        {"counts": [50, -10, 70]},
        {"counts": [-1, 111]},
        {"counts": [2**40]},
        {"counts": [2**31, 2**31, 2**32 - 2**32 + 110]},
        {"counts": [2**64, 110]},
        {"counts": [float("nan")]},
        {"counts": [55.5, 54.5]},
        {"counts": ["110 px"]},
        {"counts": [True, 109]},
        {"counts": [None]},
        {"counts": ""},
        {"counts": "~" * 50},
        {"counts": "o" * 500},
        {"counts": "P" * 1000},
        {"counts": "\u00e9\u4e2d"},
        {"counts": "\0"},
        {"counts": " "},
        {"counts": GOOD["counts"][:-1]},
        {"counts": GOOD["counts"] + "1"},
        {"counts": GOOD["counts"].encode() + b"\xff"},
    ],
    ids=lambda change: repr(change)[:40],
)
def test_malformed_run_lengths_are_refused(change):
    assert segmentation_to_rle(GOOD, (10, 11)) == GOOD
    with pytest.raises(ValueError, match="segmentation"):
        segmentation_to_rle(GOOD | change, (10, 11))


@pytest.mark.parametrize(
    "size", [(-5, 11), (10, -5), (0, 11), (0, 0), (2**40, 11), (2**31, 2**31), (2**33, 2**33)]
)
@pytest.mark.parametrize("counts", [None, "0", [0]])
def test_sizes_that_no_image_has_are_refused(size, counts):
    polygon = [[1, 1, 9, 1, 5, 5]]
    with pytest.raises(ValueError, match="segmentation: no mask can be"):
        segmentation_to_rle({"size": [*size], "counts": counts} if counts else polygon, size)


def test_run_lengths_without_size_or_counts_are_refused():
    for key in ("size", "counts"):
        with pytest.raises(ValueError, match="segmentation"):
            segmentation_to_rle({key: GOOD[key]}, (10, 11))


@given(st.text(max_size=30))
def test_hostile_counts_raise_or_decode(counts):
    try:
        rle = segmentation_to_rle({"size": [10, 11], "counts": counts}, (10, 11))
    except ValueError:
        return
    assert decode(rle).shape == (10, 11)
