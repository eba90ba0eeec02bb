import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpmask.evaluation.average_recall import AREA_RANGES, IOU_THRESHOLDS, AverageRecall

LIMITS = [(0, 1e10), (0, 1024), (1024, 9216), (9216, 1e10)]


def slow_ranks(iou, areas, threshold, limits):
    """COCOeval's own loops: the rank at which each counting object is found, -1 if it is not."""
    ignored = [not limits[0] <= area <= limits[1] for area in areas]
    order = sorted(range(len(areas)), key=lambda index: ignored[index])
    ranks = dict.fromkeys(order, -1)
    for rank, row in enumerate(iou):
        best, match = threshold, None
        for index in order:
            if ranks[index] >= 0:
                continue
            if match is not None and not ignored[match] and ignored[index]:
                break
            if row[index] >= best:
                best, match = row[index], index
        if match is not None:
            ranks[match] = rank
    return [rank for index, rank in sorted(ranks.items()) if not ignored[index]]


@st.composite
def overlaps(draw):
    proposals, objects = draw(st.integers(0, 12)), draw(st.integers(0, 6))
    level = st.sampled_from([0, 0.4, 0.5, 0.6, 0.75, 0.95, 1])
    areas = st.sampled_from([10, 1024, 5000, 9216, 20000])
    return (
        np.array(
            draw(st.lists(level, min_size=proposals * objects, max_size=proposals * objects)), float
        ).reshape(proposals, objects),
        np.array(draw(st.lists(areas, min_size=objects, max_size=objects)), float),
    )


@given(st.lists(overlaps(), min_size=1, max_size=3))
def test_recall_equals_the_loops_of_cocoeval(images):
    accumulator = AverageRecall()
    for iou, areas in images:
        accumulator.add(iou, areas)
    summary = accumulator.summarize()
    for column, limits in enumerate(LIMITS):
        for row, threshold in enumerate(IOU_THRESHOLDS):
            ranks = np.array(
                [r for iou, areas in images for r in slow_ranks(iou, areas, threshold, limits)]
            )
            assert summary.objects[column] == len(ranks)
            for count in (1, 2, 5, 12, 1000):
                expected = ((ranks >= 0) & (ranks < count)).mean() if len(ranks) else -1
                assert summary.recall[row, column, count - 1] == expected


def test_recall_of_two_objects_by_hand():
    accumulator = AverageRecall()
    # Both proposals overlap the small object most; the second has to take the large one.
    accumulator.add(np.array([[0.9, 0.0], [0.8, 0.6]]), np.array([100.0, 10000.0]))
    summary = accumulator.summarize()
    thresholds_up_to = {0.6: 3, 0.8: 7, 0.9: 9}  # .5:.05:.95 holds so many values up to each
    assert summary.average_recall(1) == pytest.approx(thresholds_up_to[0.9] / 10 / 2)
    assert summary.average_recall(2) == pytest.approx((9 + 3) / 10 / 2)
    assert summary.average_recall(100, "small") == pytest.approx(0.9)
    assert summary.average_recall(100, "large") == pytest.approx(0.3)
    assert summary.average_recall(100, "medium") == -1
    assert summary.objects.tolist() == [2, 1, 0, 1]


def test_auc_is_the_area_over_the_logarithm_of_the_count():
    accumulator = AverageRecall()
    iou = np.zeros((1000, 1))
    iou[9] = 1  # found by the tenth proposal, so from a third of the decades on
    accumulator.add(iou, np.array([5000.0]))
    auc = accumulator.summarize().auc()
    assert np.log(1000 / 10) / np.log(1000) < auc < np.log(1000 / 9) / np.log(1000)
    assert auc == pytest.approx((np.log(100) + np.log(10 / 9) / 2) / np.log(1000))


def test_image_without_proposals_is_missed():
    accumulator = AverageRecall()
    accumulator.add(np.ones((1, 1)), np.array([5000.0]))
    accumulator.add(np.zeros((0, 3)), np.full(3, 5000.0))
    assert accumulator.summarize().average_recall(1000) == 0.25


def test_proposals_beyond_the_thousandth_do_not_count():
    accumulator = AverageRecall()
    iou = np.zeros((1001, 2))
    iou[999, 0] = iou[1000, 1] = 1
    accumulator.add(iou, np.full(2, 5000.0))
    summary = accumulator.summarize()
    assert summary.average_recall(999) == 0
    assert summary.average_recall(1000) == 0.5


def test_figures_without_objects_are_minus_one():
    figures = AverageRecall().summarize().figures()
    assert figures == dict.fromkeys(
        ["AR@1", "AR@10", "AR@100", "AR@1000", "AR_S", "AR_M", "AR_L", "AUC"], pytest.approx(-1)
    )
    assert AREA_RANGES == ("all", "small", "medium", "large")


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_counts_that_were_not_measured_are_refused(count):
    summary = AverageRecall().summarize()
    with pytest.raises(ValueError, match=f"count: expected 1 to 1000 proposals, got {count}"):
        summary.average_recall(count)
