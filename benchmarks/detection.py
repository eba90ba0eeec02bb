"""Detection with R-CNN on SharpMask's proposals and on selective search's, Fast R-CNN on ours.

Trains on completely labelled photos for the categories with at least 50 objects there, and measures
COCO AP against the number of proposals. Selective search needs opencv-contrib-python-headless.
Finished parts lie in --work and are not repeated.

    python benchmarks/detection.py --train train.json --val val.json --images DIR \\
        --init mobilenet_v2.safetensors --work DIR
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from PIL import Image
from rich.progress import track

from machine import store
from sharpmask.coco.annotations import CocoDataset, CocoImage, load_coco
from sharpmask.detection.detector import Detector
from sharpmask.detection.fast_rcnn import FastRCNN
from sharpmask.detection.files import load_classifier
from sharpmask.detection.rcnn import RegionNet
from sharpmask.detection.regions import (
    CachedRegions,
    FileRegions,
    Regions,
    RegionSource,
    frequent_categories,
    regions_of_all,
)
from sharpmask.detection.training import (
    Photos,
    chosen_categories,
    complete_photos,
    detection_figures,
    fit_fast_rcnn,
    fit_rcnn,
)
from sharpmask.engines.load import load_engine
from sharpmask.inference.batch import streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import load_backbone
from sharpmask.models.sources import resolve
from sharpmask.training.recipes import fast_rcnn

NAME = "sharpmask-mobilenetv2"
MIN_OBJECTS = 50
FOUND = 300
"""Proposals of a photo that are computed and kept."""
TRAINED_WITH = 100
KINDS = {"SharpMask": ("R-CNN", "Fast R-CNN"), "selective search": ("R-CNN",)}
COUNTS = (10, 30, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("train", "val", "images", "init", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    data = complete_photos(load_coco(arguments.train, arguments.images))
    validation = load_coco(arguments.val, arguments.images)
    numbers = frequent_categories(data, MIN_OBJECTS)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for method in KINDS:
        learned, measured_on = (
            regions(of.images, source_of(method, arguments.work, split, of.images))
            for split, of in (("train", data), ("val", validation))
        )
        photos = best(learned, TRAINED_WITH)
        for kind in KINDS[method]:
            output = arguments.work / f"{kind} {method}".replace(" ", "_").lower()
            if not (output / "model.safetensors").exists():
                train(kind, photos, data, numbers, arguments.init, output)
            detector = Detector(load_classifier(output))
            for count in COUNTS:
                measure = detection_figures(arguments.val, best(measured_on, count))
                measured = kept(output / f"{count}.json", partial(measure, detector))
                figures.setdefault(f"{kind}, {method}", {})[str(count)] = measured
                print(kind, method, count, measured, flush=True)
    draw(figures)
    store(
        "detection",
        {
            "categories": [data.categories[k] for k in numbers],
            "photos": len(data.images),
            "proposals_in_training": TRAINED_WITH,
            "figures": figures,
        },
    )


def kept(file: Path, compute: Callable[[], Any]) -> Any:
    """The content of a JSON file, computed if it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(compute()))
    return json.loads(file.read_text())


def source_of(method: str, work: Path, split: str, images: Sequence[CocoImage]) -> RegionSource:
    """The proposals of a method."""
    if method == "selective search":
        file = work / f"selective_search_{split}.json"
        kept(file, lambda: selective_search(images))
        return FileRegions(file, FOUND, images, print)
    engine = load_engine(NAME, streams=streams_for(len(images)))
    proposer = Proposer(engine, num_proposals=FOUND)
    return CachedRegions(work / "proposals", resolve(NAME), proposer)


def regions(images: Sequence[CocoImage], source: RegionSource) -> Photos:
    """Photos with their regions."""
    streams = streams_for(len(images))
    found = regions_of_all(images, source, streams=streams, report=print)
    return list(track(found, "regions", len(images)))


def best(photos: Photos, count: int) -> Photos:
    """Photos with the first of their regions."""
    return [
        (
            image,
            Regions(found.boxes[:count], found.rles and found.rles[:count], found.scores[:count]),
        )
        for image, found in photos
    ]


def selective_search(images: Sequence[CocoImage]) -> list[dict[str, Any]]:
    """COCO results of OpenCV's selective search, its fast mode; the order is the score."""
    with ProcessPoolExecutor() as processes:
        found = track(processes.map(search, images), "selective search", len(images))
        return [record for records in found for record in records]


def search(image: CocoImage) -> list[dict[str, Any]]:
    """Selective search in one photo."""
    import cv2

    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    segmentation = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    segmentation.setBaseImage(image.read()[:, :, ::-1].copy())
    segmentation.switchToSelectiveSearchFast()
    return [
        {"image_id": image.id, "category_id": 1, "bbox": box, "score": -float(rank)}
        for rank, box in enumerate(np.asarray(segmentation.process())[:FOUND].tolist())
    ]


def train(
    kind: str,
    photos: Photos,
    data: CocoDataset,
    numbers: Mapping[int, int],
    init: Path,
    output: Path,
) -> None:
    """Train a detector as ``sharpmask train detector`` does."""
    if kind == "R-CNN":
        net = RegionNet()
        load_backbone(net.backbone, init, tail=net.tail)
        fit_rcnn(net, photos, data, numbers, output=output, metadata={}, seed=0, track=track)
        return
    torch.manual_seed(0)
    model = FastRCNN(chosen_categories(data, numbers))
    load_backbone(model.backbone, init, tail=model.tail)
    fit_fast_rcnn(
        model, photos, data, numbers, recipe=fast_rcnn(), output=output, metadata={},
        fabric=Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"), workers=1,
        validate=None,
    )  # fmt: skip


def draw(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """AP50 of boxes and masks against the number of proposals."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for column, kind in enumerate(("boxes", "masks"), 1):
        axes = figure.add_subplot(1, 2, column, xlabel="proposals of a photo", title=kind)
        for method, by_count in figures.items():
            points = {int(c): f[f"{kind}_AP50"] for c, f in by_count.items() if f"{kind}_AP50" in f}
            if points:
                values = [100 * value for value in points.values()]
                axes.semilogx(list(points), values, "o-", label=method)
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("AP50 x 100")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    buffer = Path(__file__).parents[1] / "docs" / "detection.png"
    figure.savefig(buffer, dpi=80)
    with Image.open(buffer) as picture:
        picture.quantize(64).save(buffer)


if __name__ == "__main__":
    main()
