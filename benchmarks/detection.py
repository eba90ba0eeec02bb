"""Names for proposals: Fast R-CNN and R-CNN, by number of proposals, and by number of examples.

Trains on the completely labelled photos for the categories with at least 50 objects there, and
measures COCO AP: with the proposals' scores in the product and without, beside the ceiling (perfect
labels on the same proposals) and, given --selective-search, on selective search's proposals, on
every fourth photo, by the same detectors, which learned on ours; that needs
opencv-contrib-python-headless. Finished parts lie in --work and are not repeated.

    python benchmarks/detection.py --train train.json --val val.json --images DIR --work DIR
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from machine import store
from sharpmask.boxes import iou
from sharpmask.cli.console import progress
from sharpmask.coco.annotations import CocoDataset, CocoImage, load_coco
from sharpmask.detection.detections import Category
from sharpmask.detection.detector import Detector
from sharpmask.detection.examples import Describe, KeptVectors, collect
from sharpmask.detection.files import load_head, save_head
from sharpmask.detection.heads import Kind, RegionHead
from sharpmask.detection.matching import frequent_categories
from sharpmask.detection.proposing import Photos, Proposing
from sharpmask.detection.region_sources import FileRegions, regions_of_all
from sharpmask.detection.regions import Regions
from sharpmask.detection.training import (
    MEASURED_SCORE,
    chosen_categories,
    learn,
    precision_figures,
)
from sharpmask.files import write_json
from sharpmask.inference.batch import streams_for
from sharpmask.models.sources import source_fingerprint
from sharpmask.shapes import Float

MIN_OBJECTS = 50
SHIPPED_OBJECTS = 10
"""The same of the detector that ships, which knows more categories."""
TRAINED_WITH = 100
"""Proposals of a photo to learn from."""
COUNTS = (10, 30, 100)
"""Proposals of a photo that are named."""
SEARCHED = 4
"""Of so many validation photos one is looked at by selective search."""
EXAMPLES = (5, 20, 100)
"""Objects of each category to learn from."""
SCALES = "0.5,0"
"""Names need more detail than masks: see docs/log.md."""
NAMES: dict[Kind, str] = {"fast-rcnn": "Fast R-CNN", "rcnn": "R-CNN"}


@dataclass(frozen=True)
class Measured:
    """Photos to measure on, with the vectors of their regions.

    Attributes:
        annotations: Their file.
        photos: With their regions, best first.
        describe: Makes the vectors.
        categories: To average over.
    """

    annotations: Path
    photos: Photos
    describe: Describe
    categories: Sequence[Category]

    def figures(self, head: RegionHead, count: int, *, scored: bool = True) -> dict[str, float]:
        """AP of a head on the first regions of each photo, with their scores or without."""
        detector = Detector(head, None, min_score=MEASURED_SCORE)  # type: ignore[arg-type]
        records = []
        for image, regions in self.photos:
            vectors = self.describe(image, regions.boxes)[:count]
            first = best(regions, count)
            scores, boxes = head.classify(vectors, first.boxes, image.size)
            if not scored:
                first = replace(first, scores=np.ones(len(first)))
            blank = np.zeros((*image.size, 3), np.uint8)
            records += detector.best(blank, first, scores, boxes).to_coco(int(image.id))
        return precision_figures(self.annotations, records, self.categories)

    def ceiling(self, data: CocoDataset, count: int) -> dict[str, float]:
        """AP if each object's best proposal among the first had its name, and no other had one."""
        names = {category.name: category.id for category in self.categories}
        records = []
        for image, regions in self.photos:
            first = best(regions, count)
            known = [i for i in image.instances if data.categories[i.category] in names]
            if not known or not len(first):
                continue
            overlaps = iou(np.array([i.box for i in known]), first.boxes)
            for instance, row in zip(known, overlaps, strict=True):
                x0, y0, x1, y1 = first.boxes[row.argmax()].tolist()
                record = {
                    "image_id": int(image.id),
                    "category_id": names[data.categories[instance.category]],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(row.max()),
                }
                if first.rles:
                    record["segmentation"] = first.rles[row.argmax()]
                records.append(record)
        return precision_figures(self.annotations, records, self.categories)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("train", "val", "images", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--selective-search", action="store_true")
    arguments = parser.parse_args()
    work = arguments.work
    whole = load_coco(arguments.train, arguments.images)
    data = replace(whole, images=tuple(image for image in whole.images if image.complete))
    validation = load_coco(arguments.val, arguments.images)
    numbers = frequent_categories(data, MIN_OBJECTS)
    categories = chosen_categories(data, numbers)
    proposing = Proposing(num_proposals=max(COUNTS), scales=SCALES)
    proposer = proposing.proposer("cpu", streams_for(len(data.images)))
    vectors = remembered(
        KeptVectors(proposer, source_fingerprint(proposing.weights), work / "vectors")
    )

    def proposed(images: Sequence[CocoImage]) -> Photos:
        return proposing.regions(images, None, proposer, print, progress)

    measured = Measured(arguments.val, proposed(validation.images), vectors, categories)
    learned = proposed(data.images)
    folder = work / "ours"
    wide = frequent_categories(data, SHIPPED_OBJECTS)
    shipped = trained("fast-rcnn", learned, data, wide, vectors, folder / "shipped.safetensors")
    of_shipped = kept(folder / "shipped.json", partial(measured.figures, shipped, TRAINED_WITH))
    print("shipped", of_shipped, flush=True)
    heads = {
        kind: trained(kind, learned, data, numbers, vectors, folder / f"{kind}.safetensors")
        for kind in NAMES
    }
    figures = compare("ours", heads, measured, validation, folder)
    curve = by_examples(learned, numbers, categories, vectors, measured, folder)
    searched = by_search(heads, measured, validation, work) if arguments.selective_search else {}
    draw(figures, curve)
    store(
        "detection",
        {
            "categories": [category.name for category in categories],
            "photos": len(data.images),
            "proposals_in_training": TRAINED_WITH,
            "figures": figures,
            "shipped": {**of_shipped, "categories": len(wide)},
            "examples": curve,
            "searched": searched,
        },
    )


def compare(
    method: str,
    heads: Mapping[Kind, RegionHead],
    measured: Measured,
    validation: CocoDataset,
    folder: Path,
) -> dict[str, dict[str, dict[str, float]]]:
    """AP on a method's regions, by their number: perfect labels, and both kinds of detectors."""
    figures: dict[str, dict[str, dict[str, float]]] = {}

    def note(label: str, count: int, part: str, measure: Callable[[], dict[str, float]]) -> None:
        found = kept(folder / f"{part}_{count}.json", measure)
        figures.setdefault(f"{label}, {method}", {})[str(count)] = found
        print(label, method, count, found, flush=True)

    for count in COUNTS:
        ceiling = partial(measured.ceiling, validation, count)
        note("perfect labels", count, "ceiling", ceiling)
    for kind, name in NAMES.items():
        for count in COUNTS:
            find = partial(measured.figures, heads[kind], count)
            note(name, count, kind, find)
            if method == "ours":  # selective search gives no scores
                label = f"{name} without scores"
                note(label, count, f"{kind}_alone", partial(find, scored=False))
    return figures


def by_search(
    heads: Mapping[Kind, RegionHead], measured: Measured, validation: CocoDataset, work: Path
) -> dict[str, Any]:
    """AP on selective search's regions and on ours, on some of the photos: it takes long."""
    folder = work / "selective_search"
    content = json.loads(measured.annotations.read_text())
    content["images"] = content["images"][::SEARCHED]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    write_json(folder / "val.json", content)
    some = [photo for photo in measured.photos if photo[0].id in ids]
    images = [image for image, _ in some]
    kept(folder / "found.json", lambda: selective_search(images))
    source = FileRegions(folder / "found.json", max(COUNTS), images, print)
    found = list(regions_of_all(images, source, report=print))
    ours = replace(measured, annotations=folder / "val.json", photos=some)
    theirs = replace(ours, photos=found)
    return {
        "photos": len(some),
        "figures": {
            **compare("ours", heads, ours, validation, folder / "ours"),
            **compare("selective search", heads, theirs, validation, folder / "theirs"),
        },
    }


def trained(
    kind: Kind,
    photos: Photos,
    data: CocoDataset,
    numbers: Mapping[int, int],
    vectors: Describe,
    file: Path,
) -> RegionHead:
    """A head from its file, learned if that is not there."""
    if not file.exists():
        examples = collect(vectors, photos, numbers)
        save_head(learn(kind, examples, chosen_categories(data, numbers), seed=0), file)
    return load_head(file)


def by_examples(
    photos: Photos,
    numbers: Mapping[int, int],
    categories: Sequence[Category],
    vectors: Describe,
    measured: Measured,
    folder: Path,
) -> dict[str, dict[str, dict[str, float]]]:
    """AP of both kinds by the number of objects of each category that they learned from."""
    curve: dict[str, dict[str, dict[str, float]]] = {}
    for count in EXAMPLES:
        few = list(with_few(photos, numbers, count))
        print(count, "examples of each category, on", len(few), "photos", flush=True)
        for kind, name in NAMES.items():

            def measure(kind: Kind = kind, few: Photos = few) -> dict[str, float]:
                examples = collect(vectors, few, numbers)
                return measured.figures(learn(kind, examples, categories, seed=0), TRAINED_WITH)

            found = kept(folder / f"{kind}_{count}_examples.json", measure)
            curve.setdefault(name, {})[str(count)] = found
            print(name, count, "examples", found, flush=True)
    return curve


def with_few(
    photos: Photos, numbers: Mapping[int, int], count: int
) -> Iterator[tuple[CocoImage, Regions]]:
    """Photos in a random order until they show ``count`` objects of each category.

    Further objects of a category are neither objects nor background.
    """
    left = dict.fromkeys(numbers, count)
    for index in np.random.default_rng(0).permutation(len(photos)).tolist():
        image, regions = photos[index]
        kept_ones, others = [], []
        for instance in image.instances:
            if instance.category in left and not left[instance.category]:
                others.append(instance.box)
                continue
            if instance.category in left:
                left[instance.category] -= 1
            kept_ones.append(instance)
        if any(instance.category in left for instance in kept_ones):
            crowds = (*image.crowds, *others)
            yield replace(image, instances=tuple(kept_ones), crowds=crowds), regions


def kept(file: Path, compute: Callable[[], Any]) -> Any:
    """The content of a JSON file, computed if it is not there."""
    if not file.exists():
        write_json(file, compute())
    return json.loads(file.read_text())


def remembered(describe: Describe) -> Describe:
    """The same; what was described once is not described again among other regions."""
    known: dict[tuple[Path, bytes], Float[np.ndarray, " c"]] = {}

    def look(image: CocoImage, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n c"]:
        keys = [(image.path, box.tobytes()) for box in boxes]
        if not all(key in known for key in keys):
            known.update(zip(keys, describe(image, boxes), strict=True))
        return np.array([known[key] for key in keys])

    return look


def best(regions: Regions, count: int) -> Regions:
    """The first regions."""
    rles = regions.rles and regions.rles[:count]
    return Regions(regions.boxes[:count], rles, regions.scores[:count])


def selective_search(images: Sequence[CocoImage]) -> list[dict[str, Any]]:
    """COCO results of OpenCV's selective search, its fast mode; the order is the score."""
    with ProcessPoolExecutor() as processes:
        found = progress(processes.map(search, images), len(images))
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
        for rank, box in enumerate(np.asarray(segmentation.process())[: max(COUNTS)].tolist())
    ]


def draw(
    figures: Mapping[str, Mapping[str, Mapping[str, float]]],
    curve: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> None:
    """AP50 of boxes and masks against the number of proposals; against that of examples."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    plots = [
        ("boxes", "proposals of a photo", COUNTS, figures),
        ("masks", "proposals of a photo", COUNTS, figures),
        ("boxes", "examples of each category", EXAMPLES, curve),
    ]
    for column, (kind, label, ticks, lines) in enumerate(plots, 1):
        axes = figure.add_subplot(1, 3, column, xlabel=label, title=kind)
        for method, by_count in lines.items():
            points = {int(c): f[f"{kind}_AP50"] for c, f in by_count.items() if f"{kind}_AP50" in f}
            if points and "without" not in method:
                values = [100 * value for value in points.values()]
                axes.semilogx(list(points), values, "o-", label=method)
        axes.set_xticks(ticks, [str(count) for count in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_ylabel("AP50 x 100")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    buffer = Path(__file__).parents[1] / "docs" / "detection.png"
    figure.savefig(buffer, dpi=80)
    with Image.open(buffer) as picture:
        picture.quantize(64).save(buffer)


if __name__ == "__main__":
    main()
