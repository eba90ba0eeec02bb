"""Detection: the regions of a photo are classified, their boxes refined, repeats dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from sharpmask.boxes import suppress
from sharpmask.detection.regions import Regions
from sharpmask.drawing import draw_masks
from sharpmask.images import read_image
from sharpmask.inference.proposer import Proposer
from sharpmask.masks import Rle, decode

MAX_DETECTIONS = 100
"""Of one photo, over all categories: COCO counts no more."""


@dataclass(frozen=True)
class Category:
    """A kind of object.

    Attributes:
        id: Its id in COCO files.
        name: Its name.
    """

    id: int | str
    name: str


class RegionClassifier(Protocol):
    """R-CNN and Fast R-CNN as a detector uses them.

    Attributes:
        categories: What they tell apart.
    """

    categories: tuple[Category, ...]

    def classify(
        self, image: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"]
    ) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k 4"]]:
        """Score (0 to 1) and refined box (xyxy) of each region for each category."""
        ...


@dataclass(frozen=True, eq=False)
class Detections:
    """Named objects of one photo, best first.

    Attributes:
        image: The photo, RGB.
        categories: All that the detector knows.
        labels: Number of each object's category.
        scores: 0 to 1, descending.
        boxes: xyxy, pixels; refined, so not the tight boxes of the masks.
        rles: The masks of the winning proposals; None where proposals had none.
    """

    image: UInt8[np.ndarray, "h w 3"]
    categories: tuple[Category, ...]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    rles: tuple[Rle, ...] | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Name of each object's category."""
        return [self.categories[label].name for label in self.labels]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Records of COCO's results format, for boxes and masks at once."""
        records: list[dict[str, Any]] = []
        for number, (label, score, (x0, y0, x1, y1)) in enumerate(
            zip(self.labels, self.scores, self.boxes.tolist(), strict=True)
        ):
            record = {
                "image_id": image_id,
                "category_id": self.categories[label].id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(score),
            }
            if self.rles is not None:
                record["segmentation"] = self.rles[number]
            records.append(record)
        return records

    def plot(self, min_score: float = 0.2) -> UInt8[np.ndarray, "h w 3"]:
        """The objects with at least ``min_score`` drawn on the photo, with their names.

        Where there are no masks their boxes are drawn.
        """
        shown = np.flatnonzero(self.scores >= min_score)
        names = self.names
        labels = [f"{names[k]} {self.scores[k]:.2f}" for k in shown]
        return draw_masks(self.image, (self._mask(k) for k in shown.tolist()), labels)

    def _mask(self, number: int) -> np.ndarray:
        if self.rles is not None:
            return decode(self.rles[number]).astype(bool)
        mask = np.zeros(self.image.shape[:2], bool)
        left, top, right, bottom = self.boxes[number].round().astype(int)
        mask[top:bottom, left:right] = True
        return mask


class Detector:
    """Finds and names objects in photos.

    A detection's score is the class score times the root of the proposal's: a part of an object
    often looks as much like its class as the whole.

    Args:
        classifier: An R-CNN or Fast R-CNN.
        proposer: Finds the regions; None if they are always given.
        suppression: Of two boxes of one category whose IoU exceeds this only the better stays.
        min_score: Detections below are left out.
    """

    def __init__(
        self,
        classifier: RegionClassifier,
        proposer: Proposer | None = None,
        *,
        suppression: float = 0.3,
        min_score: float = 0.01,
    ) -> None:
        if not 0 < suppression <= 1:
            raise ValueError(f"suppression: expected a number between 0 and 1, got {suppression}")
        self.classifier = classifier
        self.proposer = proposer
        self.suppression = suppression
        self.min_score = min_score

    def __call__(
        self,
        image: str | PathLike[str] | Image.Image | np.ndarray,
        regions: Regions | None = None,
    ) -> Detections:
        """Detect objects in one photo.

        Args:
            image: A path, a PIL image, or an RGB uint8 array (H, W, 3).
            regions: Where to look; found by the proposer if None.

        Raises:
            ImageError: It cannot be read.
            ValueError: There is neither a proposer nor regions.
        """
        pixels = read_image(image)
        if regions is None:
            if self.proposer is None:
                raise ValueError("regions: give a Detector a proposer, or each photo its regions")
            proposals = self.proposer(pixels)
            regions = Regions(proposals.boxes, tuple(proposals.rles()), proposals.scores)
        scores, boxes = self.classifier.classify(pixels, regions.boxes)
        # Deviation: detection-score
        scores = scores * np.sqrt(regions.scores)[:, None]
        found = [
            (index, label)
            for label in range(scores.shape[1])
            for index in self._best(scores[:, label], boxes[:, label])
        ]
        found = sorted(found, key=lambda pair: -scores[pair])[:MAX_DETECTIONS]
        chosen, labels = np.array(found, np.int64).reshape(-1, 2).T
        return Detections(
            pixels,
            self.classifier.categories,
            labels,
            scores[chosen, labels],
            boxes[chosen, labels],
            None if regions.rles is None else tuple(regions.rles[k] for k in chosen),
        )

    def _best(
        self, scores: Float[np.ndarray, " n"], boxes: Float[np.ndarray, "n 4"]
    ) -> Sequence[int]:
        """Regions of one category that stay, best first."""
        candidates = np.flatnonzero(scores >= self.min_score)
        kept = suppress(boxes[candidates], scores[candidates], self.suppression)
        return candidates[kept].tolist()  # type: ignore[no-any-return]
