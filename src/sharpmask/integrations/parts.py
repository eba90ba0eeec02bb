"""The folder of a large run: Parquet parts, and beside them the plan that says what is in each.

A part is a fixed set of photos under a fixed name, written at once. So whoever writes it, and
however often, each photo is there exactly once; what is left to do is what has no file yet.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sharpmask.defaults import VERSION
from sharpmask.inference.batch import ids_of
from sharpmask.integrations.arrow import Propose, schema
from sharpmask.integrations.attempts import propose_again
from sharpmask.stores import file_names, join, locate, read_bytes, write_bytes

if TYPE_CHECKING:
    import pyarrow as pa

PART_SIZE = 256
"""Photos in a part: some 10 MB, and some minutes of one core."""
PLAN = "_plan"
"""Folder of the plan: names with "_" are left alone by whatever reads a folder of Parquet files."""
RUN = "run.json"
"""File of the plan with what all parts are made with."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some photos of a run.

    Attributes:
        name: Of its file in the run's folder.
        photos: Columns ``id`` and ``path``.
    """

    name: str
    photos: "pa.Table"


class Run:
    """A large run, begun or gone on with.

    Args:
        folder: Address of the folder for the parts.
        propose: Finds the proposals.
        part_size: Photos in each part.

    Raises:
        ValueError: The folder holds something else, or was begun with other settings.
        OSError: It cannot be read or written.
    """

    def __init__(self, folder: str, propose: Propose, part_size: int) -> None:
        self.folder = folder
        self.part_size = part_size
        self._plan = join(folder, PLAN)
        own = settings_of(propose) | {"part_size": part_size}
        try:
            begun = json.loads(read_bytes(join(self._plan, RUN)))
        except FileNotFoundError:
            if any(name.endswith(".parquet") for name in file_names(folder)):
                raise ValueError(
                    f"{folder}: holds Parquet files of something else; give another --output"
                ) from None
            write_bytes(join(self._plan, RUN), json.dumps(own, indent=2).encode())
            begun = own
        for name in own | begun:
            before, now = begun.get(name), own.get(name)
            if before != now:
                raise ValueError(
                    f"{folder}: was begun with {name} {before}, not {now}; give another --output"
                )
        self._lists = [
            _read_table(join(self._plan, name))
            for name in file_names(self._plan)
            if name.endswith(".parquet")
        ]

    def add(self, photos: "pa.Table") -> int:
        """Plan parts for the photos that have none; gives how many photos that are.

        Args:
            photos: A column ``path``, and ``id`` where ids are given; otherwise ``ids_of`` gives
                them, and photos that were planned keep theirs.

        Raises:
            ValueError: An id is taken by another photo.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        known = pa.concat_tables([_no_photos(), *self._lists])
        new = photos.filter(pc.invert(pc.is_in(photos["path"], known["path"].combine_chunks())))
        if not len(new):
            return 0
        if "id" not in new.column_names:
            new = new.append_column("id", [_new_ids(known, new)])
        new = new.select(["id", "path"]).cast(_no_photos().schema)
        ids = pc.value_counts(pa.concat_tables([known, new])["id"].combine_chunks())
        twice = ids.filter(pc.greater(ids.field("counts"), 1))
        if len(twice):
            raise ValueError(
                f"{self.folder}: id {twice[0]['values']} would be that of two photos; give them "
                "ids of their own in a column id of a Parquet list, or another --output"
            )
        write_bytes(join(self._plan, f"photos-{len(self._lists):05}.parquet"), parquet_bytes(new))
        self._lists.append(new)
        return len(new)

    @property
    def photos(self) -> int:
        """How many photos are planned."""
        return sum(map(len, self._lists))

    @property
    def part_count(self) -> int:
        """How many parts are planned."""
        return sum(-(-len(photos) // self.part_size) for photos in self._lists)

    def parts(self) -> Iterator[Part]:
        """All parts, in the order of the photos."""
        for number, photos in enumerate(self._lists):
            for start in range(0, len(photos), self.part_size):
                name = f"part-{number:05}-{start // self.part_size:07}.parquet"
                rows = range(start, min(start + self.part_size, len(photos)))
                # A slice that is sent to another process takes the whole table along.
                yield Part(name, photos.take(list(rows)))

    def left(self, *, retry: bool = False) -> list[Part]:
        """The parts that are not written yet; to ``retry``, also those with a photo that failed."""
        written = {name for name in file_names(self.folder) if name.endswith(".parquet")}
        if retry:
            written -= {part for part, _ in failures(self.folder)}
        return [part for part in self.parts() if part.name not in written]


def write_part(folder: str, part: Part, propose: Propose) -> "pa.Table":
    """Write the proposals of a part's photos; what is there already, and no error, is kept.

    Returns:
        The part, a table of ``arrow.schema``.

    Raises:
        OSError: It cannot be written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    address = join(folder, part.name)
    try:
        before = _read_table(address)
    except FileNotFoundError:
        before = schema().empty_table()
    good = before.filter(pc.is_null(before["error"]))
    ids = part.photos["id"].combine_chunks()
    left = part.photos.filter(pc.invert(pc.is_in(ids, good["id"].combine_chunks())))
    if not len(left):
        return good
    found = pa.concat_tables([good, propose_again(propose, left, address)])
    found = found.take(pc.index_in(ids, found["id"].combine_chunks()))
    write_bytes(address, parquet_bytes(found))
    return found


def failures(folder: str) -> Iterator[tuple[str, str]]:
    """Of each photo that could not be read: its part, and its error, which names it.

    Raises:
        ValueError: There is no run, or a file is not one of its parts.
        OSError: It cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if RUN not in file_names(join(folder, PLAN)):
        raise ValueError(f"{folder}: sharpmask batch has written nothing there; check the name")
    for name in file_names(folder):
        if not name.endswith(".parquet"):
            continue
        system, path = locate(join(folder, name))
        try:
            rows = parquet.read_table(path, filesystem=system, columns=["error"])
        except pa.ArrowInvalid as error:
            raise ValueError(f"{join(folder, name)}: is not a part of a run: {error}") from None
        for text in rows["error"].drop_null().to_pylist():
            yield name, text


def settings_of(propose: Propose) -> dict[str, Any]:
    """All that the results depend on besides the photos, as JSON gives it back."""
    given = asdict(propose)
    del given["weights"], given["cores"]  # the same model may lie elsewhere
    given |= {"model": propose.fingerprint, "version": VERSION}
    settings: dict[str, Any] = json.loads(json.dumps(given))
    return settings


def _new_ids(known: "pa.Table", new: "pa.Table") -> list[int]:
    """Ids for new photos, such that those that are known keep theirs."""
    before = known["id"].to_pylist()
    paths = known["path"].to_pylist() + new["path"].to_pylist()
    ids = ids_of([PurePath(path).stem for path in paths])
    if ids[: len(before)] == before:
        return ids[len(before) :]
    first = max(before) + 1
    return list(range(first, first + len(new)))


def _no_photos() -> "pa.Table":
    import pyarrow as pa

    return pa.schema([("id", pa.int64()), ("path", pa.string())]).empty_table()


def parquet_bytes(content: "pa.Table") -> "pa.Buffer":
    """A table as a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    with pa.BufferOutputStream() as file:
        parquet.write_table(content, file, compression="zstd")
        return file.getvalue()


def _read_table(address: str) -> "pa.Table":
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(read_bytes(address)))
