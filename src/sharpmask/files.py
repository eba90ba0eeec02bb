"""How anything is written: a file or folder is whole or not there, also after a kill."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

PART = ".part"
"""Suffix of what is not finished yet."""
LOCK = ".lock"
"""File that a run holds while it writes to a folder."""


@contextmanager
def replacing_file(path: Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` at the end of the block, unless that fails.

    It is written beside ``path``, under a name of its own for every writer, and reaches the disk
    before it is renamed.

    Args:
        path: Where; its folder is made.
        keep: Where the file that it replaces is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        # Not `tempfile`: its files are readable by their owner only, and the rename keeps that.
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``path`` at the end of the block, unless that fails.

    Of several writers the last one wins; a reader sees one of the two folders, or for a moment
    none, never a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        with suppress(FileNotFoundError):
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file."""
    text = json.dumps(content, indent=indent, allow_nan=False)
    with replacing_file(path) as file:
        file.write(text.encode())


def fingerprint(*parts: Path | bytes) -> str:
    """A hash of bytes, and of the bytes of files: 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                own = hashlib.file_digest(file, "sha256")
        else:
            own = hashlib.sha256(part)
        digest.update(own.digest())
    return digest.hexdigest()[:32]


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """A folder that no other run writes to meanwhile; what killed runs left in it is removed.

    Raises:
        ValueError: Another run writes to it now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder}: another run is writing there; wait for it, or give another --output"
        ) from None
    try:
        for left in folder.glob(f".*{PART}"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _beside(path: Path) -> Path:
    """A new name in the same folder; a hash, as names may be as long as the disk allows."""
    stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{stem}.{secrets.token_hex(4)}{PART}")
