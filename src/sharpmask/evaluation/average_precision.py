"""COCO's Average Precision of detections, boxes and masks: the twelve numbers, by hotcoco."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hotcoco
from rich.table import Table

from sharpmask.evaluation.coco_files import Record
from sharpmask.masks import rle_areas, rle_boxes, segmentation_to_rle

KINDS = {"boxes": "bbox", "masks": "segm"}
"""COCO's name of each kind of evaluation."""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def average_precision(
    annotations: Path, detections: Sequence[Record], *, categories: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """COCO's figures of boxes and, if all detections have one, of masks.

    Besides ``METRICS`` there is "AP/name" for each category; -1 where a figure has no objects.

    Args:
        annotations: COCO annotation file, every object labelled.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox``, ``score`` and perhaps
            ``segmentation``.
        categories: Names of those to average over; all of the file, if empty.

    Raises:
        ValueError: A file or record is malformed, or a detection or name is not of this data set;
            the message names it.
    """
    content = json.loads(annotations.read_bytes())
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{annotations}: expected a COCO annotation file with {key!r}")
    partly = [image["id"] for image in content["images"] if not image.get("complete", True)]
    if partly:
        raise ValueError(
            f'{annotations}: image {partly[0]} is marked "complete": false; where objects are not '
            "labelled, finding them would count as wrong"
        )
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    ids = {str(category["name"]): category["id"] for category in content["categories"]}
    unknown = set(categories) - ids.keys()
    if unknown:
        raise ValueError(f"{annotations}: has no category {sorted(unknown)[0]!r}")
    truth = [_truth(record, sizes, annotations) for record in content["annotations"]]
    results = [
        _result(number, record, sizes, set(ids.values()))
        for number, record in enumerate(detections)
    ]
    kinds = ["boxes"]
    if results and all("segmentation" in record for record in results):
        kinds.append("masks")
    dataset = hotcoco.COCO({**content, "annotations": truth})
    figures = {}
    for kind in kinds:
        if not results:
            figures[kind] = dict.fromkeys(METRICS, 0.0)
            continue
        evaluator = hotcoco.COCOeval(
            dataset, dataset.load_res(_of_kind(results, kind)), KINDS[kind]
        )
        if categories:
            evaluator.params.cat_ids = [ids[name] for name in categories]
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


def _truth(record: Record, sizes: Mapping[Any, tuple[int, int]], path: Path) -> dict[str, Any]:
    """An annotation whose mask is known to be sound; box and area are measured if not given."""
    name = f"{path}: annotation {record.get('id')}"
    if record.get("image_id") not in sizes:
        raise ValueError(f"{name}: has an image_id that no image has")
    try:
        rle = segmentation_to_rle(record.get("segmentation"), sizes[record["image_id"]])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    left, top, right, bottom = rle_boxes([rle])[0].tolist()
    measured = {"bbox": [left, top, right - left, bottom - top], "area": int(rle_areas([rle])[0])}
    return {**measured, **record, "segmentation": rle}


def _result(
    number: int, record: Record, sizes: Mapping[Any, tuple[int, int]], ids: Collection[Any]
) -> dict[str, Any]:
    """A detection that is known to be sound."""
    name = f"detection {number}"
    if record.get("image_id") not in sizes:
        raise ValueError(f"{name}: image {record.get('image_id')!r} is not in the annotations")
    if record.get("category_id") not in ids:
        raise ValueError(
            f"{name}: category {record.get('category_id')!r} is not in the annotations"
        )
    try:
        score, box = float(record["score"]), [float(value) for value in record["bbox"]]
        if len(box) != 4 or not all(abs(value) < 1e6 for value in (score, *box)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{name}: expected a finite score and bbox [left, top, width, height], got "
            f"{str(record)[:80]}"
        ) from None
    sound = {**record, "score": score, "bbox": box}
    if record.get("segmentation"):
        try:
            sound["segmentation"] = segmentation_to_rle(
                record["segmentation"], sizes[record["image_id"]]
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return sound


def _of_kind(results: Iterable[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Records as COCOeval takes them: the area, by which sizes are told apart, is of that kind."""
    if kind == "boxes":
        return [{k: v for k, v in record.items() if k != "segmentation"} for record in results]
    areas = rle_areas([record["segmentation"] for record in results])
    return [
        {**{k: v for k, v in record.items() if k != "bbox"}, "area": int(area)}
        for record, area in zip(results, areas, strict=True)
    ]
