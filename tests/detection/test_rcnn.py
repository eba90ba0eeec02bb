import dataclasses
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_regions import photo

from sharpmask.detection import rcnn
from sharpmask.detection.detections import Category
from sharpmask.detection.rcnn import (
    CONTEXT,
    RCNN,
    SVM_C,
    Examples,
    KeptVectors,
    RegionNet,
    collect,
    fit_boxes,
    fit_svm,
    train_rcnn,
    warp,
)
from sharpmask.detection.regions import Regions
from sharpmask.detection.training import fit_rcnn
from sharpmask.geometry import GREY
from sharpmask.images import write_image

# --- warping ---


def ramp(height=120, width=200):
    """Red is x, green is y, at the middles of the pixels, in steps of 1."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def test_a_region_fills_the_square_but_for_its_context():
    size = 64
    box = (40.0, 30.0, 100.0, 60.0)
    square = warp(Image.fromarray(ramp()), box, size).astype(float)
    inner = size * (1 - 2 * CONTEXT)
    places = (np.arange(size) + 0.5 - CONTEXT * size) / inner  # 0 and 1 at the region's edges
    np.testing.assert_allclose(square[32, :, 0], 40 + 60 * places - 0.5, atol=1)
    np.testing.assert_allclose(square[:, 32, 1], 30 + 30 * places - 0.5, atol=1)


def test_outside_the_photo_is_grey():
    size = 100
    white = Image.new("RGB", (50, 40), (255, 255, 255))
    square = warp(white, (0, 0, 50, 40), size)
    edge = round(CONTEXT * size)
    assert (square[edge:-edge, edge:-edge] == 255).all()
    assert (square[: edge - 1] == GREY).all()
    assert (square[:, 1 - edge :] == GREY).all()


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (49, 0, 50, 40), (10.2, 3.1, 10.9, 39)], ids=str)
def test_thin_regions_can_be_warped(box):
    assert warp(Image.new("RGB", (50, 40)), box, 32).shape == (32, 32, 3)


def test_vectors_do_not_depend_on_the_batch(monkeypatch):
    torch.manual_seed(0)
    net = RegionNet("resnet18", warped_size=32)
    boxes = np.array([[0, 0, 30, 30], [50, 20, 180, 90], [10, 10, 20, 110]], float)
    together = net.describe(ramp(), boxes)
    assert together.shape == (3, 512)
    monkeypatch.setattr(rcnn, "BATCH", 2)
    np.testing.assert_allclose(net.describe(ramp(), boxes), together, rtol=1e-4, atol=1e-5)
    assert net.describe(ramp(), boxes[:0]).shape == (0, 512)


@pytest.mark.parametrize("options", [{"backbone": "lenet"}, {"warped_size": 8}])
def test_strange_nets_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RegionNet(**options)


# --- learning ---


def examples(count=6000, channels=5, seed=0):
    """Two categories; vectors show the overlap with each, and how far off the box is."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 40, count)  # most show nothing
    overlaps = rng.uniform(0, 0.25, (count, 2))
    objects = np.full(count, -1)
    for number in (0, 1):
        near = kinds == number
        overlaps[near, number] = rng.uniform(0.3, 1, near.sum())
        objects[near & (rng.random(count) < 0.3)] = number
        overlaps[objects == number, number] = 1
    deltas = rng.normal(0, 0.1, (count, 4))
    vectors = rng.normal(0, 0.3, (count, channels))
    vectors[:, :2] += 2 * overlaps
    vectors[:, 2:] += deltas[:, : channels - 2]
    return Examples(vectors.astype(np.float16), overlaps, deltas, objects, rng.random(count) < 0.01)


def test_mining_ends_in_the_svm_of_all_negatives(monkeypatch):
    from sklearn.svm import LinearSVC  # which takes a second to import

    data = examples()
    monkeypatch.setattr(rcnn, "FIRST_NEGATIVES", 50)
    monkeypatch.setattr(rcnn, "MINING_ROUNDS", 10)
    scale = 3.0
    found = fit_svm(data, 0, scale, np.random.default_rng(0))
    negative = (data.overlaps[:, 0] < 0.3) & ~data.unsure
    best = (data.overlaps.argmax(1) == 0) & (data.overlaps[:, 0] >= 0.6)
    positive = (data.objects == 0) | best
    rows = np.concatenate([np.flatnonzero(positive), np.flatnonzero(negative)])
    labels = np.repeat([1, -1], [positive.sum(), negative.sum()])
    whole = LinearSVC(C=SVM_C, dual=False, class_weight={1: 2.0}, tol=1e-6)
    whole.fit(data.vectors[rows].astype(float) * scale, labels)
    # Only what is on the wrong side of its margin shapes an SVM.
    np.testing.assert_allclose(found[:-1], whole.coef_[0], atol=0.02)
    assert found[-1] == pytest.approx(whole.intercept_[0], abs=0.02)
    once = fit_svm_once(data, scale, monkeypatch)
    assert np.abs(once[:-1] - whole.coef_[0]).max() > 0.04


def fit_svm_once(data, scale, monkeypatch):
    monkeypatch.setattr(rcnn, "MINING_ROUNDS", 0)
    return fit_svm(data, 0, scale, np.random.default_rng(0))


def test_box_regression_is_ridge_regression():
    data = examples()
    scale = 3.0
    found = fit_boxes(data, 1, scale)
    rows = (data.overlaps.argmax(1) == 1) & (data.overlaps[:, 1] >= 0.6) & (data.objects < 0)
    x, y = data.vectors[rows].astype(float) * scale, data.deltas[rows]
    centred = x - x.mean(0)
    weights = np.linalg.solve(
        centred.T @ centred + 1000 * np.eye(x.shape[1]), centred.T @ (y - y.mean(0))
    ).T
    np.testing.assert_allclose(found[:, :-1], weights, atol=1e-5)
    np.testing.assert_allclose(found[:, -1], y.mean(0) - weights @ x.mean(0), atol=1e-5)


def test_boxes_stay_where_nothing_can_be_learned():
    data = examples()
    data.overlaps[:, 1] = 0
    assert not fit_boxes(data, 1, 1.0).any()


def test_a_category_without_objects_is_named():
    data = examples()
    data.objects[data.objects == 1] = -1
    categories = [Category(3, "cat"), Category(9, "dog")]
    with pytest.raises(ValueError, match="category 'dog' has no object"):
        train_rcnn(None, data, categories)
    data.unsure[:] = True
    with pytest.raises(ValueError, match="no region is background"):
        train_rcnn(None, data, categories)


def test_a_missing_library_is_named_before_anything_is_described(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"sklearn is not installed; .*'sharpmask\[rcnn\]'"):
        fit_rcnn(None, [], None, {}, output=tmp_path, metadata={}, seed=0, progress=None)


class ColourNet:
    """Describes a region by its mean colour and the place of the most red."""

    def describe(self, image, boxes):
        rows = []
        for left, top, right, bottom in boxes.astype(int):
            part = image[top : max(bottom, top + 1), left : max(right, left + 1)].astype(float)
            rows.append([*part.mean((0, 1)) / 25, 1])
        return np.array(rows, np.float32).reshape(-1, 4)


def test_it_learns_what_can_be_seen():
    rng = np.random.default_rng(0)
    photos, pictures = [], {}
    for number in range(30):
        pixels = np.full((40, 60, 3), 100, np.uint8)
        boxes = [[5, 5, 20, 20], [30, 10, 50, 30]]
        for (left, top, right, bottom), channel in zip(boxes, (0, 1), strict=True):
            pixels[top:bottom, left:right, channel] = 250
        image = photo(boxes, [0, 1], id=number)
        pictures[number] = pixels
        background = rng.integers((22, 0), (32, 10), (10, 2))
        regions = Regions(
            np.vstack([np.hstack([background, background + 8]), boxes]).astype(float),
            None,
            np.ones(12),
        )
        object.__setattr__(image, "read", lambda pixels=pixels: pixels)
        photos.append((image, regions))
    net = ColourNet()
    found = collect(lambda image, boxes: net.describe(image.read(), boxes), photos, {0: 0, 1: 1})
    assert (found.objects >= 0).sum() == 60
    assert found.vectors.shape == (30 * 14, 4)
    categories = [Category(3, "red"), Category(9, "green")]
    detector = train_rcnn(ColourNet(), found, categories)
    scores, boxes = detector.classify(pictures[0], np.array([[5.0, 5, 20, 20], [30, 10, 50, 30]]))
    assert scores.argmax(1).tolist() == [0, 1]
    assert boxes.shape == (2, 2, 4)
    nothing = np.array([[0.0, 32, 20, 40]])
    assert detector.classify(pictures[0], nothing)[0].max() < scores.max(1).min()


def test_a_stopped_description_goes_on_with_the_photos_left(tmp_path):
    pictures = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        write_image(path, np.full((40, 60, 3), 40 * number, np.uint8))
        pictures.append(dataclasses.replace(photo([], [], id=number), path=path))
    boxes = np.array([[0.0, 0, 8, 8], [2, 2, 6, 6]])
    net = RegionNet(warped_size=32)
    described = []

    def counted(image, boxes, describe=net.describe):
        described.append(image[0, 0, 0])
        return describe(image, boxes)

    net.describe = counted
    first = KeptVectors(net, tmp_path / "vectors")(pictures[0], boxes)
    assert first.dtype == np.float16
    (left,) = (tmp_path / "vectors").iterdir()
    left.with_suffix(".part").write_bytes(left.read_bytes()[:50])  # of a killed process
    again = [KeptVectors(net, tmp_path / "vectors")(picture, boxes) for picture in pictures]
    assert described == [0, 40, 80]
    assert len(list((tmp_path / "vectors").iterdir())) == 4
    left.write_bytes(left.read_bytes()[:50])  # a damaged one is no better than none
    KeptVectors(net, tmp_path / "vectors")(pictures[0], boxes)
    assert described.pop() == 0
    np.testing.assert_array_equal(again[0], first)
    # Other boxes, another picture or other weights are described anew.
    KeptVectors(net, tmp_path / "vectors")(pictures[0], boxes + 1)
    write_image(pictures[0].path, np.full((40, 60, 3), 7, np.uint8))
    KeptVectors(net, tmp_path / "vectors")(pictures[0], boxes)
    next(net.parameters()).data += 1
    KeptVectors(net, tmp_path / "vectors")(pictures[1], boxes)
    assert described == [0, 40, 80, 0, 7, 40]


def test_scores_are_margins_and_boxes_move():
    weights = {
        "svm": np.array([[1.0, 0, 0, 0]]),
        "svm_bias": np.array([-2.0]),
        "boxes": np.zeros((1, 4, 4)),
        "boxes_bias": np.array([[0.1, 0, 0, np.log(2)]]),
    }
    pixels = np.full((40, 60, 3), 100, np.uint8)  # 4 in every channel
    detector = RCNN(ColourNet(), [Category(1, "thing")], weights)
    scores, boxes = detector.classify(pixels, np.array([[10.0, 10, 20, 20]]))
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    np.testing.assert_allclose(boxes[0, 0], [11, 5, 21, 25])
