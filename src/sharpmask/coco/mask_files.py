"""Masks as PNG: one indexed picture per photo, or a folder of one picture per object."""

from pathlib import Path
from typing import Any

import numpy as np

from sharpmask.images import read_indices
from sharpmask.masks import encode

LABEL = "object"


def mask_objects(path: Path) -> tuple[tuple[int, int], list[tuple[str, Any]]]:
    """Read the masks of one photo.

    Args:
        path: A picture in which every value or colour but 0 is one object, whatever its number of
            pieces; or a folder of pictures, each of one object, that is not 0 on it.

    Returns:
        Height and width; of each object a label, always the same, and its COCO segmentation.

    Raises:
        ValueError: A picture cannot be read, a folder holds none, or its pictures differ in size.
    """
    if not path.is_dir():
        index = read_indices(path.read_bytes())
        values = np.unique(index)
        return index.shape, [(LABEL, _rle(index == value)) for value in values[values > 0]]
    pictures = [read_indices(file.read_bytes()) > 0 for file in sorted(path.glob("*.png"))]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(f"expected PNG files of one size, got {len(sizes)} sizes")
    return sizes.pop(), [(LABEL, _rle(picture)) for picture in pictures if picture.any()]


def _rle(mask: np.ndarray) -> dict[str, Any]:
    """The RLE of a mask, made of its box alone: a photo may hold hundreds."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    height, width = mask.shape
    return dict(encode(part, (height, width), top, left))
