import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpmask.pyramid_geometry import PyramidGeometry

LEVELS = range(4)
geometries = st.builds(PyramidGeometry, cell_offset=st.sampled_from([0.5, 1.0]))
sizes = st.tuples(st.integers(8, 3000), st.integers(8, 3000))
cells = st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 60))


@given(geometries, sizes, st.lists(cells, min_size=1, max_size=5))
def test_cells_to_windows_and_back_gives_the_same_cells(geometry, scaled_size, chosen):
    # Both sides are resized by nearly the same factor, as rounding leaves them.
    image_size = (scaled_size[0] * 2 + 1, scaled_size[1] * 2)
    chosen = np.array(chosen)
    windows = geometry.cells_to_windows(chosen, image_size, scaled_size)
    again = geometry.windows_to_cells(windows, image_size, scaled_size)
    np.testing.assert_array_equal(again, chosen)


@pytest.mark.parametrize("level", LEVELS)
def test_a_windows_samples_stand_on_cells_of_the_finer_maps(level):
    geometry = PyramidGeometry(cell_offset=1.0)
    stride = geometry.strides[level]
    row, column = 7, 3
    left, top, right, bottom = geometry.cells_to_windows(
        np.array([[level, row, column]]), (900, 900), (900, 900)
    )[0]
    assert right - left == bottom - top == geometry.window_size(level) == 10.125 * stride
    for step, side in enumerate((11, 21, 41, 81)):
        assert geometry.side(step) == side
        fine = stride / 2**step
        # The window's outermost samples are five cells of the level from its centre.
        columns = 2**step * column + np.arange(side) - side // 2
        places = fine * columns + geometry.cell_offset
        samples = (left + right) / 2 + np.linspace(-5 * stride, 5 * stride, side)
        np.testing.assert_allclose(places, samples)
    finest = geometry.sample_size(level)
    assert places[0] - finest / 2 == left
    assert places[-1] + finest / 2 == right


@pytest.mark.parametrize(("level", "side"), [(0, 46), (1, 92), (2, 184), (3, 368)])
def test_objects_of_a_level_take_the_papers_share_of_ten_cells(level, side):
    geometry = PyramidGeometry()
    assert geometry.object_size(level) == side
    boxes = np.array([[10, 20, 10 + side, 25], [0, 0, 3, 2 * side], [0, 0, side / 4, side / 2]])
    np.testing.assert_allclose(geometry.octaves(level, boxes), [0, 1, -1])


@given(geometries, st.integers(1, 4000), st.integers(0, 3))
def test_cells_on_a_photo_are_those_centred_on_it(geometry, size, level):
    count = geometry.num_cells(level, size)
    centers = geometry.strides[level] * np.arange(count + 1) + geometry.cell_offset
    assert centers[-1] >= size
    assert count == 1 or centers[-2] < size
    padded = geometry.padded_size(size)
    assert size <= padded < size + 64
    assert padded % 64 == 0
    assert count <= padded // geometry.strides[level]


@pytest.mark.parametrize("options", [{"grid": 10}, {"strides": (8, 16, 24)}])
def test_windows_that_would_fall_between_cells_are_refused(options):
    with pytest.raises(ValueError, match=r"odd|twice"):
        PyramidGeometry(**options)
