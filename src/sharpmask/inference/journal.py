"""What a folder run has found so far, so that a run that was stopped goes on where it was."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sharpmask.files import replacing_file


class Photo(NamedTuple):
    """A photo to work on.

    Attributes:
        path: Where it lies.
        image_id: Its id in the results.
    """

    path: Path
    image_id: int


class Journal(AbstractContextManager["Journal"]):
    """What was found so far, one line for each photo; memory holds only where the lines are.

    Args:
        path: The file; it is continued if it was written with the same settings, else begun anew.
        settings: Everything that the results depend on besides the photos.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.spans: dict[str, tuple[int, int]] = {}
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
                    key, _ = json.loads(line)
                except ValueError:
                    return
                if not line.endswith(b"\n"):
                    return
                self.spans[key] = (start, start + len(line))
                start += len(line)

    @staticmethod
    def key(photo: Photo) -> str:
        """Tell a photo from another one, and from itself before it was changed."""
        path, image_id = photo
        try:
            status = path.stat()
        except OSError:
            return f"{image_id} {path}"
        return f"{image_id} {status.st_size} {status.st_mtime_ns} {path}"

    def has(self, photo: Photo) -> bool:
        """Whether the photo was done before."""
        return self.key(photo) in self.spans

    def add(self, photo: Photo, records: Sequence[Mapping[str, Any]]) -> None:
        """Note what was found in a photo; it survives the end of this process."""
        line = json.dumps([self.key(photo), records]).encode() + b"\n"
        start = self.file.seek(0, os.SEEK_END)
        self.file.write(line)
        self.file.flush()
        self.spans[self.key(photo)] = (start, start + len(line))

    def write(self, file: Path, photos: Sequence[Photo]) -> tuple[int, int]:
        """Write the records of all photos that are done to a JSON file, whole or not at all.

        Returns:
            How many photos and how many records; without photos nothing is written.
        """
        done = [self.spans[self.key(photo)] for photo in photos if self.has(photo)]
        count = 0
        if done:
            with replacing_file(file) as output:
                output.write(b"[")
                for start, end in done:
                    self.file.seek(start)
                    _, records = json.loads(self.file.read(end - start))
                    for record in records:
                        output.write(b", " if count else b"")
                        output.write(json.dumps(record).encode())
                        count += 1
                output.write(b"]")
        return len(done), count
