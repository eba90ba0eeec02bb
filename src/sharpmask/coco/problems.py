"""What can be wrong with an annotation file, and what training and evaluation make of each kind.

This table is the whole difference between training, Average Recall, Average Precision and
``sharpmask check``: they read files by the same reader.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Use = Literal["used", "recall only", "skipped", "missed", "refused"]
"""What becomes of a record, from the best to the worst."""
Need = Literal["mask", "photo", "category"]
"""What an evaluation may need or not."""

MIN_AREA = 100
MIN_SIDE = 5
"""Objects below these, in pixels, are not learned from (FAIR's sampler)."""


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        title: What the records of this kind share.
        training: What training does: uses the record all the same, skips it, or refuses the file.
            Where an annotation is skipped its box is not background.
        evaluation: What evaluation does: uses the record all the same, skips it, or refuses the
            file.
        needs: ``evaluation`` holds only where this is needed: a mask (not for boxes alone), a photo
            (not for a results file), a category (for Average Precision only); else the record is
            used.
    """

    title: str
    training: Use
    evaluation: Use
    needs: Need | None = None

    @property
    def shown_evaluation(self) -> Use:
        """What ``check`` says of evaluation."""
        return "recall only" if self.needs == "category" else self.evaluation


@dataclass(frozen=True)
class Problem:
    """One problem of one record.

    Attributes:
        record: "image 17", "annotation 5", "annotations[3]" by place if it has no id; empty for
            the file itself.
        kind: Of which kind it is.
        text: What is wrong.
    """

    record: str
    kind: Kind
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.record, self.text)))


# --- the file ---
NO_COCO = Kind("not a COCO annotation file", "refused", "refused")
NO_LIST_OF_CATEGORIES = Kind("no categories", "refused", "refused", "category")
NO_CATEGORIES = Kind("no categories", "used", "refused", "category")
NO_OBJECTS = Kind("no object", "used", "refused")
BAD_LABELS = Kind("file of labels that cannot be read", "skipped", "missed")
MERGED = Kind("value of a picture of masks in many pieces", "used", "used")
# --- categories ---
BAD_CATEGORY = Kind("category without id or name", "refused", "refused", "category")
CATEGORY_TWICE = Kind("category id more than once", "used", "refused", "category")
CATEGORY_NAME_TWICE = Kind("category name more than once", "used", "used")
CATEGORY_GAPS = Kind("category ids are not 1 to their count", "used", "used")
# --- images ---
BAD_IMAGE = Kind("image without id, height or width", "refused", "refused")
IMAGE_TWICE = Kind("image id more than once", "refused", "refused")
TEXT_ID = Kind("image id that is not a number", "used", "refused")
TOO_LARGE = Kind("image too large to be read", "refused", "used")
NO_FILE_NAME = Kind("image without file_name", "refused", "refused", "photo")
OUTSIDE = Kind("file_name that leads out of the folder", "refused", "refused", "photo")
BAD_COMPLETE = Kind('"complete" is neither true nor false', "refused", "refused")
PARTLY_LABELLED = Kind("image that is only partly labelled", "used", "refused")
SAME_PHOTO = Kind("photo under several image ids", "used", "used")
# --- annotations ---
BAD_IMAGE_ID = Kind("no image_id", "skipped", "refused")
NO_IMAGE = Kind("image_id of no image", "skipped", "refused")
BAD_FLAG = Kind("iscrowd is neither 0 nor 1", "skipped", "refused")
CROWD = Kind("crowd", "skipped", "used")
UNKNOWN_CATEGORY = Kind("unknown category", "skipped", "skipped", "category")
NO_MASK = Kind("no segmentation", "skipped", "refused", "mask")
BAD_MASK = Kind("malformed segmentation", "skipped", "refused", "mask")
NOWHERE = Kind("neither mask nor box", "skipped", "refused")
OUT_OF_IMAGE = Kind("outside its image", "skipped", "used")
TINY = Kind(f"smaller than {MIN_AREA} px or {MIN_SIDE} px wide", "skipped", "used")
BELOW_LIMIT = Kind("smaller than the smallest size to learn", "skipped", "used")
STRAY_PARTS = Kind("part of fewer than three points left out", "used", "used")
BAD_BOX = Kind("malformed bbox", "used", "refused")
BAD_AREA = Kind("malformed area", "used", "refused")
NO_BOX = Kind("no bbox", "used", "used")
NO_AREA = Kind("no area", "used", "used")
BAD_ID = Kind("annotation without id", "used", "used")
ID_TWICE = Kind("annotation id more than once", "used", "used")
OTHER_BOX = Kind("bbox is not that of the mask", "used", "used")
OTHER_AREA = Kind("area is not that of the mask", "used", "used")


def refuse(
    path: Path,
    problems: Iterable[Problem],
    *,
    masks: bool = False,
    photos: bool = False,
    categories: bool = False,
) -> None:
    """Refuse what an evaluation cannot use.

    Args:
        path: The file, for the message.
        problems: What is wrong with it.
        masks: The evaluation needs masks.
        photos: It reads the photos.
        categories: It tells categories apart.

    Raises:
        ValueError: One of the problems is of a kind that such an evaluation refuses.
    """
    needed = {None: True, "mask": masks, "photo": photos, "category": categories}
    raise_first(
        path,
        (p for p in problems if p.kind.evaluation == "refused" and needed[p.kind.needs]),
    )


def raise_first(path: Path, refusals: Iterable[Problem]) -> None:
    """Name the first of the problems for which a file is refused, and count the others.

    Raises:
        ValueError: There is one.
    """
    first, *others = *refusals, None
    if first:
        more = f" ({len(others) - 1} more: sharpmask check)" if len(others) > 1 else ""
        raise ValueError(f"{path}: {first}{more}")
