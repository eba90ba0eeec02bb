"""Training of detectors on the regions of a data set's photos."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from sharpmask.coco.annotations import CocoDataset, CocoImage
from sharpmask.detection.detector import Category, Detector
from sharpmask.detection.fast_rcnn import FastRCNN, detection_loss
from sharpmask.detection.files import save_classifier
from sharpmask.detection.rcnn import KeptVectors, RegionNet, collect, train_rcnn
from sharpmask.detection.region_batches import RegionDataset, collate_regions
from sharpmask.detection.regions import Regions
from sharpmask.evaluation.average_precision import average_precision
from sharpmask.training.loop import fit
from sharpmask.training.recipes import Recipe

Photos = Sequence[tuple[CocoImage, Regions]]
"""Photos and where to look in them."""


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
    track: Callable[..., Any],
) -> Path:
    """Train an R-CNN and write it. A run that is stopped goes on with the photos left.

    Args:
        net: Describes the regions; not changed.
        photos: Completely labelled photos and their regions.
        data: The data set that they are of.
        numbers: The detector's number of each category (see ``frequent_categories``).
        output: Folder of the run.
        metadata: Goes into the file.
        seed: Of the first negatives.
        track: Wraps a sequence and takes a description, to show a bar for example.

    Returns:
        The file.

    Raises:
        ValueError: scikit-learn is not installed, or there is nothing to learn from.
    """
    if not find_spec("sklearn"):
        raise ValueError("R-CNN needs scikit-learn to be trained; pip install 'sharpmask[rcnn]'")
    kept = KeptVectors(net, output / "vectors")
    examples = collect(kept, track(photos, "describing regions"), numbers)
    categories = chosen_categories(data, numbers)
    described = len(examples.vectors)
    rcnn = train_rcnn(
        net, examples, categories, seed=seed, track=lambda items: track(items, "fitting SVMs")
    )
    file = output / "model.safetensors"
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
) -> dict[str, float]:
    """Train a Fast R-CNN by ``fit``, which resumes a stopped run, and write it.

    Args:
        model: With ImageNet weights; changed in place.
        photos: Completely labelled photos and their regions.
        data: The data set that they are of.
        numbers: The detector's number of each category.
        recipe: All numbers.
        output: Folder of the run.
        metadata: Goes into the file.
        fabric: Launched.
        workers: Processes that prepare data.
        validate: Figures of a detector.

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
    figures = fit(
        model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        dataset=dataset,
        collate=collate_regions,
        loss=detection_loss,
        validate=(lambda trained: validate(Detector(trained))) if validate else None,  # type: ignore[arg-type]
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
    )
    if fabric.is_global_zero:
        metadata = {**metadata, "recipe": asdict(recipe), "validation": figures}
        save_classifier(model, output / "model.safetensors", metadata=metadata)
    return figures
