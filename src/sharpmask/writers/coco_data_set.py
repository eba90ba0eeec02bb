"""COCO data set: one JSON file that annotation tools and pycocotools open."""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.defaults import VERSION
from sharpmask.files import replacing_file
from sharpmask.masks import rle_areas, rle_boxes
from sharpmask.polygons import polygons
from sharpmask.writers.writer import Destination, Segmented, Writer, write_array


class CocoWriter(Writer):
    """``coco.json``: images, categories ("object" of proposals), annotations with their scores.

    A ``file_name`` is relative to the folder that all photos lie in, which ``info`` names.

    Args:
        destination: Where to write.
        polygons: Write polygons instead of compressed RLE. A polygon's holes are filled; box and
            area are those of the polygon.
    """

    def __init__(self, destination: Destination, *, polygons: bool = False) -> None:
        self.destination = destination
        self.polygons = polygons
        self.place = destination.output / "coco.json"

    def finish(self, photos: Iterable[Segmented]) -> None:
        """Write the file."""
        images: list[dict[str, Any]] = []
        info = {
            "description": "What was found in photos",
            "version": f"sharpmask {VERSION}",
            "images_folder": str(self.destination.root),
        }
        categories = [
            {"id": category, "name": name, "supercategory": ""}
            for category, name in self.destination.categories.items()
        ]
        head = {"info": info, "licenses": [], "categories": categories}
        with replacing_file(self.place) as file:
            file.write(json.dumps(head).encode().removesuffix(b"}"))
            file.write(b', "annotations": ')
            write_array(file, self._annotations(photos, images))
            file.write(b', "images": ')
            write_array(file, images)
            file.write(b"}\n")

    def _annotations(
        self, photos: Iterable[Segmented], images: list[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        numbers = count(1)
        for photo in photos:
            height, width = photo.segments.image_size
            name = self.destination.relative(photo.path)
            images.append({"id": photo.id, "file_name": name, "width": width, "height": height})
            rles = photo.segments.rles()
            segmentations: list[Any] = list(rles)
            if self.polygons:
                segmentations = [[ring.ravel().tolist() for ring in polygons(rle)] for rle in rles]
                rles = [segmentation_to_rle(each, (height, width)) for each in segmentations]
            for category, segmentation, (x0, y0, x1, y1), area, score in zip(
                photo.segments.category_ids,
                segmentations,
                rle_boxes(rles).tolist(),
                rle_areas(rles).tolist(),
                photo.segments.scores.tolist(),
                strict=True,
            ):
                yield {
                    "id": next(numbers),
                    "image_id": photo.id,
                    "category_id": category,
                    "segmentation": segmentation,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area,
                    "iscrowd": 0,
                    "score": score,
                }
