"""A million and a billion photos on up to 10,000 workers, simulated from measured figures.

python benchmarks/batch_simulation.py    # reads results/batch.json, takes a minute

One driver hands parts to free workers, one after the other; a worker computes the photos of its
part, fetches each, writes the part; now and then a worker is lost, and with it the part it is at,
which the next free worker begins anew. What was not measured is stated under ``assumed``.
"""

import heapq
import json
from typing import Any

import numpy as np

from machine import RESULTS, store

ASSUMED = {
    "lost_workers_per_hour": 0.05,  # share of workers: spot machines are lost so often
    "restart_s": 120.0,  # until another machine stands in
    "request_s": 0.05,  # of an object store
    "core_hour_usd": 0.04,
    "get_usd": 0.4e-6,
    "put_usd": 5e-6,
    "store_usd_per_gb_month": 0.023,
}
"""Prices are of the order that large providers list for spot and on-demand machines, 2026."""
PART_SIZE = 256


def makespan(parts: int, workers: int, part_s: np.ndarray, driver_s: float, seed: int = 0) -> float:
    """Seconds until the last part is written.

    Args:
        parts: How many there are.
        workers: Processes, one core each.
        part_s: Times of parts to draw from.
        driver_s: Time that the driver takes for each part.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    free = [0.0] * workers
    rate = ASSUMED["lost_workers_per_hour"] / 3600
    driver = end = 0.0
    left = parts
    while left:
        count = min(left, 100_000)
        times = part_s[rng.integers(0, len(part_s), count)].tolist()
        losses = rng.exponential(1 / rate, count).tolist()
        moments = rng.uniform(0, 1, count).tolist()
        left -= count
        for time, loss, moment in zip(times, losses, moments, strict=True):
            ready = heapq.heappop(free)
            driver = max(driver, ready) + driver_s
            if loss < time:
                heapq.heappush(free, driver + moment * time + ASSUMED["restart_s"])
                left += 1
            else:
                end = max(end, driver + time)
                heapq.heappush(free, driver + time)
    return end


def main() -> None:
    measured = json.loads((RESULTS / "batch.json").read_text())
    cpu_s = np.array(measured["service"]["cpu_s"])
    fetches = measured["requests"]["per_photo"]
    waits = sum(fetches.values()) * ASSUMED["request_s"]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(cpu_s), (2000, PART_SIZE))
    part_s = (cpu_s[draws] + waits).sum(1)
    driver_s = measured["scheduling"]["s_per_part"]
    rows: list[dict[str, Any]] = []
    for photos in (10**6, 10**9):
        parts = -(-photos // PART_SIZE)
        for workers in (16, 100, 1000, 10_000):
            seconds = makespan(parts, workers, part_s, driver_s)
            gets = photos * sum(fetches.values())
            puts = parts * measured["requests"]["per_part"]["POST"]
            puts += parts * measured["requests"]["per_part"]["PUT"]
            stored = photos * measured["service"]["row_bytes"]
            rows.append(
                {
                    "photos": photos, "workers": workers, "hours": seconds / 3600,
                    "busy": float(parts * part_s.mean() / (seconds * workers)),
                    "usd_cores": seconds / 3600 * workers * ASSUMED["core_hour_usd"],
                    "usd_requests": gets * ASSUMED["get_usd"] + puts * ASSUMED["put_usd"],
                    "usd_store_month": stored / 1e9 * ASSUMED["store_usd_per_gb_month"],
                    "reads": gets, "writes": puts, "parts": parts, "stored_bytes": stored,
                }
            )  # fmt: skip
            print(rows[-1])
    limit = float(part_s.mean() / driver_s)
    driver = measured["driver"]["memory_bytes_per_photo"]
    store(
        "batch_simulation",
        {
            "assumed": ASSUMED, "part_size": PART_SIZE, "part_s": float(part_s.mean()),
            "driver_s_per_part": driver_s, "workers_that_one_driver_feeds": limit,
            "driver_bytes": {str(photos): driver * photos for photos in (10**6, 10**7, 10**9)},
            "rows": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
