"""What the proposer needs of a network: the protocol that every engine implements."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from sharpmask.pyramid_geometry import Geometry
from sharpmask.shapes import Float, Int, UInt8

ScoreMaps = tuple[Float[np.ndarray, "rows columns"], ...]
"""Objectness logits of all cells, one map for each level that one reading gives."""


@runtime_checkable
class Engine(Protocol):
    """Reads an image once, scores all its cells, decodes masks for the cells that won.

    Several threads may call an engine at once.

    Attributes:
        name: What runs it: "torch", "openvino", ...
        geometry: Sizes of windows, and where they lie.
    """

    name: str
    geometry: Geometry

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[ScoreMaps, Any]:
        """Read an image, RGB, its sides multiples of ``geometry.size_step``.

        Returns:
            Score maps, one for each level (DeepMask and SharpMask have one), and the engine's own
            features, for ``decode``.
        """
        ...

    def decode(self, features: Any, cells: Int[np.ndarray, "n 3"]) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (level, row, column)."""
        ...


@runtime_checkable
class RegionEngine(Engine, Protocol):
    """An engine whose features may also tell what regions show, for a detector.

    Attributes:
        has_region_maps: Whether they do: not those of a model without a feature pyramid, or of one
            that was exported by an earlier version.
    """

    has_region_maps: bool

    def region_maps(self, features: Any) -> tuple[Float[np.ndarray, "c rows columns"], ...]:
        """The trunk's levels, fine to coarse, at the strides of the geometry's first ones."""
        ...


def answer_once(engine: Engine) -> None:
    """Let an engine read and decode its smallest image, for whatever its first answer sets up."""
    side = engine.geometry.smallest_size
    _, features = engine.encode(np.zeros((side, side, 3), np.uint8))
    levels = np.arange(engine.geometry.num_levels)
    engine.decode(features, np.stack([levels, 0 * levels, 0 * levels], axis=1))
