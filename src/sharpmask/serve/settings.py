"""How a server behaves, and what it takes upon itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sharpmask.selection import Selection

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
"""Names of this machine itself."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server takes upon itself.

    Attributes:
        max_bytes: Of a request's body.
        max_pixels: Of a photo.
        max_count: Masks of a photo.
        queue: Requests that are being received, wait or are worked on.
        receive_s: Seconds for a body to arrive.
        answer_s: Seconds for an answer, waiting included.
    """

    max_bytes: int = 32_000_000
    max_pixels: int = 50_000_000
    max_count: int = 100
    queue: int = 16
    receive_s: float = 30.0
    answer_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves.

    Attributes:
        limits: What it takes upon itself.
        threads: Photos worked on at the same time.
        token: What clients must know; "" if nothing.
        hosts: Names by which clients may call it; "*" for any.
        origins: Web origins other than its own that may call it.
        label_studio: Address of the Label Studio whose photos it may fetch; "" for none.
        label_studio_token: Access token there; "" to use the one that Label Studio sends.
        labels: Which masks label tools get.
        names: Whether the photos have a detector; without one ``/v1/detect`` is not there.

    Raises:
        ValueError: An address does not say how it is reached.
    """

    limits: Limits = field(default_factory=Limits)
    threads: int = 1
    token: str = ""
    hosts: Sequence[str] = LOOPBACK
    origins: Sequence[str] = ()
    label_studio: str = ""
    label_studio_token: str = ""
    labels: Selection = field(default_factory=Selection)
    names: bool = False

    def __post_init__(self) -> None:
        for name, address in (
            ("label-studio", self.label_studio), *(("origin", each) for each in self.origins)
        ):  # fmt: skip
            if address not in ("", "*", "null") and not re.match(r"[a-z][a-z+-]*://[^/]", address):
                raise ValueError(
                    f"--{name} {address}: must begin with http:// or https://, as "
                    "http://localhost:8080 does"
                )
