import json

import pytest

import sharpmask
from sharpmask.coco.reader import load_ground_truth
from sharpmask.coco.results import ResultsFile
from sharpmask.evaluation.evaluator import evaluate_results
from sharpmask.models.pretrained import build

THIN = {"model": "deepmask", "bottleneck_channels": 4, "vector": 4}


@pytest.fixture
def val(coco_folder, tmp_path):
    """The validation photos on which every object is labelled."""
    content = json.loads(coco_folder.val.read_text())
    content["images"] = [image for image in content["images"] if image.get("complete", True)]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path = tmp_path / "complete.json"
    path.write_text(json.dumps(content))
    return path


def test_evaluate_of_paths_as_text_equals_evaluation_of_the_files(val, tmp_path):
    truth = load_ground_truth(val)
    records = [
        {"image_id": image.id, "score": 0.5, "bbox": list(annotation.box_xywh)}
        for image in truth.images
        for annotation in image.annotations[:1]
    ]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(records))
    evaluation = sharpmask.evaluate(str(val), proposals=str(file))
    expected = evaluate_results(truth, ResultsFile(file))
    assert evaluation.boxes.figures() == expected.boxes.figures()
    assert evaluation.boxes.figures()["AR@1"] > 0


def test_evaluate_shows_its_progress_over_all_photos(val, coco_folder):
    shown = []

    def progress(items, total, what="photos"):
        for item in items:
            shown.append((total, what))
            yield item

    proposer = sharpmask.Proposer(build(THIN), num_proposals=5, scales=[-2])
    evaluation = sharpmask.evaluate(
        str(val), images=str(coco_folder.images), proposer=proposer, progress=progress
    )
    assert shown == [(evaluation.images, "photos")] * evaluation.images


@pytest.mark.parametrize("given", [{}, {"proposer": print, "proposals": "found.json"}])
def test_evaluate_without_one_source_of_proposals_is_refused(val, given):
    with pytest.raises(ValueError, match="either a proposer or a file of proposals"):
        sharpmask.evaluate(val, **given)


@pytest.mark.parametrize("first", [0, -1])
def test_evaluate_on_no_photos_is_refused(val, first):
    with pytest.raises(ValueError, match=f"first: expected at least 1 image, got {first}"):
        sharpmask.evaluate(val, proposals="found.json", first=first)
