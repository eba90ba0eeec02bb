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


CASES = (
    *((10**6, workers, 256) for workers in (16, 100, 1000, 10_000)),
    (10**6, 10_000, 64),
    *((10**9, workers, 256) for workers in (16, 100, 1000, 10_000)),
    (10**9, 10_000, 2048),
)
"""Photos, workers, photos in a part."""


def times_of_parts(measured: dict[str, Any], size: int) -> np.ndarray:
    """Times of parts of so many photos, put together from measured ones."""
    cpu_s = np.array(measured["service"]["cpu_s"])
    waits = sum(measured["requests"]["per_photo"].values()) * ASSUMED["request_s"]
    draws = np.random.default_rng(0).integers(0, len(cpu_s), (1000, size))
    times: np.ndarray = (cpu_s[draws] + waits).sum(1)
    return times


def simulate(measured: dict[str, Any], photos: int, workers: int, size: int) -> dict[str, Any]:
    """Hours and costs of one case."""
    parts = -(-photos // size)
    part_s = times_of_parts(measured, size)
    seconds = makespan(parts, workers, part_s, measured["scheduling"]["s_per_part"])
    reads = photos * sum(measured["requests"]["per_photo"].values())
    kinds = measured["requests"]["per_part"]
    writes = parts * (kinds["PUT"] + kinds["POST"])
    stored = photos * measured["service"]["row_bytes"]
    return {
        "photos": photos, "workers": workers, "part_size": size, "parts": parts,
        "hours": seconds / 3600, "busy": float(parts * part_s.mean() / (seconds * workers)),
        "usd_cores": seconds / 3600 * workers * ASSUMED["core_hour_usd"],
        "usd_requests": reads * ASSUMED["get_usd"] + writes * ASSUMED["put_usd"],
        "usd_store_month": stored / 1e9 * ASSUMED["store_usd_per_gb_month"],
        "reads": reads, "writes": writes, "stored_bytes": stored,
    }  # fmt: skip


def main() -> None:
    measured = json.loads((RESULTS / "batch.json").read_text())
    part_s = float(times_of_parts(measured, 256).mean())
    driver_s = measured["scheduling"]["s_per_part"]
    memory = measured["driver"]["memory_bytes_per_photo"]
    store(
        "batch_simulation",
        {
            "assumed": ASSUMED, "part_s": part_s, "driver_s_per_part": driver_s,
            "workers_that_one_driver_feeds": part_s / driver_s,
            "driver_bytes": {str(photos): memory * photos for photos in (10**6, 10**7, 10**9)},
            "rows": [simulate(measured, *case) for case in CASES],
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
