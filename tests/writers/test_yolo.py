import numpy as np
import pytest
import supervision as sv
from hypothesis import given

from found_masks import iou, mask_lists, segments_of, solid, write, write_photos
from sharpmask.writers.writer import Segmented
from sharpmask.writers.yolo import YoloWriter

pytestmark = pytest.mark.filterwarnings("ignore")  # supervision's own affair


def read(output):
    """Detections by name of the image, as supervision reads the data set."""
    yolo = output / "yolo"
    data = sv.DetectionDataset.from_yolo(
        str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"), force_masks=True
    )
    assert data.classes == ["object"]
    return {path.rsplit("/", 1)[-1]: detections for path, _, detections in data}


def test_supervision_reads_a_polygon_a_mask(tmp_path):
    photos, truth = write_photos(tmp_path / "photos", ["a.png", "b.png"])
    write(YoloWriter, photos, tmp_path / "out")
    found = read(tmp_path / "out")
    for photo in photos:
        masks = found[photo.path.name].mask
        # The disc in two pieces is one detection, not two.
        assert len(masks) == 4
        for mask, whole in zip(masks, solid(truth[photo.path]), strict=True):
            assert iou(mask, whole) > 0.85


def test_photos_of_one_name_keep_their_own_labels(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["x/a.png", "y/a.png", "a.jpg"])
    write(YoloWriter, photos, tmp_path / "out")
    images = tmp_path / "out/yolo/images"
    assert {path.name for path in images.iterdir()} == {"a.png", "a-2.png", "a-3.jpg"}
    for photo, name in zip(photos, ["a.png", "a-2.png", "a-3.jpg"], strict=True):
        assert (images / name).read_bytes() == photo.path.read_bytes()
    assert len(read(tmp_path / "out")) == 3


def test_photo_without_masks_has_an_empty_label(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"], masks=None)
    write(YoloWriter, photos, tmp_path / "out")
    assert (tmp_path / "out/yolo/labels/a.txt").read_bytes() == b""


def test_lists_name_the_photos_of_this_run_only(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png", "b.png"])
    write(YoloWriter, photos, tmp_path / "out")
    write(YoloWriter, photos[:1], tmp_path / "out")
    yolo = tmp_path / "out/yolo"
    assert (yolo / "photos.txt").read_text() == "./images/a.png\n"
    assert (yolo / "classes.txt").read_text() == "object\n"
    assert "train: photos.txt\n" in (yolo / "data.yaml").read_text()


def test_photos_are_copied_where_links_cannot_be_made(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("a privilege is not held")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    photos, _ = write_photos(tmp_path / "photos", ["a.png"])
    write(YoloWriter, photos, tmp_path / "out")
    image = tmp_path / "out/yolo/images/a.png"
    assert not image.is_symlink()
    assert image.read_bytes() == photos[0].path.read_bytes()
    assert [path.name for path in image.parent.iterdir()] == ["a.png"]


def test_a_second_run_writes_no_photo_over(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"])
    before = photos[0].path.read_bytes()
    for _ in range(2):
        write(YoloWriter, photos, tmp_path / "out")
    assert photos[0].path.read_bytes() == before
    assert not photos[0].path.is_symlink()


def test_photo_given_by_a_relative_path_is_linked(tmp_path, monkeypatch):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"])
    monkeypatch.chdir(tmp_path)
    path = photos[0].path.relative_to(tmp_path)
    write(YoloWriter, [Segmented(1, path, photos[0].segments)], tmp_path / "out")
    assert (tmp_path / "out/yolo/images/a.png").read_bytes() == path.read_bytes()


@given(mask_lists())
def test_every_mask_is_one_line_of_shares(tmp_path_factory, masks):
    output = tmp_path_factory.mktemp("out")
    photo = output / "a.png"
    photo.touch()
    write(YoloWriter, [Segmented(1, photo, segments_of(masks))], output)
    lines = (output / "yolo/labels/a.txt").read_text().splitlines()
    assert len(lines) == len(masks)
    for line in lines:
        category, *values = line.split()
        shares = np.array(values, float)
        assert category == "0"
        assert len(shares) >= 6
        assert len(shares) % 2 == 0
        assert ((shares >= 0) & (shares <= 1)).all()
