"""What all formats share: a photo with its masks, names of files, and the two moments to write."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sharpmask.selection import OBJECT, Segments
from sharpmask.shapes import UInt8

LABEL = "object"
"""Name of the one category."""
_NAME_BYTES = 120
"""Longest name in bytes: with what writers add it fits the narrowest file system, 143 bytes."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """A photo with the masks that were found in it.

    Attributes:
        id: Its ``image_id``.
        path: As the user gave it.
        segments: The masks.
        image: Its pixels, RGB; None when the masks were read from the journal.
    """

    id: int
    path: Path
    segments: Segments
    image: UInt8[np.ndarray, "h w 3"] | None = None


@dataclass(frozen=True, eq=False)
class Destination:
    """Where a run writes, and how it calls its files.

    Attributes:
        output: The folder for all formats.
        photos: All photos of the run, as given; each once.
        categories: Names of the categories of masks, by id.
        names: A name for each photo, the same in every run over the same photos: its own without
            the suffix, numbered where that repeats, cut where it is long.
        root: The folder that all photos lie in.
    """

    output: Path
    photos: Sequence[Path]
    categories: Mapping[int | str, str] = field(default_factory=lambda: {OBJECT: LABEL})
    names: Mapping[Path, str] = field(init=False)
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _names(self.photos))
        object.__setattr__(self, "root", _common_folder(self.photos))

    def labels(self, segments: Segments) -> list[str]:
        """The name of each mask's category."""
        return [self.categories[category] for category in segments.category_ids]

    def relative(self, photo: Path) -> str:
        """Where a photo lies under ``root``, with "/" on every system."""
        path = absolute(photo)
        return (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )


class Writer:
    """A format. ``add`` may be called by several threads, for different photos.

    A run calls ``add`` as soon as a photo's masks are there, before it notes that the photo is
    done, so that a run that was killed lacks nothing when it goes on. It calls ``finish`` once, at
    the end, with all photos that are done, also by earlier runs. Of a photo that cannot be read it
    removes ``files_of``: older ones would pass for this photo's.

    Attributes:
        place: The file or folder that the format owns below the output folder.
    """

    place: Path

    def files_of(self, photo: Path) -> Sequence[Path]:  # noqa: ARG002
        """The files and folders that ``add`` writes for a photo."""
        return ()

    def add(self, photo: Segmented) -> None:
        """Write the files of one photo."""

    def finish(self, photos: Iterable[Segmented]) -> None:
        """Write the files of the whole run; no more than one photo need be in memory."""


def absolute(path: Path) -> Path:
    """An absolute path without "..". Links are not followed: a link keeps its own name."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # `Path.resolve` follows links


def write_array(file: BinaryIO, items: Iterable[Any]) -> int:
    """Write a JSON array item by item; returns how many there are."""
    count = 0
    file.write(b"[")
    for item in items:
        file.write(b",\n" if count else b"\n")
        file.write(json.dumps(item, allow_nan=False).encode())
        count += 1
    file.write(b"\n]\n" if count else b"]\n")
    return count


def _names(photos: Sequence[Path]) -> dict[Path, str]:
    names: dict[Path, str] = {}
    taken: set[str] = set()
    stems = [_stem(photo) for photo in photos]
    # A photo that is called "a-2" keeps its name, whatever repeats before it.
    own = {stem.casefold() for stem in stems}
    for photo, stem in zip(photos, stems, strict=True):
        name, count = stem, 1
        while name.casefold() in taken or (count > 1 and name.casefold() in own):
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())  # not every file system tells "A" from "a"
        names[photo] = name
    return names


def _stem(photo: Path) -> str:
    # "." and ".." are folders; Windows drops dots and spaces at the end.
    stem = photo.stem.rstrip(". ") or "photo"
    encoded = os.fsencode(stem)
    if len(encoded) <= _NAME_BYTES:
        return stem
    return encoded[:_NAME_BYTES].decode(errors="ignore") + "-" + sha256(encoded).hexdigest()[:8]


def _common_folder(photos: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath({absolute(photo).parent for photo in photos}))
    except ValueError:  # no photos, or several drives of Windows
        return Path.cwd()
