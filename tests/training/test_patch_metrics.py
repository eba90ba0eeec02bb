import numpy as np
import pytest
import torch

from sharpmask.training.patch_metrics import PatchMetrics, measure_patches, patch_ious


class Answers:
    """A model that has learned the answers by heart; the window's first pixel is the question."""

    def __init__(self, masks, scores):
        self.masks = torch.as_tensor(masks, dtype=torch.float32)
        self.scores = torch.as_tensor(scores, dtype=torch.float32)

    def __call__(self, windows):
        assert torch.is_inference_mode_enabled()
        asked = windows[:, 0, 0, 0].long()
        return self.masks[asked], self.scores[asked]


def windows(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)


def mask(*rows):
    return torch.tensor([[int(pixel) for pixel in row] for row in rows], dtype=torch.uint8)


# --- IoU ---


def test_iou_by_counting():
    logits = torch.tensor([[[3.0, 0.1, -0.1], [-2.0, 5.0, -7.0]]]).expand(4, 2, 3)
    # Three pixels are set: (0, 0), (0, 1), (1, 1).
    targets = torch.stack(
        [mask("110", "010"), mask("100", "000"), mask("001", "101"), mask("111", "111")]
    )
    square = torch.nn.functional.pad(logits, (0, 0, 0, 1), value=-1)
    found = patch_ious(square, torch.nn.functional.pad(targets, (0, 0, 0, 1)))
    assert found.tolist() == pytest.approx([1, 1 / 3, 0, 1 / 2])


def test_iou_against_numpy():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(20, 9, 9)), rng.integers(0, 2, (20, 9, 9), np.uint8)
    found = patch_ious(torch.from_numpy(logits), torch.from_numpy(targets))
    for k in range(20):
        a, b = logits[k] > 0, targets[k] > 0
        assert found[k].item() == pytest.approx((a & b).sum() / (a | b).sum())


def test_a_probability_of_one_half_is_outside():
    assert patch_ious(torch.zeros(1, 2, 2), mask("11", "11")[None]).item() == 0


def test_two_empty_masks_do_not_count_as_a_hit():
    assert patch_ious(-torch.ones(1, 2, 2), mask("00", "00")[None]).item() == 0


def test_coarse_masks_are_compared_at_the_targets_size():
    # Bilinear, by hand: 3, 2, 0, -1 across; positive in the two left columns.
    coarse = torch.tensor([[[3.0, -1.0], [3.0, -1.0]]])
    left = mask("1100", "1100", "1100", "1100")[None]
    assert patch_ious(coarse, left).item() == 1
    # A weaker background lets the object grow by a column: 3, 2.5, 1.5, 1 - all positive.
    assert patch_ious(torch.tensor([[[3.0, 1.0], [3.0, 1.0]]]), left).item() == 0.5


# --- summary ---


FULL, HALF, NONE = [[9, 9], [9, 9]], [[9, 9], [-9, -9]], [[-9, -9], [-9, -9]]


def test_the_summary_by_hand():
    model = Answers([FULL, HALF, NONE, FULL, HALF, NONE], [2, -1, 3, -4, 5, -1])
    one = mask("11", "11")
    batches = (
        (windows(*numbers), torch.stack([one] * len(numbers)), torch.tensor(labels))
        for numbers, labels in (([0, 1, 3], [1.0, 1, -1]), ([2, 4, 5], [1.0, -1, -1]))
    )
    # Positives 0, 1, 2: IoU 1, 1/2, 0; the masks of the negatives 3, 4, 5 are not looked at.
    # Scores 2, -1, 3 against -4, 5, -1: 2 + 1.5 + 2 of nine pairs are in order.
    assert measure_patches(model, batches) == PatchMetrics(
        mean_iou=0.5,
        median_iou=0.5,
        iou_50=pytest.approx(1 / 3),
        iou_70=pytest.approx(1 / 3),
        score_auc=pytest.approx(5.5 / 9),
        patches=6,
    )


def test_scores_are_compared_in_pairs_whatever_their_scale():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(-4, 5, 40), np.where(rng.random(40) < 0.3, 1.0, -1.0)
    batch = (windows(*range(40)), torch.ones(40, 2, 2, dtype=torch.uint8), torch.tensor(labels))
    pairs = [
        1.0 if scores[p] > scores[n] else 0.5 if scores[p] == scores[n] else 0.0
        for p in np.flatnonzero(labels > 0)
        for n in np.flatnonzero(labels < 0)
    ]
    for scale in (1, 0.01):
        found = measure_patches(Answers([FULL] * 40, scores * scale - 7), [batch])
        assert found.score_auc == pytest.approx(np.mean(pairs))


def test_the_median_is_not_the_mean():
    model = Answers([FULL, FULL, NONE], [0, 0, 0])
    batch = (windows(0, 1, 2), torch.stack([mask("11", "11")] * 3), torch.ones(3))
    found = measure_patches(model, [batch])
    assert (found.mean_iou, found.median_iou) == (pytest.approx(2 / 3), 1)
    assert found.iou_50 == found.iou_70 == pytest.approx(2 / 3)
    assert found.score_auc == -1


def test_shares_at_different_bounds():
    # 9 of 16 and 12 of 16 pixels: .5625 and .75.
    rows = np.full((2, 4, 4), -1.0)
    rows[0, :3, :3] = rows[1, :3, :] = 1
    batch = (windows(0, 1), torch.ones(2, 4, 4, dtype=torch.uint8), torch.ones(2))
    found = measure_patches(Answers(rows, [1, 1]), [batch])
    assert (found.iou_50, found.iou_70) == (1, 0.5)
    assert found.mean_iou == pytest.approx((0.5625 + 0.75) / 2)


def test_by_name():
    numbers = dict(zip(PatchMetrics.__dataclass_fields__, range(6), strict=True))
    assert PatchMetrics(**numbers).to_dict() == numbers


def test_there_must_be_an_object():
    batch = (windows(0), mask("00", "00")[None], torch.tensor([-1.0]))
    for batches in ([], [batch]):
        with pytest.raises(ValueError, match="no labelled object to measure on"):
            measure_patches(Answers([FULL], [1]), batches)
