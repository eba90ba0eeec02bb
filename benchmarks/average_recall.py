"""Time of average recall against pycocotools in the same run, and peak memory of a large one.

pycocotools is timed on ``evaluate`` and ``accumulate`` alone, ours on all from parsed records to
recall, checks included. "files" begins at the two JSON files for both. The large run scores a file
of 5000 x 1000 mask proposals in a process of its own.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hotcoco.mask
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from machine import store
from sharpmask.coco.reader import load_ground_truth, parse_coco
from sharpmask.coco.results import ResultsFile
from sharpmask.evaluation.average_recall import PROPOSAL_COUNTS
from sharpmask.evaluation.evaluator import Evaluation, ProposalEvaluator, evaluate_results

HEIGHT, WIDTH = 480, 640

LARGE_RUN = """
import json, resource, sys, time
from pathlib import Path
from sharpmask.coco.reader import load_ground_truth
from sharpmask.coco.results import ResultsFile
from sharpmask.evaluation.evaluator import evaluate_results
start = time.perf_counter()
evaluate_results(load_ground_truth(Path(sys.argv[1])), ResultsFile(Path(sys.argv[2])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": time.perf_counter() - start, "peak_gib": peak}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large-images", type=int, default=5000)
    options = parser.parse_args()
    dataset, results = synthetic(options.images, options.proposals, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "versions": {name: version(name) for name in ("numpy", "hotcoco", "pycocotools")},
            "config": {**vars(options), "objects": len(dataset["annotations"])},
            **compare(dataset, results, Path(folder), options.repeats),
            "large_run": large_run(dataset, results, Path(folder), options.large_images),
        }
    store("average_recall", report)


def compare(
    dataset: dict[str, Any], results: list[dict[str, Any]], folder: Path, repeats: int
) -> dict[str, Any]:
    """Alternate pycocotools and ours, and check that the recalls are equal bit for bit."""
    files = write_files(folder, dataset, results, copies=1)
    runs: dict[str, Callable[[], Any]] = {
        "pycocotools boxes": lambda: run_quietly(boxes),
        "ours boxes": lambda: score(dataset, results, masks=False),
        "pycocotools masks": lambda: run_quietly(masks),
        "ours boxes and masks": lambda: score(dataset, results, masks=True),
        "pycocotools files": lambda: pycocotools_files(*files),
        "ours files": lambda: score_files(*files, boundary=False),
        "ours files, boundary too": lambda: score_files(*files, boundary=True),
    }
    wall, cpu = (defaultdict[str, list[float]](list) for _ in range(2))
    outcome = {}
    for _ in range(repeats):
        # COCOeval forgets its categories while it runs: a second run of one would find nothing.
        boxes, masks = (pycocotools_evaluator(dataset, results, kind) for kind in ("bbox", "segm"))
        for name, run in runs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            outcome[name] = run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    ours = outcome["ours boxes and masks"]
    for kind, summary in (("boxes", ours.boxes), ("masks", ours.masks)):
        mine = summary.recall[:, :, np.array(PROPOSAL_COUNTS) - 1]
        assert np.array_equal(outcome[f"pycocotools {kind}"], mine), kind
    return {
        "load_average": os.getloadavg()[0],
        "recall_equal_bit_for_bit": True,
        "wall": times(wall),
        "cpu": times(cpu),
    }


def times(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, spread, and how many times faster ours is."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    both = median["pycocotools boxes"] + median["pycocotools masks"]
    return {
        "seconds": {
            name: {"median": median[name], "min": min(values), "max": max(values)}
            for name, values in seconds.items()
        },
        "times_faster": {
            "boxes": median["pycocotools boxes"] / median["ours boxes"],
            "boxes and masks": both / median["ours boxes and masks"],
            "files": median["pycocotools files"] / median["ours files"],
        },
    }


def large_run(
    dataset: dict[str, Any], results: list[dict[str, Any]], folder: Path, images: int
) -> dict[str, Any]:
    """Repeat the data set until it has enough images; score all of it in a fresh process."""
    copies = -(-images // len(dataset["images"]))
    files = write_files(folder, dataset, results, copies)
    output = subprocess.run(
        [sys.executable, "-c", LARGE_RUN, *files], check=True, capture_output=True, text=True
    ).stdout
    return {
        "what": "run in full: boxes, masks and boundary quality, from files",
        "images": copies * len(dataset["images"]),
        "proposals": copies * len(results),
        "file_gib": files[1].stat().st_size / 2**30,
        **json.loads(output),
    }


def score(dataset: dict[str, Any], results: list[dict[str, Any]], *, masks: bool) -> Evaluation:
    """Ours, from parsed records."""
    evaluator = ProposalEvaluator(masks=masks, boundary=False)
    proposals = defaultdict[int | str, list[Any]](list)
    for record in results:
        proposals[record["image_id"]].append(record)
    for image in parse_coco(dataset).images:
        evaluator.add(image, proposals[image.id])
    return evaluator.summarize()


def score_files(annotations: Path, proposals: Path, *, boundary: bool) -> Evaluation:
    truth, results = load_ground_truth(annotations), ResultsFile(proposals)
    return evaluate_results(truth, results, boundary=boundary)


def pycocotools_files(annotations: Path, proposals: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        found = truth.loadRes(str(proposals))
        for kind in ("bbox", "segm"):
            run_quietly(configured(COCOeval(truth, found, kind)))


def pycocotools_evaluator(
    dataset: dict[str, Any], results: list[dict[str, Any]], kind: str
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        return configured(COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind))


def configured(evaluator: COCOeval) -> COCOeval:
    evaluator.params.useCats = 0
    evaluator.params.maxDets = list(PROPOSAL_COUNTS)
    return evaluator


def run_quietly(evaluator: COCOeval) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["recall"][:, 0]


def synthetic(
    images: int, proposals: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """2 to 14 blobs an image; 40 % of the proposals are near one of them, the rest anywhere."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        blobs = [random_blob(rng) for _ in range(rng.integers(2, 15))]
        for blob in blobs:
            rle = outline(blob)
            annotations.append(
                record(image_id, rle)
                | {"id": len(annotations) + 1, "area": float(hotcoco.mask.area(rle))}
                | {"iscrowd": int(len(annotations) % 50 == 49)}
            )
        for _ in range(proposals):
            blob = random_blob(rng)
            if rng.random() < 0.4:
                jitter = rng.choice([0.05, 0.15, 0.3])
                blob = blobs[rng.integers(len(blobs))].copy()
                blob[:2] += rng.normal(size=2) * jitter * blob[2]
                blob[2] *= np.exp(rng.normal() * jitter)
                blob[6:] += rng.normal(size=3) * 0.05
            results.append(record(image_id, outline(blob)) | {"score": float(rng.random())})
    entries = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
    categories = [{"id": 1, "name": "object"}]
    return {"images": entries, "annotations": annotations, "categories": categories}, results


def random_blob(rng: np.random.Generator) -> Any:
    """Centre x, y, radius, and phase and strength of three waves of the outline."""
    radius = np.exp(rng.uniform(np.log(10), np.log(150)))
    waves = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0, 0.2, 3)
    return np.array([rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT), radius, *waves[0], *waves[1]])


def outline(blob: Any) -> Any:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    waves = sum(blob[6 + k] * np.cos((k + 2) * angle + blob[3 + k]) for k in range(3))
    x = np.clip(blob[0] + blob[2] * (1 + waves) * np.cos(angle), 0, WIDTH)
    y = np.clip(blob[1] + 0.8 * blob[2] * (1 + waves) * np.sin(angle), 0, HEIGHT)
    return hotcoco.mask.fr_poly(np.stack([x, y], axis=1).ravel().tolist(), HEIGHT, WIDTH)


def record(image_id: int, rle: Any) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": hotcoco.mask.to_bbox(rle).tolist(),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


def write_files(
    folder: Path, dataset: dict[str, Any], results: list[dict[str, Any]], copies: int
) -> tuple[Path, Path]:
    """Write ground truth and results, repeated under new image ids."""
    annotations, proposals = folder / f"truth{copies}.json", folder / f"results{copies}.json"
    images = len(dataset["images"])
    repeated: dict[str, Any] = {"categories": dataset["categories"]}
    for key, name in (("images", "id"), ("annotations", "image_id")):
        repeated[key] = [
            entry | {name: entry[name] + images * n}
            for n in range(copies)
            for entry in dataset[key]
        ]
    annotations.write_text(json.dumps(repeated))
    with proposals.open("w") as file:
        for n in range(copies):
            shifted = [entry | {"image_id": entry["image_id"] + images * n} for entry in results]
            file.write(("," if n else "[") + json.dumps(shifted)[1:-1])
        file.write("]")
    return annotations, proposals


if __name__ == "__main__":
    main()
