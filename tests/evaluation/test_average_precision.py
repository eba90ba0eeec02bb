import copy
import json

import numpy as np
import pytest
from pycocotools import mask as maskUtils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from sharpmask.cli.main import app
from sharpmask.evaluation.average_precision import METRICS, average_precision, precision_table
from sharpmask.masks import encode

SIZE = (240, 320)
NAMES = {3: "cat", 7: "dog", 90: "toothbrush"}  # ids with gaps


def rectangle(left, top, width, height):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return encode(mask, SIZE)


def scene(seed=0, photos=12):
    """Annotations and detections: moved, missed, doubled, misnamed, and of nothing at all."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(photos):
        for _ in range(rng.integers(0, 5)):
            left, top = (int(v) for v in rng.integers(0, (140, 60)))
            width, height = (int(4 * 40 ** rng.random()) for _ in range(2))
            category = int(rng.choice(list(NAMES)))
            rle = rectangle(left, top, width, height)
            crowd = int(rng.random() < 0.1)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                    "bbox": [left, top, width, height], "area": width * height,
                    "iscrowd": crowd, "segmentation": rle,
                }
            )  # fmt: skip
            for _ in range(rng.integers(1, 4)):
                x, y = (max(0, v + int(rng.integers(-1, 2))) for v in (left, top))
                name = category if rng.random() < 0.8 else int(rng.choice(list(NAMES)))
                detections.append(
                    {
                        "image_id": image_id, "category_id": name,
                        "bbox": [x, y, width, height + 1], "score": float(rng.random()),
                        "segmentation": rectangle(x, y, width, height),
                    }
                )  # fmt: skip
    images = [{"id": k, "height": SIZE[0], "width": SIZE[1]} for k in range(photos)]
    categories = [{"id": k, "name": name} for k, name in NAMES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def by_pycocotools(truth, detections, kind, category_ids):
    dataset = COCO()
    dataset.dataset = copy.deepcopy(truth)
    dataset.createIndex()
    other = "segmentation" if kind == "bbox" else "bbox"
    records = [{k: v for k, v in record.items() if k != other} for record in detections]
    evaluator = COCOeval(dataset, dataset.loadRes(copy.deepcopy(records)), kind)
    evaluator.params.catIds = category_ids
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("names", [(), ("cat", "toothbrush")])
def test_twelve_numbers_equal_those_of_pycocotools(tmp_path, names):
    truth, detections = scene()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    figures = average_precision(path, detections, categories=names)
    assert list(figures) == ["boxes", "masks"]
    chosen = [k for k, name in NAMES.items() if not names or name in names]
    for kind, coco_kind in (("boxes", "bbox"), ("masks", "segm")):
        expected = by_pycocotools(truth, detections, coco_kind, chosen)
        np.testing.assert_allclose([figures[kind][m] for m in METRICS], expected, atol=1e-12)
        assert 0.1 < figures[kind]["AP"] < 0.9
    assert figures["boxes"]["AP"] != figures["masks"]["AP"]
    assert {k for k in figures["boxes"] if "/" in k} >= {f"AP/{name}" for name in names}


def test_masks_need_no_boxes(tmp_path):
    """As pycocotools writes masks: without ``bbox``. Then the boxes are those of the masks."""
    truth, detections = scene()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    masks = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    tight = [
        d | {"bbox": maskUtils.toBbox(copy.deepcopy(d["segmentation"])).tolist()}
        for d in detections
    ]
    assert average_precision(path, masks) == average_precision(path, tight)
    boxes = average_precision(path, masks, boxes_only=True)
    assert boxes["boxes"] == average_precision(path, tight)["boxes"]


def test_boxes_alone_and_nothing_at_all(tmp_path):
    truth, detections = scene()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in detections]
    assert average_precision(path, boxes)["boxes"] == average_precision(path, detections)["boxes"]
    assert list(average_precision(path, boxes)) == ["boxes"]
    assert average_precision(path, [])["boxes"]["AP"] == 0
    assert precision_table({"nothing": average_precision(path, [])}).row_count == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "detections: record 0: image 99 is not in"),
        ({"image_id": 1.5}, "detections: record 0: image_id is 1.5, not an integer"),
        ({"category_id": 1}, "detections: record 0: category 1 is not in"),
        ({"score": float("nan")}, "detections: record 0: expected a finite score"),
        ({"score": None}, "detections: record 0: expected a finite score"),
        ({"score": 10**400}, "detections: record 0: expected a finite score"),
        ({"category_id": []}, r"detections: record 0: category_id is \[\], not an integer"),
        ({"bbox": [1, 2, 3]}, "detections: record 0: expected a finite score and bbox"),
        ({"segmentation": {"size": [1, 1], "counts": "0"}}, "record 0: segmentation: RLE size"),
        (
            {"segmentation": {"size": [*SIZE], "counts": "~~~"}},
            "detections: record 0: segmentation",
        ),
    ],
    ids=str,
)
def test_a_strange_detection_is_named(tmp_path, change, message):
    truth, detections = scene()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=message):
        average_precision(path, [{**detections[0], **change}])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("images", {"complete": False}, 'image 0: is marked "complete": false'),
        ("annotations", {"image_id": 99}, "annotation 1: has an image_id that no image has: 99"),
        ("annotations", {"segmentation": [[1, 2]]}, "annotation 1: segmentation: a polygon"),
        ("annotations", {"bbox": [float("nan"), 1, 2, 3]}, "annotation 1: bbox is "),
        ("annotations", {"area": float("nan")}, "annotation 1: area is NaN, not a finite number"),
        ("annotations", {"iscrowd": 1, "segmentation": [[1]]}, "annotation 1: segmentation"),
        ("annotations", {"area": -1}, "annotation 1: area is -1, less than nothing"),
        ("annotations", {"iscrowd": "x"}, 'annotation 1: iscrowd is "x", neither 0 nor 1'),
        ("images", {"height": None}, "image 0: height is null, not an integer"),
        ("images", {"height": -5}, "image 0: has height -5"),
        ("categories", {"id": 7}, "category 7: has an id that appears twice"),
        ("categories", {"id": None}, r"categories\[0\]: id is null, not an integer"),
        ("categories", None, "has no list 'categories'"),
        ("images", None, "'images' is missing"),
    ],
)
def test_a_strange_annotation_file_is_refused(tmp_path, key, change, message):
    truth, detections = scene()
    if change is None:
        del truth[key]
    else:
        truth[key][0] |= change
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        average_precision(path, detections)


def test_a_file_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path}: not a JSON file"):
        average_precision(path, [])


def figures_of(tmp_path, truth, detections, **options):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    return average_precision(path, detections, **options)


def test_categories_of_one_name_are_one(tmp_path):
    truth, detections = scene()
    expected = figures_of(tmp_path, truth, detections)
    truth["categories"].append({"id": 5, "name": "cat"})
    for record in (*truth["annotations"][::2], *detections[::3]):
        if record["category_id"] == 3:
            record["category_id"] = 5
    assert figures_of(tmp_path, truth, detections) == expected
    cats = figures_of(tmp_path, truth, detections, categories=["cat"])
    assert cats["boxes"]["AP"] == pytest.approx(expected["boxes"]["AP/cat"])


def test_ids_do_not_matter(tmp_path):
    truth, detections = scene()
    expected = figures_of(tmp_path, truth, detections)
    for record in truth["annotations"]:
        record["id"] = 1  # pycocotools and hotcoco would confuse them
    for image in truth["images"]:
        image["id"] -= 50
    for record in (*truth["annotations"], *detections):
        record["image_id"] -= 50
    for record in (*truth["annotations"], *detections, *truth["categories"]):
        key = "id" if "name" in record else "category_id"
        record[key] = f"category {record[key]}"
    assert figures_of(tmp_path, truth, detections) == expected


def test_box_and_area_that_are_missing_are_measured(tmp_path):
    truth, detections = scene()
    expected = figures_of(tmp_path, truth, detections)
    for record in truth["annotations"]:
        del record["bbox"], record["area"]
    assert figures_of(tmp_path, truth, detections) == expected


def test_an_object_without_a_category_is_left_out(tmp_path):
    truth, detections = scene()
    spare = {**truth["annotations"][0], "bbox": [0, 0, 9, 9], "category_id": 1}
    expected = figures_of(tmp_path, truth, detections)
    for category in (1, None, []):
        extended = [*truth["annotations"], {**spare, "category_id": category}]
        assert figures_of(tmp_path, {**truth, "annotations": extended}, detections) == expected


def test_masks_that_are_null_leave_boxes(tmp_path):
    truth, detections = scene()
    empty = [{**record, "segmentation": None} for record in detections]
    expected = {"boxes": figures_of(tmp_path, truth, detections)["boxes"]}
    assert figures_of(tmp_path, truth, empty) == expected


def test_the_command_names_the_file_and_the_place_in_it(tmp_path):
    truth, detections = scene()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = tmp_path / "found.json"
    found.write_text(json.dumps([*reversed(detections), {**detections[0], "category_id": 1}]))
    command = ["evaluate", "--annotations", tmp_path / "truth.json", "--detections", found]
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code == 2
    said = (
        f"{found}: record {len(detections)}: category 1 is not in the annotations; leave them out, "
        "or give them its ids: 3 (cat), 7 (dog), 90 (toothbrush)"
    )
    assert said in " ".join(result.stderr.split())


def test_an_unknown_category_is_refused(tmp_path):
    truth, detections = scene()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match="has no category 'cow'"):
        average_precision(path, detections, categories=("cat", "cow"))


def test_nothing_to_find_is_refused(tmp_path):
    truth, detections = scene()
    crowds = [{**record, "iscrowd": 1} for record in truth["annotations"]]
    dogs = [record for record in truth["annotations"] if record["category_id"] == 7]
    path = tmp_path / "truth.json"
    for annotations in ([], crowds):
        path.write_text(json.dumps({**truth, "annotations": annotations}))
        with pytest.raises(ValueError, match="nothing to score"):
            average_precision(path, detections)
    path.write_text(json.dumps({**truth, "annotations": dogs}))
    assert average_precision(path, detections)["boxes"]["AP"] > 0
    with pytest.raises(ValueError, match="nothing to score"):
        average_precision(path, detections, categories=["cat"])


def test_boxes_only_needs_no_masks(tmp_path):
    truth, detections = scene()
    expected = {"boxes": figures_of(tmp_path, truth, detections)["boxes"]}
    for record in truth["annotations"]:
        record["segmentation"] = []
    with pytest.raises(ValueError, match=r"has no segmentation; .*--boxes-only"):
        figures_of(tmp_path, truth, detections)
    assert figures_of(tmp_path, truth, detections, boxes_only=True) == expected


def test_a_crowd_region_without_a_mask_is_its_box(tmp_path):
    truth, detections = scene(3)
    for record in truth["annotations"]:
        if record["iscrowd"]:
            record["segmentation"] = rectangle(*record["bbox"])
    expected = figures_of(tmp_path, truth, detections)
    assert any(record["iscrowd"] for record in truth["annotations"])
    for record in truth["annotations"]:
        if record["iscrowd"]:
            del record["segmentation"]
    assert figures_of(tmp_path, truth, detections) == expected


def test_numbers_in_any_spelling_give_the_same_figures(tmp_path):
    truth, detections = scene()
    expected = figures_of(tmp_path, truth, detections)
    for spell in (str, float):
        for record in (*truth["annotations"], *detections):
            record["bbox"] = [spell(value) for value in record["bbox"]]
            for key in ("image_id", "category_id", "iscrowd", "score", "area"):
                if key in record:
                    record[key] = spell(record[key])
        for record in (*truth["images"], *truth["categories"]):
            record["id"] = spell(record["id"])
        assert figures_of(tmp_path, truth, detections) == expected
