"""Scores class-agnostic proposals in COCO's formats, image by image."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import numpy as np
from jaxtyping import Float

from sharpmask.boxes import box_iou
from sharpmask.coco.annotations import annotation_name
from sharpmask.coco.results import GroundTruth, Record, ResultsFile, is_integer
from sharpmask.evaluation.average_recall import MAX_PROPOSALS, AverageRecall, RecallSummary
from sharpmask.masks import Rle, boundary_iou, rle_areas, rle_boxes, rle_iou, segmentation_to_rle

MIN_IOU = 0.5
"""Recall looks at no smaller overlap."""
BOUNDARY_PROPOSALS = 100
"""Boundary quality looks at this many proposals per image."""


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
    """

    images: int
    objects: int
    proposals: int
    boxes: RecallSummary
    masks: RecallSummary | None
    boundary: BoundaryQuality | None


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

    def add(
        self, image: Record, annotations: Sequence[Record], proposals: Sequence[Record]
    ) -> None:
        """Score one image. Call it for every image of the data set, also without proposals.

        Categories are ignored, except that equal scores and equal overlaps are settled in
        COCOeval's order: by category, then by place in the file. Proposals of a category that the
        ground truth lacks count here; pycocotools drops them.

        Args:
            image: COCO image entry: ``id``, ``height``, ``width`` and perhaps ``complete``.
            annotations: The image's COCO annotations: ``bbox``, ``area``, ``iscrowd`` and, for
                masks, ``segmentation``. Where box or area is missing, that of the mask is taken.
            proposals: The image's COCO results in any order: ``score``, and ``bbox`` or
                ``segmentation``. A mask without ``bbox`` is boxed tightly.

        Raises:
            ValueError: The image is only partly labelled, or a record is malformed; the message
                names the image, the record and the remedy. The image is then not counted.
        """
        where = f"image {image['id']}"
        problem = image_problem(image)
        if problem:
            raise ValueError(f"{where} {problem}")
        size = (image["height"], image["width"])
        ranking = _ranking(proposals, image["id"])
        ranked = [proposals[index] for index in ranking]
        names = [f"{where}, proposal {index}" for index in ranking]
        objects = sorted((a for a in annotations if not a.get("iscrowd")), key=_category)
        object_names = [f"{where}, annotation {record.get('id')}" for record in objects]
        areas = np.array(
            [_area(*named, size) for named in zip(objects, object_names, strict=True)], float
        )
        by_box = box_iou(_boxes(ranked, names, size), _boxes(objects, object_names, size))
        if self._masks is not None:
            for crowd in (a for a in annotations if a.get("iscrowd")):
                problem = annotation_problem(image, crowd)  # or precision alone would refuse it
                if problem:
                    raise ValueError(f"{where}, {annotation_name(crowd)}: {problem}")
            rles = _rles(ranked, names, size)
            object_rles = _checked_rles(objects, object_names, size)
            with _blaming(rles, names):
                by_mask = rle_iou(rles, object_rles, MIN_IOU)
            self._masks.add(by_mask, areas)
            if self._with_boundary and len(rles):
                self._add_boundaries(by_mask[:BOUNDARY_PROPOSALS], rles, object_rles)
        self._boxes.add(by_box, areas)
        self._counts.update(images=1, objects=len(objects), proposals=len(proposals))

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
        )


def image_problem(image: Record) -> str:
    """Why an image cannot be scored; empty if it can."""
    if image.get("complete", True):
        return ""
    return (
        'is marked "complete": false: some of its objects are not labelled, so a proposal that '
        "finds one would go unnoticed and recall means nothing; leave such images out of the "
        "annotation file"
    )


def annotation_problem(image: Record, annotation: Record) -> str:
    """Why an annotation of an image cannot be scored; empty if it can."""
    size = (image["height"], image["width"])
    try:
        _checked_rles([annotation], [""], size)
        _boxes([annotation], [""], size)
        _area(annotation, "", size)
    except ValueError as error:
        return str(error).lstrip(": ")
    return ""


def truth_problems(truth: GroundTruth) -> Iterator[tuple[str, str]]:
    """Name every image and annotation that cannot be scored, and say why."""
    for image in truth.images:
        problem = image_problem(image)
        if problem:
            yield f"image {image['id']}", problem
        for annotation in truth.annotations[image["id"]]:
            problem = annotation_problem(image, annotation)
            if problem:
                yield annotation_name(annotation), problem


def evaluate_results(
    ground_truth: GroundTruth, results: ResultsFile, *, boundary: bool = True
) -> Evaluation:
    """Score a results file. Masks are scored if it has any; an image it does not name is missed.

    Raises:
        ValueError: See ``ProposalEvaluator.add``; or a record belongs to no image of the ground
            truth. The message names the file.
    """
    unknown = set(results.image_ids) - ground_truth.annotations.keys()
    if unknown:
        raise ValueError(
            f"{results.path}: {len(unknown)} image ids, the first {min(unknown)}, are not in "
            f"{ground_truth.path}; were the proposals made for another data set?"
        )
    evaluator = ProposalEvaluator(masks=results.has_masks or not len(results), boundary=boundary)
    for image in ground_truth.images:
        annotations = ground_truth.annotations[image["id"]]
        try:
            evaluator.add(image, annotations, results.proposals(image["id"]))
        except ValueError as error:
            raise ValueError(f"{results.path} against {ground_truth.path}: {error}") from None
    return evaluator.summarize()


def _ranking(proposals: Sequence[Record], image_id: object) -> list[int]:
    """Rank the proposals: indices of those that count, best first."""
    for index, record in enumerate(proposals):
        name = f"image {image_id}, proposal {index}"
        if record.get("image_id", image_id) != image_id:
            raise ValueError(f"{name} belongs to image {record['image_id']!r}")
        score = record.get("score")
        if not _is_finite(score):
            raise ValueError(
                f"{name}: expected a finite number as 'score', got {score!r}; its keys are "
                f"{sorted(record)}"
            )
    scores = np.array([record["score"] for record in proposals], float)
    categories = np.array([_category(record) for record in proposals])
    order: list[int] = np.lexsort((categories, -scores)).tolist()
    return order[:MAX_PROPOSALS]


def _category(record: Record) -> int:
    category = record.get("category_id")
    return category if is_integer(category) else 0


def _is_finite(value: object) -> TypeGuard[float]:
    """Tell whether a JSON value is a number that a float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _area(record: Record, name: str, size: tuple[int, int]) -> float:
    area = record.get("area")
    if area is None and record.get("segmentation"):
        return int(rle_areas(_checked_rles([record], [name], size))[0])
    if not _is_finite(area):
        raise ValueError(f"{name}: expected 'area' in square pixels, got {area!r}")
    return area


def _boxes(
    records: Sequence[Record], names: Sequence[str], size: tuple[int, int]
) -> Float[np.ndarray, "n 4"]:
    """Read boxes (left, top, width, height), tight ones for masks without ``bbox``."""
    values = [
        record.get("bbox") or _tight_box(record, name, size)
        for record, name in zip(records, names, strict=True)
    ]
    boxes = _as_boxes(values)
    if boxes is None:
        wrong = next(index for index, value in enumerate(values) if _as_boxes([value]) is None)
        raise ValueError(
            f"{names[wrong]}: expected 'bbox' as finite [left, top, width, height], got "
            f"{values[wrong]!r}"
        )
    return boxes


def _as_boxes(values: Sequence[Any]) -> Float[np.ndarray, "n 4"] | None:
    try:
        boxes = np.array(values, float).reshape(len(values), 4)
    except (TypeError, ValueError, OverflowError):
        return None
    return boxes if np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all() else None


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
    """Read the records' masks. RLE of the image's size is taken as it is, to save time."""
    rles = []
    for record, name in zip(records, names, strict=True):
        mask = record.get("segmentation")
        if isinstance(mask, dict) and mask.get("size") == [*size] and "counts" in mask:
            rles.append(cast("Rle", mask))
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
                f"{name} has no 'segmentation'; give every record one, or score boxes only"
            )
        try:
            rles.append(segmentation_to_rle(mask, size))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return rles


@contextmanager
def _blaming(rles: Sequence[Rle], names: Sequence[str]) -> Iterator[None]:
    """Name the malformed mask if the RLE library refuses a batch."""
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
