"""What Fast R-CNN learns from: photos with some of their regions (Fast R-CNN, section 2.3)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from sharpmask.boxes import encode_boxes
from sharpmask.coco.annotations import CocoDataset, CocoImage
from sharpmask.data.patches import PhotoCache, augment
from sharpmask.detection.fast_rcnn import BOX_DEVIATIONS, RegionBatch, scale_photo
from sharpmask.detection.matching import Matches, match
from sharpmask.detection.regions import Regions
from sharpmask.shapes import Float, Int

REGIONS = 64
"""Regions of a photo in a batch."""
FOREGROUND_SHARE = 0.25
FOREGROUND_IOU = 0.5
"""A region whose IoU with an object reaches this shows the object; others are background."""
SCALE_OCTAVES = 0.5
"""A photo is read up to half an octave smaller or larger than in inference."""

Item = tuple[Tensor, Tensor, Tensor, Tensor]


class RegionDataset(Dataset[Item]):
    """Photos by (epoch, index), each a pure function of (seed, epoch, index).

    Args:
        data: Completely labelled photos.
        regions: Of each photo; its objects are added to them.
        categories: The detector's index of each category of the data set that it knows.
        seed: First key of every draw.
        image_size: Pixels of a photo's longer side after it was resized.
        colour_jitter: Strength of ``augment``, 0 for none.

    Raises:
        ValueError: No photo has an object of these categories.
    """

    def __init__(
        self,
        data: CocoDataset,
        regions: Sequence[Regions],
        categories: Mapping[int, int],
        *,
        seed: int,
        image_size: int,
        colour_jitter: float,
    ) -> None:
        self.categories = categories
        self.seed = seed
        self.image_size = image_size
        self.colour_jitter = colour_jitter
        self.photo = PhotoCache(data)
        self.boxes: list[Float[np.ndarray, "n 4"]] = []
        self.matches: list[Matches] = []
        for image, found in zip(data.images, regions, strict=True):
            boxes = np.concatenate([objects_of(image, categories), found.boxes])
            self.boxes.append(boxes)
            self.matches.append(match(boxes, image, categories))
        self.useful = [k for k, m in enumerate(self.matches) if (m.overlaps == 1).any()]
        if not self.useful:
            raise ValueError("no photo has an object to learn from")

    def __getitem__(self, index: tuple[int, int]) -> Item:
        """Pixels, boxes, labels and deltas of photo (epoch, index)."""
        epoch, number = index
        # Every photo once before any is shown again.
        round_, position = divmod(number, len(self.useful))
        order = np.random.default_rng((self.seed, epoch, round_, 4)).permutation(self.useful)
        k = int(order[position])
        rng = np.random.default_rng((self.seed, epoch, number, 5))
        photo = self.photo(k)
        if self.colour_jitter:
            photo = augment(photo, rng, self.colour_jitter)
        side = round(self.image_size * 2 ** rng.uniform(-SCALE_OCTAVES, SCALE_OCTAVES))
        pixels, scale = scale_photo(photo, side)
        rows, labels = sample_regions(self.matches[k], rng)
        boxes = self.boxes[k][rows] * scale
        targets = self.matches[k].targets[rows] * scale
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes, targets = (mirrored(b, pixels.shape[1]) for b in (boxes, targets))
        deltas = encode_boxes(boxes, targets) / BOX_DEVIATIONS
        return (
            torch.from_numpy(pixels.copy()).permute(2, 0, 1),
            torch.from_numpy(boxes).float(),
            torch.from_numpy(labels),
            torch.from_numpy(deltas).float(),
        )


def objects_of(image: CocoImage, categories: Mapping[int, int]) -> Float[np.ndarray, "n 4"]:
    """Boxes (xyxy) of the objects of known categories."""
    boxes = [instance.box for instance in image.instances if instance.category in categories]
    return np.array(boxes, float).reshape(-1, 4)


def sample_regions(
    matches: Matches, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Some regions, up to a quarter of them objects, and their labels; K stands for background."""
    categories = matches.overlaps.shape[1]
    best = matches.overlaps.max(axis=1)
    foreground = np.flatnonzero(best >= FOREGROUND_IOU)
    background = np.flatnonzero((best < FOREGROUND_IOU) & ~matches.unsure)
    foreground = rng.permutation(foreground)[: round(FOREGROUND_SHARE * REGIONS)]
    background = rng.permutation(background)[: REGIONS - len(foreground)]
    labels = matches.overlaps[foreground].argmax(axis=1)
    return (
        np.concatenate([foreground, background]),
        np.concatenate([labels, np.full(len(background), categories)]),
    )


def mirrored(boxes: Float[np.ndarray, "n 4"], width: int) -> Float[np.ndarray, "n 4"]:
    """Boxes (xyxy) of the mirrored picture."""
    return np.column_stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]])


def collate_regions(items: list[Item]) -> RegionBatch:
    """Pad photos to a common size, and note the photo of each region."""
    images, boxes, labels, deltas = zip(*items, strict=True)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = [F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images]
    numbers = [torch.full((len(part),), k) for k, part in enumerate(boxes)]
    return RegionBatch(
        torch.stack(padded), torch.cat(boxes), torch.cat(numbers), torch.cat(labels),
        torch.cat(deltas),
    )  # fmt: skip
