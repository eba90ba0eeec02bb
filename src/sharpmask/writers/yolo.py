"""YOLO segmentation: one text file per photo, one polygon per line."""

import json
import shutil
from collections.abc import Iterable, Sequence
from os import fsencode
from pathlib import Path

from sharpmask.files import PART, replacing_file
from sharpmask.polygons import polygons
from sharpmask.writers.writer import Destination, Segmented, Writer, absolute


class YoloWriter(Writer):
    """``yolo/``: ``labels/NAME.txt``, ``images/NAME.jpg``, ``data.yaml`` and its lists.

    A line is ``0 x1 y1 x2 y2 ...``, the index of the category and coordinates in shares of width
    and height: the largest piece of one mask, holes filled, so a mask never becomes two objects.
    The format holds no scores.

    YOLO finds a label by the name of its image, so the images are links to the photos (copies,
    where the system allows no links), called as their labels are.

    Args:
        destination: Where to write.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.place = destination.output / "yolo"

    def files_of(self, photo: Path) -> Sequence[Path]:
        """The labels, and the link to the photo."""
        name = self.destination.names[photo]
        images = self.place / "images"
        return [self.place / "labels" / f"{name}.txt", images / f"{name}{photo.suffix}"]

    def add(self, photo: Segmented) -> None:
        """Write the labels of a photo, link the photo."""
        height, width = photo.segments.image_size
        numbers = {category: k for k, category in enumerate(self.destination.categories)}
        lines = []
        for rle, category in zip(photo.segments.rles(), photo.segments.category_ids, strict=True):
            ring = polygons(rle)[0] / (width, height)
            values = " ".join(f"{value:.6f}" for value in ring.ravel())
            lines.append(f"{numbers[category]} {values}\n")
        labels, link = self.files_of(photo.path)
        with replacing_file(labels) as file:
            file.write("".join(lines).encode())
        _link(photo.path, link)

    def finish(self, photos: Iterable[Segmented]) -> None:
        """Write what describes the data set."""
        names = list(self.destination.categories.values())
        with replacing_file(self.place / "classes.txt") as file:
            file.write("".join(f"{name}\n" for name in names).encode())
        with replacing_file(self.place / "photos.txt") as file:
            for photo in photos:
                _, link = self.files_of(photo.path)
                file.write(b"./images/" + fsencode(link.name) + b"\n")
        with replacing_file(self.place / "data.yaml") as file:
            lists = "train: photos.txt\nval: photos.txt\n"
            # JSON's strings are YAML's too.
            table = "".join(f"  {k}: {json.dumps(name)}\n" for k, name in enumerate(names))
            file.write(f"{lists}nc: {len(names)}\nnames:\n{table}".encode())


def _link(photo: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(absolute(photo))
    except OSError:
        temporary = link.with_name(f".{link.name}{PART}")
        shutil.copyfile(photo, temporary)
        temporary.replace(link)
