"""What training learns from: the photos and objects of COCO annotation files."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sharpmask.coco.problems import (
    BELOW_LIMIT,
    NO_MASK,
    NOWHERE,
    OUT_OF_IMAGE,
    STRAY_PARTS,
    TINY,
    raise_first,
)
from sharpmask.coco.reader import CocoFile, read_coco
from sharpmask.coco.records import Box, ImageEntry, rectangle, spellings
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.images import read_image
from sharpmask.masks import Rle, union
from sharpmask.shapes import Float, UInt8


@dataclass(frozen=True)
class Instance:
    """One labelled object.

    Attributes:
        id: The annotation's id in its file; -1 if it has none.
        category: Index into ``CocoDataset.categories``.
        box: Tight box of the mask, xyxy.
        rle: The mask.
    """

    id: int | str
    category: int
    box: Box
    rle: Rle


@dataclass(frozen=True)
class CocoImage:
    """One photo and its objects.

    Attributes:
        id: The image's id in its file; text in files whose ids are text.
        path: Where the photo lies.
        size: Height and width as the file states them.
        complete: Whether every object is labelled, and lies at a known place. If not, nothing in
            the photo may be taken for background.
        instances: Objects that can be learned from.
        crowds: Boxes (xyxy) of all else that is labelled and not background: crowd regions, objects
            that are too small or have no usable mask or category, and the objects that another
            image entry states for the same photo.
        source: Collection that the photo is from, if the file states it.
        crowd: Mask of the crowd regions, if there are any: what is centred on it may be one of
            their members, at any size, and is not background.
    """

    id: int | str
    path: Path
    size: tuple[int, int]
    complete: bool
    instances: tuple[Instance, ...]
    crowds: tuple[Box, ...]
    source: str = ""
    crowd: Rle | None = None

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
            turned = (width, height) == self.size
            raise ValueError(
                f"{self.path}: the photo is {width}x{height}, its annotations say "
                f"{self.size[1]}x{self.size[0]}"
                + ("; were they made without its EXIF orientation?" if turned else "")
            )
        return pixels


@dataclass(frozen=True)
class CocoDataset:
    """Images of one or more annotation files.

    Attributes:
        images: All photos.
        categories: Names.
        category_ids: Id of each in the first file that has it; 1, 2, 3 and so on if files give one
            id to several names.
        skipped: Why annotations were not used, with counts.
        repaired: What was left out of annotations that were used, with counts.
    """

    images: tuple[CocoImage, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    skipped: Counter[str]
    repaired: Counter[str] = field(default_factory=Counter)


def load_coco(
    annotations: Path | Sequence[Path], images: Path, *, boxes: bool = False
) -> CocoDataset:
    """Read annotation files whose photos lie in one folder.

    An annotation that cannot be learned from (crowd, tiny, malformed) is left out and counted in
    ``skipped``; its box is not background. If several image entries are of one photo, what the
    others label is not background either.

    Args:
        annotations: One or more files in COCO's instance format. An image entry with
            ``"complete": false`` is only partly labelled.
        images: Folder that ``file_name`` is relative to.
        boxes: Boxes are enough: an object without a mask has its whole box for one.

    Raises:
        ValueError: A file is not COCO instance JSON, an image entry is malformed or lies outside
            ``images``; the message names the file and the entry.
    """
    paths = [annotations] if isinstance(annotations, Path) else list(annotations)
    files = []
    for path in paths:
        try:
            files.append(read_coco(path))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
    return dataset_of(files, images, boxes=boxes)


def dataset_of(
    files: Sequence[CocoFile],
    folder: Path,
    *,
    below_limit: Callable[[ImageEntry, Box], bool] | None = None,
    boxes: bool = False,
) -> CocoDataset:
    """As ``load_coco``, of files that are read already.

    Args:
        files: What they say.
        folder: That their photos lie in.
        below_limit: Whether an object of a box is too small to be learned, in place of the limits
            in ``problems``.
        boxes: As for ``load_coco``.
    """
    categories: dict[str, int] = {}
    ids: dict[int, int | str] = {}
    skipped: Counter[str] = Counter()
    images: list[CocoImage] = []
    for file in files:
        raise_first(file.path, (p for p in file.problems if p.kind.training == "refused"))
        indices: dict[int | str, int] = {}
        for category_id, name in file.categories:
            index = categories.setdefault(name, len(categories))
            indices[category_id] = index
            ids.setdefault(index, category_id)
        images += [
            _image(entry, folder, indices, skipped, below_limit, boxes) for entry in file.images
        ]
        skipped.update(p.kind.title for p in file.own_problems if p.kind.training == "skipped")
    repaired = Counter(
        problem.kind.title
        for file in files
        for problem in file.problems
        if problem.kind is STRAY_PARTS
    )
    together = tuple(_with_what_others_label(images))
    clash = len(set(ids.values())) < len(ids)
    category_ids = range(1, len(ids) + 1) if clash else ids.values()
    return CocoDataset(together, tuple(categories), tuple(category_ids), skipped, repaired)


def leave_out_unreadable(dataset: CocoDataset) -> tuple[CocoDataset, list[str]]:
    """The data set without photos that cannot be used, and what ails them."""
    problems = photo_problems(dataset.images)
    sound = tuple(image for image, bad in zip(dataset.images, problems, strict=True) if not bad)
    return replace(dataset, images=sound), [bad for bad in problems if bad]


def photo_problems(images: Sequence[CocoImage]) -> list[str]:
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
        return list(threads.map(problem, images))


def photo_of(entry: ImageEntry, folder: Path) -> CocoImage:
    """The photo of an image entry, without objects."""
    assert entry.file_name is not None
    path, *others = [folder / name for name in spellings(entry.file_name)]
    if others and not path.exists():
        path = next((other for other in others if other.exists()), path)
    return CocoImage(entry.id, path, entry.size, entry.complete, (), (), entry.source)


def _image(
    entry: ImageEntry,
    folder: Path,
    indices: dict[int | str, int],
    skipped: Counter[str],
    below_limit: Callable[[ImageEntry, Box], bool] | None,
    boxes: bool,
) -> CocoImage:
    instances: list[Instance] = []
    crowds: list[Box] = []
    regions: list[Rle] = []
    complete = entry.complete
    for annotation in entry.annotations:
        reasons = [p.kind for p in annotation.problems if p.kind.training == "skipped"]
        rle = annotation.rle
        if boxes and reasons == [NO_MASK] and annotation.where:
            reasons, rle = [], _box_mask(annotation.where, entry.size)
        if below_limit:
            reasons = [kind for kind in reasons if kind is not TINY]
            if not reasons and annotation.where and below_limit(entry, annotation.where):
                reasons = [BELOW_LIMIT]
        if reasons:
            skipped[reasons[0].title] += 1
            complete = complete and not {NOWHERE, OUT_OF_IMAGE}.intersection(reasons)
            if annotation.where:
                crowds.append(annotation.where)
                if annotation.crowd:
                    regions.append(rle or _box_mask(annotation.where, entry.size))
            continue
        assert rle is not None
        assert annotation.where is not None
        assert annotation.category_id is not None
        identifier = -1 if annotation.id is None else annotation.id
        category = indices[annotation.category_id]
        instances.append(Instance(identifier, category, annotation.where, rle))
    photo = photo_of(entry, folder)
    return replace(
        photo,
        complete=complete,
        instances=tuple(instances),
        crowds=tuple(crowds),
        crowd=union(regions) if regions else None,
    )


def _box_mask(box: Box, size: tuple[int, int]) -> Rle:
    left, top, right, bottom = box
    return segmentation_to_rle(rectangle((left, top, right - left, bottom - top)), size)


def _with_what_others_label(images: Sequence[CocoImage]) -> list[CocoImage]:
    """Add to each image what others of the same photo label; it is complete if all of them are."""
    by_path: dict[Path, list[CocoImage]] = {}
    for image in images:
        by_path.setdefault(image.path, []).append(image)
    together = []
    for image in images:
        same = by_path[image.path]
        others = [other for other in same if other is not image]
        boxes = [
            box
            for other in others
            for box in (*(instance.box for instance in other.instances), *other.crowds)
        ]
        complete = all(other.complete for other in same)
        # An entry of another size than its photo's is refused when the photo is read.
        regions = [other.crowd for other in same if other.crowd and other.size == image.size]
        changed = replace(
            image,
            complete=complete,
            crowds=(*image.crowds, *boxes),
            crowd=union(regions) if regions else None,
        )
        together.append(changed if others else image)
    return together
