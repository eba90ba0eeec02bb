"""The two stages of training: DeepMask, then the refinement on top of it (section 3.3)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from sharpmask.coco.annotations import CocoDataset
from sharpmask.data.mixture import Mixture
from sharpmask.data.patches import PatchBatch, PatchDataset, collate
from sharpmask.data.sampling import Patch, PatchSampler
from sharpmask.data.scenes import SceneBatch, SceneDataset, collate_scenes
from sharpmask.geometry import PatchGeometry
from sharpmask.inference.batch import Report, silent
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import PatchModel, build, load, load_backbone, save
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.sources import source_fingerprint
from sharpmask.training import recipes
from sharpmask.training.loop import fit
from sharpmask.training.losses import patch_loss, scene_loss
from sharpmask.training.origin import MODEL, StrPath, objects_in, train_on_files
from sharpmask.training.patch_metrics import measure_patches
from sharpmask.training.recipes import Recipe

MASK_TARGET = 112
"""Side of DeepMask's mask targets; SharpMask's have the patch's full size."""
VALIDATION_OBJECTS = 400
"""Objects measured during training."""
GAIN = "gain"
"""Figure of a SharpMask: its mean IoU less that of its own DeepMask."""


def train_deepmask(
    *,
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    output: StrPath,
    val: StrPath | None = None,
    init: StrPath | None = None,
    mixture: Mixture | None = None,
    recipe: Recipe | None = None,
    fabric: Fabric | None = None,
    workers: int = 1,
    report: Report = silent,
    on_step: Callable[[int, float], None] | None = None,
    **architecture: Any,
) -> dict[str, float]:
    """Stage one, the feed-forward net: what ``sharpmask train deepmask`` does.

    Writes the model to ``output/model.safetensors``, also while it learns; the same call goes on
    with a run that was stopped.

    Args:
        train: COCO annotation file or files.
        images: Folder of the photos.
        output: Folder of the run.
        val: COCO annotation file to measure on; its photos lie in ``images`` too.
        init: Weights of the backbone: a file or Hugging Face repository.
        mixture: Which of the photos it learns from, and how often.
        recipe: All numbers; ``recipes.deepmask()`` if None.
        fabric: Device, precision and number of processes; one device if None.
        workers: Processes that prepare data.
        report: Is told, in a line each, what the data hold and what is left out of them.
        on_step: Is told after each step the number of steps done and the loss.
        architecture: Arguments of ``build_deepmask``.

    Returns:
        The last validation's figures, empty without ``val``.

    Raises:
        ValueError: Bad data or options, the folder holds another run, or another run writes there.
        Stopped: After Ctrl-C or SIGTERM, when the state is saved.
    """
    recipe = recipe or recipes.deepmask()
    torch.manual_seed(recipe.seed)
    model = build({"model": "deepmask", **architecture})
    assert isinstance(model, DeepMask)
    if init:
        load_backbone(model.backbone, init)
    output, fabric = Path(output), fabric or Fabric(accelerator="auto", devices=1)
    return train_on_files(
        model, train, images, val, output=output, fabric=fabric, report=report,
        origin={"init": source_fingerprint(init) if init else None},
        mixture=mixture or Mixture(), seed=recipe.seed,
        learn=partial(
            train_stage, recipe=recipe, output=output, fabric=fabric, workers=workers,
            on_step=on_step,
        ),
    )  # fmt: skip


def train_sharpmask(
    *,
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    output: StrPath,
    deepmask: StrPath,
    val: StrPath | None = None,
    mixture: Mixture | None = None,
    recipe: Recipe | None = None,
    fabric: Fabric | None = None,
    workers: int = 1,
    report: Report = silent,
    on_step: Callable[[int, float], None] | None = None,
    **architecture: Any,
) -> dict[str, float]:
    """Stage two, the refinement on a trained DeepMask: what ``sharpmask train sharpmask`` does.

    Args:
        train: As in ``train_deepmask``, and so are the others.
        images: Folder of the photos.
        output: Folder of the run.
        deepmask: Stage one: a run's folder, model file, name or Hugging Face repository. It is
            not changed.
        val: COCO annotation file to measure on.
        mixture: Which of the photos it learns from, and how often.
        recipe: All numbers; ``recipes.sharpmask()`` if None.
        fabric: Device, precision and number of processes; one device if None.
        workers: Processes that prepare data.
        report: Is also told if the masks end worse than those of stage one.
        on_step: Is told after each step the number of steps done and the loss.
        architecture: Arguments of ``SharpMask``.

    Returns:
        The last validation's figures; those of stage one begin with ``deepmask_``, and ``gain`` is
        the difference of mean IoU.
    """
    recipe = recipe or recipes.sharpmask()
    first = load(deepmask)
    if not isinstance(first, DeepMask):
        raise ValueError(f"--deepmask {deepmask}: this is a SharpMask; give a DeepMask")
    torch.manual_seed(recipe.seed)
    model = build({"model": "sharpmask", "deepmask": first.architecture, **architecture})
    assert isinstance(model, SharpMask)
    model.deepmask.load_state_dict(first.state_dict())
    steps = first.metadata.get("steps", {})
    if steps.get("done", 0) < steps.get("of", 0):
        report(f"{deepmask}: stage one was stopped after {steps['done']} of {steps['of']} steps")
    output, fabric = Path(output), fabric or Fabric(accelerator="auto", devices=1)
    figures = train_on_files(
        model, train, images, val, output=output, fabric=fabric, report=report,
        origin={"deepmask": source_fingerprint(deepmask)},
        mixture=mixture or Mixture(), seed=recipe.seed,
        learn=partial(
            train_stage, recipe=recipe, output=output, fabric=fabric, workers=workers,
            on_step=on_step,
        ),
    )  # fmt: skip
    if figures.get(GAIN, 0) < 0:
        report(
            f"stage two ended worse than stage one: mean IoU {figures['mean_iou']:.3f} on --val, "
            f"its DeepMask alone {figures['deepmask_mean_iou']:.3f}; use {deepmask} itself, or "
            "train longer or on more photos"
        )
    return figures


def train_stage(
    model: PatchModel,
    *,
    data: CocoDataset,
    validation: CocoDataset | None,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int = 1,
    shares: Mapping[str, float] | None = None,
    known: Mapping[str, Any] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Train stage one (a DeepMask) or stage two (a SharpMask: its DeepMask stays as it is).

    Writes what ``fit`` writes, and with every checkpoint the model, with averaged weights, as
    ``output/model.safetensors``; its metadata say after how many steps of how many. The model is
    left as ``fit`` leaves it; what is not trained requires no gradient afterwards.

    Returns:
        The last validation's figures, empty without validation data.
    """
    if isinstance(model, SharpMask):
        model.deepmask.requires_grad_(False)
    else:
        for layer in model.backbone.layers_to(recipe.frozen_stride):
            layer.requires_grad_(False)
    dataset, make_batch = samples(model, data, recipe, shares or {})

    def loss(network: nn.Module, batch: PatchBatch | SceneBatch) -> dict[str, Tensor]:
        weight = recipe.score_weight
        if isinstance(batch, SceneBatch):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            masks, scores = network(images, batch.cells)
            mask, score = scene_loss(masks, scores, batch, score_weight=weight)
        else:
            masks, scores = network(batch.windows)
            mask, score = patch_loss(masks, scores, batch, score_weight=weight)
        return {"mask_loss": mask, "score_loss": score} if weight else {"mask_loss": mask}

    # The patches are cut now, so that bad validation data end the run before it learns.
    validate = None
    if validation and fabric.is_global_zero:
        validate = validator(validation, model.geometry, VALIDATION_OBJECTS, fabric)
    counts = {"photos": len(data.images), "objects": objects_in(data)}
    told = {"data": counts, **(known or {})}
    return fit(
        model,
        dataset=dataset,
        collate=make_batch,
        loss=loss,
        validate=validate,
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
        save=lambda learned: save(model, output / MODEL, metadata={**told, **learned}),
        on_step=on_step,
    )


def samples(
    model: PatchModel, data: CocoDataset, recipe: Recipe, shares: Mapping[str, float]
) -> tuple[Dataset[Any], Callable[[list[Any]], Any]]:
    """The patches or scenes that a recipe asks for, and what makes a batch of them."""
    if recipe.batches == "scenes":
        return SceneDataset(data, model.geometry, shares=shares, **recipe.scenes()), collate_scenes
    if shares:
        raise ValueError(
            "--share: only what learns from scenes keeps shares; leave it out, or choose another "
            "--recipe"
        )
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
    ``deepmask_``, and the difference of mean IoU, ``gain``.
    """
    batches = validation_patches(data, geometry, objects)

    def measure(model: PatchModel) -> dict[str, float]:
        moved = [fabric.to_device((batch.windows, batch.masks, batch.labels)) for batch in batches]
        with fabric.autocast():
            figures = measure_patches(model, moved).to_dict()
            if isinstance(model, SharpMask):
                coarse = measure_patches(model.deepmask, moved).to_dict()
                figures[GAIN] = figures["mean_iou"] - coarse["mean_iou"]
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
        # Samples 2, 5, 8 ... of a joint sampler are negatives.
        items.append(patches[0, 3 * number + 2])
    return [collate(items[k : k + batch_size]) for k in range(0, len(items), batch_size)]
