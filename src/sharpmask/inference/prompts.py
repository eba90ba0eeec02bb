"""A photo that was read once and is asked again: for all objects, those at a point, one in a box.

A point is answered from the features that are there: by windows of all sizes whose middle part
holds it. A box tells place and size. So the photo is read again round it, at the scale and place at
which it lies in a window as objects did in training: no step of a grid comes between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from sharpmask.boxes import box_on, pixel_at
from sharpmask.engines.protocol import Engine
from sharpmask.geometry import GREY, Aim
from sharpmask.inference.reading import Level, apart_first, decode, ranked, sigmoid
from sharpmask.masks import hold
from sharpmask.proposals import Proposal, Proposals
from sharpmask.shapes import Float, Int, UInt8

ANSWERS = 3
"""Masks for a point: it may mean a part, the whole, or a group."""
PER_SIZE = 2
"""Windows of each size that are decoded for a point: the best, and the best that is not near it."""
MANY = 100
"""Masks at a point among which further points choose."""
SAME = 0.8
"""Answers whose IoU exceeds this are one."""


@dataclass(frozen=True, eq=False)
class ReadPhoto:
    """A photo with its features, from ``Proposer.read``. Threads may share one.

    Attributes:
        image: Its pixels, RGB.
        levels: Score maps and features.
        engine: What read it.
        mask_threshold: Probability above which a pixel belongs to an object.
        quality_exponent: How much a mask's certainty counts, as for ``Proposer``.
        clean: Reduce each mask to its largest piece, with holes filled.
        propose: Gives all objects, as ``Proposer`` does for a photo.
    """

    image: UInt8[np.ndarray, "h w 3"]
    levels: Sequence[Level]
    engine: Engine
    mask_threshold: float
    quality_exponent: float
    clean: bool
    propose: Callable[[], Proposals]

    def at(self, x: float, y: float, count: int = ANSWERS) -> Proposals:
        """Objects that hold a point, best first: often a part, the whole, a group.

        Args:
            x: Pixels from the photo's left side.
            y: Pixels from its top.
            count: Maximum number of masks; no two of them are nearly the same.

        Raises:
            ValueError: The point is not on the photo.
        """
        pixel_at(x, y, self.image.shape[:2])  # or the point is refused, before anything is decoded
        numbers, cells = [], []
        for number, (level, windows) in enumerate(zip(self.levels, self._windows, strict=True)):
            centers = (windows[:, :2] + windows[:, 2:]) / 2
            reach = (windows[:, 2:] - windows[:, :2]) / 2 * self.engine.geometry.object_share
            near = np.flatnonzero((np.abs(centers - (x, y)) <= reach).all(axis=1))
            places = _cells(level)[near[np.argsort(-level.scores.ravel()[near], kind="stable")], 1:]
            nearness = [self.engine.geometry.nearness[level.index]]
            best = apart_first(np.zeros(len(places), int), places, nearness, PER_SIZE)
            numbers += [number] * len(best)
            cells.append(places[best])
        places = np.concatenate(cells)
        if not len(places):  # the windows of a coarse grid may leave a corner of a photo out
            return self.propose()[:0]
        masks, windows = decode(
            self.engine, self.levels, np.array(numbers), places, self.image.shape[:2]
        )
        logits = [
            self.levels[number].scores[tuple(place)]
            for number, place in zip(numbers, places, strict=True)
        ]
        found = self._ranked(np.array(logits), windows, masks)
        return found.at(x, y).suppressed(SAME)[:count]

    def in_box(self, box: Sequence[float] | Float[np.ndarray, "4"]) -> Proposal:
        """The object that fills a box; its mask ends where the box does.

        Args:
            box: x0, y0, x1, y1 in pixels of the photo.

        Raises:
            ValueError: It is not a box on the photo.
        """
        x0, y0, x1, y1 = box = box_on(box, self.image.shape[:2])
        longer = max(x1 - x0, y1 - y0)
        aim = self.engine.geometry.aim(longer)
        scale = aim.object_size / longer
        center = np.array([x0 + x1, y0 + y1]) / 2
        scores, features = self.engine.encode(_round(self.image, center, scale, aim))
        logits = self.engine.decode(features, np.array([aim.cell]))
        half = aim.window_size / scale / 2
        window = np.concatenate([center - half, center + half])
        mask = _within(np.rint(sigmoid(logits[0]) * 255).astype(np.uint8), window, box)
        level, row, column = aim.cell
        return self._ranked(scores[level][row, column, None], window[None], mask[None])[0]

    def best(
        self,
        points: Sequence[tuple[float, float]] = (),
        without: Sequence[tuple[float, float]] = (),
        box: Sequence[float] | None = None,
    ) -> Proposals:
        """The mask that label tools ask for, alone, by what a user has marked; none if none fits.

        Args:
            points: x, y on the object.
            without: x, y beside it.
            box: x0, y0, x1, y1 round it; the points then have no say.

        Raises:
            ValueError: Nothing is marked, or not on the photo.
        """
        if box is not None:
            alone = self.in_box(box).alone
            return alone[alone.areas > 0]
        if not points:
            raise ValueError("prompt: expected a point on the object, or a box round it")
        found = self.at(*points[0], count=MANY)
        for point in points[1:]:
            found = found.at(*point)
        for point in without:
            row, column = pixel_at(*point, self.image.shape[:2])
            found = found[~hold(found.rles(), row, column)]
        return found[:1]

    def _ranked(
        self,
        logits: Float[np.ndarray, " n"],
        windows: Float[np.ndarray, "n 4"],
        masks: UInt8[np.ndarray, "n s s"],
    ) -> Proposals:
        """Proposals by score and certainty, best first."""
        return ranked(
            self.image, logits, masks, windows, mask_threshold=self.mask_threshold,
            quality_exponent=self.quality_exponent, clean=self.clean,
        )  # fmt: skip

    @cached_property
    def _windows(self) -> list[Float[np.ndarray, "n 4"]]:
        """Windows of all cells of each level, xyxy pixels, row by row."""
        size = self.image.shape[:2]
        find = self.engine.geometry.cells_to_windows
        return [find(_cells(level), size, level.scaled_size) for level in self.levels]


def _cells(level: Level) -> Int[np.ndarray, "n 3"]:
    """All cells (level, row, column) of a score map, row by row."""
    rows, columns = np.indices(level.scores.shape).reshape(2, -1)
    return np.stack([np.full_like(rows, level.index), rows, columns], axis=1)


def _round(
    image: UInt8[np.ndarray, "h w 3"], center: Float[np.ndarray, "2"], scale: float, aim: Aim
) -> UInt8[np.ndarray, "s s 3"]:
    """What lies round a point (x, y) of a photo, at a scale, the point where a square is aimed at.

    Beyond the photo it is grey.
    """
    canvas = np.full((aim.side, aim.side, 3), GREY, np.uint8)
    first, last, low, high, cut = [], [], [], [], []
    for place, length in zip(center, image.shape[1::-1], strict=True):
        start, end = aim.center - place * scale, aim.center + (length - place) * scale
        first.append(int(np.clip(np.rint(start), 0, aim.side - 1)))
        last.append(int(np.clip(np.rint(end), first[-1] + 1, aim.side)))
        low.append(max(0.0, place + (first[-1] - aim.center) / scale))
        high.append(min(float(length), place + (last[-1] - aim.center) / scale))
        # Pillow copies all that it is given, and reads as far beyond the box as a pixel shows.
        reach = max(1.0, 1 / scale) + 1
        cut.append(slice(max(0, int(low[-1] - reach)), int(high[-1] + reach) + 1))
    across, down = cut
    box = np.array([*low, *high]) - [across.start, down.start] * 2
    part = Image.fromarray(image[down, across]).resize(
        (last[0] - first[0], last[1] - first[1]), Image.Resampling.BILINEAR, tuple(box.tolist())
    )
    canvas[first[1] : last[1], first[0] : last[0]] = np.asarray(part)
    return canvas


def _within(
    mask: UInt8[np.ndarray, "s s"], window: Float[np.ndarray, "4"], box: Float[np.ndarray, "4"]
) -> UInt8[np.ndarray, "s s"]:
    """A mask in the patch frame without what lies beyond a box; both boxes xyxy, in the image."""
    share = (np.arange(len(mask)) + 0.5) / len(mask)
    x, y = (window[axis] + share * (window[axis + 2] - window[axis]) for axis in (0, 1))
    rows, columns = ((v >= box[k]) & (v <= box[k + 2]) for k, v in ((1, y), (0, x)))
    return np.where(rows[:, None] & columns, mask, np.uint8(0))
