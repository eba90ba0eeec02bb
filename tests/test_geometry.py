import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharpmask.geometry import (
    DEEPMASK_GEOMETRY,
    PYRAMIDS,
    SHARPMASK_GEOMETRY,
    PatchGeometry,
    octaves_of,
)
from sharpmask.models.backbones import VGG, Bottleneck, MobileNetV2, ResNet
from sharpmask.models.deepmask import DeepMask

SMALL = PatchGeometry(patch_size=32, context=16, object_size=18, coarse_size=8)
PADDED = PatchGeometry(cell_offset=1)
SIDES = st.integers(1, 700)
GEOMETRIES = st.sampled_from([SHARPMASK_GEOMETRY, DEEPMASK_GEOMETRY, SMALL, PADDED])


# --- sizes ---


def test_the_papers_numbers():
    sharp, deep = SHARPMASK_GEOMETRY, DEEPMASK_GEOMETRY
    assert (sharp.window_size, sharp.grid, sharp.border) == (192, 10, 80)
    assert (deep.window_size, deep.grid, deep.border) == (224, 14, 112)
    assert sharp.object_size == math.ceil(160 * 128 / 224)
    assert sharp.coarse_size == deep.coarse_size == 56


@pytest.mark.parametrize("sizes", [{"patch_size": 100}, {"context": 8}, {"stride": 11}])
def test_sizes_must_be_whole_strides(sizes):
    with pytest.raises(ValueError, match="multiples of the stride"):
        PatchGeometry(**sizes)


@given(GEOMETRIES, SIDES)
def test_padding_adds_both_borders_and_less_than_a_stride(geometry, side):
    padded = geometry.padded_size(side)
    assert padded % geometry.stride == 0
    assert 0 <= padded - (side + 2 * geometry.border) < geometry.stride


@given(GEOMETRIES, SIDES)
def test_windows_reach_both_ends_of_a_side(geometry, side):
    # The first window is centred on the first pixel, the last less than a stride from the last;
    # both seven pixels earlier where strided layers pad both sides.
    last = geometry.num_cells(geometry.padded_size(side)) - 1
    centres = np.array([0, last]) * geometry.stride - (7 if geometry is PADDED else 0)
    windows = geometry.cells_to_windows(np.array([[0, 0], [last, last]]), (side, side), (side,) * 2)
    np.testing.assert_allclose((windows[:, :2] + windows[:, 2:]) / 2, centres[:, None] + [0, 0])
    assert side - geometry.stride <= centres[1] < side + geometry.stride


@pytest.mark.parametrize(
    ("image_size", "octave", "expected"),
    [
        ((480, 640), 0.0, (480, 640)),
        ((480, 640), -1.0, (240, 320)),
        ((481, 641), -1.0, (241, 321)),  # halves go up, as in FAIR's floor(x + .5)
        ((480, 640), 0.5, (679, 905)),  # 678.82, 905.10
        ((480, 640), -2.5, (85, 113)),  # 84.85, 113.14
        ((1, 500), -2.5, (1, 88)),  # .18 pixels are one
    ],
)
def test_scaled_sizes(image_size, octave, expected):
    assert SHARPMASK_GEOMETRY.scaled_size(image_size, octave) == expected


# --- cells and windows ---


@pytest.mark.parametrize(
    ("cell", "image_size", "scaled_size", "window"),
    [
        # At scale 1: 16 px a cell, the first window begins 80 px before the image.
        ((0, 0), (480, 640), (480, 640), (-80, -80, 80, 80)),
        ((5, 0), (480, 640), (480, 640), (-80, 0, 80, 160)),
        ((3, 7), (480, 640), (480, 640), (32, -32, 192, 128)),
        # At half scale everything is twice as large in the image.
        ((3, 7), (480, 640), (240, 320), (64, -64, 384, 256)),
        # Sides round on their own, so the factors differ: 101 / 50 down, 200 / 100 across.
        ((10, 5), (101, 200), (50, 100), (0, 161.6, 320, 484.8)),
    ],
)
def test_windows_by_hand(cell, image_size, scaled_size, window):
    windows = SHARPMASK_GEOMETRY.cells_to_windows(np.array([cell]), image_size, scaled_size)
    np.testing.assert_allclose(windows, [window], atol=1e-9)


def test_a_window_by_hand_of_the_original_deepmask():
    windows = DEEPMASK_GEOMETRY.cells_to_windows(np.array([[7, 14]]), (300, 400), (300, 400))
    np.testing.assert_allclose(windows, [[112, 0, 336, 224]])


def test_windows_lie_where_the_cells_of_padded_strides_are_centred():
    # Ten cells of 16 px, centred at 1, 17, 33, ... of an image that begins at 80.
    (window,) = PADDED.cells_to_windows(np.array([[5, 0]]), (480, 640), (480, 640))
    middle = np.mean([16 * cell + 1 - 80 for cell in range(10)])
    assert window.tolist() == [middle - 80, middle, middle + 80, middle + 160]
    (window,) = PADDED.cells_to_windows(np.array([[5, 0]]), (480, 640), (240, 320))
    assert window.tolist() == [2 * middle - 160, 2 * middle, 2 * middle + 160, 2 * middle + 320]


@given(GEOMETRIES, SIDES, SIDES, st.floats(-2.5, 1.5), st.data())
def test_cells_to_windows_and_back(geometry, height, width, octave, data):
    scaled = geometry.scaled_size((height, width), octave)
    rows, columns = (geometry.num_cells(geometry.padded_size(side)) for side in scaled)
    cell = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    cells = np.array(data.draw(st.lists(cell, min_size=1, max_size=5)))
    windows = geometry.cells_to_windows(cells, (height, width), scaled)
    assert (geometry.windows_to_cells(windows, (height, width), scaled) == cells).all()
    # Anything nearer than half a stride of the scaled image still means that cell.
    factor = np.array([width, height, width, height]) / np.array([*scaled[::-1], *scaled[::-1]])
    moved = windows + data.draw(st.floats(-7.9, 7.9)) * factor
    assert (geometry.windows_to_cells(moved, (height, width), scaled) == cells).all()


@given(GEOMETRIES, st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_canonical_scale_makes_the_longer_side_object_size(geometry, width, height):
    box = np.array([5.0, 7.0, 5.0 + width, 7.0 + height])
    scale = geometry.canonical_scale(box)
    assert max(width, height) * scale == pytest.approx(geometry.object_size)
    assert geometry.canonical_scale(np.stack([box, box])).tolist() == [scale, scale]


# --- agreement with the networks ---


class ThinVGG(VGG):
    WIDTHS = (2, 2, 2, 2, 2)

    def __init__(self):
        super().__init__((1, 1, 1, 1, 1))
        self.channels = (2, 2, 2, 2)


@pytest.mark.parametrize(
    "backbone",
    [lambda: ResNet(Bottleneck, (1, 1, 1), width=4), ThinVGG, MobileNetV2],
    ids=["resnet", "vgg", "mobilenet"],
)
@torch.inference_mode()
def test_num_cells_is_the_size_of_the_networks_score_map(backbone):
    model = DeepMask(backbone(), geometry=SMALL, bottleneck_channels=2, vector=4).eval()
    widths = range(SMALL.window_size, SMALL.window_size + 17)
    # Every remainder of the stride, on both sides at once: odd sizes must not gain or lose a cell.
    for width in widths:
        height = widths.start + (7 * width) % 17
        scores = model.score(model.encode(torch.zeros(1, 3, height, width)))
        assert scores.shape == (1, SMALL.num_cells(height), SMALL.num_cells(width))


@torch.inference_mode()
def test_one_window_is_one_cell():
    # What is seen beyond a patch is no place for another patch.
    assert SHARPMASK_GEOMETRY.num_cells(SHARPMASK_GEOMETRY.patch_size) == 1
    model = DeepMask(ThinVGG(), geometry=SMALL, bottleneck_channels=2, vector=4).eval()
    windows = torch.zeros(2, 3, SMALL.window_size, SMALL.window_size)
    assert model.score(model.encode_patches(windows)).shape == (2, 1, 1)


# --- pyramids ---


def test_pyramids_by_name():
    assert octaves_of("default") == (-2.5, -2, -1.5, -1, -0.5, 0, 0.5)
    assert octaves_of("zoom") == (*octaves_of("default"), 1)
    assert octaves_of("zoom2") == (*octaves_of("zoom"), 1.5)
    assert set(PYRAMIDS) == {"default", "zoom", "zoom2"}
    assert octaves_of([0, -1]) == (0, -1)


def test_unknown_pyramids_are_refused():
    with pytest.raises(
        ValueError,
        match="expected one of default, zoom, zoom2, or octaves such as -1,0,1, got 'big'",
    ):
        octaves_of("big")
    with pytest.raises(ValueError, match="at least one octave"):
        octaves_of([])


@pytest.mark.parametrize(
    ("scales", "octaves"),
    [
        ("-1,0,1", (-1, 0, 1)),
        ("2.0", (2,)),
        (" -0.5, 0 ", (-0.5, 0)),
        ([1.5], (1.5,)),
        ((0,), (0,)),
    ],
)
def test_octaves_are_read_from_lists_and_text(scales, octaves):
    assert octaves_of(scales) == octaves


@pytest.mark.parametrize("scales", ["nan", "1,inf", [float("nan")], [-11], "40", "", ","])
def test_octaves_that_are_no_scale_are_refused(scales):
    with pytest.raises(ValueError, match="scales: expected"):
        octaves_of(scales)
