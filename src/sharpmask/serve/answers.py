"""What photos are asked for by the addresses in ``/v1``, and COCO as the answer."""

import json
from collections.abc import Sequence

from sharpmask.defaults import VERSION
from sharpmask.detection.detections import Category, Detections
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.serve.remembered import Photos
from sharpmask.writers.writer import LABEL


def all_objects(photos: Photos, data: bytes, name: str, select: Selection) -> bytes:
    """Objects of a photo's file.

    Raises:
        ImageError: It is not a photo, or too large.
    """
    photo_id, photo = photos.read(data, name)
    return coco_of(select(photo.propose()), photo_id, name)


def named_objects(photos: Photos, data: bytes, name: str, select: Selection) -> bytes:
    """Objects of a photo's file that the detector names.

    Raises:
        ImageError: It is not a photo, or too large.
    """
    assert photos.detector is not None
    photo_id, photo = photos.read(data, name)
    return coco_of(select(photos.detector.on(photo)), photo_id, name)


def at_prompt(
    photos: Photos,
    photo: bytes | str,
    name: str,
    count: int,
    point: Sequence[float] | None,
    box: Sequence[float] | None,
) -> bytes | None:
    """Objects at a point or in a box; None if the photo is not remembered.

    Args:
        photos: Where it is asked.
        photo: Its file, or its id in an earlier answer.
        name: What the client calls it.
        count: Maximum number of masks at a point.
        point: x, y; None to ask by the box.
        box: x0, y0, x1, y1.

    Raises:
        ValueError: It is not a photo; the point or the box is not on it.
    """
    if isinstance(photo, bytes):
        photo_id, read = photos.read(photo, name)
    else:
        known = photos.recall(photo)
        if known is None:
            return None
        photo_id, read = photo, known
    found = read.at(point[0], point[1], count) if point else read.in_box(box or ()).alone
    return coco_of(found[found.areas > 0], photo_id, name)


def coco_of(found: Proposals | Detections, photo_id: str, name: str) -> bytes:
    """Masks as a COCO data set of one photo, with the id by which the photo is remembered."""
    categories: Sequence[Category] = (Category(1, LABEL),)
    if isinstance(found, Detections):
        categories = found.categories
    height, width = found.image_size
    records = found.to_coco(1)
    annotations = [
        {"id": number, **record, "area": int(area), "iscrowd": 0}
        for number, (record, area) in enumerate(zip(records, found.areas, strict=True), start=1)
    ]
    content = {
        "info": {
            "description": "Objects in a photo",
            "version": f"sharpmask {VERSION}",
        },
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name, "supercategory": ""} for c in categories],
        "photo": photo_id,
    }
    return json.dumps(content, allow_nan=False).encode()
