"""A detector finds the proposer that it was trained with."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from sharpmask import defaults
from sharpmask.detection.detections import Category, Detections
from sharpmask.detection.detector import Detector
from sharpmask.detection.fast_rcnn import FastRCNN
from sharpmask.detection.files import save_classifier
from sharpmask.detection.proposing import Proposing, proposer_note, proposer_source
from sharpmask.images import ImageError
from sharpmask.models.pretrained import build, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A proposer, and a detector that was trained with it."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    options = {"model": "deepmask", "backbone": "resnet18", "width": 8, "vector": 16}
    save(
        build(options | {"bottleneck_channels": 8, "score_channels": 16}),
        folder / "proposer.safetensors",
    )
    net = FastRCNN(
        [Category(3, "disc"), Category(7, "plate")], backbone="resnet18", channels=8, hidden=16,
        bins=3, image_size=96,
    )  # fmt: skip
    note = Proposing(str(folder / "proposer.safetensors"), 7).note()
    save_classifier(net, folder / "run" / "model.safetensors", metadata={"proposals": note})
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
        np.testing.assert_array_equal(detections.scores, detector(path).scores)
        np.testing.assert_array_equal(detections.image, np.asarray(Image.open(path)))
    assert Detector.load(folder / "run", engine="torch").min_score == defaults.MIN_SCORE == 0.05


def test_the_proposer_is_found_from_another_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    note = proposer_note("proposer.safetensors", num_proposals=5, scales="zoom")
    monkeypatch.chdir(tmp_path)
    assert note["weights"] == os.path.join(folder, "proposer.safetensors")  # noqa: PTH118
    assert proposer_source({"proposals": note}, "run") == note["weights"]
    assert Proposing().note()["weights"] == defaults.MODEL  # a name stays a name


def test_a_missing_or_changed_proposer_is_named(folder, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((folder / "proposer.safetensors").read_bytes())
    note = proposer_note(copy, num_proposals=5, scales="default")
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.warns(UserWarning, match=r"run: .*copy\.safetensors is not the model that"):
        proposer_source({"proposals": note}, "run")
    copy.unlink()
    with pytest.raises(ValueError, match=r"run: .*copy\.safetensors, is not there; .*--weights"):
        proposer_source({"proposals": note}, "run")
    with pytest.raises(ValueError, match=r"run: .*trained on the proposals of a file"):
        proposer_source({"proposals": {"file": "found.json"}}, "run")


def test_a_net_in_training_mode_is_read_as_in_eval_mode_and_left_as_it_was():
    torch.manual_seed(0)
    net = FastRCNN([Category(1, "a")], backbone="resnet18", channels=8, hidden=16, bins=3)
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    boxes = np.array([[4.0, 6, 30, 40]])
    expected, _ = net.eval().classify(photo, boxes)
    net.train()
    for _ in range(3):
        found, _ = net.classify(photo, boxes)
        np.testing.assert_array_equal(found, expected)
        assert net.training
        assert net.layers.training
