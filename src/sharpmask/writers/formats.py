"""The formats by name, and the writers of a run."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from sharpmask.writers.coco_data_set import CocoWriter
from sharpmask.writers.cutouts import CutoutWriter
from sharpmask.writers.labelme import LabelmeWriter
from sharpmask.writers.labelstudio import LabelStudioWriter
from sharpmask.writers.mask_pngs import MaskWriter
from sharpmask.writers.parquet import ParquetWriter
from sharpmask.writers.writer import Destination, Writer, absolute
from sharpmask.writers.yolo import YoloWriter

FORMATS: dict[str, Callable[[Destination], Writer]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "labelme": LabelmeWriter,
    "labelstudio": LabelStudioWriter,
    "masks": MaskWriter,
    "cutouts": CutoutWriter,
    "parquet": ParquetWriter,
}
PLACES = (
    *("coco.json", "yolo", "labelme", "labelstudio", "masks", "cutouts"),
    "proposals.parquet",
)
"""What the formats write, below the output folder."""
AS_POLYGONS: dict[str, Callable[[Destination], Writer]] = {
    "coco": partial(CocoWriter, polygons=True),
    "labelme": partial(LabelmeWriter, polygons=True),
    "labelstudio": partial(LabelStudioWriter, polygons=True),
}
"""Formats that hold polygons as well as masks. YOLO holds polygons only."""


def writers_for(
    formats: Iterable[str], destination: Destination, *, polygons: bool = False
) -> list[Writer]:
    """A writer of each format, once.

    Args:
        formats: Names from ``FORMATS``.
        destination: Where they write.
        polygons: Write polygons in the formats that leave the choice.

    Raises:
        ValueError: A name is unknown, no format leaves the choice of polygons, a package is
            missing, or a photo of the run lies where a format writes.
    """
    names = list(dict.fromkeys(formats))
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; there are {', '.join(FORMATS)}")
    if polygons and not any(name in AS_POLYGONS for name in names):
        raise ValueError(f"polygons: only for the formats {', '.join(AS_POLYGONS)}")
    chosen = FORMATS | AS_POLYGONS if polygons else FORMATS
    writers = [chosen[name](destination) for name in names]
    for photo in destination.photos:
        _check_apart(photo, writers)
    return writers


def _check_apart(photo: Path, writers: Iterable[Writer]) -> None:
    """Refuse to write where a photo lies: it would be written over."""
    paths = absolute(photo), _followed(photo)
    for writer in writers:
        places = absolute(writer.place), _followed(writer.place)
        if any(path.is_relative_to(place) for path in paths for place in places):
            raise ValueError(
                f"{photo}: lies in {writer.place}, where results are written; give another --output"
            )


def _followed(path: Path) -> Path:
    """Where links lead; a link in a circle leads nowhere."""
    return Path(os.path.realpath(path))
