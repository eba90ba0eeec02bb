"""Per-patch figures: how well single masks and scores fit, before any full-image inference."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sharpmask.models.deepmask import DeepMask
from sharpmask.models.sharpmask import SharpMask
from sharpmask.shapes import Float, UInt8


@dataclass(frozen=True)
class PatchMetrics:
    """Figures over a set of patches.

    Attributes:
        mean_iou: Mean IoU of mask (probability > .5) and object over the positives.
        median_iou: Its median.
        iou_50: Share of positives with IoU above .5.
        iou_70: Share of positives with IoU above .7.
        score_auc: Share of pairs of a positive and a negative that the scores put in order, equal
            ones counting half: the area under the ROC curve; -1 without negatives.
        patches: Number of patches.
    """

    mean_iou: float
    median_iou: float
    iou_50: float
    iou_70: float
    score_auc: float
    patches: int

    def to_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def at_size(mask_logits: Float[Tensor, "b s s"], size: int) -> Float[Tensor, "b t t"]:
    """Mask logits at a side of ``size``, bilinearly."""
    if mask_logits.shape[-1] == size:
        return mask_logits
    larger = F.interpolate(mask_logits[:, None], (size, size), mode="bilinear", align_corners=False)
    return larger[:, 0]


def patch_ious(
    mask_logits: Float[Tensor, "b s s"], masks: UInt8[Tensor, "b t t"]
) -> Float[Tensor, " b"]:
    """IoU of each binarised mask with its target, at the target's size; 0 where both are empty."""
    predicted, target = at_size(mask_logits, masks.shape[-1]) > 0, masks > 0
    intersection = (predicted & target).sum(dim=(1, 2))
    union = (predicted | target).sum(dim=(1, 2)).clamp(min=1)
    return intersection / union


@torch.inference_mode()
def measure_patches(
    model: DeepMask | SharpMask, batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> PatchMetrics:
    """Run a model over batches of (windows, masks, labels) and summarise.

    Args:
        model: In eval mode.
        batches: Windows (B, 3, W, W), target masks (B, S, S), labels +1 or -1 (B).

    Raises:
        ValueError: There is no positive patch.
    """
    ious, scores, labels = [], [], []
    for windows, masks, label in batches:
        mask_logits, score_logits = model(windows)
        ious.append(patch_ious(mask_logits.float(), masks)[label > 0].cpu())
        scores.append(score_logits.float().cpu())
        labels.append(label.cpu())
    iou = torch.cat(ious).numpy() if ious else np.zeros(0)
    if not len(iou):
        raise ValueError("validation: no labelled object to measure on")
    score, positive = torch.cat(scores).numpy(), torch.cat(labels).numpy() > 0
    margins = np.subtract.outer(score[positive], score[~positive])
    return PatchMetrics(
        mean_iou=float(iou.mean()),
        median_iou=float(np.median(iou)),
        iou_50=float((iou > 0.5).mean()),
        iou_70=float((iou > 0.7).mean()),
        score_auc=float(((margins > 0) + (margins == 0) / 2).mean()) if margins.size else -1.0,
        patches=len(score),
    )
