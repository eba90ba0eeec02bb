"""Which photos a large run is about: a folder, a pattern, or a file that lists them."""

import io
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from sharpmask.images import SUFFIXES, list_images
from sharpmask.inference.batch import Report, find_photos
from sharpmask.stores import absolute, file_names, is_folder, is_remote, join, matching, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa


def list_photos(source: str, report: Report) -> "pa.Table":
    """List photos, each once.

    Args:
        source: A folder, which is not searched deeper; a pattern with ``*``, ``?``, ``[...]`` or
            ``**``; a text file (.txt) with a path in each line; a Parquet file with a column
            ``path``, and perhaps ``id``; or a photo. Paths in lists are relative to the working
            directory.
        report: Is told in one line what is left out.

    Returns:
        A column ``path`` of addresses that any process finds, and ``id`` if the source has one.

    Raises:
        ValueError: There is no photo, or the list is malformed.
        OSError: It cannot be read.
    """
    import pyarrow as pa

    if is_folder(source):
        paths = _in_folder(source, report)
    elif source.endswith(".parquet"):
        return _of_parquet(source, report)
    elif source.endswith(".txt"):
        content = read_bytes(source)
        if b"\0" in content:
            raise ValueError(f"{source}: is not a text file in UTF-8; save it as one")
        # Whatever bytes a name is made of, it costs its own photo at most.
        lines = content.decode("utf-8-sig", "surrogateescape").splitlines()
        paths = [absolute(line.strip()) for line in lines if line.strip()]
    elif Path(source).is_file() or (
        source.lower().endswith(SUFFIXES) and not any(sign in source for sign in "*?[")
    ):
        paths = [absolute(source)]
    else:
        # As in a folder: macOS leaves a "._photo.jpg" beside each photo.
        paths = [path for path in matching(source) if not PurePath(path).name.startswith(".")]
    if not paths:
        raise ValueError(f"{source}: no photos there; give a folder, a pattern or a list of paths")
    return pa.table({"path": [*dict.fromkeys(map(_as_text, paths))]})


def with_ids_of(photos: "pa.Table", annotations: Path, report: Report) -> "pa.Table":
    """The photos that an annotation file names, with the ids that it gives them.

    Raises:
        ValueError: As of ``find_photos``.
    """
    import pyarrow as pa

    by_path = {Path(address): address for address in photos["path"].to_pylist()}
    found = find_photos(list(by_path), annotations, report)
    paths = [by_path[photo.path] for photo in found]
    return pa.table({"path": paths, "id": [photo.image_id for photo in found]})


def _in_folder(folder: str, report: Report) -> list[str]:
    if not is_remote(folder):
        return [absolute(str(path)) for path in list_images(folder, report)]
    names = [name for name in file_names(folder) if not name.startswith(".")]
    photos = [name for name in names if PurePath(name).suffix.lower() in SUFFIXES]
    if len(photos) < len(names):
        report(f"{folder}: {len(names) - len(photos)} files passed over, which are no photos")
    return [join(folder, name) for name in photos]


def _as_text(path: str) -> str:
    r"""Names that are not UTF-8, which Parquet demands, keep their odd bytes as \xNN."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _of_parquet(source: str, report: Report) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(read_bytes(source)))
        names = file.schema_arrow.names
        if "path" not in names:
            raise ValueError(f"has no column path, only {', '.join(names)}")
        table = file.read([name for name in ("path", "id") if name in names])
        table = table.set_column(0, "path", table["path"].cast(pa.string()))
        if "id" in names:
            table = table.set_column(1, "id", table["id"].cast(pa.int64()))
    except (ValueError, pa.ArrowException) as error:  # Arrow's are not all ValueErrors
        raise ValueError(f"{source}: expected a Parquet file of paths: {error}") from None
    named = table.filter(pc.is_valid(table["path"]))
    if len(named) < len(table):
        report(f"{source}: {len(table) - len(named)} rows without a path are left out")
    if not len(named):
        raise ValueError(f"{source}: no photos there; it has no row with a path")
    paths = [absolute(path) for path in named["path"].to_pylist()]
    first = {path: row for row, path in reversed([*enumerate(paths)])}
    named = named.set_column(0, "path", [paths]).take(sorted(first.values()))
    if "id" in names and (
        named["id"].null_count or pc.count_distinct(named["id"]).as_py() < len(named)
    ):
        raise ValueError(f"{source}: the column id must give each photo a number of its own")
    return named
