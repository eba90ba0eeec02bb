"""What regions show, as vectors: cut out of the maps that the proposer has read already."""

import numpy as np

from sharpmask.detection.roi_align import roi_align
from sharpmask.engines.protocol import RegionEngine
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.pyramid_geometry import PyramidGeometry
from sharpmask.shapes import Float

CONTEXT = 2.0
"""Sides of the region in whose context it is read too, as a multiple of its own."""


def describe(photo: ReadPhoto, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n c"]:
    """Vectors of regions (xyxy) of a photo that was read by an engine with region maps.

    The means of all levels in the region at each reading, and round it at the coarsest one. Means
    do better than 3x3 parts: few photos teach more numbers less (docs/detection.md).
    """
    engine, geometry = photo.engine, photo.engine.geometry
    assert isinstance(engine, RegionEngine)
    assert isinstance(geometry, PyramidGeometry)
    height, width = photo.image.shape[:2]
    readings = photo.levels[:: geometry.num_levels]
    coarsest = min(readings, key=lambda reading: reading.scaled_size)
    parts = [(reading, boxes) for reading in readings]
    parts.append((coarsest, enlarged(boxes, CONTEXT)))
    vectors = []
    for reading, places in parts:
        factor = np.tile(np.array(reading.scaled_size[::-1]) / (width, height), 2)
        maps = engine.region_maps(reading.features)
        for level, stride in zip(maps, geometry.strides, strict=False):
            cut = roi_align(level, places * factor, 1, stride, geometry.cell_offset)
            vectors.append(cut.reshape(len(boxes), len(level)))
    return np.concatenate(vectors, axis=1)


def enlarged(boxes: Float[np.ndarray, "n 4"], factor: float) -> Float[np.ndarray, "n 4"]:
    """Boxes (xyxy) with the same centres and longer sides."""
    centers, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.hstack([centers - factor * halves, centers + factor * halves])
