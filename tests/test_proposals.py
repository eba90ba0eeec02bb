import dataclasses
import io
import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import sharpmask.proposals
from sharpmask.polygons import polygons
from sharpmask.proposals import DRAWN_SHARE, Proposals
from sharpmask.selection import Selection

IMAGE_SIZE = (48, 70)


def make(count=12, seed=0, windows=None):
    """Blobs at random places, some of them partly outside the photo."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    masks = np.zeros((count, 16, 16), np.uint8)
    for mask in masks:
        middle, radius = rng.uniform(5, 11, 2), rng.uniform(3, 7)
        distance = np.hypot(rows - middle[0], columns - middle[1])
        mask[:] = np.clip(255 * (radius + 0.5 - distance), 0, 255)
    if windows is None:
        start = rng.uniform(-6, 40, (count, 2))
        windows = np.concatenate([start, start + rng.uniform(10, 40, (count, 1))], axis=1)
    return Proposals(
        image=rng.integers(0, 256, (*IMAGE_SIZE, 3), dtype=np.uint8),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1],
        windows=windows,
        patch_masks=masks,
        mask_threshold=0.2,
    )


def at_pixels(full_masks):
    """Proposals whose patches are the photo itself, so that masks are what is given."""
    count, side, _ = full_masks.shape
    return Proposals(
        image=np.zeros((side, side, 3), np.uint8),
        scores=np.linspace(1, 0, count, dtype=np.float32),
        windows=np.tile([0.0, 0, side, side], (count, 1)),
        patch_masks=255 * full_masks.astype(np.uint8),
        mask_threshold=0.5,
    )


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 0.0


# --- the forms of a mask ---


def test_masks_are_full_size_and_one_by_one():
    proposals = make()
    masks = proposals.masks()
    assert next(masks).shape == IMAGE_SIZE
    assert next(masks).dtype == bool
    assert len(list(masks)) == len(proposals) - 2 == 10
    assert proposals.image_size == IMAGE_SIZE


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_every_form_is_the_same_mask():
    proposals = make()
    masks = list(proposals.masks())
    for mask, rle, box, area in zip(
        masks, proposals.rles(), proposals.boxes, proposals.areas, strict=True
    ):
        as_bytes = {**rle, "counts": rle["counts"].encode()}
        np.testing.assert_array_equal(coco.decode(as_bytes), mask)
        rows, columns = np.nonzero(mask)
        assert len(rows) > 0
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert area == mask.sum()


def test_a_mask_outside_the_photo_is_empty():
    proposals = make(2, windows=np.array([[-50.0, 0, -10, 40], [10, 10, 30, 30]]))
    assert proposals.areas[0] == 0 < proposals.areas[1]
    assert proposals.boxes[0].tolist() == [0, 0, 0, 0]
    assert not next(proposals.masks()).any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_coco_records_are_json_and_equal_the_masks():
    proposals = make()
    records = json.loads(json.dumps(proposals.to_coco(image_id=np.int64(42))))
    assert len(records) == len(proposals)
    for record, mask, score in zip(records, proposals.masks(), proposals.scores, strict=True):
        assert set(record) == {"image_id", "category_id", "segmentation", "bbox", "score"}
        assert record["image_id"] == 42
        assert record["category_id"] == 1
        assert record["score"] == float(score)
        segmentation = record["segmentation"]
        assert segmentation["size"] == list(IMAGE_SIZE)
        np.testing.assert_array_equal(coco.decode(segmentation), mask)
        expected = coco.toBbox({**segmentation, "counts": segmentation["counts"].encode()})
        assert record["bbox"] == expected.tolist()


def test_none_at_all():
    proposals = make()[:0]
    assert len(proposals) == 0
    assert list(proposals.masks()) == proposals.rles() == proposals.to_coco(1) == []
    assert proposals.boxes.shape == (0, 4)
    assert proposals.areas.shape == (0,)
    assert len(proposals.suppressed(0.5)) == 0
    assert proposals.plot().shape == (*IMAGE_SIZE, 3)


# --- choosing ---


@pytest.mark.parametrize("encoded_before", [True, False])
@pytest.mark.parametrize(
    "index",
    [
        slice(2, 9, 3),
        slice(None, None, -1),
        np.array([7, 0, 7]),
        np.arange(12) % 3 == 0,
        np.zeros(12, bool),
    ],
    ids=repr,
)
def test_choosing_keeps_everything_in_step(index, encoded_before):
    proposals = make()
    numbers = np.arange(len(proposals))[index]
    masks = list(proposals.masks())
    rles = proposals.rles() if encoded_before else make().rles()
    chosen = proposals[index]
    assert len(chosen) == len(numbers)
    assert chosen.scores.tolist() == proposals.scores[numbers].tolist()
    assert chosen.rles() == [rles[number] for number in numbers]
    for mask, number in zip(chosen.masks(), numbers, strict=True):
        np.testing.assert_array_equal(mask, masks[number])
    assert chosen.boxes.tolist() == proposals.boxes[numbers].tolist()
    assert chosen.image is proposals.image


def test_lists_handed_out_are_the_callers_own():
    proposals = make()
    proposals.rles().clear()
    assert len(proposals.rles()) == 12


@pytest.mark.parametrize("index", [0, 3, 11, -1, -12, np.int64(5)])
def test_an_integer_gives_one_proposal(index):
    proposals = make()
    one = proposals[index]
    assert one.score == proposals.scores[index]
    assert one.box.tolist() == proposals.boxes[index].tolist()
    assert one.area == proposals.areas[index]
    assert one.rle == proposals.rles()[index]
    np.testing.assert_array_equal(one.mask, list(proposals.masks())[index])
    rings = proposals.polygons()[index]
    assert one.polygon.tolist() == (rings[0].tolist() if rings else [])


@pytest.mark.parametrize("index", [12, -13])
def test_an_index_beyond_the_proposals_is_an_index_error(index):
    with pytest.raises(IndexError):
        make()[index]


def test_iteration_gives_one_proposal_after_the_other():
    proposals = make()
    assert [one.score for one in proposals] == proposals.scores.tolist()
    assert [one.rle for one in proposals] == proposals.rles()
    assert [one.score for one in proposals[proposals.scores > 0.5]] == [
        score for score in proposals.scores.tolist() if score > 0.5
    ]
    assert list(proposals[:0]) == []


@pytest.mark.parametrize("index", [True, np.True_, np.array(1), [[0, 1]]], ids=repr)
def test_an_index_of_no_or_two_dimensions_is_an_index_error(index):
    with pytest.raises(IndexError, match="expected an integer, a slice, a list of indices or a"):
        make()[index]


@pytest.mark.parametrize("index", [[], [2, 0], [True] * 3 + [False] * 9], ids=str)
def test_lists_choose_as_arrays_do(index):
    chosen = make()[index]
    assert (
        chosen.scores.tolist()
        == make().scores[np.array(index, int if not index else None)].tolist()
    )


def test_proposals_never_change():
    given = np.zeros((1, 4))
    proposals = at_pixels(np.ones((1, 8, 8), bool))
    for name in ("image", "scores", "windows", "patch_masks"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(proposals, name)[:] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(proposals, name, given)
    image = np.zeros((8, 8, 3), np.uint8)
    dataclasses.replace(proposals, image=image)
    image[:] = 1  # the caller's own stays as it was
    proposals.rles()[0]["counts"] = "other"
    proposals.rles().clear()
    assert proposals.rles() == at_pixels(np.ones((1, 8, 8), bool)).rles()


def test_a_text_says_how_many_and_how_good():
    assert repr(at_pixels(np.ones((2, 8, 8), bool))) == (
        "<Proposals: 2 masks of a photo 8 x 8, scores 1.00 to 0.00>"
    )
    assert repr(make()[:0]) == "<Proposals: 0 masks of a photo 48 x 70>"
    assert repr(at_pixels(np.ones((1, 8, 8), bool))[0]) == "<Proposal: score 1.00, box 0, 0, 8, 8>"


def test_a_notebook_shows_the_plot():
    proposals = make()
    shown = np.asarray(Image.open(io.BytesIO(proposals._repr_png_())))
    np.testing.assert_array_equal(shown, proposals.plot())


# --- polygons and cleaned masks ---


def test_polygons_are_those_of_the_masks():
    proposals = make()
    for tolerance in (0.0, 1.0):
        for rings, rle in zip(proposals.polygons(tolerance), proposals.rles(), strict=True):
            for ring, other in zip(rings, polygons(rle, tolerance), strict=True):
                assert ring.tolist() == other.tolist()
    assert [[len(r) for r in rings] for rings in proposals[:0].polygons()] == []


def test_a_cutout_is_the_photo_inside_the_mask():
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 5:25, 5:20], masks[1, 8:12, 9:14] = True, True
    proposals = at_pixels(masks)
    cutout = proposals.cutout(1)
    assert cutout.shape == (4, 5, 4)
    np.testing.assert_array_equal(cutout[..., :3], proposals.image[8:12, 9:14])
    assert (cutout[..., 3] == 255).all()
    assert proposals.parents().tolist() == [-1, 0]


def test_cleaned_masks_are_one_piece_without_holes():
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 5:25, 5:25], masks[0, 10:12, 10:12], masks[0, 30:33, 30:33] = True, False, True
    proposals = at_pixels(masks)
    cleaned = proposals.cleaned()
    expected = np.zeros((40, 40), bool)
    expected[5:25, 5:25] = True
    np.testing.assert_array_equal(next(cleaned.masks()), expected)
    np.testing.assert_array_equal(cleaned[0].mask, expected)
    assert cleaned.boxes.tolist() == [[5, 5, 25, 25], [0, 0, 0, 0]]
    assert cleaned.areas.tolist() == [400, 0]
    assert cleaned.scores.tolist() == proposals.scores.tolist()
    assert proposals.areas.tolist() == [405, 0]
    assert cleaned[::-1].areas.tolist() == [0, 400]
    assert len(cleaned.to_coco(1)) == 2
    known = proposals[:1]  # its full-size mask, that is
    assert known.cleaned().rles() == cleaned[:1].rles()
    moved = dataclasses.replace(cleaned, windows=proposals.windows + 2, encoded=None)
    assert moved.boxes[0].tolist() == [7, 7, 27, 27]
    assert moved.areas.tolist() == [400, 0]


def test_supervision_takes_boxes_masks_and_scores():
    supervision = pytest.importorskip("supervision")
    proposals = make()[:10]
    found = proposals.to_supervision()
    assert isinstance(found, supervision.Detections)
    np.testing.assert_array_equal(found.mask, list(proposals.masks()))
    np.testing.assert_array_equal(found.xyxy, proposals.boxes)
    np.testing.assert_array_equal(found.confidence, proposals.scores)


def test_without_supervision_what_to_install_is_said():
    if find_spec("supervision"):
        pytest.skip("it is installed")
    with pytest.raises(ImportError, match="pip install supervision"):
        make().to_supervision()


# --- suppression ---


def slow_suppression(masks, threshold):
    kept = []
    for number, mask in enumerate(masks):
        if mask.any() and all(iou(mask, masks[better]) <= threshold for better in kept):
            kept.append(number)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.6])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk", [7, 64])
def test_suppression_is_greedy(seed, threshold, chunk, monkeypatch):
    monkeypatch.setattr(sharpmask.proposals, "CHUNK", chunk)
    proposals = make(60, seed)
    kept = slow_suppression(list(proposals.masks()), threshold)
    assert 1 < len(kept) < 60
    assert proposals.suppressed(threshold).scores.tolist() == proposals.scores[kept].tolist()
    repeats = [k for k in range(60) if k not in kept and proposals.areas[k]]
    for count in (1, len(kept) - 1, len(kept) + 2, 60):
        first, distinct = proposals.distinct_first(threshold, count)
        expected = (kept + repeats)[:count]
        assert first.scores.tolist() == proposals.scores[expected].tolist()
        assert first.rles() == [proposals.rles()[k] for k in expected]
        assert distinct == min(count, len(kept))


def test_what_is_suppressed_suppresses_nothing():
    masks = np.zeros((3, 8, 8), bool)
    masks[0, 0:4], masks[1, 1:5], masks[2, 2:6] = True, True, True
    # Each overlaps its neighbour by 3 / 5, the first and the last by 2 / 6.
    proposals = at_pixels(masks)
    assert proposals.suppressed(0.5).scores.tolist() == [1, 0]


def test_the_suppression_threshold_is_exclusive():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4], masks[1, :2] = True, True  # IoU 1 / 2
    assert len(at_pixels(masks).suppressed(0.5)) == 2
    assert len(at_pixels(masks).suppressed(0.49)) == 1


# --- pictures ---


def test_a_plot_is_a_picture_of_the_photos_size():
    proposals = make()
    before = proposals.image.copy()
    picture = proposals.plot(3)
    assert picture.shape == (*IMAGE_SIZE, 3)
    assert picture.dtype == np.uint8
    assert (picture != before).any()
    np.testing.assert_array_equal(proposals.image, before)


def test_an_enormous_photo_is_drawn_smaller(monkeypatch):
    masks = np.zeros((2, 80, 80), bool)
    masks[0, 6:30, 6:30], masks[1, 40:50, 50:72] = True, True
    whole = at_pixels(masks)
    monkeypatch.setattr(sharpmask.proposals, "MAX_DRAWN", 40)
    found = whole.plot(2)
    assert found.shape == (40, 40, 3)
    smaller = at_pixels(masks[:, ::2, ::2])
    different = (found != smaller.plot(2)).any(axis=2)
    assert different.mean() < 0.05  # at most along the outlines
    assert (found != smaller.image).any(axis=2).sum() > 12 * 12


def test_an_enormous_photo_is_drawn_with_the_masks_that_were_chosen(monkeypatch):
    masks = np.zeros((2, 80, 80), bool)
    masks[0, 6:60, 6:30], masks[1, 6:60, 20:60] = True, True
    scores = np.array([0.9, 0.8], np.float32)
    chosen = Selection(no_overlap=True)(replace(at_pixels(masks), scores=scores))
    monkeypatch.setattr(sharpmask.proposals, "MAX_DRAWN", 40)
    apart = np.stack([masks[0], masks[1] & ~masks[0]])
    smaller = replace(at_pixels(apart[:, ::2, ::2]), scores=scores)
    np.testing.assert_array_equal(chosen.plot(2), smaller.plot(2))


def test_a_plot_leaves_repeats_out():
    masks = np.zeros((3, 40, 40), bool)
    masks[:2, 5:20, 5:20] = True
    masks[2, 25:35, 25:35] = True
    proposals = replace(at_pixels(masks), scores=np.array([0.9, 0.8, 0.7], np.float32))
    # The second repeats the first: two pictures are the first and the third.
    np.testing.assert_array_equal(proposals.plot(2), proposals[np.array([0, 2])].plot(2))
    assert (proposals.plot(2) != proposals.plot(1)).any()


def test_a_plot_leaves_out_what_scores_far_less_than_the_best():
    masks = np.zeros((3, 40, 40), bool)
    masks[0, :10, :10], masks[1, :10, 20:30], masks[2, 20:30, :10] = True, True, True
    scores = 0.8 * np.array([1, DRAWN_SHARE + 0.01, DRAWN_SHARE - 0.01], np.float32)
    proposals = replace(at_pixels(masks), scores=scores)
    np.testing.assert_array_equal(proposals.plot(3), proposals[:2].plot(3))
    assert (proposals.plot(3) != proposals.plot(1)).any()
