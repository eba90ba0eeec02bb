"""The two stages of training: DeepMask, then the refinement on top of it (section 3.3)."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from sharpmask.coco.annotations import CocoDataset
from sharpmask.data.patches import PatchBatch, PatchDataset, collate
from sharpmask.data.sampling import Patch, PatchSampler
from sharpmask.data.scenes import SceneBatch, SceneDataset, collate_scenes
from sharpmask.geometry import PatchGeometry
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import Model, save
from sharpmask.models.sharpmask import SharpMask
from sharpmask.training.loop import fit
from sharpmask.training.losses import patch_loss, scene_loss
from sharpmask.training.patch_metrics import measure_patches
from sharpmask.training.recipes import Recipe

MASK_TARGET = 112
"""Side of DeepMask's mask targets; SharpMask's have the patch's full size."""
VALIDATION_OBJECTS = 400
"""Objects measured during training; ``measure`` takes all."""


def train(
    model: Model,
    *,
    data: CocoDataset,
    validation: CocoDataset | None,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int = 1,
) -> dict[str, float]:
    """Train stage one (a DeepMask) or stage two (a SharpMask: its DeepMask stays as it is).

    Writes what ``fit`` writes, and the model as ``output/model.safetensors``.

    Returns:
        The last validation's figures, empty without validation data.
    """
    if isinstance(model, SharpMask):
        model.deepmask.requires_grad_(False)
    else:
        for layer in model.backbone.layers_to(recipe.frozen_stride):
            layer.requires_grad_(False)
    dataset, make_batch = samples(model, data, recipe)

    def loss(network: nn.Module, batch: PatchBatch | SceneBatch) -> dict[str, Tensor]:
        weight = recipe.score_weight
        if isinstance(batch, SceneBatch):
            masks, scores = network(batch.images, batch.cells)
            mask, score = scene_loss(masks, scores, batch, score_weight=weight)
        else:
            masks, scores = network(batch.windows)
            mask, score = patch_loss(masks, scores, batch, score_weight=weight)
        return {"mask_loss": mask, "score_loss": score} if weight else {"mask_loss": mask}

    # Its patches are cut now: what is wrong with them is better said before hours of training.
    validate = None
    if validation and fabric.is_global_zero:
        validate = validator(validation, model.geometry, VALIDATION_OBJECTS, fabric)
    figures = fit(
        model,
        dataset=dataset,
        collate=make_batch,
        loss=loss,
        validate=validate,
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
    )
    if fabric.is_global_zero:
        objects = sum(len(image.instances) for image in data.images)
        metadata = {
            "recipe": asdict(recipe),
            "data": {"photos": len(data.images), "objects": objects},
            "validation": figures,
        }
        save(model, output / "model.safetensors", metadata=metadata)
    return figures


def samples(
    model: Model, data: CocoDataset, recipe: Recipe
) -> tuple[Dataset[Any], Callable[[list[Any]], Any]]:
    """The patches or scenes that a recipe asks for, and what makes a batch of them."""
    if recipe.batches == "scenes":
        scenes = SceneDataset(
            data,
            model.geometry,
            seed=recipe.seed,
            scene_size=recipe.scene_size,
            windows=recipe.scene_windows,
            copy_paste=recipe.copy_paste,
            colour_jitter=recipe.colour_jitter,
        )
        return scenes, collate_scenes
    if recipe.batches == "regions":
        raise ValueError("batches: regions are what detectors learn from; use scenes")
    sampler = PatchSampler(
        data,
        model.geometry,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        batches=recipe.batches,
    )
    mask_size = MASK_TARGET if isinstance(model, DeepMask) else model.geometry.patch_size
    return PatchDataset(sampler, mask_size=mask_size, colour_jitter=recipe.colour_jitter), collate


def validator(
    data: CocoDataset, geometry: PatchGeometry, objects: int | None, fabric: Fabric
) -> Callable[[Any], dict[str, float]]:
    """A function that measures a model on fixed patches: canonical positives and as many negatives.

    For a SharpMask the figures of its own DeepMask on the same patches come along, with the prefix
    ``deepmask_``.
    """
    batches = validation_patches(data, geometry, objects)

    def measure(model: Model) -> dict[str, float]:
        moved = [fabric.to_device((batch.windows, batch.masks, batch.labels)) for batch in batches]
        with fabric.autocast():
            figures = measure_patches(model, moved).to_dict()
            if isinstance(model, SharpMask):
                coarse = measure_patches(model.deepmask, moved).to_dict()
                figures |= {f"deepmask_{name}": value for name, value in coarse.items()}
        return figures

    return measure


def validation_patches(
    data: CocoDataset, geometry: PatchGeometry, objects: int | None, batch_size: int = 32
) -> list[PatchBatch]:
    """Canonical patches of up to ``objects`` objects spread evenly over the data, and negatives."""
    sampler = PatchSampler(data, geometry, seed=0, batch_size=batch_size, batches="joint")
    everything = [
        (i, j) for i, image in enumerate(data.images) for j in range(len(image.instances))
    ]
    count = len(everything) if objects is None else min(objects, len(everything))
    chosen = [everything[k] for k in np.linspace(0, len(everything) - 1, count).astype(int)]
    patches = PatchDataset(sampler, mask_size=geometry.patch_size)
    items = []
    for number, (i, j) in enumerate(chosen):
        left, top, right, bottom = data.images[i].instances[j].box
        scale = float(geometry.canonical_scale(np.array([left, top, right, bottom])))
        center = ((left + right) / 2, (top + bottom) / 2)
        rng = np.random.default_rng(0)
        items.append(patches.cut(Patch(i, j, center, scale, False, True, True), rng))
        # Numbers 2, 5, 8 ... of a joint sampler are negatives.
        items.append(patches[0, 3 * number + 2])
    return [collate(items[k : k + batch_size]) for k in range(0, len(items), batch_size)]
