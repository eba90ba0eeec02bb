"""Photos that end the process which reads them, as one may that fills the memory."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from sharpmask.files import fingerprint, replacing_file
from sharpmask.integrations.arrow import Propose, schema

if TYPE_CHECKING:
    import pyarrow as pa

PATIENCE = 3
"""Processes that may end over the same photos before each photo is read in a process apart."""


def propose_again(propose: Propose, photos: "pa.Table", key: str) -> "pa.Table":
    """What ``propose`` finds, in a process that was perhaps started anew after it had ended.

    A note of this machine counts the attempts. After some of them the photos are read one by one in
    another process; one that ends it has an error like a photo that cannot be read.

    Args:
        propose: Finds the proposals.
        photos: Columns ``id`` and ``path``.
        key: Tells these photos from those of other calls: the address of their part.

    Raises:
        OSError: Reading them one by one has ended as many processes again.
    """
    # Not in the cache: a user without a home has one for each process, which forgets.
    user = os.getuid() if hasattr(os, "getuid") else ""  # Windows: the folder is a user's own
    notes = Path(tempfile.gettempdir()) / f"sharpmask-attempts{user}"
    note = notes / fingerprint(key.encode())
    begun = 0
    with suppress(FileNotFoundError, ValueError):
        begun = int(note.read_text())
    if begun == 2 * PATIENCE:
        note.unlink()
        raise OSError(f"{key}: its photos have ended {begun} processes; leave the largest ones out")
    with replacing_file(note) as file:
        file.write(str(begun + 1).encode())
    if begun < PATIENCE:
        found = propose(photos)
    else:
        import pyarrow as pa

        found = pa.concat_tables(_one_by_one(propose, photos))
    note.unlink(missing_ok=True)
    return found


def _one_by_one(propose: Propose, photos: "pa.Table") -> "Iterator[pa.Table]":
    import pyarrow as pa

    left = [photos.take([index]) for index in range(len(photos))]
    while left:
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            try:
                while left:
                    yield apart.submit(propose, left[0]).result()
                    left.pop(0)
            except BrokenProcessPool:
                (photo,) = left.pop(0).to_pylist()
                error = f"{photo['path']}: ended the process that read it; is it too large?"
                row = photo | {"proposals": [], "error": error, "model": propose.fingerprint}
                yield pa.Table.from_pylist([row], schema())
