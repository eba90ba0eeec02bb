"""The joint loss of mask and score (DeepMask, section 3.2, equation 1)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sharpmask.data.patches import PatchBatch


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
    size = batch.masks.shape[-1]
    # Deviation: coarse-upsampling
    if mask_logits.shape[-1] != size:
        mask_logits = F.interpolate(
            mask_logits[:, None], (size, size), mode="bilinear", align_corners=False
        )[:, 0]
    signs = batch.masks.to(mask_logits.dtype) * 2 - 1
    per_patch = F.softplus(-signs * mask_logits).mean(dim=(1, 2))
    mask_loss = (per_patch * (1 + batch.labels) / 2 * batch.for_mask).mean()
    score_loss = (F.softplus(-batch.labels * score_logits) * batch.for_score).mean()
    return mask_loss, score_weight * score_loss
