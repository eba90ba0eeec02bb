"""Training of the model on a feature pyramid: all levels, scores and masks together."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn

from sharpmask.coco.annotations import CocoDataset
from sharpmask.data.level_scenes import LevelSceneBatch, LevelSceneDataset, collate_level_scenes
from sharpmask.models.pretrained import save
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.training.loop import fit
from sharpmask.training.recipes import Recipe, deepmask


def pyramid() -> Recipe:
    """From a trunk that has learned COCO's boxes, on scenes of 448 px, in two hours of one core."""
    return replace(
        deepmask(),
        steps=8000,
        scene_size=448,
        scene_windows=4,
        warmup_steps=200,
        validate_every=250,
    )


def train_pyramid(
    model: SharpMaskPyramid,
    *,
    data: CocoDataset,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int = 1,
    shares: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
    console_progress: bool = True,
) -> None:
    """Train everything but the trunk's first layers, with one loss on all levels.

    Writes what ``fit`` writes, and the model as ``output/model.safetensors``.

    Args:
        model: Changed in place.
        data: Photos to learn from.
        recipe: All numbers; ``scene_windows`` counts the windows of each level.
        output: Folder of the run; the same call resumes it.
        fabric: Launched.
        workers: Processes that prepare scenes.
        shares: Fixed shares of some sources of the data (see ``SourceSampler``).
        metadata: More to be told in the model file, such as photos kept back.
        console_progress: Whether to draw a progress bar.
    """
    for layer in model.backbone.layers_to(recipe.frozen_stride):
        layer.requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scenes = LevelSceneDataset(
        data,
        model.geometry,
        seed=recipe.seed,
        scene_size=recipe.scene_size,
        windows=recipe.scene_windows,
        copy_paste=recipe.copy_paste,
        colour_jitter=recipe.colour_jitter,
        shares=shares,
    )

    def loss(network: nn.Module, batch: LevelSceneBatch) -> dict[str, Tensor]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        masks, scores = network(images, batch.cells)
        return level_scene_loss(masks, scores, batch, score_weight=recipe.score_weight)

    fit(
        model,
        dataset=scenes,
        collate=collate_level_scenes,
        loss=loss,
        validate=None,
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
        console_progress=console_progress,
    )
    if fabric.is_global_zero:
        objects = sum(len(image.instances) for image in data.images)
        counts = {"photos": len(data.images), "objects": objects, "shares": dict(shares or {})}
        texts = {"recipe": asdict(recipe), "data": counts, **(metadata or {})}
        save(model, output / "model.safetensors", metadata=texts)


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
