"""The two halves of a model that engines run, and the engine that runs them in torch."""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from sharpmask.models.deepmask import Features
from sharpmask.models.pretrained import Model


class Encoder(nn.Module):
    """From an image to the scores of all cells and what masks are decoded from."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: UInt8[Tensor, "h w 3"]) -> tuple[Tensor, ...]:
        """Score logits (rows, columns), the embedding, and lateral features, coarse to fine."""
        # A permuted (h, w, 3) array already is a channels-last tensor.
        features = self.model.encode(image.permute(2, 0, 1)[None].float())
        return self.model.score(features)[0], features.embedding, *features.laterals


class Decoder(nn.Module):
    """From chosen cells and an ``Encoder``'s features to mask logits."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, cells: Int[Tensor, "n 2"], embedding: Tensor, *laterals: Tensor
    ) -> Float[Tensor, "n s s"]:
        """Mask logits of the cells (row, column)."""
        features = Features(maps=(), embedding=embedding, laterals=laterals)
        return self.model.decode(features, F.pad(cells, (1, 0)))


class TorchEngine:
    """Torch on a CPU or GPU.

    Args:
        model: A DeepMask or SharpMask; moved to the device.
        device: A torch device.
        compiled: Let ``torch.compile`` make machine code of it: needs a C++ compiler, takes a
            minute, and again for the first images of other sizes.
    """

    def __init__(self, model: Model, device: torch.device, *, compiled: bool = False) -> None:
        self.name = "compile" if compiled else "torch"
        self.geometry = model.geometry
        self.device = device
        model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encoder, self.decoder = Encoder(model), Decoder(model)
        if compiled:
            self.encoder.compile(dynamic=True)
            self.decoder.compile(dynamic=True)

    @torch.inference_mode()
    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[Tensor, ...]:
        """Scores, embedding and lateral features."""
        return cast("tuple[Tensor, ...]", self.encoder(torch.from_numpy(image).to(self.device)))

    def score(self, features: tuple[Tensor, ...]) -> Float[np.ndarray, "rows columns"]:
        """Objectness logits of all cells."""
        return to_numpy(features[0])

    @torch.inference_mode()
    def decode(
        self, features: tuple[Tensor, ...], cells: Int[np.ndarray, "n 2"]
    ) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (row, column)."""
        return to_numpy(self.decoder(torch.from_numpy(cells).to(self.device), *features[1:]))


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
