import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sharpmask.models.layers import Conv2d, WindowLinear, gather_windows, symmetric_pad
from tolerances import DOUBLE

assert_close = torch.testing.assert_close


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


# --- symmetric padding ---


@pytest.mark.parametrize(
    "widths",
    [(1, 1, 1, 1), (0, 1, 0, 1), (3, 3, 3, 3), (2, 0, 0, 3), (0, 3, 2, 0), (0, 0, 0, 0)],
    ids=str,
)
@pytest.mark.parametrize("size", [(3, 5), (4, 4)], ids=str)
def test_symmetric_padding_is_numpys(size, widths):
    x = random(2, 3, *size)
    left, right, top, bottom = widths
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="symmetric")
    np.testing.assert_array_equal(symmetric_pad(x, left, right, top, bottom).numpy(), expected)


def test_the_gradient_of_symmetric_padding_counts_every_copy():
    # FAIR's layer drops the gradient of the copies.
    x = torch.zeros(1, 1, 1, 4, requires_grad=True)
    symmetric_pad(x, 2, 1, 0, 0).sum().backward()
    assert x.grad.flatten().tolist() == [2, 2, 1, 2]


# --- Conv2d ---


@pytest.mark.parametrize("size", [(6, 7), (7, 6), (8, 8), (5, 5)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("padding", ["symmetric", "zero"])
def test_conv_is_explicit_padding_and_a_plain_convolution(padding, kernel_size, stride, size):
    conv = Conv2d(4, 6, kernel_size, stride=stride, groups=2, padding=padding).double()
    x = random(2, 4, *size).double()
    reach = kernel_size // 2
    mode = {"symmetric": "symmetric", "zero": "constant"}[padding]
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode=mode)
    expected = F.conv2d(torch.from_numpy(padded), conv.weight, conv.bias, stride, groups=2)
    assert_close(conv(x), expected, **DOUBLE)
    assert conv(x).shape[2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("padding", ["symmetric", "zero"])
def test_tensorflow_pads_an_even_side_at_its_end_only(padding):
    # The kernel picks the top left tap, so the output shows what was read first.
    conv = Conv2d(1, 1, 3, stride=2, padding=padding, tensorflow=True)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 0] = 1
        conv.bias.zero_()
    even = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    assert conv(even)[0, 0].tolist() == [[1, 3], [9, 11]]
    odd = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    before = [[1, 2], [4, 5]] if padding == "symmetric" else [[0, 0], [0, 5]]
    assert conv(odd)[0, 0].tolist() == before


@pytest.mark.parametrize("padding", ["symmetric", "zero"])
@pytest.mark.parametrize("size", [(6, 7), (7, 6), (6, 6), (7, 7)], ids=str)
def test_tensorflow_padding_of_each_side_by_its_own_parity(size, padding):
    conv = Conv2d(3, 3, 3, stride=2, groups=3, padding=padding, tensorflow=True).double()
    x = random(1, 3, *size).double()
    widths = [(0, 1) if side % 2 == 0 else (1, 1) for side in size]
    mode = {"symmetric": "symmetric", "zero": "constant"}[padding]
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), *widths), mode=mode))
    expected = F.conv2d(padded, conv.weight, conv.bias, 2, groups=3)
    assert_close(conv(x), expected, **DOUBLE)
    assert conv(x).shape[2:] == tuple(-(-side // 2) for side in size)


# --- windows ---


@pytest.mark.parametrize("step", [1, 2, 3])
def test_gathered_windows_are_slices(step):
    x = random(2, 3, 13, 11)
    cells = torch.tensor([[0, 0, 0], [1, 3, 2], [0, 2, 1], [1, 3, 2]])
    windows = gather_windows(x, cells, 4, step)
    assert windows.shape == (4, 3, 4, 4)
    for window, (image, row, column) in zip(windows, cells.tolist(), strict=True):
        expected = x[image, :, step * row : step * row + 4, step * column : step * column + 4]
        assert torch.equal(window, expected)


def test_a_window_beyond_the_end_is_the_last_that_fits():
    x = random(1, 2, 9, 8)
    (window,) = gather_windows(x, torch.tensor([[0, 3, 2]]), 4, 2)  # rows 6 to 9 of 8
    assert torch.equal(window, x[0, :, 5:9, 4:8])
    (window,) = gather_windows(x, torch.tensor([[0, 1, 3]]), 4, 2)
    assert torch.equal(window, x[0, :, 2:6, 4:8])


def test_no_cells_give_no_windows():
    none = torch.zeros(0, 3, dtype=torch.long)
    assert gather_windows(random(1, 3, 6, 6), none, 4).shape == (0, 3, 4, 4)
    assert WindowLinear(3, 5, 4).at(random(1, 3, 6, 6), none).shape == (0, 5)


def test_a_window_linear_at_a_cell_is_its_dense_value_there():
    linear = WindowLinear(3, 7, 4).double()
    x = random(2, 3, 9, 8).double()
    dense = linear(x)
    assert dense.shape == (2, 7, 6, 5)
    cells = torch.tensor([[i, r, c] for i in range(2) for r in range(6) for c in range(5)])
    expected = dense.permute(0, 2, 3, 1).reshape(-1, 7)
    assert_close(linear.at(x, cells), expected, **DOUBLE)
    # And it is the linear map of the flattened window that a fully connected layer would be.
    flat = F.linear(x[1, :, 2:6, 3:7].flatten(), linear.weight.flatten(1), linear.bias)
    assert_close(linear.at(x, torch.tensor([[1, 2, 3]]))[0], flat, **DOUBLE)
