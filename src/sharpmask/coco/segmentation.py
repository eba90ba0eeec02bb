"""COCO segmentations, polygons and RLE of both kinds, to compressed RLE."""

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco.mask

from sharpmask.coco.numbers import are_plain, integer, number, shown
from sharpmask.masks import Rle

MAX_COORDINATE = 1e6
"""Beyond a million pixels drawing a polygon would cost more than any photo."""


def segmentation_to_rle(segmentation: object, image_size: tuple[int, int]) -> Rle:
    """Read a COCO segmentation: polygons, uncompressed or compressed RLE.

    Of several polygons those of fewer than three points, which have no area, are left out.

    Args:
        segmentation: As parsed from JSON.
        image_size: Height and width.

    Raises:
        ValueError: It is none of these, is malformed, or does not fit the image.
    """
    height, width = image_size
    if min(image_size) < 1 or height * width >= 2**32:
        raise ValueError(f"segmentation: no mask can be {height} high and {width} wide")
    if isinstance(segmentation, Mapping):
        return _checked_rle(segmentation, image_size)
    # One call a polygon: in a batch a first polygon of four numbers would be read as a box.
    rles = [
        hotcoco.mask.fr_poly(_numbers(polygon), height, width)
        for polygon in parts_with_area(segmentation)
    ]
    merged = hotcoco.mask.merge(rles)
    return {"size": [height, width], "counts": merged["counts"].decode()}


def parts_with_area(segmentation: object) -> list[Sequence[object]]:
    """The polygons of a segmentation that have three points or more.

    Raises:
        ValueError: There is none, or one of them has an x without y.
    """
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise ValueError(f"segmentation: expected polygons or an RLE, got {shown(segmentation)}")
    for polygon in segmentation:
        if not isinstance(polygon, list | tuple):
            raise ValueError("segmentation: a polygon must be a list of numbers")
    parts: list[Sequence[object]] = [polygon for polygon in segmentation if len(polygon) >= 6]
    for polygon in parts or segmentation:
        if not parts or len(polygon) % 2:
            raise ValueError(
                "segmentation: a polygon needs x, y of at least 3 points, got "
                f"{len(polygon)} numbers"
            )
    return parts


def extent(segmentation: object) -> tuple[float, float, float, float] | None:
    """Box (xyxy) round the points of polygons, few as they may be; None if one cannot be read."""
    points: list[tuple[float, float]] = []
    for polygon in segmentation if isinstance(segmentation, list | tuple) else ():
        try:
            if not isinstance(polygon, list | tuple):
                return None
            points += zip(map(number, polygon[::2]), map(number, polygon[1::2]), strict=True)
        except ValueError:
            return None
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _numbers(polygon: Sequence[object]) -> list[float]:
    try:
        values = list(polygon) if are_plain([polygon]) else [number(value) for value in polygon]
    except ValueError as error:
        raise ValueError(f"segmentation: a coordinate {error}") from None
    if not all(abs(value) < MAX_COORDINATE for value in values):  # type: ignore[arg-type]
        wrong = next(value for value in values if not abs(value) < MAX_COORDINATE)  # type: ignore[arg-type]
        raise ValueError(f"segmentation: {shown(wrong)} is not a pixel coordinate")
    return values  # type: ignore[return-value]


def _checked_rle(rle: Mapping[str, Any], image_size: tuple[int, int]) -> Rle:
    height, width = image_size
    counts, size = rle.get("counts"), rle.get("size")
    try:
        fits = [integer(side) for side in size] == [height, width]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"segmentation: RLE size {shown(size)} does not fit the image, {[height, width]}"
        )
    if isinstance(counts, list | tuple):
        try:
            counts = [integer(count) for count in counts]
        except ValueError as error:
            raise ValueError(f"segmentation: a run length {error}") from None
    try:
        read = hotcoco.mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"segmentation: {error}") from None
    counts = read["counts"]
    # Runs that are too long for the image were refused; too short are those that fit a smaller one.
    smaller = height * width - 1
    try:
        hotcoco.mask.frPyObjects({"size": [1, smaller], "counts": counts}, 1, smaller)
    except ValueError:
        return {
            "size": [height, width],
            "counts": counts.decode() if isinstance(counts, bytes) else counts,
        }
    raise ValueError(f"segmentation: the RLE ends before the image, {[height, width]}, does")
