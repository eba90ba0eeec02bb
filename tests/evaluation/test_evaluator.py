import contextlib
import io
import json
import re

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sharpmask.coco.reader import parse_coco, read_coco
from sharpmask.coco.results import ResultsFile
from sharpmask.evaluation.average_recall import PROPOSAL_COUNTS
from sharpmask.evaluation.evaluator import ProposalEvaluator, evaluate_results

HEIGHT, WIDTH = 12, 16
SIZE = [HEIGHT, WIDTH]


def rectangle(left, top, width, height):
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    return {"size": SIZE, "counts": coco_mask.encode(mask)["counts"].decode()}


def random_box(rng):
    left, top = int(rng.integers(0, WIDTH - 2)), int(rng.integers(0, HEIGHT - 2))
    width, height = rng.integers(0, [WIDTH - left + 1, HEIGHT - top + 1]).tolist()
    return [left, top, width, height]


def random_dataset(seed):
    """Few small images with everything that could go wrong: see the names below."""
    rng = np.random.default_rng(seed)
    images = [{"id": 5 * i + 2, "height": HEIGHT, "width": WIDTH} for i in range(4)]
    annotations, results = [], []
    with_bbox = seed % 3 > 0
    for image in images:
        n_objects, n_proposals = rng.choice([0, 1, 3, 6]), rng.choice([0, 1, 9, 25])
        boxes = [random_box(rng) for _ in range(n_objects)]
        boxes += boxes[: n_objects // 2]  # equal overlaps
        for box in boxes:
            mask = rectangle(*box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.integers(1, 4)),
                    "iscrowd": int(rng.random() < 0.15),
                    "area": float(rng.choice([9, 1024, 1025.5, 5000, 9216, 30000])),
                    "bbox": [*(np.array(box[:2]) - rng.random(2)).tolist(), *box[2:]],
                    "segmentation": mask,
                }
            )
        for _ in range(n_proposals):
            near = boxes and rng.random() < 0.7
            box = list(boxes[rng.integers(len(boxes))]) if near else random_box(rng)
            if near and rng.random() < 0.7:
                box[rng.integers(4)] += 1
            record = {
                "image_id": image["id"],
                "category_id": int(rng.integers(1, 4)),
                "score": float(rng.integers(0, 6)) / 5 - 0.4,  # equal scores
                "segmentation": rectangle(*box),
            }
            if with_bbox:
                record["bbox"] = [*box[:2], *(np.array(box[2:]) + rng.random(2)).tolist()]
            results.append(record)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in (3, 1, 2)],
    }, [results[i] for i in rng.permutation(len(results))]


def pycocotools_recall(dataset, results, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(PROPOSAL_COUNTS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0]


def evaluate(dataset, results, **options):
    evaluator = ProposalEvaluator(**options)
    for image in parse_coco(dataset).images:
        evaluator.add(image, [record for record in results if record["image_id"] == image.id])
    return evaluator.summarize()


def labelled(image, objects):
    """An image with annotations, as the reader gives it."""
    annotations = [{**record, "image_id": image["id"]} for record in objects]
    (entry,) = parse_coco({"images": [image], "annotations": annotations}).images
    return entry


def assert_equals_pycocotools(dataset, results):
    evaluation = evaluate(dataset, results, boundary=False)
    for summary, kind in ((evaluation.boxes, "bbox"), (evaluation.masks, "segm")):
        recall = summary.recall[:, :, np.array(PROPOSAL_COUNTS) - 1]
        assert np.array_equal(recall, pycocotools_recall(dataset, results, kind))


@pytest.mark.parametrize(
    "block", [0, 1, *(pytest.param(block, marks=pytest.mark.slow) for block in range(2, 10))]
)
def test_recall_equals_pycocotools_bit_for_bit(block):
    compared = 0
    for seed in range(1000 * block, 1000 * block + 23):
        dataset, results = random_dataset(seed)
        if results:  # pycocotools cannot load an empty list
            assert_equals_pycocotools(dataset, results)
            compared += 1
    assert compared >= 20


def test_recall_equals_pycocotools_beyond_1000_proposals():
    rng = np.random.default_rng(0)
    dataset, _ = random_dataset(5)
    results = [
        {
            "image_id": image["id"],
            "category_id": 1,
            "score": round(rng.random(), 3),
            "segmentation": rectangle(*random_box(rng)),
        }
        for image in dataset["images"][:2]
        for _ in range(1300)
    ]
    assert_equals_pycocotools(dataset, results)


def test_equal_overlaps_are_settled_in_the_order_of_categories():
    left, right, both = rectangle(2, 2, 3, 4), rectangle(3, 2, 3, 4), rectangle(2, 2, 4, 4)
    common = {"image_id": 4, "iscrowd": 0, "area": 12, "bbox": [2, 2, 3, 4]}
    dataset = {
        "images": [{"id": 4, "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {**common, "id": 1, "category_id": 2, "segmentation": left},
            {**common, "id": 2, "category_id": 1, "segmentation": right},
        ],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    # The best proposal overlaps both by 3/4 and takes the later, which must be the left one.
    results = [
        {"image_id": 4, "category_id": 1, "score": 0.9, "segmentation": both},
        {"image_id": 4, "category_id": 1, "score": 0.8, "segmentation": right},
    ]
    assert_equals_pycocotools(dataset, results)
    recall = evaluate(dataset, results).masks.recall[:, 0, 1]
    assert recall.tolist() == [1] * 6 + [0.5] * 4


IMAGE = {"id": 4, "height": HEIGHT, "width": WIDTH}
OBJECT = {
    "id": 1,
    "image_id": 4,
    "bbox": [2, 2, 8, 8],
    "area": 64,
    "segmentation": rectangle(2, 2, 8, 8),
}
PROPOSAL = {"image_id": 4, "score": 0.5, "segmentation": rectangle(2, 2, 8, 8)}


def test_found_and_missed_images():
    evaluator = ProposalEvaluator()
    evaluator.add(labelled(IMAGE, [OBJECT]), [PROPOSAL])
    evaluator.add(labelled({**IMAGE, "id": 5}, [OBJECT]), [])
    evaluator.add(labelled({**IMAGE, "id": 6}, []), [{**PROPOSAL, "image_id": 6}])
    evaluator.add(labelled({**IMAGE, "id": 7}, [{**OBJECT, "iscrowd": 1}]), [])
    evaluation = evaluator.summarize()
    assert (evaluation.images, evaluation.objects, evaluation.proposals) == (4, 2, 2)
    assert evaluation.boxes.average_recall(10) == evaluation.masks.average_recall(10) == 0.5


def test_proposals_of_a_foreign_category_count():
    evaluator = ProposalEvaluator()
    evaluator.add(
        labelled(IMAGE, [{**OBJECT, "category_id": 1}]), [{**PROPOSAL, "category_id": 77}]
    )
    assert evaluator.summarize().masks.average_recall(1) == 1


def test_masks_may_be_polygons_or_uncompressed():
    polygon = [[2, 2, 10, 2, 10, 10, 2, 10]]
    counts = [2 * HEIGHT + 2, *[8, 4] * 7, 8, 2 + 6 * HEIGHT]
    evaluator = ProposalEvaluator()
    proposal = {**PROPOSAL, "segmentation": {"size": SIZE, "counts": counts}}
    evaluator.add(labelled(IMAGE, [{**OBJECT, "segmentation": polygon}]), [proposal])
    evaluation = evaluator.summarize()
    assert evaluation.masks.average_recall(1) == evaluation.boxes.average_recall(1) == 1


def test_an_area_that_is_missing_is_that_of_the_mask():
    left, right = rectangle(0, 0, 8, 5), rectangle(8, 0, 8, 12)
    for areas in ({}, {"area": None}):
        evaluator = ProposalEvaluator()
        objects = [{"bbox": [0, 0, 8, 5], "segmentation": mask, **areas} for mask in (left, right)]
        evaluator.add(labelled(IMAGE, objects), [])
        assert evaluator.summarize().masks.objects.tolist() == [2, 2, 0, 0]
    large = {"id": 1, "height": 100, "width": 100}
    square = {"segmentation": [[0, 0, 97, 0, 97, 97, 0, 97]]}
    evaluator = ProposalEvaluator()
    evaluator.add(labelled(large, [square]), [])
    assert evaluator.summarize().masks.objects.tolist() == [1, 0, 0, 1]
    evaluator = ProposalEvaluator(masks=False)
    evaluator.add(labelled(large, [{"bbox": [0, 0, 8, 5]}, {"bbox": [0, 0, 40, 30]}]), [])
    assert evaluator.summarize().boxes.objects.tolist() == [2, 1, 1, 0]  # those of the boxes


def test_boundary_quality_of_the_best_of_the_first_hundred():
    shifted = {**PROPOSAL, "segmentation": rectangle(2, 3, 8, 8)}  # IoU 56 / 72
    low = {**PROPOSAL, "score": 0.1}
    far = {**PROPOSAL, "segmentation": rectangle(0, 0, 2, 2)}
    evaluator = ProposalEvaluator()
    evaluator.add(
        labelled(IMAGE, [OBJECT]), [low, shifted] + [far] * 99
    )  # the perfect one comes too late
    evaluator.add(labelled(IMAGE, [OBJECT]), [far])
    boundary = evaluator.summarize().boundary
    assert boundary.matched == 1
    assert boundary.mask_iou == 56 / 72
    # Boundaries 1 wide: frames of 28 px, which share 7 px of the left and of the right side.
    assert boundary.boundary_iou == 14 / (28 + 28 - 14)


def test_boundary_quality_without_pairs():
    evaluator = ProposalEvaluator()
    half = {**PROPOSAL, "segmentation": rectangle(2, 2, 8, 4)}  # an IoU of 1/2 is too little
    evaluator.add(labelled(IMAGE, [OBJECT]), [half])
    boundary = evaluator.summarize().boundary
    assert (boundary.boundary_iou, boundary.mask_iou, boundary.matched) == (-1, -1, 0)


def test_boxes_alone():
    evaluator = ProposalEvaluator(masks=False)
    image = labelled(IMAGE, [{"bbox": [2, 2, 8, 8], "area": 64}])
    evaluator.add(image, [{"score": 1, "bbox": [2, 2, 8, 8]}])
    evaluation = evaluator.summarize()
    assert evaluation.boxes.average_recall(1) == 1
    assert evaluation.masks is None
    assert evaluation.boundary is None


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        ({"score": float("nan")}, "proposal 1: score is NaN, not a finite number"),
        ({"score": float("inf")}, "proposal 1: score is Infinity, not a finite number"),
        ({"score": None}, "proposal 1: score is null, not a finite number"),
        ({"image_id": 9}, "proposal 1 belongs to image 9"),
        ({"segmentation": None}, "proposal 1 has neither 'bbox' nor 'segmentation'"),
        ({"segmentation": None, "bbox": [1, 1, 2, 2]}, "proposal 1 has no 'segmentation'"),
        ({"segmentation": {"size": [16, 12], "counts": "0"}}, "proposal 1: .*does not fit"),
        ({"segmentation": {"size": SIZE, "counts": "abc"}}, "proposal 1: .*negative"),
        (
            {"segmentation": {"size": SIZE, "counts": "abc"}, "bbox": [1, 1, 2, 2]},
            "proposal 1: segmentation: .*negative",
        ),
        ({"segmentation": {"size": SIZE}}, "proposal 1: segmentation"),
        ({"segmentation": {"size": SIZE, "counts": 3}}, "proposal 1: segmentation"),
        ({"bbox": [1, 1, 2]}, r"proposal 1: bbox is \[1, 1, 2\], not \[left, top, width, height\]"),
        ({"bbox": [1, 1, -2, 3]}, "proposal 1: bbox is "),
        ({"bbox": [1, float("nan"), 2, 3]}, "proposal 1: bbox is "),
        ({"bbox": [1, 1, 2, float("inf")]}, "proposal 1: bbox is "),
        ({"bbox": [1, 1, 2, True]}, "proposal 1: bbox is "),
        ({"bbox": "much"}, "proposal 1: bbox is "),
        ({"bbox": [1, 1, 2, 10**400]}, "proposal 1: bbox is "),
        ({"score": 10**400}, "proposal 1: score is 1000000"),
    ],
)
def test_malformed_proposals_are_named(proposal, message):
    proposals = [{**PROPOSAL, "score": 0.1}, {**PROPOSAL, **proposal}]
    evaluator = ProposalEvaluator()
    with pytest.raises(ValueError, match=f"image 4, {message}"):
        evaluator.add(labelled(IMAGE, [OBJECT]), proposals)
    evaluation = evaluator.summarize()
    assert (
        evaluation.images == evaluation.boxes.objects.sum() == evaluation.masks.objects.sum() == 0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"area": "much"}, 'annotation 1: area is "much", not a finite number'),
        ({"area": 10**400}, "annotation 1: area is 1000"),
        ({"bbox": [1]}, r"annotation 1: bbox is \[1\]"),
        ({"segmentation": {"size": [1, 1], "counts": "0"}}, "annotation 1: .*does not fit"),
        ({"segmentation": None}, "annotation 1: has no segmentation; evaluate --boxes-only does"),
        ({"segmentation": {"size": SIZE, "counts": [5, 5]}}, "annotation 1: .*ends before"),
        ({"iscrowd": 1, "segmentation": [[1, 2]]}, "annotation 1: segmentation: a polygon"),
        ({"iscrowd": 1, "bbox": [1]}, r"annotation 1: bbox is \[1\]"),
        ({"iscrowd": 2}, "annotation 1: iscrowd is 2, neither 0 nor 1"),
    ],
)
def test_malformed_objects_are_named(change, message):
    with pytest.raises(ValueError, match=f"image 4: {message}"):
        ProposalEvaluator().add(labelled(IMAGE, [{**OBJECT, **change}]), [PROPOSAL])


def test_partly_labelled_images_are_refused():
    image = labelled({**IMAGE, "complete": False}, [OBJECT])
    with pytest.raises(ValueError, match=r'image 4: is marked "complete": false.*not labelled'):
        ProposalEvaluator().add(image, [PROPOSAL])


def files(tmp_path, dataset, results):
    truth, proposals = tmp_path / "truth.json", tmp_path / "proposals.json"
    truth.write_text(json.dumps(dataset))
    proposals.write_text(json.dumps(results))
    return read_coco(truth), ResultsFile(proposals)


def test_files_give_the_same_figures(tmp_path):
    dataset, results = random_dataset(1)
    from_files = evaluate_results(*files(tmp_path, dataset, results))
    expected = evaluate(dataset, results)
    assert from_files.images == len(dataset["images"])
    assert from_files.boundary == expected.boundary
    assert np.array_equal(from_files.boxes.recall, expected.boxes.recall)
    assert np.array_equal(from_files.masks.recall, expected.masks.recall)


def test_a_file_of_boxes_is_scored_by_boxes(tmp_path):
    dataset, results = random_dataset(1)
    boxes = [{k: v for k, v in record.items() if k != "segmentation"} for record in results]
    evaluation = evaluate_results(*files(tmp_path, dataset, boxes))
    assert evaluation.masks is None
    assert np.array_equal(evaluation.boxes.recall, evaluate(dataset, results).boxes.recall)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"proposals\.json: nothing to score"):
        evaluate_results(*files(tmp_path, random_dataset(1)[0], []))


def test_images_of_objects_that_a_file_does_not_name_are_counted_as_unseen(tmp_path):
    dataset, results = random_dataset(1)
    with_objects = {a["image_id"] for a in dataset["annotations"] if not a["iscrowd"]}
    left_out = min(with_objects & {record["image_id"] for record in results})
    named = {record["image_id"] for record in results} - {left_out}
    kept = [record for record in results if record["image_id"] != left_out]
    evaluation = evaluate_results(*files(tmp_path, dataset, kept))
    assert evaluation.unseen == len(with_objects - named) >= 1
    assert evaluation.images == len(dataset["images"])


def test_numbers_in_any_spelling_give_the_same_figures(tmp_path):
    dataset, results = random_dataset(1)
    expected = evaluate_results(*files(tmp_path, dataset, results))

    def spelt(record, spell):
        keys = {"id", "image_id", "category_id", "iscrowd", "height", "width", "score", "area"}
        changed = {key: spell(value) for key, value in record.items() if key in keys}
        boxed = {"bbox": [spell(v) for v in record["bbox"]]} if "bbox" in record else {}
        mask = record.get("segmentation")
        if isinstance(mask, dict):
            boxed["segmentation"] = mask | {"size": [spell(v) for v in mask["size"]]}
        return {**record, **changed, **boxed}

    for spell in (str, float):
        lists = {key: [spelt(r, spell) for r in dataset[key]] for key in ("images", "annotations")}
        respelt = files(tmp_path, dataset | lists, [spelt(r, spell) for r in results])
        evaluation = evaluate_results(*respelt)
        assert np.array_equal(evaluation.boxes.recall, expected.boxes.recall)
        assert np.array_equal(evaluation.masks.recall, expected.masks.recall)


def test_boxes_only_needs_no_masks(tmp_path):
    dataset, results = random_dataset(1)
    expected = evaluate_results(*files(tmp_path, dataset, results)).boxes
    for record in dataset["annotations"]:
        record["segmentation"] = []
    both = files(tmp_path, dataset, results)
    with pytest.raises(ValueError, match="annotation 1: has no segmentation"):
        evaluate_results(*both)
    evaluation = evaluate_results(*both, boxes_only=True)
    assert evaluation.masks is None
    assert np.array_equal(evaluation.boxes.recall, expected.recall)


def test_unknown_images_and_bad_records_name_the_file(tmp_path):
    dataset = {"images": [IMAGE], "annotations": [OBJECT]}
    foreign = files(tmp_path, dataset, [PROPOSAL, {**PROPOSAL, "image_id": 11}])
    path = re.escape(str(tmp_path / "proposals.json"))
    with pytest.raises(ValueError, match=f"{path}: 1 image ids, the first 11, are not in"):
        evaluate_results(*foreign)
    bad = files(tmp_path, dataset, [PROPOSAL, {**PROPOSAL, "score": None}])
    with pytest.raises(ValueError, match=f"{path} .*: image 4, proposal 1: score"):
        evaluate_results(*bad)
