"""One record of an annotation file: an image entry, an annotation, value by value."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from sharpmask.coco import numbers
from sharpmask.coco import problems as kinds
from sharpmask.coco.numbers import box, flag, identity, integer, shown
from sharpmask.coco.problems import MIN_AREA, MIN_SIDE, Kind, Problem
from sharpmask.coco.segmentation import extent, parts_with_area, segmentation_to_rle
from sharpmask.decoding import MAX_PIXELS
from sharpmask.masks import Rle, rle_areas, rle_boxes

Entry = Mapping[str, Any]
"""One object of a JSON file, as parsed."""
Box = tuple[float, float, float, float]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation of an image.

    Attributes:
        id: None if it has none.
        name: What messages call it.
        category_id: Perhaps of no category of the file; None if it has none, or a malformed one.
        crowd: Whether it is a crowd region; also if that cannot be told.
        rle: Its mask; the rectangle of its box for a crowd region without mask; None if it has no
            usable mask.
        box_xywh: As the file states it; if it states none, that of the mask, or of the points that
            can be read of it; None if there is nothing.
        area: As the file states it, that of the mask or else of the box if it states none.
        where: Box (xyxy) of what it covers of the image, that of its mask first; None if nothing
            is known.
        problems: What is wrong with it.
    """

    id: int | str | None
    name: str
    category_id: int | str | None
    crowd: bool
    rle: Rle | None
    box_xywh: Box | None
    area: float | None
    where: Box | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image and its annotations, in the file's order.

    Attributes:
        id: Its id.
        size: Height and width.
        file_name: None if it has none.
        complete: Whether every object is labelled, as far as the file says.
        annotations: Crowd regions and records that cannot be used included.
        problems: What is wrong with the image itself.
        source: Collection that it is from; empty if the file does not say.
    """

    id: int | str
    size: tuple[int, int]
    file_name: str | None
    complete: bool
    annotations: tuple[Annotation, ...]
    problems: tuple[Problem, ...]
    source: str = ""

    @property
    def all_problems(self) -> Iterator[Problem]:
        """Its own problems and those of its annotations."""
        yield from self.problems
        for annotation in self.annotations:
            yield from annotation.problems


def read(entry: object, key: str, reader: Callable[[object], Value]) -> Value:
    """A value that an entry must have.

    Raises:
        ValueError: It has none, or the value is malformed.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"is {shown(entry)}, not an object with an {key!r}")
    if key not in entry:
        raise ValueError(f"has no {key!r}, only {shown(entry)}")
    try:
        return reader(entry[key])
    except ValueError as error:
        raise ValueError(f"{key} {error}") from None


def spellings(file_name: str) -> list[str]:
    """A photo's name as it stands, and as other systems spell it.

    Windows parts folders by a backslash; macOS takes letters and their accents apart.
    """
    found = [file_name, file_name.replace("\\", "/")]
    found += [unicodedata.normalize(form, name) for name in found for form in ("NFC", "NFD")]
    return [*dict.fromkeys(found)]


def read_image_entry(entry: Entry, image_id: int | str) -> ImageEntry:
    """Read an image entry whose id is known, without annotations.

    Raises:
        ValueError: Its height or width is missing or malformed.
    """
    height, width = (read(entry, key, integer) for key in ("height", "width"))
    if min(height, width) < 1 or height * width >= 2**32:
        raise ValueError(f"has height {height} and width {width}: no image can")
    found: list[tuple[Kind, str]] = []
    if isinstance(image_id, str):
        found.append((kinds.TEXT_ID, f"has an id, {image_id!r}, that is not an integer"))
    if height * width > MAX_PIXELS:
        found.append((kinds.TOO_LARGE, f"has more than {MAX_PIXELS} pixels; cut it into tiles"))
    file_name = None
    if entry.get("file_name") in (None, ""):
        found.append((kinds.NO_FILE_NAME, "has no file_name, so its photo cannot be found"))
    else:
        file_name = str(entry["file_name"])
        # Names alone decide: a link in the folder may well lead to another disk.
        paths = [PurePath(spelling) for spelling in spellings(file_name)]
        if any(path.is_absolute() or ".." in path.parts for path in paths):
            text = f"has a file_name, {file_name!r}, that leads outside the folder of the photos"
            found.append((kinds.OUTSIDE, text))
    complete = True
    try:
        complete = flag(entry.get("complete", True))
    except ValueError as error:
        found.append((kinds.BAD_COMPLETE, f'"complete" {error}'))
    if not complete:
        text = (
            'is marked "complete": false: some of its objects are not labelled, so a proposal that '
            "finds one would go unnoticed and recall means nothing; leave such images out of the "
            "annotation file"
        )
        found.append((kinds.PARTLY_LABELLED, text))
    problems = tuple(Problem(f"image {image_id}", *problem) for problem in found)
    source = str(entry.get("source", ""))
    return ImageEntry(image_id, (height, width), file_name, complete, (), problems, source)


def read_annotation(
    entry: Entry, name: str, size: tuple[int, int], category_ids: set[int | str]
) -> Annotation:
    """Read an annotation, of an image of a known size, whatever is wrong with it.

    Args:
        entry: As parsed.
        name: What messages call it.
        size: Height and width of its image.
        category_ids: Those that the file knows.
    """
    found: list[tuple[Kind, str]] = []

    def optional(key: str, reader: Callable[[object], Value], kind: Kind) -> Value | None:
        if entry.get(key) is None or (key == "bbox" and entry[key] == []):
            return None
        try:
            return read(entry, key, reader)
        except ValueError as error:
            found.append((kind, str(error)))
            return None

    annotation_id = optional("id", identity, kinds.BAD_ID)
    if entry.get("id") is None:
        found.append((kinds.BAD_ID, "has no id"))
    crowd = optional("iscrowd", flag, kinds.BAD_FLAG)
    if crowd is None:
        crowd = entry.get("iscrowd") is not None
    elif crowd:
        found.append((kinds.CROWD, "is a crowd region"))
    box_xywh = optional("bbox", box, kinds.BAD_BOX)
    area = optional("area", numbers.area, kinds.BAD_AREA)
    if entry.get("bbox") in (None, []):
        found.append((kinds.NO_BOX, "has no bbox"))
    if entry.get("area") is None:
        found.append((kinds.NO_AREA, "has no area"))
    segmentation = entry.get("segmentation")
    if not segmentation and crowd and box_xywh:
        segmentation = rectangle(box_xywh)
    rle = _mask(segmentation, size, found)
    where = None
    if rle is not None:
        pixels, tight = int(rle_areas([rle])[0]), tuple(rle_boxes([rle])[0].tolist())
        where = tight if pixels else None
        left, top, right, bottom = tight
        if not crowd and (pixels < MIN_AREA or min(right - left, bottom - top) < MIN_SIDE):
            text = f"covers {pixels} px, {right - left:g} wide and {bottom - top:g} high"
            found.append((kinds.TINY, f"{text}: too small to learn from"))
        box_xywh = box_xywh or (left, top, right - left, bottom - top)
        area = pixels if entry.get("area") is None else area
    else:
        box_xywh = box_xywh or _xywh(extent(segmentation))
        if box_xywh and entry.get("area") is None:
            area = box_xywh[2] * box_xywh[3]
    where = where or _inside(box_xywh, size) or _inside(_xywh(extent(segmentation)), size)
    if box_xywh is None:
        text = "has neither a mask nor a box: its photo teaches no background"
        found.append((kinds.NOWHERE, text))
    elif where is None and (rle is None or not isinstance(segmentation, Mapping)):
        text = "lies outside its image or is a point: its photo teaches no background"
        found.append((kinds.OUT_OF_IMAGE, text))
    category_id = _category_id(entry, category_ids, found)
    problems = tuple(Problem(name, *problem) for problem in found)
    return Annotation(annotation_id, name, category_id, crowd, rle, box_xywh, area, where, problems)


def _mask(segmentation: object, size: tuple[int, int], found: list[tuple[Kind, str]]) -> Rle | None:
    if not segmentation:
        found.append(
            (kinds.NO_MASK, "has no segmentation; evaluate --boxes-only does without masks")
        )
        return None
    try:
        rle = segmentation_to_rle(segmentation, size)
    except ValueError as error:
        found.append((kinds.BAD_MASK, str(error)))
        return None
    if isinstance(segmentation, list) and len(parts_with_area(segmentation)) < len(segmentation):
        text = "segmentation has a part of fewer than three points, which is left out"
        found.append((kinds.STRAY_PARTS, text))
    return rle


def _category_id(
    entry: Entry, category_ids: set[int | str], found: list[tuple[Kind, str]]
) -> int | str | None:
    try:
        category_id = read(entry, "category_id", identity)
    except ValueError as error:
        found.append((kinds.UNKNOWN_CATEGORY, str(error)))
        return None
    if category_id not in category_ids:
        text = f"has a category_id that no category has: {shown(category_id)}"
        found.append((kinds.UNKNOWN_CATEGORY, text))
    return category_id


def rectangle(box_xywh: Box) -> list[list[float]]:
    """A box as a polygon."""
    left, top, width, height = box_xywh
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def _xywh(box_xyxy: Box | None) -> Box | None:
    if box_xyxy is None:
        return None
    left, top, right, bottom = box_xyxy
    return left, top, right - left, bottom - top


def _inside(box_xywh: Box | None, size: tuple[int, int]) -> Box | None:
    """The part of a box that lies in the image, xyxy; None if that is nothing, or a point."""
    if box_xywh is None:
        return None
    height, width = size
    left, top = max(0.0, box_xywh[0]), max(0.0, box_xywh[1])
    right = min(float(width), box_xywh[0] + box_xywh[2])
    bottom = min(float(height), box_xywh[1] + box_xywh[3])
    is_inside = right >= left and bottom >= top and max(right - left, bottom - top) > 0
    return (left, top, right, bottom) if is_inside else None
