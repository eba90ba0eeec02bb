"""Files wherever they lie: on this machine, in an object store, on a cluster's file system.

An address is a path of this machine, or what pyarrow or fsspec opens: ``s3://bucket/photos``,
``gs://...``, ``hdfs://...``. Keys and region come from where each library looks for them, the
environment first.
"""

import os
import random
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sharpmask.extras import extras_for
from sharpmask.files import replacing_file

if TYPE_CHECKING:
    import pyarrow.fs

Result = TypeVar("Result")

PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Before each new attempt, on average: a store that answers with an error may be busy."""
ATOMIC = ("s3", "gcs", "abfs")
"""Stores where a file that is written at once is there as a whole or not at all."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FORBIDDEN = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "NO_SUCH_BUCKET",
)


def is_remote(address: str) -> bool:
    """Whether an address is not simply a path of this machine."""
    return bool(re.match(r"[a-z][\w+.-]+://", address))


def absolute(address: str) -> str:
    """The same address for a process with another working directory."""
    # `Path.resolve` follows links
    return address if is_remote(address) else os.path.abspath(address)  # noqa: PTH100


def join(folder: str, name: str) -> str:
    """The address of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def locate(address: str) -> tuple["pyarrow.fs.FileSystem", str]:
    """The file system of an address, and the path there.

    Raises:
        ValueError: Nothing that is installed opens it.
        OSError: The store cannot be reached.
    """
    with extras_for(address):
        from pyarrow import fs
    if not is_remote(address):
        return fs.LocalFileSystem(), absolute(address)
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    system, top = _opened(f"{scheme}://{host}{slash}")  # once for all files of a bucket
    # The path is taken as it stands: a URI would read "%" and "#" in it.
    return system, f"{top.rstrip('/')}/{path}" if top else path


@cache
def _opened(top: str) -> tuple["pyarrow.fs.FileSystem", str]:
    import pyarrow
    from pyarrow import fs

    try:
        system, path = patiently(lambda: fs.FileSystem.from_uri(top))
        return system, path
    except pyarrow.ArrowInvalid:
        import fsspec

    try:
        system, path = fsspec.core.url_to_fs(top)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{top}: {error}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def patiently(attempt: Callable[[], Result]) -> Result:
    """What a call gives, tried again with longer and longer pauses while a store refuses.

    Raises:
        OSError: It failed each time, or cannot succeed: there is no such file, or no right to it.
    """
    for pause in PAUSES_S:
        try:
            return attempt()
        except OSError as error:
            if isinstance(error, _FINAL) or any(word in str(error) for word in _FORBIDDEN):
                raise
            time.sleep(pause * random.uniform(0.5, 1.5))  # many workers shall not come at once
    return attempt()


def read_bytes(address: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: It is not there, or the store fails again and again.
    """
    system, path = locate(address)

    def read() -> bytes:
        with system.open_input_stream(path) as file:
            content: bytes = file.read()
        return content

    return patiently(read)


def write_bytes(address: str, content: Any) -> None:
    """Write a file that is there as a whole or not at all, and takes the place of an older one.

    Args:
        address: Where; folders are made.
        content: What supports the buffer protocol.

    Raises:
        OSError: The store fails again and again.
    """
    system, path = locate(address)
    if system.type_name == "local":
        with replacing_file(Path(path)) as file:
            file.write(content)
        return
    folder, _, name = path.rpartition("/")
    goal = path if system.type_name in ATOMIC else f"{folder}/_{name}.{os.getpid()}.part"

    def write() -> None:
        if goal != path:
            system.create_dir(folder)
        with system.open_output_stream(goal) as file:
            file.write(content)
        if goal != path:
            system.move(goal, path)

    patiently(write)


def file_names(folder: str) -> list[str]:
    """Names of the files in a folder, not deeper, in order; none if there is no such folder.

    Raises:
        OSError: The store fails again and again.
    """
    system, path = locate(folder)
    from pyarrow import fs

    # A prefix that ends in "/" is no key of an object store.
    selector = fs.FileSelector(path.rstrip("/") or "/", allow_not_found=True)
    found = patiently(lambda: system.get_file_info(selector))
    return sorted(each.base_name for each in found if each.type != fs.FileType.Directory)


def is_folder(address: str) -> bool:
    """Whether there is a folder: in an object store, files whose names begin with it and "/"."""
    if not is_remote(address):
        return Path(address).is_dir()
    from pyarrow import fs

    system, path = locate(address)
    info = patiently(lambda: system.get_file_info(path.rstrip("/") or "/"))
    return bool(info.type == fs.FileType.Directory)


def matching(pattern: str) -> list[str]:
    """Addresses of the files that fit a pattern: ``*``, ``?``, ``[...]``, and ``**`` for folders.

    A shell leaves "~/" as it is where a pattern is quoted; it is the user's home here too.

    Raises:
        OSError: The store fails again and again.
    """
    from fsspec.implementations.arrow import ArrowFSWrapper

    if pattern.startswith("~/"):
        pattern = os.path.expanduser(pattern)  # noqa: PTH111  # no home, no change
    system, path = locate(pattern)
    found = patiently(lambda: ArrowFSWrapper(system).glob(path, detail=True))
    names = sorted(name for name, info in found.items() if info["type"] == "file")
    return [f"{pattern[: -len(path)]}{name}" if is_remote(pattern) else name for name in names]
