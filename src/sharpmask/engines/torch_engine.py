"""The two halves of a model that engines run, and the engine that runs them in torch."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.engines.protocol import ScoreMaps, answer_once
from sharpmask.engines.threads import starting
from sharpmask.models import deepmask
from sharpmask.models.pretrained import Model
from sharpmask.models.pyramid import PyramidFeatures, SharpMaskPyramid
from sharpmask.pyramid_geometry import Geometry
from sharpmask.shapes import Float, Int, UInt8


class Features(NamedTuple):
    """What an image was read as.

    Attributes:
        masks: What masks are decoded from.
        regions: What a detector reads.
    """

    masks: Sequence[Tensor]
    regions: Sequence[Tensor]


class Encoder(nn.Module):
    """From an image to the scores of all cells and what masks are decoded from."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.num_region_maps = (
            len(model.backbone.level_channels) if isinstance(model, SharpMaskPyramid) else 0
        )

    def forward(self, image: UInt8[Tensor, "h w 3"]) -> tuple[Tensor, ...]:
        """Score logits of each level, all maps that masks are made of, those for detectors."""
        # A permuted (h, w, 3) array already is a channels-last tensor.
        images = image.permute(2, 0, 1)[None].float()
        model = self.model
        if isinstance(model, SharpMaskPyramid):
            pyramid = model.encode(images)
            return *(s[0] for s in model.score(pyramid)), *pyramid.maps, *pyramid.levels
        features = model.encode(images)
        return model.score(features)[0], features.embedding, *features.laterals


class Decoder(nn.Module):
    """From chosen cells and an ``Encoder``'s feature maps to mask logits."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, cells: Int[Tensor, "n 3"], *maps: Tensor) -> Float[Tensor, "n s s"]:
        """Mask logits of the cells (level, row, column)."""
        model = self.model
        if isinstance(model, SharpMaskPyramid):
            return model.decode(PyramidFeatures.of(maps), F.pad(cells, (1, 0)))
        # The only level's number is 0, as is the only image's.
        return model.decode(deepmask.Features((), maps[0], tuple(maps[1:])), cells)


class TorchEngine:
    """Torch on a CPU or GPU; threads may share it.

    Args:
        model: Any of the package's. The engine runs a copy in eval mode: the model itself stays
            as it is, and what is done to it later does not reach the engine.
        device: A torch device.
        compiled: Let ``torch.compile`` make machine code of it: needs a C++ compiler, takes a
            minute, and again for the first images of other sizes.
    """

    def __init__(self, model: Model, device: torch.device, *, compiled: bool = False) -> None:
        self.name = "compile" if compiled else "torch"
        self.geometry: Geometry = model.geometry
        self.device = device
        own = copy.deepcopy(model).eval()
        own.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encoder, self.decoder = Encoder(own), Decoder(own)
        self.has_region_maps = self.encoder.num_region_maps > 0
        with starting:
            # All that torch's binding sets up with Python's lock held: its way to numpy.
            to_numpy(torch.from_numpy(np.zeros(1, np.float32)))
            if compiled:
                self.encoder.compile(dynamic=True)
                self.decoder.compile(dynamic=True)
                answer_once(self)

    @torch.inference_mode()
    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[ScoreMaps, Features]:
        """Score logits of all cells of each level, and features."""
        outputs = self.encoder(torch.from_numpy(image).to(self.device))
        levels = self.geometry.num_levels
        last = len(outputs) - self.encoder.num_region_maps
        return (
            tuple(map(to_numpy, outputs[:levels])),
            Features(outputs[levels:last], outputs[last:]),
        )

    @torch.inference_mode()
    def decode(
        self, features: Features, cells: Int[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (level, row, column)."""
        return to_numpy(self.decoder(torch.from_numpy(cells).to(self.device), *features.masks))

    def region_maps(self, features: Features) -> tuple[Float[np.ndarray, "c rows columns"], ...]:
        """The trunk's levels, for a detector."""
        return tuple(to_numpy(level[0]) for level in features.regions)


def to_numpy(x: Tensor) -> np.ndarray:
    """A tensor as a float32 array."""
    return x.float().cpu().numpy()


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" is the GPU where there is one.

    Raises:
        ValueError: Unknown name, or CUDA asked for but absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but torch sees no GPU here; use --device cpu")
    return device
