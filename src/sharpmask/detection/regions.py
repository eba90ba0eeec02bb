"""Regions that a detector looks at: proposals, ours or from a file, and what they show."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from sharpmask.boxes import iou
from sharpmask.coco.annotations import CocoDataset, CocoImage
from sharpmask.coco.numbers import box, number, shown
from sharpmask.coco.results import ResultsFile
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.images import ImageError
from sharpmask.inference.batch import map_ordered
from sharpmask.inference.proposer import Proposer
from sharpmask.masks import Rle, rle_boxes


@dataclass(frozen=True, eq=False)
class Regions:
    """Boxes of one photo, best first.

    Attributes:
        boxes: xyxy, pixels.
        rles: Their masks; None where only boxes are known.
        scores: How likely each shows a whole object, 0 to 1; ones where a method does not say.
    """

    boxes: Float[np.ndarray, "n 4"]
    rles: tuple[Rle, ...] | None
    scores: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], image_size: tuple[int, int], count: int
    ) -> "Regions":
        """The best ``count`` of a photo's COCO results.

        Raises:
            ValueError: A record has no score, neither mask nor box, or they do not fit the image.
        """
        best = sorted(records, key=_score, reverse=True)[:count]
        boxes, rles = [], []
        for rank, record in enumerate(best):
            try:
                if record.get("segmentation"):
                    rles.append(segmentation_to_rle(record["segmentation"], image_size))
                boxes.append(_box(record, rles[-1] if rles else None, image_size))
            except ValueError as error:
                raise ValueError(f"proposal {rank} (by score): {error}") from None
        if rles and len(rles) < len(best):
            raise ValueError("some proposals have a mask and some have none")
        array = np.array(boxes, float).reshape(-1, 4)
        solid = np.flatnonzero((array[:, 2:] > array[:, :2]).all(axis=1))
        scores = np.array([_score(record) for record in best])
        if not ((scores >= 0) & (scores <= 1)).all():
            scores = np.ones(len(best))  # a rank, perhaps: no probability
        kept = tuple(rles[k] for k in solid) if rles else None
        return cls(array[solid], kept, scores[solid])


def _score(record: Mapping[str, Any]) -> float:
    try:
        return number(record["score"])
    except (KeyError, ValueError):
        raise ValueError(f"expected a score, got {shown(record)}") from None


def _box(
    record: Mapping[str, Any], rle: Rle | None, image_size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A record's box (xyxy): tight round its mask, if it has one."""
    if rle is not None:
        left, top, right, bottom = rle_boxes([rle])[0].tolist()
        return left, top, right, bottom
    try:
        left, top, width, height = map(float, box(record["bbox"]))
    except (KeyError, ValueError):
        raise ValueError(f"expected a segmentation or a bbox, got {shown(record)}") from None
    right, bottom = left + width, top + height
    inside = -1 <= left <= right <= image_size[1] + 1 and -1 <= top <= bottom <= image_size[0] + 1
    if not inside:
        raise ValueError(f"bbox {record['bbox']} lies outside the image, {image_size}")
    return max(left, 0.0), max(top, 0.0), min(right, image_size[1]), min(bottom, image_size[0])


class RegionSource(Protocol):
    """Where the regions of a data set's photos come from."""

    def __call__(self, image: CocoImage) -> Regions:
        """The photo's regions."""
        ...


class FileRegions:
    """Proposals of any method from a COCO results file.

    Args:
        path: The file.
        count: Regions of a photo at most, the best by score.
        images: The photos it is meant for.
        report: Is told when it lacks some of them.

    Raises:
        ValueError: It is no such file, knows none of the photos, or several have the same id.
    """

    def __init__(
        self, path: Path, count: int, images: Sequence[CocoImage], report: Callable[[str], None]
    ) -> None:
        self.results = ResultsFile(path)
        self.count = count
        known = set(self.results.image_ids)
        missing = [image.id for image in images if image.id not in known]
        if len(missing) == len(images):
            raise ValueError(
                f"{path}: holds proposals for none of the {len(images)} photos, e.g. not for image "
                f"{missing[0]}; were they made for another data set?"
            )
        if len({image.id for image in images}) < len(images):
            raise ValueError(
                f"{path}: some photos have the same image id, so its proposals cannot be told "
                "apart; give one --train file"
            )
        if missing:
            report(
                f"{path}: holds no proposals for {len(missing)} of {len(images)} photos, e.g. for "
                f"image {missing[0]}"
            )

    def __call__(self, image: CocoImage) -> Regions:
        """The photo's regions; none if the file does not name it."""
        try:
            return Regions.from_records(self.results.proposals(image.id), image.size, self.count)
        except ValueError as error:
            raise ValueError(f"{self.results.path}: image {image.id}: {error}") from None


class CachedRegions:
    """Our proposals, computed once and kept on disk, a file for each photo.

    Args:
        folder: Where; a folder below it is named by all that the proposals depend on.
        weights: The proposer's model file, or the folder of an exported model.
        proposer: Computes what is not there yet.
    """

    def __init__(self, folder: Path, weights: Path, proposer: Proposer) -> None:
        settings = {key: value for key, value in vars(proposer).items() if key != "engine"}
        digest = hashlib.sha256(
            repr((version("sharpmask"), proposer.engine.name, sorted(settings.items()))).encode()
        )
        for file in sorted(weights.iterdir()) if weights.is_dir() else [weights]:
            digest.update(file.read_bytes())
        self.folder = folder / digest.hexdigest()[:16]
        self.proposer = proposer

    def __call__(self, image: CocoImage) -> Regions:
        """The photo's regions, from the disk if they were computed before."""
        digest = hashlib.sha256(image.path.read_bytes()).hexdigest()[:32]
        file = self.folder / f"{digest}.json"
        try:
            records = json.loads(file.read_text())
        except (OSError, ValueError):  # none, or a damaged one
            records = self.proposer(image.path).to_coco(0)
            self.folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{secrets.token_hex(4)}.part")
            part.write_text(json.dumps(records))
            part.replace(file)
        return Regions.from_records(records, image.size, self.proposer.num_proposals)


def regions_of_all(
    images: Sequence[CocoImage],
    source: RegionSource,
    *,
    streams: int = 1,
    report: Callable[[str], None],
) -> Iterator[tuple[CocoImage, Regions]]:
    """Each photo with its regions, in order; one that cannot be read is reported and left out."""
    for image, call in zip(images, map_ordered(source, images, streams), strict=True):
        try:
            yield image, call.result()
        except ImageError as error:
            report(str(error))


@dataclass(frozen=True)
class Matches:
    """How regions of a photo and its objects overlap.

    Attributes:
        overlaps: Largest box IoU with an object of each category.
        targets: Box (xyxy) of the object that is overlapped most, of any category; the region
            itself where it overlaps none.
        unsure: Lies where single objects are not labelled: no background.
    """

    overlaps: Float[np.ndarray, "n k"]
    targets: Float[np.ndarray, "n 4"]
    unsure: Bool[np.ndarray, " n"]


def match(
    boxes: Float[np.ndarray, "n 4"], image: CocoImage, categories: Mapping[int, int]
) -> Matches:
    """Match regions (xyxy) with the objects of their photo, which is completely labelled.

    Args:
        boxes: The regions.
        image: The photo.
        categories: The detector's number of each category of the data set that it knows; objects
            of others count for nothing.
    """
    known = [instance for instance in image.instances if instance.category in categories]
    overlaps = np.zeros((len(boxes), len(categories)))
    targets = boxes.astype(float)
    if known:
        objects = np.array([instance.box for instance in known])
        table = iou(boxes, objects)
        for instance, column in zip(known, table.T, strict=True):
            of_category = overlaps[:, categories[instance.category]]
            np.maximum(of_category, column, out=of_category)
        touched = table.max(axis=1) > 0
        targets[touched] = objects[table.argmax(axis=1)[touched]]
    return Matches(overlaps, targets, covered(boxes, image.crowds))


def covered(
    boxes: Float[np.ndarray, "n 4"], crowds: Sequence[tuple[float, float, float, float]]
) -> Bool[np.ndarray, " n"]:
    """Which boxes lie by more than half in a region where single objects are not labelled."""
    result = np.zeros(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for left, top, right, bottom in crowds:
        starts = np.maximum(boxes[:, :2], [left, top])
        ends = np.minimum(boxes[:, 2:], [right, bottom])
        result |= (ends - starts).clip(min=0).prod(axis=1) > areas / 2
    return result


def frequent_categories(
    dataset: CocoDataset, min_objects: int, names: Sequence[str] = ()
) -> dict[int, int]:
    """The detector's number of each category that it can learn.

    Args:
        dataset: Photos that are completely labelled.
        min_objects: Categories with fewer objects are left out.
        names: Those wanted; all, if empty.

    Raises:
        ValueError: A wanted one is unknown or has too few objects, or none is left.
    """
    counts = np.zeros(len(dataset.categories), int)
    for image in dataset.images:
        for instance in image.instances:
            counts[instance.category] += 1
    for name in names:
        if name not in dataset.categories:
            raise ValueError(
                f"category {name!r} is not in the data; it has: {', '.join(dataset.categories)}"
            )
        count = counts[dataset.categories.index(name)]
        if count < min_objects:
            raise ValueError(
                f"category {name!r} has {count} objects to learn from, {min_objects} are needed"
            )
    chosen = [
        k
        for k, name in enumerate(dataset.categories)
        if counts[k] >= min_objects and (not names or name in names)
    ]
    if not chosen:
        raise ValueError(
            f"no category has {min_objects} objects to learn from; the most frequent has "
            f"{counts.max(initial=0)}"
        )
    return {category: number for number, category in enumerate(chosen)}
