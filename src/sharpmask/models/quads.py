"""Quads: four samples of a mask, two by two, as channels of one place of the map half as fine.

The finest step of the refinement has few channels at many places, which processors read and
multiply slowly. As quads the same sums have four times the channels at a quarter of the places.
Phases come in the order (0, 0), (0, 1), (1, 0), (1, 1); sample p of quad k is sample 2 k + p.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.shapes import Float


def quads_of(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "o c 1 1"],
    bias: Float[Tensor, " o"],
    *,
    doubles: bool,
) -> Float[Tensor, "b q hq wq"]:
    """A 1x1 convolution, its places taken as quads; or those of its map doubled.

    Doubling keeps samples and puts their means between; beyond the map is zero.
    """
    if doubles:
        x = F.pad(x, (0, 1, 0, 1))
        line = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # of two samples: phase, tap
    else:
        line = torch.eye(2)
    line = line.to(weight)
    kernel = torch.einsum("py,qx,oc->pqocyx", line, line, weight[:, :, 0, 0]).flatten(0, 2)
    return F.conv2d(x, kernel, bias.repeat(4), stride=1 if doubles else 2)


def double_and_mix(
    x: Float[Tensor, "n c s s"], narrow: nn.Conv2d | None, vertical: nn.Conv2d
) -> Float[Tensor, "n q s s"]:
    """Quads of: 1x1 convolution, doubling, 3x3 convolution; beyond the map is zero."""
    kernel, bias = vertical.weight, vertical.bias
    assert bias is not None
    if narrow is not None:
        assert narrow.bias is not None
        bias = bias + kernel.sum((2, 3)) @ narrow.bias
        kernel = torch.einsum("omyx,mc->ocyx", kernel, narrow.weight[:, :, 0, 0])
    # Of three samples before doubling, to three around the even or odd one: phase, before, after.
    line = torch.tensor(
        [
            [[0.5, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 0.0, 0.5]],
            [[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.5, 1.0]],
        ]
    ).to(kernel)
    kernel = torch.einsum("pyi,qxj,ocij->pqocyx", line, line, kernel).flatten(0, 2)
    return F.conv2d(x, kernel, bias.repeat(4), padding=1)


def mix_each(x: Float[Tensor, "n q s s"], layer: nn.Conv2d) -> Float[Tensor, "n p s s"]:
    """A 1x1 convolution of each sample."""
    assert layer.bias is not None
    kernel = torch.einsum("pq,oc->poqc", torch.eye(4).to(layer.weight), layer.weight[:, :, 0, 0])
    return F.conv2d(x, kernel.flatten(2).flatten(0, 1)[..., None, None], layer.bias.repeat(4))


def samples_of(quads: Float[Tensor, "n q s s"]) -> Float[Tensor, "n c d d"]:
    """The samples of quads, 2 s - 1 a side: half of the last are beyond the window."""
    batch, channels, rows, columns = quads.shape
    phases = quads.reshape(batch, 4, channels // 4, rows, columns).transpose(1, 2).flatten(1, 2)
    if phases.requires_grad:  # the gradient of pixel_shuffle fails where there is no window
        parts = phases.reshape(batch, channels // 4, 2, 2, rows, columns)
        samples = parts.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    else:
        samples = F.pixel_shuffle(phases, 2)
    return samples[:, :, :-1, :-1]
