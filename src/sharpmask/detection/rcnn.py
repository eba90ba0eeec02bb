"""R-CNN (Girshick et al. 2014): a linear SVM for each category, on frozen features of regions.

Hard negatives are mined; the box is refined by linear regression. It learns in a minute on a CPU,
and from few photos.
"""

from collections.abc import Sequence

import numpy as np

from sharpmask.detection.detections import Category
from sharpmask.detection.examples import Examples
from sharpmask.detection.heads import RegionHead
from sharpmask.inference.batch import Progress, unshown
from sharpmask.shapes import Bool, Float, Int

NORM = 20.0
"""Mean length to which feature vectors are scaled; the paper's C fits such vectors."""
SVM_C = 1e-3
POSITIVE_WEIGHT = 2.0
NEGATIVE_IOU = 0.3
"""A region whose IoU with every object of a category is below this is a negative (section 2.3)."""
POSITIVE_IOU = 0.6
"""A proposal whose IoU with an object reaches this is a positive, as the object itself is."""
REGRESSION_IOU = 0.6
"""Regions whose IoU with an object reaches this teach how to move a box (appendix C)."""
REGRESSION_PENALTY = 1000.0
HARD_MARGIN, EASY_MARGIN = -1.0, -1.2
"""A negative whose margin is above the first is hard; one below the second is dropped again."""
FIRST_NEGATIVES = 2000
MINING_ROUNDS = 4


def train_rcnn(
    examples: Examples,
    categories: Sequence[Category],
    *,
    seed: int = 0,
    progress: Progress = unshown,
) -> RegionHead:
    """Fit the SVMs and the box regressors.

    Args:
        examples: Regions of training photos.
        categories: In the order of the examples' columns.
        seed: Of the first negatives.
        progress: Shows how many categories are done.

    Raises:
        ValueError: A category has no object.
    """
    scale = NORM / float(np.linalg.norm(examples.vectors.astype(np.float32), axis=1).mean())
    channels = examples.vectors.shape[1]
    svm = np.zeros((len(categories), channels + 1), np.float32)
    boxes = np.zeros((len(categories), 4, channels + 1), np.float32)
    for number in progress(range(len(categories)), len(categories), "categories learned"):
        if not (examples.objects == number).any():
            raise ValueError(f"category {categories[number].name!r} has no object to learn from")
        svm[number] = fit_svm(examples, number, scale, np.random.default_rng((seed, number)))
        boxes[number] = fit_boxes(examples, number, scale)
    arrays = {
        "scores": svm[:, :-1] * scale,
        "scores_bias": svm[:, -1],
        "boxes": boxes[..., :-1].reshape(-1, channels) * scale,
        "boxes_bias": boxes[..., -1].reshape(-1),
    }
    return RegionHead("rcnn", tuple(categories), arrays)


def fit_svm(
    examples: Examples, number: int, scale: float, rng: np.random.Generator
) -> Float[np.ndarray, " c"]:
    """Weights and bias of one category's SVM, negatives mined in rounds (section 2.3).

    A round adds the negatives on the wrong side of their margin and drops the easy ones; R-CNN
    does it photo by photo, here all are at hand.
    """
    from sklearn.svm import LinearSVC

    # Deviation: svm-positives
    positive = shown(examples, number, POSITIVE_IOU) | (examples.objects == number)
    positives = examples.vectors[positive].astype(np.float32) * scale
    negative = (examples.overlaps[:, number] < NEGATIVE_IOU) & ~examples.unsure
    pool = np.flatnonzero(negative)
    if not len(pool):
        raise ValueError("no region is background: there are too few proposals to learn from")
    chosen = rng.permutation(pool)[:FIRST_NEGATIVES]
    for _ in range(MINING_ROUNDS + 1):
        vectors = np.concatenate([positives, examples.vectors[chosen].astype(np.float32) * scale])
        labels = np.repeat([1, -1], [len(positives), len(chosen)])
        classifier = LinearSVC(C=SVM_C, dual=False, class_weight={1: POSITIVE_WEIGHT})
        classifier.fit(vectors, labels)
        weights = np.append(classifier.coef_[0], classifier.intercept_).astype(np.float32)
        margins = margins_of(examples, pool, weights, scale)
        hard = pool[margins > HARD_MARGIN]
        if np.isin(hard, chosen).all():
            break
        chosen = np.union1d(np.setdiff1d(chosen, pool[margins < EASY_MARGIN]), hard)
    return weights


def shown(examples: Examples, number: int, overlap: float) -> Bool[np.ndarray, " n"]:
    """Proposals whose largest IoU, with an object of this category, reaches ``overlap``."""
    best: Bool[np.ndarray, " n"] = examples.overlaps.argmax(axis=1) == number
    return best & (examples.overlaps[:, number] >= overlap) & (examples.objects < 0)


def margins_of(
    examples: Examples, rows: Int[np.ndarray, " m"], weights: Float[np.ndarray, " c"], scale: float
) -> Float[np.ndarray, " m"]:
    """The SVM's margin of some examples, computed piece by piece."""
    pieces = np.array_split(rows, max(1, len(rows) // 8192))
    vectors = (examples.vectors[piece].astype(np.float32) for piece in pieces)
    return np.concatenate([v @ (weights[:-1] * scale) + weights[-1] for v in vectors])


def fit_boxes(examples: Examples, number: int, scale: float) -> Float[np.ndarray, "4 c"]:
    """Weights and bias of one category's box regression; zero where nothing can be learned."""
    from sklearn.linear_model import Ridge

    channels = examples.vectors.shape[1]
    near = shown(examples, number, REGRESSION_IOU)
    if not near.any():
        return np.zeros((4, channels + 1), np.float32)
    regression = Ridge(alpha=REGRESSION_PENALTY)
    regression.fit(examples.vectors[near].astype(np.float32) * scale, examples.deltas[near])
    return np.column_stack([regression.coef_, regression.intercept_]).astype(np.float32)
