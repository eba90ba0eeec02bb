"""R-CNN (Girshick et al. 2014): each region is warped and read by a frozen ImageNet net.

One linear SVM for each category with hard negative mining, and linear regression of the box. It
trains in minutes on a CPU, and learns from few photos.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sharpmask.boxes import decode_boxes, encode_boxes
from sharpmask.coco.annotations import CocoImage
from sharpmask.detection.detections import Category
from sharpmask.detection.matching import match
from sharpmask.detection.regions import Regions
from sharpmask.files import fingerprint, replacing_file
from sharpmask.geometry import GREY
from sharpmask.inference.batch import Progress, unshown
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.layers import Normalize
from sharpmask.models.tails import TAILS
from sharpmask.shapes import Bool, Float, Int, UInt8

CONTEXT = 16 / 227
"""Border round a region, as a share of the warped square (R-CNN, appendix A: 16 of 227 pixels)."""
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
BATCH = 64
"""Regions read at once."""


def warp(image: Image.Image, box: Sequence[float], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A region with its context as a square, whatever its shape; grey outside the photo."""
    left, top, right, bottom = box
    per_pixel_x, per_pixel_y = (
        side / (size * (1 - 2 * CONTEXT)) for side in (right - left, bottom - top)
    )
    left, top = left - CONTEXT * size * per_pixel_x, top - CONTEXT * size * per_pixel_y
    # Pixels of the square whose centres lie inside the photo.
    x0, y0 = (
        max(0, int(np.ceil(-a / b - 0.5))) for a, b in ((left, per_pixel_x), (top, per_pixel_y))
    )
    x1 = min(size, int(np.ceil((image.width - left) / per_pixel_x - 0.5)))
    y1 = min(size, int(np.ceil((image.height - top) / per_pixel_y - 0.5)))
    square = Image.new("RGB", (size, size), (GREY,) * 3)
    source = (
        max(0.0, left + x0 * per_pixel_x),
        max(0.0, top + y0 * per_pixel_y),
        min(float(image.width), left + x1 * per_pixel_x),
        min(float(image.height), top + y1 * per_pixel_y),
    )
    part = image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=source)
    square.paste(part, (x0, y0))
    return np.asarray(square)


class RegionNet(nn.Module):
    """A frozen ImageNet net whose last map is averaged: a vector for each warped region.

    Args:
        backbone: One of ``TAILS``; it pads with zeros, as it did when it learned ImageNet.
        warped_size: Side of the warped regions.
    """

    def __init__(self, backbone: str = "mobilenet_v2", warped_size: int = 128) -> None:
        super().__init__()
        if backbone not in TAILS:
            raise ValueError(f"backbone: expected one of {', '.join(TAILS)}, got {backbone!r}")
        if warped_size < 32:
            raise ValueError(f"warped_size: expected at least 32, got {warped_size}")
        self.name, self.warped_size = backbone, warped_size
        self.backbone = BACKBONES[backbone](padding="zero")
        self.tail = TAILS[backbone](padding="zero")
        self.normalize = Normalize()
        self.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, squares: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c"]:
        """Vectors of squares, RGB 0..255."""
        maps = self.backbone(self.normalize(squares))
        return self.tail(maps[-1]).mean((2, 3))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def describe(
        self, image: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"]
    ) -> Float[np.ndarray, "n c"]:
        """Vectors of the regions (xyxy) of a photo."""
        photo = Image.fromarray(image)
        vectors = [np.zeros((0, self.tail.channels), np.float32)]
        for start in range(0, len(boxes), BATCH):
            part = boxes[start : start + BATCH]
            squares = np.stack([warp(photo, box, self.warped_size) for box in part.tolist()])
            device = self.normalize.mean.device
            # A permuted array already is a channels-last tensor.
            batch = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2).float()
            vectors.append(self(batch).cpu().numpy())
        return np.concatenate(vectors)


class RCNN:
    """Linear classifiers and box regressors of the vectors of regions.

    Attributes:
        net: Makes the vectors.
        categories: What is told apart.
        weights: Arrays ``svm`` (K, C), ``svm_bias`` (K,), ``boxes`` (K, 4, C), ``boxes_bias``
            (K, 4).
        metadata: What else its file says.
    """

    def __init__(
        self,
        net: RegionNet,
        categories: Sequence[Category],
        weights: dict[str, Float[np.ndarray, "..."]],
    ) -> None:
        self.net = net
        self.categories = tuple(categories)
        self.weights = weights
        self.metadata: dict[str, Any] = {}

    def classify(
        self, image: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"]
    ) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k 4"]]:
        """Score and refined box (xyxy) of each region for each category.

        A score is the SVM's margin through a sigmoid: .5 on the boundary.
        """
        vectors = self.net.describe(image, boxes)
        margins = vectors @ self.weights["svm"].T + self.weights["svm_bias"]
        deltas = np.einsum("nc,kdc->nkd", vectors, self.weights["boxes"], optimize=True)
        deltas = deltas + self.weights["boxes_bias"]
        moved = decode_boxes(boxes[:, None], deltas, (image.shape[0], image.shape[1]))
        return 1 / (1 + np.exp(-margins)), moved


@dataclass(frozen=True)
class Examples:
    """Described regions of training photos: proposals, and the objects themselves.

    Attributes:
        vectors: float16; a hundred thousand of 1280 numbers take 256 MB.
        overlaps: Largest box IoU with an object of each category.
        deltas: What moves the region to the object that it overlaps most.
        objects: Category of an object's own row, -1 for a proposal.
        unsure: Whether a region lies where single objects are not labelled (see ``Matches``).
    """

    vectors: Float[np.ndarray, "n c"]
    overlaps: Float[np.ndarray, "n k"]
    deltas: Float[np.ndarray, "n 4"]
    objects: Int[np.ndarray, " n"]
    unsure: Bool[np.ndarray, " n"]


class KeptVectors:
    """Vectors of photos' regions, kept on disk for a training that is stopped and goes on.

    Args:
        net: Makes the vectors.
        folder: Holds a file for each photo, named by all that its vectors depend on.
    """

    def __init__(self, net: RegionNet, folder: Path) -> None:
        self.net, self.folder = net, folder
        weights = [tensor.cpu().numpy().tobytes() for tensor in net.state_dict().values()]
        self.weights = fingerprint(str(net.warped_size).encode(), *weights).encode()

    def __call__(
        self, image: CocoImage, boxes: Float[np.ndarray, "n 4"]
    ) -> Float[np.ndarray, "n c"]:
        """Vectors of regions (xyxy), float16."""
        file = self.folder / f"{fingerprint(self.weights, image.path, boxes.tobytes())}.npy"
        try:
            vectors: Float[np.ndarray, "n c"] = np.load(file)
        except (OSError, ValueError, EOFError):  # none, or a damaged one
            vectors = self.net.describe(image.read(), boxes).astype(np.float16)
            with replacing_file(file) as output:
                np.save(output, vectors)
        return vectors


def collect(
    describe: Callable[[CocoImage, Float[np.ndarray, "n 4"]], Float[np.ndarray, "n c"]],
    photos: Iterable[tuple[CocoImage, Regions]],
    categories: Mapping[int, int],
) -> Examples:
    """Describe the regions of training photos, which must be completely labelled."""
    parts = []
    for image, regions in photos:
        known = [i for i in image.instances if i.category in categories]
        objects = np.array([i.box for i in known]).reshape(-1, 4)
        boxes = np.concatenate([objects, regions.boxes])
        if not len(boxes):
            continue
        matches = match(boxes, image, categories)
        own = np.full(len(boxes), -1)
        own[: len(known)] = [categories[i.category] for i in known]
        parts.append(
            (
                describe(image, boxes),
                matches.overlaps,
                encode_boxes(boxes, matches.targets),
                own,
                matches.unsure,
            )
        )
    if not parts:
        raise ValueError("no photo has an object or a proposal to learn from")
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def train_rcnn(
    net: RegionNet,
    examples: Examples,
    categories: Sequence[Category],
    *,
    seed: int = 0,
    progress: Progress = unshown,
) -> RCNN:
    """Fit the SVMs and the box regressors.

    Args:
        net: What described the examples.
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
    weights = {
        "svm": svm[:, :-1] * scale,
        "svm_bias": svm[:, -1],
        "boxes": boxes[..., :-1] * scale,
        "boxes_bias": boxes[..., -1],
    }
    return RCNN(net, categories, weights)


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
