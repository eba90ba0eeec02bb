"""How anything is written: a file or folder is whole or not there, also after a kill."""

import atexit
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

PART = ".part"
"""Suffix of what is not finished yet."""
LOCK = ".lock"
"""File that a run holds while it writes to a folder."""
RECENT_S = 3600
"""What was used within this time is not pruned from a cache."""


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
        try:
            opened = temporary.open("xb")
        except OSError as error:
            error.filename = str(path)  # nobody knows the other name
            raise
        with opened as file:
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


def remove(path: Path) -> None:
    """Remove a file, a link or a folder as far as the system lets go of it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


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
        ValueError: Another run writes to it now, or a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{folder}: a file is in the way of this folder; give another --output"
        ) from None
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder}: another run is writing there; wait for it, or give another --output"
        ) from None
    try:
        for left in [*folder.rglob(f".*{PART}")]:
            remove(left)
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """A folder for what can be computed again: the user's cache.

    Where there is none (no home, a home that cannot be written to) a folder of this process takes
    its place, which goes when the process ends.
    """
    try:
        folder = user_cache_path("sharpmask")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: neither HOME nor an entry in passwd
        return _process_folder()


@contextmanager
def some_home() -> Iterator[None]:
    """A home for libraries that cannot do without, where the user has none."""
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor an entry in passwd
        os.environ["HOME"] = str(_process_folder())
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield


@cache
def _process_folder() -> Path:
    folder, owner = tempfile.mkdtemp(prefix="sharpmask-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def prune(folder: Path, max_bytes: int) -> None:
    """Remove entries of a cache folder, the least recently used first, until it is small enough.

    An entry is a file or a folder; its modification time says when it was last used. What was
    used within the last hour stays, however much it is.
    """
    entries = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process prunes too
            files = [file for file in (path, *path.rglob("*")) if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            entries.append((path.stat().st_mtime, size, path))
    excess = sum(size for _, size, _ in entries) - max_bytes
    for used, size, path in sorted(entries):
        if excess <= 0 or used > time.time() - RECENT_S:
            break
        if path.name == LOCK:
            continue
        remove(path)
        excess -= size


def _beside(path: Path) -> Path:
    """A new name in the same folder; a hash, as names may be as long as the disk allows."""
    stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{stem}.{secrets.token_hex(4)}{PART}")
