"""Regions of a photo that a detector looks at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpmask.coco.numbers import box, number, shown
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.masks import Rle, rle_boxes
from sharpmask.proposals import Proposals
from sharpmask.shapes import Float


@dataclass(frozen=True, eq=False)
class Regions:
    """Boxes of one photo, best first.

    Attributes:
        boxes: xyxy, pixels.
        rles: Their masks; None where only boxes are known.
        scores: How likely each shows a whole object, 0 to 1; ones where a method does not say.
    """

    boxes: Float[np.ndarray, "n 4"]
    rles: tuple[Rle, ...] | None
    scores: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, proposals: Proposals) -> "Regions":
        """The boxes and masks of proposals."""
        return cls(proposals.boxes, tuple(proposals.rles()), proposals.scores)

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], image_size: tuple[int, int], count: int
    ) -> "Regions":
        """The best ``count`` of a photo's COCO results.

        Raises:
            ValueError: A record has no score, neither mask nor box, or they do not fit the image.
        """
        best = sorted(records, key=_score, reverse=True)[:count]
        boxes, rles = [], []
        for rank, record in enumerate(best):
            try:
                if record.get("segmentation"):
                    rles.append(segmentation_to_rle(record["segmentation"], image_size))
                boxes.append(_box(record, rles[-1] if rles else None, image_size))
            except ValueError as error:
                raise ValueError(f"proposal {rank} (by score): {error}") from None
        if rles and len(rles) < len(best):
            raise ValueError("some proposals have a mask and some have none")
        array = np.array(boxes, float).reshape(-1, 4)
        solid = np.flatnonzero((array[:, 2:] > array[:, :2]).all(axis=1))
        scores = np.array([_score(record) for record in best])
        if not ((scores >= 0) & (scores <= 1)).all():
            scores = np.ones(len(best))  # a rank, perhaps, but not a probability
        kept = tuple(rles[k] for k in solid) if rles else None
        return cls(array[solid], kept, scores[solid])


def _score(record: Mapping[str, Any]) -> float:
    try:
        return number(record["score"])
    except (KeyError, ValueError):
        raise ValueError(f"expected a score, got {shown(record)}") from None


def _box(
    record: Mapping[str, Any], rle: Rle | None, image_size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A record's box (xyxy): tight round its mask, if it has one."""
    if rle is not None:
        left, top, right, bottom = rle_boxes([rle])[0].tolist()
        return left, top, right, bottom
    try:
        left, top, width, height = map(float, box(record["bbox"]))
    except (KeyError, ValueError):
        raise ValueError(f"expected a segmentation or a bbox, got {shown(record)}") from None
    right, bottom = left + width, top + height
    inside = -1 <= left <= right <= image_size[1] + 1 and -1 <= top <= bottom <= image_size[0] + 1
    if not inside:
        raise ValueError(f"bbox {record['bbox']} lies outside the image, {image_size}")
    return max(left, 0.0), max(top, 0.0), min(right, image_size[1]), min(bottom, image_size[0])
