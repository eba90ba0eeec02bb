"""A piece of a photo, and the objects in it: what a scene of all levels is made from."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from sharpmask.data.patches import mask_image
from sharpmask.masks import Rle
from sharpmask.shapes import Float, UInt8

VISIBLE = 0.5
"""An object covered beyond this share is ignored: neither positive nor negative."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a photo, resized and perhaps mirrored: the top left of a scene.

    Attributes:
        box: In the photo, xyxy.
        size: Width and height in the scene.
        flip: Whether it is mirrored.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool

    def resample(self, image: Image.Image) -> Image.Image:
        """The piece of a photo or of a mask of it."""
        piece = image.resize(self.size, Image.Resampling.BILINEAR, box=self.box)
        return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else piece

    def boxes(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Boxes (xyxy) of the photo in the frame of the scene; they may leave it."""
        left, top, right, bottom = self.box
        scale = np.array([self.size[0] / (right - left), self.size[1] / (bottom - top)])
        moved: Float[np.ndarray, "n 4"] = (boxes - [left, top, left, top]) * np.tile(scale, 2)
        if self.flip:
            moved[:, [0, 2]] = self.size[0] - moved[:, [2, 0]]
        return moved


class SceneObject:
    """An object in a scene: its box there, and its mask when it is needed.

    Attributes:
        box: Of the part inside the scene, xyxy.
        learned: Whether cells near it are objects; else they are neither object nor background.
    """

    def __init__(
        self,
        box: Float[np.ndarray, "4"],
        *,
        learned: bool,
        rle: Rle | None = None,
        mask: UInt8[np.ndarray, "h w"] | None = None,
    ) -> None:
        self.box = box
        self.learned = learned
        self._rle, self._mask = rle, mask

    def mask(self, piece: Piece, side: int) -> UInt8[np.ndarray, "side side"]:
        """The share of each pixel that its visible part covers, times 255."""
        if self._mask is None:
            assert self._rle is not None
            shape = piece.resample(mask_image(self._rle))
            self._mask = np.zeros((side, side), np.uint8)
            self._mask[: shape.height, : shape.width] = np.asarray(shape)
        return self._mask

    def cover(self, cover: UInt8[np.ndarray, "side side"], piece: Piece) -> None:
        """Something is pasted over it."""
        whole = self.mask(piece, len(cover))
        self._mask = np.minimum(whole, 255 - cover)
        self.learned = bool(self._mask.sum(dtype=float) >= VISIBLE * whole.sum(dtype=float))
