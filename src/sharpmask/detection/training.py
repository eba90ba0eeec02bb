"""Training of detectors on the regions of a data set's photos."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric

from sharpmask.coco.annotations import CocoDataset
from sharpmask.detection.detections import Category
from sharpmask.detection.detector import Detector
from sharpmask.detection.fast_rcnn import FastRCNN, detection_loss
from sharpmask.detection.files import load_classifier, save_classifier
from sharpmask.detection.matching import frequent_categories
from sharpmask.detection.proposing import Photos, Proposing
from sharpmask.detection.rcnn import KeptVectors, RegionNet, collect, train_rcnn
from sharpmask.detection.region_batches import RegionDataset, collate_regions
from sharpmask.evaluation.average_precision import average_precision
from sharpmask.extras import extras_for
from sharpmask.inference.batch import Progress, Report, silent, unshown
from sharpmask.models.pretrained import load_backbone
from sharpmask.models.sources import source_fingerprint
from sharpmask.training.loop import fit
from sharpmask.training.origin import MODEL, StrPath, data_of_run, data_origin, remember
from sharpmask.training.recipes import Recipe, fast_rcnn

Kind = Literal["rcnn", "fast-rcnn"]
MEASURED_SCORE = 0.01
"""Average Precision counts detections down to here."""


def train_detector(
    *,
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    output: StrPath,
    init: StrPath,
    val: StrPath | None = None,
    kind: Kind = "rcnn",
    backbone: str = "mobilenet_v2",
    categories: Sequence[str] = (),
    min_objects: int = 10,
    proposing: Proposing | None = None,
    recipe: Recipe | None = None,
    fabric: Fabric | None = None,
    workers: int = 1,
    report: Report = silent,
    progress: Progress = unshown,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """R-CNN or Fast R-CNN, names for proposals: what ``sharpmask train detector`` does.

    Writes the detector to ``output/model.safetensors``; the same call goes on with a run that was
    stopped.

    Args:
        train: COCO annotation files; only photos on which every object is labelled are used.
        images: Folder of the photos.
        output: Folder of the run.
        init: ImageNet weights of the backbone: a file or Hugging Face repository.
        val: COCO annotation file to measure Average Precision on.
        kind: "rcnn" (trained in minutes, by one process) or "fast-rcnn".
        backbone: One of ``TAILS``.
        categories: Names of those to learn; all if empty.
        min_objects: Categories with fewer objects are left out.
        proposing: How regions are found.
        recipe: All numbers, for "fast-rcnn"; an R-CNN takes the seed of it alone.
        fabric: Device, precision and number of processes; one device if None.
        workers: Processes that prepare data, for "fast-rcnn".
        report: Is told, in a line each, what the data hold and what is left out of them.
        progress: Shows how many photos, or categories, are done.
        on_step: Is told after each step of "fast-rcnn" the number of steps done and the loss.

    Returns:
        Average Precision on ``val``, empty without it.

    Raises:
        ValueError: Bad data or options, the folder holds another run, or another run writes there.
        Stopped: After Ctrl-C or SIGTERM, when the state of "fast-rcnn" is saved.
    """
    images, output = Path(images), Path(output)
    val = Path(val) if val else None
    recipe = recipe or fast_rcnn()
    proposing = proposing or Proposing()
    fabric = fabric or Fabric(accelerator="auto", devices=1)
    fabric.launch()
    is_first = fabric.is_global_zero
    say = report if is_first else silent
    with data_of_run(train, images, val, output=output, fabric=fabric, report=say) as read:
        data, validation = complete_photos(read[0]), read[1]
        numbers = frequent_categories(data, min_objects, categories)
        chosen = chosen_categories(data, numbers)
        names = [category.name for category in chosen]
        say(f"{len(names)} categories: {', '.join(names)}")
        if val:
            average_precision(val, [], categories=names)  # finds what is wrong with the file
            if proposing.file and not proposing.val_file:
                raise ValueError("--val-proposals: give the proposals of the photos of --val too")
        torch.manual_seed(recipe.seed)
        net = RegionNet(backbone) if kind == "rcnn" else FastRCNN(chosen, backbone=backbone)
        load_backbone(net.backbone, init, tail=net.tail)
        origin = {
            "command": "train detector",
            "kind": kind,
            "backbone": backbone,
            "category": names,
            "init": source_fingerprint(init),
            **proposing.origin(),
            **data_origin(data, validation, images),
        }
        remember(output, origin, report=say, write=is_first)
        find = partial(proposing.regions, device=fabric.device.type, report=say, progress=progress)
        validate = None
        if val and validation:
            validate = detection_figures(val, find(validation.images, proposing.val_file))
        photos = find(data.images, proposing.file)
        metadata = {"proposals": proposing.note(), "data": {"photos": len(photos)}}
        if isinstance(net, RegionNet):
            file = fit_rcnn(
                net.to(fabric.device), photos, data, numbers, output=output, metadata=metadata,
                seed=recipe.seed, progress=progress,
            )  # fmt: skip
            trained = Detector(load_classifier(file), min_score=MEASURED_SCORE)
            return validate(trained) if validate else {}
        return fit_fast_rcnn(
            net, photos, data, numbers, recipe=recipe, output=output, metadata=metadata,
            fabric=fabric, workers=workers, validate=validate, on_step=on_step,
        )  # fmt: skip


def complete_photos(data: CocoDataset) -> CocoDataset:
    """The photos on which every object is labelled; from others no background can be learned.

    Raises:
        ValueError: There is none.
    """
    images = tuple(image for image in data.images if image.complete)
    if not images:
        raise ValueError("no photo is completely labelled: nothing could be taken for background")
    return replace(data, images=images)


def chosen_categories(data: CocoDataset, numbers: Mapping[int, int]) -> list[Category]:
    """The detector's categories in its order."""
    return [Category(data.category_ids[k], data.categories[k]) for k in numbers]


def detection_figures(annotations: Path, photos: Photos) -> Callable[[Detector], dict[str, float]]:
    """A function that measures a detector on photos."""

    def measure(detector: Detector) -> dict[str, float]:
        names = [category.name for category in detector.classifier.categories]
        records = [
            record
            for image, regions in photos
            for record in detector(image.read(), regions).to_coco(int(image.id))
        ]
        figures = average_precision(annotations, records, categories=names)
        return {
            f"{kind}_{metric}": values[metric]
            for kind, values in figures.items()
            for metric in ("AP", "AP50")
        }

    return measure


def fit_rcnn(
    net: RegionNet,
    photos: Photos,
    data: CocoDataset,
    numbers: Mapping[int, int],
    *,
    output: Path,
    metadata: Mapping[str, Any],
    seed: int,
    progress: Progress = unshown,
) -> Path:
    """Train an R-CNN and write it. A run that was stopped goes on with the photos left.

    Args:
        net: Describes the regions; not changed.
        photos: Completely labelled photos and their regions.
        data: The data set that they are of.
        numbers: The detector's index of each category (see ``frequent_categories``).
        output: Folder of the run.
        metadata: Goes into the file.
        seed: Of the first negatives.
        progress: Shows how many photos, or categories, are done.

    Returns:
        The file.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        ValueError: There is nothing to learn from.
    """
    with extras_for("training of an R-CNN"):
        import sklearn  # noqa: F401
    kept = KeptVectors(net, output / "vectors")
    examples = collect(kept, progress(photos, len(photos), "photos described"), numbers)
    categories = chosen_categories(data, numbers)
    described = len(examples.vectors)
    rcnn = train_rcnn(
        net,
        examples,
        categories,
        seed=seed,
        progress=progress,
    )
    file = output / MODEL
    save_classifier(rcnn, file, metadata={**metadata, "regions": described})
    shutil.rmtree(kept.folder, ignore_errors=True)
    return file


def fit_fast_rcnn(
    model: FastRCNN,
    photos: Photos,
    data: CocoDataset,
    numbers: Mapping[int, int],
    *,
    recipe: Recipe,
    output: Path,
    metadata: Mapping[str, Any],
    fabric: Fabric,
    workers: int,
    validate: Callable[[Detector], dict[str, float]] | None,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Train a Fast R-CNN by ``fit``, which resumes a stopped run, and write it.

    Args:
        model: With ImageNet weights; changed in place and left as ``fit`` leaves it.
        photos: Completely labelled photos and their regions.
        data: The data set that they are of.
        numbers: The detector's index of each category.
        recipe: All numbers.
        output: Folder of the run.
        metadata: Goes into the file.
        fabric: Launched.
        workers: Processes that prepare data.
        validate: Figures of a detector.
        on_step: Is told after each step the number of steps done and the loss.

    Returns:
        The last figures, empty without ``validate``.
    """
    for layer in model.backbone.layers_to(recipe.frozen_stride):
        layer.requires_grad_(False)
    dataset = RegionDataset(
        replace(data, images=tuple(image for image, _ in photos)),
        [regions for _, regions in photos],
        numbers,
        seed=recipe.seed,
        image_size=model.image_size,
        colour_jitter=recipe.colour_jitter,
    )
    return fit(
        model,
        dataset=dataset,
        collate=collate_regions,
        loss=detection_loss,
        validate=(lambda trained: validate(Detector(trained, min_score=MEASURED_SCORE)))  # type: ignore[arg-type]
        if validate
        else None,
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
        save=lambda known: save_classifier(model, output / MODEL, metadata={**metadata, **known}),
        on_step=on_step,
    )
