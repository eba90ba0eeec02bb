"""From vectors of regions to classes and boxes, in numpy: detecting needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sharpmask.boxes import decode_boxes
from sharpmask.detection.detections import Category
from sharpmask.shapes import Float

Kind = Literal["rcnn", "fast-rcnn"]


@dataclass(frozen=True, eq=False)
class RegionHead:
    """An R-CNN's or Fast R-CNN's last layers.

    Attributes:
        kind: "rcnn", whose scores are margins of SVMs, or "fast-rcnn", a softmax with background
            last.
        categories: What is told apart.
        arrays: ``hidden0``, ``hidden1``, ... (D, C), each followed by a ReLU, none in an R-CNN;
            ``scores`` (K, D), with background (K + 1, D); ``boxes`` (4 K, D); and of each
            its ``_bias``.
        metadata: What else its file says.
    """

    kind: Kind
    categories: tuple[Category, ...]
    arrays: Mapping[str, Float[np.ndarray, "..."]]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = self.arrays["scores"].shape[1]
        count = len(self.categories)
        rows = {"scores": count + (self.kind == "fast-rcnn"), "boxes": 4 * count}
        for name, expected in rows.items():
            shapes = self.arrays[name].shape, self.arrays[f"{name}_bias"].shape
            if shapes != ((expected, width), (expected,)):
                raise ValueError(f"{name}: expected {expected} rows of {width}, got {shapes}")

    def classify(
        self,
        vectors: Float[np.ndarray, "n c"],
        boxes: Float[np.ndarray, "n 4"],
        image_size: tuple[int, int],
    ) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k 4"]]:
        """Score (0 to 1) and refined box (xyxy) of each region for each category.

        Args:
            vectors: Of the regions (see ``describe``).
            boxes: The regions, xyxy.
            image_size: Height and width.
        """
        x = vectors.astype(np.float32)
        for number in range(sum(name.startswith("hidden") for name in self.arrays) // 2):
            x = np.maximum(self._linear(f"hidden{number}", x), 0)
        logits = self._linear("scores", x)
        deltas = self._linear("boxes", x).reshape(len(x), len(self.categories), 4)
        moved = decode_boxes(boxes[:, None], deltas, image_size)
        if self.kind == "rcnn":
            return 1 / (1 + np.exp(-logits)), moved
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True))[:, :-1], moved

    def _linear(self, name: str, x: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n d"]:
        return x @ self.arrays[name].T + self.arrays[f"{name}_bias"]  # type: ignore[no-any-return]
