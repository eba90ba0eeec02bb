"""The joint loss of mask and score: of patches (DeepMask, equation 1), and of scenes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpmask.data.patches import PatchBatch
from sharpmask.data.scenes import SceneBatch
from sharpmask.shapes import Float, UInt8
from sharpmask.training.patch_metrics import at_size, patch_ious


def patch_loss(
    mask_logits: Float[Tensor, "b s s"],
    score_logits: Float[Tensor, " b"],
    batch: PatchBatch,
    *,
    score_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mask loss and weighted score loss, each a mean over the batch.

    The paper's sum over patches of (1 + y) / (2 w h) * sum log(1 + exp(-m f)) and of
    lambda * log(1 + exp(-y s)), divided by the number of patches, so that learning rates do not
    depend on the batch. A coarse mask is compared at the target's size, upsampled bilinearly.

    Args:
        mask_logits: Masks at the network's own size.
        score_logits: Objectness.
        batch: Targets.
        score_weight: lambda.
    """
    per_patch = pixel_loss(mask_logits, batch.masks)
    mask_loss = (per_patch * (1 + batch.labels) / 2 * batch.for_mask).mean()
    score_loss = (F.softplus(-batch.labels * score_logits) * batch.for_score).mean()
    return mask_loss, score_weight * score_loss


def scene_loss(
    mask_logits: Float[Tensor, "n s s"],
    score_logits: Float[Tensor, "b rows columns"],
    batch: SceneBatch,
    *,
    score_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mask loss, a mean over the windows; weighted score loss, a sum over cells over their count.

    The score learns the quality of the mask: its target is the IoU of the cell's own mask where an
    object is centred and 0 on background. A cell weighs the more the farther its score is from that
    (quality focal loss, Li et al. 2020, equation 3), so that much easy background weighs little.

    Args:
        mask_logits: Masks of ``batch.cells`` at the network's own size.
        score_logits: Objectness of all cells.
        batch: Targets.
        score_weight: Of the score loss.
    """
    windows = max(1, len(batch.cells))
    mask_loss = pixel_loss(mask_logits, batch.masks).sum() / windows
    quality = torch.zeros_like(score_logits)
    quality[tuple(batch.cells.T)] = patch_ious(mask_logits, batch.masks).to(quality.dtype)
    per_cell = F.binary_cross_entropy_with_logits(score_logits, quality, reduction="none")
    per_cell = per_cell * (score_logits.sigmoid() - quality).square()
    return mask_loss, score_weight * per_cell[batch.labels != 0].sum() / windows


def pixel_loss(
    mask_logits: Float[Tensor, "n s s"], masks: UInt8[Tensor, "n t t"]
) -> Float[Tensor, " n"]:
    """Mean logistic loss over the pixels of each mask, at the target's size."""
    # Deviation: coarse-upsampling
    mask_logits = at_size(mask_logits, masks.shape[-1])
    signs = masks.to(mask_logits.dtype) * 2 - 1
    return F.softplus(-signs * mask_logits).mean(dim=(1, 2))
