"""What the proposer needs of a network: the protocol that every engine implements."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from sharpmask.geometry import PatchGeometry

ScoreMaps = tuple[Float[np.ndarray, "rows columns"], ...]
"""Objectness logits of all cells, one map for each level that one reading gives."""


@runtime_checkable
class Engine(Protocol):
    """Reads an image once, scores all its cells, decodes masks for the cells that won.

    Several threads may call an engine at once.

    Attributes:
        name: What runs it: "torch", "openvino", ...
        geometry: Patch sizes.
    """

    name: str
    geometry: PatchGeometry

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[ScoreMaps, Any]:
        """Read an image, RGB, sides in whole strides.

        Returns:
            Score maps, one for each level (DeepMask and SharpMask have one), and the engine's own
            features, for ``decode``.
        """
        ...

    def decode(
        self, features: Any, level: int, cells: Int[np.ndarray, "n 2"]
    ) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (row, column) of a level."""
        ...


def answer_once(engine: Engine) -> None:
    """Let an engine read and decode one patch, for whatever its first answer sets up."""
    side = engine.geometry.patch_size
    scores, features = engine.encode(np.zeros((side, side, 3), np.uint8))
    for level in range(len(scores)):
        engine.decode(features, level, np.zeros((1, 2), np.int64))
