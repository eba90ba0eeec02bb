"""Proposals for Arrow tables of photos: what Ray Data, Daft and Spark call in their workers."""

import io
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpmask import defaults
from sharpmask.decoding import read_stream
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.engines.threads import at_most
from sharpmask.images import ImageError, read_image
from sharpmask.inference.batch import MAX_STREAMS, map_ordered, streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.sources import source_fingerprint
from sharpmask.selection import Segments
from sharpmask.shapes import UInt8
from sharpmask.stores import is_remote, read_bytes
from sharpmask.writers import parquet
from sharpmask.writers.writer import LABEL, Segmented

if TYPE_CHECKING:
    import pyarrow as pa


def schema() -> "pa.Schema":
    """Columns of the result, always all of them, so that parts of a run can be read together.

    ``id``, ``path``, ``width``, ``height`` and ``proposals`` are those of ``propose --format
    parquet``; a photo that cannot be read has no size, no proposals, and its ``error``. ``seconds``
    is the time of the photo, ``model`` the fingerprint of the model.
    """
    import pyarrow as pa

    of_photo = {field.name: field for field in parquet.schema()}
    known = [of_photo[name].with_nullable(True) for name in ("id", "path", "width", "height")]
    more = [("error", pa.string()), ("seconds", pa.float32()), ("model", pa.string())]
    return pa.schema([*known, of_photo["proposals"], *more])


@dataclass(frozen=True, kw_only=True)
class Propose:
    """Proposes objects in the photos of an Arrow table; a row of the result for each of its rows.

    It is cheap to make and to send; each process loads the model once, when its first table comes.
    A photo that cannot be read costs itself alone.

    Attributes:
        weights: Name, file, folder or Hugging Face repository of a model; workers must have it.
        cores: Processor cores for one process, which computes as many photos at once; by default
            those that the scheduler gave it (``OMP_NUM_THREADS``, as Ray and Spark set it), else
            all.
        num_proposals, scales, image_size, mask_threshold, suppression, clean: As of ``Proposer``.
        engine, device: As of ``load_engine``.
    """

    weights: str = defaults.MODEL
    cores: int | None = None
    num_proposals: int = defaults.NUM_PROPOSALS
    scales: str | tuple[float, ...] = "default"
    image_size: int = defaults.IMAGE_SIZE
    mask_threshold: float | None = None
    suppression: float = defaults.SUPPRESSION
    clean: bool = True
    engine: EngineName = "auto"
    device: str = "auto"

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """Propose objects in each photo of a table.

        Args:
            table: A column ``path`` of text, or ``bytes`` of binary, or both, and then ``path``
                only names the photo. ``id`` is passed on where there is one.

        Returns:
            A table of ``schema``, its rows in the order of the given ones.

        Raises:
            ValueError: There is neither column, or the model or a setting cannot be used.
        """
        import pyarrow as pa

        if not {"path", "bytes"} & set(table.column_names):
            raise ValueError(
                f"table: expected a column path or bytes, got {', '.join(table.column_names)}"
            )
        columns = [name for name in ("id", "path", "bytes") if name in table.column_names]
        photos = _typed(table.select(columns)).to_pylist()
        # OpenMP takes a list too, a number for each level of nested loops.
        given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        assigned = self.cores or (int(given) if given.isdecimal() else 0) or math.inf
        with at_most(assigned):
            proposer = _loaded(self)
            calls = map_ordered(
                lambda photo: _row(photo, proposer), photos, streams_for(MAX_STREAMS)
            )
            rows = [call.result() | {"model": self.fingerprint} for call in calls]
        return pa.Table.from_pylist(rows, schema())

    @property
    def fingerprint(self) -> str:
        """What the column ``model`` says: of the model that this machine has under the name.

        Raises:
            WeightsError: There is no such model.
        """
        return _fingerprint(self.weights)

    def stream(self, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        """The same batch by batch, as Spark's ``mapInArrow`` calls it."""
        import pyarrow as pa

        for batch in batches:
            yield from self(pa.Table.from_batches([batch])).to_batches()


def _typed(table: "pa.Table") -> "pa.Table":
    """The same with integers as ids and texts as paths.

    Raises:
        ValueError: They are something else.
    """
    import pyarrow as pa

    for name in {"id", "path"} & set(table.column_names):
        kind = schema().field(name).type
        try:
            column = table[name].cast(kind)
        except pa.ArrowException as error:
            raise ValueError(f"table: column {name}: expected {kind}: {error}") from None
        table = table.set_column(table.column_names.index(name), name, column)
    return table


_fingerprint = cache(source_fingerprint)


@cache
def _loaded(settings: Propose) -> Proposer:
    """The model of this process."""
    engine = load_engine(
        settings.weights, settings.engine, settings.device, streams=streams_for(MAX_STREAMS)
    )
    return Proposer(
        engine,
        num_proposals=settings.num_proposals,
        scales=settings.scales,
        image_size=settings.image_size,
        mask_threshold=settings.mask_threshold,
        suppression=settings.suppression,
        clean=settings.clean,
    )


def _row(photo: dict[str, Any], proposer: Proposer) -> dict[str, Any]:
    start = time.perf_counter()
    name = photo.get("path")
    try:
        found = proposer(_pixels(name, photo.get("bytes")))
        row = parquet.row(Segmented(0, Path(), Segments.of(found)), [LABEL] * len(found))
    except ImageError as error:
        row = {"proposals": [], "error": str(error)}
    return row | {"id": photo.get("id"), "path": name, "seconds": time.perf_counter() - start}


def _pixels(name: str | None, content: bytes | None) -> UInt8[np.ndarray, "h w 3"]:
    """A photo from its bytes, or else from where its name leads.

    Raises:
        ImageError: It cannot be read.
    """
    if content is None:
        if name is None:
            raise ImageError("this row has neither path nor bytes")
        if not is_remote(name):
            return read_image(name)
        try:
            content = read_bytes(name)
        except FileNotFoundError:
            raise ImageError(f"{name}: no such file; check the name") from None
        except (OSError, ValueError) as error:  # ValueError: nothing opens such an address
            raise ImageError(f"{name}: cannot be fetched ({error})") from None
    return read_stream(io.BytesIO(content), name or "bytes")
