"""What a detector is worth on a validation file, whatever numbers that file gives categories."""

import json

import pytest

from sharpmask.detection.detections import Category
from sharpmask.detection.training import precision_figures

SQUARES = {"cat": [0, 0, 20, 20], "dog": [30, 20, 20, 20]}


def polygon(box):
    left, top, width, height = box
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


@pytest.mark.parametrize("ids", [{"cat": 1, "dog": 2}, {"cat": 2, "dog": 1}, {"cat": 7, "dog": 3}])
def test_categories_of_a_validation_file_are_known_by_name(tmp_path, ids):
    annotations = [
        {
            "id": k,
            "image_id": 5,
            "category_id": ids[name],
            "bbox": box,
            "segmentation": polygon(box),
        }
        for k, (name, box) in enumerate(SQUARES.items(), 1)
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 60, "width": 60}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    categories = [Category(1, "cat"), Category(2, "dog")]
    records = [
        {"image_id": 5, "category_id": c.id, "bbox": SQUARES[c.name], "score": 0.9,
         "segmentation": polygon(SQUARES[c.name])}
        for c in categories
    ]  # fmt: skip
    figures = precision_figures(tmp_path / "val.json", records, categories)
    assert figures == pytest.approx(
        {"boxes_AP": 1, "boxes_AP50": 1, "masks_AP": 1, "masks_AP50": 1}
    )
