"""Masks as PNG: one indexed picture per photo, or a folder of one picture per object."""

from pathlib import Path
from typing import Any

import numpy as np

from sharpmask.images import read_indices
from sharpmask.masks import encode
from sharpmask.shapes import Int

LABEL = "object"
MAX_OBJECTS = 65535
"""As many as a picture of 16 bits holds; a photo has more colours."""


def mask_objects(path: Path) -> tuple[tuple[int, int], list[tuple[str | None, Any]]]:
    """Read the masks of one photo.

    Args:
        path: A picture in which every value or colour but 0 is one object, whatever its number of
            pieces; or a folder of pictures, each of one object, that is not 0 on it.

    Returns:
        Height and width; of each object a label, always the same, and its COCO segmentation; last,
        with the label None, what is void: neither object nor background.

    Raises:
        ValueError: A picture cannot be read, a folder holds none, or its pictures differ in size.
    """
    if not path.is_dir():
        index = read_indices(path.read_bytes())
        parts: list[tuple[str | None, Any]] = [(LABEL, places) for places in _places(index)]
        if len(void := np.flatnonzero(index < 0)):
            parts.append((None, void))
        return index.shape, [(label, _rle(places, index.shape)) for label, places in parts]
    # macOS leaves a "._001.png" beside each picture.
    files = sorted(file for file in path.glob("*.png") if not file.name.startswith("."))
    pictures = [read_indices(file.read_bytes()) > 0 for file in files]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(f"expected PNG files of one size, got {len(sizes)} sizes")
    size = sizes.pop()
    return size, [(LABEL, _rle(np.flatnonzero(each), size)) for each in pictures if each.any()]


def _places(index: Int[np.ndarray, "h w"]) -> list[Int[np.ndarray, " n"]]:
    """The pixels of each value above 0, counted along the rows.

    Raises:
        ValueError: There are more values than a mask has.
    """
    places = np.flatnonzero(index > 0)
    values = index.ravel()[places]
    order = np.argsort(values, kind="stable")
    places, ends = places[order], np.flatnonzero(np.diff(values[order])) + 1
    if len(ends) >= MAX_OBJECTS:
        raise ValueError(f"has {len(ends) + 1} colours; masks have one for each object: a photo?")
    return np.split(places, ends) if len(places) else []


def _rle(places: Int[np.ndarray, " n"], size: tuple[int, int]) -> dict[str, Any]:
    """The RLE of a mask, made of its box alone: a photo may hold thousands."""
    rows, columns = np.divmod(places, size[1])
    top, left = int(rows[0]), int(columns.min())
    part = np.zeros((rows[-1] - top + 1, columns.max() - left + 1), bool)
    part[rows - top, columns - left] = True
    return dict(encode(part, size, top, left))
