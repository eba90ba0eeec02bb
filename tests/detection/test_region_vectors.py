"""What regions show is read where they lie, at every reading, by every engine alike."""

import numpy as np
import pytest
import torch

from reference.thin_models import thin_pyramid, thinnest
from sharpmask.detection.proposing import check_engine
from sharpmask.detection.region_vectors import describe
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.inference.proposer import Proposer
from sharpmask.pyramid_geometry import PyramidGeometry


@pytest.fixture(scope="module")
def proposer():
    engine = TorchEngine(thin_pyramid(), torch.device("cpu"))
    return Proposer(engine, num_proposals=5, num_candidates=5)


PHOTO = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
BOXES = np.array([[10.0, 20, 90, 140], [100, 5, 190, 60]])


def test_a_region_is_described_by_what_lies_in_it(proposer):
    found = describe(proposer.read(PHOTO), BOXES)
    changed = PHOTO.copy()
    changed[5:60, 100:190] = 0
    other = describe(proposer.read(changed), BOXES)
    moved = np.abs(other - found).max(axis=1)
    assert moved[1] > 3 * moved[0]


def test_a_region_alone_is_described_as_among_others(proposer):
    photo = proposer.read(PHOTO)
    np.testing.assert_allclose(describe(photo, BOXES[1:]), describe(photo, BOXES)[1:], rtol=1e-5)
    assert describe(photo, BOXES[:0]).shape == (0, describe(photo, BOXES).shape[1])


class PlaneEngine:
    """Its maps say where their values lie: x and y in pixels of what was read."""

    name = "planes"
    has_region_maps = True
    geometry = PyramidGeometry(cell_offset=1.0)

    def encode(self, image):
        height, width = image.shape[:2]
        strides = self.geometry.strides
        return tuple(np.zeros((height // s, width // s), np.float32) for s in strides), (
            height,
            width,
        )

    def decode(self, features, cells):
        return np.zeros((len(cells), 81, 81), np.float32)

    def region_maps(self, features):
        maps = []
        for stride in self.geometry.strides[:3]:
            y, x = np.mgrid[: features[0] // stride, : features[1] // stride] * stride + 1.0
            maps.append(np.stack([x, y]))
        return tuple(maps)


def test_regions_and_their_context_are_read_where_they_lie():
    proposer = Proposer(PlaneEngine(), scales=[0, -1])
    photo = np.zeros((256, 384, 3), np.uint8)
    photo_read = proposer.read(photo)
    # The mean of x and y over a box is its centre.
    (found,) = describe(photo_read, np.array([[96.0, 64, 288, 160]]))
    middle = np.array([192, 112])
    expected = [*[middle] * 3, *[middle / 2] * 3]
    np.testing.assert_allclose(found[:12], np.concatenate(expected))
    # Round it, at the coarsest reading, what lies beyond the maps is their border.
    (small,) = describe(photo_read, np.array([[180.0, 100, 204, 124]]))
    np.testing.assert_allclose(small[12:], np.tile(middle / 2, 3))
    assert (found[12:] != np.tile(middle / 2, 3)).any()


def test_models_without_a_pyramid_cannot_describe():
    engine = TorchEngine(thinnest(), torch.device("cpu"))
    assert not engine.has_region_maps
    with pytest.raises(ValueError, match="thin: a detector needs a model with a feature pyramid"):
        check_engine(engine, "thin")
    check_engine(TorchEngine(thin_pyramid(), torch.device("cpu")), "pyramid")
