import base64
import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from found_masks import iou, solid, write, write_photos
from sharpmask.writers.labelme import LabelmeWriter


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", ["a.png", "x/a.png", "Ünïcode 照片.png"])


def load(output, name):
    return json.loads((output / "labelme" / f"{name}.json").read_bytes())


def test_masks_come_back_from_their_corners_and_pictures(photos, tmp_path):
    photos, truth = photos
    write(LabelmeWriter, photos, tmp_path / "out")
    for photo, name in zip(photos, ["a", "a-2", "Ünïcode 照片"], strict=True):
        content = load(tmp_path / "out", name)
        assert (content["imageHeight"], content["imageWidth"]) == (96, 128)
        path = tmp_path / "out/labelme" / content["imagePath"]
        assert path.samefile(photo.path)
        assert not content["imagePath"].startswith("/")
        for shape, mask in zip(content["shapes"], truth[photo.path], strict=True):
            (x0, y0), (x1, y1) = shape["points"]
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            full = np.zeros((96, 128), bool)
            full[y0 : y1 + 1, x0 : x1 + 1] = picture
            np.testing.assert_array_equal(full, mask)
            assert shape["shape_type"] == "mask"
            assert shape["label"] == "object"
        assert [shape["description"] for shape in content["shapes"]] == [
            f"score {score:.3f}" for score in photo.segments.scores
        ]


def test_pieces_of_a_mask_are_a_group_of_polygons(photos, tmp_path):
    photos, truth = photos
    write(partial(LabelmeWriter, polygons=True), photos[:1], tmp_path / "out")
    shapes = load(tmp_path / "out", "a")["shapes"]
    assert [shape["group_id"] for shape in shapes] == [None, None, 2, 2, None]
    wholes = solid(truth[photos[0].path])
    for shape, whole in zip(shapes[:3] + shapes[4:], wholes, strict=True):
        assert shape["shape_type"] == "polygon"
        picture = Image.new("1", (128, 96))
        ImageDraw.Draw(picture).polygon([tuple(point) for point in shape["points"]], fill=1)
        assert iou(np.asarray(picture), whole) > 0.85


def test_photo_without_masks_has_a_file_without_shapes(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"], masks=None)
    write(LabelmeWriter, photos, tmp_path / "out")
    assert load(tmp_path / "out", "a")["shapes"] == []


def test_nothing_is_written_beside_the_photos(photos, tmp_path):
    photos, _ = photos
    before = sorted((tmp_path / "photos").rglob("*"))
    write(LabelmeWriter, photos, tmp_path / "out")
    assert sorted((tmp_path / "photos").rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("as_polygons", [False, True])
def test_labelme_reads_the_masks(photos, tmp_path, as_polygons):
    reader = pytest.importorskip("labelme._label_file", reason="labelme is not installed: Qt")
    from labelme.utils import shape_to_mask

    photos, truth = photos
    write(partial(LabelmeWriter, polygons=as_polygons), photos, tmp_path / "out")
    for photo, name in zip(photos, ["a", "a-2", "Ünïcode 照片"], strict=True):
        file = reader.LabelFile(str(tmp_path / f"out/labelme/{name}.json"))
        assert file.image_data == photo.path.read_bytes()
        shapes = file.shapes
        if as_polygons:
            shapes = shapes[:3] + shapes[4:]  # the second piece of the third mask
        masks = solid(truth[photo.path]) if as_polygons else truth[photo.path]
        for shape, mask in zip(shapes, masks, strict=True):
            if as_polygons:
                assert iou(shape_to_mask((96, 128), shape["points"], "polygon"), mask) > 0.85
            else:
                (x0, y0), (x1, y1) = np.array(shape["points"], int)
                np.testing.assert_array_equal(shape["mask"], mask[y0 : y1 + 1, x0 : x1 + 1])
                assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()
