"""Many photos: some at the same time, each for itself, all records in one file."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np

from sharpmask.coco.reader import read_image_ids
from sharpmask.coco.records import spellings
from sharpmask.engines.threads import cores, shared_by
from sharpmask.files import owned, remove, replacing_file
from sharpmask.images import ImageError, write_image
from sharpmask.inference.journal import Journal, Photo, Span
from sharpmask.inference.picture_names import overlay_paths, refuse_photos
from sharpmask.selection import Segments
from sharpmask.shapes import UInt8
from sharpmask.writers.writer import Segmented, Writer, write_array

MAX_STREAMS = 4
"""Each holds the features of a photo, some hundred MB."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[..., Iterable[Any]]
"""Passes items on and shows how many are done: see ``unshown`` for what it is given."""
Report = Callable[[str], object]
"""Is told of a problem, or of what a user should know, in one line."""


def unshown(items: Iterable[Item], total: int, what: str = "photos") -> Iterable[Item]:  # noqa: ARG001
    """Pass items on and show nothing.

    Args:
        items: What is worked on.
        total: How many there are.
        what: What they are, in the plural.
    """
    return items


def silent(line: str) -> None:
    """Report nothing."""


def streams_for(count: int) -> int:
    """How many of ``count`` photos to work on at once."""
    return max(1, min(count, cores(), MAX_STREAMS))


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], streams: int
) -> Iterator[Future[Result]]:
    """Call a function in threads; the finished calls come in the order of the items.

    No more than twice ``streams`` results exist at a time, however many items there are. The
    threads share the cores until the last call has come.
    """
    with shared_by(streams), ThreadPoolExecutor(streams) as threads:
        calls: deque[Future[Result]] = deque()
        try:
            for item in items:
                calls.append(threads.submit(function, item))
                if len(calls) == 2 * streams:
                    yield calls.popleft()
            while calls:
                yield calls.popleft()
        finally:
            for call in calls:
                call.cancel()


def find_in_each(
    find: Callable[[Item], Result], photos: Iterable[Item]
) -> Iterator[tuple[Item, Result | ImageError]]:
    """Find something in many photos, some at the same time.

    A photo that cannot be read costs itself alone. Photos are taken, and results kept, only a few
    ahead of the one that is asked for.

    Args:
        find: Finds in a photo; threads call it.
        photos: Whatever ``find`` takes.

    Returns:
        Each photo as it was given, in order, with what was found or its error.

    Raises:
        ValueError: One path was given, not several.
    """
    if isinstance(photos, str | PathLike):
        raise ValueError(f"photos: expected several, such as [{str(photos)!r}], got one path")

    def attempt(photo: Item) -> tuple[Item, Result | ImageError]:
        try:
            return photo, find(photo)
        except ImageError as error:
            return photo, error

    calls = map_ordered(attempt, photos, streams_for(MAX_STREAMS))
    return (call.result() for call in calls)


class Found(Protocol):
    """What was found in a photo: proposals or detections."""

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo."""
        ...

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Records of COCO's results format."""
        ...


Kind = TypeVar("Kind", bound=Found)


@dataclass(frozen=True)
class Outcome:
    """What became of a batch.

    Attributes:
        photos: How many photos were given.
        done: How many of them have their records in the file.
        records: How many records these are.
        undrawn: How many pictures could not be written.
    """

    photos: int
    done: int
    records: int
    undrawn: int

    @property
    def complete(self) -> bool:
        """Whether every photo was read and every picture written."""
        return self.done == self.photos and not self.undrawn


def write_records(
    photos: Sequence[Photo],
    find: Callable[[Path], Kind],
    file: Path,
    *,
    settings: Mapping[str, Any],
    streams: int = 1,
    draw: Callable[[Kind], UInt8[np.ndarray, "h w 3"]] | None = None,
    writers: Sequence[Writer] = (),
    progress: Progress = unshown,
    report: Report = silent,
) -> Outcome:
    """Write what is found in all photos that can be read to one file of COCO results.

    A run that was stopped, or killed, goes on where it was when it is started again with the same
    settings; memory does not grow with the number of photos. A photo that cannot be read, and a
    picture that cannot be written, are reported and cost nothing else. If no photo can be read,
    older files of results are removed.

    Args:
        photos: The photos.
        find: Finds objects in a photo; threads call it.
        file: The JSON file to write. Its folder is made, and is this run's own meanwhile.
        settings: Everything that the results depend on besides the photos.
        streams: Photos worked on at once.
        draw: Makes a picture of what was found, to be written beside ``file``.
        writers: Write further formats beside ``file``; then all that is found must have masks.
        progress: Shows how many photos are done.
        report: Is told of every problem.

    Raises:
        ValueError: Another run writes to the folder, or ``file`` is one of the photos.
    """
    paths = [photo.path for photo in photos]
    refuse_photos([file, _journal(file)], paths)
    pictures = overlay_paths(paths, file.parent) if draw else {}
    undrawn = 0

    def found_in(
        photo: Photo,
    ) -> tuple[tuple[int, int], list[dict[str, Any]], ImageError | None]:
        found: Any = find(photo.path)
        problem = None
        if draw:
            try:
                _draw(pictures[photo.path], draw(found))
            except ImageError as error:
                problem = error
        named = {"file_name": photo.name or str(photo.path)}
        records = [record | named for record in found.to_coco(photo.image_id)]
        image_size = found.image.shape[:2]
        if writers:
            segments = Segments.from_coco(records, image_size)
            segmented = Segmented(photo.image_id, photo.path, segments, found.image)
            for writer in writers:
                writer.add(segmented)
        return image_size, records, problem

    with owned(file.parent), Journal(_journal(file), settings) as journal:
        left = [photo for photo in photos if not journal.has(photo)]
        if len(left) < len(photos):
            report(f"{len(photos) - len(left)} of {len(photos)} photos were done before")
        calls = zip(left, map_ordered(found_in, left, streams), strict=True)
        try:
            for photo, call in progress(calls, len(left)):
                try:
                    image_size, records, problem = call.result()
                except ImageError as error:
                    report(str(error))
                    own = [file for writer in writers for file in writer.files_of(photo.path)]
                    if draw:
                        own.append(pictures[photo.path])
                    for older in own:  # would pass for this photo's
                        remove(older)
                    continue
                journal.add(photo, image_size, records)
                if problem:
                    report(f"{problem}; its masks are kept")
                    undrawn += 1
        except BaseException:
            with suppress(OSError):  # a full disk, perhaps: what stopped the run is the news
                _finish(journal, photos, file, writers)
            raise
        done, count = _finish(journal, photos, file, writers)
        journal.path.unlink()
    return Outcome(len(photos), done, count, undrawn)


def _finish(
    journal: Journal, photos: Sequence[Photo], file: Path, writers: Sequence[Writer]
) -> tuple[int, int]:
    """Write the files of the whole run; gives how many photos are done, and their records."""
    done = journal.done(photos)
    if not done:  # older files would pass for these photos'
        for place in (file, *(writer.place for writer in writers)):
            if place.is_file():
                place.unlink()
        return 0, 0
    with replacing_file(file) as output:
        count = write_array(
            output, (record for _, span in done for record in journal.read(span)[1])
        )
    for writer in writers:
        writer.finish(_segmented(journal, photo, span) for photo, span in done)
    return len(done), count


def _segmented(journal: Journal, photo: Photo, span: Span) -> Segmented:
    image_size, records = journal.read(span)
    return Segmented(photo.image_id, photo.path, Segments.from_coco(records, image_size))


def number_photos(paths: Sequence[Path]) -> list[Photo]:
    """Photos with the ids that ``ids_of`` gives their names."""
    return list(map(Photo, paths, ids_of([path.stem for path in paths])))


def ids_of(stems: Sequence[str]) -> list[int]:
    """Ids of photos: their names where all are distinct numbers, as in COCO; else from 1.

    Numbers beyond 64 bits and digits of other scripts are names like any other.
    """
    if all(stem.isascii() and stem.isdecimal() and len(stem) < 300 for stem in stems):
        ids = [int(stem) for stem in stems]
        if len(set(ids)) == len(ids) and max(ids, default=0) < 2**63:
            return ids
    return list(range(1, len(stems) + 1))


def find_photos(paths: Sequence[Path], annotations: Path, report: Report) -> list[Photo]:
    """Photos with the ids that an annotation file gives to their file names.

    A photo belongs to the image whose ``file_name`` is the end of its path; the longest counts. One
    that has no such image is reported and left out.

    Raises:
        ValueError: The file has no usable list of images, or names none of the photos.
    """
    by_name: dict[tuple[str, ...], set[int]] = {}
    for name, image_id in read_image_ids(annotations):
        for spelling in spellings(name):
            by_name.setdefault(PurePosixPath(spelling).parts, set()).add(image_id)
    photos = []
    for path in paths:
        parts = path.absolute().parts
        ends = (by_name.get(parts[start:], set()) for start in range(len(parts)))
        found = set(next(filter(None, ends), ()))
        if len(found) == 1:
            photos.append(Photo(path, found.pop()))
        else:
            problem = "several images have its name" if found else "no image has its name"
            report(f"{path}: left out: {problem} in {annotations}")
    if paths and not photos:
        raise ValueError(f"{annotations}: names none of the {len(paths)} photos; is it theirs?")
    return photos


def _draw(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror})") from None
    write_image(path, picture)


def _journal(file: Path) -> Path:
    return file.with_name(f".{file.name}.journal")
