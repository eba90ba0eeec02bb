"""FiftyOne: proposals as detections with masks."""

from typing import TYPE_CHECKING

import numpy as np

from sharpmask.proposals import Proposals
from sharpmask.writers.writer import LABEL

if TYPE_CHECKING:
    from fiftyone import Detections


def to_detections(proposals: Proposals, label: str = LABEL) -> "Detections":
    """Proposals as a sample's field.

    ``sample["proposals"] = to_detections(proposer(sample.filepath))`` keeps them in a data set.
    Boxes are shares of the photo; a mask covers its box alone.

    Args:
        proposals: Of the sample's photo.
        label: What all are called.

    Raises:
        ImportError: fiftyone is not installed.
    """
    from fiftyone import Detection, Detections

    height, width = proposals.image_size
    detections = []
    for mask, box, score in zip(
        proposals.masks(), proposals.boxes.astype(int), proposals.scores.tolist(), strict=True
    ):
        x0, y0, x1, y1 = box.tolist()
        detections.append(
            Detection(
                label=label,
                bounding_box=[x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
                mask=np.ascontiguousarray(mask[y0:y1, x0:x1]),
                confidence=score,
            )
        )
    return Detections(detections=detections)
