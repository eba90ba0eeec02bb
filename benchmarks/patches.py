"""Per-patch figures of the shipped models on all objects of an annotation file.

python benchmarks/patches.py ANN.json IMAGES
"""

import argparse
from pathlib import Path

from lightning_fabric import Fabric

from machine import store
from sharpmask.coco.annotations import load_coco
from sharpmask.models.pretrained import load
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.models.sources import names
from sharpmask.training.stages import validator


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    arguments = parser.parse_args()
    data = load_coco(arguments.annotations, arguments.images)
    fabric = Fabric(accelerator="cpu", devices=1)
    figures = {}
    for name in names():
        model = load(name)
        if isinstance(model, SharpMaskPyramid):
            continue  # it reads no patches
        figures[name] = validator(data, model.geometry, None, fabric)(model)
    store("patches", {"annotations": arguments.annotations.name, "models": figures})


if __name__ == "__main__":
    main()
