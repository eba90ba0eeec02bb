"""Proposals in Parquet, of a large run or of ``propose --format parquet``, as COCO results."""

from array import array
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpmask.coco.results import Record
from sharpmask.stores import file_names, is_folder, join, locate

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("id", "path", "width", "height", "proposals")
_GROUPS = 4
"""Row groups in memory, some MB each."""


class ParquetResults:
    """Proposals in a Parquet file or a folder of them, read image by image in any order.

    Opening it reads the ids alone and keeps 24 bytes per photo.

    Attributes:
        path: Its address.
        has_masks: Always.
        has_names: Whether proposals have a ``category``, as detections do.
    """

    has_masks = True

    def __init__(self, path: str | Path) -> None:
        """Index the photos.

        Raises:
            ValueError: It is not made of such files, or two photos have the same id.
            OSError: It cannot be read.
        """
        self.path = str(path)
        self._files = [self.path]
        if is_folder(self.path):
            names = [name for name in file_names(self.path) if name.endswith(".parquet")]
            if not names:
                raise ValueError(f"{self.path}: no Parquet files in this folder")
            self._files = [join(self.path, name) for name in names]
        self.has_names = False
        ids, files, groups, rows = (array("q") for _ in range(4))
        for number, file in enumerate(self._files):
            for group, table in enumerate(self._tables(file, ["id"])):
                if table["id"].null_count:
                    raise ValueError(f"{file}: has photos without an id")
                ids.extend(table["id"].to_pylist())
                files.extend([number] * len(table))
                groups.extend([group] * len(table))
                rows.extend(range(len(table)))
        self._places = np.stack([files, groups, rows], axis=1).astype(np.int32)
        by_id = np.argsort(ids, kind="stable")
        self._order, self._ids = by_id, np.array(ids, np.int64)[by_id]
        twice = np.flatnonzero(self._ids[1:] == self._ids[:-1])
        if len(twice):
            raise ValueError(f"{self.path}: two photos have the id {self._ids[twice[0]]}")
        self._group = lru_cache(_GROUPS)(self._read_group)

    @property
    def image_ids(self) -> list[int]:
        """Ids of all photos, ascending, also of those without proposals."""
        return [int(image_id) for image_id in self._ids]

    def __len__(self) -> int:
        """Count the photos."""
        return len(self._ids)

    def __iter__(self) -> Iterator[Record]:
        """Go through the proposals of all photos in the files' order."""
        for file in self._files:
            for table in self._tables(file, _COLUMNS):
                for row in table.to_pylist():
                    yield from _records(row)

    def proposals(self, image_id: int | str) -> list[Record]:
        """Read the proposals of one photo; none if there is no such photo."""
        if isinstance(image_id, str):
            return []
        at = int(np.searchsorted(self._ids, image_id))
        if at == len(self._ids) or self._ids[at] != image_id:
            return []
        file, group, row = self._places[self._order[at]].tolist()
        return list(_records(self._group(file, group).slice(row, 1).to_pylist()[0]))

    def _read_group(self, file: int, group: int) -> "pa.Table":
        from pyarrow import parquet

        system, path = locate(self._files[file])
        with parquet.ParquetFile(path, filesystem=system) as opened:
            return opened.read_row_group(group, list(_COLUMNS))

    def _tables(self, file: str, columns: list[str] | tuple[str, ...]) -> "Iterator[pa.Table]":
        """The row groups of a file."""
        import pyarrow as pa
        from pyarrow import parquet

        system, path = locate(file)
        try:
            with parquet.ParquetFile(path, filesystem=system) as opened:
                absent = set(_COLUMNS) - set(opened.schema_arrow.names)
                if absent:
                    raise ValueError(f"it has no column {min(absent)}")
                leaves = map(opened.schema.column, range(len(opened.schema)))
                self.has_names |= any(leaf.name == "category" for leaf in leaves)
                for group in range(opened.num_row_groups):
                    yield opened.read_row_group(group, list(columns))
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{file}: expected proposals in Parquet: {error}") from None


def _records(row: dict[str, Any]) -> Iterator[Record]:
    for proposal in row["proposals"]:
        yield {
            "image_id": row["id"],
            "category_id": 1,
            "segmentation": {
                "size": [row["height"], row["width"]],
                "counts": proposal["rle"],
            },
            "bbox": proposal["bbox"],
            "score": proposal["score"],
            "file_name": row["path"],
        }
