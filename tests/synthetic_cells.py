"""Pictures of cells: hundreds of touching ellipses on a dark field, grey, and what lies where.

python tests/synthetic_cells.py FOLDER [PHOTOS] writes FOLDER/images, FOLDER/train.json and, a third
as many, FOLDER/val.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from sharpmask.masks import encode


def cells(rng, size=(384, 512), count=150, sides=(10, 40)):
    """A picture and the mask of every cell that shows at least 60 % of itself and 25 pixels."""
    height, width = size
    light = np.zeros(size)
    owner = np.zeros(size, int)
    whole = {}
    centers = np.empty((0, 3))
    y, x = np.mgrid[:height, :width] + 0.5
    for number in range(1, count + 1):
        side = np.exp(rng.uniform(*np.log(sides)))
        a, b = side / 2, side / 2 * rng.uniform(0.6, 1)
        for _ in range(20):  # touching, not on top of each other
            if len(centers) and rng.random() < 0.6:
                near = centers[rng.integers(len(centers))]
                turn, apart = rng.uniform(0, 2 * np.pi), near[2] + (a + b) / 2
                place = near[:2] + 0.95 * apart * np.array([np.cos(turn), np.sin(turn)])
            else:
                place = rng.uniform(0, (width, height))
            distance = np.hypot(*(centers[:, :2] - place).T) if len(centers) else np.empty(0)
            if (place >= 0).all() and (place < (width, height)).all() and (
                distance > 0.85 * (centers[:, 2] + (a + b) / 2)
            ).all():  # fmt: skip
                break
        else:
            continue
        centers = np.vstack([centers, [*place, (a + b) / 2]])
        turn = rng.uniform(0, np.pi)
        left, right = int(max(0, place[0] - side)), int(min(width, place[0] + side + 1))
        top, bottom = int(max(0, place[1] - side)), int(min(height, place[1] + side + 1))
        box = np.s_[top:bottom, left:right]
        dx, dy = x[box] - place[0], y[box] - place[1]
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        radius = np.hypot(u / a, v / b)
        inside = radius <= 1
        noise = rng.normal(0, 1, (inside.shape[0] + 2, inside.shape[1] + 2))
        rows, columns = inside.shape
        grain = sum(noise[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / 3
        shade = rng.uniform(60, 150) * (1 - 0.35 * radius**2) + 25 * grain
        light[box][inside] = shade[inside]
        owner[box][inside] = number
        whole[number] = inside.sum()
    rows, columns = rng.uniform(-0.4, 0.4, 2)
    uneven = 1 + rows * (y / height - 0.5) + columns * (x / width - 0.5)
    picture = Image.fromarray((np.clip(12 + light, 0, 255) * uneven).clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.2)))
    noisy = np.asarray(picture) + rng.normal(0, rng.uniform(3, 9), size)
    masks = [owner == k for k, pixels in whole.items() if (owner == k).sum() >= 0.6 * pixels]
    return noisy.clip(0, 255).astype(np.uint8), [mask for mask in masks if mask.sum() >= 25]


def write_cells(folder, *, name, photos, seed, **options):
    """Write pictures to ``folder/images`` and their annotations to ``folder/name``."""
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, photos + 1):
        pixels, masks = cells(np.random.default_rng((seed, number)), **options)
        height, width = pixels.shape
        file_name = f"{Path(name).stem}-{number}.png"
        Image.fromarray(pixels).save(folder / "images" / file_name)
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for mask in masks:
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                "segmentation": encode(mask, mask.shape),
            })  # fmt: skip
    categories = [{"id": 1, "name": "cell"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(content))
    return folder / name


if __name__ == "__main__":
    photos = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    write_cells(sys.argv[1], name="train.json", photos=photos, seed=1)
    write_cells(sys.argv[1], name="val.json", photos=max(1, photos // 3), seed=2)
