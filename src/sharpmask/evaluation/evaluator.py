"""Scores class-agnostic proposals in COCO's formats, image by image."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpmask.boxes import box_iou
from sharpmask.coco.numbers import are_plain, box, integer, number
from sharpmask.coco.parquet_results import ParquetResults
from sharpmask.coco.problems import refuse
from sharpmask.coco.reader import CocoFile
from sharpmask.coco.records import Annotation, ImageEntry
from sharpmask.coco.results import Record, ResultsFile
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.evaluation.average_recall import MAX_PROPOSALS, AverageRecall, RecallSummary
from sharpmask.masks import Rle, boundary_iou, rle_areas, rle_boxes, rle_iou
from sharpmask.shapes import Float

MIN_IOU = 0.5
"""Recall counts no smaller overlap."""
BOUNDARY_PROPOSALS = 100
"""Boundary quality counts this many proposals per image."""


@dataclass(frozen=True)
class BoundaryQuality:
    """How well masks follow the outlines of the objects they find.

    An object is matched if the proposal that overlaps it most, among the first
    ``BOUNDARY_PROPOSALS`` of its image, has a mask IoU above 1/2.

    Attributes:
        boundary_iou: Mean Boundary IoU (Cheng et al. 2021) of the matched pairs; -1 if there are
            none.
        mask_iou: Their mean mask IoU; -1 if there are none.
        matched: Number of pairs. Compare the means of two methods only at similar numbers.
    """

    boundary_iou: float
    mask_iou: float
    matched: int


@dataclass(frozen=True)
class Evaluation:
    """All figures of one set of proposals on one data set.

    Attributes:
        images: Images scored, those without objects or proposals included.
        objects: Objects in them, crowd regions not counted.
        proposals: Proposals read, also those beyond the first 1000 of an image.
        boxes: Recall by box IoU.
        masks: Recall by mask IoU; None if only boxes were scored.
        boundary: Boundary quality; None if it was not asked for.
        unseen: Images that count as missed although nothing was looked for in them: their photo
            could not be read, or a results file names none of their objects.
    """

    images: int
    objects: int
    proposals: int
    boxes: RecallSummary
    masks: RecallSummary | None
    boundary: BoundaryQuality | None
    unseen: int = 0


class ProposalEvaluator:
    """Accumulates images; memory does not grow with their number.

    Args:
        masks: Score masks, not only boxes.
        boundary: Measure boundary quality too; needs masks.
    """

    def __init__(self, *, masks: bool = True, boundary: bool = True) -> None:
        self._boxes = AverageRecall()
        self._masks = AverageRecall() if masks else None
        self._with_boundary = masks and boundary
        self._counts: Counter[str] = Counter()
        self._pair_sums = np.zeros(2)

    def add(self, image: ImageEntry, proposals: Sequence[Record] | None) -> None:
        """Score one image. Call it for every image of the data set, also without proposals.

        Categories are ignored, except that equal scores and equal overlaps are settled in
        COCOeval's order: by category, then by place in the file. Proposals of a category that the
        ground truth lacks count here; pycocotools drops them.

        Args:
            image: The image and its annotations.
            proposals: The image's COCO results in any order: ``score``, and ``bbox`` or
                ``segmentation``. A mask without ``bbox`` is boxed tightly. None if nothing was
                looked for: its objects are missed, and it is counted as unseen.

        Raises:
            ValueError: The image is only partly labelled, or a record is malformed; the message
                names the image, the record and the remedy. The image is then not counted.
        """
        where = f"image {image.id}"
        refuse(Path(where), image.all_problems, masks=self._masks is not None)
        found = proposals or []
        ranking = _ranking(found, image.id)
        ranked = [found[index] for index in ranking]
        names = [f"{where}, proposal {index}" for index in ranking]
        objects = sorted((a for a in image.annotations if not a.crowd), key=_category_of)
        areas = np.array([annotation.area for annotation in objects], float)
        boxes = np.array([annotation.box_xywh for annotation in objects], float).reshape(-1, 4)
        by_box = box_iou(_boxes(ranked, names, image.size), boxes)
        if self._masks is not None:
            rles = _rles(ranked, names, image.size)
            object_rles = [annotation.rle for annotation in objects if annotation.rle is not None]
            with _blaming(rles, names):
                by_mask = rle_iou(rles, object_rles, MIN_IOU)
            self._masks.add(by_mask, areas)
            if self._with_boundary and len(rles):
                self._add_boundaries(by_mask[:BOUNDARY_PROPOSALS], rles, object_rles)
        self._boxes.add(by_box, areas)
        self._counts.update(images=1, objects=len(objects), proposals=len(found))
        self._counts["unseen"] += proposals is None

    def _add_boundaries(
        self,
        iou: Float[np.ndarray, "proposals objects"],
        rles: Sequence[Rle],
        object_rles: Sequence[Rle],
    ) -> None:
        for column, row in enumerate(iou.argmax(axis=0).tolist()):
            if iou[row, column] > 0.5:
                boundary = boundary_iou(rles[row], object_rles[column])
                self._pair_sums += boundary, iou[row, column]
                self._counts["pairs"] += 1

    def summarize(self) -> Evaluation:
        """Give the figures of all images so far."""
        pairs = self._counts["pairs"]
        boundary, mask = (self._pair_sums / pairs if pairs else np.full(2, -1.0)).tolist()
        return Evaluation(
            images=self._counts["images"],
            objects=self._counts["objects"],
            proposals=self._counts["proposals"],
            boxes=self._boxes.summarize(),
            masks=self._masks.summarize() if self._masks is not None else None,
            boundary=BoundaryQuality(boundary, mask, pairs) if self._with_boundary else None,
            unseen=self._counts["unseen"],
        )


def evaluate_results(
    truth: CocoFile,
    results: ResultsFile | ParquetResults,
    *,
    images: Sequence[ImageEntry] | None = None,
    boxes_only: bool = False,
    boundary: bool = True,
) -> Evaluation:
    """Score a results file. Masks are scored if it has any; an image it does not name is missed.

    Args:
        truth: What is to be found.
        results: Proposals.
        images: Only these images of ``truth``.
        boxes_only: Leave masks alone, those of the annotations too.
        boundary: Measure boundary quality too, if masks are scored.

    Raises:
        ValueError: The annotations or results are malformed, a record belongs to no image of
            ``truth``, or no image has a record. The message names the file.
    """
    masks = results.has_masks and not boxes_only
    refuse(truth.path, truth.problems, masks=masks)
    unknown = set(results.image_ids) - {image.id for image in truth.images}
    if unknown:
        raise ValueError(
            f"{results.path}: {len(unknown)} image ids, the first {min(unknown)}, are not in "
            f"{truth.path}; were the proposals made for another data set?"
        )
    evaluator = ProposalEvaluator(masks=masks, boundary=boundary)
    for image in truth.images if images is None else images:
        found = results.proposals(image.id)
        has_objects = any(not annotation.crowd for annotation in image.annotations)
        try:
            evaluator.add(image, None if has_objects and not found else found)
        except ValueError as error:
            raise ValueError(f"{results.path} against {truth.path}: {error}") from None
    evaluation = evaluator.summarize()
    if not evaluation.proposals:
        raise ValueError(f"{results.path}: nothing to score: it holds no proposal of these images")
    return evaluation


def _ranking(proposals: Sequence[Record], image_id: object) -> list[int]:
    """Rank the proposals: indices of those that count, best first."""
    scores = []
    for index, record in enumerate(proposals):
        name = f"image {image_id}, proposal {index}"
        if record.get("image_id", image_id) != image_id and integer(record["image_id"]) != image_id:
            raise ValueError(f"{name} belongs to image {record['image_id']!r}")
        try:
            scores.append(number(record["score"]))
        except KeyError:
            raise ValueError(f"{name} has no 'score'; its keys are {sorted(record)}") from None
        except ValueError as error:
            raise ValueError(f"{name}: score {error}") from None
    categories = np.array([_category(record.get("category_id")) for record in proposals])
    order: list[int] = np.lexsort((categories, -np.array(scores, float))).tolist()
    return order[:MAX_PROPOSALS]


def _category(value: object) -> int:
    try:
        return integer(value)
    except ValueError:
        return 0


def _category_of(annotation: Annotation) -> int:
    return annotation.category_id if isinstance(annotation.category_id, int) else 0


def _boxes(
    records: Sequence[Record], names: Sequence[str], size: tuple[int, int]
) -> Float[np.ndarray, "n 4"]:
    """Read boxes (left, top, width, height), tight ones for masks without ``bbox``."""
    values = [
        record.get("bbox") or _tight_box(record, name, size)
        for record, name in zip(records, names, strict=True)
    ]
    try:
        boxes = np.array(values, float).reshape(len(values), 4)
        if are_plain(values) and np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all():
            return boxes
    except (TypeError, ValueError, OverflowError):
        pass
    sound = []
    for value, name in zip(values, names, strict=True):  # one by one: some may be text, or wrong
        try:
            sound.append(box(value))
        except ValueError as error:
            raise ValueError(f"{name}: bbox {error}") from None
    return np.array(sound, float).reshape(-1, 4)


def _tight_box(record: Record, name: str, size: tuple[int, int]) -> list[float]:
    if not record.get("segmentation"):
        raise ValueError(
            f"{name} has neither 'bbox' nor 'segmentation'; its keys are {sorted(record)}"
        )
    rles = _rles([record], [name], size)
    with _blaming(rles, [name]):
        left, top, right, bottom = rle_boxes(rles)[0].tolist()
    return [left, top, right - left, bottom - top]


def _rles(records: Sequence[Record], names: Sequence[str], size: tuple[int, int]) -> list[Rle]:
    """Read the records' masks. Compressed RLE of the image's size stays as it is, to save time."""
    rles: list[Rle] = []
    for record, name in zip(records, names, strict=True):
        mask = record.get("segmentation")
        sizes = mask.get("size") if isinstance(mask, dict) else None
        if sizes == [*size] and isinstance(mask.get("counts"), str):  # type: ignore[union-attr]
            rles.append({"size": [*size], "counts": mask["counts"]})  # type: ignore[index]
        else:
            rles += _checked_rles([record], [name], size)
    return rles


def _checked_rles(
    records: Sequence[Record], names: Sequence[str], size: tuple[int, int]
) -> list[Rle]:
    rles = []
    for record, name in zip(records, names, strict=True):
        mask = record.get("segmentation")
        if not mask:
            raise ValueError(
                f"{name} has no 'segmentation'; give every record one, or score boxes only "
                "(--boxes-only)"
            )
        try:
            rles.append(segmentation_to_rle(mask, size))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return rles


@contextmanager
def _blaming(rles: Sequence[Rle], names: Sequence[str]) -> Iterator[None]:
    """If the RLE library refuses a batch, say which mask is malformed."""
    refusals = (TypeError, ValueError, OverflowError)
    try:
        yield
    except refusals:
        for rle, name in zip(rles, names, strict=True):
            try:
                rle_areas([rle])
            except refusals as error:
                raise ValueError(f"{name}: segmentation: {error}") from None
        raise
