"""Scores and boxes beside their formulas; files."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from reference.thin_models import pyramid_file
from sharpmask.boxes import decode_boxes
from sharpmask.detection.detections import Category
from sharpmask.detection.files import load_head, save_head
from sharpmask.detection.heads import RegionHead
from sharpmask.models.sources import WeightsError

CATEGORIES = (Category(3, "disc"), Category(7, "plate"), Category("r", "roof"))
BOXES = np.array([[10.0, 10, 20, 20], [0, 5, 30, 25]])


def a_head(kind, channels=6, hidden=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"scores": 3, "boxes": 12}
    width = channels
    if kind == "fast-rcnn":
        shapes = {"hidden0": 5, "hidden1": hidden, "scores": 4, "boxes": 12}
    arrays = {}
    for name, rows in shapes.items():
        arrays[name] = rng.normal(size=(rows, width)).astype(np.float32)
        arrays[f"{name}_bias"] = rng.normal(size=rows).astype(np.float32)
        width = rows if name.startswith("hidden") else width
    return RegionHead(kind, CATEGORIES, arrays)


def test_scores_of_svms_are_margins_and_boxes_move():
    arrays = {
        "scores": np.array([[1.0, 0]]), "scores_bias": np.array([-2.0]),
        "boxes": np.zeros((4, 2)), "boxes_bias": np.array([0.1, 0, 0, np.log(2)]),
    }  # fmt: skip
    head = RegionHead("rcnn", (Category(1, "thing"),), arrays)
    scores, boxes = head.classify(np.array([[4.0, 9]]), BOXES[:1], (40, 60))
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    np.testing.assert_allclose(boxes[0, 0], [11, 5, 21, 25])


def test_fast_rcnn_equals_torch():
    head = a_head("fast-rcnn")
    vectors = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    x = torch.from_numpy(vectors)
    layer = {name: torch.from_numpy(array) for name, array in head.arrays.items()}
    for name in ("hidden0", "hidden1"):
        x = torch.relu(torch.nn.functional.linear(x, layer[name], layer[f"{name}_bias"]))
    logits, deltas = (
        torch.nn.functional.linear(x, layer[name], layer[f"{name}_bias"])
        for name in ("scores", "boxes")
    )
    scores, boxes = head.classify(vectors, BOXES, (40, 60))
    np.testing.assert_allclose(scores, logits.softmax(1)[:, :3], rtol=1e-5)
    expected = decode_boxes(BOXES[:, None], deltas.numpy().reshape(2, 3, 4), (40, 60))
    np.testing.assert_allclose(boxes, expected, rtol=1e-5)
    nothing = head.classify(vectors[:0], BOXES[:0], (40, 60))
    assert [part.shape for part in nothing] == [(0, 3), (0, 3, 4)]


@pytest.mark.parametrize("kind", ["rcnn", "fast-rcnn"])
def test_detectors_come_back_from_their_files_in_float16(tmp_path, kind):
    head = a_head(kind)
    save_head(head, tmp_path / "model.safetensors", metadata={"proposals": {"weights": "x"}})
    again = load_head(tmp_path)
    assert (again.kind, again.categories) == (kind, CATEGORIES)
    assert again.metadata == {"proposals": {"weights": "x"}}
    assert again.arrays.keys() == head.arrays.keys()
    for name, array in head.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array.astype(np.float16))


def test_files_that_are_no_detectors_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"pyramid\.safetensors: not a detector"):
        load_head(pyramid_file(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"numbers")
    with pytest.raises(WeightsError, match=r"a\.safetensors: not a sound detector"):
        load_head(tmp_path / "a.safetensors")
    description = {"kind": "rcnn", "categories": [{"id": 1, "name": "x"}]}
    arrays = dict(a_head("rcnn").arrays)
    save_file(arrays, tmp_path / "b.safetensors", {"detector": json.dumps(description)})
    with pytest.raises(WeightsError, match=r"b\.safetensors: not a sound detector: scores: exp"):
        load_head(tmp_path / "b.safetensors")
    old = json.dumps(description | {"options": {"backbone": "mobilenet_v2"}})
    save_file(arrays, tmp_path / "c.safetensors", {"detector": old})
    with pytest.raises(WeightsError, match=r"c\.safetensors: was trained by an earlier version"):
        load_head(tmp_path / "c.safetensors")
