import numpy as np
import pytest

from reference.bright_pyramid import BrightPyramid
from reference.template_engine import TemplateEngine
from reference.thin_models import thin_pyramid
from sharpmask.boxes import box_on, pixel_at
from sharpmask.inference.prompts import ANSWERS, PER_SIZE, SAME
from sharpmask.inference.proposer import Proposer
from sharpmask.masks import rle_iou

RNG = np.random.default_rng(0)


def photo_of(*squares, height=300, width=400):
    photo = RNG.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for top, left, side in squares:
        photo[top : top + side, left : left + side] = 250
    return photo


def square_mask(top, left, side, height=300, width=400):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.fixture(scope="module")
def found():
    noise = RNG.integers(0, 256, (150, 211, 3), np.uint8)
    return Proposer(thin_pyramid(), num_proposals=40, mask_threshold=0.2)(noise)


def test_proposals_at_a_point_are_those_whose_masks_hold_it(found):
    full = np.stack(list(found.masks()))
    held = 0
    for row, column in RNG.integers(0, (150, 211), (25, 2)):
        expected = found[np.flatnonzero(full[:, row, column])]
        for x, y in ((column, row), (column + 0.9, row + 0.9)):
            here = found.at(x, y)
            assert here.rles() == expected.rles()
            np.testing.assert_array_equal(here.scores, expected.scores)
        held += len(expected)
    assert held > 25


def test_a_read_photo_proposes_what_the_proposer_does():
    photo = RNG.integers(0, 256, (90, 120, 3), np.uint8)
    proposer = Proposer(thin_pyramid(), num_proposals=15, mask_threshold=0.2)
    once, again = proposer(photo), proposer.read(photo).propose()
    assert once.rles() == again.rles()
    np.testing.assert_array_equal(once.scores, again.scores)


@pytest.mark.parametrize("engine", [TemplateEngine, BrightPyramid])
@pytest.mark.parametrize("point", [(200, 150), (180, 165), (231, 119)])
def test_a_click_anywhere_on_an_object_finds_it(engine, point):
    truth = 110, 160, 80
    read = Proposer(engine()).read(photo_of(truth))
    found = read.at(*point)
    assert 1 <= len(found) <= ANSWERS
    assert iou(found[0].mask, square_mask(*truth)) > 0.9


def test_a_click_beside_all_objects_finds_none():
    read = Proposer(BrightPyramid()).read(photo_of((110, 160, 80)))
    assert len(read.at(60, 60)) == 0


THRESHOLD = 0.265


def test_answers_are_the_best_masks_of_each_size_that_hold_the_point():
    """Beside the slow way: every cell by itself, in the order of a list."""
    photo = np.random.default_rng(1).integers(0, 256, (70, 100, 3), np.uint8)
    proposer = Proposer(thin_pyramid(), mask_threshold=THRESHOLD)
    read = proposer.read(photo)
    geometry = proposer.engine.geometry
    far = geometry.nearness
    x, y = 61.5, 33.0
    answers = []
    for level in read.levels:
        stride = geometry.strides[level.index]
        middles = []
        for row, column in np.ndindex(*level.scores.shape):
            center = (np.array([column, row]) * stride + geometry.cell_offset) * (
                np.array([100, 70]) / level.scaled_size[::-1]
            )
            reach = geometry.object_size(level.index) / 2 * np.array([100, 70])
            if (np.abs(center - (x, y)) <= reach / level.scaled_size[::-1]).all():
                middles.append((-level.scores[row, column], row, column))
        middles.sort()
        best, *others = middles or [None]
        apart = [m for m in others if abs(np.subtract(m, best)[1:]).sum() > far[level.index]]
        assert PER_SIZE == 2
        for logit, row, column in [best, *apart[:1]] if middles else []:
            cells = np.array([[level.index, row, column]])
            probabilities = 1 / (1 + np.exp(-proposer.engine.decode(level.features, cells)[0]))
            inside = probabilities[probabilities > THRESHOLD]
            score = inside.mean() / (1 + np.exp(logit)) if inside.size else 0
            window = geometry.cells_to_windows(cells, (70, 100), level.scaled_size)[0]
            answers.append((score, window.tolist()))
    answers.sort(reverse=True)
    order = [window for _, window in answers]
    found = read.at(x, y, count=1000)
    places = [order.index(window) for window in found.windows.tolist()]
    assert (np.diff(found.scores) <= 0).all()
    assert (rle_iou(found.rles(), found.rles()) - np.eye(len(found)) <= SAME).all()
    assert len(found) > 3
    assert all(mask[33, 61] for mask in found.masks())
    np.testing.assert_allclose(found.scores, [answers[k][0] for k in places], atol=0.01)
    assert read.at(x, y).rles() == found[:ANSWERS].rles()


@pytest.mark.parametrize("engine", [TemplateEngine, BrightPyramid])
@pytest.mark.parametrize(
    "truth", [(101, 77, 17), (33, 158, 61), (120, 61, 150), (3, 2, 90), (180, 301, 99), (0, 5, 290)]
)
def test_a_box_gives_the_object_in_it_at_any_size_and_place(engine, truth):
    """An object between all steps of a grid, also at the photo's border, fits its window."""
    top, left, side = truth
    read = Proposer(engine()).read(photo_of(truth))
    found = read.in_box((left, top, left + side, top + side))
    assert iou(found.mask, square_mask(*truth)) > (0.9 if side > 20 else 0.8)


def test_a_mask_ends_where_its_box_does():
    read = Proposer(BrightPyramid()).read(photo_of((60, 60, 120)))
    mask = read.in_box((100, 80, 160, 130)).mask
    rows, columns = np.nonzero(mask)
    assert 79 <= rows.min() <= 81
    assert 129 <= rows.max() <= 131
    assert 99 <= columns.min() <= 101
    assert 159 <= columns.max() <= 161
    assert mask[82:128, 102:158].all()


def test_what_a_box_shows_lies_in_the_middle_of_what_is_read():
    """The box's centre comes to the aimed cell's centre, the longer side to the object's size."""
    seen = []

    class Recording(BrightPyramid):
        def encode(self, image):
            seen.append(image)
            return super().encode(image)

    read = Proposer(Recording()).read(photo_of((97, 143, 46)))
    read.in_box((143, 97, 189, 143))
    assert seen[-1].shape == (192, 192, 3)
    bright = np.argwhere(seen[-1][..., 1] > 150)
    np.testing.assert_allclose(bright.mean(0) + 0.5, [97, 97], atol=0.6)
    np.testing.assert_allclose(np.ptp(bright, axis=0) + 1, [92, 92], atol=1)


@pytest.mark.parametrize("point", [(-1, 5), (5, 301), (401, 5), (np.nan, 5), (5, np.inf)])
def test_a_point_beside_the_photo_is_refused(point):
    with pytest.raises(ValueError, match="expected a point on the photo, 0 to 400 and 0 to 300"):
        pixel_at(*point, (300, 400))


def test_the_border_of_a_photo_belongs_to_its_last_pixels():
    assert pixel_at(400, 300, (300, 400)) == (299, 399)
    assert pixel_at(0, 0, (300, 400)) == (0, 0)
    assert pixel_at(1.99, 2.0, (300, 400)) == (2, 1)


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (9, 5, 5, 9), (400, 5, 500, 9), (1, 2, 3), (0, 0, np.nan, 5), [[0, 0, 5, 5]]],
)
def test_a_box_of_nothing_is_refused(box):
    with pytest.raises(ValueError, match="box: expected x0, y0, x1, y1"):
        box_on(box, (300, 400))


def test_a_box_that_reaches_beyond_the_photo_ends_there():
    np.testing.assert_array_equal(box_on((-5, 10, 500, 20.5), (300, 400)), [0, 10, 400, 20.5])
