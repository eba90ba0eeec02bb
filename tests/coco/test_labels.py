"""Labels of other tools, read as the records of a COCO file: masks come back as they were."""

import base64
import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from found_masks import iou, mask_of, solid, write, write_photos
from sharpmask.coco.annotations import dataset_of
from sharpmask.coco.labelme_files import labelme_objects
from sharpmask.coco.labels import read_labels
from sharpmask.coco.mask_files import mask_objects
from sharpmask.coco.yolo_files import yolo_objects
from sharpmask.training.finetune import sound_labels
from sharpmask.writers.labelme import LabelmeWriter
from sharpmask.writers.mask_pngs import MaskWriter
from sharpmask.writers.yolo import YoloWriter


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", ["a.png", "b.png", "unlabelled.png"])


def masks_of(file):
    """The masks of each photo, in order."""
    return {
        image.file_name: [mask_of(annotation.rle) for annotation in image.annotations]
        for image in file.images
    }


def on_top(masks):
    """What shows of masks, the first on top."""
    shown, above = [], np.zeros(masks[0].shape, bool)
    for mask in masks:
        shown.append(mask & ~above)
        above |= mask
    return shown


@pytest.mark.parametrize(
    ("writer", "folder", "expected", "agreement"),
    [
        (LabelmeWriter, "labelme", lambda masks: masks, 1),
        (MaskWriter, "masks/single", lambda masks: masks, 1),
        (MaskWriter, "masks/indexed", on_top, 1),
        (YoloWriter, "yolo/labels", solid, 0.9),
    ],
)
def test_what_a_writer_wrote_is_read_back(photos, tmp_path, writer, folder, expected, agreement):
    photos, truth = photos
    write(writer, photos[:2], tmp_path / "out")
    file = read_labels(tmp_path / "out" / folder, tmp_path / "photos")
    found = masks_of(file)
    assert list(found) == ["a.png", "b.png"]  # nobody labelled the third
    for photo in photos[:2]:
        wanted = expected(truth[photo.path])
        got = found[photo.path.name]
        assert len(got) == len(wanted)
        for mask, whole in zip(got, wanted, strict=True):
            assert iou(mask, whole) >= agreement
    assert {name for _, name in file.categories} <= {"object", "class 0"}


def test_polygons_of_one_group_are_one_object(photos, tmp_path):
    photos, truth = photos
    write(partial(LabelmeWriter, polygons=True), photos[:1], tmp_path / "out")
    got = masks_of(read_labels(tmp_path / "out/labelme", tmp_path / "photos"))["a.png"]
    wanted = truth[photos[0].path]
    assert len(got) == len(wanted)
    assert iou(got[2], wanted[2]) > 0.85  # the disc in two pieces


def test_a_file_of_another_tool_costs_its_photo(photos, tmp_path):
    photos, _ = photos
    write(LabelmeWriter, photos[:2], tmp_path / "out")
    (tmp_path / "out/labelme/a.json").write_text('{"images": []}')
    file = read_labels(tmp_path / "out/labelme", tmp_path / "photos")
    assert [image.file_name for image in file.images] == ["b.png"]
    assert [str(p) for p in file.own_problems] == [
        "a.json: not a file of LabelMe: it has no list 'shapes'"
    ]
    (tmp_path / "out/labelme/b.json").write_text("{")
    with pytest.raises(ValueError, match=r"labelme: none of 2 files can be read, e.g. a.json"):
        read_labels(tmp_path / "out/labelme", tmp_path / "photos")


def test_photos_beside_their_labels_are_not_taken_for_masks(photos, tmp_path):
    photos, truth = photos
    write(LabelmeWriter, photos[:1], tmp_path / "out")
    content = (tmp_path / "out/labelme/a.json").read_bytes()
    (tmp_path / "photos/a.json").write_bytes(content)
    found = masks_of(read_labels(tmp_path / "photos", tmp_path / "photos"))
    assert list(found) == ["a.png"]
    assert len(found["a.png"]) == len(truth[photos[0].path])
    (tmp_path / "photos/a.json").unlink()
    with pytest.raises(ValueError, match="no labels of the photos in"):
        read_labels(tmp_path / "photos", tmp_path / "photos")


def test_masks_may_lie_beside_photos_of_their_names(tmp_path):
    for suffix in (".bmp", ".jpg", ".webp"):
        for old in tmp_path.iterdir():
            old.unlink()
        Image.new("RGB", (80, 60)).save(tmp_path / f"a{suffix}")
        Image.fromarray(np.eye(60, 80, dtype=np.uint8)).save(tmp_path / "a.png")
        (image,) = read_labels(tmp_path, tmp_path).images
        assert image.file_name == f"a{suffix}"
        (annotation,) = image.annotations
        np.testing.assert_array_equal(mask_of(annotation.rle), np.eye(60, 80, dtype=bool))


def test_every_shape_of_labelme_that_has_an_area_is_read(tmp_path):
    def shape(kind, *points, **more):
        return {"label": kind, "shape_type": kind, "points": [*map(list, points)], **more}

    png = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(png, "PNG")
    content = {
        "imageHeight": 60, "imageWidth": 80,
        "shapes": [
            shape("rectangle", (30, 40), (10, 20)),
            shape("circle", (40, 30), (40, 45)),
            shape("line", (1, 1), (5, 5)),
            shape("mask", (70, 10), (73, 13), mask=base64.b64encode(png.getvalue()).decode()),
        ],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    size, objects = labelme_objects(tmp_path / "a.json")
    assert size == (60, 80)
    assert [label for label, _ in objects] == ["rectangle", "circle", "mask"]
    for (_, (ring,)), draw in zip(
        objects[:2], (("rectangle", (10, 20, 29, 39)), ("ellipse", (25, 15, 55, 45))), strict=True
    ):
        pictures = Image.new("1", (80, 60)), Image.new("1", (80, 60))
        ImageDraw.Draw(pictures[0]).polygon(ring, fill=1)
        getattr(ImageDraw.Draw(pictures[1]), draw[0])(draw[1], fill=1)
        assert iou(*map(np.asarray, pictures)) > 0.9
    whole = mask_of(objects[2][1])
    np.testing.assert_array_equal(whole[10:14, 70:74], np.eye(4, dtype=bool))
    assert whole.sum() == 4


def labelme_file(path, *shapes, **more):
    """A file with shapes of some types: kind and points each."""
    shapes = [{"label": "a", "shape_type": kind, "points": points} for kind, points in shapes]
    path.write_text(json.dumps({"imageHeight": 60, "imageWidth": 80, "shapes": shapes} | more))
    return path


def test_mask_of_a_photo_without_end_is_refused(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(file, "PNG")
    shape = {"label": "a", "shape_type": "mask", "points": [[1, 1], [4, 4]]}
    shape["mask"] = base64.b64encode(file.getvalue()).decode()
    path = labelme_file(tmp_path / "a.json", shapes=[shape], imageHeight=2**62, imageWidth=2**62)
    with pytest.raises(ValueError, match="a shape is malformed"):
        labelme_objects(path)


def test_labels_are_found_by_a_name_as_macos_spells_it(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "photos/cafe\u0301.png")
    labelme_file(tmp_path / "caf\u00e9.json", ("polygon", [[1, 1], [40, 1], [40, 40]]))
    (image,) = read_labels(tmp_path, tmp_path / "photos").images
    assert image.file_name == "cafe\u0301.png"


def test_boxes_of_x_anylabeling_have_four_corners(tmp_path):
    corners = [[10.0, 20.0], [30.0, 20.0], [30.0, 40.0], [10.0, 40.0]]
    turned = [[40, 10], [50, 20], [40, 30], [30, 20]]
    kinds = ("rotation", "quadrilateral", "oriented_rectangle")
    path = labelme_file(
        tmp_path / "a.json", ("rectangle", corners), *((kind, turned) for kind in kinds)
    )
    _, ((_, (box,)), *others) = labelme_objects(path)
    assert box == [value for corner in corners for value in corner]
    assert [ring for _, (ring,) in others] == [[40, 10, 50, 20, 40, 30, 30, 20]] * 3


@pytest.mark.parametrize(
    ("kind", "points", "size", "problem"),
    [
        ("cuboid", [[1, 1]], {}, "a shape is of the type 'cuboid', which is not read"),
        ("polygon", [[1, None]], {}, "a shape is malformed: a point is null, not a finite number"),
        ("polygon", [[1, 1]], {"imageWidth": None}, "imageWidth is null, not an integer"),
    ],
)
def test_shape_that_cannot_be_read_is_not_left_as_background(tmp_path, kind, points, size, problem):
    path = labelme_file(tmp_path / "a.json", (kind, points), **size)
    with pytest.raises(ValueError, match=problem):
        labelme_objects(path)


def test_lines_of_yolo_without_polygon_are_named(tmp_path):
    path = tmp_path / "a.txt"
    for text, problem in (
        ("0 .5 .5 .1 .1", "line 1 is a box; masks are needed"),
        ("0 0 0 1 1\n", "line 1 is a box"),
        ("1 0 0 1 0 1 1\n\n0 .1 .2 .3", "line 3: expected x, y of at least 3 points, got 3"),
        ("0 a b", "line 1 holds more than numbers"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=problem):
            yolo_objects(path, (10, 20))
    path.write_text("")
    assert yolo_objects(path, (10, 20)) == []
    path.write_text("7 0 0 1 0 1 .5\r\n", "utf-8-sig")  # as Windows writes it
    assert yolo_objects(path, (10, 20)) == [("class 7", [[0, 0, 20, 0, 20, 5]])]


def test_every_colour_of_a_mask_picture_is_an_object(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[2:6, 3:9] = (255, 0, 0)
    pixels[10:15, 3:9] = (0, 0, 255)
    pixels[10:15, 20:24] = (255, 0, 0)  # the other piece of the first
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    grey = Image.fromarray(np.full((20, 30), 70000 % 65536, np.uint16))
    Image.fromarray(pixels).save(tmp_path / "photos" / "b.png")
    grey.save(tmp_path / "masks" / "b.png")
    found = masks_of(read_labels(tmp_path / "masks", tmp_path / "photos"))
    assert sorted(int(mask.sum()) for mask in found["a.png"]) == [30, 44]
    assert [int(mask.sum()) for mask in found["b.png"]] == [600]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_masks_may_be_of_any_kind(tmp_path, mode):
    mask = np.eye(9, dtype=np.uint8)
    picture = Image.fromarray(255 * mask)
    if mode == "I;16":
        picture = Image.fromarray(mask.astype(np.uint16))
    elif mode == "P":
        picture.putpalette(bytes(range(256)) * 3)
    else:
        picture = picture.convert(mode)
    if mode in ("LA", "RGBA"):  # a white ground that cannot be seen
        picture.paste("white", mask=Image.fromarray(255 * (1 - mask)))
        picture.putalpha(Image.fromarray(255 * mask))
    assert picture.mode == mode
    picture.save(tmp_path / "a.png")
    size, ((_, rle),) = mask_objects(tmp_path / "a.png")
    assert size == (9, 9)
    np.testing.assert_array_equal(mask_of(rle), mask.astype(bool))


def test_a_mask_too_large_for_pillow_is_told(tmp_path, monkeypatch):
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="a mask cannot be read"):
        mask_objects(tmp_path / "a.png")


@pytest.mark.parametrize(("columns", "count", "value"), [(10, 1, 255), (9, 0, 255), (10, 0, None)])
def test_one_value_for_many_objects_is_told(tmp_path, columns, count, value):
    cells = np.zeros((20, 100), np.uint8)
    for column in range(columns):
        cells[5:10, 10 * column : 10 * column + 5] = value or 1 + column
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(cells).save(tmp_path / "photos" / "a.png")
    Image.fromarray(cells).save(tmp_path / "masks" / "a.png")
    file = read_labels(tmp_path / "masks", tmp_path / "photos")
    assert len(file.own_problems) == count
    for problem in file.own_problems:
        assert str(problem).startswith("a.png: a value has 10 pieces, and every value is one obj")
    said = []
    sound_labels(tmp_path / "masks", tmp_path / "photos", said.append)
    assert len(said) == count
    assert all(line.startswith("masks: 1 files may hold one mask for all") for line in said)


def test_a_photo_is_not_taken_for_a_picture_of_masks(tmp_path):
    colours = np.arange(1, 2**16 + 2, dtype=np.uint32)
    pixels = np.stack([colours >> shift & 255 for shift in (0, 8, 16)], axis=1).astype(np.uint8)
    Image.fromarray(pixels[None]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has 65537 colours; masks have one for each object"):
        mask_objects(tmp_path / "a.png")
    Image.fromarray(pixels[None, :300]).save(tmp_path / "a.png")
    assert len(mask_objects(tmp_path / "a.png")[1]) == 300


def voc_picture(path, index):
    """As PASCAL VOC's: a palette, whose last colour means void."""
    picture = Image.fromarray(index)
    picture.putpalette([0, 0, 0, 128, 0, 0, *[9] * 3 * 253, 224, 224, 192])
    picture.save(path)


def test_the_void_of_pascal_voc_is_neither_object_nor_background(tmp_path):
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.jpg")
    index = np.zeros((30, 40), np.uint8)
    index[4:21, 4:21] = index[22:29, 25:35] = 255  # an outline, and an object that is too hard
    index[5:20, 5:20] = 7
    voc_picture(tmp_path / "masks" / "a.png", index)
    file = sound_labels(tmp_path / "masks", tmp_path / "photos", print)
    thing, void = file.images[0].annotations
    assert not thing.crowd
    np.testing.assert_array_equal(mask_of(thing.rle), index == 7)
    (photo,) = dataset_of([file], tmp_path / "photos").images
    assert len(photo.instances) == 1
    assert void.crowd
    np.testing.assert_array_equal(mask_of(photo.crowd), index == 255)


@pytest.mark.parametrize("others", [[], range(1, 255)], ids=["alone", "the 255th"])
def test_the_last_of_many_objects_is_no_void(tmp_path, others):
    index = np.zeros((16, 17), np.uint8)
    index.flat[: 1 + len(others)] = [255, *others]
    voc_picture(tmp_path / "a.png", index)
    objects = mask_objects(tmp_path / "a.png")[1]
    assert len(objects) == 1 + len(others)
    assert all(label is not None for label, _ in objects)


def test_what_macos_leaves_beside_single_masks_is_passed_over(tmp_path):
    Image.fromarray(np.eye(9, dtype=bool)).save(tmp_path / "001.png")
    (tmp_path / "._001.png").write_bytes(b"\0\5\x16\7")
    size, ((_, rle),) = mask_objects(tmp_path)
    assert size == (9, 9)
    np.testing.assert_array_equal(mask_of(rle), np.eye(9, dtype=bool))


@pytest.mark.slow
def test_what_labelme_itself_saves_is_read(tmp_path):
    labelme = pytest.importorskip("labelme._label_file", reason="labelme is not installed: Qt")
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.png")
    from labelme.utils import img_arr_to_b64

    common = {"label": "cell", "flags": {}, "description": "", "group_id": None}
    polygon = {"points": [[1.0, 2.0], [11.0, 2.0], [11.0, 8.0]], "shape_type": "polygon"}
    box = {"points": [[20.0, 10.0], [26.0, 14.0]], "shape_type": "mask"}
    shapes = [common | polygon, common | box | {"mask": img_arr_to_b64(mask.astype(np.uint8))}]
    labelme.LabelFile().save(
        filename=str(tmp_path / "a.json"), shapes=shapes, image_path="photos/a.png",
        image_height=30, image_width=40,
    )  # fmt: skip
    (tmp_path / "labels").mkdir()
    (tmp_path / "a.json").rename(tmp_path / "labels" / "a.json")
    found = masks_of(read_labels(tmp_path / "labels", tmp_path / "photos"))["a.png"]
    np.testing.assert_array_equal(found[1][10:15, 20:27], mask)
    assert found[1].sum() == mask.sum()
    assert 25 <= found[0].sum() <= 35  # a triangle of 30
