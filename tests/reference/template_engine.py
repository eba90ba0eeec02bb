"""An engine that needs no network: it finds what it was told to look for."""

import numpy as np

from sharpmask.geometry import SHARPMASK_GEOMETRY


class TemplateEngine:
    """Finds squares of the object's canonical size among dark pixels; a mask is what is bright."""

    name = "template"
    geometry = SHARPMASK_GEOMETRY

    def __init__(self):
        self.sizes = []
        size = self.geometry.object_size
        edge = (self.geometry.patch_size - size) // 2
        self.template = np.zeros((self.geometry.patch_size,) * 2, bool)
        self.template[edge : edge + size, edge : edge + size] = True

    def encode(self, image):
        self.sizes.append(image.shape[:2])
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        bright = image[..., 1] > 190
        return (self.scores(bright),), bright

    def patch(self, bright, row, column):
        return bright[16 * row : 16 * row + 160, 16 * column : 16 * column + 160]

    def scores(self, bright):
        rows, columns = (self.geometry.num_cells(side) for side in bright.shape)
        scores = np.zeros((rows, columns), np.float32)
        for row, column in np.ndindex(rows, columns):
            patch = self.patch(bright, row, column)
            assert patch.shape == (160, 160)
            scores[row, column] = (patch == self.template).mean()
        return scores

    def decode(self, bright, cells):
        patches = [self.patch(bright, row, column) for _, row, column in cells]
        return np.array([20.0 * patch - 10 for patch in patches]).reshape(-1, 160, 160)
