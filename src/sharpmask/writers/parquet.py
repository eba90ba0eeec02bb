"""Parquet: one row per photo, its proposals nested; for tables of many photos."""

import os
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from sharpmask.files import replacing_file
from sharpmask.writers.writer import Destination, Segmented, Writer

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
        ValueError: pyarrow is not installed.
    """

    def __init__(self, destination: Destination) -> None:
        self.place = destination.output / "proposals.parquet"
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ValueError(f"parquet: {error}; pip install 'sharpmask[parquet]'") from None

    def finish(self, photos: Iterable[Segmented]) -> None:
        """Write the file."""
        import pyarrow as pa
        from pyarrow import parquet

        with (
            replacing_file(self.place) as file,
            parquet.ParquetWriter(file, schema(), compression="zstd") as writer,
        ):
            rows = map(row, photos)
            while group := list(islice(rows, _ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema()))


def schema() -> "pyarrow.Schema":
    """Columns and their types, stated so that files without proposals have them too."""
    import pyarrow as pa

    proposal = pa.struct(
        [
            pa.field("score", pa.float32(), nullable=False),
            pa.field("bbox", pa.list_(pa.float32()), nullable=False),
            pa.field("area", pa.int64(), nullable=False),
            pa.field("rle", pa.string(), nullable=False),
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


def row(photo: Segmented) -> dict[str, Any]:
    """One row of ``schema``."""
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
            }
            for rle, (x0, y0, x1, y1), area, score in zip(
                found.rles(),
                found.boxes.tolist(),
                found.areas.tolist(),
                found.scores.tolist(),
                strict=True,
            )
        ],
    }
