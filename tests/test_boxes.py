import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sharpmask.boxes import MAX_LOG_SCALE, decode_boxes, encode_boxes, iou, suppress

SIZE = (200, 300)


@st.composite
def boxes(draw, most=12):
    count = draw(st.integers(0, most))
    starts = draw(arrays.arrays(float, (count, 2), elements=st.floats(0, 100, width=16)))
    sides = draw(arrays.arrays(float, (count, 2), elements=st.floats(2, 90, width=16)))
    return np.hstack([starts, starts + sides])


def slow_iou(first, second):
    x0, y0 = max(first[0], second[0]), max(first[1], second[1])
    x1, y1 = min(first[2], second[2]), min(first[3], second[3])
    shared = max(0, x1 - x0) * max(0, y1 - y0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return shared / (sum(areas) - shared)


@given(boxes(), boxes())
def test_overlaps_equal_the_loops(first, second):
    expected = [[slow_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(
        iou(first, second), np.reshape(expected, (len(first), len(second))), atol=1e-12
    )


def test_coding_by_hand():
    # Half a width to the right, a quarter of a height up, twice as wide, as high.
    deltas = encode_boxes(np.array([[0.0, 0, 20, 40]]), np.array([[0.0, -10, 40, 30]]))
    np.testing.assert_allclose(deltas, [[0.5, -0.25, np.log(2), 0]])


@given(boxes(), st.data())
def test_decoding_undoes_encoding(first, data):
    order = data.draw(st.permutations(range(len(first))))
    targets = first[list(order)]
    decoded = decode_boxes(first, encode_boxes(first, targets), SIZE)
    np.testing.assert_allclose(decoded, targets, atol=1e-9)


def test_decoding_many_categories_clips_and_never_explodes():
    deltas = np.zeros((2, 3, 4))
    deltas[1, 2] = [0, 0, 50, 50]
    deltas[0, 1] = [-10, 0, 0, 0]
    start = np.array([[10.0, 20, 30, 60], [100, 100, 101, 101]])
    moved = decode_boxes(start[:, None], deltas, SIZE)
    assert moved.shape == (2, 3, 4)
    np.testing.assert_allclose(moved[0, 0], start[0])
    np.testing.assert_allclose(moved[0, 1], [0, 20, 0, 60])
    half = np.exp(MAX_LOG_SCALE) / 2
    np.testing.assert_allclose(
        moved[1, 2], [100.5 - half, 100.5 - half, 100.5 + half, 100.5 + half]
    )


def slow_suppress(boxes, scores, threshold):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda k: (-scores[k], k)):
        if all(slow_iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@given(boxes(), st.sampled_from([0.1, 0.3, 0.7]), st.data())
def test_suppression_equals_the_loops(found, threshold, data):
    scores = np.array(
        data.draw(
            st.lists(st.sampled_from([0, 0.5, 0.7, 1]), min_size=len(found), max_size=len(found))
        ),
        float,
    )
    assert suppress(found, scores, threshold).tolist() == slow_suppress(found, scores, threshold)


def test_suppression_by_hand():
    found = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    # The second repeats the third; the first repeats it too, as does the second the first.
    assert suppress(found, np.array([0.1, 0.2, 0.9, 0.5]), 0.5).tolist() == [2, 3]
    # Of a chain the middle goes, and both ends stay.
    assert suppress(found, np.array([0.9, 0.8, 0.7, 0.1]), 0.7).tolist() == [0, 2, 3]
    assert iou(found[:1], found[2:3])[0, 0] == pytest.approx(80 / 120)
