"""Parquet: one row per photo, its proposals nested; for tables of many photos."""

import os
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from sharpmask.extras import extras_for
from sharpmask.files import replacing_file
from sharpmask.selection import OBJECT
from sharpmask.writers.writer import LABEL, Destination, Segmented, Writer

if TYPE_CHECKING:
    import pyarrow

_ROWS = 256
"""Photos in memory at once, and in a row group: some 50 kB each."""


class ParquetWriter(Writer):
    """``proposals.parquet``: id, path, width, height, proposals (score, bbox, area, rle).

    ``bbox`` is left, top, width, height in pixels; ``rle`` the counts of COCO's compressed RLE,
    whose size is [height, width].

    Args:
        destination: Where to write.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.place = destination.output / "proposals.parquet"
        with extras_for("parquet"):
            import pyarrow.parquet  # noqa: F401

    def finish(self, photos: Iterable[Segmented]) -> None:
        """Write the file."""
        import pyarrow as pa
        from pyarrow import parquet

        columns = schema(named=self.destination.categories != {OBJECT: LABEL})
        with (
            replacing_file(self.place) as file,
            parquet.ParquetWriter(file, columns, compression="zstd") as writer,
        ):
            rows = (row(photo, self.destination.labels(photo.segments)) for photo in photos)
            while group := list(islice(rows, _ROWS)):
                writer.write_table(pa.Table.from_pylist(group, columns))


def schema(*, named: bool = False) -> "pyarrow.Schema":
    """Columns and their types, stated so that files without proposals have them too.

    Args:
        named: Whether a proposal has a ``category``, its name.
    """
    import pyarrow as pa

    proposal = pa.struct(
        [
            pa.field("score", pa.float32(), nullable=False),
            pa.field("bbox", pa.list_(pa.float32()), nullable=False),
            pa.field("area", pa.int64(), nullable=False),
            pa.field("rle", pa.string(), nullable=False),
            *([pa.field("category", pa.string(), nullable=False)] if named else []),
        ]
    )
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("proposals", pa.list_(proposal), nullable=False),
        ]
    )


def row(photo: Segmented, labels: list[str]) -> dict[str, Any]:
    """One row of ``schema``; labels are those of the photo's segments."""
    found = photo.segments
    height, width = found.image_size
    return {
        "id": photo.id,
        # Names that are not UTF-8, which Parquet demands, keep their odd bytes as \xNN.
        "path": os.fsencode(photo.path).decode(errors="backslashreplace"),
        "width": width,
        "height": height,
        "proposals": [
            {
                "score": score,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "rle": rle["counts"],
                "category": label,
            }
            for label, rle, (x0, y0, x1, y1), area, score in zip(
                labels,
                found.rles(),
                found.boxes.tolist(),
                found.areas.tolist(),
                found.scores.tolist(),
                strict=True,
            )
        ],
    }
