"""What is found in a photo: named objects."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sharpmask import defaults
from sharpmask.drawing import draw_masks
from sharpmask.images import reduce_image
from sharpmask.masks import Rle, decode, rle_areas
from sharpmask.proposals import MAX_DRAWN
from sharpmask.shapes import Bool, Float, Int, UInt8


@dataclass(frozen=True)
class Category:
    """A kind of object.

    Attributes:
        id: Its id in COCO files.
        name: Its name.
    """

    id: int | str
    name: str


@dataclass(frozen=True, eq=False)
class Detections:
    """Named objects of one photo, best first.

    Attributes:
        image: The photo, RGB.
        categories: All that the detector knows.
        labels: Index in ``categories`` of each object's category.
        scores: 0 to 1, descending.
        boxes: xyxy, pixels; refined, so not the tight boxes of the masks.
        encoded: The masks of the winning proposals; None where proposals had none.
    """

    image: UInt8[np.ndarray, "h w 3"]
    categories: tuple[Category, ...]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    encoded: tuple[Rle, ...] | None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        height, width = self.image_size
        best = f", best: {self.names[0]} {self.scores[0]:.2f}" if len(self) else ""
        return f"<Detections: {len(self)} objects of a photo {height} x {width}{best}>"

    def __iter__(self) -> Iterator["Detections"]:
        return (self[index] for index in range(len(self)))

    def __getitem__(
        self, index: int | slice | Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]
    ) -> "Detections":
        """Some of them, by slice, indices or a boolean mask; one alone by its index."""
        if isinstance(index, int | np.integer):
            number = range(len(self))[index]
            index = slice(number, number + 1)
        chosen = np.arange(len(self))[index].tolist()
        return replace(
            self,
            labels=self.labels[index],
            scores=self.scores[index],
            boxes=self.boxes[index],
            encoded=self.encoded and tuple(self.encoded[each] for each in chosen),
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def areas(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        return rle_areas(self.rles())

    def rles(self) -> list[Rle]:
        """The masks as compressed COCO RLE.

        Raises:
            ValueError: The proposals had none.
        """
        if self.encoded is None:
            raise ValueError("detections: the proposals had no masks")
        return list(self.encoded)

    def with_rles(self, rles: Sequence[Rle]) -> "Detections":
        """The same with other masks; boxes stay."""
        return replace(self, encoded=tuple(rles))

    @property
    def names(self) -> list[str]:
        """Name of each object's category."""
        return [self.categories[label].name for label in self.labels]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Records of COCO's results format, for boxes and masks at once."""
        if not isinstance(image_id, str):
            image_id = operator.index(image_id)  # NumPy's integers are none of JSON's
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
            if self.encoded is not None:
                record["segmentation"] = self.encoded[number]
            records.append(record)
        return records

    def plot(self, min_score: float = defaults.OVERLAY_SCORE) -> UInt8[np.ndarray, "h w 3"]:
        """The objects with at least ``min_score`` drawn on the photo, with their names.

        Where there are no masks their boxes are drawn. A photo with a side of more than
        ``MAX_DRAWN`` pixels is drawn smaller.
        """
        shown = np.flatnonzero(self.scores >= min_score)
        names = self.names
        labels = [f"{names[k]} {self.scores[k]:.2f}" for k in shown]
        factor = -(-max(self.image_size) // MAX_DRAWN)
        image = reduce_image(self.image, factor) if factor > 1 else self.image
        masks = (self._mask(k)[::factor, ::factor] for k in shown.tolist())
        return draw_masks(image, masks, labels)

    def _mask(self, number: int) -> np.ndarray:
        if self.encoded is not None:
            return decode(self.encoded[number]).astype(bool)
        mask = np.zeros(self.image.shape[:2], bool)
        left, top, right, bottom = self.boxes[number].round().astype(int)
        mask[top:bottom, left:right] = True
        return mask
