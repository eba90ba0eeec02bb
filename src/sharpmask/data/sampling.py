"""Which patches a network learns from: canonical positives and negatives (DeepMask, section 3.2).

Patch k of an epoch is a pure function of (seed, epoch, k): the order does not depend on workers,
and a run resumes from one integer.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharpmask.data.coco import CocoDataset
from sharpmask.geometry import PatchGeometry

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
        images = list(enumerate(dataset.images))
        by_category: dict[int, list[tuple[int, int]]] = {}
        for index, image in images:
            for number, instance in enumerate(image.instances):
                by_category.setdefault(instance.category, []).append((index, number))
        self.by_category = [by_category[category] for category in sorted(by_category)]
        self.with_objects = [index for index, image in images if image.instances]
        self.complete = [index for index, image in images if image.complete]
        if not self.with_objects:
            raise ValueError("the annotations hold no object to learn from")
        if not self.complete and batches != "masks":
            raise ValueError(
                'every image is marked "complete": false, so no patch can be taken for background; '
                "add completely labelled images"
            )

    def patch(self, epoch: int, index: int) -> Patch:
        """Patch ``index`` of an epoch."""
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        if self.batches == "joint":
            if index % 3 == 0:
                return self._positive(rng, *self._instance_by_category(rng), True, True)
            if index % 3 == 1:
                return self._positive(rng, *self._instance_by_image(rng), True, True)
            return self._negative(rng)
        if self.batches == "masks":
            draw = self._instance_by_category if index % 2 == 0 else self._instance_by_image
            return self._positive(rng, *draw(rng), True, False)
        batch = index // self.batch_size
        if np.random.default_rng((self.seed, epoch, batch, 0)).random() < 0.5:
            return self._positive(rng, *self._instance_by_category(rng), True, False)
        if index % 2 == 0:
            return self._positive(rng, *self._instance_by_image(rng), False, True)
        return self._negative(rng)

    def _instance_by_category(self, rng: np.random.Generator) -> tuple[int, int]:
        members = self.by_category[rng.integers(len(self.by_category))]
        return members[rng.integers(len(members))]

    def _instance_by_image(self, rng: np.random.Generator) -> tuple[int, int]:
        image = self.with_objects[rng.integers(len(self.with_objects))]
        return image, int(rng.integers(len(self.dataset.images[image].instances)))

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
        """A window far from every canonical positive; where 100 tries find none, a positive."""
        index = self.complete[rng.integers(len(self.complete))]
        image = self.dataset.images[index]
        boxes = np.concatenate([image.boxes, np.array(image.crowds).reshape(-1, 4)])
        for _ in range(MAX_TRIES):
            center = rng.random(2) * image.size[::-1]
            scale = 2.0 ** rng.choice(NEGATIVE_SCALES)
            if self.is_negative(boxes, center, scale):
                flip = bool(rng.random() < 0.5)
                return Patch(
                    index, None, (float(center[0]), float(center[1])), scale, flip, False, True
                )
        for_mask = self.batches == "joint"
        return self._positive(rng, *self._instance_by_image(rng), for_mask, True)

    # Deviation: negative-distance
    def is_negative(self, boxes: np.ndarray, center: np.ndarray, scale: float) -> bool:
        """Whether a window is far from the canonical window of every box (xyxy).

        Far: at least ``NEGATIVE_SHIFT`` patch pixels on one axis, or ``NEGATIVE_OCTAVES`` in scale.
        """
        octaves = np.abs(np.log2(scale / self.geometry.canonical_scale(boxes)))
        shift = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - center).max(axis=1) * scale
        return bool(np.all((octaves >= NEGATIVE_OCTAVES) | (shift >= NEGATIVE_SHIFT)))
