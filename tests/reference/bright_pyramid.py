"""A feature pyramid's engine that needs no network: it finds what is bright."""

import numpy as np

from sharpmask.pyramid_geometry import PyramidGeometry


class BrightPyramid:
    """A feature pyramid's windows without a network: what is bright where a mask has its samples.

    A cell scores by how well a square of its object's size, round its centre, fits what is bright.
    """

    name = "bright"
    geometry = PyramidGeometry(cell_offset=1.0)
    has_region_maps = True

    def encode(self, image):
        bright = image[..., 1] > 190
        counts = np.pad(bright.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        maps = []
        for level, stride in enumerate(self.geometry.strides):
            half = round(self.geometry.object_size(level) / 2)
            spans = [
                np.clip(np.arange(0, side, stride)[:, None] + 1 + [-half, half], 0, side)
                for side in bright.shape
            ]
            (top, bottom), (left, right) = (span.T for span in spans)
            inside = counts[np.ix_(bottom, right)] - counts[np.ix_(top, right)]
            inside += counts[np.ix_(top, left)] - counts[np.ix_(bottom, left)]
            maps.append((inside / (bright.sum() + 4 * half**2 - inside)).astype(np.float32))
        return tuple(maps), bright

    def decode(self, bright, cells):
        reach = np.arange(81) - 40
        masks = np.full((len(cells), 81, 81), -10.0)
        for mask, (level, row, column) in zip(masks, cells, strict=True):
            stride = 8 * 2**level
            rows, columns = (
                np.floor(stride * c + 1.0 + reach * stride / 8).astype(int) for c in (row, column)
            )
            inside = np.ix_(
                (rows >= 0) & (rows < len(bright)), (columns >= 0) & (columns < bright.shape[1])
            )
            read = bright[rows.clip(0, len(bright) - 1)][:, columns.clip(0, bright.shape[1] - 1)]
            mask[inside] = np.where(read[inside], 10.0, -10.0)
        return masks

    def region_maps(self, bright):
        return tuple(
            bright[None, ::stride, ::stride].astype(np.float32)
            for stride in self.geometry.strides[:3]
        )
