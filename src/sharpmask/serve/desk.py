"""Where requests become work: a bounded queue, threads, photos that are remembered."""

import asyncio
import base64
import binascii
import io
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from starlette.exceptions import HTTPException

from sharpmask.decoding import read_stream
from sharpmask.files import fingerprint
from sharpmask.images import ImageError
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.inference.proposer import Proposer
from sharpmask.serve.settings import Limits

REMEMBERED = 4
"""Photos whose features are kept for the next prompt: some 60 MB each."""

Answer = TypeVar("Answer")
log = logging.getLogger("sharpmask.serve")


class Desk:
    """Does the work of all routes.

    Args:
        proposer: Reads photos. Threads share it.
        limits: See ``Limits``.
        threads: Photos worked on at the same time.
    """

    def __init__(self, proposer: Proposer, limits: Limits, threads: int) -> None:
        self.proposer = proposer
        self.limits = limits
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads)
        self._remembered: OrderedDict[str, ReadPhoto] = OrderedDict()
        self._lock = Lock()
        self._places = limits.queue

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, from the first byte to the answer.

        Raises:
            HTTPException: 429, there is none.
        """
        if not self._places:
            raise HTTPException(429, "all places are taken; try again soon", {"Retry-After": "1"})
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    async def work(self, function: Callable[[], Answer]) -> Answer:
        """What a function gives, computed in one of the threads.

        Raises:
            HTTPException: 400, the photo or the question is at fault; 503, it takes too long.
        """
        call = self._executor.submit(function)
        try:
            async with asyncio.timeout(self.limits.answer_s):
                return await asyncio.wrap_future(call)
        except TimeoutError:
            raise HTTPException(
                503, f"no answer within {self.limits.answer_s:.0f} s; try again later"
            ) from None
        except ValueError as error:  # ImageError is one
            raise HTTPException(400, str(error)) from None

    def read(self, data: bytes, name: str = "image") -> tuple[str, ReadPhoto]:
        """A photo of a file's bytes and the id that it is remembered by. Called in a thread.

        Raises:
            ImageError: It is not a photo, or too large.
        """
        photo_id = fingerprint(data)
        known = self.recall(photo_id)
        if known is None:
            pixels = read_stream(io.BytesIO(data), name, max_pixels=self.limits.max_pixels)
            known = self.proposer.read(pixels)
        with self._lock:
            self._remembered[photo_id] = known
            self._remembered.move_to_end(photo_id)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return photo_id, known

    def recall(self, photo_id: str) -> ReadPhoto | None:
        """A photo that is still remembered."""
        with self._lock:
            return self._remembered.get(photo_id)

    def close(self) -> None:
        """End the threads; what waits is dropped. Another start finds new ones."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = ThreadPoolExecutor(self.threads)


def of_data_uri(text: str) -> bytes:
    """The bytes of a data URI in base64, or of base64 alone.

    Raises:
        ImageError: It is neither.
    """
    head, comma, body = text.rpartition(",")
    if comma and not (head.startswith("data:") and head.endswith(";base64")):
        raise ImageError("image: expected data:image/...;base64,..., got another kind of text")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("image: is not base64; encode the file's bytes") from None
