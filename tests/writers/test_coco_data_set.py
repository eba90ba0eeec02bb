import json
import warnings
from functools import partial

import numpy as np
import pytest
import supervision as sv
from pycocotools.coco import COCO

from found_masks import iou, solid, write, write_photos
from sharpmask.writers.coco_data_set import CocoWriter
from sharpmask.writers.writer import Destination, Segmented

NAMES = ["a.png", "q/b.png", "Ünïcode 照片.png"]


@pytest.fixture(params=[False, True], ids=["rle", "polygons"])
def as_polygons(request):
    return request.param


@pytest.fixture
def written(tmp_path, as_polygons):
    """Photos, their masks and the file; the last photo has no mask."""
    photos, truth = write_photos(tmp_path / "photos", NAMES[:2])
    photos += write_photos(tmp_path / "photos", NAMES[2:], masks=None)[0]
    photos = [
        Segmented(number, photo.path, photo.segments, photo.image)
        for number, photo in enumerate(photos, start=10)
    ]
    write(partial(CocoWriter, polygons=as_polygons), photos, tmp_path / "out")
    return photos, truth, tmp_path / "out/coco.json"


def check_masks(found, truth, as_polygons):
    """Equal as RLE; as polygons close to the masks without holes."""
    assert len(found) == len(truth)
    if not as_polygons:
        np.testing.assert_array_equal(found, truth)
    for mask, whole in zip(found, solid(truth), strict=True):
        if as_polygons:
            assert iou(mask, whole) > 0.85


def test_pycocotools_reads_images_and_annotations(written, as_polygons, capsys):
    photos, truth, file = written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools and NumPy 2
        coco = COCO(str(file))
        assert coco.getImgIds() == [10, 11, 12]
        assert [image["file_name"] for image in coco.loadImgs([10, 11, 12])] == NAMES
        assert [(image["height"], image["width"]) for image in coco.loadImgs([10, 12])] == (
            [(96, 128)] * 2
        )
        assert coco.getCatIds(["object"]) == [1]
        assert sorted(coco.getAnnIds()) == list(range(1, 9))
        for photo in photos[:2]:
            annotations = coco.loadAnns(coco.getAnnIds([photo.id]))
            masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
            # The disc's second piece is not a solid mask's, but COCO keeps it.
            check_masks(
                masks[:2] + masks[3:], truth[photo.path][:2] + truth[photo.path][3:], as_polygons
            )
            for annotation, mask in zip(annotations, masks, strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                left, top = columns[0], rows[0]
                box = [left, top, columns[-1] + 1 - left, rows[-1] + 1 - top]
                assert annotation["bbox"] == box
                assert annotation["area"] == mask.sum()
                assert annotation["iscrowd"] == 0
            scores = [annotation["score"] for annotation in annotations]
            assert scores == pytest.approx(photo.segments.scores.tolist())
    capsys.readouterr()


def test_both_pieces_of_a_mask_are_in_its_polygons(written, as_polygons):
    _, _, file = written
    segmentation = json.loads(file.read_bytes())["annotations"][2]["segmentation"]
    assert not as_polygons or len(segmentation) == 2


@pytest.mark.filterwarnings("ignore")  # its own affair
def test_supervision_reads_the_masks(written, as_polygons):
    photos, truth, file = written
    folder = json.loads(file.read_bytes())["info"]["images_folder"]
    data = sv.DetectionDataset.from_coco(folder, str(file), force_masks=True)
    assert data.classes == ["object"]
    found = {str(path): detections for path, _, detections in data}
    for photo in photos[:2]:
        detections = found[str(photo.path)]
        masks = list(detections.mask)
        assert len(masks) == 4
        check_masks(
            masks[:2] + masks[3:], truth[photo.path][:2] + truth[photo.path][3:], as_polygons
        )


def test_file_of_a_run_without_photos_is_complete(tmp_path):
    write(CocoWriter, [], tmp_path)
    content = json.loads((tmp_path / "coco.json").read_bytes())
    assert content["images"] == content["annotations"] == []


def test_failing_run_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "coco.json").write_text("before")

    def photos():
        yield from write_photos(tmp_path / "photos", ["a.png"])[0]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        CocoWriter(Destination(tmp_path, [tmp_path / "photos/a.png"])).finish(photos())
    assert (tmp_path / "coco.json").read_text() == "before"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its own affair
def test_datumaro_reads_the_masks(written, as_polygons, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed: 560 MB")
    photos, truth, file = written
    # Its layout of folders: annotations/instances_SUBSET.json, images/SUBSET.
    layout = tmp_path / "data"
    for folder in ("annotations", "images"):
        (layout / folder).mkdir(parents=True)
    file.rename(layout / "annotations/instances_default.json")
    (layout / "images/default").symlink_to(tmp_path / "photos")
    data = datumaro.Dataset.import_from(str(layout), "coco_instances")
    items = {item.attributes["id"]: item for item in data}
    assert set(items) == {10, 11, 12}
    for photo in photos[:2]:
        item = items[photo.id]
        np.testing.assert_array_equal(item.media_as(datumaro.Image).size, (96, 128))
        kind = "polygon" if as_polygons else "mask"
        shapes = [shape for shape in item.annotations if shape.type.name == kind]
        assert len({shape.group for shape in shapes}) == 4
        assert len(shapes) == 4 + as_polygons  # both pieces of the third mask
        if not as_polygons:
            masks = [shape.image for shape in sorted(shapes, key=lambda shape: shape.group)]
            np.testing.assert_array_equal(masks, truth[photo.path])
