"""What regions show, as vectors: cut out of the maps that the proposer has read already."""

import numpy as np

from sharpmask.detection.roi_align import roi_align
from sharpmask.engines.protocol import RegionEngine
from sharpmask.geometry import PyramidGeometry
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.shapes import Float

BINS = 3
"""Parts along each side of a region: they tell a whole object from a part of one."""


def describe(photo: ReadPhoto, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n c"]:
    """Vectors of regions (xyxy) of a photo that was read by an engine with region maps."""
    engine, geometry = photo.engine, photo.engine.geometry
    assert isinstance(engine, RegionEngine)
    assert isinstance(geometry, PyramidGeometry)
    height, width = photo.image.shape[:2]
    vectors = []
    for reading in photo.levels[:: geometry.num_levels]:
        maps = engine.region_maps(reading.features)
        factor = np.tile(np.array(reading.scaled_size[::-1]) / (width, height), 2)
        for level, stride in zip(maps, geometry.strides, strict=False):
            cut = roi_align(level, boxes * factor, BINS, stride, geometry.cell_offset)
            vectors.append(cut.reshape(len(boxes), len(level) * BINS**2))
    return np.concatenate(vectors, axis=1)
