"""Where requests become work: a bounded queue, and threads that wait for the photos' answers."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.exceptions import HTTPException

from sharpmask.images import ImageError
from sharpmask.serve.apart import PhotosApart, ProcessEndedError
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Limits

Answer = TypeVar("Answer")


class Desk:
    """Does the work of all routes.

    Args:
        photos: What is asked. Threads share it.
        limits: See ``Limits``.
        threads: Photos worked on at the same time.
    """

    def __init__(self, photos: Photos | PhotosApart, limits: Limits, threads: int) -> None:
        self.photos = photos
        self.limits = limits
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads)
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
            HTTPException: 400, the photo or the question is at fault; 503, it takes too long, or
                the process that works has ended.
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
        except ProcessEndedError as error:
            raise HTTPException(503, str(error)) from None

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
