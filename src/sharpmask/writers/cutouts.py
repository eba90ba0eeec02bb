"""Cut-outs: each object alone, on a transparent ground."""

import math

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from sharpmask.files import replacing_folder
from sharpmask.masks import Rle, decode, rle_boxes
from sharpmask.writers.writer import PNG_LEVEL, Destination, Photo, Writer


class CutoutWriter(Writer):
    """``cutouts/NAME/001.png`` and so on: RGBA, cropped to the mask's box, the best mask first.

    Args:
        destination: Where.
        feather: Pixels over which the edge fades; 0 is a hard edge.
    """

    def __init__(self, destination: Destination, *, feather: float = 0.0) -> None:
        self.destination = destination
        self.feather = feather
        self.place = destination.output / "cutouts"

    def add(self, photo: Photo) -> None:
        """Write the cut-outs of a photo; those of an earlier run go."""
        assert photo.image is not None
        with replacing_folder(self.place / self.destination.names[photo.path]) as folder:
            for number, rle in enumerate(photo.segments.rles(), start=1):
                picture = Image.fromarray(cut_out(photo.image, rle, self.feather))
                picture.save(folder / f"{number:03}.png", compress_level=PNG_LEVEL)


def cut_out(
    image: UInt8[np.ndarray, "h w 3"], rle: Rle, feather: float = 0.0
) -> UInt8[np.ndarray, "a b 4"]:
    """One object with its transparency, cropped to its box; colours outside the mask are black.

    Args:
        image: The photo.
        rle: The mask.
        feather: Pixels over which the edge fades, to both sides; the box grows by as many.
    """
    height, width = image.shape[:2]
    margin = math.ceil(feather)
    x0, y0, x1, y1 = rle_boxes([rle])[0].astype(int)
    crop = np.s_[
        max(0, y0 - margin) : min(height, y1 + margin),
        max(0, x0 - margin) : min(width, x1 + margin),
    ]
    alpha = np.where(decode(rle)[crop], np.uint8(255), np.uint8(0))
    if feather:
        # Beyond the photo's border the object goes on: its edge there does not fade.
        alpha = np.asarray(Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(feather / 2)))
    visible: Bool[np.ndarray, "a b 1"] = alpha[..., None] > 0
    return np.dstack([np.where(visible, image[crop], np.uint8(0)), alpha])
