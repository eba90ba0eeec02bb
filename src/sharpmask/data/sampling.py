"""Which patches a network learns from: canonical positives and negatives (DeepMask, section 3.2).

Patch k of an epoch is a pure function of (seed, epoch, k): the order does not depend on workers,
and a run resumes from one integer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharpmask.coco.annotations import CocoDataset, Instance
from sharpmask.geometry import PatchGeometry
from sharpmask.masks import decode

MAX_SHIFT = 16.0
"""Positives are shifted by up to this many pixels of the patch on each axis."""
MAX_OCTAVES = 0.25
"""Positives are scaled by up to this many octaves."""
NEGATIVE_SHIFT = 32.0
NEGATIVE_OCTAVES = 1.0
"""A negative is at least this far from every canonical positive, in patch pixels or in octaves."""
NEGATIVE_SCALES = np.arange(-3.0, 2.25, 0.25)
"""Octaves from which negatives are drawn (FAIR's sampler)."""
MAX_TRIES = 100

Batches = Literal["joint", "alternating", "masks"]


@dataclass(frozen=True)
class Patch:
    """A patch to be cut.

    Attributes:
        image: Index into the data set's images.
        instance: Index of the centred object, None for a negative.
        center: x and y in the image.
        scale: Pixels of the patch for each pixel of the image.
        flip: Whether it is mirrored.
        for_mask: Whether the mask head learns from it.
        for_score: Whether the score head learns from it.
    """

    image: int
    instance: int | None
    center: tuple[float, float]
    scale: float
    flip: bool
    for_mask: bool
    for_score: bool


class InstanceSampler:
    """Draws labelled objects of a data set.

    Args:
        dataset: Images and objects.
        usable: Which objects may be drawn.
        images: Indices of the images to draw from; all if None.

    Raises:
        ValueError: There is none.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        usable: Callable[[Instance], bool] = lambda _: True,
        images: Iterable[int] | None = None,
    ) -> None:
        by_category: dict[int, list[tuple[int, int]]] = {}
        by_image: dict[int, list[tuple[int, int]]] = {}
        for index in range(len(dataset.images)) if images is None else images:
            for number, instance in enumerate(dataset.images[index].instances):
                if usable(instance):
                    by_category.setdefault(instance.category, []).append((index, number))
                    by_image.setdefault(index, []).append((index, number))
        self._by_category = [by_category[category] for category in sorted(by_category)]
        self._by_image = list(by_image.values())
        if not by_image:
            raise ValueError("the annotations hold no object to learn from")

    def by_category(self, rng: np.random.Generator) -> tuple[int, int]:
        """Image and number in it of an object: the category uniform, then the object."""
        members = self._by_category[rng.integers(len(self._by_category))]
        return members[rng.integers(len(members))]

    def by_image(self, rng: np.random.Generator) -> tuple[int, int]:
        """Image and number in it of an object: the image uniform, then the object."""
        members = self._by_image[rng.integers(len(self._by_image))]
        return members[rng.integers(len(members))]


class PatchSampler:
    """Draws patches from a data set.

    Args:
        dataset: Images and objects.
        geometry: Patch sizes.
        seed: First key of every draw.
        batch_size: Patches in a batch.
        batches: "alternating": each batch is for the mask head or for the score head, even odds
            (the paper). "joint": every batch serves both; a third class-balanced positives, a third
            image-balanced positives, a third negatives. "masks": positives for the mask head only,
            half class-balanced, half image-balanced.

    Raises:
        ValueError: There is no object, or no completely labelled image for negatives.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        geometry: PatchGeometry,
        *,
        seed: int,
        batch_size: int,
        batches: Batches = "joint",
    ) -> None:
        self.dataset = dataset
        self.geometry = geometry
        self.seed = seed
        self.batch_size = batch_size
        self.batches = batches
        self.instances = InstanceSampler(dataset)
        self.complete = [index for index, image in enumerate(dataset.images) if image.complete]
        if not self.complete and batches != "masks":
            raise ValueError(
                'every photo is marked "complete": false or holds an object at an unknown place, '
                "so no patch can be taken for background; add completely labelled photos"
            )

    def patch(self, epoch: int, index: int) -> Patch:
        """Patch ``index`` of an epoch."""
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        if self.batches == "joint":
            if index % 3 == 0:
                return self._positive(rng, *self.instances.by_category(rng), True, True)
            if index % 3 == 1:
                return self._positive(rng, *self.instances.by_image(rng), True, True)
            return self._negative(rng)
        if self.batches == "masks":
            draw = self.instances.by_category if index % 2 == 0 else self.instances.by_image
            return self._positive(rng, *draw(rng), True, False)
        batch = index // self.batch_size
        if np.random.default_rng((self.seed, epoch, batch, 0)).random() < 0.5:
            return self._positive(rng, *self.instances.by_category(rng), True, False)
        if index % 2 == 0:
            return self._positive(rng, *self.instances.by_image(rng), False, True)
        return self._negative(rng)

    def _positive(
        self, rng: np.random.Generator, image: int, instance: int, for_mask: bool, for_score: bool
    ) -> Patch:
        left, top, right, bottom = self.dataset.images[image].instances[instance].box
        canonical = self.geometry.canonical_scale(np.array([left, top, right, bottom]))
        scale = float(canonical) * 2 ** rng.uniform(-MAX_OCTAVES, MAX_OCTAVES)
        shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2) / scale
        center = (float((left + right) / 2 + shift[0]), float((top + bottom) / 2 + shift[1]))
        return Patch(image, instance, center, scale, bool(rng.random() < 0.5), for_mask, for_score)

    def _negative(self, rng: np.random.Generator) -> Patch:
        """A window far from every canonical positive and not centred in a crowd region.

        Where 100 tries find none, a positive.
        """
        index = self.complete[rng.integers(len(self.complete))]
        image = self.dataset.images[index]
        boxes = np.concatenate([image.boxes, np.array(image.crowds).reshape(-1, 4)])
        crowd = decode(image.crowd) if image.crowd else np.zeros(image.size, np.uint8)
        for _ in range(MAX_TRIES):
            center = rng.random(2) * image.size[::-1]
            scale = 2.0 ** rng.choice(NEGATIVE_SCALES)
            column, row = center.astype(int)
            if not crowd[row, column] and self.is_negative(boxes, center, scale):
                flip = bool(rng.random() < 0.5)
                return Patch(
                    index, None, (float(center[0]), float(center[1])), scale, flip, False, True
                )
        for_mask = self.batches == "joint"
        return self._positive(rng, *self.instances.by_image(rng), for_mask, True)

    # Deviation: negative-distance
    def is_negative(self, boxes: np.ndarray, center: np.ndarray, scale: float) -> bool:
        """Whether a window is far from the canonical window of every box (xyxy).

        Far: at least ``NEGATIVE_SHIFT`` patch pixels on one axis, or ``NEGATIVE_OCTAVES`` in scale.
        """
        octaves = np.abs(np.log2(scale / self.geometry.canonical_scale(boxes)))
        shift = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - center).max(axis=1) * scale
        return bool(np.all((octaves >= NEGATIVE_OCTAVES) | (shift >= NEGATIVE_SHIFT)))
