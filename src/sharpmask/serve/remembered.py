"""Photos that clients ask about: read, remembered for further prompts, answered from."""

import io
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

from sharpmask.decoding import read_stream
from sharpmask.detection.detector import Detector
from sharpmask.files import fingerprint
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.inference.proposer import Proposer
from sharpmask.serve.settings import Limits

REMEMBERED = 4
"""Photos whose features are kept for the next prompt: some 60 MB each."""

Answer = TypeVar("Answer")


class Photos:
    """Reads photos and remembers the last ones. Threads may share it.

    Args:
        proposer: Reads them.
        limits: See ``Limits``.
        detector: Names what is on them, on the same proposer.
    """

    def __init__(
        self,
        proposer: Proposer,
        limits: Limits | None = None,
        *,
        detector: Detector | None = None,
    ) -> None:
        self.proposer = proposer
        self.detector = detector
        self.limits = limits or Limits()
        self._remembered: OrderedDict[str, ReadPhoto] = OrderedDict()
        self._lock = Lock()

    def run(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """What a function of these photos, and of further arguments, gives."""
        return function(self, *arguments)

    def read(self, data: bytes, name: str = "image") -> tuple[str, ReadPhoto]:
        """A photo of a file's bytes, and the id that it is remembered by.

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
