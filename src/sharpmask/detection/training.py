"""Training of detectors on the regions of a data set's photos."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from lightning_fabric import Fabric

from sharpmask.coco.annotations import CocoDataset, CocoImage
from sharpmask.coco.reader import read_coco
from sharpmask.detection.detections import Category
from sharpmask.detection.detector import Detector
from sharpmask.detection.examples import Examples, KeptVectors, collect
from sharpmask.detection.fast_rcnn import train_fast_rcnn
from sharpmask.detection.files import save_head
from sharpmask.detection.heads import Kind, RegionHead
from sharpmask.detection.matching import frequent_categories
from sharpmask.detection.proposing import Photos, Proposing
from sharpmask.detection.rcnn import train_rcnn
from sharpmask.detection.regions import Regions
from sharpmask.evaluation.average_precision import average_precision
from sharpmask.extras import extras_for
from sharpmask.inference.batch import Progress, Report, map_ordered, silent, streams_for, unshown
from sharpmask.models.sources import source_fingerprint
from sharpmask.training.origin import MODEL, StrPath, data_of_run, data_origin, remember

MEASURED_SCORE = 0.01
"""Average Precision counts detections down to here."""


def train_detector(
    *,
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    output: StrPath,
    val: StrPath | None = None,
    kind: Kind = "rcnn",
    categories: Sequence[str] = (),
    min_objects: int = 10,
    proposing: Proposing | None = None,
    device: str = "auto",
    seed: int = 0,
    report: Report = silent,
    progress: Progress = unshown,
) -> dict[str, float]:
    """R-CNN or Fast R-CNN, names for proposals: what ``sharpmask train detector`` does.

    Writes the detector to ``output/model.safetensors``; the same call goes on with a run that was
    stopped: regions and their vectors are kept.

    Args:
        train: COCO annotation files; boxes are enough. On photos that are partly labelled nothing
            is taken for background.
        images: Folder of the photos.
        output: Folder of the run.
        val: COCO annotation file to measure Average Precision on.
        kind: "rcnn", the better one up to a hundred objects of a category, or "fast-rcnn".
        categories: Names of those to learn, or one name; all if empty.
        min_objects: Categories with fewer objects are left out.
        proposing: How regions are found.
        device: Where the proposer runs: "auto", "cpu" or "cuda".
        seed: Of all that is random.
        report: Is told, in a line each, what the data hold and what is left out of them.
        progress: Shows how many photos, categories or steps are done.

    Returns:
        Average Precision on ``val``, empty without it.

    Raises:
        MissingExtraError: scikit-learn, for "rcnn", is not installed.
        ValueError: Bad data or options, the folder holds another run, or another run writes there.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: expected {' or '.join(get_args(Kind))}, got {kind!r}")
    if isinstance(categories, str):
        categories = [categories]
    if kind == "rcnn":
        with extras_for("training of an R-CNN"):
            import sklearn  # noqa: F401
    images, output = Path(images), Path(output)
    val = Path(val) if val else None
    proposing = proposing or Proposing()
    fabric = Fabric(accelerator="cpu", devices=1)
    with data_of_run(
        train, images, val, output=output, fabric=fabric, report=report, boxes=True
    ) as read:
        data, validation = read
        numbers = frequent_categories(data, min_objects, categories)
        chosen = chosen_categories(data, numbers)
        names = [category.name for category in chosen]
        report(f"{len(names)} categories: {', '.join(names)}")
        if val:
            average_precision(val, [], categories=names)  # finds what is wrong with the file
            if proposing.file and not proposing.val_file:
                raise ValueError("--val-proposals: give the proposals of the photos of --val too")
        origin = {
            "command": "train detector",
            "kind": kind,
            "category": names,
            "seed": seed,
            **proposing.origin(),
            **data_origin(data, validation, images),
        }
        remember(output, origin, report=report, write=True)
        streams = streams_for(len(data.images))
        proposer = proposing.proposer(device, streams)
        photos = proposing.regions(data.images, proposing.file, proposer, report, progress)
        kept = KeptVectors(proposer, source_fingerprint(proposing.weights), output / "vectors")
        examples = collect(
            kept, photos, numbers, streams=streams,
            progress=lambda parts: progress(parts, len(photos), "photos described"),
        )  # fmt: skip
        head = learn(kind, examples, chosen, seed=seed, progress=progress)
        metadata = {
            "proposals": proposing.note(),
            "data": {"photos": len(photos), "regions": len(examples.vectors)},
        }
        save_head(head, output / MODEL, metadata=metadata)
        shutil.rmtree(kept.folder, ignore_errors=True)
        if not val or not validation:
            return {}
        found = proposing.regions(validation.images, proposing.val_file, proposer, report, progress)
        detector = Detector(head, proposer, min_score=MEASURED_SCORE)
        return detection_figures(detector, found, val, progress=progress)


def learn(
    kind: Kind,
    examples: Examples,
    categories: Sequence[Category],
    *,
    seed: int,
    progress: Progress = unshown,
) -> RegionHead:
    """A head of a kind."""
    train = {"rcnn": train_rcnn, "fast-rcnn": train_fast_rcnn}[kind]
    return train(examples, categories, seed=seed, progress=progress)


def chosen_categories(data: CocoDataset, numbers: Mapping[int, int]) -> list[Category]:
    """The detector's categories in its order."""
    return [Category(data.category_ids[k], data.categories[k]) for k in numbers]


def detection_figures(
    detector: Detector, photos: Photos, annotations: Path, *, progress: Progress = unshown
) -> dict[str, float]:
    """Average Precision of a detector on photos with their regions."""

    def find(photo: tuple[CocoImage, Regions]) -> list[dict[str, Any]]:
        image, regions = photo
        read = detector.proposer.read(image.read())
        return detector.on(read, regions).to_coco(int(image.id))

    calls = map_ordered(find, photos, streams_for(len(photos)))
    records = [
        record
        for call in progress(calls, len(photos), "photos measured")
        for record in call.result()
    ]
    return precision_figures(annotations, records, detector.head.categories)


def precision_figures(
    annotations: Path, records: Sequence[Mapping[str, Any]], categories: Sequence[Category]
) -> dict[str, float]:
    """AP and AP50 of boxes and masks, over some categories.

    Args:
        annotations: COCO annotation file. It may number the categories in another way: names count.
        records: COCO results with the ids of ``categories``.
        categories: Those to average over.
    """
    own = {name: category_id for category_id, name in read_coco(annotations).categories}
    ids = {category.id: own.get(category.name, category.id) for category in categories}
    renumbered = [r | {"category_id": ids[r["category_id"]]} for r in map(dict, records)]
    figures = average_precision(annotations, renumbered, categories=[c.name for c in categories])
    return {
        f"{kind}_{metric}": values[metric]
        for kind, values in figures.items()
        for metric in ("AP", "AP50")
    }
