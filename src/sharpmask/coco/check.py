"""What is wrong with an annotation file, and what training and evaluation make of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpmask.coco import problems as kinds
from sharpmask.coco.annotations import photo_of, photo_problems
from sharpmask.coco.problems import Kind, Problem, Use
from sharpmask.coco.reader import CocoFile
from sharpmask.coco.records import Annotation
from sharpmask.masks import rle_areas
from sharpmask.shapes import Float

BOX_TOLERANCE = 2.0
"""Pixels that a box may differ from its mask's: polygons are wider than their pixels."""
AREA_TOLERANCE = 0.2
"""Share of its mask's area that an ``area`` may be wrong by, and as many pixels as it has rows."""
UNREADABLE = Kind("photo that cannot be used", "skipped", "missed", "photo")


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
        kind: What it has in common with others.
    """

    record: str
    problem: str
    training: Use
    evaluation: Use
    kind: str


def check_annotations(file: CocoFile, images: Path | None = None) -> list[Finding]:
    """List everything that is wrong with the records of an annotation file.

    Args:
        file: As ``read_coco`` reads it.
        images: Folder of the photos, which are all decoded; they are not looked at if None.
    """
    found = list(file.problems)
    for image in file.images:
        for annotation in image.annotations:
            found += disagreements(annotation)
    if images:
        found += unreadable_photos(file, images)
    return [
        Finding(p.record, p.text, p.kind.training, p.kind.shown_evaluation, p.kind.title)
        for p in found
    ]


def unreadable_photos(file: CocoFile, folder: Path) -> list[Problem]:
    """The photos that are missing, damaged or of another size than the file states."""
    unnamed = {kinds.NO_FILE_NAME, kinds.OUTSIDE}
    named = [image for image in file.images if unnamed.isdisjoint(p.kind for p in image.problems)]
    photos = [photo_of(image, folder) for image in named]
    return [
        Problem(f"image {photo.id}", UNREADABLE, bad)
        for photo, bad in zip(photos, photo_problems(photos), strict=True)
        if bad
    ]


def disagreements(annotation: Annotation) -> list[Problem]:
    """Where the box or area that an annotation states are not those of its mask."""
    if annotation.rle is None or annotation.where is None:
        return []
    found = []
    if annotation.box_xywh is not None:
        left, top, width, height = annotation.box_xywh
        stated = np.array([left, top, left + width, top + height])
        if np.abs(stated - annotation.where).max() > BOX_TOLERANCE:
            found.append(Problem(annotation.name, kinds.OTHER_BOX, kinds.OTHER_BOX.title))
    pixels = int(rle_areas([annotation.rle])[0])
    slack = AREA_TOLERANCE * pixels + annotation.where[3] - annotation.where[1]
    area = pixels if annotation.area is None or annotation.crowd else annotation.area
    if abs(area - pixels) > slack:
        text = f"area is {area:g}, that of the mask {pixels}"
        found.append(Problem(annotation.name, kinds.OTHER_AREA, text))
    return found


def by_octave(sides: Float[np.ndarray, " n"]) -> dict[tuple[int, int], float]:
    """Share of the objects whose longer side is from 2^k to 2^(k+1) pixels, for each k."""
    if not len(sides):
        return {}
    octaves, counts = np.unique(np.floor(np.log2(sides)).clip(min=0), return_counts=True)
    return {
        (2 ** int(octave), 2 ** int(octave + 1)): count / len(sides)
        for octave, count in zip(octaves, counts.tolist(), strict=True)
    }


def learned(file: CocoFile) -> tuple[int, int, int]:
    """How many objects training learns from, how many are too small for that, and how many are."""
    objects = [a for image in file.images for a in image.annotations if not a.crowd]
    skipped = [{p.kind for p in a.problems if p.kind.training == "skipped"} for a in objects]
    return skipped.count(set()), sum(kinds.TINY in reasons for reasons in skipped), len(objects)
