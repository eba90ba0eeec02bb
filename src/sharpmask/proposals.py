"""Proposals: the result for one photo. Masks stay in the patch frame until they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sharpmask import masks
from sharpmask.boxes import pixel_at
from sharpmask.defaults import OVERLAY_MASKS
from sharpmask.drawing import cut_out, draw_masks
from sharpmask.images import png_bytes, reduce_image
from sharpmask.masks import Rle
from sharpmask.polygons import TOLERANCE, Ring, polygons
from sharpmask.runs import Runs
from sharpmask.selection import CONTAINED, Segments, parents, tell_repeats
from sharpmask.shapes import Bool, Float, Float32, Int, UInt8

if TYPE_CHECKING:
    import supervision

MAX_DRAWN = 4096
DRAWN_SHARE = 0.3
"""Of the best score, what a mask needs to be drawn."""
CHUNK = 64
"""Masks pasted, cleaned and compared at once: bounds memory, larger is no faster."""

Chosen = slice | Bool[np.ndarray, " n"] | Int[np.ndarray, " m"] | Sequence[int]


@dataclass(frozen=True, eq=False, repr=False)
class Proposals:
    """Object masks of one photo, best first. Never changes; its arrays are read-only.

    ``proposals[0]`` and ``proposals[-1]`` are a ``Proposal`` each; a slice, a boolean mask or
    indices give ``Proposals``. Iteration gives one ``Proposal`` after the other.

    Attributes:
        image: The photo, RGB.
        scores: 0 to 1, descending.
        windows: Where each patch lies in the image, xyxy pixels; may reach beyond the image.
        patch_masks: Mask probabilities times 255 in the patch frame; a thousand of them take 26 MB
            where full-size masks would take 300 MB and more.
        mask_threshold: Probability above which a pixel belongs to the object.
        encoded: The full-size masks, where they are known already; None to make them of the
            patches when they are first asked for.
        clean: Reduce each mask to its largest piece, with holes filled, when it is made of its
            patch.
        remade: Whether ``encoded`` are other masks than those that the patches would make.
    """

    image: UInt8[np.ndarray, "h w 3"]
    scores: Float32[np.ndarray, " n"]
    windows: Float[np.ndarray, "n 4"]
    patch_masks: UInt8[np.ndarray, "n s s"]
    mask_threshold: float
    encoded: tuple[Rle, ...] | None = None
    clean: bool = False
    remade: bool = False

    def __post_init__(self) -> None:
        for name in ("image", "scores", "windows", "patch_masks"):
            array = getattr(self, name)
            if array.flags.writeable:  # the caller's own stays so
                array = array.view()
                array.flags.writeable = False
                object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image_size
        scores = f", scores {self.scores[0]:.2f} to {self.scores[-1]:.2f}" if len(self) else ""
        return f"<Proposals: {len(self)} masks of a photo {height} x {width}{scores}>"

    def _repr_png_(self) -> bytes:
        """The best masks on the photo, for notebooks."""
        return png_bytes(self.plot())

    def __iter__(self) -> Iterator["Proposal"]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> "Proposal": ...
    @overload
    def __getitem__(self, index: Chosen) -> "Proposals": ...
    def __getitem__(self, index: int | Chosen) -> "Proposal | Proposals":
        """One of the proposals by its index, or some by slice, indices or a boolean mask."""
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            number = range(len(self))[index]
            return Proposal(self[number : number + 1])
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1:
                raise IndexError(
                    "proposals: expected an integer, a slice, a list of indices or a boolean mask, "
                    f"got an array of shape {index.shape}"
                )
            index = index if index.size else index.astype(int)
        encoded = self.encoded or self.__dict__.get("_rles")
        return replace(
            self,
            scores=self.scores[index],
            windows=self.windows[index],
            patch_masks=self.patch_masks[index],
            encoded=encoded and tuple(encoded[k] for k in np.arange(len(self))[index]),
        )

    @classmethod
    def concat(cls, parts: Sequence["Proposals"]) -> "Proposals":
        """Proposals of the same image, one part after the other, as they are."""
        return replace(
            parts[0],
            scores=np.concatenate([part.scores for part in parts]),
            windows=np.concatenate([part.windows for part in parts]),
            patch_masks=np.concatenate([part.patch_masks for part in parts]),
            encoded=tuple(rle for part in parts for rle in part._rles),
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def _rles(self) -> tuple[Rle, ...]:
        if self.encoded is not None:
            return self.encoded
        rles: list[Rle] = []
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            runs = Runs.paste(
                self.patch_masks[part], self.windows[part], self.image_size, self.mask_threshold
            )
            rles += (runs.cleaned() if self.clean else runs).rles()
        return tuple(rles)

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """Tight boxes of the masks, xyxy pixels; zeros for an empty mask."""
        return masks.rle_boxes(self._rles)

    @property
    def areas(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        return masks.rle_areas(self._rles)

    def masks(self) -> Iterator[Bool[np.ndarray, "h w"]]:
        """Full-size masks one by one; ``np.stack(list(p.masks()))`` holds all of them."""
        for rle in self._rles:
            yield masks.decode(rle).astype(bool)

    def rles(self) -> list[Rle]:
        """The masks as compressed COCO RLE."""
        return [rle.copy() for rle in self._rles]

    def polygons(self, tolerance: float = TOLERANCE) -> list[list[Ring]]:
        """Outlines of each mask: x, y in pixels, one ring for each piece, the largest piece first.

        Holes are filled, as COCO's polygons have none; specks are left out. No ring crosses or
        touches itself. An empty mask has no ring.

        Args:
            tolerance: How far, in pixels, a ring may be from the mask's outline, which is less for
                small pieces; with 0 it runs along the sides of the pixels.

        Raises:
            ValueError: The tolerance is negative or not finite.
        """
        return [polygons(rle, tolerance) for rle in self._rles]

    def cutout(self, index: int) -> UInt8[np.ndarray, "a b 4"]:
        """One object alone, RGBA, cropped to its box, transparent outside its mask."""
        return cut_out(self.image, self[index].rle)

    def at(self, x: float, y: float) -> "Proposals":
        """Those whose mask holds a point, best first.

        Args:
            x: Pixels from the photo's left side.
            y: Pixels from its top.

        Raises:
            ValueError: The point is not on the photo.
        """
        return self[masks.hold(self._rles, *pixel_at(x, y, self.image_size))]

    def parents(self, share: float = CONTAINED) -> Int[np.ndarray, " n"]:
        """Index of the smallest mask that each mask lies in; -1 where there is none.

        A mask lies in a larger one if more than ``share`` of its pixels do.
        """
        return parents(self._rles, share)

    def cleaned(self) -> "Proposals":
        """The same, each mask reduced to its largest piece, with holes filled."""
        encoded = self.encoded and tuple(Runs.of(self.encoded, self.image_size).cleaned().rles())
        return replace(self, encoded=encoded, clean=True)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Records of COCO's results format; everything is of category 1, "object"."""
        return Segments(self.image_size, self.scores, self._rles).to_coco(image_id)

    def to_supervision(self) -> "supervision.Detections":
        """Boxes, full-size masks and scores for the library ``supervision``; all of class 0.

        Raises:
            ImportError: It is not installed.
        """
        try:
            from supervision import Detections
        except ImportError:
            raise ImportError("to_supervision needs supervision; pip install supervision") from None
        full = np.zeros((len(self), *self.image_size), bool)
        for target, mask in zip(full, self.masks(), strict=True):
            target[:] = mask
        kinds = np.zeros(len(self), int)
        return Detections(xyxy=self.boxes, mask=full, confidence=self.scores, class_id=kinds)

    def distinct_first(self, threshold: float, count: int) -> tuple["Proposals", int]:
        """The best ``count``, those that repeat a better one put last; empty masks are left out.

        A mask repeats another if their IoU exceeds ``threshold`` and the other repeats none
        (greedy non-maximum suppression). No more masks are pasted than it takes to find them.

        Returns:
            The proposals, and how many of them are distinct.
        """
        rles: list[Rle] = []

        def parts() -> Iterator[Sequence[Rle]]:
            for start in range(0, len(self), CHUNK):
                part = self[start : start + CHUNK]._rles
                rles.extend(part)
                yield part

        distinct, repeats = tell_repeats(parts(), threshold, count)
        chosen = [*distinct, *repeats][:count]
        proposals = replace(self[chosen], encoded=tuple(rles[index] for index in chosen))
        return proposals, min(count, len(distinct))

    def with_rles(self, rles: Sequence[Rle]) -> "Proposals":
        """The same with other full-size masks; those in the patch frame stay as they are."""
        return replace(self, encoded=tuple(rles), remade=True)

    def suppressed(self, threshold: float) -> "Proposals":
        """Without those that repeat a better one: greedy non-maximum suppression."""
        proposals, distinct = self.distinct_first(threshold, len(self))
        return proposals[:distinct]

    def plot(self, count: int = OVERLAY_MASKS, repeats: float = 0.5) -> UInt8[np.ndarray, "h w 3"]:
        """The best masks drawn on the photo, at most ``count``, the best on top.

        Of masks whose IoU exceeds ``repeats`` only the best is drawn, or nothing could be seen; nor
        is one that scores less than ``DRAWN_SHARE`` of the best: where a photo shows few objects
        the next masks are fragments. A photo with a side of more than ``MAX_DRAWN`` pixels is drawn
        smaller.
        """
        near = self[: 10 * count]
        near = near[near.scores >= DRAWN_SHARE * near.scores.max(initial=0)]
        best, distinct = near.distinct_first(repeats, count)
        best = best[:distinct]
        factor = -(-max(self.image_size) // MAX_DRAWN)
        image, masks = self.image, best.masks()
        if factor > 1:
            image = reduce_image(self.image, factor)
            masks = (mask[::factor, ::factor] for mask in masks)
            if not self.remade:  # patches make small masks without large ones
                windows = best.windows / factor
                masks = replace(best, image=image, windows=windows, encoded=None).masks()
        return draw_masks(image, masks, [f"{score:.2f}" for score in best.scores])


@dataclass(frozen=True, eq=False, repr=False)
class Proposal:
    """One proposal.

    Attributes:
        alone: Proposals that hold this one only.
    """

    alone: Proposals

    def __repr__(self) -> str:
        box = ", ".join(f"{edge:.0f}" for edge in self.box)
        return f"<Proposal: score {self.score:.2f}, box {box}>"

    @property
    def score(self) -> float:
        """0 to 1."""
        return float(self.alone.scores[0])

    @property
    def box(self) -> Float[np.ndarray, "4"]:
        """Tight box of the mask, xyxy pixels."""
        box: Float[np.ndarray, 4] = self.alone.boxes[0]
        return box

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(self.alone.areas[0])

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask at the photo's size."""
        return next(self.alone.masks())

    @property
    def rle(self) -> Rle:
        """The mask as compressed COCO RLE."""
        return self.alone.rles()[0]

    @property
    def polygon(self) -> Ring:
        """Outline of the mask's largest piece, x, y in pixels; no points for an empty mask."""
        rings = self.alone.polygons()[0]
        return rings[0] if rings else np.zeros((0, 2))
