import json
import os
import sys
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from PIL import Image, ImageDraw

from found_masks import any_mask, iou, segments_of, solid, write, write_photos
from sharpmask.writers.labelstudio import LabelStudioWriter, brush_rle
from sharpmask.writers.writer import Segmented


def unpack(stream):
    """Read Label Studio's run lengths bit by bit, as its format is described (thi.ng/rle-pack)."""
    bits = "".join(f"{byte:08b}" for byte in stream)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        if is_run:
            values += [read(word)] * length
        else:
            values += [read(word) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - at < 8
    return values


def brush_of(stream, image_size):
    picture = np.array(unpack(stream), np.uint8).reshape(*image_size, 4)
    assert (picture == picture[..., :1]).all()
    assert set(np.unique(picture)) <= {0, 255}
    return picture[..., 3] > 0


@given(any_mask)
def test_brush_is_the_mask(mask):
    np.testing.assert_array_equal(brush_of(brush_rle(mask), mask.shape), mask)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("count", [1, 8, 16384, 16385, 40000])
def test_runs_of_every_length_come_back(filled, count):
    mask = np.full((1, count), filled)
    np.testing.assert_array_equal(brush_of(brush_rle(mask), mask.shape), mask)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", ["a.png", "x y/ü.png"])


def tasks(output):
    return json.loads((output / "labelstudio/tasks.json").read_bytes())


def test_tasks_hold_brush_regions_that_are_the_masks(photos, tmp_path):
    photos, truth = photos
    write(LabelStudioWriter, photos, tmp_path / "out")
    for task, photo in zip(tasks(tmp_path / "out"), photos, strict=True):
        (prediction,) = task["predictions"]
        assert prediction["model_version"].startswith("sharpmask ")
        assert prediction["score"] == pytest.approx(0.5)
        for region, mask in zip(prediction["result"], truth[photo.path], strict=True):
            assert region["type"] == "brushlabels"
            assert (region["original_height"], region["original_width"]) == (96, 128)
            assert region["value"]["brushlabels"] == ["object"]
            np.testing.assert_array_equal(brush_of(region["value"]["rle"], (96, 128)), mask)
        regions = prediction["result"]
        assert len({region["id"] for region in regions}) == 4
        scores = [region["score"] for region in regions]
        assert scores == pytest.approx(photo.segments.scores.tolist())


def test_tasks_hold_polygons_in_percent(photos, tmp_path):
    photos, truth = photos
    write(partial(LabelStudioWriter, polygons=True), photos[:1], tmp_path / "out")
    ((task,), wholes) = tasks(tmp_path / "out"), solid(truth[photos[0].path])
    for region, whole in zip(task["predictions"][0]["result"], wholes, strict=True):
        assert region["type"] == "polygonlabels"
        points = np.array(region["value"]["points"]) * (1.28, 0.96)
        picture = Image.new("1", (128, 96))
        ImageDraw.Draw(picture).polygon([tuple(point) for point in points], fill=1)
        assert iou(np.asarray(picture), whole) > 0.85


def test_addresses_are_quoted_paths_below_the_photos_folder(photos, tmp_path):
    photos, _ = photos
    write(LabelStudioWriter, photos, tmp_path / "out")
    write(partial(LabelStudioWriter, address="https://a.b/"), photos, tmp_path / "other")
    assert [
        [task["data"]["image"] for task in tasks(tmp_path / name)] for name in ("out", "other")
    ] == [
        ["/data/local-files/?d=a.png", "/data/local-files/?d=x%20y/%C3%BC.png"],
        ["https://a.b/a.png", "https://a.b/x%20y/%C3%BC.png"],
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="names there are Unicode")
def test_name_that_is_not_utf8_is_addressed_by_its_bytes(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    write(LabelStudioWriter, [Segmented(1, path, segments_of([], (4, 5)))], tmp_path)
    (task,) = tasks(tmp_path)
    assert task["data"]["image"] == "/data/local-files/?d=caf%E9.png"
    assert task["predictions"][0]["score"] == 0


@pytest.mark.parametrize(("as_polygons", "tag"), [(False, "BrushLabels"), (True, "PolygonLabels")])
def test_regions_name_tags_of_the_interface(photos, tmp_path, as_polygons, tag):
    photos, _ = photos
    write(partial(LabelStudioWriter, polygons=as_polygons), photos, tmp_path / "out")
    interface = ElementTree.parse(tmp_path / "out/labelstudio/config.xml").getroot()
    labels, image = interface.find(tag), interface.find("Image")
    for task in tasks(tmp_path / "out"):
        assert image.get("value").removeprefix("$") in task["data"]
        for region in task["predictions"][0]["result"]:
            assert region["type"] == tag.lower()
            assert region["from_name"] == labels.get("name")
            assert region["to_name"] == labels.get("toName") == image.get("name")
            assert region["value"][tag.lower()] == [labels.find("Label").get("value")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_sdk_decodes_the_brush_and_accepts_the_tasks(photos, tmp_path):
    brush = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    from label_studio_sdk.label_interface import LabelInterface

    photos, truth = photos
    for as_polygons in (False, True):
        output = tmp_path / f"out{as_polygons}"
        write(partial(LabelStudioWriter, polygons=as_polygons), photos, output)
        interface = LabelInterface((output / "labelstudio/config.xml").read_text())
        interface.validate()
        for task in tasks(output):
            assert interface.validate_prediction(task["predictions"][0])
    for task, photo in zip(tasks(tmp_path / "outFalse"), photos, strict=True):
        for region, mask in zip(task["predictions"][0]["result"], truth[photo.path], strict=True):
            picture = brush.decode_rle(region["value"]["rle"]).reshape(96, 128, 4)
            np.testing.assert_array_equal(picture[..., 3] > 0, mask)
