"""Networks small enough to be compared cell by cell."""

import torch
import torch.nn.functional as F
from torch import nn

from sharpmask.geometry import PatchGeometry
from sharpmask.models.backbones import Backbone

GEOMETRY = PatchGeometry(patch_size=32, context=16, object_size=18, coarse_size=8)
"""A grid of two cells: masks of 32 pixels from windows of 64."""


class BlindTrunk(Backbone):
    """Each value sees only its own square of pixels, so that no window sees beyond its border."""

    channels = (4, 5, 6, 7)

    def __init__(self):
        super().__init__()
        sides = [(3, 4), (4, 5), (5, 6), (6, 7)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 2, stride=2) for i, o in sides)

    def forward(self, x):
        maps = []
        for conv in self.convs:
            x = torch.tanh(conv(x))
            maps.append(x)
        return tuple(maps)


class PaddedTrunk(BlindTrunk):
    """Cell c of the map of stride s sees two by two pixels round coordinate s * c + 1."""

    cell_offset = 1

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, width, 1) for width in self.channels)

    def forward(self, x):
        maps = (F.avg_pool2d(x, 2, stride) for stride in (2, 4, 8, 16))
        return tuple(torch.tanh(conv(y)) for conv, y in zip(self.convs, maps, strict=True))


class AveragingTrunk(BlindTrunk):
    """Does not tell a picture from its mirror image either."""

    def forward(self, x):
        for conv in self.convs:
            conv.weight.data = conv.weight.data.mean((2, 3), keepdim=True).expand_as(conv.weight)
        return super().forward(x)


def spread(model, seed=0):
    """The model in float64 and eval mode, with weights that let every layer matter."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel())
            values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                parameter.copy_(values / 2)
            else:  # more above zero than below, or layers of one channel are often dead
                parameter.copy_((2 * values - 0.8) * 1.7 / fan_in**0.5)
    return model


def photos(count, height, width, seed=0):
    """Random pictures, RGB 0..255."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator).double()


def all_cells(scores):
    """Every (image, row, column) of score maps, in order."""
    return torch.cartesian_prod(*(torch.arange(side) for side in scores.shape))
