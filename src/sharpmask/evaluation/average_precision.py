"""COCO's Average Precision of detections, boxes and masks: the twelve numbers, by hotcoco."""

from collections.abc import Collection, Hashable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
from rich.table import Table

from sharpmask.coco.results import GroundTruth, Record, load_ground_truth
from sharpmask.evaluation.evaluator import truth_problems
from sharpmask.masks import rle_areas, rle_boxes, segmentation_to_rle

KINDS = {"boxes": "bbox", "masks": "segm"}
"""COCO's name of each kind of evaluation."""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def average_precision(
    annotations: Path,
    detections: Iterable[Record],
    *,
    categories: Collection[str] = (),
    source: object = "detections",
) -> dict[str, dict[str, float]]:
    """COCO's figures of boxes and, if all detections have one, of masks.

    Besides ``METRICS`` there is "AP/name" for each category; -1 where a figure has no objects.
    Categories of one name are one category, as in training; an object of none is left out.

    Args:
        annotations: COCO annotation file, every object labelled.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox``, ``score`` and perhaps
            ``segmentation``.
        categories: Names of those to average over; all of the file, if empty.
        source: What messages call the detections, such as their file.

    Raises:
        ValueError: A file or record is malformed, or a detection or name is not of this data set;
            the message names it.
    """
    truth = load_ground_truth(annotations)
    names, faults = examine_categories(truth)
    for fault in chain(faults, truth_problems(truth)):
        raise ValueError(": ".join(filter(None, (str(annotations), *fault))))
    category_numbers = {name: k for k, name in enumerate(dict.fromkeys(names.values()), 1)}
    unknown = set(categories) - category_numbers.keys()
    if unknown:
        raise ValueError(f"{annotations}: has no category {sorted(unknown)[0]!r}")
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.images}
    objects = [
        _truth(record, sizes[image_id])
        for image_id, records in truth.annotations.items()
        for record in records
        if has_category(record, names)
    ]
    results = [
        _result(f"{source}: record {index}", record, sizes, names)
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
            "images": [{"id": number} for number in image_numbers.values()],
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


def examine_categories(truth: GroundTruth) -> tuple[dict[int | str, str], list[tuple[str, str]]]:
    """Name each category id, and list every category that is wrong with its problem."""
    names: dict[int | str, str] = {}
    faults = [] if truth.categories else [("", "has no 'categories' to average over")]
    for category in truth.categories:
        identity = category.get("id") if isinstance(category, dict) else None
        if not isinstance(identity, int | str) or "name" not in category:
            faults.append((f"category {str(category)[:80]}", "needs an id and a name"))
        elif identity in names:
            faults.append((f"category {identity}", "has an id that appears twice"))
        else:
            names[identity] = str(category["name"])
    return names, faults


def has_category(record: Record, names: Collection[object]) -> bool:
    """Tell whether a record's category is one of those that are named."""
    category = record.get("category_id")
    return isinstance(category, Hashable) and category in names


def _truth(record: Record, size: tuple[int, int]) -> dict[str, Any]:
    """A sound annotation; box and area are measured if not given."""
    rle = segmentation_to_rle(record["segmentation"], size)
    left, top, right, bottom = rle_boxes([rle])[0].tolist()
    box = record.get("bbox") or [left, top, right - left, bottom - top]
    area = record.get("area")
    return {
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "bbox": np.array(box, float).ravel().tolist(),
        "area": float(rle_areas([rle])[0] if area is None else area),
        "iscrowd": int(bool(record.get("iscrowd"))),
        "segmentation": rle,
    }


def _result(
    name: str,
    record: Record,
    sizes: Mapping[int, tuple[int, int]],
    names: Collection[object],
) -> dict[str, Any]:
    """A detection that is known to be sound."""
    if record.get("image_id") not in sizes:
        raise ValueError(f"{name}: image {record.get('image_id')!r} is not in the annotations")
    if not has_category(record, names):
        raise ValueError(
            f"{name}: category {record.get('category_id')!r} is not in the annotations"
        )
    try:
        score, box = float(record["score"]), [float(value) for value in record["bbox"]]
        if len(box) != 4 or not all(abs(value) < 1e6 for value in (score, *box)):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name}: expected a finite score and bbox [left, top, width, height], got "
            f"{str(record)[:80]}"
        ) from None
    sound = {key: record[key] for key in ("image_id", "category_id")}
    sound |= {"score": score, "bbox": box}
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
