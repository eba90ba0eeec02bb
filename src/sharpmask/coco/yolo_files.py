"""YOLO's segmentation labels: one text file per photo, its polygons as COCO segmentations."""

from pathlib import Path
from typing import Any


def yolo_objects(path: Path, size: tuple[int, int]) -> list[tuple[str, Any]]:
    """Read one file: a line is an object, ``class x1 y1 x2 y2 ...`` in shares of width and height.

    Args:
        path: The text file; an empty one says that there is no object.
        size: Height and width of the photo.

    Returns:
        Of each object its class and its COCO segmentation.

    Raises:
        ValueError: A line holds no polygon; a class and four numbers are a box, which has no mask.
    """
    height, width = size
    objects: list[tuple[str, Any]] = []
    for count, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        label, *texts = line.split() or [""]
        if not label:
            continue
        try:
            shares = [float(text) for text in texts]
        except ValueError:
            raise ValueError(f"line {count} holds more than numbers: {line[:60]!r}") from None
        if len(shares) == 4:
            raise ValueError(f"line {count} is a box; masks are needed: export polygons")
        if len(shares) < 6 or len(shares) % 2:
            raise ValueError(
                f"line {count}: expected x, y of at least 3 points, got {len(shares)} numbers"
            )
        ring = [share * (height if place % 2 else width) for place, share in enumerate(shares)]
        objects.append((f"class {label}", [ring]))
    return objects
