"""IoU of masks asked for by an object's true box, and by one click in its middle.

python benchmarks/prompts.py ANN.json IMAGES

The click is the pixel of the object that is farthest from its outline. "best of 3" takes the answer
that fits the object best, as a user would who sees them. Times are processor time on one core,
masks at the photo's size included.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.ndimage import distance_transform_edt

import sharpmask
from machine import store
from sharpmask import masks
from sharpmask.coco.annotations import load_coco
from sharpmask.engines.load import load_engine
from sharpmask.engines.threads import at_most
from sharpmask.masks import Rle

SMALL, LARGE = 32**2, 96**2
"""COCO's limits of medium objects, in pixels."""
Answer = TypeVar("Answer")


def middle(rle: Rle) -> tuple[float, float]:
    """Centre of the pixel that is farthest from the outline: x, y."""
    depth = distance_transform_edt(np.pad(masks.decode(rle), 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return float(column) + 0.5, float(row) + 0.5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--photos", type=int, help="Only so many.")
    parser.add_argument("--engine", default="onnx")
    arguments = parser.parse_args()
    photos = load_coco(arguments.annotations, arguments.images).images[: arguments.photos]
    with at_most(1):
        proposer = sharpmask.Proposer(load_engine(sharpmask.defaults.MODEL, arguments.engine))
    ious: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    areas = []

    def timed(what: str, ask: Callable[[], Answer]) -> Answer:
        start = time.process_time()
        answer = ask()
        seconds[what].append(time.process_time() - start)
        return answer

    for photo in photos:
        read = timed("reading", lambda: proposer.read(photo.path))  # noqa: B023
        for instance in photo.instances:
            truth = instance.rle
            areas.append(masks.rle_areas([truth])[0])
            point = middle(truth)
            boxed = timed("box", lambda: read.in_box(instance.box).rle)  # noqa: B023
            clicked = timed("click", lambda: read.at(*point).rles())  # noqa: B023
            ious["box"].append(masks.rle_iou([boxed], [truth])[0, 0])
            fits = masks.rle_iou(clicked, [truth])[:, 0] if clicked else np.zeros(1)
            ious["click"].append(fits[0])
            ious["click, best of 3"].append(fits.max())
    sizes = np.array(areas)
    groups = {
        "all": sizes > 0,
        "S": sizes < SMALL,
        "M": (sizes >= SMALL) & (sizes < LARGE),
        "L": sizes >= LARGE,
    }
    store(
        "prompts",
        {
            "annotations": arguments.annotations.name,
            "photos": len(photos),
            "objects": {name: int(group.sum()) for name, group in groups.items()},
            "engine": proposer.engine.name,
            "mask_iou": {
                what: {name: float(np.array(v)[group].mean()) for name, group in groups.items()}
                for what, v in ious.items()
            },
            "median_cpu_ms": {what: 1000 * float(np.median(v)) for what, v in seconds.items()},
        },
    )


if __name__ == "__main__":
    main()
