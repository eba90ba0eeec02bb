import numpy as np
import pytest
import torch

from sharpmask.inference.pyramid_proposer import PyramidProposer
from sharpmask.models.pyramid import build_pyramid


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_pyramid(
        width=4, channels=12, vector=8, block_channels=4, mask_channels=[6, 5, 4, 3],
        lateral_hidden=[4, 4, 4, 4, 4],
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (150, 211, 3), np.uint8)


def test_proposals_are_ranked_masks_in_windows_on_the_photo(model, photo):
    proposals = PyramidProposer(model, num_proposals=20, mask_threshold=0.2)(photo)
    assert 0 < len(proposals) <= 20
    assert (np.diff(proposals.scores) <= 0).all()
    assert proposals.patch_masks.shape[1:] == (81, 81)
    centers = (proposals.windows[:, :2] + proposals.windows[:, 2:]) / 2
    assert (centers > 0).all()
    assert (centers < [211, 150]).all()


@pytest.mark.parametrize("octave", [0.0, -0.5, 0.5])
def test_only_cells_on_the_photo_are_scored(model, photo, octave):
    proposer = PyramidProposer(model, octaves=[octave])
    (reading,) = proposer.readings(photo)
    assert reading.size == tuple(int(2**octave * side + 0.5) for side in (150, 211))
    for level, scores in enumerate(reading.scores):
        stride = 8 * 2**level
        for side, count in zip(reading.size, scores.shape, strict=True):
            assert stride * (count - 1) + 1 < side or count == 1
            assert stride * count + 1 >= side


def test_what_fills_a_photo_up_is_grey_and_on_its_far_ends(model, photo):
    filled = PyramidProposer(model).filled_up(photo, (150, 211))
    assert filled.shape == (1, 3, 192, 256)
    assert (filled[..., 150:, :] == 128).all()
    assert (filled[..., 211:] == 128).all()
    np.testing.assert_array_equal(filled[0, :, :150, :211].permute(1, 2, 0).numpy(), photo)


def test_candidates_are_the_best_of_all_readings_and_levels(model, photo):
    proposer = PyramidProposer(model, num_proposals=30, num_candidates=5, octaves=(0.0, -0.5))
    scores = [reading.scores for reading in proposer.readings(photo)]
    best = proposer.select(scores)
    assert len(best.cells) == 30
    for reading, (level, row, column), score in zip(
        best.readings, best.cells, best.scores, strict=True
    ):
        assert scores[reading][level][row, column] == score
    assert best.scores[0] == max(level.max() for reading in scores for level in reading)
    assert set(best.readings.tolist()) == {0, 1}


def test_a_large_photo_is_read_at_the_size_asked_for(model):
    photo = np.zeros((300, 1000, 3), np.uint8)
    sizes = [r.size for r in PyramidProposer(model, image_size=500, octaves=[0]).readings(photo)]
    assert sizes == [(150, 500)]


@pytest.mark.parametrize(
    "options",
    [{"num_proposals": 0}, {"octaves": []}, {"mask_threshold": 1.0}, {"suppression": 0.0}],
)
def test_settings_out_of_range_are_refused(model, options):
    with pytest.raises(ValueError, match="expected"):
        PyramidProposer(model, **options)
