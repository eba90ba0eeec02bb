"""COCO results files of any size, read image by image."""

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from sharpmask.coco.numbers import GZIP, PACKED, integer, shown

Record = Mapping[str, Any]
"""One entry of a results file, as parsed from JSON; only its ``image_id`` is known to be sound."""

_CHUNK_BYTES = 1 << 24
_KEPT_RECORDS = 500_000
"""So many records of a results file stay parsed, about a kilobyte each; others are read again."""
_LIST_START = re.compile(r"(?:\xef\xbb\xbf)?\s*\[")
_SEPARATOR = re.compile(r"[\s,]*")


class ResultsFile:
    """A COCO results file, read image by image; its records may lie in any order.

    Opening it goes through the file once and keeps 24 bytes per record, and the first half million
    records as they are: five million proposals need less than a GB, not the many GB of all.

    Attributes:
        path: The file.
        has_masks: Whether a record has a ``segmentation``; if none has, only boxes can be scored.
    """

    def __init__(self, path: Path) -> None:
        """Index the file.

        Raises:
            ValueError: It is not a JSON list of objects with an integer ``image_id``.
        """
        self.path = path
        self.has_masks = False
        self._kept: list[Record] = []
        ids, starts, ends = array("q"), array("q"), array("q")
        for record, start, end in self._scan():
            index = len(ids)
            try:
                image_id = integer(record["image_id"])
            except (KeyError, TypeError, IndexError):
                raise ValueError(
                    f"{path}: record {index} needs an integer image_id, got {shown(record)}"
                ) from None
            except ValueError as error:
                raise ValueError(f"{path}: record {index}: image_id {error}") from None
            self.has_masks |= bool(record.get("segmentation"))
            if index < _KEPT_RECORDS:
                self._kept.append(record)
            ids.append(image_id)
            starts.append(start)
            ends.append(end)
        image_ids = np.array(ids, np.int64)
        self._order = np.argsort(image_ids, kind="stable")
        self._ids, self._firsts = np.unique(image_ids[self._order], return_index=True)
        self._spans = np.stack([starts, ends], axis=1, dtype=np.int64)

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images that have proposals, ascending."""
        return [int(image_id) for image_id in self._ids]

    def __len__(self) -> int:
        """Count the records."""
        return len(self._spans)

    def __iter__(self) -> Iterator[Record]:
        """Go through the records in the file's order."""
        yield from self._kept
        if len(self._kept) < len(self):
            yield from (record for record, _, _ in islice(self._scan(), len(self._kept), None))

    def proposals(self, image_id: int | str) -> list[Record]:
        """Read the records of one image in the file's order; none if the file does not name it."""
        if isinstance(image_id, str):
            return []
        at = int(np.searchsorted(self._ids, image_id))
        if at == len(self._ids) or self._ids[at] != image_id:
            return []
        last = self._firsts[at + 1] if at + 1 < len(self._ids) else len(self._spans)
        order = self._order[self._firsts[at] : last]
        kept = [self._kept[index] for index in order[order < len(self._kept)].tolist()]
        spans = self._spans[order[order >= len(self._kept)]].tolist()
        if not spans:
            return kept
        with self.path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            text = b",".join(content[start:end] for start, end in spans)
        records: list[Record] = json.loads(b"[%b]" % text)
        return kept + records

    def _scan(self) -> Iterator[tuple[Any, int, int]]:
        """Yield every record with the bytes it starts and ends at."""
        parse = json.JSONDecoder().raw_decode
        with self.path.open("rb") as file:
            # Latin-1 maps bytes to characters one to one, so places in the text are bytes.
            text = file.read(_CHUNK_BYTES).decode("latin-1")
            opening = _LIST_START.match(text)
            if text.startswith(GZIP.decode("latin-1")):
                raise ValueError(f"{self.path}: {PACKED}")
            if text.startswith("PAR1"):
                raise ValueError(
                    f"{self.path}: it is a Parquet file: of proposals its name must end in "
                    ".parquet, of detections give the detections.json beside it"
                )
            if opening is None:
                raise ValueError(
                    f"{self.path}: expected a COCO results file, a JSON list of records, but it "
                    f"starts with {text[:20]!r}. An annotation file belongs to --annotations"
                )
            offset, at = 0, opening.end()
            while True:
                at = _SEPARATOR.match(text, at).end()  # type: ignore[union-attr]  # matches ""
                if text.startswith("]", at):
                    return
                try:
                    record, end = parse(text, at)
                    if not text[at:end].isascii():
                        record = json.loads(text[at:end].encode("latin-1"))
                except (ValueError, RecursionError):
                    # The record may go on in the next chunk, but none is longer than a chunk.
                    chunk = file.read(_CHUNK_BYTES)
                    if not chunk or len(text) - at > _CHUNK_BYTES:
                        raise ValueError(
                            f"{self.path}: broken JSON at byte {offset + at}; is a record longer "
                            f"than {_CHUNK_BYTES} bytes, or the file cut off?"
                        ) from None
                    text, offset, at = text[at:] + chunk.decode("latin-1"), offset + at, 0
                    continue
                yield record, offset + at, offset + end
                at = end
