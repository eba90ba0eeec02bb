"""Other methods beside ours, on the same photos in the same run: recall and time.

    python benchmarks/peers.py --annotations val.json --images photos/ --onnx FastSAM-s.onnx

Selective search needs opencv-contrib-python-headless (boxes only), Felzenszwalb's segments need
scikit-image; what is not installed is left out, and that is said. --onnx takes an instance
segmentation network that you exported or downloaded (see onnx_segmentation.py), several times.
Photos are read before the clock starts; it stops when COCO results are there. Methods take turns
on each photo. Processor time counts all cores, and depends less on what else the machine does.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import sharpmask
from machine import store
from onnx_segmentation import OnnxSegmentation
from sharpmask.coco.annotations import photo_of
from sharpmask.coco.reader import load_ground_truth
from sharpmask.evaluation.evaluator import ProposalEvaluator
from sharpmask.evaluation.run import first_images
from sharpmask.masks import encode
from sharpmask.shapes import UInt8

Method = Callable[[UInt8[np.ndarray, "h w 3"]], list[dict[str, Any]]]
"""Gives COCO results of a photo, without its id."""
SCALES = (50, 100, 200, 400, 800)
"""Of Felzenszwalb's segments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--first", type=int, help="Only so many photos, those of the lowest ids.")
    parser.add_argument("--num-proposals", type=int, default=1000)
    parser.add_argument("--onnx", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    methods = all_methods(arguments.num_proposals, arguments.onnx)
    store("peers", compare(arguments.annotations, arguments.images, methods, arguments.first))


def all_methods(num_proposals: int, networks: list[Path]) -> dict[str, Method]:
    """What can be run here."""
    methods: dict[str, Method] = {
        f"sharpmask, {count} proposals": ours(count)
        for count in sorted({min(100, num_proposals), num_proposals})
    }
    try:
        import cv2

        assert cv2.ximgproc.segmentation
        methods["selective search"] = lambda pixels: selective_search(pixels)[:num_proposals]
    except (ImportError, AttributeError):
        print("selective search left out: install opencv-contrib-python-headless")
    try:
        import skimage.segmentation  # noqa: F401

        methods["Felzenszwalb"] = lambda pixels: felzenszwalb(pixels)[:num_proposals]
    except ImportError:
        print("Felzenszwalb's segments left out: install scikit-image")
    for path in networks:
        methods[path.name] = OnnxSegmentation(path, num_proposals)
    return methods


def ours(num_proposals: int) -> Method:
    """The default model."""
    proposer = sharpmask.Proposer(num_proposals=num_proposals)
    return lambda pixels: proposer(pixels).to_coco(0)


def selective_search(pixels: UInt8[np.ndarray, "h w 3"]) -> list[dict[str, Any]]:
    """OpenCV's selective search, its fast mode; the order is the score."""
    import cv2

    cv2.setRNGSeed(0)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[:, :, ::-1]))
    search.switchToSelectiveSearchFast()
    boxes = np.asarray(search.process()).reshape(-1, 4).tolist()
    return [
        {"bbox": box, "score": -float(rank), "category_id": 1} for rank, box in enumerate(boxes)
    ]


def felzenszwalb(pixels: UInt8[np.ndarray, "h w 3"]) -> list[dict[str, Any]]:
    """scikit-image's segments at several scales, the largest first: they have no scores."""
    from scipy.ndimage import find_objects
    from skimage.segmentation import felzenszwalb as segments_of

    records = []
    for scale in SCALES:
        labels = segments_of(pixels, scale=scale, sigma=0.8, min_size=50)
        for index, (rows, columns) in enumerate(find_objects(labels + 1)):
            mask = labels[rows, columns] == index
            rle = encode(mask, labels.shape, rows.start, columns.start)
            records.append({"segmentation": rle, "score": float(mask.sum()), "category_id": 1})
    return sorted(records, key=lambda record: -record["score"])


def compare(
    annotations: Path, images: Path, methods: dict[str, Method], first: int | None = None
) -> dict[str, Any]:
    """Recall and time of each method."""
    truth = load_ground_truth(annotations, photos=True)
    truth = truth if first is None else first_images(truth, first)
    evaluators: dict[str, ProposalEvaluator] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for entry in truth.images:
        pixels = photo_of(entry, images).read()
        for name, method in methods.items():
            if not times[name]:
                method(pixels)  # starts what the first call starts
            start = time.perf_counter(), time.process_time()
            found = method(pixels)
            end = time.perf_counter(), time.process_time()
            times[name].append((end[0] - start[0], end[1] - start[1]))
            if name not in evaluators:
                masks = all("segmentation" in record for record in found)
                evaluators[name] = ProposalEvaluator(masks=masks, boundary=False)
            evaluators[name].add(entry, [record | {"image_id": entry.id} for record in found])
    rows = {name: row(evaluators[name], times[name]) for name in methods}
    return {"photos": len(truth.images), "rows": rows}


def row(evaluator: ProposalEvaluator, times: list[tuple[float, float]]) -> dict[str, Any]:
    """Figures of a method; no masks if it gives boxes alone."""
    found = evaluator.summarize()
    return {
        "boxes": found.boxes.figures(),
        "masks": found.masks.figures() if found.masks else None,
        "proposals_of_a_photo": found.proposals / found.images,
        "median_s": median(wall for wall, _ in times),
        "median_cpu_s": median(cpu for _, cpu in times),
    }


if __name__ == "__main__":
    main()
