"""What a folder run has found so far, so that a run that was stopped goes on where it was."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

Span = tuple[int, int]
"""Where a line begins and ends in the file, in bytes."""


class Photo(NamedTuple):
    """A photo to work on.

    Attributes:
        path: Where it lies.
        image_id: Its id in the results.
        name: What the results call it; its path if empty.
    """

    path: Path
    image_id: int
    name: str = ""


class Journal(AbstractContextManager["Journal"]):
    """What was found so far, one line for each photo; memory holds only where the lines are.

    Args:
        path: The file; it is continued if it was written with the same settings, else begun anew.
        settings: Everything that the results depend on besides the photos.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.spans: dict[str, Span] = {}
        self._keys: dict[Photo, str] = {}
        head = json.dumps({key: str(value) for key, value in settings.items()}).encode() + b"\n"
        with suppress(FileNotFoundError):
            self._continue(path, head)
        # What a kill cut off, or another run left, is written over.
        end = max((end for _, end in self.spans.values()), default=0)
        self.file = path.open("r+b" if end else "w+b")
        self.file.truncate(end)
        self.file.seek(end)
        if not end:
            self.file.write(head)

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def _continue(self, path: Path, head: bytes) -> None:
        with path.open("rb") as file:
            if file.readline() != head:
                return
            start = len(head)
            for line in file:
                try:
                    key, _, _ = json.loads(line)
                except (TypeError, ValueError):  # cut off, or of an older form
                    return
                if not line.endswith(b"\n"):
                    return
                self.spans[str(key)] = (start, start + len(line))
                start += len(line)

    def key(self, photo: Photo) -> str:
        """Tell a photo from another one, and from itself before it was changed.

        It is looked at once: one that is moved away after it was read has been read.
        """
        if photo not in self._keys:
            state = ""
            with suppress(OSError):
                status = photo.path.stat()
                state = f" {status.st_size} {status.st_mtime_ns}"
            self._keys[photo] = f"{photo.image_id}{state} {photo.path}"
        return self._keys[photo]

    def has(self, photo: Photo) -> bool:
        """Whether the photo was done before."""
        return self.key(photo) in self.spans

    def add(
        self, photo: Photo, image_size: tuple[int, int], records: Sequence[Mapping[str, Any]]
    ) -> None:
        """Note what was found in a photo; it survives the end of this process.

        Args:
            photo: The photo.
            image_size: Its height and width, which no record says where nothing was found.
            records: COCO results.
        """
        line = json.dumps([self.key(photo), image_size, records]).encode() + b"\n"
        start = self.file.seek(0, os.SEEK_END)
        self.file.write(line)
        self.file.flush()
        self.spans[self.key(photo)] = (start, start + len(line))

    def done(self, photos: Iterable[Photo]) -> list[tuple[Photo, Span]]:
        """The photos that are done, and where what was found in each can be read."""
        return [(photo, self.spans[self.key(photo)]) for photo in photos if self.has(photo)]

    def read(self, span: Span) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        """Height and width of a photo, and its records."""
        start, end = span
        self.file.seek(start)
        _, (height, width), records = json.loads(self.file.read(end - start))
        return (height, width), records
