"""The scheduler of docs/scale.md against what can be counted by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import batch_simulation
from batch_simulation import makespan


@pytest.fixture
def no_loss(monkeypatch):
    monkeypatch.setitem(batch_simulation.ASSUMED, "lost_workers_per_hour", 1e-12)


@pytest.mark.parametrize(
    ("parts", "workers", "part_s", "driver_s", "expected"),
    [
        (10, 1, 2.0, 0.5, 25.0),  # one after the other
        (10, 10, 2.0, 0.5, 7.0),  # the driver hands out the last one at 5
        (10, 5, 2.0, 0.0, 4.0),  # two rounds
        (11, 5, 2.0, 0.0, 6.0),
        (100, 1000, 2.0, 0.5, 52.0),  # the driver alone sets the pace
    ],
)
def test_times_without_loss_are_those_counted_by_hand(
    no_loss, parts, workers, part_s, driver_s, expected
):
    assert makespan(parts, workers, np.array([part_s]), driver_s) == expected


def test_lost_workers_cost_the_time_that_their_rate_tells(monkeypatch):
    hour = 3600.0
    monkeypatch.setitem(batch_simulation.ASSUMED, "lost_workers_per_hour", 0.5)
    monkeypatch.setitem(batch_simulation.ASSUMED, "restart_s", 600.0)
    parts, part_s = 20_000, 360.0
    found = makespan(parts, 10, np.array([part_s]), 0.0)
    # An attempt fails with 1 - exp(-rate * time); a failed one costs half a part and the restart.
    fails = 1 - np.exp(-0.5 * part_s / hour)
    expected = parts / 10 * (part_s + fails / (1 - fails) * (part_s / 2 + 600.0))
    assert found == pytest.approx(expected, rel=0.01)
