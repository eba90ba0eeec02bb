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
    """

    id: int
    path: Path
    size: tuple[int, int]
    complete: bool
    instances: tuple[Instance, ...]
    crowds: tuple[tuple[float, float, float, float], ...]

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
    files = [annotations] if isinstance(annotations, Path) else list(annotations)
    categories: dict[str, int] = {}
    ids: dict[int, int | str] = {}
    skipped: Counter[str] = Counter()
    loaded = [
        image for file in files for image in _load_file(file, images, categories, ids, skipped)
    ]
    return CocoDataset(tuple(loaded), tuple(categories), tuple(ids.values()), skipped)


def leave_out_unreadable(dataset: CocoDataset) -> tuple[CocoDataset, list[str]]:
    """The data set without photos that are missing, damaged or of another size, and what ails them.

    Every photo is decoded: a header does not tell that the rest of the file is missing.
    """

    def problem(image: CocoImage) -> str:
        try:
            image.read()
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, dataset.images))
    sound = tuple(image for image, bad in zip(dataset.images, problems, strict=True) if not bad)
    return replace(dataset, images=sound), [bad for bad in problems if bad]


def _load_file(
    file: Path,
    folder: Path,
    categories: dict[str, int],
    ids: dict[int, int | str],
    skipped: Counter[str],
) -> list[CocoImage]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a JSON file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: expected COCO instance format, a list {key!r} is missing")
    names: dict[Any, int] = {}
    for category in content["categories"]:
        sound = isinstance(category, dict) and _is_id(category.get("id")) and "name" in category
        if not sound:
            raise ValueError(f"{file}: category {str(category)[:80]} needs an id and a name")
        number = categories.setdefault(str(category["name"]), len(categories))
        names[category["id"]] = number
        ids.setdefault(number, category["id"])
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if isinstance(annotation, dict) and _is_id(annotation.get("image_id")):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        else:
            skipped["no image_id"] += 1
    images = [
        _load_image(file, folder, entry, by_image, names, skipped) for entry in content["images"]
    ]
    repeated = [identity for identity, n in Counter(i.id for i in images).items() if n > 1]
    if repeated:
        # The objects can be those of only one of them: the other would pass for background.
        raise ValueError(f"{file}: {len(repeated)} image ids appear twice, e.g. {repeated[0]}")
    for orphans in by_image.values():
        skipped["image_id of no image"] += len(orphans)
    return images


def _load_image(
    file: Path,
    folder: Path,
    entry: dict[str, Any],
    by_image: dict[Any, list[dict[str, Any]]],
    names: dict[Any, int],
    skipped: Counter[str],
) -> CocoImage:
    try:
        identity, name = entry["id"], str(entry["file_name"])
        size = (int(entry["height"]), int(entry["width"]))
        if not _is_id(identity):
            raise TypeError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{file}: image entry {str(entry)[:80]} needs id, file_name, height, width"
        ) from None
    if min(size) < 1 or math.prod(size) > MAX_PIXELS:
        raise ValueError(f"{file}: image {identity} has height and width {size}")
    # Names alone decide: a link in the folder may well lead to another disk.
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{file}: image {identity}: file_name {name!r} leads outside {folder}")
    instances: list[Instance] = []
    crowds: list[tuple[float, float, float, float]] = []
    for annotation in by_image.pop(identity, []):
        try:
            rle = segmentation_to_rle(annotation.get("segmentation"), size)
        except ValueError:
            skipped["malformed segmentation"] += 1
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
            skipped[reason] += 1
            if math.prod((right - left, bottom - top)) > 0:
                crowds.append((left, top, right, bottom))
            continue
        identifier = annotation.get("id", -1)
        instances.append(Instance(identifier, names[category], (left, top, right, bottom), rle))
    complete = bool(entry.get("complete", True))
    return CocoImage(identity, folder / name, size, complete, tuple(instances), tuple(crowds))


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)
