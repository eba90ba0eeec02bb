"""What ``propose`` and ``detect`` share: many photos in, one COCO results file out."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import typer
from jaxtyping import UInt8
from rich.progress import track

from sharpmask.cli.console import complain, err, out
from sharpmask.engines.protocol import Engine
from sharpmask.images import ImageError, write_image
from sharpmask.inference.batch import map_ordered
from sharpmask.models.sources import resolve


def write_records(
    paths: Sequence[Path],
    found_in: Callable[[tuple[Path, int]], list[dict[str, Any]]],
    file: Path,
    *,
    settings: Mapping[str, Any],
    streams: int,
) -> None:
    """Write the records found in all photos that can be read; those of the others are reported.

    A run that was stopped, or killed, goes on where it was when it is started again with the same
    settings; memory does not grow with the number of photos.

    Args:
        paths: The photos.
        found_in: COCO results of a photo, given as its path and id; may be called by threads.
        file: The file to write, named after what it holds.
        settings: All that the results depend on besides the photos.
        streams: Photos worked on at once.

    Raises:
        typer.Exit: Status 1 if some of several photos could not be read, 2 if the only one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    photos = list(zip(paths, image_ids(paths), strict=True))
    failed = 0
    with Journal(file.with_name(f".{file.name}.journal"), settings) as journal:
        left = [photo for photo in photos if not journal.has(photo)]
        if len(left) < len(photos):
            complain(f"{len(photos) - len(left)} of {len(photos)} photos were done before")
        try:
            for photo, found in track(
                zip(left, map_ordered(found_in, left, streams), strict=True),
                f"{len(paths)} photos",
                total=len(left),
                console=err,
                disable=len(paths) == 1 or not err.is_terminal,
            ):
                try:
                    journal.add(photo, found.result())
                except ImageError as error:
                    complain(error)
                    failed += 1
        except BaseException:
            with suppress(OSError):  # a full disk, perhaps: what stopped the run is the news
                journal.write(file, photos)
            raise
        done, count = journal.write(file, photos)
    journal.path.unlink()
    if failed == len(paths) == 1:
        raise typer.Exit(2)
    if done:
        out.print(f"{count} {file.stem} for {done} of {len(paths)} photos in {file}", markup=False)
    if failed:
        complain(f"{failed} of {len(paths)} photos could not be read")
        raise typer.Exit(1)


class Found(Protocol):
    """What a command finds in a photo: proposals or detections."""

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results."""
        ...


Kind = TypeVar("Kind", bound=Found)


def records_by(
    find: Callable[[Path], Kind],
    draw: Callable[[Kind], UInt8[np.ndarray, "h w 3"]],
    pictures: Mapping[Path, Path],
) -> Callable[[tuple[Path, int]], list[dict[str, Any]]]:
    """What ``write_records`` asks of each photo; the photo's picture, if it has one, is drawn too.

    Args:
        find: What looks at a photo.
        draw: A picture of what was found.
        pictures: Where the pictures go.
    """

    def found_in(photo: tuple[Path, int]) -> list[dict[str, Any]]:
        path, image_id = photo
        found = find(path)
        if path in pictures:
            write_image(pictures[path], draw(found))
        return [{**record, "file_name": str(path)} for record in found.to_coco(image_id)]

    return found_in


class Journal(AbstractContextManager["Journal"]):
    """What was found so far, a line for each photo, for a run that is stopped half-way.

    Args:
        path: The file; taken up if it is of the same settings, else begun anew.
        settings: All that the results depend on besides the photos.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.spans: dict[str, tuple[int, int]] = {}
        head = json.dumps({key: str(value) for key, value in settings.items()}).encode() + b"\n"
        with suppress(FileNotFoundError):
            self._take_up(path, head)
        # What a kill cut off, or another run left, is written over.
        end = max((end for _, end in self.spans.values()), default=0)
        self.file = path.open("r+b" if end else "w+b")
        self.file.truncate(end)
        self.file.seek(end)
        if not end:
            self.file.write(head)

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def _take_up(self, path: Path, head: bytes) -> None:
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
    def key(photo: tuple[Path, int]) -> str:
        """What tells a photo from another, or from itself before it was changed."""
        path, image_id = photo
        try:
            status = path.stat()
        except OSError:
            return f"{image_id} {path}"
        return f"{image_id} {status.st_size} {status.st_mtime_ns} {path}"

    def has(self, photo: tuple[Path, int]) -> bool:
        """Whether the photo was done before."""
        return self.key(photo) in self.spans

    def add(self, photo: tuple[Path, int], records: Sequence[Mapping[str, Any]]) -> None:
        """Note what was found in a photo; it survives the end of this process."""
        line = json.dumps([self.key(photo), records]).encode() + b"\n"
        start = self.file.seek(0, os.SEEK_END)
        self.file.write(line)
        self.file.flush()
        self.spans[self.key(photo)] = (start, start + len(line))

    def write(self, file: Path, photos: Sequence[tuple[Path, int]]) -> tuple[int, int]:
        """Write the records of all photos that are done to a JSON file, whole or not at all.

        Returns:
            The number of photos and of records; without photos nothing is written.
        """
        done = [self.spans[self.key(photo)] for photo in photos if self.has(photo)]
        count = 0
        if done:
            temporary = file.with_name(f".{file.name}.part")
            with temporary.open("w", encoding="utf-8") as output:
                output.write("[")
                for start, end in done:
                    self.file.seek(start)
                    _, records = json.loads(self.file.read(end - start))
                    for record in records:
                        output.write((", " if count else "") + json.dumps(record))
                        count += 1
                output.write("]")
            temporary.replace(file)
        return len(done), count


def settings_of(context: typer.Context, engine: Engine, *sources: str) -> dict[str, Any]:
    """What the results of a command depend on besides the photos: its options, and model files.

    The engine is the one that was chosen: "auto" may be another one next time.
    """
    options = {key: value for key, value in context.params.items() if key != "images"}
    options["engine"] = engine.name
    for source in sources:
        path = Path(source) if Path(source).is_dir() else resolve(source)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        options[f"files of {source}"] = states
    return options | {"version": version("sharpmask")}


def image_ids(paths: Sequence[Path]) -> list[int]:
    """The file names where all are distinct numbers, as in COCO; else positions from 1."""
    if all(path.stem.isdecimal() for path in paths):
        numbers = [int(path.stem) for path in paths]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))


def overlay_paths(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """A picture for each photo: overlay.png for one, else by name, numbered where names repeat.

    Their folder is made.
    """
    if len(paths) == 1:
        output.mkdir(parents=True, exist_ok=True)
        return {paths[0]: output / "overlay.png"}
    (output / "overlays").mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    pictures: dict[Path, Path] = {}
    for path in paths:
        seen[path.name] += 1
        number = f"-{seen[path.name]}" if seen[path.name] > 1 else ""
        pictures[path] = output / "overlays" / f"{path.name}{number}.png"
    return pictures


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is either whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
