"""The two files an evaluation reads: COCO ground truth, and COCO results of any size."""

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from sharpmask.coco.annotations import CocoImage

Record = Mapping[str, Any]
"""One entry of a COCO file, as parsed from JSON."""

_CHUNK_BYTES = 1 << 24
_KEPT_RECORDS = 500_000
"""So many records of a results file stay parsed, about a kilobyte each; others are read again."""
_LIST_START = re.compile(r"(?:\xef\xbb\xbf)?\s*\[")
_SEPARATOR = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class GroundTruth:
    """The images of an annotation file and their objects.

    Attributes:
        path: The file.
        images: Image entries (``id``, ``height``, ``width``, ...) in the file's order.
        annotations: Annotation entries of each image id, crowd regions included; empty if none.
        categories: Category entries, not checked: recall asks for none.
    """

    path: Path
    images: tuple[Record, ...]
    annotations: Mapping[int, tuple[Record, ...]]
    categories: tuple[Any, ...] = ()


def load_ground_truth(path: Path) -> GroundTruth:
    """Read an annotation file in COCO's instance format, every object of it.

    Raises:
        ValueError: The file is not such a file, or an annotation belongs to no image.
    """
    truth, faults = examine_ground_truth(path)
    for record, problem in faults:
        raise ValueError(f"{path}: {f'{record} {problem}'.strip()}")
    return truth


def examine_ground_truth(path: Path) -> tuple[GroundTruth, list[tuple[str, str]]]:
    """As ``load_ground_truth``, and every record that is wrong with its problem, not an error."""
    nothing = GroundTruth(path, (), {})
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return nothing, [("", f"not a JSON file: {error}")]
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            problem = (
                "expected a COCO annotation file, an object with the lists 'images' and "
                f"'annotations'; {key!r} is missing. A list of results belongs to --proposals"
            )
            return nothing, [("", problem)]
    faults: list[tuple[str, str]] = []
    images: list[Record] = []
    annotations: dict[int, list[Record]] = {}
    for index, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not all(
            is_integer(image.get(key)) for key in ("id", "height", "width")
        ):
            faults.append((f"images[{index}]", "needs integers id, height and width"))
        elif image["id"] in annotations:
            faults.append((f"images[{index}]", f"repeats the id {image['id']}"))
        else:
            images.append(image)
            annotations[image["id"]] = []
    for index, annotation in enumerate(content["annotations"]):
        owner = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not is_integer(owner) or owner not in annotations:
            faults.append((f"annotations[{index}]", "has an image_id that no image has"))
        else:
            annotations[owner].append(annotation)
    grouped = {image_id: tuple(records) for image_id, records in annotations.items()}
    categories = content.get("categories")
    listed = tuple(categories) if isinstance(categories, list) else ()
    return GroundTruth(path, tuple(images), grouped, listed), faults


def examine_photos(
    images: Sequence[Record], folder: Path
) -> tuple[list[CocoImage], list[tuple[str, str]]]:
    """Find the images' photos, to be read as training reads them, and list those without one."""
    photos: list[CocoImage] = []
    faults: list[tuple[str, str]] = []
    for image in images:
        if "file_name" in image:
            path, size = folder / str(image["file_name"]), (image["height"], image["width"])
            photos.append(CocoImage(image["id"], path, size, True, (), ()))
        else:
            faults.append((f"image {image['id']}", "has no file_name, so no model can see it"))
    return photos, faults


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
            ValueError: It is no JSON list of objects that have an integer ``image_id``.
        """
        self.path = path
        self.has_masks = False
        self._kept: list[Record] = []
        ids, starts, ends = array("q"), array("q"), array("q")
        for record, start, end in self._scan():
            index = len(ids)
            if not isinstance(record, dict) or not is_integer(record.get("image_id")):
                raise ValueError(
                    f"{path}: record {index} needs an integer image_id, got {str(record)[:80]}"
                )
            self.has_masks |= bool(record.get("segmentation"))
            if index < _KEPT_RECORDS:
                self._kept.append(record)
            ids.append(record["image_id"])
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

    def proposals(self, image_id: int) -> list[Record]:
        """Read the records of one image in the file's order; none if the file does not name it."""
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


def is_integer(value: object) -> TypeGuard[int]:
    """Tell whether a JSON value is an integer that fits 64 bits."""
    return type(value) is int and abs(value) < 2**63
