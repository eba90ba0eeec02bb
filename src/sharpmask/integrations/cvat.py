"""CVAT: a function module for ``cvat-cli`` and its agents.

``cvat-cli task auto-annotate 7 --function-module sharpmask.integrations.cvat`` puts the masks of
all objects into a task whose label "object" is of the type mask (or polygon, with
``--conv-mask-to-poly``). Options come as ``-p top=int:30``. With ``-p kind=str:interaction`` it is
a function that answers points and boxes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import PIL.Image
from cvat_sdk.masks import encode_mask

from sharpmask import defaults
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.inference.proposer import Proposer
from sharpmask.polygons import polygons
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.writers.writer import LABEL


class Detection:
    """All objects of an image.

    Args:
        proposer: Reads images.
        select: Which masks are wanted.
        label: Name of the label that they get.
    """

    def __init__(self, proposer: Proposer, select: Selection, label: str) -> None:
        self.proposer = proposer
        self.select = select
        self.spec = cvataa.DetectionFunctionSpec(labels=[cvataa.label_spec(label, 0, type="mask")])

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> Sequence[cvataa.DetectionAnnotation]:
        """Masks, or the polygons of their largest pieces if the caller asks for polygons."""
        found = self.select(self.proposer(image))
        found = found[found.scores >= (context.conf_threshold or 0)]
        if context.conv_mask_to_poly:
            rings = [polygons(rle)[0] for rle in found.rles()]
            return [cvataa.polygon(0, ring.ravel().tolist()) for ring in rings]
        return [cvataa.mask(0, points) for points in encoded(found)]


class Interaction:
    """The object that a user's points or box ask for.

    Args:
        proposer: Reads images.
    """

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer
        self.spec = cvataa.InteractionFunctionSpec(
            min_pos_points=0, min_neg_points=0, min_bounding_boxes=0
        )

    def preprocess_image(
        self,
        context: cvataa.InteractionFunctionContext,  # noqa: ARG002
        image: PIL.Image.Image,
    ) -> ReadPhoto:
        """The image with its features, for any number of prompts."""
        return self.proposer.read(image)

    def detect(
        self,
        context: cvataa.InteractionFunctionContext,  # noqa: ARG002
        pp_image: ReadPhoto,
        prompts: cvataa.InteractionPrompts,
    ) -> list[cvataa.InteractionResultShape]:
        """One mask, or none."""
        box = prompts.bounding_box
        found = pp_image.best(
            prompts.pos_points, prompts.neg_points, None if box is None else (*box[0], *box[1])
        )
        return [
            cvataa.InteractionResultShape(type="mask", points=points) for points in encoded(found)
        ]


def create(
    kind: Literal["detection", "interaction"] = "detection",
    weights: str = defaults.MODEL,
    label: str = LABEL,
    top: int = 50,
    min_score: float = 0.0,
    no_overlap: bool = False,
    **options: Any,
) -> Detection | Interaction:
    """The function that ``cvat-cli`` loads.

    Args:
        kind: What it does: all objects of an image, or the one that is asked for.
        weights: Name, file, folder or repository of a model.
        label: Name of the label that the task has.
        top: Maximum number of masks of an image.
        min_score: The least score.
        no_overlap: Give each pixel to the best mask that holds it.
        options: Further ones of ``Proposer``.

    Raises:
        ValueError: A setting is out of range.
    """
    if kind not in ("detection", "interaction"):
        raise ValueError(f"kind: expected detection or interaction, got {kind!r}")
    proposer = Proposer(weights, **options)
    if kind == "interaction":
        return Interaction(proposer)
    return Detection(
        proposer, Selection(top=top, min_score=min_score, no_overlap=no_overlap), label
    )


def encoded(found: Proposals) -> list[list[float]]:
    """Masks as CVAT's numbers: run lengths inside the box, and the box."""
    return [
        encode_mask(mask, np.array(box).tolist())
        for mask, box in zip(found.masks(), found.boxes, strict=True)
    ]
