import threading
import time

import pytest

from sharpmask.engines import threads
from sharpmask.inference.batch import map_ordered, streams_for


@pytest.mark.parametrize("count", [1, 2, 4])
def test_results_come_in_order_whoever_ends_first(count):
    def slow(number):
        time.sleep(0.002 * (7 * number % 5))
        return number**2

    assert [call.result() for call in map_ordered(slow, range(20), count)] == [
        number**2 for number in range(20)
    ]


def test_a_failure_is_its_own_only():
    calls = list(map_ordered(lambda number: 12 // number, [2, 0, 3], 2))
    assert calls[0].result() == 6
    assert isinstance(calls[1].exception(), ZeroDivisionError)
    assert calls[2].result() == 4


def test_calls_overlap():
    meet = threading.Barrier(3, timeout=20)  # passes when three calls are running
    assert len([call.result() for call in map_ordered(lambda _: meet.wait(), range(6), 3)]) == 6


def test_few_results_wait():
    taken, most = 0, 0

    def items():
        nonlocal most
        for number in range(50):
            most = max(most, number - taken)
            yield number

    for _ in map_ordered(str, items(), 2):
        taken += 1
    assert taken == 50
    assert 2 <= most <= 4


def test_whoever_stops_listening_stops_the_work():
    done = []
    calls = map_ordered(done.append, iter(range(10**9)), 2)
    next(calls)
    calls.close()
    assert len(done) <= 4


def test_streams_are_bounded(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: range(64))
    assert [streams_for(count) for count in (0, 1, 3, 100)] == [1, 1, 3, 4]
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {3, 7})
    assert streams_for(100) == 2
    monkeypatch.delattr(threads.os, "sched_getaffinity")  # as on other systems
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert streams_for(100) == 1
