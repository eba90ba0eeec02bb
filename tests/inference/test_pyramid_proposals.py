import numpy as np
import pytest

from reference.thin_models import thin_pyramid
from sharpmask.inference.proposer import Proposer


@pytest.fixture(scope="module")
def model():
    return thin_pyramid()


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (150, 211, 3), np.uint8)


def test_proposals_are_ranked_masks_in_windows_on_the_photo(model, photo):
    proposals = Proposer(model, num_proposals=20, mask_threshold=0.2)(photo)
    assert 0 < len(proposals) <= 20
    assert (np.diff(proposals.scores) <= 0).all()
    assert proposals.patch_masks.shape[1:] == (81, 81)
    centers = (proposals.windows[:, :2] + proposals.windows[:, 2:]) / 2
    assert (centers > 0).all()
    assert (centers < [211, 150]).all()


@pytest.mark.parametrize("octave", [0.0, -0.5, 0.5])
def test_only_cells_on_the_photo_are_scored(model, photo, octave):
    levels = Proposer(model, scales=[octave]).levels(photo)
    assert [level.index for level in levels] == [0, 1, 2, 3]
    size = tuple(int(2**octave * side + 0.5) for side in (150, 211))
    for level in levels:
        assert level.scaled_size == size
        stride = 8 * 2**level.index
        for side, count in zip(size, level.scores.shape, strict=True):
            assert stride * (count - 1) + 1 < side or count == 1
            assert stride * count + 1 >= side


def test_what_fills_a_photo_up_is_grey_and_on_its_far_ends(model, photo):
    filled = Proposer(model).scale(photo, (150, 211))
    assert filled.shape == (192, 256, 3)
    assert (filled[150:] == 128).all()
    assert (filled[:, 211:] == 128).all()
    np.testing.assert_array_equal(filled[:150, :211], photo)


def test_two_readings_an_octave_apart_are_the_default(model):
    first, second = Proposer(model).octaves
    assert first == pytest.approx(second + 1)
    fast = Proposer(model, scales="fast").octaves
    np.testing.assert_allclose(fast, (first - 0.5, second - 0.5))


def test_what_is_read_at_the_same_time_is_as_if_read_in_turn(model, photo):
    proposer = Proposer(model, scales=[0.5, 0.0, -0.5])
    proposer.at_once = 2
    at_once = proposer(photo)
    proposer.at_once = 1
    in_turn = proposer(photo)
    assert at_once.rles() == in_turn.rles()
    np.testing.assert_array_equal(at_once.scores, in_turn.scores)


def test_each_mask_is_decoded_from_the_cell_that_was_scored(model, photo):
    """Masks and windows of single readings, one cell at a time, are those of the whole."""
    proposer = Proposer(
        model, num_proposals=40, quality_exponent=0, suppression=1, mask_threshold=0.01
    )
    found = proposer(photo)
    levels = proposer.levels(photo)
    singles = []
    for level in levels:
        for row, column in np.ndindex(*level.scores.shape):
            singles.append((-level.scores[row, column], len(singles), level, (row, column)))
    singles.sort(key=lambda single: single[:2])
    for k, (_, _, level, cell) in enumerate(singles[: len(found)]):
        cells = np.array([[level.index, *cell]])
        logits = proposer.engine.decode(level.features, cells)
        probabilities = 255 / (1 + np.exp(-logits[0].astype(float)))
        assert np.abs(found.patch_masks[k] - probabilities).max() <= 0.51
        window = proposer.engine.geometry.cells_to_windows(cells, (150, 211), level.scaled_size)
        np.testing.assert_allclose(found.windows[k], window[0])


def test_a_large_photo_is_read_at_the_size_asked_for(model):
    photo = np.zeros((300, 1000, 3), np.uint8)
    levels = Proposer(model, image_size=500, scales=[0]).levels(photo)
    assert {level.scaled_size for level in levels} == {(150, 500)}
