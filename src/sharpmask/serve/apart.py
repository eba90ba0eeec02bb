"""Photos in a process of their own, so that the server's is free to answer.

Python runs one thread at a time: threads that work on photos would hold up the one that answers.
And what ends that process, a photo that fills the memory, does not end the server.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from threading import Lock, Thread
from typing import Any, TypeVar

from sharpmask.serve.remembered import Photos

NICENESS = 5
"""How far the process of the photos stands back where cores are short (POSIX's ``nice``)."""

Answer = TypeVar("Answer")


class ProcessEndedError(RuntimeError):
    """The process of the photos has ended while it worked; another one takes its place."""


class PhotosApart:
    """What ``Photos`` does, done in another process. Threads may share it.

    Args:
        make: Makes the photos there; like all that follows it must be a name that can be imported,
            or data.
        arguments: For ``make``, whose errors are raised here.
    """

    def __init__(self, make: Callable[..., Photos], *arguments: Any) -> None:
        self._make = make, *arguments
        self._lock = Lock()
        self._start()

    def run(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """What a function of the photos, and of further arguments, gives.

        Raises:
            ProcessEndedError: The process has ended.
        """
        room = self._room
        try:
            answer: Answer = room.run(function, *arguments)
        except (EOFError, ConnectionError):
            with self._lock:
                if room is self._room:  # no other thread was quicker
                    self.close()
                    self._start()
            raise ProcessEndedError(
                "the process that reads photos has ended; a new one has started"
            ) from None
        return answer

    def close(self) -> None:
        """End the process."""
        self._manager.shutdown()

    def _start(self) -> None:
        self._manager = _Manager(ctx=multiprocessing.get_context("spawn"))
        self._manager.start(_settle)
        self._room = self._manager.room()  # type: ignore[attr-defined]
        self._room.open(*self._make)


class _Room:
    """What the other process holds."""

    def open(self, make: Callable[..., Photos], *arguments: Any) -> None:
        """Make the photos; here, as errors of a constructor do not travel as they are."""
        self.photos = make(*arguments)

    def run(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """As ``Photos`` does."""
        return self.photos.run(function, *arguments)


class _Manager(BaseManager):
    """Starts the process; each thread that asks it has a thread of its own there."""


_Manager.register("room", _Room, exposed=("open", "run"))


def _settle() -> None:
    """Let this process stand back for its parent, and end when that does, however it ends."""
    if hasattr(os, "nice"):  # Windows lacks it
        os.nice(NICENESS)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
