"""LabelMe's files: one JSON file per photo, its shapes as COCO segmentations."""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpmask.coco.numbers import integer, number
from sharpmask.coco.records import read
from sharpmask.images import read_indices
from sharpmask.masks import encode

CIRCLE_POINTS = 48
WITHOUT_AREA = ("point", "points", "line", "linestrip")
FOUR_CORNERS = ("oriented_rectangle", "rotation", "quadrilateral")
"""Polygons under names of their own, of LabelMe 6 and of X-AnyLabeling."""


def labelme_objects(path: Path) -> tuple[tuple[int, int], list[tuple[str, Any]]]:
    """Read one file.

    Polygons of one label and ``group_id`` are the pieces of one object. Shapes without area (points
    and lines) are passed over.

    Args:
        path: What LabelMe or X-AnyLabeling wrote.

    Returns:
        Height and width of the photo; of each object its label and its COCO segmentation.

    Raises:
        ValueError: It is not such a file, or a shape is malformed or of an unknown type.
    """
    content = json.loads(path.read_bytes())
    if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
        raise ValueError("not a file of LabelMe: it has no list 'shapes'")
    try:
        height, width = (read(content, key, integer) for key in ("imageHeight", "imageWidth"))
        size = height, width
        objects: list[tuple[str, Any]] = []
        groups: dict[tuple[str, Any], list[list[float]]] = {}
        for shape in content["shapes"]:
            label, kind = str(shape["label"]), shape.get("shape_type") or "polygon"
            points = _points(shape["points"])
            if kind == "mask":
                objects.append((label, _mask(shape["mask"], points, size)))
            elif kind not in WITHOUT_AREA:
                ring = _ring(kind, points)
                group = (label, shape.get("group_id"))
                if group[1] is not None and group in groups:
                    groups[group].append(ring)
                    continue
                groups[group] = [ring]
                objects.append((label, groups[group]))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a shape is malformed: {error}") from None
    return size, objects


def _points(values: Sequence[Any]) -> list[tuple[float, float]]:
    try:
        return [(number(x), number(y)) for x, y in values]
    except ValueError as error:
        raise ValueError(f"a shape is malformed: a point {error}") from None


def _ring(kind: str, points: Sequence[tuple[float, float]]) -> list[float]:
    """The outline of a shape as x, y, x, y."""
    if kind == "polygon" or kind in FOUR_CORNERS:
        return [value for point in points for value in point]
    if kind not in ("rectangle", "circle"):
        raise ValueError(f"a shape is of the type {kind!r}, which is not read; draw a polygon")
    if len(points) < 2:
        raise ValueError(f"a {kind} has {len(points)} points, not 2")
    if kind == "rectangle":  # LabelMe's has two corners, that of X-AnyLabeling four
        xs, ys = zip(*points, strict=True)
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        return [left, top, right, top, right, bottom, left, bottom]
    (x0, y0), (x1, y1) = points[:2]
    radius = math.hypot(x1 - x0, y1 - y0)
    turns = np.linspace(0, 2 * math.pi, CIRCLE_POINTS, endpoint=False)
    ring = np.stack([x0 + radius * np.cos(turns), y0 + radius * np.sin(turns)], axis=1)
    return [float(value) for value in ring.ravel()]


def _mask(
    text: str, points: Sequence[tuple[float, float]], size: tuple[int, int]
) -> dict[str, Any]:
    """The RLE of a mask that is given as a PNG file of its box; both corners belong to the box."""
    try:
        pixels = read_indices(base64.b64decode(text, validate=True)) > 0
    except binascii.Error as error:
        raise ValueError(f"a mask is not base64: {error}") from None
    left, top = round(min(x for x, _ in points)), round(min(y for _, y in points))
    rows, columns = pixels.shape
    if left < 0 or top < 0 or top + rows > size[0] or left + columns > size[1]:
        raise ValueError(f"a mask of {columns}x{rows} pixels at ({left}, {top}) leaves the photo")
    return dict(encode(pixels, size, top, left))
