import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sharpmask.coco.annotations import CocoDataset, CocoImage, Instance, load_coco
from sharpmask.detection.matching import covered, frequent_categories, match
from sharpmask.detection.proposing import Proposing
from sharpmask.detection.region_sources import CachedRegions, FileRegions, regions_of_all
from sharpmask.detection.regions import Regions
from sharpmask.geometry import PatchGeometry
from sharpmask.inference.proposer import Proposer
from sharpmask.masks import encode
from sharpmask.selection import Segments
from sharpmask.writers.parquet import ParquetWriter
from sharpmask.writers.writer import Destination, Segmented
from test_boxes import slow_iou

SIZE = (40, 60)


def rectangle(left, top, right, bottom, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return encode(mask, size)


def photo(boxes, categories, crowds=(), **changes):
    instances = tuple(
        Instance(k, category, tuple(map(float, box)), rectangle(*box))
        for k, (box, category) in enumerate(zip(boxes, categories, strict=True))
    )
    options = {"id": 1, "path": Path("photo.png"), "size": SIZE, "complete": True} | changes
    return CocoImage(instances=instances, crowds=tuple(crowds), **options)


# --- reading ---


def test_the_best_come_first_with_their_masks():
    records = [
        {"score": 0.2, "segmentation": rectangle(1, 2, 9, 10), "bbox": [0, 0, 60, 40]},
        {"score": 0.9, "segmentation": rectangle(3, 3, 7, 30)},
        {"score": 0.5, "segmentation": rectangle(0, 0, 0, 0)},
    ]
    found = Regions.from_records(records, SIZE, 10)
    assert found.boxes.tolist() == [[3, 3, 7, 30], [1, 2, 9, 10]]  # tight, and none empty
    assert found.rles == (records[1]["segmentation"], records[0]["segmentation"])
    assert found.scores.tolist() == [0.9, 0.2]
    assert len(Regions.from_records(records, SIZE, 1)) == 1
    assert len(Regions.from_records([], SIZE, 1)) == 0


def test_boxes_alone_are_clipped_by_a_pixel():
    records = [{"score": 0.2, "bbox": [-0.5, 0, 60.6, 10]}, {"score": 0.1, "bbox": [5, 5, 0, 9]}]
    found = Regions.from_records(records, SIZE, 10)
    assert found.boxes.tolist() == [[0, 0, 60, 10]]
    assert found.rles is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"proposal 1 .*expected a segmentation or a bbox"),
        ({"score": None}, "expected a score, got"),
        ({"score": "high"}, "expected a score, got"),
        ({"bbox": [1, 2, 3]}, "expected a segmentation or a bbox"),
        ({"bbox": [50, 2, 30, 4]}, r"bbox \[50, 2, 30, 4\] lies outside the image"),
        ({"bbox": [1, 2, float("nan"), 4]}, "expected a segmentation or a bbox"),
        ({"segmentation": rectangle(0, 0, 5, 5, (50, 60))}, r"does not fit the image"),
    ],
    ids=str,
)
def test_a_strange_proposal_is_named(record, message):
    with pytest.raises(ValueError, match=message):
        Regions.from_records(
            [{"score": 1, "bbox": [0, 0, 5, 5]}, {"score": 0.5, **record}], SIZE, 10
        )


def test_masks_for_some_only_are_refused():
    records = [
        {"score": 1, "segmentation": rectangle(1, 2, 9, 10)},
        {"score": 0.5, "bbox": [0, 0, 5, 5]},
    ]
    with pytest.raises(ValueError, match="some proposals have a mask and some have none"):
        Regions.from_records(records, SIZE, 10)


def test_a_file_of_proposals(tmp_path):
    records = [
        {"image_id": 1, "category_id": 1, "score": s, "bbox": [0, 0, 5, s]} for s in (5, 9, 7)
    ]
    path = tmp_path / "found.json"
    path.write_text(json.dumps([*records, {**records[0], "image_id": 3, "bbox": [90, 0, 1, 1]}]))
    images = [photo([], [], id=k) for k in (1, 2, 3)]
    said = []
    source = FileRegions(path, 2, images, said.append)
    assert said == [f"{path}: holds no proposals for 1 of 3 photos, e.g. for image 2"]
    assert source(images[0]).boxes.tolist() == [[0, 0, 5, 9], [0, 0, 5, 7]]
    assert source(images[0]).scores.tolist() == [1, 1]  # 9 and 7 are no probabilities
    assert len(source(images[1])) == 0
    with pytest.raises(ValueError, match=r"found\.json: image 3: proposal 0 .*outside"):
        source(images[2])
    with pytest.raises(ValueError, match=r"for none of the 1 photos, e\.g\. not for image 2"):
        FileRegions(path, 2, images[1:2], print)
    with pytest.raises(ValueError, match="some photos have the same image id"):
        FileRegions(path, 2, [*images, images[0]], print)


def test_proposals_in_parquet(tmp_path):
    """A file of ``propose --format parquet``, or the folder of a large run."""
    photos = [
        Segmented(k, Path(f"{k}.jpg"), Segments(SIZE, np.ones(1, np.float32), [rectangle(*box)]))
        for k, box in ((1, (0, 0, 5, 9)), (2, (3, 4, 20, 30)))
    ]
    ParquetWriter(Destination(tmp_path, [photo.path for photo in photos])).finish(photos)
    images = [photo([], [], id=k) for k in (1, 2)]
    for path in (tmp_path / "proposals.parquet", tmp_path):
        source = FileRegions(path, 5, images, print)
        assert [source(image).boxes.tolist() for image in images] == [
            [[0, 0, 5, 9]], [[3, 4, 20, 30]]
        ]  # fmt: skip
        assert source(images[0]).rles == (rectangle(0, 0, 5, 9),)
    origins = [
        Proposing(file=path, weights=str(tmp_path / "proposals.parquet")).origin()["proposals"]
        for path in (tmp_path / "proposals.parquet", tmp_path)
    ]
    assert origins[0] == origins[1]


class CountingEngine:
    """Has no thoughts but counts."""

    name = "counting"

    def __init__(self):
        self.geometry = PatchGeometry()
        self.images = 0

    def encode(self, image):
        self.images += 1
        side = self.geometry.num_cells
        return (np.zeros((side(image.shape[0]), side(image.shape[1]))),), None

    def decode(self, features, cells):
        return np.full((len(cells), 160, 160), 3.0)


def test_proposals_are_computed_once_for_each_setting(tmp_path, coco_folder):
    images = load_coco(coco_folder.val, coco_folder.images).images
    engine, weights = CountingEngine(), tmp_path / "weights"
    weights.write_bytes(b"numbers")

    def source(threshold=0.35, at_once=1):
        settings = {"num_proposals": 3, "num_candidates": 3, "scales": [0]}
        proposer = Proposer(engine, mask_threshold=threshold, **settings)
        proposer.at_once = at_once
        return CachedRegions(tmp_path / "cache", weights, proposer)

    first = [source()(image) for image in images]
    assert engine.images == len(images)
    again = [source(at_once=2)(image) for image in images]  # on a machine of more cores
    assert engine.images == len(images)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        assert one.rles == other.rles
    source(threshold=0.5)(images[0])
    assert engine.images == len(images) + 1
    weights.write_bytes(b"other numbers")
    source()(images[0])
    assert engine.images == len(images) + 2
    for file in tmp_path.rglob("*.json"):
        file.write_text(file.read_text()[:30])  # damaged
    source()(images[0])
    assert engine.images == len(images) + 3
    assert not list(tmp_path.rglob("*.part"))


def test_a_photo_that_cannot_be_read_is_left_out(tmp_path, coco_folder):
    images = list(load_coco(coco_folder.val, coco_folder.images).images)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    images.insert(1, photo([], [], path=bad))
    proposer = Proposer(CountingEngine(), num_proposals=3, num_candidates=3, scales=[0])
    source = CachedRegions(tmp_path / "cache", bad, proposer)
    problems = []
    found = list(regions_of_all(images, source, streams=2, report=problems.append))
    assert [image for image, _ in found] == images[:1] + images[2:]
    assert len(problems) == 1
    assert str(bad) in problems[0]


# --- matching ---


def test_matching_equals_the_loops():
    rng = np.random.default_rng(0)

    def some(count):
        corners = np.sort(rng.integers(0, (SIZE[1], SIZE[0]), (count, 2, 2)), axis=1)
        return np.hstack([corners[:, 0], corners[:, 1] + 1]).clip(0, [60, 40, 60, 40])

    objects, found = some(7), some(40).astype(float)
    categories = [0, 2, 1, 2, 0, 1, 2]
    known = {2: 0, 0: 1}  # category 1 is not the detector's
    result = match(found, photo(objects.tolist(), categories), known)
    for row, box in enumerate(found):
        best = {0: 0.0, 1: 0.0}
        target, most = box, 0.0
        for other, category in zip(objects, categories, strict=True):
            if category in known:
                overlap = slow_iou(box, other)
                best[known[category]] = max(best[known[category]], overlap)
                if overlap > most:
                    target, most = other, overlap
        np.testing.assert_allclose(result.overlaps[row], [best[0], best[1]], atol=1e-12)
        np.testing.assert_array_equal(result.targets[row], target)
    assert not result.unsure.any()


def test_a_photo_without_objects():
    found = np.array([[1.0, 1, 5, 5]])
    result = match(found, photo([], []), {0: 0})
    assert result.overlaps.tolist() == [[0]]
    np.testing.assert_array_equal(result.targets, found)
    assert match(found[:0], photo([[1, 1, 5, 5]], [0]), {0: 0}).overlaps.shape == (0, 1)


def test_what_lies_in_a_crowd_is_unsure():
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [4, 0, 14, 10], [30, 30, 40, 40]])
    assert covered(boxes, [(0, 0, 10, 40)]).tolist() == [True, False, True, False]
    assert covered(boxes, []).tolist() == [False] * 4
    assert match(boxes, photo([], [], [(0, 0, 10, 40)]), {0: 0}).unsure.tolist()[0]


# --- categories ---


def test_frequent_categories():
    images = (
        photo([[0, 0, 9, 9]] * 3, [0, 2, 2]),
        photo([[0, 0, 9, 9]] * 3, [2, 1, 0], id=2),
    )
    data = CocoDataset(images, ("a", "b", "c"), (5, 8, 90), Counter())
    assert frequent_categories(data, 2) == {0: 0, 2: 1}
    assert frequent_categories(data, 1, ["c", "b"]) == {1: 0, 2: 1}
    with pytest.raises(ValueError, match="category 'd' is not in the data; it has: a, b, c"):
        frequent_categories(data, 1, ["d"])
    with pytest.raises(ValueError, match="category 'b' has 1 objects to learn from, 2 are needed"):
        frequent_categories(data, 2, ["b"])
    with pytest.raises(ValueError, match=r"no category has 9 objects .* most frequent has 3"):
        frequent_categories(data, 9)
