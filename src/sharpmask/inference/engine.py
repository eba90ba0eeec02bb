"""What the proposer needs of a network, and the plain torch implementation of it."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from sharpmask.geometry import PatchGeometry
from sharpmask.models.deepmask import Features
from sharpmask.models.weights import Model


@runtime_checkable
class Engine(Protocol):
    """Reads an image once, scores all its cells, decodes masks for the cells that won."""

    geometry: PatchGeometry

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """Everything that does not depend on a cell."""
        ...

    def score(self, features: Any) -> Float[np.ndarray, "rows columns"]:
        """Objectness logits of all cells."""
        ...

    def decode(self, features: Any, cells: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (row, column)."""
        ...


class TorchEngine:
    """Eager torch on a CPU or GPU.

    Args:
        model: A DeepMask or SharpMask; moved to the device.
        device: A torch device.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.geometry = model.geometry
        self.device = device
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Features:
        """Bottom-up pass, the head's shared part and the lateral features."""
        # A permuted (h, w, 3) array already is a channels-last tensor.
        return self.model.encode(torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None])  # type: ignore[no-any-return]

    @torch.inference_mode()
    def score(self, features: Features) -> Float[np.ndarray, "rows columns"]:
        """Objectness logits of all cells."""
        scores: Float[np.ndarray, "rows columns"] = (
            self.model.score(features)[0].float().cpu().numpy()
        )
        return scores

    @torch.inference_mode()
    def decode(
        self, features: Features, cells: Int[np.ndarray, "n 2"]
    ) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (row, column)."""
        indices = torch.from_numpy(np.pad(cells, ((0, 0), (1, 0)))).to(self.device)
        logits: Float[np.ndarray, "n s s"] = (
            self.model.decode(features, indices).float().cpu().numpy()
        )
        return logits


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
