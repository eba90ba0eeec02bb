"""Sixty seeded faults, each found by name; training and evaluation do what is said of them."""

import copy
import json
import math
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sharpmask.cli.evaluate import evaluate_model
from sharpmask.cli.main import app
from sharpmask.coco.annotations import leave_out_unreadable, load_coco
from sharpmask.coco.check import Use, check_annotations
from sharpmask.coco.results import load_ground_truth
from sharpmask.evaluation.average_precision import average_precision
from sharpmask.images import read_image
from sharpmask.masks import encode

HEIGHT, WIDTH = 60, 80


def rectangle(left, top, width, height, size=(HEIGHT, WIDTH)):
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return encode(mask, size)


def polygon(left, top, width, height):
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def sound():
    """Two photos, two categories, four objects of every kind of mask."""
    boxes = [[5, 6, 30, 20], [40, 10, 25, 30], [10, 12, 40, 40], [60, 30, 15, 20]]
    annotations = [
        {
            "id": 11 + k, "image_id": 1 + k // 2, "category_id": 1 + k % 2, "bbox": box,
            "area": box[2] * box[3], "iscrowd": 0,
            "segmentation": polygon(*box) if k % 2 else rectangle(*box),
        }
        for k, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH} for k in (1, 2)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def annotation(**changes):
    def spoil(content):
        content["annotations"][0] |= changes

    return spoil


def without(key):
    return lambda content: content["annotations"][0].pop(key)


def image(**changes):
    return lambda content: content["images"][0].update(changes)


def image_of_polygons(**changes):
    """Masks that fit any size, so that the image alone is at fault."""

    def spoil(content):
        content["images"][0] |= changes
        content["annotations"][0]["segmentation"] = polygon(*content["annotations"][0]["bbox"])

    return spoil


def nameless(content):
    del content["images"][0]["file_name"]


def rename_image(content):
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "1"


def add(key, value):
    return lambda content: content[key].append(value)


def category(value):
    return add("categories", value)


def setting(key, value):
    return lambda content: content.__setitem__(key, value)


def polygons(value):
    return annotation(segmentation=value)


def rle(counts, size=(HEIGHT, WIDTH)):
    return annotation(segmentation={"size": list(size), "counts": counts})


NAN = math.nan
A = "annotation 11"
TWICE = {"id": 1, "file_name": "2.png", "height": HEIGHT, "width": WIDTH}
TINY = {"segmentation": rectangle(5, 6, 3, 3), "bbox": [5, 6, 3, 3], "area": 9}
# The fault, the record that is named, what training and what evaluation does.
FAULTS = {
    "no annotations": (lambda c: c.pop("annotations"), "", "refused", "refused"),
    "no images": (setting("images", {}), "", "refused", "refused"),
    "no categories": (lambda c: c.pop("categories"), "", "refused", "recall only"),
    "empty categories": (setting("categories", []), "", "skipped", "recall only"),
    "category without name": (category({"id": 3}), "category {'id': 3}", "refused", "recall only"),
    "category without id": (category({"name": "x"}), "category {", "refused", "recall only"),
    "category that is none": (category(7), "category 7", "refused", "recall only"),
    "category id twice": (category({"id": 1, "name": "x"}), "category 1", "used", "recall only"),
    "category name twice": (category({"id": 3, "name": "cat"}), "category cat", "used", "used"),
    "gap in category ids": (category({"id": 90, "name": "x"}), "categories", "used", "used"),
    "unknown category": (annotation(category_id=77), A, "skipped", "recall only"),
    "no category": (without("category_id"), A, "skipped", "recall only"),
    "category of a list": (annotation(category_id=[1]), A, "skipped", "recall only"),
    "no image": (add("images", 5), "images[2]", "refused", "refused"),
    "image id twice": (add("images", TWICE), "image 1", "refused", "refused"),
    "image without id": (lambda c: c["images"][0].pop("id"), "images[0]", "refused", "refused"),
    "string image id": (rename_image, "image 1", "used", "refused"),
    "image without size": (lambda c: c["images"][0].pop("width"), "image 1", "refused", "refused"),
    "image of size zero": (image(height=0), "image 1", "refused", "missed"),
    "image of absurd size": (image(height=10**9), "image 1", "refused", "missed"),
    "size zero, polygons": (image_of_polygons(height=0), A, "skipped", "refused"),
    "negative size": (image_of_polygons(height=-5), A, "skipped", "refused"),
    "size beyond 32 bits": (image_of_polygons(width=2**40), A, "skipped", "refused"),
    "size beyond 64 bits": (image(height=10**400), "image 1", "refused", "refused"),
    "image of another size": (image(height=HEIGHT + 1), A, "skipped", "refused"),
    "photo of another size": (image_of_polygons(height=61), "image 1", "skipped", "missed"),
    "partly labelled": (image(complete=False), "image 1", "used", "refused"),
    "photo without name": (nameless, "image 1", "refused", "refused"),
    "photo named by a number": (image(file_name=3), "image 1", "skipped", "missed"),
    "missing photo": (image(file_name="3.png"), "image 1", "skipped", "missed"),
    "damaged photo": (image(file_name="bad.png"), "image 1", "skipped", "missed"),
    "path out of the folder": (image(file_name="../1.png"), "image 1", "refused", "missed"),
    "absolute path": (image(file_name="/etc/passwd"), "image 1", "refused", "missed"),
    "annotation that is none": (add("annotations", 7), "annotations[4]", "skipped", "refused"),
    "annotation without image": (without("image_id"), A, "skipped", "refused"),
    "annotation of no image": (annotation(image_id=99), A, "skipped", "refused"),
    "annotation id twice": (annotation(id=12), "annotation 12", "used", "used"),
    "no mask": (without("segmentation"), A, "skipped", "refused"),
    "empty mask": (polygons([]), A, "skipped", "refused"),
    "two points": (polygons([[1, 1, 9, 9]]), A, "skipped", "refused"),
    "odd numbers": (polygons([[1, 1, 9, 9, 5, 5, 3]]), A, "skipped", "refused"),
    "NaN point": (polygons([[1, 1, 9, NAN, 5, 5]]), A, "skipped", "refused"),
    "point far away": (polygons([[1, 1, 1e9, 5, 5, 5]]), A, "skipped", "refused"),
    "RLE of another size": (rle("0", (5, 5)), A, "skipped", "refused"),
    "runs beyond the image": (rle([0, 10**9]), A, "skipped", "refused"),
    "runs too short": (rle([5, 5]), A, "skipped", "refused"),
    "negative run": (rle([-5, HEIGHT * WIDTH + 5]), A, "skipped", "refused"),
    "hostile counts": (rle("~" * 50), A, "skipped", "refused"),
    "crowd": (annotation(iscrowd=1), A, "skipped", "used"),
    "broken crowd": (annotation(iscrowd=1, segmentation=[[1, 1]]), A, "skipped", "refused"),
    "tiny": (annotation(**TINY), A, "skipped", "used"),
    "no box": (without("bbox"), A, "used", "used"),
    "zero box": (annotation(bbox=[0, 0, 0, 0]), A, "used", "used"),
    "NaN box": (annotation(bbox=[NAN, 1, 1, 1]), A, "used", "refused"),
    "box of three": (annotation(bbox=[1, 2, 3]), A, "used", "refused"),
    "endless box": (annotation(bbox=[1, 2, 3, 10**400]), A, "used", "refused"),
    "box elsewhere": (annotation(bbox=[30, 30, 30, 20]), A, "used", "used"),
    "no area": (without("area"), A, "used", "used"),
    "wrong area": (annotation(area=5), A, "used", "used"),
    "NaN area": (annotation(area=NAN), A, "used", "refused"),
    "endless area": (annotation(area=10**400), A, "used", "refused"),
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 5, 9)).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes((folder / "1.png").read_bytes()[:60])
    return folder


def write(tmp_path, content):
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    return path


def test_there_are_sixty_and_a_sound_file_has_none(tmp_path, photos):
    assert len(FAULTS) >= 60
    assert check_annotations(write(tmp_path, sound()), photos) == []


@pytest.mark.reliability("seeded faults of annotation files: listed, and treated as said")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_has_the_effect_that_is_said(tmp_path, photos, name):
    spoil, record, training, evaluation = FAULTS[name]
    content = sound()
    spoil(content)
    path = write(tmp_path, content)
    findings = check_annotations(path, photos)
    mine = [f for f in findings if f.record.startswith(record)] if record else findings
    assert mine, findings
    by = {"training": [f.training for f in mine], "evaluation": [f.evaluation for f in mine]}
    worst = {k: max(v, key=get_args(Use).index) for k, v in by.items()}
    assert worst == {"training": training, "evaluation": evaluation}
    assert trained(path, photos) == effect(findings, "training", content)
    missed = {f.record for f in findings if f.evaluation == "missed"}
    refused = {f.record for f in findings if f.evaluation == "refused"}
    assert evaluated(path, photos) == ("refused" if refused else len(missed))
    recall_only = {f.record for f in findings if f.evaluation == "recall only"}
    of_categories = {record for record in recall_only if not record.startswith("annotation")}
    if name != "photo without name":  # which are not looked at where detections are given
        assert precision_refuses(path) == bool(refused | of_categories)


def effect(findings, purpose, content):
    """What is said: the file is refused, or so many annotations and photos are left out."""
    if any(getattr(f, purpose) == "refused" for f in findings):
        return "refused"
    skipped = {f.record for f in findings if getattr(f, purpose) == "skipped"}
    lost = {record for record in skipped if record.startswith("annotation")}
    return len(lost), len(skipped) - len(lost)


def trained(path, photos):
    """What training does with a file."""
    try:
        stated = load_coco(path, photos)
    except ValueError:
        return "refused"
    sound_photos, problems = leave_out_unreadable(stated)
    assert len(stated.images) - len(sound_photos.images) == len(problems)
    entries = json.loads(path.read_text())["annotations"]
    learned = sum(len(image.instances) for image in stated.images)
    return len(entries) - learned, len(problems)


class WholePhoto:
    """Proposes each photo as one object."""

    def __init__(self, photo):
        self.size = read_image(photo).shape[:2]

    def to_coco(self, image_id):
        mask = encode(np.ones(self.size, bool), self.size)
        return [{"image_id": image_id, "score": 0.5, "segmentation": mask}]


def evaluated(path, photos):
    """What evaluation does with a file: refuses it, or misses so many photos."""
    try:
        evaluation = evaluate_model(load_ground_truth(path), photos, WholePhoto)
    except ValueError:
        return "refused"
    return evaluation.images - evaluation.proposals


def precision_refuses(path):
    mask = {"bbox": [5, 5, 9, 9], "segmentation": rectangle(5, 5, 9, 9)}
    try:
        average_precision(path, [{"image_id": 2, "category_id": 1, "score": 0.5, **mask}])
    except ValueError:
        return True
    return False


def test_no_json_at_all(tmp_path):
    path = tmp_path / "set.json"
    path.write_text("{")
    (finding,) = check_annotations(path)
    assert (finding.training, finding.evaluation) == ("refused", "refused")
    with pytest.raises(OSError, match="none"):
        check_annotations(tmp_path / "none.json")


def test_many_faults_are_all_listed(tmp_path, photos):
    content = sound()
    for k, entry in enumerate(copy.deepcopy(content["annotations"])):
        content["annotations"].append(entry | {"id": 100 + k, "segmentation": [[1, 2]]})
    del content["images"][1]["file_name"]
    result = CliRunner().invoke(
        app, ["check", str(write(tmp_path, content)), "--images", str(photos)]
    )
    assert result.exit_code == 1
    for name in ("annotation 100", "annotation 101", "annotation 102", "annotation 103"):
        assert name in result.stdout
    assert "training: the file is refused" in result.stdout
    assert "evaluation: the file is refused" in result.stdout


def test_the_command_on_a_sound_file(tmp_path, photos):
    path = write(tmp_path, sound())
    result = CliRunner().invoke(app, ["check", str(path), "--images", str(photos)])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "training: the file can be used, 0 records are skipped",
        "evaluation: the file can be used, 0 records are missed",
    ]


def test_a_photo_of_another_size_costs_that_photo(tmp_path, photos, capsys):
    content = sound()
    FAULTS["photo of another size"][0](content)
    path = write(tmp_path, content)
    assert evaluated(path, photos) == 1
    said = f"{photos / '1.png'}: the photo is {WIDTH}x{HEIGHT}, its annotations say {WIDTH}x61"
    assert said in capsys.readouterr().err
    result = CliRunner().invoke(app, ["check", str(path), "--images", str(photos)])
    assert "1 records are skipped" in result.stdout
    assert "evaluation: the file can be used, 1 records are missed" in result.stdout


def test_a_photo_without_name_is_named_before_any_is_read(tmp_path):
    content = sound()
    nameless(content)
    truth = load_ground_truth(write(tmp_path, content))
    with pytest.raises(ValueError, match="image 1 has no file_name"):
        evaluate_model(truth, tmp_path, None)


def test_brackets_in_a_problem_are_printed(tmp_path):
    content = sound()
    content["annotations"][0] |= {"id": "[/red]", "bbox": "[red]"}
    result = CliRunner().invoke(app, ["check", str(write(tmp_path, content))])
    assert "annotation [/red]" in result.stdout
    assert "[left, top, width, height], got '[red]'" in " ".join(result.stdout.split())


@pytest.mark.parametrize("count", ["0", "-1"])
def test_the_first_photos_are_at_least_one(tmp_path, count):
    path = str(write(tmp_path, sound()))
    result = CliRunner().invoke(app, ["evaluate", "--annotations", path, "--first", count])
    assert result.exit_code == 2
    assert "--first" in result.stderr
