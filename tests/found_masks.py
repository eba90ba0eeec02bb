"""Photos on disk with masks found in them, for the tests of selection and writers."""

import json
import warnings
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco

from sharpmask.selection import Segments
from sharpmask.writers.writer import Destination, Segmented

any_mask = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14)).filter(np.any)


def rle_of(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def mask_of(rle):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools and NumPy 2
        return coco.decode(rle).astype(bool)


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0


def segments_of(masks, image_size=None):
    """Masks, best first, with scores that fall evenly."""
    masks = list(masks)
    scores = np.linspace(0.9, 0.1, len(masks), dtype=np.float32)
    return Segments(image_size or masks[0].shape, scores, [rle_of(mask) for mask in masks])


@st.composite
def mask_lists(draw, most=6):
    """Several masks of one photo, none of them empty."""
    size = draw(array_shapes(min_dims=2, max_dims=2, max_side=14))
    return draw(st.lists(arrays(bool, size).filter(np.any), min_size=1, max_size=most))


def shapes(height=96, width=128, seed=0):
    """A wavy disc, a ring, a disc in two pieces, a bar at the border: masks as objects are."""
    y, x = np.mgrid[:height, :width] + 0.5
    shift = np.random.default_rng(seed).uniform(0.9, 1.1)
    distance = np.hypot(y - 0.45 * height, x - 0.3 * width)
    angle = np.arctan2(y - 0.45 * height, x - 0.3 * width)
    wavy = distance < (0.25 + 0.05 * np.sin(5 * angle)) * height * shift
    distance = np.hypot(y - 0.4 * height, x - 0.7 * width)
    ring = (distance < 0.3 * height) & (distance > 0.12 * height * shift)
    pieces = np.hypot(y - 0.8 * height, x - 0.2 * width) < 0.15 * height
    pieces |= np.hypot(y - 0.8 * height, x - 0.5 * width) < 0.06 * height
    bar = (np.abs(y - 0.8 * height - 0.1 * x) < 0.07 * height) & (x > 0.6 * width)
    return [wavy, ring, pieces, bar]


def solid(masks):
    """The same without holes and second pieces: what a polygon can hold."""
    from scipy import ndimage

    filled = []
    for mask in masks:
        pieces, count = ndimage.label(ndimage.binary_fill_holes(mask))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        filled.append(pieces == 1 + np.argmax(sizes))
    return filled


def write_photos(folder: Path, names, *, masks=shapes):
    """Write photos; gives them with their masks, and the masks by path."""
    photos, truth = [], {}
    for number, name in enumerate(names, start=1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = masks(seed=number) if masks else []
        size = found[0].shape if found else (96, 128)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        with path.open("wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
        photos.append(Segmented(number, path, segments_of(found, size), pixels))
        truth[path] = found
    return photos, truth


def without_pixels(photo):
    """A photo as it comes back from the journal."""
    records = json.loads(json.dumps(photo.segments.to_coco(photo.id)))
    return Segmented(photo.id, photo.path, Segments.from_coco(records, photo.segments.image_size))


def write(writer_of, photos, output):
    """All that a run asks of a writer."""
    destination = Destination(output, [photo.path for photo in photos])
    writer = writer_of(destination)
    for photo in photos:
        writer.add(photo)
    # At the end photos come from the journal, one by one, without pixels.
    writer.finish(map(without_pixels, photos))
    return destination
