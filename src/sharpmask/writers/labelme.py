"""LabelMe: one JSON file per photo."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpmask.files import write_json
from sharpmask.images import png_bytes
from sharpmask.masks import decode
from sharpmask.polygons import polygons
from sharpmask.writers.writer import Destination, Segmented, Writer, absolute

_VERSION = "5.4.1"  # the first release of LabelMe with shapes of the type "mask" was 5.2


class LabelmeWriter(Writer):
    """``labelme/NAME.json``: open one, or all with ``labelme PHOTOS --output .../labelme``.

    A mask's score is in its description. Nothing is written beside the photos, where somebody's own
    labels may lie.

    Args:
        destination: Where to write.
        polygons: Write polygons instead of masks; holes are filled, the pieces of one mask share
            their ``group_id``.
    """

    def __init__(self, destination: Destination, *, polygons: bool = False) -> None:
        self.destination = destination
        self.polygons = polygons
        self.place = destination.output / "labelme"

    def files_of(self, photo: Path) -> Sequence[Path]:
        """One file."""
        return [self.place / f"{self.destination.names[photo]}.json"]

    def add(self, photo: Segmented) -> None:
        """Write a photo's file."""
        height, width = photo.segments.image_size
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": self._polygons(photo) if self.polygons else self._masks(photo),
            "imagePath": _relative(photo.path, self.place),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (file,) = self.files_of(photo.path)
        write_json(file, content, indent=1)

    def _masks(self, photo: Segmented) -> list[dict[str, Any]]:
        shapes = []
        found = photo.segments
        boxes = found.boxes.astype(int).tolist()
        labels = self.destination.labels(found)
        for rle, (x0, y0, x1, y1), score, label in zip(
            found.rles(), boxes, found.scores, labels, strict=True
        ):
            png = png_bytes(decode(rle)[y0:y1, x0:x1].astype(bool))
            # Both corners belong to the box.
            shape = _shape("mask", label, [[x0, y0], [x1 - 1, y1 - 1]], score, None)
            shapes.append(shape | {"mask": base64.b64encode(png).decode()})
        return shapes

    def _polygons(self, photo: Segmented) -> list[dict[str, Any]]:
        shapes = []
        found = photo.segments
        labels = self.destination.labels(found)
        for number, (rle, score, label) in enumerate(
            zip(found.rles(), found.scores, labels, strict=True)
        ):
            rings = polygons(rle)
            group = number if len(rings) > 1 else None
            shapes += [_shape("polygon", label, ring.tolist(), score, group) for ring in rings]
        return shapes


def _shape(
    kind: str, label: str, points: list[list[float]], score: float, group: int | None
) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": f"score {score:.3f}",
        "shape_type": kind,
        "flags": {},
    }


def _relative(photo: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(photo, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return absolute(photo).as_posix()
