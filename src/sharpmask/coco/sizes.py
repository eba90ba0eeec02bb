"""How large the objects of a data set are, how many a photo holds, and what follows from that."""

from collections.abc import Sequence

import numpy as np

from sharpmask.coco.records import ImageEntry
from sharpmask.pyramid_geometry import PyramidGeometry
from sharpmask.shapes import Float

NOT_REACHED = 0.05
"""Share of the objects, at either end, that need not have a reading of their own."""
KEPT_REACH = 0.75
"""A model's own sizes are kept if they fit so many of the objects."""
REACH_OCTAVES = 0.6
"""A level learns objects of so many octaves round its own object size."""
LARGEST_READING = 4096
"""Longer side of the largest photo that is read as a whole, in pixels: memory bounds it."""


def reduction_of(image_size: tuple[int, int], longest: int) -> float:
    """Factor by which a proposer reduces a photo before any octave counts; 1 for a small one."""
    return min(1.0, longest / max(image_size))


def object_sides(images: Sequence[ImageEntry], longest: int) -> Float[np.ndarray, " n"]:
    """Longer side of each object, crowds left out, in photos reduced to ``longest`` pixels.

    So large the network sees them at octave 0; a photo that is smaller stays as it is.
    """
    sides = []
    for image in images:
        factor = reduction_of(image.size, longest)
        for annotation in image.annotations:
            if annotation.where and not annotation.crowd:
                left, top, right, bottom = annotation.where
                sides.append(max(right - left, bottom - top) * factor)
    return np.array(sides, float)


def fitting_readings(
    images: Sequence[ImageEntry], geometry: PyramidGeometry, longest: int
) -> tuple[float, ...]:
    """Octaves at which photos are to be read so that objects have the sizes of the levels.

    The model's own, if they fit most objects. Else the first reading enlarges the small objects to
    the finest level; the second, of photos half as large, looks at all but the smallest once more;
    others, each half as large, follow while objects are beyond the coarsest level. The smallest and
    largest 5 % of the objects ask for no reading of their own.

    Args:
        images: Of the data set.
        geometry: The model's.
        longest: Photos are first reduced to it, in pixels.

    Raises:
        ValueError: There is no object.
    """
    sides = object_sides(images, longest)
    if not len(sides):
        raise ValueError("the annotations hold no object to learn from")
    if share_in_reach(sides, geometry.readings, geometry) >= KEPT_REACH:
        return geometry.readings
    octaves = np.log2(geometry.object_size(0) / np.maximum(sides, 1))
    halves = np.sort(np.rint(2 * octaves) / 2)
    spared = int(NOT_REACHED * len(halves))
    read_sides = [max(i.size) * reduction_of(i.size, longest) for i in images]
    limit = np.floor(2 * np.log2(LARGEST_READING / max(read_sides))) / 2
    first = float(min(halves[len(halves) - 1 - spared], limit))
    readings = [first, first - 1]
    span = geometry.num_levels - 1
    while halves[spared] < readings[-1] - span:
        readings.append(readings[-1] - 1)
    return tuple(readings)


def share_in_reach(
    sides: Float[np.ndarray, " n"],
    readings: Sequence[float],
    geometry: PyramidGeometry,
    octaves: float = REACH_OCTAVES,
) -> float:
    """Share of the objects that are within some octaves of a level's size in one of the readings.

    Args:
        sides: Longer sides at octave 0.
        readings: Octaves.
        geometry: Whose levels.
        octaves: How far is near.
    """
    if not len(sides):
        return 0.0
    levels = range(geometry.num_levels)
    fits = np.array([
        np.log2(geometry.object_size(level)) - reading for level in levels for reading in readings
    ])  # fmt: skip
    distance = np.abs(np.log2(np.maximum(sides, 1))[:, None] - fits).min(axis=1)
    return float((distance <= octaves).mean())


def recall_ceiling(images: Sequence[ImageEntry], count: int) -> float:
    """The most that Average Recall at ``count`` proposals a photo can be; 1 without an object.

    A proposal finds one object: of a photo with twice as many objects half are missed.
    """
    objects = [sum(not a.crowd for a in image.annotations) for image in images]
    return sum(min(count, number) for number in objects) / sum(objects) if any(objects) else 1.0


def most_objects(images: Sequence[ImageEntry]) -> int:
    """Objects of the photo that holds most."""
    return max((sum(not a.crowd for a in image.annotations) for image in images), default=0)
