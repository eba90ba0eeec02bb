"""Dense pass (trunk, scores, laterals) against sgemm, and the refinement against it.

ResNet-50 SharpMask, 640x480, 7 scales, random weights (speed does not depend on them).
Targets: dense pass at least 0.80 of the sgemm rate; 500 windows refined in less than 15 % of it.

    python benchmarks/dense_pass.py
"""

import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from machine import sgemm_rate, store, time_it
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.reading import DECODE_BATCH
from sharpmask.models.pretrained import build

WINDOWS = 500


def main() -> None:
    torch.manual_seed(0)
    model = build({"model": "sharpmask", "deepmask": {"model": "deepmask", "backbone": "resnet50"}})
    proposer = Proposer(TorchEngine(model, torch.device("cpu")))
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)

    with FlopCounterMode(display=False) as counter:
        levels = proposer.levels(image)
    operations = counter.get_total_flops()
    numbers, cells, _ = proposer.select([level.scores for level in levels], WINDOWS)

    def refine() -> None:
        for number, level in enumerate(levels):
            for part in np.split(
                cells[numbers == number],
                range(DECODE_BATCH, int((numbers == number).sum()), DECODE_BATCH),
            ):
                if len(part):
                    proposer.engine.decode(level.features, np.pad(part, ((0, 0), (1, 0))))

    # Interleaved, so that a busy moment of the machine falls on all three alike.
    rates, dense, refinement = [], [], []
    for _ in range(5):
        rates.append(sgemm_rate())
        dense.append(time_it(lambda: proposer.levels(image), repeats=1)["median_s"])
        refinement.append(time_it(refine, repeats=1)["median_s"])
        time.sleep(0.1)
    rate, dense_s, refine_s = (float(np.median(v)) for v in (rates, dense, refinement))
    store(
        "dense_pass",
        {
            "config": "ResNet-50 SharpMask k=32, 640x480, 7 scales, 500 windows, float32",
            "sgemm_gflop_per_s": rate / 1e9,
            "dense_gflop": operations / 1e9,
            "dense_s": dense_s,
            "dense_share_of_sgemm": operations / dense_s / rate,
            "refinement_s": refine_s,
            "refinement_share_of_dense": refine_s / dense_s,
            "spread": {
                "dense_s": [min(dense), max(dense)],
                "refinement_s": [min(refinement), max(refinement)],
                "sgemm_gflop_per_s": [min(rates) / 1e9, max(rates) / 1e9],
            },
        },
    )


if __name__ == "__main__":
    main()
