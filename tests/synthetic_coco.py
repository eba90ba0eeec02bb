"""A small data set in COCO's format: photos with coloured shapes, every kind of segmentation.

python tests/synthetic_coco.py FOLDER [PHOTOS] writes FOLDER/images, FOLDER/train.json and, a third
as many, FOLDER/val.json.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

CATEGORIES = [
    {"id": 3, "name": "disc"},
    {"id": 7, "name": "plate"},
    {"id": 90, "name": "roof"},
]
COLOURS = {3: (220, 40, 40), 7: (40, 200, 60), 90: (60, 80, 230)}


class CocoFolder(NamedTuple):
    train: Path
    val: Path
    images: Path


def uncompressed_rle(mask):
    """Run lengths of a mask, column by column, the first of zeros."""
    runs, value = [0], 0
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def compressed_rle(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def outline(category, left, top, side):
    """Points of a shape."""
    if category == 3:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        points = side / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], axis=1))
    elif category == 7:
        points = side * np.array([[0, 0.2], [1, 0.2], [1, 0.8], [0, 0.8]])
    else:
        points = side * np.array([[0.5, 0], [1, 1], [0, 1]])
    return points + np.array([left, top])


def segmentation(points, image_size, form):
    """The same shape as polygon, uncompressed or compressed RLE."""
    polygon = [[float(value) for value in points.ravel()]]
    if form == "polygon":
        return polygon
    height, width = image_size
    rle = coco_mask.merge(coco_mask.frPyObjects(polygon, height, width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools and NumPy 2
        mask = coco_mask.decode(rle)
    return uncompressed_rle(mask) if form == "runs" else compressed_rle(mask)


def write_coco(folder: Path, *, name: str, photos: int, seed: int, complete: bool = False) -> Path:
    """Write photos to ``folder/images`` and their annotations to ``folder/name``.

    Photos 0, 4, 8 ... hold a crowd, photo 1 is only partly labelled unless
    they are to be ``complete``, photo 2 has no object.
    """
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(photos):
        height, width = 96 + 8 * (number % 3), 128 - 8 * (number % 2)
        pixels = np.clip(rng.normal(128, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        photo = Image.fromarray(pixels)
        image_id = 10 * number + 5
        file_name = f"{Path(name).stem}-{image_id}.png"
        for place in range(0 if number == 2 else 2 + number % 2):
            category = CATEGORIES[(number + place) % 3]["id"]
            left, top = 4 + 40 * place + rng.integers(0, 6), rng.integers(4, 40)
            side = float(rng.integers(26, 40))
            points = outline(category, left, top, side)
            ImageDraw.Draw(photo).polygon([*map(tuple, points)], fill=COLOURS[category])
            form = ("polygon", "runs", "rle")[(number + 2 * place) % 3]
            crowd = int(number % 4 == 0 and place == 1)
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": image_id,
                    "category_id": category,
                    "iscrowd": crowd,
                    "segmentation": segmentation(points, (height, width), form),
                }
            )
        photo.save(folder / "images" / file_name)
        entry = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        images.append(entry | ({"complete": False} if number == 1 and not complete else {}))
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / name).write_text(json.dumps(content))
    return folder / name


if __name__ == "__main__":
    photos = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    write_coco(Path(sys.argv[1]), name="train.json", photos=photos, seed=1)
    write_coco(
        Path(sys.argv[1]), name="val.json", photos=max(1, photos // 3), seed=2, complete=True
    )
