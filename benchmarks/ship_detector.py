"""Make the detector that ships with the package out of one that detection.py has trained.

Writes src/sharpmask/weights/detector-coco-nano.safetensors with metadata (proposals, data,
parameters, licence, figures), and SHA256SUMS.

    python benchmarks/ship_detector.py work/ours/fast-rcnn-shipped.safetensors --data TEXT
"""

import argparse
import json
from pathlib import Path

from detection import SCALES
from machine import RESULTS
from sharpmask import defaults
from sharpmask.detection.files import load_head, save_head
from sharpmask.detection.proposing import Proposing
from ship import WEIGHTS, write_sums


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trained", type=Path)
    parser.add_argument("--data", default="", help="where the training data came from")
    arguments = parser.parse_args()
    head = load_head(arguments.trained)
    content = json.loads((RESULTS / "detection.json").read_text())
    metadata = {
        "proposals": Proposing(scales=SCALES).note(),
        "data": {"photos": content["photos"], "source": arguments.data},
        "parameters": sum(array.size for array in head.arrays.values()),
        "licence": "Apache-2.0; see NOTICE",
        "figures": content["shipped"],
    }
    save_head(head, WEIGHTS / f"{defaults.DETECTOR}.safetensors", metadata=metadata)
    write_sums()


if __name__ == "__main__":
    main()
