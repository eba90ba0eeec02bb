"""A detector finds the proposer that it was trained with."""

import os

import numpy as np
import pytest
from PIL import Image

from reference.thin_models import pyramid_file
from sharpmask import defaults
from sharpmask.detection.detections import Category, Detections
from sharpmask.detection.detector import Detector
from sharpmask.detection.files import save_head
from sharpmask.detection.heads import RegionHead
from sharpmask.detection.proposing import Proposing, proposer_note, proposer_source
from sharpmask.detection.region_vectors import describe
from sharpmask.detection.regions import Regions
from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A proposer, and a detector of random weights that belongs to it."""
    folder = tmp_path_factory.mktemp("detector")
    proposing = Proposing(str(pyramid_file(folder)), 7)
    proposer = Proposer(pyramid_file(folder), engine="torch")
    read = proposer.read(np.zeros((64, 64, 3), np.uint8))
    channels = describe(read, np.array([[0.0, 0, 64, 64]])).shape[1]
    rng = np.random.default_rng(0)
    arrays = {
        "scores": rng.normal(size=(2, channels)), "scores_bias": np.zeros(2),
        "boxes": np.zeros((8, channels)), "boxes_bias": np.zeros(8),
    }  # fmt: skip
    head = RegionHead("rcnn", (Category(3, "disc"), Category(7, "plate")), arrays)
    metadata = {"proposals": proposing.note()}
    save_head(head, folder / "run" / "model.safetensors", metadata=metadata)
    return folder


def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    return paths


def test_a_detector_is_loaded_with_its_proposer_and_maps_photos_in_order(folder, tmp_path):
    detector = Detector.load(folder / "run", engine="torch", min_score=0)
    assert detector.proposer.num_proposals == 7
    paths = photos(tmp_path)
    paths[1].write_bytes(b"no picture")
    found = list(detector.map(iter(paths)))
    assert [path for path, _ in found] == paths
    assert isinstance(found[1][1], ImageError)
    for path, detections in (found[0], found[2], found[3]):
        assert isinstance(detections, Detections)
        assert len(detections)
        np.testing.assert_array_equal(detections.scores, detector(path).scores)
        np.testing.assert_array_equal(detections.image, np.asarray(Image.open(path)))
    assert Detector.load(folder / "run", engine="torch").min_score == defaults.MIN_SCORE == 0.05


def test_a_photo_is_read_once_for_proposals_and_names(folder, tmp_path, monkeypatch):
    detector = Detector.load(folder / "run", engine="torch", min_score=0)
    path, *_ = photos(tmp_path)
    engine, sizes = detector.proposer.engine, []
    encode = engine.encode
    monkeypatch.setattr(engine, "encode", lambda image: sizes.append(image.shape) or encode(image))
    found = detector(path)
    assert len(sizes) == len(detector.proposer.octaves)
    # The same regions given are named the same.
    given = detector.on(detector.proposer.read(path), Regions.of(detector.proposer(path)))
    assert given.to_coco(1) == found.to_coco(1)


def test_a_photo_given_no_regions_has_no_detections(folder, tmp_path):
    detector = Detector.load(folder / "run", engine="torch", min_score=0)
    path, *_ = photos(tmp_path)
    nothing = Regions(np.zeros((0, 4)), None, np.zeros(0))
    assert len(detector.on(detector.proposer.read(path), nothing)) == 0


def test_the_proposer_is_found_from_another_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    note = proposer_note("pyramid.safetensors", num_proposals=5, scales="zoom")
    monkeypatch.chdir(tmp_path)
    assert note["weights"] == os.path.join(folder, "pyramid.safetensors")  # noqa: PTH118
    assert proposer_source({"proposals": note}, "run") == note["weights"]
    assert Proposing().note()["weights"] == defaults.MODEL  # a name stays a name


def test_a_missing_or_changed_proposer_is_named(folder, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((folder / "pyramid.safetensors").read_bytes())
    note = proposer_note(copy, num_proposals=5, scales="default")
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.warns(UserWarning, match=r"run: .*copy\.safetensors is not the model that"):
        proposer_source({"proposals": note}, "run")
    copy.unlink()
    with pytest.raises(ValueError, match=r"run: .*copy\.safetensors, is not there; .*--weights"):
        proposer_source({"proposals": note}, "run")
