"""What a model finds in photos that were held back: before tuning, and after."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharpmask.coco.annotations import photo_of
from sharpmask.coco.reader import CocoFile
from sharpmask.coco.records import ImageEntry
from sharpmask.coco.sizes import most_objects
from sharpmask.defaults import NUM_PROPOSALS
from sharpmask.drawing import draw_masks
from sharpmask.evaluation.run import evaluate_model
from sharpmask.geometry import GREY
from sharpmask.inference.batch import Progress, Report, silent, unshown
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.shapes import UInt8

MAX_PROPOSALS = 1000
PANEL_SIDE = 480
"""Longer side of a photo in the picture, pixels."""
GAP = 8


@dataclass(frozen=True)
class Measure:
    """What one model finds.

    Attributes:
        name: Of the model.
        readings: Octaves at which it reads photos.
        recall: Average Recall of masks by number of proposals: 10, 100, and as many as the most
            crowded photo asks for.
        boxes: Average Recall of boxes at 100 proposals.
        photo_s: Seconds a photo takes.
    """

    name: str
    readings: tuple[float, ...]
    recall: dict[int, float]
    boxes: float
    photo_s: float

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> "Measure":
        """From its fields, as a JSON file holds them."""
        recall = {int(count): value for count, value in noted["recall"].items()}
        return cls(**{**noted, "readings": tuple(noted["readings"]), "recall": recall})

    @property
    def score(self) -> float:
        """The figure by which models are compared: Average Recall of masks at 100 proposals."""
        return self.recall[NUM_PROPOSALS]


def proposals_for(images: Sequence[ImageEntry]) -> int:
    """Proposals that the most crowded photo asks for: twice its objects, 100 to 1000."""
    return min(max(NUM_PROPOSALS, 2 * most_objects(images)), MAX_PROPOSALS)


def measure(
    name: str,
    model: SharpMaskPyramid,
    truth: CocoFile,
    folder: Path,
    *,
    progress: Progress = unshown,
    report: Report = silent,
) -> Measure:
    """Average Recall of a model.

    Args:
        name: What to call it.
        model: Its own readings are used.
        truth: Photos and what they hold.
        folder: That the photos lie in.
        progress: Shows how many photos are done.
        report: Is told of photos that cannot be read.
    """
    count = proposals_for(truth.images)
    proposer = Proposer(model, num_proposals=count)
    start = time.perf_counter()
    found = evaluate_model(truth, folder, proposer, progress=progress, report=report)
    seconds = time.perf_counter() - start
    assert found.masks is not None
    recall = {n: found.masks.average_recall(n) for n in sorted({10, NUM_PROPOSALS, count})}
    boxes = found.boxes.average_recall(NUM_PROPOSALS)
    return Measure(name, proposer.octaves, recall, boxes, seconds / len(truth.images))


def first_photos(truth: CocoFile, count: int) -> CocoFile:
    """The first images."""
    return replace(truth, images=truth.images[:count])


def picture(
    proposers: Sequence[Proposer], images: Sequence[ImageEntry], folder: Path
) -> UInt8[np.ndarray, "h w 3"]:
    """A row for each photo, a column for each proposer: as many masks as there are objects."""
    rows = []
    for image in images:
        pixels = photo_of(image, folder).read()
        count = sum(not annotation.crowd for annotation in image.annotations)
        panels = []
        for proposer in proposers:
            found = proposer(pixels)[:count]
            drawn = Image.fromarray(draw_masks(pixels, found.masks(), [""] * len(found)))
            drawn.thumbnail((PANEL_SIDE, PANEL_SIDE))
            panels.append(drawn)
        rows.append(panels)
    width = max(panel.width for row in rows for panel in row)
    heights = [max(panel.height for panel in row) for row in rows]
    canvas = Image.new(
        "RGB",
        ((width + GAP) * len(proposers) - GAP, sum(heights) + GAP * (len(rows) - 1)),
        (GREY,) * 3,
    )
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            canvas.paste(panel, (column * (width + GAP), top))
        top += height + GAP
    return np.array(canvas)
