"""COCO annotation files: read once, checked object by object."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from sharpmask.images import MAX_PIXELS, read_image
from sharpmask.masks import Rle, rle_areas, rle_boxes, segmentation_to_rle


@dataclass(frozen=True)
class Instance:
    """One labelled object.

    Attributes:
        id: The annotation's id in its file.
        category: Index into ``CocoDataset.categories``.
        box: Tight box of the mask, xyxy.
        rle: The mask.
    """

    id: int
    category: int
    box: tuple[float, float, float, float]
    rle: Rle


@dataclass(frozen=True)
class CocoImage:
    """One photo and its objects.

    Attributes:
        id: The image's id in its file.
        path: Where the photo lies.
        size: Height and width as the file states them.
        complete: Whether every object is labelled. If not, nothing in it may be taken for
            background.
        instances: Objects that can be learned from.
        crowds: Boxes (xyxy) of crowd regions and of objects too small to learn from: not
            background.
        source: Collection that the photo is from, if the file states it.
    """

    id: int
    path: Path
    size: tuple[int, int]
    complete: bool
    instances: tuple[Instance, ...]
    crowds: tuple[tuple[float, float, float, float], ...]
    source: str = ""

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """Boxes of the instances, xyxy."""
        return np.array([instance.box for instance in self.instances]).reshape(-1, 4)

    def read(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo, RGB.

        Raises:
            ValueError: It cannot be read, or is not of the size that its file states.
        """
        pixels = read_image(self.path)
        height, width = pixels.shape[:2]
        if (height, width) != self.size:
            raise ValueError(
                f"{self.path}: the photo is {width}x{height}, its annotations say "
                f"{self.size[1]}x{self.size[0]}"
            )
        return pixels


@dataclass(frozen=True)
class CocoDataset:
    """Images of one or more annotation files.

    Attributes:
        images: All photos.
        categories: Names.
        category_ids: Id of each in the first file that has it.
        skipped: Why annotations were not used, with counts.
    """

    images: tuple[CocoImage, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    skipped: Counter[str]


@dataclass(frozen=True)
class Fault:
    """What keeps an annotation file or a part of it from being used.

    Attributes:
        file: The file.
        record: What is concerned: "image 17", "annotation 5".
        problem: The reason, the same for all records that it befalls.
        refused: Whether the whole file cannot be used; else the record alone is left out.
    """

    file: Path
    record: str
    problem: str
    refused: bool


MIN_AREA = 100
MIN_SIDE = 5
"""Objects below these, in pixels, are not learned from (FAIR's sampler)."""


def load_coco(annotations: Path | Sequence[Path], images: Path) -> CocoDataset:
    """Read annotation files whose photos lie in one folder.

    An annotation that cannot be used (crowd, tiny, malformed) is left out and counted in
    ``skipped``.

    Args:
        annotations: One or more files in COCO's instance format. An image entry with
            ``"complete": false`` is only partly labelled.
        images: Folder that ``file_name`` is relative to.

    Raises:
        ValueError: A file is not COCO instance JSON, an image entry is malformed or lies outside
            ``images``; the message names the file and the entry.
    """
    dataset, faults = examine_coco(annotations, images)
    for fault in faults:
        if fault.refused:
            raise ValueError(f"{fault.file}: {f'{fault.record} {fault.problem}'.strip()}")
    return dataset


def examine_coco(
    annotations: Path | Sequence[Path], images: Path
) -> tuple[CocoDataset, list[Fault]]:
    """As ``load_coco``, and everything that is wrong with the files instead of an error."""
    files = [annotations] if isinstance(annotations, Path) else list(annotations)
    categories: dict[str, int] = {}
    ids: dict[int, int | str] = {}
    faults: list[Fault] = []
    loaded = [
        image for file in files for image in _load_file(file, images, categories, ids, faults)
    ]
    skipped = Counter(fault.problem for fault in faults if not fault.refused)
    return CocoDataset(tuple(loaded), tuple(categories), tuple(ids.values()), skipped), faults


def leave_out_unreadable(dataset: CocoDataset) -> tuple[CocoDataset, list[str]]:
    """The data set without photos that cannot be used, and what ails them."""
    problems = photo_problems(dataset)
    sound = tuple(image for image, bad in zip(dataset.images, problems, strict=True) if not bad)
    return replace(dataset, images=sound), [bad for bad in problems if bad]


def photo_problems(dataset: CocoDataset) -> list[str]:
    """For each photo whether it is missing, damaged or of another size; empty if it is sound.

    Every photo is decoded: a header does not tell that the rest of the file is missing.
    """

    def problem(image: CocoImage) -> str:
        try:
            image.read()
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as threads:
        return list(threads.map(problem, dataset.images))


def _load_file(
    file: Path,
    folder: Path,
    categories: dict[str, int],
    ids: dict[int, int | str],
    faults: list[Fault],
) -> list[CocoImage]:
    def refuse(record: str, problem: str) -> None:
        faults.append(Fault(file, record, problem, refused=True))

    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        refuse("", str(error.strerror))
        return []
    except (ValueError, RecursionError) as error:
        refuse("", f"not a JSON file: {error}")
        return []
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            refuse("", f"expected COCO instance format, a list {key!r} is missing")
            return []
    names: dict[Any, int] = {}
    for category in content["categories"]:
        sound = isinstance(category, dict) and _is_id(category.get("id")) and "name" in category
        if not sound:
            refuse(f"category {str(category)[:80]}", "needs an id and a name")
            continue
        number = categories.setdefault(str(category["name"]), len(categories))
        names[category["id"]] = number
        ids.setdefault(number, category["id"])
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for number, annotation in enumerate(content["annotations"]):
        if isinstance(annotation, dict) and _is_id(annotation.get("image_id")):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        else:
            faults.append(Fault(file, annotation_name(annotation, number), "no image_id", False))
    images = [
        image
        for number, entry in enumerate(content["images"])
        if (image := _load_image(file, folder, number, entry, by_image, names, faults))
    ]
    for identity, count in Counter(image.id for image in images).items():
        if count > 1:
            # The objects can be those of only one of them: the other would pass for background.
            refuse(f"image {identity}", f"has an id that appears {count} times")
    faults += [
        Fault(file, annotation_name(orphan), "image_id of no image", refused=False)
        for orphans in by_image.values()
        for orphan in orphans
    ]
    return images


def annotation_name(annotation: object, number: int | None = None) -> str:
    """What messages call an annotation: by its id, or by its place in the file if it has none."""
    if isinstance(annotation, dict) and "id" in annotation:
        return f"annotation {annotation['id']}"
    return f"annotations[{number}]" if number is not None else f"annotation {str(annotation)[:60]}"


def _load_image(
    file: Path,
    folder: Path,
    number: int,
    entry: dict[str, Any],
    by_image: dict[Any, list[dict[str, Any]]],
    names: dict[Any, int],
    faults: list[Fault],
) -> CocoImage | None:
    problem = ""
    try:
        identity, name = entry["id"], str(entry["file_name"])
        size = (int(entry["height"]), int(entry["width"]))
        if not _is_id(identity):
            raise TypeError
        record = f"image {identity}"
        if min(size) < 1 or math.prod(size) > MAX_PIXELS:
            problem = f"has height and width {size}"
        # Names alone decide: a link in the folder may well lead to another disk.
        elif Path(name).is_absolute() or ".." in Path(name).parts:
            problem = f"has a file_name, {name!r}, that leads outside {folder}"
    except (KeyError, TypeError, ValueError, OverflowError):
        has_id = isinstance(entry, dict) and _is_id(entry.get("id"))
        record = f"image {entry['id']}" if has_id else f"images[{number}]"
        problem = f"needs id, file_name, height, width, has {str(entry)[:80]}"
    if problem:
        faults.append(Fault(file, record, problem, refused=True))
        return None
    instances: list[Instance] = []
    crowds: list[tuple[float, float, float, float]] = []
    for annotation in by_image.pop(identity, []):
        record = annotation_name(annotation)
        try:
            rle = segmentation_to_rle(annotation.get("segmentation"), size)
        except ValueError:
            faults.append(Fault(file, record, "malformed segmentation", refused=False))
            continue
        box = rle_boxes([rle])[0]
        left, top, right, bottom = (float(v) for v in box)
        reason = None
        if annotation.get("iscrowd"):
            reason = "crowd"
        elif not _is_id(category := annotation.get("category_id")) or category not in names:
            reason = "unknown category"
        elif min(right - left, bottom - top) < MIN_SIDE or rle_areas([rle])[0] < MIN_AREA:
            reason = f"smaller than {MIN_AREA} px or {MIN_SIDE} px wide"
        if reason:
            faults.append(Fault(file, record, reason, refused=False))
            if math.prod((right - left, bottom - top)) > 0:
                crowds.append((left, top, right, bottom))
            continue
        identifier = annotation.get("id", -1)
        instances.append(Instance(identifier, names[category], (left, top, right, bottom), rle))
    complete = bool(entry.get("complete", True))
    return CocoImage(
        identity, folder / name, size, complete, tuple(instances), tuple(crowds),
        source=str(entry.get("source", "")),
    )  # fmt: skip


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)
