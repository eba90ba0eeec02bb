import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from reference.thin_models import thin_file
from sharpmask.cli import evaluate as evaluate_command
from sharpmask.cli.main import app
from sharpmask.coco.reader import load_ground_truth
from sharpmask.engines.load import load_engine
from sharpmask.evaluation.evaluator import ProposalEvaluator
from sharpmask.inference.proposer import Proposer

HEIGHT, WIDTH = 48, 64
BOXES = {1: [[5, 6, 30, 20], [36, 10, 25, 30]], 2: [[10, 8, 40, 36]], 3: []}


def polygon(left, top, width, height):
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def truth():
    """Three photos, the last without object."""
    annotations = [
        {
            "id": 10 * image_id + k, "image_id": image_id, "category_id": 1, "iscrowd": 0,
            "bbox": box, "area": box[2] * box[3], "segmentation": polygon(*box),
        }
        for image_id, boxes in BOXES.items()
        for k, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH} for k in BOXES]
    return {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip


def found(*image_ids):
    """Proposals that are exactly the objects of some images."""
    return [
        {
            "image_id": image_id, "category_id": 1, "score": 0.5, "bbox": box,
            "segmentation": coco_rle(box),
        }
        for image_id in image_ids
        for box in BOXES[image_id]
    ]  # fmt: skip


def coco_rle(box):
    (rle,) = coco_mask.frPyObjects(polygon(*box), HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


@pytest.fixture(scope="module")
def weights(cache):
    """A model file: a SharpMask with random weights, as thin as they come."""
    return thin_file(cache)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in BOXES:
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def evaluate(tmp_path):
    """Run the command on annotations; the report goes to ``tmp_path / "out"``."""

    def evaluate(content, *options):
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(content))
        command = ["evaluate", "--annotations", path, "--output", tmp_path / "out", *options]
        result = CliRunner().invoke(app, [*map(str, command)])
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return evaluate


@pytest.fixture
def write(tmp_path):
    def write(records, name="found.json"):
        (tmp_path / name).write_text(json.dumps(records))
        return tmp_path / name

    return write


def report(tmp_path):
    return json.loads((tmp_path / "out" / "evaluation.json").read_text())


def assert_refused(result, tmp_path, *parts):
    """One line, status 2 and nothing written."""
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line
    assert not (tmp_path / "out").exists()


# --- a file of proposals ---


def test_file_of_proposals_is_scored(tmp_path, evaluate, write):
    result = evaluate(truth(), "--proposals", write(found(1, 2)))
    assert result.exit_code == 0
    figures = report(tmp_path)
    assert (figures["images"], figures["objects"], figures["proposals"]) == (3, 3, 3)
    assert figures["unseen_images"] == 0
    assert figures["masks"]["AR@10"] == figures["boxes"]["AR@10"] == 1
    assert figures["boundary"]["boundary_iou"] == 1
    assert figures["settings"] == {
        "annotations": "truth.json", "photos": 3, "proposals": "found.json",
    }  # fmt: skip
    names = {"evaluation.json", "recall_by_iou.png", "recall_by_proposals.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= names
    assert "100.0" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_images_of_objects_without_proposals_are_told(tmp_path, evaluate, write):
    result = evaluate(truth(), "--proposals", write(found(1)))
    assert result.exit_code == 1
    assert report(tmp_path)["unseen_images"] == 1
    assert report(tmp_path)["masks"]["AR@10"] == pytest.approx(2 / 3)
    assert "1 of 3 images were not looked at" in " ".join(result.stdout.split())
    assert "1 of 3 images were not looked at" in result.stderr


def test_first_images_by_id_alone_are_scored(tmp_path, evaluate, write):
    result = evaluate(truth(), "--proposals", write(found(1, 2)), "--first", "1")
    assert result.exit_code == 0
    assert (report(tmp_path)["images"], report(tmp_path)["objects"]) == (1, 2)


def test_boxes_only_needs_no_masks(tmp_path, evaluate, write):
    content = truth()
    for record in content["annotations"]:
        record["segmentation"] = []
    proposals = write(found(1, 2))
    advice = "annotation 10: has no segmentation; evaluate --boxes-only"
    assert_refused(evaluate(content, "--proposals", proposals), tmp_path, advice)
    assert evaluate(content, "--proposals", proposals, "--boxes-only").exit_code == 0
    assert report(tmp_path)["masks"] is None
    assert report(tmp_path)["boxes"]["AR@10"] == 1
    assert report(tmp_path)["settings"]["boxes_only"] is True


def test_empty_file_of_proposals_is_refused(tmp_path, evaluate, write):
    result = evaluate(truth(), "--proposals", write([]))
    assert_refused(result, tmp_path, "found.json: nothing to score")


@pytest.mark.parametrize("annotations", [[], "crowd"])
def test_annotations_without_objects_are_refused(tmp_path, evaluate, write, annotations):
    content = truth()
    crowds = [{**record, "iscrowd": 1} for record in content["annotations"]]
    content["annotations"] = crowds if annotations else []
    result = evaluate(content, "--proposals", write(found(1)))
    assert_refused(result, tmp_path, "truth.json: holds nothing to score: no object in 3 images")


def test_report_is_on_disk_before_anything_is_printed(tmp_path, evaluate, write, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate_command.out, "print", full)
    assert evaluate(truth(), "--proposals", write(found(1, 2))).exit_code != 0
    assert report(tmp_path)["masks"]["AR@10"] == 1
    detections = write(found(1, 2), "detections.json")
    assert evaluate(truth(), "--detections", detections).exit_code != 0
    assert json.loads((tmp_path / "out" / "precision.json").read_text())["boxes"]["AP"] == 1


# --- a model ---


@pytest.fixture
def run_model(evaluate, weights, photos):
    """Run the command on a model."""
    model = ["--weights", weights, "--engine", "torch", "--num-proposals", "5", "--scales=-1"]

    def run_model(content, *options, images=photos):
        return evaluate(content, "--images", images, *model, *options)

    return run_model


def test_model_is_scored_as_by_hand(tmp_path, run_model, weights, photos):
    result = run_model(truth())
    assert result.exit_code == 0
    proposer = Proposer(load_engine(weights, "torch"), num_proposals=5, scales=[-1])
    evaluator = ProposalEvaluator()
    for image in load_ground_truth(tmp_path / "truth.json").images:
        evaluator.add(image, proposer(photos / image.file_name).to_coco(image.id))
    expected = evaluator.summarize()
    figures = report(tmp_path)
    assert figures["proposals"] == expected.proposals == 15
    assert figures["masks"]["recall"]["values"] == (
        expected.masks.recall[:, :, [0, 9, 99, 999]].tolist()
    )
    assert figures["boxes"]["AUC"] == expected.boxes.auc()
    assert figures["settings"]["weights"] == "thin.safetensors"
    assert figures["settings"]["num_proposals"] == 5


@pytest.mark.slow
def test_masks_are_scored_as_they_are_if_wanted(tmp_path, run_model):
    assert run_model(truth()).exit_code == 0
    cleaned = report(tmp_path)
    assert run_model(truth(), "--no-clean").exit_code == 0
    as_they_are = report(tmp_path)
    assert as_they_are["settings"]["clean"] is False
    assert cleaned["settings"] == as_they_are["settings"] | {"clean": True}


def test_unread_photos_are_told_in_table_file_and_status(tmp_path, run_model, photos):
    (photos / "2.png").write_bytes(b"no picture")
    result = run_model(truth())
    assert result.exit_code == 1
    assert report(tmp_path)["unseen_images"] == 1
    assert "1 of 3 images were not looked at" in " ".join(result.stdout.split())
    assert str(photos / "2.png") in result.stderr


def test_folder_without_the_photos_is_refused_in_one_line(tmp_path, run_model, photos):
    (tmp_path / "nowhere").mkdir()
    missing = "none of 3 photos can be read, e.g."
    assert_refused(run_model(truth(), images=tmp_path / "nowhere"), tmp_path, missing, "1.png")
    assert_refused(run_model(truth(), images=tmp_path / "no"), tmp_path, "no such folder")


def test_boxes_only_of_a_model_needs_no_masks(tmp_path, run_model):
    content = truth()
    for record in content["annotations"]:
        del record["segmentation"]
    assert_refused(run_model(content), tmp_path, "evaluate --boxes-only")
    assert run_model(content, "--boxes-only").exit_code == 0
    assert report(tmp_path)["masks"] is report(tmp_path)["boundary"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": None}, "image 1: has no file_name"),
        ({"file_name": "../1.png"}, "image 1: has a file_name, '../1.png', that leads outside"),
        ({"file_name": "/etc/passwd"}, "that leads outside"),
        ({"id": "one"}, "image one: has an id, 'one', that is not an integer"),
        ({"complete": "no"}, '"complete" is "no", neither 0 nor 1'),
    ],
)
def test_images_that_a_model_may_not_see_are_refused(tmp_path, run_model, changes, message):
    content = truth()
    content["images"][0] |= changes
    if "id" in changes:
        for record in content["annotations"][:2]:
            record["image_id"] = "one"
    assert_refused(run_model(content), tmp_path, message)


# --- options ---


@pytest.mark.parametrize("count", ["0", "-1"])
def test_first_photos_are_at_least_one(evaluate, count):
    result = evaluate(truth(), "--first", count)
    assert result.exit_code == 2
    assert "--first" in result.stderr


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--proposals", "x.json", "--scales", "zoom"], "--scales has no effect with --proposals"),
        (["--proposals", "x.json", "--images", "."], "--images has no effect with --proposals"),
        (["--proposals", "x.json", "--engine", "torch"], "--engine has no effect"),
        (["--proposals", "x.json", "--category", "cat"], "--category has no effect"),
        (["--detections", "x.json", "--first", "1"], "--first has no effect with --detections"),
        (["--detections", "x.json", "--proposals", "x.json"], "--proposals has no effect"),
        (["--images", ".", "--category", "cat"], "--category has no effect with a model"),
        ([], "--images: the folder of the photos is needed"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, evaluate, options, refused):
    assert_refused(evaluate(truth(), *options), tmp_path, refused)


def test_empty_file_of_detections_is_refused(tmp_path, evaluate, write):
    result = evaluate(truth(), "--detections", write([]))
    assert_refused(result, tmp_path, "found.json: nothing to score")
