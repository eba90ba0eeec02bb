import gzip
import json
import re

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sharpmask.coco.annotations import leave_out_unreadable, load_coco
from sharpmask.coco.problems import MIN_AREA, MIN_SIDE
from sharpmask.masks import decode
from synthetic_coco import compressed_rle, uncompressed_rle

SIZE = (40, 60)
SQUARE = np.zeros(SIZE, np.uint8)
SQUARE[10:30, 20:45] = 1
POLYGON = [[20, 10, 45, 10, 45, 30, 20, 30]]


def content(*annotations, **entry):
    """A file with one image; every annotation is completed to a usable one."""
    usable = {"image_id": 5, "category_id": 2, "segmentation": POLYGON}
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1], **entry}],
        "annotations": [
            usable | {"id": k} | annotation if isinstance(annotation, dict) else annotation
            for k, annotation in enumerate(annotations)
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 40, "name": "dog"}],
    }


@pytest.fixture
def read(tmp_path):
    """Write a file and load it."""

    def read(what, name="a.json"):
        path = tmp_path / name
        path.write_text(what if isinstance(what, str) else json.dumps(what))
        return load_coco(path, tmp_path)

    return read


# --- what is read ---


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2
def test_the_synthetic_set_as_pycocotools_reads_it(coco_folder):
    dataset = load_coco(coco_folder.train, coco_folder.images)
    theirs = COCO(coco_folder.train)
    names = {c["id"]: c["name"] for c in theirs.dataset["categories"]}
    count = 0
    for image in dataset.images:
        for instance in image.instances:
            annotation = theirs.anns[instance.id]
            assert annotation["image_id"] == image.id
            assert dataset.categories[instance.category] == names[annotation["category_id"]]
            mask = theirs.annToMask(annotation)
            np.testing.assert_array_equal(decode(instance.rle), mask)
            rows, columns = np.nonzero(mask)
            assert instance.box == (
                columns.min(), rows.min(), columns.max() + 1, rows.max() + 1,
            )  # fmt: skip
            count += 1
    usable = [a for a in theirs.anns.values() if not a["iscrowd"]]
    assert count == len(usable) > 10
    assert dataset.skipped == {"crowd": 3}
    assert [image.id for image in dataset.images if not image.complete] == [15]
    assert all(image.path.is_file() for image in dataset.images)
    for image in dataset.images:
        np.testing.assert_array_equal(image.read(), np.asarray(Image.open(image.path)))
    assert dataset.images[0].size == np.asarray(Image.open(dataset.images[0].path)).shape[:2]


@pytest.mark.parametrize(
    "segmentation",
    [
        POLYGON,
        [[*POLYGON[0][:6], 20, 30], [25, 12, 30, 12, 30, 20, 25, 20]],  # overlapping parts
        uncompressed_rle(SQUARE),
        compressed_rle(SQUARE),
    ],
)
def test_all_forms_of_a_segmentation_give_the_same_mask(read, segmentation):
    dataset = read(content({"segmentation": segmentation}))
    instance = dataset.images[0].instances[0]
    np.testing.assert_array_equal(decode(instance.rle), SQUARE)
    assert instance.box == (20, 10, 45, 30)
    assert not dataset.skipped


def test_category_ids_may_have_gaps_and_files_may_number_them_differently(tmp_path):
    for name, ids in (("one", (2, 40)), ("two", (7, 1))):
        file = content({"category_id": ids[0]}, {"category_id": ids[1]}, file_name=f"{name}.png")
        file["categories"] = [
            {"id": ids[0], "name": "cat"},
            {"id": ids[1], "name": "dog" if name == "one" else "cow"},
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
    dataset = load_coco([tmp_path / "one.json", tmp_path / "two.json"], tmp_path)
    assert dataset.categories == ("cat", "dog", "cow")
    found = [[i.category for i in image.instances] for image in dataset.images]
    assert found == [[0, 1], [0, 2]]
    assert dataset.category_ids == (2, 40, 1)
    # The same image id in two files is not the same photo.
    assert [image.path.name for image in dataset.images] == ["one.png", "two.png"]


def test_one_id_for_categories_of_two_files_is_given_up(tmp_path):
    for name in ("cat", "dog"):
        file = content(file_name=f"{name}.png") | {"categories": [{"id": 1, "name": name}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
    dataset = load_coco([tmp_path / "cat.json", tmp_path / "dog.json"], tmp_path)
    assert dataset.categories == ("cat", "dog")
    assert dataset.category_ids == (1, 2)


def test_complete_is_the_default(read):
    assert read(content()).images[0].complete
    assert not read(content(complete=False)).images[0].complete


def test_boxes(read):
    image = read(content({}, {"segmentation": [[1, 2, 31, 2, 31, 32]]})).images[0]
    np.testing.assert_array_equal(image.boxes, [i.box for i in image.instances])
    assert read(content()).images[0].boxes.shape == (0, 4)


# --- what is left out and counted ---


def rectangle(width, height):
    return {"segmentation": [[2, 3, 2 + width, 3, 2 + width, 3 + height, 2, 3 + height]]}


@pytest.mark.parametrize(
    ("annotation", "reason", "crowds"),
    [
        ({"iscrowd": 1}, "crowd", [(20, 10, 45, 30)]),
        ({"iscrowd": 1, "segmentation": uncompressed_rle(SQUARE)}, "crowd", [(20, 10, 45, 30)]),
        (rectangle(MIN_SIDE - 1, 30), "smaller", [(2, 3, 2 + MIN_SIDE - 1, 33)]),
        (rectangle(30, MIN_SIDE - 1), "smaller", [(2, 3, 32, 3 + MIN_SIDE - 1)]),
        (rectangle(11, 9), "smaller", [(2, 3, 13, 12)]),
        ({"category_id": 3}, "unknown category", [(20, 10, 45, 30)]),
        ({"category_id": [2]}, "unknown category", [(20, 10, 45, 30)]),
        ({"category_id": None}, "unknown category", [(20, 10, 45, 30)]),
        ({"image_id": 6}, "image_id of no image", []),
        ({"image_id": None}, "no image_id", []),
        ({"image_id": [5]}, "no image_id", []),
        ({"image_id": 5.5}, "no image_id", []),
        ("no annotation", "no image_id", []),
        ({"iscrowd": "perhaps"}, "iscrowd", [(20, 10, 45, 30)]),
        ({"segmentation": None}, "no segmentation", []),
        ({"segmentation": []}, "no segmentation", []),
        ({"segmentation": [[1, 2, 3, 4]]}, "malformed", [(1, 2, 3, 4)]),
        ({"segmentation": [[1, 2, 3, 4, 5, "six"]]}, "malformed", []),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "malformed", []),
        ({"segmentation": {"size": [40, 60], "counts": "\x01\x02"}}, "malformed", []),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "malformed", []),
        ({"segmentation": {"size": [40, 60], "counts": [2400]}}, "smaller", []),
    ],
)
def test_unusable_annotations_are_counted_and_the_others_stay(read, annotation, reason, crowds):
    dataset = read(content({}, annotation, {"category_id": 40}))
    assert [i.id for i in dataset.images[0].instances] == [0, 2]
    assert [(reason in key, n) for key, n in dataset.skipped.items()] == [(True, 1)]
    assert list(dataset.images[0].crowds) == crowds


def test_boxes_are_enough_where_they_are_asked_for(read, tmp_path):
    box = {"segmentation": None, "bbox": [2.0, 3, 20, 10]}
    unusable = ({"segmentation": [[1, 2, 3, 4]]}, box | {"category_id": 3}, box | {"iscrowd": 1})
    assert len(read(content(box, *unusable)).images[0].instances) == 0
    (found,) = load_coco(tmp_path / "a.json", tmp_path, boxes=True).images[0].instances
    assert (found.id, found.category, found.box) == (0, 0, (2, 3, 22, 13))
    mask = decode(found.rle)
    assert mask[3:13, 2:22].all()
    assert mask.sum() == 200


def test_the_smallest_objects_that_are_kept(read):
    dataset = read(content(rectangle(MIN_SIDE, MIN_AREA // MIN_SIDE), rectangle(10, 10)))
    assert len(dataset.images[0].instances) == 2


# --- errors name the file and the entry ---


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", "a list 'images' is missing"),
        (content() | {"annotations": {}}, "a list 'annotations' is missing"),
        ({"images": [], "annotations": []}, "has no list 'categories'"),
        (
            content() | {"categories": [{"name": "cat"}]},
            r"categories\[0\]: has no 'id', only {\"name",
        ),
        (content() | {"categories": [{"id": [1], "name": "cat"}]}, r"categories\[0\]: id is \[1\]"),
        (content() | {"categories": [{"id": 1, "name": None}]}, "name is null, not a name"),
        (content() | {"categories": ["cat"]}, r"categories\[0\]: is \"cat\", not an object"),
        (
            content() | {"images": ["a.png"]},
            r"images\[0\]: is \"a.png\", not an object with an 'id'",
        ),
        (content() | {"images": [{"id": 5, "height": 4, "width": 4}]}, "image 5: has no file_name"),
        (content() | {"images": [{"id": 5, "height": 4}]}, "image 5: has no 'width', only"),
        (content(height="tall"), 'image 5: height is "tall", not an integer'),
        (content(height=float("inf")), "image 5: height is Infinity, not an integer"),
        (content(height=40.5), "image 5: height is 40.5, not an integer"),
        (content(id=None), r"images\[0\]: id is null, not an integer"),
        (content(id=1.5), r"images\[0\]: id is 1.5, not an integer"),
        (content(id=[5]), r"images\[0\]: id is \[5\], not an integer"),
        (content(width=0), "image 5: has height 40 and width 0"),
        (content(width=-60), "image 5: has height 40 and width -60"),
        (content(width=10**12), "image 5: has height 40 and width 1000000000000"),
        (content(width=10**8), "image 5: has more than 200000000 pixels"),
        (content(complete="perhaps"), 'image 5: "complete" is "perhaps", neither 0 nor 1'),
        (content() | {"images": content()["images"] * 2}, "image 5: has an id that appears twice"),
    ],
)
def test_errors_name_file_and_entry(tmp_path, read, what, message):
    pattern = f"^{re.escape(str(tmp_path / 'bad.json'))}: .*{message}"
    with pytest.raises(ValueError, match=pattern) as caught:
        read(what, "bad.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        load_coco(tmp_path / "none.json", tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"a\.json: not a JSON file"):
        load_coco(tmp_path / "a.json", tmp_path)


def test_a_file_packed_by_gzip_says_so(tmp_path):
    (tmp_path / "a.json").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ValueError, match=r"a\.json: not a JSON file: it is packed by gzip"):
        load_coco(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "b/../../a.png", "/etc/passwd", "..", r"..\a.png"])
def test_photos_outside_the_folder_are_refused(read, name):
    with pytest.raises(
        ValueError, match=r"a\.json: image 5: has a file_name, .* that leads outside"
    ):
        read(content(file_name=name))


def test_photos_may_lie_in_folders_and_behind_links(tmp_path, read):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "far.png")
    (tmp_path / "set" / "b").mkdir(parents=True)
    (tmp_path / "set" / "b" / "a.png").symlink_to(tmp_path / "far.png")
    (tmp_path / "set.json").write_text(json.dumps(content(file_name="b/a.png")))
    dataset = load_coco(tmp_path / "set.json", tmp_path / "set")
    assert dataset.images[0].read().shape == (*SIZE, 3)


# --- photos that cannot be used ---


@pytest.mark.parametrize(
    ("stated", "on_disk"),
    [
        ("day\\a.png", "day/a.png"),  # as Windows writes it
        ("caf\u00e9.png", "cafe\u0301.png"),  # as archives of macOS hold it
        ("cafe\u0301\\a.png", "caf\u00e9/a.png"),
        ("day\\a.png", "day\\a.png"),
    ],
)
def test_photos_are_found_as_other_systems_spell_them(tmp_path, read, stated, on_disk):
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / on_disk)
    data = read(content({}, file_name=stated))
    assert data.images[0].path == tmp_path / on_disk
    assert leave_out_unreadable(data)[1] == []


def test_unreadable_photos_are_left_out_and_named(coco_folder, tmp_path):
    loaded = load_coco(coco_folder.train, coco_folder.images)
    for image in loaded.images:
        (tmp_path / image.path.name).write_bytes(image.path.read_bytes())
    bad = [image.path.name for image in loaded.images[2:6]]
    (tmp_path / bad[0]).unlink()
    (tmp_path / bad[1]).write_text("no picture")
    # Its header is sound: only decoding shows that the rest is missing.
    whole = (tmp_path / bad[2]).read_bytes()
    (tmp_path / bad[2]).write_bytes(whole[: len(whole) // 2])
    height, width = loaded.images[5].size
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (width, height)).save(tmp_path / bad[3], exif=exif)
    dataset, problems = leave_out_unreadable(load_coco(coco_folder.train, tmp_path))
    kept = [image.id for image in loaded.images if image.path.name not in bad]
    assert [image.id for image in dataset.images] == kept
    assert [str(tmp_path / name) in text for name, text in zip(bad, problems, strict=True)] == (
        [True] * 4
    )
    assert "no such file" in problems[0]
    assert (
        f"is {height}x{width}, its annotations say {width}x{height}; were they made " in problems[3]
    )
    assert "without its EXIF orientation?" in problems[3]
    assert dataset.categories == loaded.categories
    assert dataset.skipped == loaded.skipped


def test_sound_photos_all_stay(coco_folder):
    loaded = load_coco(coco_folder.train, coco_folder.images)
    dataset, problems = leave_out_unreadable(loaded)
    assert dataset == loaded
    assert problems == []


def test_limits_are_those_of_fairs_sampler():
    assert (MIN_AREA, MIN_SIDE) == (100, 5)
    assert coco_mask.area(compressed_rle(SQUARE)) >= MIN_AREA
