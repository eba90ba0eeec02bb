import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from found_masks import iou, mask_lists, mask_of, rle_of, segments_of, shapes
from sharpmask.proposals import Proposals
from sharpmask.selection import (
    Segments,
    Selection,
    distinct,
    parents,
    pixels,
    without_overlap,
)


def square(top, left, side, size=20):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def areas_kept(masks, **choices):
    return Selection(**choices)(segments_of(masks)).areas.tolist()


def proposals_of(masks):
    """Proposals whose patches are the photo itself."""
    side = len(masks[0])
    return Proposals(
        image=np.zeros((side, side, 3), np.uint8),
        scores=np.linspace(0.9, 0.1, len(masks), dtype=np.float32),
        windows=np.tile([0.0, 0, side, side], (len(masks), 1)),
        patch_masks=255 * np.array(masks, np.uint8),
        mask_threshold=0.5,
    )


# --- segments ---


def test_segments_are_what_proposals_are():
    masks = [square(2, 3, 9), square(0, 0, 4), square(5, 5, 15)]
    proposals = proposals_of(masks)
    segments = Segments.of(proposals)
    assert len(segments) == 3
    assert segments.image_size == proposals.image_size
    assert segments.to_coco(7) == proposals.to_coco(7)
    np.testing.assert_array_equal(segments.boxes, proposals.boxes)
    np.testing.assert_array_equal(segments.areas, proposals.areas)
    np.testing.assert_array_equal(list(segments.masks()), masks)


@pytest.mark.parametrize("index", [slice(1, None), np.array([2, 0]), np.array([True, False, True])])
def test_segments_are_chosen_as_arrays_are(index):
    masks = np.array([square(2, 3, 9), square(0, 0, 4), square(5, 5, 15)])
    segments = segments_of(masks)
    np.testing.assert_array_equal(list(segments[index].masks()), masks[index])
    np.testing.assert_array_equal(segments[index].scores, segments.scores[index])


def test_empty_masks_of_proposals_are_left_out():
    segments = Segments.of(proposals_of([square(2, 3, 9), square(0, 0, 0)]))
    assert segments.areas.tolist() == [81]


def test_segments_come_back_from_coco_records():
    segments = segments_of(shapes())
    back = Segments.from_coco(segments.to_coco(1), segments.image_size)
    assert back.to_coco(1) == segments.to_coco(1)


# --- one choice at a time ---


def test_nothing_chosen_keeps_all():
    segments = segments_of(shapes())
    assert Selection()(segments).to_coco(1) == segments.to_coco(1)


def test_least_score_keeps_what_reaches_it():
    segments = segments_of([square(0, 0, side) for side in (5, 4, 3)])  # scores .9, .5, .1
    assert Selection(min_score=0.5)(segments).areas.tolist() == [25, 16]


@pytest.mark.parametrize(
    ("choices", "kept"),
    [
        ({"min_area": 16}, [100, 16]),
        ({"min_area": "4%"}, [100, 16]),
        ({"min_area": "4.1%"}, [100]),
        ({"max_area": 99}, [16, 9]),
        ({"max_area": "25%"}, [100, 16, 9]),
        ({"max_area": "24.9 %", "min_area": "10"}, [16]),
    ],
)
def test_areas_are_pixels_or_shares_of_the_photo(choices, kept):
    masks = [square(0, 0, 10), square(3, 3, 4), square(9, 9, 3)]
    assert areas_kept(masks, **choices) == kept


@pytest.mark.parametrize("limit", ["a", "-1", "101%", "nan", -1, "inf", "", "%"])
def test_area_that_is_neither_is_refused(limit):
    with pytest.raises(ValueError, match=r"max_area: expected pixels, or a share"):
        Selection(max_area=limit)
    with pytest.raises(ValueError, match=r"min_area: expected pixels, or a share"):
        pixels(limit, (4, 4), "min_area")


@pytest.mark.parametrize(
    "choices", [{"top": 0}, {"min_score": 1.1}, {"distinct": -0.1}, {"min_score": float("nan")}]
)
def test_choice_out_of_range_is_refused(choices):
    with pytest.raises(ValueError, match=f"{next(iter(choices))}: expected"):
        Selection(**choices)


def test_top_keeps_the_best():
    masks = [square(0, 0, side) for side in (2, 5, 3)]
    assert areas_kept(masks, top=2) == [4, 25]
    assert areas_kept(masks, top=9) == [4, 25, 9]


def test_parts_are_dropped_with_all_that_they_hold():
    masks = [square(0, 0, 4), square(0, 0, 10), square(1, 1, 2), square(12, 12, 5)]
    assert areas_kept(masks, parts=False) == [100, 25]


def test_a_mask_too_large_is_gone_before_parts_and_overlap_are_asked():
    masks = [square(0, 0, 20), square(0, 0, 4), square(12, 12, 5)]
    assert areas_kept(masks, parts=False, max_area="50%") == [16, 25]
    assert areas_kept(masks, no_overlap=True, max_area="50%") == [16, 25]


def test_what_overlap_leaves_must_reach_the_least_area():
    masks = [square(0, 0, 10), square(1, 1, 10), square(10, 10, 10)]
    assert areas_kept(masks, no_overlap=True) == [100, 19, 99]
    assert areas_kept(masks, no_overlap=True, min_area=20) == [100, 99]


def test_selection_of_a_photo_without_masks_is_empty():
    every = Selection(distinct=0.5, parts=False, no_overlap=True, top=3)
    assert len(every(segments_of([], (4, 5)))) == 0


def test_selection_reads_proposals():
    found = Selection(no_overlap=True)(proposals_of([square(0, 0, 10), square(5, 5, 10)]))
    assert found.areas.tolist() == [100, 75]


# --- repeats ---


@given(mask_lists(), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_distinct_masks_repeat_none_and_each_dropped_one_repeats_a_better(masks, threshold):
    kept = distinct([rle_of(mask) for mask in masks], threshold).tolist()
    for index, mask in enumerate(masks):
        repeats = [k for k in kept if k < index and iou(mask, masks[k]) > threshold]
        assert (index in kept) == (not repeats)


# --- who contains whom ---


@given(mask_lists(), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_parent_is_the_smallest_larger_mask_that_holds_the_share(masks, share):
    found = parents([rle_of(mask) for mask in masks], share)
    size = [(mask.sum(), -index) for index, mask in enumerate(masks)]
    for index, mask in enumerate(masks):
        holders = [
            other
            for other, larger in enumerate(masks)
            if size[other] > size[index] and (mask & larger).sum() / mask.sum() > share
        ]
        assert found[index] == min(holders, key=lambda other: (size[other][0], -other), default=-1)


@given(mask_lists())
def test_no_mask_is_its_own_ancestor(masks):
    found = parents([rle_of(mask) for mask in [*masks, *masks]])
    for index in range(len(found)):
        seen = []
        while index >= 0:
            assert index not in seen
            seen.append(index)
            index = found[index]


def test_of_equal_masks_the_better_holds_the_other():
    assert parents([rle_of(square(2, 2, 5))] * 3).tolist() == [-1, 0, 1]


# --- without overlap ---


@given(mask_lists())
def test_without_overlap_each_pixel_has_the_first_mask_that_held_it(masks):
    left_over = [mask_of(rle) for rle in without_overlap([rle_of(mask) for mask in masks])]
    assert (np.sum(left_over, axis=0) <= 1).all()
    stack = np.array(masks)
    owner = np.where(stack.any(0), stack.argmax(0), -1)
    for index, mask in enumerate(left_over):
        np.testing.assert_array_equal(mask, owner == index)


def test_without_overlap_of_nothing_is_nothing():
    assert without_overlap([]) == []
