"""Label Studio: tasks with predictions, and the labelling interface that shows them."""

from collections.abc import Iterable
from os import fsencode
from typing import Any
from urllib.parse import quote

import numpy as np

from sharpmask.defaults import VERSION
from sharpmask.files import replacing_file
from sharpmask.masks import Rle, decode
from sharpmask.polygons import polygons
from sharpmask.shapes import Bool
from sharpmask.writers.writer import Destination, Segmented, Writer, write_array

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of a storage "Local files"."""
_RUN_BITS = (5, 9, 12, 16)
"""In how many bits the length of a run may be written."""
_CHANNELS = 4  # of a brush's picture: red, green, blue, alpha

_CONFIG = """\
<View>
  <Image name="image" value="$image" zoom="true"/>
  <{kind}Labels name="object" toName="image">
{labels}
  </{kind}Labels>
</View>
"""


class LabelStudioWriter(Writer):
    """``labelstudio/``: ``tasks.json`` to import, ``config.xml`` as the labelling interface.

    Each mask is a region with its score; a prediction's score is the mean of them. A brush keeps
    every pixel; a polygon is the largest piece with its holes filled, and can be edited by points.

    Args:
        destination: Where to write.
        polygons: Write polygons instead of brush masks.
        address: Stands in the tasks before each photo's path, which is relative to the folder that
            all photos lie in: Label Studio's address of a local storage, or that of a web server.
    """

    def __init__(
        self, destination: Destination, *, polygons: bool = False, address: str = LOCAL_FILES
    ) -> None:
        self.destination = destination
        self.polygons = polygons
        self.address = address
        self.place = destination.output / "labelstudio"

    def finish(self, photos: Iterable[Segmented]) -> None:
        """Write both files."""
        from xml.sax.saxutils import quoteattr  # slow to import: it brings a web client

        kind = "Polygon" if self.polygons else "Brush"
        with replacing_file(self.place / "config.xml") as file:
            names = map(quoteattr, self.destination.categories.values())
            labels = "\n".join(f"    <Label value={name}/>" for name in names)
            file.write(_CONFIG.format(kind=kind, labels=labels).encode())
        with replacing_file(self.place / "tasks.json") as file:
            write_array(file, map(self._task, photos))

    def _task(self, photo: Segmented) -> dict[str, Any]:
        height, width = photo.segments.image_size
        kind = "polygonlabels" if self.polygons else "brushlabels"
        value_of = polygon_value if self.polygons else brush_value
        scores = photo.segments.scores.tolist()
        labels = self.destination.labels(photo.segments)
        result = [
            {
                "id": f"{photo.id}-{number}",
                "from_name": "object",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": score,
                "type": kind,
                "value": {**value_of(rle), kind: [label]},
            }
            for number, (rle, score, label) in enumerate(
                zip(photo.segments.rles(), scores, labels, strict=True), start=1
            )
        ]
        address = self.address + quote(fsencode(self.destination.relative(photo.path)))
        prediction = {
            "model_version": f"sharpmask {VERSION}",
            "score": float(np.mean(scores)) if scores else 0.0,
            "result": result,
        }
        return {"data": {"image": address}, "predictions": [prediction]}


def brush_value(rle: Rle) -> dict[str, Any]:
    """What a brush region holds of a mask."""
    return {"format": "rle", "rle": brush_rle(decode(rle).astype(bool))}


def polygon_value(rle: Rle) -> dict[str, Any]:
    """What a polygon region holds of a mask: its largest piece, in percent of the photo's sides."""
    height, width = rle["size"]
    percent = polygons(rle)[0] * (100 / width, 100 / height)
    return {"points": percent.tolist(), "closed": True}


def brush_rle(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """A mask in Label Studio's run lengths: a stream of bits, as bytes.

    The stream holds a picture of four channels, 255 where the mask is. It begins with the count of
    values (32 bits), the bits of a value (5 bits) and the four ``_RUN_BITS`` (4 bits each), the
    last two kinds less one. Each run is a bit of 1, the index of its ``_RUN_BITS`` (2 bits), its
    length less one in that many bits, and its value (8 bits).
    """
    values = mask.ravel()
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], edges])
    lengths = _CHANNELS * np.diff(np.concatenate([starts, [values.size]]))
    filled = values[starts]
    # A run that is longer than its field can say becomes several.
    longest = 2 ** _RUN_BITS[-1]
    parts = -(-lengths // longest)
    last = np.cumsum(parts) - 1
    runs = np.full(parts.sum(), longest)
    runs[last] = lengths - (parts - 1) * longest
    filled = np.repeat(filled, parts)
    size = np.searchsorted(2 ** np.array(_RUN_BITS), runs)
    bits = np.array(_RUN_BITS)[size]
    words = (4 + size << bits | runs - 1) << 8 | np.where(filled, 255, 0)
    head = [(values.size * _CHANNELS, 32), (8 - 1, 5), *((each - 1, 4) for each in _RUN_BITS)]
    words = np.concatenate([[word for word, _ in head], words])
    sizes = np.concatenate([[length for _, length in head], 1 + 2 + bits + 8])
    table = np.unpackbits(words.astype(">u4").view(np.uint8)).reshape(-1, 32)
    return list(np.packbits(table[np.arange(32) >= 32 - sizes[:, None]]).tobytes())
