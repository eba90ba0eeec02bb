"""Time of a photo, JPEG in and RLE JSON out, for each model, as a ratio to a matrix product.

python benchmarks/photo_time.py
"""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import sharpmask
from machine import store
from sharpmask.engines.load import EngineName

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"
ROWS: tuple[tuple[str, str], ...] = (
    ("sharpmask-pyramid-nano", "default"),
    ("sharpmask-pyramid-nano", "fast"),
    ("sharpmask-nano", "default"),
)
ENGINES: tuple[EngineName, ...] = ("onnx", "openvino", "openvino-bf16")
ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    photo = Image.open(COFFEE).convert("RGB").resize((640, 480), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    photo.save(jpeg, "JPEG", quality=90)
    factor = torch.rand(4096, 4096)
    proposers = {
        (name, scales, engine): sharpmask.Proposer(name, scales=scales, engine=engine)
        for name, scales in ROWS
        for engine in ENGINES
    }
    times: dict[tuple[str, ...], list[float]] = {key: [] for key in proposers}
    products = []
    for turn in range(ROUNDS + 1):  # in turn, so that a busy moment falls on all; one to warm up
        product = seconds(lambda: factor @ factor)
        for key, proposer in proposers.items():

            def read(proposer: sharpmask.Proposer = proposer) -> str:
                picture = Image.open(io.BytesIO(jpeg.getvalue()))
                return json.dumps(proposer(picture).to_coco(1))

            took = seconds(read)
            if turn:
                times[key].append(took)
        if turn:
            products.append(product)
    store(
        "photo_time",
        {
            "config": "640x480, 100 proposals, JPEG in, RLE JSON out",
            "product_s": float(np.median(products)),
            "rows": [
                {
                    "model": name, "scales": scales, "engine": engine,
                    "median_s": float(np.median(took)), "min_s": min(took), "max_s": max(took),
                    "of_product": float(np.median(took) / np.median(products)),
                }
                for (name, scales, engine), took in times.items()
            ],
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
