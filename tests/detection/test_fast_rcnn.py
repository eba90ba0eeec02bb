import numpy as np
import pytest
import torch

from sharpmask.detection import fast_rcnn
from sharpmask.detection.detections import Category
from sharpmask.detection.examples import Examples
from sharpmask.detection.fast_rcnn import detection_loss, train_fast_rcnn

CATEGORIES = (Category(3, "disc"), Category(7, "plate"))


def test_the_loss_is_the_formula():
    rng = np.random.default_rng(0)
    logits, moves = (
        torch.from_numpy(rng.normal(size=(5, 4))),
        torch.from_numpy(rng.normal(size=(5, 3, 4)) * 2),
    )
    labels, targets = torch.tensor([0, 3, 2, 3, 1]), torch.from_numpy(rng.normal(size=(5, 4)))
    classes = boxes = 0.0
    for row, label in enumerate(labels.tolist()):
        z = np.exp(logits[row].numpy())
        classes -= np.log(z[label] / z.sum()) / 5
        if label < 3:
            for error in (moves[row, label] - targets[row]).abs().tolist():
                boxes += (error**2 / 2 if error < 1 else error - 0.5) / 5
    found = detection_loss(logits, moves, labels, targets)
    assert found.item() == pytest.approx(classes + boxes, rel=1e-5)


def examples(seed, count=600):
    """What a region shows is the sign of its first two numbers; the third tells the box's shift."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count)  # two categories, background
    overlaps = rng.uniform(0, 0.4, (count, 2))
    for kind in (0, 1):
        overlaps[kinds == kind, kind] = rng.uniform(0.6, 1, (kinds == kind).sum())
    shift = rng.uniform(-0.2, 0.2, count)
    deltas = np.stack([shift, 0 * shift, 0 * shift, 0 * shift], axis=1)
    vectors = rng.normal(0, 0.3, (count, 5))
    vectors[:, 0] += 2 * (kinds == 0) - 1
    vectors[:, 1] += 2 * (kinds == 1) - 1
    vectors[:, 2] = 100 + 50 * shift  # neither centred nor of unit scale
    own = np.full(count, -1)
    return Examples(vectors.astype(np.float16), overlaps, deltas, own, np.zeros(count, bool)), kinds


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(fast_rcnn, "STEPS", 150)
    monkeypatch.setattr(fast_rcnn, "HIDDEN", 32)
    monkeypatch.setattr(fast_rcnn, "LEARNING_RATE", 1e-2)


def test_classes_and_shifts_are_learned(short):
    data, _ = examples(0)
    head = train_fast_rcnn(data, CATEGORIES)
    fresh, kinds = examples(1)
    boxes = np.tile([100.0, 100, 200, 200], (len(kinds), 1))
    scores, moved = head.classify(fresh.vectors, boxes, (400, 400))
    guesses = np.where(scores.sum(1) < 0.5, 2, scores.argmax(1))
    assert (guesses == kinds).mean() > 0.95
    for kind in (0, 1):
        rows = kinds == kind
        shifts = moved[rows, kind, 0] - 100
        assert np.corrcoef(shifts, fresh.deltas[rows, 0])[0, 1] > 0.9
        slope, _ = np.polyfit(100 * fresh.deltas[rows, 0], shifts, 1)  # boxes of 100 pixels
        assert 0.3 < slope < 2


def test_the_seed_decides_the_weights(short, monkeypatch):
    monkeypatch.setattr(fast_rcnn, "STEPS", 3)
    data, _ = examples(0)
    one, same, other = (train_fast_rcnn(data, CATEGORIES, seed=seed) for seed in (3, 3, 4))
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, same.arrays[name])
    assert (one.arrays["hidden0"] != other.arrays["hidden0"]).any()


def test_unsure_regions_are_no_background(short, monkeypatch):
    """All that lies beside objects is unsure, but for a few that look like plates."""
    monkeypatch.setattr(fast_rcnn, "STEPS", 60)
    data, kinds = examples(0)
    with pytest.raises(ValueError, match="nothing to learn from"):
        train_fast_rcnn(
            Examples(*(*vars(data).values(),)[:4], np.ones(len(kinds), bool)), CATEGORIES
        )
    with pytest.raises(ValueError, match="nothing to learn from"):
        train_fast_rcnn(
            Examples(data.vectors, 0.5 * data.overlaps - 0.1, *(*vars(data).values(),)[2:]),
            CATEGORIES,
        )
