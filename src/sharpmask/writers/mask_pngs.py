"""Masks as PNG: one indexed picture of a photo, and one black and white picture of each mask."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sharpmask.files import replacing_file, replacing_folder
from sharpmask.images import png_bytes
from sharpmask.masks import decode
from sharpmask.selection import Segments
from sharpmask.writers.writer import Destination, Segmented, Writer


class MaskWriter(Writer):
    """``masks/``: ``indexed/NAME.png``, and ``single/NAME/001.png`` and so on, the best first.

    A pixel of the indexed picture with the value k belongs to mask k, with the value 0 to none;
    where masks overlap, the best is on top. The picture has a palette, or 16 bits of grey if there
    are more than 255 masks.

    Args:
        destination: Where to write.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.place = destination.output / "masks"

    def files_of(self, photo: Path) -> Sequence[Path]:
        """The folder of single masks, and the indexed picture."""
        name = self.destination.names[photo]
        return [self.place / "single" / name, self.place / "indexed" / f"{name}.png"]

    def add(self, photo: Segmented) -> None:
        """Write the pictures of a photo; those of an earlier run go."""
        single, whole = self.files_of(photo.path)
        with replacing_folder(single) as folder:
            for number, mask in enumerate(photo.segments.masks(), start=1):
                (folder / f"{number:03}.png").write_bytes(png_bytes(mask))
        with replacing_file(whole) as file:
            file.write(png_bytes(indexed(photo.segments)))


def indexed(segments: Segments) -> Image.Image:
    """A picture of all masks: k where mask k is (from 1), the best on top.

    Raises:
        ValueError: There are more than 65535 masks.
    """
    count = len(segments)
    if count > 65535:
        raise ValueError(f"masks: 16 bits of a PNG hold 65535 masks, got {count}; keep fewer")
    index = np.zeros(segments.image_size, np.uint8 if count <= 255 else np.uint16)
    boxes = segments.boxes.astype(int).tolist()
    for number, rle in reversed(list(enumerate(segments.rles(), start=1))):
        x0, y0, x1, y1 = boxes[number - 1]
        index[y0:y1, x0:x1][decode(rle)[y0:y1, x0:x1] > 0] = number
    picture = Image.fromarray(index)
    if count <= 255:
        picture.putpalette(_palette())
    return picture


def _palette() -> bytes:
    """The 256 colours of PASCAL VOC.

    Bits 0, 1, 2 of an index are the highest of red, green, blue; bits 3, 4, 5 the next highest.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((index >> bit & 1) << 7 - bit // 3).astype(np.uint8)
    return colours.tobytes()
