"""Peak memory of 1000 proposals on a 12-megapixel photo. Target: below 1.5 GB.

python benchmarks/memory.py
"""

import resource

import numpy as np
from PIL import Image

import sharpmask
from machine import store
from sharpmask import defaults
from sharpmask.inference.proposer import Proposer


def main() -> None:
    # A photo-like texture: smooth noise has objects of all sizes.
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    photo = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)
    proposals = Proposer(sharpmask.load(defaults.MODEL), num_proposals=1000)(photo)
    records = proposals.to_coco(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    store(
        "memory",
        {
            "config": f"{defaults.MODEL}, 4000x3000, 1000 proposals with RLE, whole process",
            "proposals": len(records),
            "peak_gb": peak / 1e9,
        },
    )


if __name__ == "__main__":
    main()
