"""Cut-outs: each object alone, on a transparent ground."""

from collections.abc import Sequence
from pathlib import Path

from sharpmask.drawing import cut_out
from sharpmask.files import replacing_folder
from sharpmask.images import png_bytes
from sharpmask.writers.writer import Destination, Segmented, Writer


class CutoutWriter(Writer):
    """``cutouts/NAME/001.png`` and so on: RGBA, cropped to the mask's box, the best mask first.

    Args:
        destination: Where to write.
        feather: Pixels over which the edge fades; 0 is a hard edge.
    """

    def __init__(self, destination: Destination, *, feather: float = 0.0) -> None:
        self.destination = destination
        self.feather = feather
        self.place = destination.output / "cutouts"

    def files_of(self, photo: Path) -> Sequence[Path]:
        """A folder."""
        return [self.place / self.destination.names[photo]]

    def add(self, photo: Segmented) -> None:
        """Write the cut-outs of a photo; those of an earlier run go."""
        assert photo.image is not None
        (place,) = self.files_of(photo.path)
        with replacing_folder(place) as folder:
            for number, rle in enumerate(photo.segments.rles(), start=1):
                picture = cut_out(photo.image, rle, self.feather)
                (folder / f"{number:03}.png").write_bytes(png_bytes(picture))
