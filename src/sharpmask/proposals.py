"""Proposals: the result for one photo. Masks stay in the patch frame until they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from sharpmask import masks
from sharpmask.drawing import draw_masks
from sharpmask.images import reduce_image
from sharpmask.masks import Rle

MAX_DRAWN = 4096
SUPPRESSION_CHUNK = 64
"""Masks pasted and compared at once."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Object masks of one photo, best first.

    Attributes:
        image: The photo, RGB.
        scores: 0 to 1, descending.
        windows: Where each patch lies in the image, xyxy pixels; may reach beyond the image.
        patch_masks: Mask probabilities times 255 in the patch frame; a thousand of them take 26 MB
            where full-size masks would take 300 MB and more.
        mask_threshold: Probability above which a pixel belongs to the object.
    """

    image: UInt8[np.ndarray, "h w 3"]
    scores: Float32[np.ndarray, " n"]
    windows: Float[np.ndarray, "n 4"]
    patch_masks: UInt8[np.ndarray, "n s s"]
    mask_threshold: float

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(
        self, index: slice | Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]
    ) -> "Proposals":
        """Some of the proposals, by slice, indices or a boolean mask."""
        chosen = replace(
            self,
            scores=self.scores[index],
            windows=self.windows[index],
            patch_masks=self.patch_masks[index],
        )
        if "_rles" in self.__dict__:
            numbers = np.arange(len(self))[index]
            chosen.__dict__["_rles"] = [self._rles[k] for k in numbers]
        return chosen

    @classmethod
    def concat(cls, parts: Sequence["Proposals"]) -> "Proposals":
        """Proposals of the same image, one part after the other, as they are."""
        together = replace(
            parts[0],
            scores=np.concatenate([part.scores for part in parts]),
            windows=np.concatenate([part.windows for part in parts]),
            patch_masks=np.concatenate([part.patch_masks for part in parts]),
        )
        together.__dict__["_rles"] = [rle for part in parts for rle in part._rles]
        return together

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def _rles(self) -> list[Rle]:
        return [
            masks.encode(mask, self.image_size, top, left) for mask, top, left in self._pasted()
        ]

    def _pasted(self) -> Iterator[tuple[Bool[np.ndarray, "a b"], int, int]]:
        """Each mask inside its own window, with the window's top row and left column."""
        for mask, window in zip(self.patch_masks, self.windows, strict=True):
            yield masks.paste(mask, window, self.image_size, self.mask_threshold)

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """Tight boxes of the masks, xyxy pixels."""
        return masks.rle_boxes(self._rles)

    @property
    def areas(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        return masks.rle_areas(self._rles)

    def masks(self) -> Iterator[Bool[np.ndarray, "h w"]]:
        """Full-size masks one by one; ``np.stack(list(p.masks()))`` holds all of them."""
        for mask, top, left in self._pasted():
            full = np.zeros(self.image_size, bool)
            full[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            yield full

    def rles(self) -> list[Rle]:
        """The masks as compressed COCO RLE."""
        return list(self._rles)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Records of COCO's results format; everything is of category 1, "object"."""
        return [
            {
                "image_id": image_id,
                "category_id": 1,
                "segmentation": rle,
                "bbox": [float(v) for v in (x0, y0, x1 - x0, y1 - y0)],
                "score": float(score),
            }
            for rle, (x0, y0, x1, y1), score in zip(
                self._rles, self.boxes, self.scores, strict=True
            )
        ]

    def distinct_first(self, threshold: float, count: int) -> tuple["Proposals", int]:
        """The best ``count``, those that repeat a better one put last; empty masks are left out.

        A mask repeats another if their IoU exceeds ``threshold`` and the other repeats none
        (greedy non-maximum suppression). No more masks are pasted than it takes to find them.

        Returns:
            The proposals, and how many of them are distinct.
        """
        distinct: list[int] = []
        repeats: list[int] = []
        rles: dict[int, Rle] = {}
        for start in range(0, len(self), SUPPRESSION_CHUNK):
            part = self[start : start + SUPPRESSION_CHUNK]
            alike = masks.rle_iou(part._rles, part._rles, threshold) > threshold
            overlaps = masks.rle_iou(part._rles, [rles[index] for index in distinct], threshold)
            repeated = np.any(overlaps > threshold, axis=1)
            for index in np.flatnonzero(part.areas).tolist():
                rles[start + index] = part._rles[index]
                if repeated[index]:
                    repeats.append(start + index)
                else:
                    distinct.append(start + index)
                    repeated |= alike[index]
            if len(distinct) >= count:
                break
        chosen = [*distinct, *repeats][:count]
        proposals = self[np.array(chosen, int)]
        proposals.__dict__["_rles"] = [rles[index] for index in chosen]
        return proposals, min(count, len(distinct))

    def suppressed(self, threshold: float) -> "Proposals":
        """Without those that repeat a better one: greedy non-maximum suppression."""
        proposals, distinct = self.distinct_first(threshold, len(self))
        return proposals[:distinct]

    def plot(self, count: int = 10, repeats: float = 0.5) -> UInt8[np.ndarray, "h w 3"]:
        """The best ``count`` masks drawn on the photo, the best on top.

        Of masks whose IoU exceeds ``repeats`` only the best is drawn, or nothing could be seen. A
        photo with a side of more than ``MAX_DRAWN`` pixels is drawn smaller.
        """
        best, distinct = self[: 10 * count].distinct_first(repeats, count)
        best = best[:distinct]
        factor = -(-max(self.image_size) // MAX_DRAWN)
        if factor > 1:
            image = reduce_image(self.image, factor)
            best = replace(best, image=image, windows=best.windows / factor)
        return draw_masks(best.image, best.masks(), [f"{score:.2f}" for score in best.scores])
