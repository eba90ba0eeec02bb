"""The reader of COCO annotation files: records whose values are sound, and problems.

Training, evaluation and ``sharpmask check`` all read files by it. What each makes of a problem
stands in ``problems``.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from sharpmask.coco import problems as kinds
from sharpmask.coco.numbers import GZIP, PACKED, identity, integer, shown
from sharpmask.coco.problems import Problem, refuse
from sharpmask.coco.records import Entry, ImageEntry, read, read_annotation, read_image_entry


@dataclass(frozen=True)
class CocoFile:
    """An annotation file.

    Attributes:
        path: The file.
        images: In the file's order.
        categories: Id and name of each sound entry.
        own_problems: Of the file, its categories, and of records that belong to no image.
    """

    path: Path
    images: tuple[ImageEntry, ...]
    categories: tuple[tuple[int | str, str], ...]
    own_problems: tuple[Problem, ...]

    @property
    def problems(self) -> Iterator[Problem]:
        """All problems: of the file, of each image, of each annotation."""
        yield from self.own_problems
        for image in self.images:
            yield from image.all_problems


def read_coco(path: Path) -> CocoFile:
    """Read a file in COCO's instance format, once.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        content = _parsed(path)
    except (ValueError, RecursionError) as error:
        problem = Problem("", kinds.NO_COCO, f"not a JSON file: {error}")
        return CocoFile(path, (), (), (problem,))
    return parse_coco(content, path)


def _parsed(path: Path) -> Any:
    content = path.read_bytes()
    if content.startswith(GZIP):
        raise ValueError(PACKED)
    return json.loads(content)


def read_image_ids(path: Path) -> list[tuple[str, int]]:
    """File name and id of each image; the file may lack all the rest.

    Raises:
        ValueError: The file has no list of images, or one of them no ``file_name`` or integer id.
        OSError: The file cannot be read.
    """
    try:
        images = _parsed(path)["images"]
        return [(str(image["file_name"]), integer(image["id"])) for image in images]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a COCO annotation file whose images have file_name and an integer "
            f"id ({type(error).__name__}: {error})"
        ) from None


def load_ground_truth(
    path: Path, *, masks: bool = True, photos: bool = False, categories: bool = False
) -> CocoFile:
    """As ``read_coco``, for an evaluation that needs masks, photos or categories.

    Raises:
        ValueError: The file holds what such an evaluation cannot use; the message names the record.
        OSError: The file cannot be read.
    """
    file = read_coco(path)
    refuse(path, file.problems, masks=masks, photos=photos, categories=categories)
    return file


def parse_coco(content: object, path: Path = Path("annotations")) -> CocoFile:
    """As ``read_coco``, of parsed JSON; messages name ``path``."""
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            text = (
                "expected a COCO annotation file, an object with the lists 'images', 'annotations' "
                f"and 'categories'; a list {key!r} is missing. A list of results belongs to "
                "--proposals"
            )
            return CocoFile(path, (), (), (Problem("", kinds.NO_COCO, text),))
    assert isinstance(content, dict)
    problems: list[Problem] = []
    categories = _categories(content.get("categories"), problems)
    entries, known = _image_entries(content["images"], problems)
    by_image = _by_image(content["annotations"], known, problems)
    category_ids = {category_id for category_id, _ in categories}
    images = [
        replace(
            image,
            annotations=tuple(
                read_annotation(entry, name, image.size, category_ids)
                for entry, name in by_image.get(image.id, ())
            ),
        )
        for image in entries
    ]
    problems += _ids_that_repeat(images)
    problems += no_objects(images)
    return CocoFile(path, tuple(images), tuple(categories), tuple(problems))


def _categories(entries: object, problems: list[Problem]) -> list[tuple[int | str, str]]:
    if not isinstance(entries, list):
        text = "has no list 'categories'"
        problems.append(Problem("", kinds.NO_LIST_OF_CATEGORIES, text))
        return []
    if not entries:
        problems.append(Problem("", kinds.NO_CATEGORIES, "has no 'categories' to average over"))
    sound: list[tuple[int | str, str]] = []
    for index, entry in enumerate(entries):
        try:
            sound.append((read(entry, "id", identity), read(entry, "name", _name)))
        except ValueError as error:
            problems.append(Problem(f"categories[{index}]", kinds.BAD_CATEGORY, str(error)))
    for position, kind in ((0, kinds.CATEGORY_TWICE), (1, kinds.CATEGORY_NAME_TWICE)):
        for value, count in Counter(category[position] for category in sound).items():
            if count > 1:
                what = ("has an id", "has a name")[position]
                text = f"{what} that appears {_times(count)}"
                problems.append(Problem(f"category {value}", kind, text))
    ids = [category_id for category_id, _ in sound if isinstance(category_id, int)]
    if ids and sorted(ids) != list(range(1, len(ids) + 1)):
        text = f"ids are not 1 to {len(ids)}; they are kept as they are"
        problems.append(Problem("categories", kinds.CATEGORY_GAPS, text))
    return sound


def _name(value: object) -> str:
    if value is None:
        raise ValueError("is null, not a name")
    return str(value)


def _image_entries(
    entries: Sequence[Any], problems: list[Problem]
) -> tuple[list[ImageEntry], set[int | str]]:
    """The sound images without their annotations, and the ids of all, sound or not."""
    images: list[ImageEntry] = []
    stated: dict[int | str, list[object]] = {}
    for index, entry in enumerate(entries):
        name = f"images[{index}]"
        try:
            image_id = read(entry, "id", identity)
            name = f"image {image_id}"
            stated.setdefault(image_id, []).append(entry["id"])
            images.append(read_image_entry(entry, image_id))
        except ValueError as error:
            problems.append(Problem(name, kinds.BAD_IMAGE, str(error)))
    for image_id, ids in stated.items():
        if len(ids) > 1:
            # The objects can be those of only one of them: the other would pass for background.
            spelt = sorted(set(map(shown, ids)))
            same = f": {' and '.join(spelt)} are the same number" if len(spelt) > 1 else ""
            text = f"has an id that appears {_times(len(ids))}{same}"
            problems.append(Problem(f"image {image_id}", kinds.IMAGE_TWICE, text))
    return _with_same_photos(images), set(stated)


def _with_same_photos(images: list[ImageEntry]) -> list[ImageEntry]:
    """Name images whose photo is that of an earlier one; upper and lower case differ."""
    first: dict[PurePath, int | str] = {}
    named = []
    for image in images:
        owner = first.setdefault(PurePath(image.file_name), image.id) if image.file_name else None
        if owner is not None and owner != image.id:
            text = (
                f"is of the same photo, {image.file_name!r}, as image {owner}; objects of either "
                "are not background in training, but evaluation looks for those of each alone"
            )
            problem = Problem(f"image {image.id}", kinds.SAME_PHOTO, text)
            named.append(replace(image, problems=(*image.problems, problem)))
        else:
            named.append(image)
    return named


def _by_image(
    entries: Sequence[Any], known: set[int | str], problems: list[Problem]
) -> dict[int | str, list[tuple[Entry, str]]]:
    """The annotations of each image with their names."""
    by_image: dict[int | str, list[tuple[Entry, str]]] = {}
    for index, entry in enumerate(entries):
        name = f"annotations[{index}]"
        if isinstance(entry, dict) and entry.get("id") is not None:
            name = f"annotation {_plain(entry['id'])}"
        try:
            image_id = read(entry, "image_id", identity)
        except ValueError as error:
            problems.append(Problem(name, kinds.BAD_IMAGE_ID, str(error)))
            continue
        if image_id in known:
            by_image.setdefault(image_id, []).append((entry, name))
        else:
            text = f"has an image_id that no image has: {shown(entry['image_id'])}"
            problems.append(Problem(name, kinds.NO_IMAGE, text))
    return by_image


def _plain(value: object) -> object:
    """An id as messages show it: 1.0 as 1, others as they are."""
    try:
        return identity(value)
    except ValueError:
        return shown(value)


def no_objects(images: Sequence[ImageEntry]) -> list[Problem]:
    """The problem of images that hold no object to find, if they hold none."""
    crowds = [annotation.crowd for image in images for annotation in image.annotations]
    if not all(crowds):
        return []
    held = f", but {len(crowds)} crowd regions" if crowds else ""
    text = f"holds nothing to score: no object in {len(images)} images{held}"
    return [Problem("", kinds.NO_OBJECTS, text)]


def _ids_that_repeat(images: Sequence[ImageEntry]) -> list[Problem]:
    counts = Counter(
        (annotation.id, annotation.name)
        for image in images
        for annotation in image.annotations
        if annotation.id is not None
    )
    return [
        Problem(name, kinds.ID_TWICE, f"has an id that appears {_times(count)}")
        for (_, name), count in counts.items()
        if count > 1
    ]


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
