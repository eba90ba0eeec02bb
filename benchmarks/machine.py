"""What every benchmark shares: this machine, its own matrix-multiply rate, and where results go."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Hardware and versions."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next(
            (line.split(": ")[1] for line in lines if line.startswith("model name")), model
        )
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def time_it(function: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """Seconds of a call after one warm-up: median, fastest, slowest."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
    }


def sgemm_rate(size: int = 4096) -> float:
    """Floating-point operations per second of a float32 matrix product (median of 5)."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / time_it(lambda: a @ b)["median_s"]


def store(name: str, results: dict[str, Any]) -> None:
    """Print the results and keep them, with the machine, in ``benchmarks/results``."""
    content = {"machine": describe(), **results}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(content, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
