"""Instance segmentation networks as ONNX files with prototypes: YOLO-seg, FastSAM and their kin."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharpmask.boxes import suppress
from sharpmask.masks import encode
from sharpmask.shapes import Float, UInt8

GREY = 114
"""Of the border that makes a photo fit the network's input."""
MIN_SCORE = 0.001
SUPPRESSION = 0.7
MOST = 3000
"""Boxes that suppression compares."""


class OnnxSegmentation:
    """Class-agnostic proposals of a network that gives boxes, scores, coefficients and prototypes.

    The input is ``(1, 3, height, width)``, RGB in 0 to 1, the photo in its middle. One output is
    ``(1, k, h, w)``: prototypes. The other holds the boxes, either ``(1, 4 + classes + k, n)``:
    centre and sides, a score for each class, coefficients, still with repeats; or
    ``(1, n, 6 + k)``: corners, score, class, coefficients. The best class's score counts.

    Args:
        path: The ONNX file.
        num_proposals: Maximum number of proposals per photo.

    Raises:
        ValueError: The network has other inputs or outputs.
    """

    def __init__(self, path: Path, num_proposals: int) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (self._input,) = self._session.get_inputs()
        ranks = sorted(len(output.shape) for output in self._session.get_outputs())
        if len(self._input.shape) != 4 or ranks != [3, 4]:
            raise ValueError(
                f"{path}: expected one input (1, 3, height, width), and boxes (1, ., .) and "
                f"prototypes (1, k, h, w) as outputs; it has {self._input.shape} and "
                f"{[output.shape for output in self._session.get_outputs()]}"
            )
        # A side that the file leaves open is given as text.
        self._size = [side if isinstance(side, int) else 640 for side in self._input.shape[2:]]
        self._num_proposals = num_proposals

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> list[dict[str, Any]]:
        """COCO results of a photo, without its id."""
        height, width = pixels.shape[:2]
        scale = min(self._size[0] / height, self._size[1] / width)
        framed, corner = self._framed(pixels, scale)
        outputs = self._session.run(None, {self._input.name: framed})
        found, prototypes = sorted(outputs, key=lambda output: output.ndim)
        prototypes = prototypes[0].astype(np.float32)
        boxes, scores, coefficients = candidates(found[0].astype(np.float32), len(prototypes))
        order = np.argsort(-scores, kind="stable")[:MOST]
        order = order[scores[order] > MIN_SCORE]
        kept = order[suppress(boxes[order], scores[order], SUPPRESSION)][: self._num_proposals]
        stride = self._size[0] / prototypes.shape[1]
        records = []
        for box, score, weights in zip(boxes[kept], scores[kept], coefficients[kept], strict=True):
            corners = ((box.reshape(2, 2) - corner) / scale).round().astype(int)
            left, top = np.maximum(corners[0], 0)
            right, bottom = np.minimum(corners[1], [width, height])
            if right <= left or bottom <= top:
                continue
            logits = np.tensordot(weights, prototypes, 1)
            place = np.array([left, top, right, bottom]) * scale + np.tile(corner, 2)
            mask = enlarged(logits, place / stride, (bottom - top, right - left)) > 0
            if mask.any():
                rle = encode(mask, (height, width), int(top), int(left))
                records.append({"segmentation": rle, "score": float(score), "category_id": 1})
        return records

    def _framed(
        self, pixels: UInt8[np.ndarray, "h w 3"], scale: float
    ) -> tuple[np.ndarray, Float[np.ndarray, " 2"]]:
        """The network's input, and where the photo's corner lies in it (x, y)."""
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        photo = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        left, top = (self._size[1] - width) // 2, (self._size[0] - height) // 2
        framed = np.full((*self._size, 3), GREY, np.uint8)
        framed[top : top + height, left : left + width] = np.asarray(photo)
        dtype = np.float16 if self._input.type == "tensor(float16)" else np.float32
        return (framed.transpose(2, 0, 1)[None] / 255).astype(dtype), np.array([left, top], float)


def candidates(
    found: Float[np.ndarray, "a b"], num_prototypes: int
) -> tuple[
    Float[np.ndarray, "n 4"], Float[np.ndarray, " n"], Float[np.ndarray, "n num_prototypes"]
]:
    """Boxes (xyxy, pixels of the input), scores and coefficients."""
    if found.shape[1] == 6 + num_prototypes:
        return found[:, :4], found[:, 4], found[:, 6:]
    rows = found.T
    centres, sides = rows[:, :2], rows[:, 2:4]
    boxes = np.hstack([centres - sides / 2, centres + sides / 2])
    classes, coefficients = rows[:, 4:-num_prototypes], rows[:, -num_prototypes:]
    return boxes, classes.max(axis=1), coefficients


def enlarged(
    logits: Float[np.ndarray, "h w"], place: Float[np.ndarray, " 4"], size: tuple[int, int]
) -> Float[np.ndarray, "rows columns"]:
    """A part (xyxy) of a map, read bilinearly at another size."""
    height, width = logits.shape
    box = tuple(place.clip(0, [width, height, width, height]).tolist())
    picture = Image.fromarray(logits).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(picture)
