"""Many photos at once: while one is read or its masks are encoded, the cores work on others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sharpmask.engines.threads import cores

MAX_STREAMS = 4
"""Each holds the features of a photo, some hundred MB."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def streams_for(count: int) -> int:
    """How many of ``count`` photos to work on at once."""
    return max(1, min(count, cores(), MAX_STREAMS))


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], streams: int
) -> Iterator[Future[Result]]:
    """Call a function in threads; the finished calls come in the order of the items.

    No more than twice ``streams`` results exist at a time, however many items there are.
    """
    with ThreadPoolExecutor(streams) as threads:
        calls: deque[Future[Result]] = deque()
        try:
            for item in items:
                calls.append(threads.submit(function, item))
                if len(calls) == 2 * streams:
                    yield calls.popleft()
            while calls:
                yield calls.popleft()
        finally:
            for call in calls:
                call.cancel()
