"""Per-patch figures: how well single masks and scores fit, before any full-image inference."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sharpmask.models.weights import Model


@dataclass(frozen=True)
class PatchMetrics:
    """Figures over a set of patches.

    Attributes:
        mean_iou: Mean IoU of mask (probability > .5) and object over the positives.
        median_iou: Its median.
        iou_50: Share of positives with IoU above .5.
        iou_70: Share of positives with IoU above .7.
        score_accuracy: Share of patches whose score has the right sign, positives and negatives
            weighted equally.
        patches: Number of patches.
    """

    mean_iou: float
    median_iou: float
    iou_50: float
    iou_70: float
    score_accuracy: float
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
def measure_patches(model: Model, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> PatchMetrics:
    """Run a model over batches of (windows, masks, labels) and summarise.

    Args:
        model: In eval mode.
        batches: Windows (B, 3, W, W), target masks (B, S, S), labels +1 or -1 (B).

    Raises:
        ValueError: There is no positive patch.
    """
    ious, hits, labels = [], [], []
    for windows, masks, label in batches:
        mask_logits, score_logits = model(windows)
        ious.append(patch_ious(mask_logits.float(), masks)[label > 0].cpu())
        hits.append(((score_logits > 0) == (label > 0)).cpu())
        labels.append(label.cpu())
    iou = torch.cat(ious).numpy() if ious else np.zeros(0)
    if not len(iou):
        raise ValueError("validation: no labelled object to measure on")
    hit, positive = torch.cat(hits).numpy(), torch.cat(labels).numpy() > 0
    groups = [hit[group] for group in (positive, ~positive) if group.any()]
    return PatchMetrics(
        mean_iou=float(iou.mean()),
        median_iou=float(np.median(iou)),
        iou_50=float((iou > 0.5).mean()),
        iou_70=float((iou > 0.7).mean()),
        score_accuracy=float(np.mean([group.mean() for group in groups])),
        patches=len(hit),
    )
