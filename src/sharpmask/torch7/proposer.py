"""Full-image inference with the arithmetic of FAIR's released code, for comparison with it."""

import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from sharpmask.engines.protocol import Engine
from sharpmask.geometry import PatchGeometry
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import Model
from sharpmask.shapes import Float, Int, UInt8


class Torch7Proposer(Proposer):
    """A proposer that repeats what FAIR's Lua code does, its lost cell included.

    Its pyramid is neither antialiased nor rounded to whole strides, each mask is decoded and pasted
    one cell up and right of the one that was scored, and windows lie at whole pixels.
    """

    def __init__(
        self,
        model: Model | Engine,
        *,
        num_proposals: int = 500,
        scales: str | Sequence[float] = "default",
        mask_threshold: float = 0.2,
        device: str = "auto",
    ) -> None:
        super().__init__(
            model,
            num_proposals=num_proposals,
            scales=scales,
            mask_threshold=mask_threshold,
            quality_exponent=0,
            suppression=1,
            clean=False,
            image_size=sys.maxsize,
            device=device,
        )

    def scale(
        self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
    ) -> Float[np.ndarray, "hp wp 3"]:
        """Bilinear with aligned corners, grey borders of exactly half a patch."""
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
        scaled = F.interpolate(pixels, size, mode="bilinear", align_corners=True)
        bordered = F.pad(scaled, (self.engine.geometry.border,) * 4, value=127.5)
        array: Float[np.ndarray, "hp wp 3"] = bordered[0].permute(1, 2, 0).contiguous().numpy()
        return array

    def select(
        self, score_maps: Sequence[Float[np.ndarray, "_ _"]], count: int
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """The best cells, moved as getTopScores does by reading a 1-based index as 0-based."""
        numbers, cells, scores = super().select(score_maps, count)
        columns = np.array([scores.shape[1] for scores in score_maps])[numbers]
        row, column = np.divmod(cells[:, 0] * columns + cells[:, 1] + 1, columns)
        return numbers, np.stack([np.maximum(row - 1, 0), column], axis=1), scores

    def windows(
        self, cells: Int[np.ndarray, "n 3"], image_size: tuple[int, int], size: tuple[int, int]
    ) -> Float[np.ndarray, "n 4"]:
        """Whole pixels, rounded down."""
        geometry = self.engine.geometry
        assert isinstance(geometry, PatchGeometry)
        scale = size[0] / image_size[0]
        start = np.floor((cells[:, :0:-1] * geometry.stride - geometry.border) / scale)
        return np.concatenate([start, start + np.floor(geometry.patch_size / scale)], axis=1)
