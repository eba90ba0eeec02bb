import json

import numpy as np
import pytest
from test_regions import SIZE, rectangle

from sharpmask.detection.detections import Category, Detections
from sharpmask.detection.detector import MAX_DETECTIONS, Detector
from sharpmask.detection.heads import RegionHead
from sharpmask.detection.regions import Regions
from sharpmask.masks import encode
from sharpmask.proposals import MAX_DRAWN

PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
CATEGORIES = (Category(3, "cat"), Category(90, "dog"))


def detector(**options):
    """Its head has no say: what it would find is given."""
    arrays = {"scores": np.zeros((2, 1)), "boxes": np.zeros((8, 1))}
    arrays |= {"scores_bias": np.zeros(2), "boxes_bias": np.zeros(8)}
    return Detector(RegionHead("rcnn", CATEGORIES, arrays), None, **options)


def best(scores, where, **options):
    """Detections among regions with these scores; boxes move one pixel to the right for dogs."""
    moved = np.stack([where.boxes, where.boxes + np.array([1, 0, 1, 0])], axis=1)
    return detector(**options).best(PHOTO, where, np.array(scores, float), moved)


def regions(*boxes, masks=True, scores=None):
    rles = tuple(rectangle(*box) for box in boxes) if masks else None
    found = np.ones(len(boxes)) if scores is None else np.array(scores)
    return Regions(np.array(boxes, float).reshape(-1, 4), rles, found)


WHERE = regions((0, 0, 10, 10), (1, 0, 11, 10), (20, 20, 40, 35))


def test_each_category_drops_its_own_repeats():
    found = best([[0.9, 0.2], [0.8, 0.7], [0.001, 0.6]], WHERE)
    assert found.names == ["cat", "dog", "dog"]
    assert found.scores.tolist() == [0.9, 0.7, 0.6]
    # The dog's mask is that of the region it came from, the box is the refined one.
    assert found.encoded == (WHERE.rles[0], WHERE.rles[1], WHERE.rles[2])
    assert found.boxes.tolist() == [[0, 0, 10, 10], [2, 0, 12, 10], [21, 20, 41, 35]]
    assert json.loads(json.dumps(found.to_coco(np.int64(7)))) == found.to_coco(7)
    assert found.to_coco(7)[1] == {
        "image_id": 7,
        "category_id": 90,
        "bbox": [2, 0, 10, 10],
        "score": 0.7,
        "segmentation": WHERE.rles[1],
    }


def test_detections_print_as_one_short_line():
    found = best([[0.9, 0.2], [0.8, 0.7], [0.001, 0.6]], WHERE)
    height, width = PHOTO.shape[:2]
    size = f"{height} x {width}"
    assert repr(found) == f"<Detections: 3 objects of a photo {size}, best: cat 0.90>"
    assert repr(found[:0]) == f"<Detections: 0 objects of a photo {size}>"


@pytest.mark.parametrize("masks", [True, False])
def test_detections_are_chosen_one_by_one_too(masks):
    where = regions((0, 0, 10, 10), (20, 20, 40, 35), masks=masks)
    found = best([[0.9, 0], [0, 0.6]], where)
    assert [one.names for one in found] == [["cat"], ["dog"]]
    assert found[-1].to_coco(1) == found[np.int64(1)].to_coco(1) == found.to_coco(1)[1:]
    with pytest.raises(IndexError):
        found[2]


def test_a_doubtful_proposal_makes_a_doubtful_detection():
    where = regions((0, 0, 10, 10), (20, 20, 40, 35), scores=[0.25, 1])
    found = best([[0.9, 0], [0, 0.6]], where)
    assert found.names == ["dog", "cat"]
    np.testing.assert_allclose(found.scores, [0.6, 0.45])


def test_repeats_stay_where_nothing_is_suppressed():
    scores = [[0.9, 0.2], [0.8, 0.7], [0.001, 0.6]]
    found = best(scores, WHERE, suppression=1, min_score=0)
    assert len(found) == 6
    assert (np.diff(found.scores) <= 0).all()


def test_a_photo_keeps_at_most_the_detections_that_coco_counts():
    boxes = [(x, y, x + 1, y + 1) for x in range(20) for y in range(10)]
    rng = np.random.default_rng(0)
    scores = rng.random((200, 2))
    found = best(scores, regions(*boxes))
    assert len(found) == MAX_DETECTIONS
    np.testing.assert_array_equal(found.scores, np.sort(scores.ravel())[::-1][:MAX_DETECTIONS])


def test_a_photo_without_detections_gives_no_records():
    found = best(np.zeros((0, 2)), regions())
    assert len(found) == 0
    assert found.to_coco(1) == []
    np.testing.assert_array_equal(found.plot(), PHOTO)


def test_boxes_alone_are_drawn_too():
    where = regions((0, 0, 10, 10), (20, 20, 40, 35), masks=False)
    found = best([[0.9, 0], [0, 0.6]], where)
    assert found.encoded is None
    assert "segmentation" not in found.to_coco(1)[0]
    drawn = found.plot(min_score=0.7) != PHOTO
    assert drawn[5, 5].any()
    assert not drawn[20:35, 41].any()
    assert found.plot(min_score=0.5)[21, 22].tolist() != PHOTO[21, 22].tolist()


def test_a_large_photo_is_drawn_smaller():
    masks, boxes = (
        Detections(
            np.zeros((3, 2 * MAX_DRAWN + 1, 3), np.uint8), CATEGORIES, np.zeros(1, int),
            np.ones(1), np.array([[3000, 0, 6000, 3]], float), rles,
        )
        for rles in ((encode(np.ones((3, 3000), bool), (3, 2 * MAX_DRAWN + 1), 0, 3000),), None)
    )  # fmt: skip
    drawn = masks.plot()
    assert drawn.shape == (1, -(-(2 * MAX_DRAWN + 1) // 3), 3)
    np.testing.assert_array_equal(np.flatnonzero(drawn.any((0, 2))), np.arange(1000, 2000))
    np.testing.assert_array_equal(boxes.plot(), drawn)


def test_strange_settings_are_refused():
    with pytest.raises(ValueError, match="suppression: expected a number between 0 and 1, got 0"):
        detector(suppression=0)
    with pytest.raises(ValueError, match="min_score: expected a number between 0 and 1, got 2"):
        detector(min_score=2)
