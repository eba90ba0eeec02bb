"""What is wrong with an annotation file, and what training and evaluation make of it.

The findings come from the functions that training and evaluation themselves read files with, so
records are refused, skipped and missed here exactly as there.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sharpmask.coco.annotations import annotation_name, examine_coco, photo_problems
from sharpmask.coco.results import GroundTruth, examine_ground_truth, examine_photos
from sharpmask.evaluation.average_precision import examine_categories, has_category
from sharpmask.evaluation.evaluator import truth_problems
from sharpmask.masks import rle_areas, rle_boxes, segmentation_to_rle

Use = Literal["used", "recall only", "skipped", "missed", "refused"]
"""What becomes of a record, from the best to the worst."""

BOX_TOLERANCE = 2.0
"""Pixels that a box may differ from its mask's: polygons are wider than their pixels."""
AREA_TOLERANCE = 0.2
"""Share of its mask's area that an ``area`` may be wrong by, and as many pixels as it has rows."""


@dataclass(frozen=True)
class Finding:
    """One problem of one record.

    Attributes:
        record: "image 17", "annotation 5"; empty for the file itself.
        problem: What is wrong.
        training: What training does: uses the record all the same, skips it (a photo: leaves it
            out), or refuses the file.
        evaluation: What evaluation does: uses the record all the same, uses it for Average Recall
            only (Average Precision leaves an annotation out, and for a category refuses the file),
            counts the objects of a photo as missed, or refuses the file.
    """

    record: str
    problem: str
    training: Use
    evaluation: Use


def check_annotations(path: Path, images: Path | None = None) -> list[Finding]:
    """Every record of an annotation file in COCO's instance format that something is wrong with.

    Of what keeps a record from being used the last problem met is told; records that share an id
    count as one.

    Args:
        path: The file.
        images: Folder of the photos, which are all decoded; they are not looked at if None.

    Raises:
        OSError: The file cannot be read.
    """
    dataset, faults = examine_coco(path, images or Path())
    findings: dict[str, Finding] = {}
    for fault in faults:
        use: Use = "refused" if fault.refused else "skipped"
        _add(findings, Finding(fault.record, fault.problem, use, "used"))
    truth, refusals = examine_ground_truth(path)
    content = _content(path)
    for record, problem in _recall_only(truth):
        _add(findings, Finding(record, problem, "used", "recall only"))
    photos, unnamed = examine_photos(truth.images, images or Path())
    named = [(_named(record, content), problem) for record, problem in refusals]
    for record, problem in chain(named, unnamed, truth_problems(truth)):
        _add(findings, Finding(record, problem, "used", "refused"))
    found = list(findings.values()) + _oddities(content, findings)
    if images:
        learned, scored = ({photo.id for photo in group} for group in (dataset.images, photos))
        every = (*dataset.images, *(photo for photo in photos if photo.id not in learned))
        for photo, bad in zip(every, photo_problems(replace(dataset, images=every)), strict=True):
            training: Use = "skipped" if photo.id in learned else "refused"
            evaluation: Use = "missed" if photo.id in scored else "refused"
            if bad:
                found.append(Finding(f"image {photo.id}", bad, training, evaluation))
    return found


def _recall_only(truth: GroundTruth) -> Iterator[tuple[str, str]]:
    """What Average Precision refuses or leaves out, and Average Recall does not."""
    names, faults = examine_categories(truth)
    yield from faults
    for annotation in chain(*truth.annotations.values()):
        if not faults and not has_category(annotation, names):
            yield annotation_name(annotation), "has a category_id that no category has"


def _add(findings: dict[str, Finding], new: Finding) -> None:
    """Keep one finding of a record: what each reader does, and the last, most detailed, problem."""
    old = findings.get(new.record)
    if old:
        training = max(old.training, new.training, key=get_args(Use).index)
        evaluation = max(old.evaluation, new.evaluation, key=get_args(Use).index)
        new = replace(new, training=training, evaluation=evaluation)
    findings[new.record] = new


def _content(path: Path) -> dict[str, list[Any]]:
    """The file's lists; empty ones where there are none."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = {}
    lists = content if isinstance(content, dict) else {}
    keys = ("images", "annotations", "categories")
    return {k: lists[k] if isinstance(lists.get(k), list) else [] for k in keys}


def _named(record: str, content: dict[str, list[Any]]) -> str:
    """The id of a record that is known by its place in a list, if it has one."""
    kind, bracket, index = record.rstrip("]").partition("[")
    entry = content[kind][int(index)] if bracket else None
    if kind == "annotations":
        return annotation_name(entry, int(index))
    if isinstance(entry, dict) and "id" in entry:
        return f"image {entry['id']}"
    return record


def _oddities(content: dict[str, list[Any]], known: dict[str, Finding]) -> list[Finding]:
    """What is used as it is, and yet may be a mistake."""
    found: list[Finding] = []

    def note(record: str, problem: str) -> None:
        if record not in known:
            found.append(Finding(record, problem, "used", "used"))

    categories = [c for c in content["categories"] if isinstance(c, dict)]
    for key in ("id", "name"):
        for value, count in Counter(str(c.get(key)) for c in categories).items():
            if count > 1:
                note(f"category {value}", f"{key} appears {count} times")
    ids = [c["id"] for c in categories if isinstance(c.get("id"), int)]
    if ids and sorted(ids) != list(range(1, len(ids) + 1)):
        note("categories", f"ids are not 1 to {len(ids)}; they are kept as they are")
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in content["images"]
        if isinstance(image, dict) and {"id", "height", "width"} <= image.keys()
        if isinstance(image["id"], int | str)
    }
    annotations = [a for a in content["annotations"] if isinstance(a, dict)]
    counts = Counter(str(a.get("id")) for a in annotations)
    for annotation in annotations:
        record = annotation_name(annotation)
        if counts[str(annotation.get("id"))] > 1:
            note(record, f"id appears {counts[str(annotation.get('id'))]} times")
        for problem in _disagreements(annotation, sizes):
            note(record, problem)
    return found


def _disagreements(annotation: dict[str, Any], sizes: dict[Any, tuple[int, int]]) -> list[str]:
    """Where box or area of an annotation are not those of its mask."""
    try:
        rle = segmentation_to_rle(annotation.get("segmentation"), sizes[annotation["image_id"]])
        box_xywh = np.array(annotation["bbox"], float).reshape(4)
        area = float(annotation["area"])
    except (KeyError, ValueError, TypeError, OverflowError):
        return [f"has no {key}" for key in ("bbox", "area") if not annotation.get(key)]
    tight = rle_boxes([rle])[0]
    true_area = int(rle_areas([rle])[0])
    problems = []
    stated = np.concatenate([box_xywh[:2], box_xywh[:2] + box_xywh[2:]])
    if true_area and np.abs(stated - tight).max() > BOX_TOLERANCE:
        problems.append("bbox is not that of the mask")
    slack = AREA_TOLERANCE * true_area + (tight[3] - tight[1])
    if not annotation.get("iscrowd") and abs(area - true_area) > slack:
        problems.append(f"area is {area:g}, that of the mask {true_area}")
    return problems
