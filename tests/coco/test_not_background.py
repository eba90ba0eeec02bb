"""What is labelled in any form that can be read is never background."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from sharpmask.coco.annotations import load_coco
from sharpmask.data.sampling import PatchSampler
from sharpmask.data.scenes import SceneDataset
from sharpmask.geometry import SHARPMASK_GEOMETRY
from sharpmask.masks import decode

BOX = [25, 30, 70, 60]
OTHER = [140, 65, 60, 80]


def polygon(left, top, width, height):
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom]


def sound():
    """Two photos of two objects each; what is done to the first object is tested."""
    images = [
        {"id": k, "file_name": f"p{k}.png", "width": 240, "height": 180, "complete": True}
        for k in (1, 2)
    ]
    annotations = [
        {
            "id": 10 * k + n, "image_id": k, "category_id": 1, "bbox": box, "iscrowd": 0,
            "area": box[2] * box[3], "segmentation": [polygon(*box)],
        }
        for k in (1, 2)
        for n, box in enumerate((BOX, OTHER))
    ]  # fmt: skip
    categories = [{"id": 1, "name": "thing"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def change(**changes):
    return lambda content: content["annotations"][0].update(changes)


def without(*keys):
    def spoil(content):
        for key in keys:
            del content["annotations"][0][key]

    return spoil


def as_another_image(file_name):
    """The first object moves to an image entry of its own, of the same photo."""

    def spoil(content):
        entry = {**content["images"][0], "id": 101, "file_name": file_name}
        content["images"].append(entry)
        content["annotations"][0]["image_id"] = 101

    return spoil


def respelt(image_id, annotation_image_id):
    def spoil(content):
        content["images"][0]["id"] = image_id
        for annotation in content["annotations"][:2]:
            annotation["image_id"] = annotation_image_id

    return spoil


def under_a_crowd(content):
    """A crowd region over both objects of the photo."""
    crowd = {**content["annotations"][0], "id": 99, "iscrowd": 1, "bbox": [0, 0, 240, 180]}
    content["annotations"].insert(0, {**crowd, "segmentation": []})


RLE = {"size": [180, 240], "counts": [180 * 240 - 1, 2]}
LABELLED = {
    "untouched": lambda content: None,
    "empty segmentation": change(segmentation=[]),
    "no segmentation": without("segmentation"),
    "null segmentation": change(segmentation=None),
    "empty RLE": change(segmentation={"size": [180, 240], "counts": [180 * 240]}),
    "malformed RLE": change(segmentation=RLE),
    "RLE of another size": change(segmentation={"size": [5, 5], "counts": [0, 25]}),
    "NaN point": change(segmentation=[[*polygon(*BOX)[:6], 25, float("nan")]]),
    "two points": change(segmentation=[[25, 30, 95, 90]]),
    "two points, no box": change(segmentation=[[25, 30, 95, 90]], bbox=None),
    "line": change(segmentation=[[25, 60, 95, 60, 60, 60]]),
    "line, no box": change(segmentation=[[25, 60, 95, 60, 60, 60]], bbox=None),
    "stray point": change(segmentation=[polygon(*BOX), [120.0, 90.0]]),
    "stray point first": change(segmentation=[[120.0, 90.0], polygon(*BOX)]),
    "box of text": change(segmentation=[], bbox=["25", "30", "70.0", "60"]),
    "malformed box": change(bbox=["x"]),
    "crowd of a box": change(segmentation=[], iscrowd=1),
    "crowd of text": change(iscrowd="1"),
    "iscrowd of nonsense": change(iscrowd="maybe"),
    "iscrowd of text 0": change(iscrowd="0"),
    "unknown category": change(category_id=77),
    "unknown category, box alone": change(category_id=77, segmentation=[]),
    "category of text": change(category_id="1"),
    "same photo twice": as_another_image("p1.png"),
    "same photo by another path": as_another_image("./p1.png"),
    "image id of text": respelt("1", 1),
    "image_id of text": respelt(1, "1"),
    "image_id of a float": respelt(1, 1.0),
    "image ids of zeros": respelt("0001", 1),
    "under a crowd": under_a_crowd,
}  # fmt: skip
UNKNOWN_PLACE = {
    "nothing but a category": change(segmentation=[], bbox=None),
    "zero box": change(segmentation=[], bbox=[0, 0, 0, 0]),
    "box out of the image": change(segmentation=[], bbox=[500, 30, 70, 60]),
    "negative box": change(segmentation=[], bbox=[95, 30, -70, 60]),
    "NaN box": change(segmentation=[], bbox=[25, 30, float("nan"), 60]),
    "malformed RLE, box out of the image": change(segmentation=RLE, bbox=[500, 30, 70, 60]),
    "point": change(segmentation=[[60, 60]], bbox=None),
    "half-read polygon": change(segmentation=[[25, 30, 95, 30, None, 60]], bbox=None),
    "not complete": lambda content: content["images"][0].update(complete="false"),
}


@pytest.fixture
def read(tmp_path):
    def read(spoil):
        content = copy.deepcopy(sound())
        spoil(content)
        (tmp_path / "set.json").write_text(json.dumps(content))
        return load_coco(tmp_path / "set.json", tmp_path)

    return read


def is_negative(data, image, box):
    """Whether a window exactly on a box may be drawn as background."""
    sampler = PatchSampler(data, SHARPMASK_GEOMETRY, seed=0, batch_size=6)
    boxes = np.concatenate([image.boxes, np.array(image.crowds).reshape(-1, 4)])
    left, top, width, height = box
    window = np.array([left, top, left + width, top + height], float)
    scale = float(SHARPMASK_GEOMETRY.canonical_scale(window))
    return image.complete and sampler.is_negative(boxes, (window[:2] + window[2:]) / 2, scale)


@pytest.mark.parametrize("name", LABELLED)
def test_a_window_on_a_labelled_object_is_never_negative(read, name):
    data = read(LABELLED[name])
    of_the_photo = [image for image in data.images if image.path.name == "p1.png"]
    for image in of_the_photo:
        assert image.complete
        assert not is_negative(data, image, BOX)
        assert not is_negative(data, image, OTHER)
        if name != "under a crowd":
            assert is_negative(data, image, [180, 5, 40, 40])  # where nothing is labelled


@pytest.mark.parametrize("name", UNKNOWN_PLACE)
def test_a_photo_with_an_object_at_an_unknown_place_teaches_no_background(read, name):
    data = read(UNKNOWN_PLACE[name])
    assert [image.complete for image in data.images] == [False, True]
    assert len(data.images[0].instances) >= 1


def test_objects_of_one_photo_are_learned_once_wherever_they_stand(read):
    untouched, split = read(LABELLED["untouched"]), read(LABELLED["same photo twice"])
    for data in (untouched, split):
        assert sum(len(image.instances) for image in data.images) == 4


def test_crowd_regions_of_every_form_are_kept(read):
    """Those of all entries of a photo together; a box where there is no mask."""

    def spoil(content):
        as_another_image("p1.png")(content)
        first, second = content["annotations"][:2]
        first.update(iscrowd=1)
        second.update(iscrowd=1, segmentation=[])

    first, plain, other = read(spoil).images
    expected = np.zeros((180, 240), np.uint8)
    for left, top, width, height in (BOX, OTHER):
        expected[top : top + height, left : left + width] = 1
    assert plain.crowd is None
    for image in (first, other):
        np.testing.assert_array_equal(decode(image.crowd), expected)


def test_one_photo_in_two_files_is_one_photo(tmp_path):
    paths = []
    for number in (0, 1):
        content = sound()
        content["annotations"] = content["annotations"][number::2]
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(content))
    data = load_coco(paths, tmp_path)
    assert len(data.images) == 4
    for image in data.images:
        assert len(image.instances) == len(image.crowds) == 1
        assert not is_negative(data, image, BOX)
        assert not is_negative(data, image, OTHER)


def test_two_entries_of_a_photo_are_complete_only_together(read):
    def spoil(content):
        as_another_image("p1.png")(content)
        content["images"][2]["complete"] = 0

    assert [image.complete for image in read(spoil).images] == [False, True, False]


def test_boxes_that_are_not_background_reach_the_labels_of_scenes(read, tmp_path):
    for number in (1, 2):
        Image.new("RGB", (240, 180)).save(tmp_path / f"p{number}.png")

    def box_alone(content):
        change(segmentation=[])(content)
        del content["annotations"][2:]

    data = read(box_alone)
    scenes = SceneDataset(data, SHARPMASK_GEOMETRY, seed=0, scene_size=352, windows=32)
    scale = float(SHARPMASK_GEOMETRY.canonical_scale(np.array([25.0, 30, 95, 90])))
    objects = scenes._objects(0, (60, 60), scale)
    labels, _ = scenes._label(objects, np.ones((352, 352), bool))
    middle = labels.shape[0] // 2
    assert labels[middle, middle] == 0
    assert (labels == -1).any()
    assert sum(item.learned for item in objects) <= 1
