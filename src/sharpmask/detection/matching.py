"""Which regions show which objects, and which categories have enough objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharpmask.boxes import iou
from sharpmask.coco.annotations import CocoDataset, CocoImage
from sharpmask.shapes import Bool, Float


@dataclass(frozen=True)
class Matches:
    """How regions of a photo and its objects overlap.

    Attributes:
        overlaps: Largest box IoU with an object of each category.
        targets: Box (xyxy) of the object, of any category, that a region overlaps most; the region
            itself where it overlaps none.
        unsure: Whether a region may show an object that is not labelled: it lies in a crowd, or
            the photo is partly labelled. It then is not background either.
    """

    overlaps: Float[np.ndarray, "n k"]
    targets: Float[np.ndarray, "n 4"]
    unsure: Bool[np.ndarray, " n"]


def match(
    boxes: Float[np.ndarray, "n 4"], image: CocoImage, categories: Mapping[int, int]
) -> Matches:
    """Match regions (xyxy) with the objects of their photo.

    Args:
        boxes: The regions.
        image: The photo.
        categories: The detector's index of each category of the data set that it knows; objects
            of others count for nothing.
    """
    known = [instance for instance in image.instances if instance.category in categories]
    overlaps = np.zeros((len(boxes), len(categories)))
    targets = boxes.astype(float)
    if known:
        objects = np.array([instance.box for instance in known])
        table = iou(boxes, objects)
        for instance, column in zip(known, table.T, strict=True):
            of_category = overlaps[:, categories[instance.category]]
            np.maximum(of_category, column, out=of_category)
        touched = table.max(axis=1) > 0
        targets[touched] = objects[table.argmax(axis=1)[touched]]
    return Matches(overlaps, targets, covered(boxes, image.crowds) | (not image.complete))


def covered(
    boxes: Float[np.ndarray, "n 4"], crowds: Sequence[tuple[float, float, float, float]]
) -> Bool[np.ndarray, " n"]:
    """Which boxes lie by more than half in a region where single objects are not labelled."""
    result = np.zeros(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for left, top, right, bottom in crowds:
        starts = np.maximum(boxes[:, :2], [left, top])
        ends = np.minimum(boxes[:, 2:], [right, bottom])
        result |= (ends - starts).clip(min=0).prod(axis=1) > areas / 2
    return result


def frequent_categories(
    dataset: CocoDataset, min_objects: int, names: Sequence[str] = ()
) -> dict[int, int]:
    """The detector's index of each category that it can learn.

    Args:
        dataset: Photos.
        min_objects: Categories with fewer objects are left out.
        names: Names of the wanted categories; all if empty.

    Raises:
        ValueError: A wanted one is unknown or has too few objects, or none is left.
    """
    counts = np.zeros(len(dataset.categories), int)
    for image in dataset.images:
        for instance in image.instances:
            counts[instance.category] += 1
    for name in names:
        if name not in dataset.categories:
            raise ValueError(
                f"category {name!r} is not in the data; it has: {', '.join(dataset.categories)}"
            )
        count = counts[dataset.categories.index(name)]
        if count < min_objects:
            raise ValueError(
                f"category {name!r} has {count} objects to learn from, {min_objects} are needed"
            )
    chosen = [
        k
        for k, name in enumerate(dataset.categories)
        if counts[k] >= min_objects and (not names or name in names)
    ]
    if not chosen:
        raise ValueError(
            f"no category has {min_objects} objects to learn from; the most frequent has "
            f"{counts.max(initial=0)}"
        )
    return {category: index for index, category in enumerate(chosen)}
