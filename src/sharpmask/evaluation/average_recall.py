"""Average recall of ranked proposals, with the semantics of COCOeval (useCats=0), streaming.

COCOeval goes through the proposals by falling score; each takes the free object that it overlaps
most, if the overlap reaches the threshold. Crowd regions and objects outside the area range come
last in its order and never count, so they do not change which of the other objects are found:
recall needs only the objects that count. Memory does not grow with the number of images.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sharpmask.shapes import Bool, Float, Int

IOU_THRESHOLDS: Float[np.ndarray, "10"] = np.linspace(0.5, 0.95, 10)
PROPOSAL_COUNTS = (1, 10, 100, 1000)
MAX_PROPOSALS = PROPOSAL_COUNTS[-1]

AreaRange = Literal["all", "small", "medium", "large"]
AREA_RANGES: tuple[AreaRange, ...] = get_args(AreaRange)
_AREA_LIMITS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
"""Smallest and largest area in square pixels, both inclusive as in COCOeval."""


@dataclass(frozen=True)
class RecallSummary:
    """Recall of one set of proposals over a data set.

    Attributes:
        recall: Share of the objects found, for each of ``IOU_THRESHOLDS``, each of ``AREA_RANGES``
            and the first 1, 2, ... ``MAX_PROPOSALS`` proposals of every image; -1 throughout where
            an area range has no object, as in COCOeval.
        objects: Number of objects in each area range.
    """

    recall: Float[np.ndarray, "ious areas counts"]
    objects: Int[np.ndarray, " areas"]

    def curve(self, area: AreaRange = "all") -> Float[np.ndarray, " counts"]:
        """Give the average recall of the first 1, 2, ... proposals; -1 without objects."""
        curve: Float[np.ndarray, " counts"] = self.recall[:, AREA_RANGES.index(area)].mean(axis=0)
        return curve

    def average_recall(self, count: int, area: AreaRange = "all") -> float:
        """Average, over the IoU thresholds, the recall of the first ``count`` proposals.

        Raises:
            ValueError: ``count`` is not between 1 and ``MAX_PROPOSALS``.
        """
        if not 1 <= count <= MAX_PROPOSALS:
            raise ValueError(f"count: expected 1 to {MAX_PROPOSALS} proposals, got {count}")
        return float(self.curve(area)[count - 1])

    def auc(self, area: AreaRange = "all") -> float:
        """Average ``curve`` over the logarithm of the number of proposals, 1 to 1000."""
        curve = self.curve(area)
        widths = np.diff(np.log(np.arange(1, len(curve) + 1)))
        return float((curve[1:] + curve[:-1]) / 2 @ widths / widths.sum())

    def figures(self) -> dict[str, float]:
        """Name the paper's figures; AR_S, AR_M, AR_L are at 100 proposals; -1: no objects."""
        by_count = {f"AR@{count}": self.average_recall(count) for count in PROPOSAL_COUNTS}
        by_area = {
            f"AR_{area[0].upper()}": self.average_recall(100, area) for area in AREA_RANGES[1:]
        }
        return by_count | by_area | {"AUC": self.auc()}


class AverageRecall:
    """Accumulates, image by image, at which rank each object is found."""

    def __init__(self) -> None:
        self._found = np.zeros((len(IOU_THRESHOLDS), len(AREA_RANGES), MAX_PROPOSALS), np.int64)
        self._objects = np.zeros(len(AREA_RANGES), np.int64)

    def add(
        self, iou: Float[np.ndarray, "proposals objects"], areas: Float[np.ndarray, " objects"]
    ) -> None:
        """Count one image. An image without proposals counts too: its objects are missed.

        Args:
            iou: Overlap of every proposal, best score first, with every object that is not a crowd.
                Values below 1/2 make no difference.
            areas: The objects' areas in square pixels.
        """
        iou = iou[:MAX_PROPOSALS]
        counted = (areas >= _AREA_LIMITS[:, :1]) & (areas <= _AREA_LIMITS[:, 1:])
        self._objects += counted.sum(axis=1)
        ranks = np.flatnonzero((iou >= IOU_THRESHOLDS[0]).any(axis=1))
        if not len(ranks):
            return
        found, proposal = _match(iou[ranks], counted)
        threshold, area, _ = np.nonzero(found)
        self._found[threshold, area, ranks[proposal[found]]] += 1

    def summarize(self) -> RecallSummary:
        """Give the recall over all images so far."""
        objects = self._objects.copy()
        recall = self._found.cumsum(axis=2) / np.maximum(objects, 1)[:, None]
        recall[:, objects == 0] = -1
        return RecallSummary(recall, objects)


def _match(
    iou: Float[np.ndarray, "proposals objects"], counted: Bool[np.ndarray, "areas objects"]
) -> tuple[Bool[np.ndarray, "ious areas objects"], Int[np.ndarray, "ious areas objects"]]:
    """Match as COCOeval does, all thresholds and area ranges at once.

    COCOeval's loop over the proposals ends in a stable matching: objects prefer the proposal of
    the best rank, proposals the object they overlap most, the later one of equals. As all objects
    rank the proposals alike there is only one stable matching, and letting the objects ask
    (Gale and Shapley 1962) reaches it in few rounds: every object asks its best proposal; one
    that is asked twice turns all but its favourite away; those ask their next.

    Returns:
        Whether an object is found, and by which proposal.
    """
    may_ask = (IOU_THRESHOLDS[:, None, None, None] <= iou.T) & counted[:, :, None]
    objects = np.arange(iou.shape[1])
    later = objects > objects[:, None]
    while True:
        asked = may_ask.argmax(axis=3)
        asks = np.take_along_axis(may_ask, asked[..., None], axis=3)[..., 0]
        overlap = iou[asked, objects]
        rivals = asks[..., None, :] & (asked[..., None, :] == asked[..., :, None])
        stronger = overlap[..., None, :] > overlap[..., :, None]
        equal = overlap[..., None, :] == overlap[..., :, None]
        refused = asks & (rivals & (stronger | (equal & later))).any(axis=3)
        if not refused.any():
            return asks, asked
        may_ask[(*np.nonzero(refused), asked[refused])] = False
