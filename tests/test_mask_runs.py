import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from found_masks import mask_lists, mask_of, rle_of, shapes
from sharpmask.runs import Runs

RNG = np.random.default_rng(0)


# --- pasting ---


def slow_probability(mask, window, row, column):
    """Bilinear value of a patch at the middle of an image's pixel, in patch pixels."""
    size = len(mask)
    x0, y0, x1, y1 = window
    across = (column + 0.5 - x0) * size / (x1 - x0) - 0.5
    down = (row + 0.5 - y0) * size / (y1 - y0) - 0.5
    value = 0.0
    for r in (int(np.floor(down)), int(np.floor(down)) + 1):
        for c in (int(np.floor(across)), int(np.floor(across)) + 1):
            weight = (1 - abs(down - r)) * (1 - abs(across - c))
            value += weight * mask[min(max(r, 0), size - 1), min(max(c, 0), size - 1)]
    return value / 255


def full_size(mask, window, image_size, threshold):
    (rle,) = Runs.paste(mask[None], np.array([window], float), image_size, threshold).rles()
    assert rle["size"] == list(image_size)
    return mask_of(rle)


def waves(size):
    """A smooth patch: neighbours differ by at most 12 of 255."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    wave = np.sin(rows * 9 / size) * np.cos(columns * 7 / size)
    return np.rint(127.5 + 127.4 * wave).astype(np.uint8)


@given(
    st.floats(-60, 50),
    st.floats(-60, 50),
    st.floats(32, 150),
    st.floats(0.9, 1.1),
    st.sampled_from([0.1, 0.2, 0.5, 0.8]),
)
def test_pasting_pixel_by_pixel(left, top, side, aspect, threshold):
    mask = waves(32)
    image_size = (40, 60)
    window = (left, top, left + side, top + side * aspect)
    got = full_size(mask, window, image_size, threshold)
    # The window's edge may fall half a pixel off the grid, and values are rounded to 1 / 255.
    steepest = np.abs(np.diff(mask.astype(int), axis=0)).max() * 32 / side / aspect / 255
    tolerance = 0.5 * steepest + 2 / 255
    judged = 0
    for row in range(image_size[0]):
        for column in range(image_size[1]):
            inside = window[0] <= column + 0.5 < window[2] and window[1] <= row + 0.5 < window[3]
            value = slow_probability(mask, window, row, column) if inside else 0
            if abs(value - threshold) > tolerance:
                assert got[row, column] == (value > threshold)
                judged += 1
    assert judged > 0.7 * got.size


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5])
def test_a_window_that_is_the_image_is_the_patch_itself(threshold):
    mask = RNG.integers(0, 256, (20, 20), dtype=np.uint8)
    got = full_size(mask, (0, 0, 20, 20), (20, 20), threshold)
    np.testing.assert_array_equal(got, mask > 255 * threshold)


def test_the_threshold_is_exclusive():
    mask = np.array([[50, 51], [52, 255]], np.uint8)
    assert full_size(mask, (0, 0, 2, 2), (2, 2), 0.2).tolist() == [[False, False], [True, True]]


def test_whole_pixels_are_cut_and_moved_exactly():
    mask = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
    expected = np.zeros((12, 12), bool)
    expected[3:9, 4:10] = mask > 102
    np.testing.assert_array_equal(full_size(mask, (4, 3, 10, 9), (12, 12), 0.4), expected)
    # The same patch over each corner of an image.
    for top, left in ((-2, -3), (-2, 5), (4, -3), (4, 5)):
        whole = np.zeros((30, 30), bool)
        whole[10 + top : 16 + top, 10 + left : 16 + left] = mask > 102
        got = full_size(mask, (left, top, left + 6, top + 6), (8, 9), 0.4)
        np.testing.assert_array_equal(got, whole[10:18, 10:19])


def test_integer_scales():
    # Enlarged three times a flat field with a step keeps the step where it is: between the middles
    # of the second and third patch pixels, half way.
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 2:] = 255
    got = full_size(mask, (0, 0, 12, 12), (12, 12), 0.5)
    assert got[0].tolist() == [False] * 6 + [True] * 6
    # Reduced four times every pixel is an average, not a sample.
    mask = np.zeros((16, 16), np.uint8)
    mask[1::2] = 255
    assert full_size(mask, (0, 0, 4, 4), (4, 4), 0.4).all()
    assert not full_size(mask, (0, 0, 4, 4), (4, 4), 0.6).any()


@pytest.mark.parametrize(
    "window",
    [(-20, 0, -10, 10), (30, 0, 40, 10), (0, -20, 10, -10), (0, 30, 10, 40), (-50, -50, 0, 0)],
    ids=str,
)
def test_windows_outside_the_image_are_empty(window):
    assert not full_size(np.full((5, 5), 255, np.uint8), window, (20, 30), 0.2).any()


def test_a_window_round_the_whole_image():
    mask = np.zeros((160, 160), np.uint8)
    mask[40:120, 40:120] = 255
    assert full_size(mask, (-80, -80, 240, 240), (160, 160), 0.2).all()
    assert not full_size(mask, (300, 300, 620, 620), (160, 160), 0.2).any()


def test_a_window_smaller_than_a_pixel():
    mask = np.full((8, 8), 255, np.uint8)
    assert full_size(mask, (2.4, 3.4, 2.6, 3.6), (6, 6), 0.5).sum() == 1  # holds a pixel's middle
    assert full_size(mask, (2.6, 3.6, 2.9, 3.9), (6, 6), 0.5).sum() == 0


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_masks_pasted_together_are_as_if_alone(seed, threshold):
    rng = np.random.default_rng(seed)
    sides = rng.uniform(2, 60, 6)[:, None]  # some reduced, some enlarged
    patches = rng.integers(0, 256, (6, 16, 16), dtype=np.uint8)
    patches[rng.integers(6)] = 0
    start = rng.uniform(-20, 50, (6, 2))
    windows = np.concatenate([start, start + sides], axis=1)
    together = Runs.paste(patches, windows, (40, 60), threshold).rles()
    assert len(together) == 6
    for rle, patch, window in zip(together, patches, windows, strict=True):
        np.testing.assert_array_equal(mask_of(rle), full_size(patch, window, (40, 60), threshold))


def test_no_masks_at_all():
    runs = Runs.paste(np.zeros((0, 9, 9), np.uint8), np.zeros((0, 4)), (20, 30), 0.5)
    assert runs.rles() == runs.cleaned().rles() == Runs.of([], (20, 30)).rles() == []


# --- runs and RLE ---


@given(mask_lists())
def test_runs_of_masks_are_those_masks(some):
    rles = [rle_of(mask) for mask in [*some, ~some[0], np.zeros_like(some[0])]]
    assert Runs.of(rles, some[0].shape).rles() == rles


# --- cleaning ---


def cleaned(*some):
    return [
        mask_of(rle) for rle in Runs.of([rle_of(m) for m in some], some[0].shape).cleaned().rles()
    ]


@given(mask_lists())
def test_a_cleaned_mask_is_the_largest_piece_of_the_mask_with_its_holes_filled(some):
    for mask, found in zip(some, cleaned(*some), strict=True):
        pieces, count = ndimage.label(ndimage.binary_fill_holes(mask))
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
        largest = [pieces == index + 1 for index in np.flatnonzero(sizes == sizes.max())]
        assert any(np.array_equal(found, piece) for piece in largest)


@given(mask_lists())
def test_a_cleaned_mask_is_one_piece_without_holes_and_stays_so(some):
    once = cleaned(*some)
    for mask in once:
        assert ndimage.label(mask)[1] == 1
        around = np.pad(~mask, 1, constant_values=True)
        assert ndimage.label(around)[1] == 1
    np.testing.assert_array_equal(cleaned(*once), once)


@given(mask_lists(), st.integers(1, 6))
def test_pieces_are_counted_as_scipy_counts_them(some, least):
    expected = []
    for mask in some:
        labels, _ = ndimage.label(mask)
        expected.append(int((np.bincount(labels.ravel())[1:] >= least).sum()))
    runs = Runs.of([rle_of(mask) for mask in some], some[0].shape)
    assert runs.pieces(least).tolist() == expected


def test_cleaned_shapes_are_those_of_scipy():
    for mask, found in zip(shapes(480, 640), cleaned(*shapes(480, 640)), strict=True):
        pieces, _ = ndimage.label(ndimage.binary_fill_holes(mask))
        largest = np.bincount(pieces[pieces > 0]).argmax()
        np.testing.assert_array_equal(found, pieces == largest)


def picture(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["###", "#.#", "###"], ["###", "###", "###"]),
        (["#.#", "#.#", "###"], ["#.#", "#.#", "###"]),  # a bay is not a hole
        (["###.", "#.#.", "###.", "...#"], ["###.", "###.", "###.", "...."]),  # corners alone
        ([".##", "#.#", "###"], [".##", "###", "###"]),  # open at a corner alone
        (["#####", "#...#", "#.#.#", "#...#", "#####"], ["#####"] * 5),  # a piece inside a hole
        (["#..##", "#....", "#...."], ["#....", "#....", "#...."]),
        (["....", "...."], ["....", "...."]),
    ],
)
def test_cleaned_masks_by_hand(rows, expected):
    np.testing.assert_array_equal(cleaned(picture(*rows))[0], picture(*expected))


@pytest.mark.parametrize("turned", [False, True])
def test_a_winding_path_is_one_piece(turned):
    path = np.zeros((101, 90), bool)
    path[::2] = path[1::4, -1] = path[3::4, 0] = True
    path = path.T if turned else path
    assert ndimage.label(path)[1] == 1
    np.testing.assert_array_equal(cleaned(path)[0], path)
