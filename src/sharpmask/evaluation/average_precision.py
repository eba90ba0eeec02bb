"""COCO's Average Precision of detections, boxes and masks: its twelve figures, by hotcoco."""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import hotcoco
from rich.table import Table

from sharpmask.coco.numbers import box, identity, number, shown
from sharpmask.coco.reader import load_ground_truth
from sharpmask.coco.records import Annotation
from sharpmask.coco.results import Record
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.masks import rle_areas, rle_boxes

KINDS = {"boxes": "bbox", "masks": "segm"}
"""COCO's name of each kind of evaluation."""
FEW = 5
"""So many categories are named in a message."""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def average_precision(
    annotations: Path,
    detections: Iterable[Record],
    *,
    categories: Collection[str] = (),
    boxes_only: bool = False,
    source: object = "detections",
) -> dict[str, dict[str, float]]:
    """COCO's figures of boxes and, if all detections have one, of masks.

    Besides ``METRICS`` there is "AP/name" for each category; -1 where a figure has no objects.
    Categories of one name are one category, as in training. Objects without a category are left
    out.

    Args:
        annotations: COCO annotation file, every object labelled.
        detections: COCO results: ``image_id``, ``category_id``, ``score``, and ``bbox`` or
            ``segmentation``. A mask without ``bbox`` is boxed tightly.
        categories: Names of the categories to average over; all if empty.
        boxes_only: Ignore masks, also those of the annotations.
        source: What messages call the detections, such as their file.

    Raises:
        ValueError: A file or record is malformed, a detection or name is not of this data set, or
            there is no object to find; the message names it.
    """
    truth = load_ground_truth(annotations, masks=not boxes_only, categories=True)
    names = dict(truth.categories)
    category_numbers = {name: k for k, name in enumerate(dict.fromkeys(names.values()), 1)}
    unknown = set(categories) - category_numbers.keys()
    if unknown:
        raise ValueError(f"{annotations}: has no category {sorted(unknown)[0]!r}")
    sizes = {image.id: image.size for image in truth.images}
    objects = [
        _truth(image.id, annotation, masks=not boxes_only)
        for image in truth.images
        for annotation in image.annotations
        if annotation.category_id in names
    ]
    averaged = set(categories) or category_numbers.keys()
    if not any(names[o["category_id"]] in averaged for o in objects if not o["iscrowd"]):
        raise ValueError(
            f"{annotations}: nothing to score: it has no object of the categories to average over"
        )
    results = [
        _result(f"{source}: record {index}", record, sizes, names, masks=not boxes_only)
        for index, record in enumerate(detections)
    ]
    kinds = ["boxes"]
    if results and all(record.get("segmentation") for record in results):
        kinds.append("masks")
    # COCO's code takes no negative ids, and confuses annotations that share one. The order of the
    # images' ids stays: it settles equal scores.
    image_numbers = {image_id: k for k, image_id in enumerate(sorted(sizes), 1)}
    for index, record in enumerate([*objects, *results], 1):
        record["id"] = index
        record["image_id"] = image_numbers[record["image_id"]]
        record["category_id"] = category_numbers[names[record["category_id"]]]
    dataset = hotcoco.COCO(
        {
            "images": [{"id": k} for k in image_numbers.values()],
            "annotations": objects,
            "categories": [{"id": k, "name": name} for name, k in category_numbers.items()],
        }
    )
    figures = {}
    for kind in kinds:
        if not results:
            figures[kind] = dict.fromkeys(METRICS, 0.0)
            continue
        evaluator = hotcoco.COCOeval(
            dataset, dataset.load_res(_of_kind(results, kind)), KINDS[kind]
        )
        if categories:
            evaluator.params.cat_ids = [category_numbers[name] for name in categories]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summary_lines()
        figures[kind] = evaluator.get_results(per_class=True)
    return figures


def precision_table(methods: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Lay the twelve figures of several methods out, in percent; "-" where there are no objects."""
    table = Table(caption="COCO AP and AR x 100; s, m, l: size of the objects")
    table.add_column("method")
    for metric in ("", *METRICS):
        table.add_column(metric, justify="right")
    for method, figures in methods.items():
        for kind, values in figures.items():
            cells = (values[metric] for metric in METRICS)
            table.add_row(method, kind, *(f"{100 * v:.1f}" if v >= 0 else "-" for v in cells))
    return table


def _truth(image_id: int | str, annotation: Annotation, *, masks: bool) -> dict[str, Any]:
    assert annotation.box_xywh is not None
    record: dict[str, Any] = {
        "image_id": image_id,
        "category_id": annotation.category_id,
        "bbox": [float(value) for value in annotation.box_xywh],
        "area": float(annotation.area or 0),
        "iscrowd": int(annotation.crowd),
    }
    return {**record, "segmentation": annotation.rle} if masks else record


def _result(
    name: str,
    record: Record,
    sizes: Mapping[int | str, tuple[int, int]],
    names: Mapping[int | str, str],
    *,
    masks: bool,
) -> dict[str, Any]:
    """A detection that is known to be sound."""
    ids: dict[str, int | str] = {}
    for key, known in (("image_id", sizes), ("category_id", names)):
        try:
            ids[key] = identity(record.get(key))
        except ValueError as error:
            raise ValueError(f"{name}: {key} {error}") from None
        if ids[key] not in known:
            what = key.removesuffix("_id")
            remedy = "were they made for another data set?"
            if known is names:
                remedy = f"leave them out, or give them its ids: {_listed(names)}"
            raise ValueError(f"{name}: {what} {ids[key]!r} is not in the annotations; {remedy}")
    rle = None
    stated = record.get("bbox")
    if record.get("segmentation") and (masks or not stated):
        try:
            rle = segmentation_to_rle(record["segmentation"], sizes[ids["image_id"]])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if rle and not stated:
        left, top, right, bottom = rle_boxes([rle])[0].tolist()
        stated = [left, top, right - left, bottom - top]
    try:
        score, box_xywh = number(record["score"]), [float(value) for value in box(stated)]
        if not all(abs(value) < 1e6 for value in (score, *box_xywh)):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(
            f"{name}: expected a finite score and bbox [left, top, width, height] or "
            f"segmentation, got {shown(record)}"
        ) from None
    sound: dict[str, Any] = {**ids, "score": float(score), "bbox": box_xywh}
    return {**sound, "segmentation": rle} if masks and rle else sound


def _listed(names: Mapping[int | str, str]) -> str:
    """The first of some categories."""
    first = ", ".join(f"{k} ({name})" for k, name in islice(names.items(), FEW))
    return f"{first}, ..." if len(names) > FEW else first


def _of_kind(results: Iterable[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Records as COCOeval takes them: the area, by which sizes are told apart, is of that kind."""
    if kind == "boxes":
        return [{k: v for k, v in record.items() if k != "segmentation"} for record in results]
    areas = rle_areas([record["segmentation"] for record in results])
    return [
        {**{k: v for k, v in record.items() if k != "bbox"}, "area": int(area)}
        for record, area in zip(results, areas, strict=True)
    ]
