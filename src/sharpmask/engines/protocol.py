"""What the proposer needs of a network: the protocol that every engine implements."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from sharpmask.geometry import PatchGeometry


@runtime_checkable
class Engine(Protocol):
    """Reads an image once, scores all its cells, decodes masks for the cells that won.

    Attributes:
        name: What runs it: "torch", "openvino", ...
        geometry: Patch sizes.
    """

    name: str
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
