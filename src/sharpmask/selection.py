"""Which masks of a photo are wanted: by score, size, repeats, parts, overlap."""

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import hotcoco.mask
import numpy as np

from sharpmask import masks
from sharpmask.masks import Rle
from sharpmask.shapes import Bool, Float, Float32, Int

OBJECT = 1
"""Id of the only category of proposals, "object"."""
CONTAINED = 0.9
"""A mask lies in another if more than this share of its pixels does."""


class Found(Protocol):
    """Masks of one photo, best first, and their scores: ``Proposals`` and ``Segments``."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    @property
    def scores(self) -> Float32[np.ndarray, " n"]:
        """0 to 1."""
        ...

    @property
    def areas(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        ...

    def rles(self) -> list[Rle]:
        """The masks."""
        ...

    def __getitem__(self, index: slice | Bool[np.ndarray, " n"] | Int[np.ndarray, " m"], /) -> Self:
        """Some of them."""
        ...

    def with_rles(self, rles: Sequence[Rle]) -> Self:
        """The same with other masks."""
        ...


Kind = TypeVar("Kind", bound=Found)


@dataclass(frozen=True, eq=False)
class Segments:
    """Masks of one photo as RLE, without its pixels: what remains of proposals.

    Attributes:
        image_size: Height and width.
        scores: 0 to 1, best first.
        masks_rle: The masks. ``of`` leaves empty ones out, as writers need it.
        category_ids: Of each mask; "object" for all if none is given.
    """

    image_size: tuple[int, int]
    scores: Float32[np.ndarray, " n"]
    masks_rle: Sequence[Rle]
    category_ids: Sequence[int | str] = ()

    def __post_init__(self) -> None:
        if not self.category_ids:
            object.__setattr__(self, "category_ids", [OBJECT] * len(self.masks_rle))

    @classmethod
    def of(cls, found: Found) -> "Segments":
        """The masks of proposals; empty ones are left out."""
        every = cls(found.image_size, found.scores, found.rles())
        return every[every.areas > 0]

    @classmethod
    def from_coco(
        cls, records: Sequence[Mapping[str, Any]], image_size: tuple[int, int]
    ) -> "Segments":
        """The masks of what ``to_coco`` gives; empty ones are left out."""
        scores = np.array([record["score"] for record in records], np.float32)
        rles = [record["segmentation"] for record in records]
        every = cls(image_size, scores, rles, [record["category_id"] for record in records])
        return every[every.areas > 0]

    def __len__(self) -> int:
        return len(self.masks_rle)

    def __getitem__(
        self, index: slice | Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]
    ) -> "Segments":
        """Some of them, by slice, indices or a boolean mask."""
        chosen = np.arange(len(self))[index].tolist()
        return Segments(
            self.image_size,
            self.scores[index],
            [self.masks_rle[each] for each in chosen],
            [self.category_ids[each] for each in chosen],
        )

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """Tight boxes of the masks, xyxy pixels."""
        return masks.rle_boxes(self.masks_rle)

    @property
    def areas(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        return masks.rle_areas(self.masks_rle)

    def rles(self) -> list[Rle]:
        """The masks as compressed COCO RLE."""
        return list(self.masks_rle)

    def with_rles(self, rles: Sequence[Rle]) -> "Segments":
        """The same with other masks."""
        return Segments(self.image_size, self.scores, rles, self.category_ids)

    def masks(self) -> Iterator[Bool[np.ndarray, "h w"]]:
        """Full-size masks one by one."""
        for rle in self.masks_rle:
            yield masks.decode(rle).astype(bool)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Records of COCO's results format."""
        if not isinstance(image_id, str):
            image_id = operator.index(image_id)  # NumPy's integers are none of JSON's
        return [
            {
                "image_id": image_id,
                "category_id": category,
                "segmentation": rle,
                "bbox": [float(v) for v in (x0, y0, x1 - x0, y1 - y0)],
                "score": float(score),
            }
            for category, rle, (x0, y0, x1, y1), score in zip(
                self.category_ids, self.masks_rle, self.boxes, self.scores, strict=True
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which masks to keep. The steps run in the order of the fields; areas are checked again last.

    Attributes:
        min_score: The least score.
        min_area, max_area: Limits of a mask's size: pixels, or a share of the photo as "2%".
        distinct: Drop masks whose IoU with a better one exceeds this.
        parts: Keep masks that lie in another one.
        no_overlap: Give each pixel to the best mask that holds it.
        top: The most masks to keep, the best.
    """

    min_score: float = 0.0
    min_area: float | str = "0%"
    max_area: float | str = "100%"
    distinct: float = 1.0
    parts: bool = True
    no_overlap: bool = False
    top: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_score", "distinct"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        for name in ("min_area", "max_area"):
            pixels(getattr(self, name), (1, 1), name)
        if self.top is not None and self.top < 1:
            raise ValueError(f"top: expected 1 or more, got {self.top}")

    def __call__(self, found: Kind) -> Kind:
        """The masks to keep, best first; empty masks are always dropped."""
        least = max(1.0, pixels(self.min_area, found.image_size, "min_area"))
        most = pixels(self.max_area, found.image_size, "max_area")
        areas = found.areas
        kept = found[(found.scores >= self.min_score) & (areas >= least) & (areas <= most)]
        if self.distinct < 1:
            kept = kept[distinct(kept.rles(), self.distinct)]
        if not self.parts:
            kept = kept[parents(kept.rles()) < 0]
        if self.no_overlap:
            kept = kept.with_rles(without_overlap(kept.rles()))
            kept = kept[kept.areas >= least]
        return kept[: self.top]


def pixels(limit: float | str, image_size: tuple[int, int], name: str) -> float:
    """Pixels that a limit stands for: a number, or a share of the photo such as "2%".

    Raises:
        ValueError: It is neither; ``name`` says which limit.
    """
    text = str(limit).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    share = text.endswith("%")
    if not 0 <= value < float("inf") or (share and value > 100):
        raise ValueError(f"{name}: expected pixels, or a share of the photo as 2%, got {limit!r}")
    return value / 100 * image_size[0] * image_size[1] if share else value


def distinct(rles: Sequence[Rle], threshold: float) -> Int[np.ndarray, " m"]:
    """Indices of masks that repeat no better one: greedy non-maximum suppression.

    Args:
        rles: Masks, best first.
        threshold: A mask repeats another that is kept if their IoU exceeds this.
    """
    return np.array(tell_repeats([rles], threshold)[0], int)


def tell_repeats(
    parts: Iterable[Sequence[Rle]], threshold: float, count: float = math.inf
) -> tuple[list[int], list[int]]:
    """Indices of the masks that repeat no better one, and of those that do.

    Empty masks are in neither.

    Args:
        parts: Masks, best first, a part at a time; no more parts are taken than needed.
        threshold: A mask repeats a better distinct one if their IoU exceeds this.
        count: Number of distinct masks after which to stop.
    """
    distinct: dict[int, Rle] = {}
    repeats: list[int] = []
    start = 0
    for part in parts:
        alike = np.asarray(masks.rle_iou(part, part, threshold) > threshold)
        overlaps = masks.rle_iou(part, [*distinct.values()], threshold)
        repeated = np.any(overlaps > threshold, axis=1)
        for index in np.flatnonzero(masks.rle_areas(part)).tolist():
            if repeated[index]:
                repeats.append(start + index)
            else:
                distinct[start + index] = part[index]
                repeated |= alike[index]
        start += len(part)
        if len(distinct) >= count:
            break
    return [*distinct], repeats


def parents(rles: Sequence[Rle], share: float = CONTAINED) -> Int[np.ndarray, " n"]:
    """Index of the smallest mask that each mask lies in; -1 where there is none.

    A mask lies in a larger one if more than ``share`` of its pixels do. Of two masks of one size
    the better counts as the larger, so that no chain of parents is a circle.

    Args:
        rles: Masks, best first.
        share: 0 to 1.
    """
    areas, boxes = masks.rle_areas(rles), masks.rle_boxes(rles)
    order = np.lexsort((-np.arange(len(rles)), areas))  # the smallest first
    found = np.full(len(rles), -1)
    for place, index in enumerate(order):
        larger = order[place + 1 :]
        # What two boxes share bounds what their masks share, so few masks are compared.
        sides = np.minimum(boxes[index, 2:], boxes[larger, 2:])
        sides -= np.maximum(boxes[index, :2], boxes[larger, :2])
        larger = larger[sides.clip(min=0).prod(1) > share * areas[index]]
        if len(larger):
            holders = [dict(rles[holder]) for holder in larger]
            # With crowds COCO divides the intersection by the first mask's own area.
            inside = hotcoco.mask.iou([dict(rles[index])], holders, [True] * len(holders))[0]
            found[index] = next(iter(larger[inside > share]), -1)
    return found


def without_overlap(rles: Sequence[Rle]) -> list[Rle]:
    """The masks, each pixel left to the first one that holds it; some may end up empty."""
    if not rles:
        return []
    height, width = rles[0]["size"]
    taken = np.zeros((height, width), bool)
    left_over = []
    for rle, (left, top, right, bottom) in zip(
        rles, masks.rle_boxes(rles).astype(int).tolist(), strict=True
    ):
        window = taken[top:bottom, left:right]
        own = masks.decode(rle)[top:bottom, left:right].astype(bool) & ~window
        window |= own
        left_over.append(masks.encode(own, (height, width), top, left))
    return left_over
