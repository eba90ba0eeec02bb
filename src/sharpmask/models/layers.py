"""Layers that the networks share."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.shapes import Float, Int

Padding = Literal["symmetric", "zero"]


def symmetric_pad(
    x: Float[Tensor, "b c h w"], left: int, right: int, top: int, bottom: int
) -> Float[Tensor, "b c hp wp"]:
    """Pad by mirroring with the edge repeated, cba|abcd (NumPy's "symmetric").

    FAIR's SpatialSymmetricPadding; torch's own "reflect" leaves the edge out. One pixel of it is
    torch's "replicate", which is faster.
    """
    if max(left, right, top, bottom) <= 1:
        return F.pad(x, (left, right, top, bottom), mode="replicate")
    rows = [x[:, :, :top].flip(2), x, x[:, :, x.shape[2] - bottom :].flip(2)]
    x = torch.cat(rows, dim=2)
    columns = [x[..., :left].flip(3), x, x[..., x.shape[3] - right :].flip(3)]
    return torch.cat(columns, dim=3)


def move_on(x: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c h w"]:
    """Move a map by ``cells`` down and right: the mirrored border comes in, the far end goes."""
    return symmetric_pad(x[:, :, :-cells, :-cells], cells, 0, cells, 0) if cells else x


class Normalize(nn.Module):
    """Pixels, RGB 0..255, as nets trained on ImageNet want them."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Of each channel the mean 0 and the standard deviation 1."""
        return (pixels / 255 - self.mean) / self.std


class Conv2d(nn.Conv2d):
    """A convolution with bias that keeps sizes, its border mirrored or zero.

    Args:
        in_channels: Channels read.
        out_channels: Channels written.
        kernel_size: Odd side of the kernel.
        stride: 1 or 2; sizes are divided rounding up.
        groups: As in torch.
        padding: How the border is continued.
        tensorflow: With stride 2, pad an even side on its far end only, as TensorFlow does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "symmetric",
        tensorflow: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        self.border: Padding = padding
        self.tensorflow = tensorflow

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hp wp"]:
        """Continue the border as far as the kernel reaches."""
        after = self.kernel_size[0] // 2
        top, left = (
            0 if self.tensorflow and side % 2 == 0 else after for side in (x.shape[2], x.shape[3])
        )
        if self.border == "zero":
            return F.pad(x, (left, after, top, after))
        return symmetric_pad(x, left, after, top, after)

    def valid(self, x: Float[Tensor, "b c hp wp"]) -> Float[Tensor, "b d hs ws"]:
        """Convolve what is already padded."""
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """Convolve; height and width become ceil(side / stride)."""
        if self.border == "zero" and not self.tensorflow:
            padding = self.kernel_size[0] // 2
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        return self.valid(x if self.kernel_size[0] == 1 else self.pad(x))


def linear_weights(places: Float[Tensor, "*n"], length: int) -> Float[Tensor, "*n length"]:
    """Weights with which the values of a line enter its linear interpolation at places.

    Value k stands at k + .5; beyond the first and last the line goes on as it ends.
    """
    values = torch.arange(length, device=places.device, dtype=places.dtype)
    places = (places - 0.5).clamp(0, length - 1)
    return (1 - (places[..., None] - values).abs()).clamp(min=0)


def gather_windows(
    x: Float[Tensor, "b c h w"], cells: Int[Tensor, "n 3"], size: int, step: int = 1
) -> Float[Tensor, "n c size size"]:
    """Cut the square of ``size`` at ``step * (row, column)`` of each cell (image, row, column)."""
    height, width = x.shape[2:]
    image, row, column = cells.unbind(1)
    # An image of no whole strides leaves finer maps short of the last cell, by up to seven values.
    reach = torch.arange(size, device=x.device)
    rows = (step * row).clamp(max=height - size)[:, None] + reach
    columns = (step * column).clamp(max=width - size)[:, None] + reach
    # One index into a list of places: its gradient needs no more room than the map itself.
    places = (image[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    values = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    windows = values.index_select(0, places.flatten())
    return windows.reshape(-1, size, size, x.shape[1]).permute(0, 3, 1, 2)


def flatten(maps: Sequence[Tensor]) -> Float[Tensor, "b places c"]:
    """The places of all maps (B, C, rows, columns) in order, and one of zeros."""
    lists = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps]
    return torch.cat([*lists, torch.zeros_like(lists[0][:, :1])], dim=1)


def maps_of(
    sizes: Sequence[Sequence[int]], cells: Int[Tensor, "n 4"]
) -> tuple[Int[Tensor, "n 1"], Int[Tensor, "n 1"], Int[Tensor, "n 1"]]:
    """Rows, columns and first place of the map of each cell (image, map, row, column)."""
    number = cells[:, 1:2]
    height = width = start = torch.zeros_like(number)
    for k, (rows, columns) in enumerate(sizes):
        # Whole numbers: torch's exporter to ONNX cannot multiply truth values by a map's sides.
        here, after = (number == k).long(), (number > k).long()
        height = height + here * rows
        width = width + here * columns
        start = start + after * (rows * columns)
    return height, width, start


def read_places(
    flat: Float[Tensor, "b places c"],
    maps: tuple[Int[Tensor, "n 1"], Int[Tensor, "n 1"], Int[Tensor, "n 1"]],
    cells: Int[Tensor, "n 4"],
    *,
    finer: int = 1,
    reach: int = 0,
) -> Float[Tensor, "n c side side"]:
    """Cut squares out of flattened maps; what lies beyond a map is zero.

    Args:
        flat: Made by ``flatten``, of maps with ``finer`` times as many rows and columns as cells.
        maps: ``maps_of`` the cells.
        cells: Image, map, row and column of the squares' centres.
        finer: Places from one cell to the next.
        reach: Places from the centre to each side.
    """
    height, width, start = maps[0] * finer, maps[1] * finer, maps[2] * finer**2
    offsets = torch.arange(-reach, reach + 1, device=cells.device)
    y, x = cells[:, 2:3] * finer + offsets, cells[:, 3:] * finer + offsets
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    batch, places, channels = flat.shape
    index = torch.where(inside, (start + y * width)[:, :, None] + x[:, None, :], places - 1)
    index = index + (cells[:, :1] * places)[..., None]
    # One index into a list of places: its gradient needs no more room than the maps themselves.
    values = flat.reshape(batch * places, channels).index_select(0, index.flatten())
    side = 2 * reach + 1
    return values.reshape(-1, side, side, channels).permute(0, 3, 1, 2)


class WindowLinear(nn.Conv2d):
    """A linear map of a square window of features, kept as a convolution so that it slides too."""

    def __init__(self, in_channels: int, out_features: int, grid: int) -> None:
        super().__init__(in_channels, out_features, grid)

    def at(self, x: Float[Tensor, "b c h w"], cells: Int[Tensor, "n 3"]) -> Float[Tensor, "n out"]:
        """The map's value at chosen cells: ``forward(x)[image, :, row, column]``."""
        windows = gather_windows(x, cells, self.kernel_size[0])
        return F.linear(windows.flatten(1), self.weight.flatten(1), self.bias)
