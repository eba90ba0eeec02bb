"""Labels in whatever form they are: a COCO file, or a folder of LabelMe's, YOLO's or mask files."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpmask.coco.labelme_files import labelme_objects
from sharpmask.coco.mask_files import LABEL, mask_objects
from sharpmask.coco.problems import BAD_LABELS, MERGED, Problem
from sharpmask.coco.reader import CocoFile, parse_coco, read_coco
from sharpmask.coco.yolo_files import yolo_objects
from sharpmask.images import list_images, read_image
from sharpmask.runs import Runs

MANY_PIECES, PIECE_AREA, FEW_VALUES = 10, 20, 30
"""A value of so many pieces of so many pixels, in a picture of few values, stands for a kind."""
Objects = Sequence[tuple[str | None, Any]]
"""Of each object its label and its COCO segmentation; None where all else is not background."""


def _yolo(labels: Path, photo: Path) -> tuple[tuple[int, int], Objects]:
    height, width = read_image(photo).shape[:2]
    return (height, width), yolo_objects(labels, (height, width))


READERS: dict[str, Callable[[Path, Path], tuple[tuple[int, int], Objects]]] = {
    ".json": lambda labels, _: labelme_objects(labels),
    ".txt": _yolo,
    ".png": lambda labels, _: mask_objects(labels),
    "": lambda labels, _: mask_objects(labels),
}
"""Give height and width of a photo and its objects; by the suffix of its labels, none: a folder."""


def read_labels(labels: Path, images: Path) -> CocoFile:
    """Read labels as the records of a COCO file.

    In a folder the labels of a photo are the file, or for single masks the folder, that is called
    as the photo is. Photos without labels are left out: nothing says that they hold no object.
    Labels that cannot be read cost their photo.

    Args:
        labels: A COCO annotation file, or a folder.
        images: Folder of the photos.

    Raises:
        ValueError: The folder holds no labels of these photos, or none that can be read.
        OSError: A file cannot be read.
    """
    if not labels.is_dir():
        return read_coco(labels)
    # Of two files of one name the PNG may be the mask of the other.
    listed = sorted(list_images(images), key=lambda photo: photo.suffix.lower() != ".png")
    photos = {_spelt(photo.stem): photo for photo in listed}
    found = _labels_of(labels, photos)
    if not found:
        raise ValueError(
            f"{labels}: no labels of the photos in {images}; expected NAME.json (LabelMe), "
            "NAME.txt (polygons of YOLO), NAME.png or NAME/*.png (masks) for the photo NAME"
        )
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    categories: dict[str, int] = {}
    problems: list[Problem] = []
    for name, entry in found.items():
        try:
            size, objects = READERS[_form(entry)](entry, photos[name])
        except (ValueError, OSError) as error:
            problems.append(Problem(entry.name, BAD_LABELS, str(error)))
            continue
        if _form(entry) == ".png" and (most := _most_pieces(size, objects)) >= MANY_PIECES:
            text = (
                f"a value has {most} pieces, and every value is one object; if these are many "
                "objects, give each a value of its own"
            )
            problems.append(Problem(entry.name, MERGED, text))
        image_id = len(content["images"]) + 1
        height, width = size
        content["images"].append(
            {"id": image_id, "file_name": photos[name].name, "height": height, "width": width}
        )
        for label, segmentation in objects:
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image_id,
                "iscrowd": int(label is None),
                "category_id": categories.setdefault(
                    LABEL if label is None else label, len(categories) + 1
                ),
                "segmentation": segmentation,
            })  # fmt: skip
    if not content["images"]:
        raise ValueError(f"{labels}: none of {len(found)} files can be read, e.g. {problems[0]}")
    content["categories"] = [{"id": k, "name": label} for label, k in categories.items()]
    file = parse_coco(content, labels)
    return replace(file, own_problems=(*problems, *file.own_problems))


def _most_pieces(size: tuple[int, int], objects: Objects) -> int:
    """The most pieces of an object, if a picture has as few values as there may be kinds."""
    masks = [segmentation for label, segmentation in objects if label is not None]
    if not 0 < len(masks) <= FEW_VALUES:
        return 0
    runs = Runs.of(masks, size)
    return int(runs.pieces(PIECE_AREA).max())


def _labels_of(folder: Path, photos: dict[str, Path]) -> dict[str, Path]:
    """The labels of each photo that has some, by its name; all of one form, the first there is."""
    own = {photo.resolve() for photo in photos.values()}
    entries = sorted(entry for entry in folder.iterdir() if entry.resolve() not in own)
    for form in READERS:
        same = {_name(entry): entry for entry in entries if _form(entry) == form}
        found = {name: same[name] for name in photos if name in same}
        if found:
            return found
    return {}


def _form(entry: Path) -> str:
    """The suffix of a file; empty for a folder."""
    return "" if entry.is_dir() else entry.suffix.lower() or "no suffix"


def _name(entry: Path) -> str:
    return _spelt(entry.name if entry.is_dir() else entry.stem)


def _spelt(name: str) -> str:
    """A name in one spelling: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)
