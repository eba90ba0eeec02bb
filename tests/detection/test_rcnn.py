import dataclasses

import numpy as np
import pytest
import torch
from test_regions import photo

from reference.thin_models import thin_pyramid
from sharpmask.detection import examples as examples_module
from sharpmask.detection import rcnn
from sharpmask.detection.detections import Category
from sharpmask.detection.examples import Examples, KeptVectors, collect
from sharpmask.detection.rcnn import SVM_C, fit_boxes, fit_svm, train_rcnn
from sharpmask.detection.regions import Regions
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.images import write_image
from sharpmask.inference.proposer import Proposer


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
        train_rcnn(data, categories)
    data.unsure[:] = True
    with pytest.raises(ValueError, match="no region is background"):
        train_rcnn(data, categories)


def colours(image, boxes):
    """Describes a region by its mean colour."""
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
    found = collect(
        lambda image, boxes: colours(image.read(), boxes), photos, {0: 0, 1: 1}, streams=2
    )
    assert (found.objects >= 0).sum() == 60
    assert found.vectors.shape == (30 * 14, 4)
    categories = [Category(3, "red"), Category(9, "green")]
    head = train_rcnn(found, categories)

    def classify(*boxes):
        where = np.array(boxes, float)
        return head.classify(colours(pictures[0], where), where, (40, 60))

    scores, boxes = classify([5, 5, 20, 20], [30, 10, 50, 30])
    assert scores.argmax(1).tolist() == [0, 1]
    assert boxes.shape == (2, 2, 4)
    assert classify([0, 32, 20, 40])[0].max() < scores.max(1).min()


def test_a_stopped_description_goes_on_with_the_photos_left(tmp_path, monkeypatch):
    pictures = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        write_image(path, np.full((40, 60, 3), 40 * number, np.uint8))
        pictures.append(dataclasses.replace(photo([], [], id=number), path=path))
    boxes = np.array([[0.0, 0, 8, 8], [2, 2, 6, 6]])
    proposer = Proposer(TorchEngine(thin_pyramid(), torch.device("cpu")))
    described = []

    def counted(read, boxes, describe=examples_module.describe):
        described.append(read.image[0, 0, 0])
        return describe(read, boxes)

    monkeypatch.setattr(examples_module, "describe", counted)
    kept = KeptVectors(proposer, "weights", tmp_path / "vectors")
    first = kept(pictures[0], boxes)
    assert first.dtype == np.float16
    (left,) = (tmp_path / "vectors").iterdir()
    left.with_suffix(".part").write_bytes(left.read_bytes()[:50])  # of a killed process
    again = [kept(picture, boxes) for picture in pictures]
    assert described == [0, 40, 80]
    assert len(list((tmp_path / "vectors").iterdir())) == 4
    left.write_bytes(left.read_bytes()[:50])  # a damaged one is no better than none
    kept(pictures[0], boxes)
    assert described.pop() == 0
    np.testing.assert_array_equal(again[0], first)
    # Other boxes, another picture or other weights are described anew.
    kept(pictures[0], boxes + 1)
    write_image(pictures[0].path, np.full((40, 60, 3), 7, np.uint8))
    kept(pictures[0], boxes)
    KeptVectors(proposer, "others", tmp_path / "vectors")(pictures[1], boxes)
    assert described == [0, 40, 80, 0, 7, 40]


def test_partly_labelled_photos_give_objects_and_no_background():
    whole = photo([[5, 5, 20, 20]], [0], id=1)
    partly = dataclasses.replace(whole, complete=False)
    where = Regions(np.array([[5.0, 5, 20, 20], [30, 10, 50, 30]]), None, np.ones(2))
    zeros = lambda image, boxes: np.zeros((len(boxes), 1))  # noqa: E731
    found = collect(zeros, [(whole, where), (partly, where)], {0: 0})
    assert found.objects.tolist() == [0, -1, -1, 0, -1, -1]
    assert found.unsure.tolist() == [False] * 3 + [True] * 3
    assert found.overlaps[:, 0].tolist() == [1, 1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match="no photo has an object or a proposal to learn from"):
        collect(zeros, [], {0: 0})
