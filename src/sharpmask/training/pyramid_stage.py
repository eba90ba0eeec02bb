"""Training of the model on a feature pyramid: all levels, scores and masks together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from sharpmask.coco.annotations import CocoDataset
from sharpmask.data.level_scenes import LevelSceneBatch, LevelSceneDataset, collate_level_scenes
from sharpmask.data.mixture import Mixture
from sharpmask.inference.batch import Report, silent
from sharpmask.models.pretrained import load_trunk, save
from sharpmask.models.pyramid import SharpMaskPyramid, build_pyramid
from sharpmask.models.sources import source_fingerprint
from sharpmask.shapes import Float, UInt8
from sharpmask.training.loop import fit
from sharpmask.training.origin import MODEL, StrPath, objects_in, train_on_files
from sharpmask.training.recipes import Recipe, deepmask


def pyramid() -> Recipe:
    """From a trunk that has learned COCO's boxes, on scenes of 448 px, in two hours of one core."""
    return replace(
        deepmask(),
        steps=8000,
        scene_size=448,
        scene_windows=4,
        warmup_steps=200,
        epoch_steps=250,
        validate_every=250,
    )


def train_pyramid(
    *,
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    output: StrPath,
    init: StrPath | None = None,
    mixture: Mixture | None = None,
    recipe: Recipe | None = None,
    fabric: Fabric | None = None,
    workers: int = 1,
    report: Report = silent,
    on_step: Callable[[int, float], None] | None = None,
    **architecture: Any,
) -> dict[str, float]:
    """All levels of a feature pyramid at once: what ``sharpmask train pyramid`` does.

    Writes the model to ``output/model.safetensors``, also while it learns; the same call goes on
    with a run that was stopped.

    Args:
        train: As in ``train_deepmask``, and so are all that are not named here.
        images: Folder of the photos.
        output: Folder of the run.
        init: Weights of the trunk: a file or Hugging Face repository.
        mixture: Which of the photos it learns from, and how often.
        recipe: All numbers; ``pyramid()`` if None.
        fabric: Device, precision and number of processes; one device if None.
        workers: Processes that prepare data.
        report: Is told, in a line each, what the data hold and what is left out of them.
        on_step: Is told after each step the number of steps done and the loss.
        architecture: Arguments of ``build_pyramid``.

    Returns:
        No figures so far: nothing is measured on the way.

    Raises:
        ValueError: Bad data or options, the folder holds another run, or another run writes there.
        Stopped: After Ctrl-C or SIGTERM, when the state is saved.
    """
    recipe = recipe or pyramid()
    output, fabric = Path(output), fabric or Fabric(accelerator="auto", devices=1)
    torch.manual_seed(recipe.seed)
    model = build_pyramid(**architecture)
    if init:
        load_trunk(model.backbone, init)

    def learn(model: SharpMaskPyramid, **given: Any) -> dict[str, float]:
        given.pop("validation")  # None: nothing is measured on the way
        return fit_pyramid(
            model, recipe=recipe, output=output, fabric=fabric, workers=workers, on_step=on_step,
            **given,
        )  # fmt: skip

    return train_on_files(
        model, train, images, None, output=output, fabric=fabric, report=report,
        origin={"init": source_fingerprint(init) if init else None},
        mixture=mixture or Mixture(), seed=recipe.seed, learn=learn,
    )  # fmt: skip


def fit_pyramid(
    model: SharpMaskPyramid,
    *,
    data: CocoDataset,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int = 1,
    shares: Mapping[str, float] | None = None,
    readings: Sequence[float] | None = None,
    known: Mapping[str, Any] | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Train everything but the trunk's first layers, with one loss on all levels.

    Writes what ``fit`` writes, and with every checkpoint the model, with averaged weights, as
    ``output/model.safetensors``.

    Args:
        model: Changed in place.
        data: Photos to learn from.
        recipe: All numbers; ``scene_windows`` counts the windows of each level.
        output: Folder of the run; the same call resumes it.
        fabric: Launched.
        workers: Processes that prepare scenes.
        shares: Fixed shares of some sources of the data (see ``SourceSampler``).
        readings: Octaves near which scenes are cut (see ``LevelSceneDataset``).
        known: More that the model file tells, such as the photos kept back.
        validate: As for ``fit``.
        keep: Writes the model in place of this function, given what its file should tell.
        on_step: Is told after each step the number of steps done and the loss.
    """
    for layer in model.backbone.layers_to(recipe.frozen_stride):
        layer.requires_grad_(False)
    scenes = LevelSceneDataset(
        data, model.geometry, shares=shares or {}, readings=readings, **recipe.scenes()
    )

    def loss(network: nn.Module, batch: LevelSceneBatch) -> dict[str, Tensor]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        masks, scores = network(images, batch.cells)
        return level_scene_loss(masks, scores, batch, score_weight=recipe.score_weight)

    counts = {"photos": len(data.images), "objects": objects_in(data)}
    told = {"data": counts, **(known or {})}
    keep = keep or (lambda learned: save(model, output / MODEL, metadata=learned))
    return fit(
        model,
        dataset=scenes,
        collate=collate_level_scenes,
        loss=loss,
        validate=validate,
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
        save=lambda learned: keep({**told, **learned}),
        on_step=on_step,
    )


def level_scene_loss(
    mask_logits: Float[Tensor, "n m m"],
    score_logits: list[Float[Tensor, "b rows columns"]],
    batch: LevelSceneBatch,
    *,
    score_weight: float,
) -> dict[str, Float[Tensor, ""]]:
    """Logistic and Dice loss of the masks, means over the windows, and weighted score loss.

    The score's target is the IoU of the cell's own mask where an object is centred and 0 on
    background, weighed by its error (quality focal loss, Li et al. 2020, equation 3).

    Args:
        mask_logits: Masks of ``batch.cells``.
        score_logits: Of all cells of each level.
        batch: Targets.
        score_weight: Of the score loss.
    """
    logits, targets = mask_logits.float(), batch.masks.float() / 255
    windows = max(1, len(targets))
    pixel = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
    ious = soft_ious(logits, batch.masks)
    score = logits.new_zeros(())
    for level, (level_logits, labels) in enumerate(zip(score_logits, batch.labels, strict=True)):
        level_logits = level_logits.float()
        quality = torch.zeros_like(level_logits)
        mine = batch.cells[:, 1] == level
        image, _, row, column = batch.cells[mine].unbind(1)
        quality[image, row, column] = ious[mine]
        entropy = F.binary_cross_entropy_with_logits(level_logits, quality, reduction="none")
        focus = (level_logits.sigmoid() - quality).square().detach()
        score = score + (entropy * focus)[labels != 0].sum()
    return {
        "mask_loss": pixel.sum() / windows,
        "dice_loss": dice_loss(logits, targets).sum() / windows,
        "score_loss": score_weight * score / windows,
    }


def dice_loss(
    logits: Float[Tensor, "n m m"], targets: Float[Tensor, "n m m"]
) -> Float[Tensor, " n"]:
    """1 - 2 |pt| / (|p| + |t|) of each mask (Milletari et al. 2016): small objects count too."""
    probabilities = logits.sigmoid()
    shared = (probabilities * targets).sum(dim=(1, 2))
    total = probabilities.sum(dim=(1, 2)) + targets.sum(dim=(1, 2))
    return 1 - (2 * shared + 1) / (total + 1)


@torch.no_grad()
def soft_ious(logits: Float[Tensor, "n m m"], masks: UInt8[Tensor, "n m m"]) -> Float[Tensor, " n"]:
    """IoU of each binarised mask with its target, a sample half covered being inside."""
    predicted, target = logits > 0, masks >= 128
    shared = (predicted & target).sum(dim=(1, 2))
    return shared / (predicted | target).sum(dim=(1, 2)).clamp(min=1)
