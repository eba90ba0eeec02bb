"""Seventy seeded faults, each found by name; training and evaluation do what is said of them."""

import json
import math
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from sharpmask.coco.annotations import leave_out_unreadable, load_coco
from sharpmask.coco.check import by_octave, check_annotations
from sharpmask.coco.problems import Use
from sharpmask.coco.reader import load_ground_truth, parse_coco, read_coco
from sharpmask.evaluation.average_precision import average_precision
from sharpmask.evaluation.run import evaluate_model
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


def rename_image(name):
    def spoil(content):
        content["images"][0]["id"] = name
        for record in content["annotations"][:2]:
            record["image_id"] = name

    return spoil


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
    "category without name": (category({"id": 3}), "categories[2]", "refused", "recall only"),
    "category without id": (category({"name": "x"}), "categories[2]", "refused", "recall only"),
    "category that is none": (category(7), "categories[2]", "refused", "recall only"),
    "category id twice": (category({"id": 1, "name": "x"}), "category 1", "used", "recall only"),
    "category name twice": (category({"id": 3, "name": "cat"}), "category cat", "used", "used"),
    "gap in category ids": (category({"id": 90, "name": "x"}), "categories", "used", "used"),
    "unknown category": (annotation(category_id=77), A, "skipped", "recall only"),
    "no category": (without("category_id"), A, "skipped", "recall only"),
    "category of a list": (annotation(category_id=[1]), A, "skipped", "recall only"),
    "no image": (add("images", 5), "images[2]", "refused", "refused"),
    "image id twice": (add("images", TWICE), "image 1", "refused", "refused"),
    "image without id": (lambda c: c["images"][0].pop("id"), "images[0]", "refused", "refused"),
    "text as image id": (rename_image("one"), "image one", "used", "refused"),
    "image id of 1.5": (image(id=1.5), "images[0]", "refused", "refused"),
    "image id of null": (image(id=None), "images[0]", "refused", "refused"),
    "image id beyond 64 bits": (image(id=2**64), "images[0]", "refused", "refused"),
    "image ids 2 and \"2\"": (image(id="2"), "image 2", "refused", "refused"),
    "image without size": (lambda c: c["images"][0].pop("width"), "image 1", "refused", "refused"),
    "image of size zero": (image(height=0), "image 1", "refused", "refused"),
    "image of half pixels": (image(height=60.5), "image 1", "refused", "refused"),
    "image of absurd size": (image(height=10**9), "image 1", "refused", "refused"),
    "size zero, polygons": (image_of_polygons(height=0), "image 1", "refused", "refused"),
    "negative size": (image_of_polygons(height=-5), "image 1", "refused", "refused"),
    "size beyond 32 bits": (image_of_polygons(width=2**40), "image 1", "refused", "refused"),
    "too many pixels": (image_of_polygons(width=10**7), "image 1", "refused", "missed"),
    "size beyond 64 bits": (image(height=10**400), "image 1", "refused", "refused"),
    "image of another size": (image(height=HEIGHT + 1), A, "skipped", "refused"),
    "photo of another size": (image_of_polygons(height=61), "image 1", "skipped", "missed"),
    "partly labelled": (image(complete=False), "image 1", "used", "refused"),
    "photo without name": (nameless, "image 1", "refused", "refused"),
    "photo named by a number": (image(file_name=3), "image 1", "skipped", "missed"),
    "missing photo": (image(file_name="3.png"), "image 1", "skipped", "missed"),
    "damaged photo": (image(file_name="bad.png"), "image 1", "skipped", "missed"),
    "path out of the folder": (image(file_name="../1.png"), "image 1", "refused", "refused"),
    "absolute path": (image(file_name="/etc/passwd"), "image 1", "refused", "refused"),
    "photo of two ids": (image(file_name="./2.png"), "image 2", "used", "used"),
    "complete of text": (image(complete="false"), "image 1", "used", "refused"),
    "complete of nonsense": (image(complete="so so"), "image 1", "refused", "refused"),
    "annotation that is none": (add("annotations", 7), "annotations[4]", "skipped", "refused"),
    "annotation without image": (without("image_id"), A, "skipped", "refused"),
    "annotation of no image": (annotation(image_id=99), A, "skipped", "refused"),
    "image_id of 1.5": (annotation(image_id=1.5), A, "skipped", "refused"),
    "image_id of NaN": (annotation(image_id=NAN), A, "skipped", "refused"),
    "annotation without id": (without("id"), "annotations[0]", "used", "used"),
    "annotation id of 1.5": (annotation(id=1.5), "annotation 1.5", "used", "used"),
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
    "half a run": (rle([0.5, HEIGHT * WIDTH - 0.5]), A, "skipped", "refused"),
    "stray point": (polygons([*polygon(5, 6, 30, 20), [9, 9]]), A, "used", "used"),
    "no mask and no box": (annotation(segmentation=[], bbox=None), A, "skipped", "refused"),
    "out of the image": (polygons(polygon(-50, 6, 30, 20)), A, "skipped", "used"),
    "hostile counts": (rle("~" * 50), A, "skipped", "refused"),
    "crowd": (annotation(iscrowd=1), A, "skipped", "used"),
    "crowd of a box": (annotation(iscrowd=1, segmentation=None), A, "skipped", "used"),
    "iscrowd of 2": (annotation(iscrowd=2), A, "skipped", "refused"),
    "iscrowd of nonsense": (annotation(iscrowd="no"), A, "skipped", "refused"),
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


def test_there_are_seventy_and_a_sound_file_has_none(tmp_path, photos):
    assert len(FAULTS) >= 70
    assert check_annotations(read_coco(write(tmp_path, sound())), photos) == []


@pytest.mark.reliability("seeded faults of annotation files: listed, and treated as said")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_has_the_effect_that_is_said(tmp_path, photos, name):
    spoil, record, training, evaluation = FAULTS[name]
    content = sound()
    spoil(content)
    path = write(tmp_path, content)
    findings = check_annotations(read_coco(path), photos)
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
    # Photos are not looked at where detections are given.
    if name not in ("photo without name", "path out of the folder", "absolute path"):
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
        evaluation = evaluate_model(load_ground_truth(path, photos=True), photos, WholePhoto)
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
    (finding,) = check_annotations(read_coco(path))
    assert (finding.training, finding.evaluation) == ("refused", "refused")
    with pytest.raises(OSError, match="none"):
        read_coco(tmp_path / "none.json")


def test_a_photo_of_another_size_costs_that_photo(tmp_path, photos):
    content = sound()
    FAULTS["photo of another size"][0](content)
    truth = load_ground_truth(write(tmp_path, content), photos=True)
    said = []
    evaluation = evaluate_model(truth, photos, WholePhoto, report=said.append)
    assert (evaluation.images, evaluation.unseen) == (2, 1)
    stated = f"the photo is {WIDTH}x{HEIGHT}, its annotations say {WIDTH}x61"
    assert said == [f"{photos / '1.png'}: {stated}"]


def test_problems_without_record_id_are_named_by_place(tmp_path):
    content = sound()
    for record in content["annotations"]:
        del record["id"]
    findings = check_annotations(parse_coco(content))
    assert [(f.record, f.problem) for f in findings] == [
        (f"annotations[{k}]", "has no id") for k in range(4)
    ]


def test_one_id_in_two_spellings_is_explained():
    content = sound()
    content["images"][0]["id"] = "2.0"
    problems = [f.problem for f in check_annotations(parse_coco(content))]
    assert 'has an id that appears twice: "2.0" and 2 are the same number' in problems


def test_photo_under_two_ids_is_named_whatever_its_folder_is_called():
    content = sound()
    for names, same in (
        (("a/1.png", "./a//1.png"), True),
        (("1.png", "1.PNG"), False),
        (("a/1.png", "b/1.png"), False),
    ):
        for entry, name in zip(content["images"], names, strict=True):
            entry["file_name"] = name
        found = [f for f in check_annotations(parse_coco(content)) if "same photo" in f.problem]
        assert [f.record for f in found] == (["image 2"] if same else [])


def test_sizes_are_shared_out_by_octave():
    assert by_octave(np.array([31.9, 32, 63.9, 64])) == {
        (16, 32): 0.25, (32, 64): 0.5, (64, 128): 0.25,
    }  # fmt: skip
    assert by_octave(np.array([])) == {}
