"""Fast R-CNN (Girshick 2015): a photo is read once, and each region is cut out of its map."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sharpmask.boxes import decode_boxes
from sharpmask.detection.detections import Category
from sharpmask.detection.roi_align import roi_align
from sharpmask.models.backbones import BACKBONES, STRIDES
from sharpmask.models.layers import Normalize
from sharpmask.models.tails import TAILS
from sharpmask.shapes import Float, Int, UInt8

BOX_DEVIATIONS = np.array([0.1, 0.1, 0.2, 0.2])
"""Regression targets are divided by these, so that they are about as large as the class loss."""
STRIDE = STRIDES[-1]


class FastRCNN(nn.Module):
    """Backbone, RoIAlign, two fully connected layers, class and box of each region.

    Of the ImageNet net's maps the last, at stride 32, tells classes best, the one at stride 16
    places. Both are brought to the same width and added.

    Args:
        categories: What is told apart, besides background.
        backbone: One of ``TAILS``; it pads with zeros, as it did when it learned ImageNet.
        channels: Width of the map that regions are cut from.
        hidden: Width of the fully connected layers.
        bins: Values along each side of a region that is cut from the map.
        image_size: Pixels of a photo's longer side after it was resized.

    Attributes:
        options: All arguments except the categories; its file holds them.
        metadata: What else its file says.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        *,
        backbone: str = "mobilenet_v2",
        channels: int = 128,
        hidden: int = 512,
        bins: int = 7,
        image_size: int = 640,
    ) -> None:
        super().__init__()
        if backbone not in TAILS:
            raise ValueError(f"backbone: expected one of {', '.join(TAILS)}, got {backbone!r}")
        self.categories = tuple(categories)
        self.bins, self.image_size = bins, image_size
        self.metadata: dict[str, Any] = {}
        self.options = {
            "backbone": backbone, "channels": channels, "hidden": hidden, "bins": bins,
            "image_size": image_size,
        }  # fmt: skip
        self.backbone = BACKBONES[backbone](padding="zero")
        self.tail = TAILS[backbone](padding="zero")
        self.fine = nn.Conv2d(self.backbone.channels[-1], channels, 1)
        self.coarse = nn.Conv2d(self.tail.channels, channels, 1)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * bins**2, hidden), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5),
        )  # fmt: skip
        self.scores = nn.Linear(hidden, len(self.categories) + 1)
        self.boxes = nn.Linear(hidden, 4 * len(self.categories))
        # As the paper: neither class nor shift is preferred at the start.
        for layer, deviation in ((self.scores, 0.01), (self.boxes, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        self.normalize = Normalize()

    def forward(
        self,
        images: Tensor,
        boxes: Float[Tensor, "n 4"],
        numbers: Int[Tensor, " n"],
    ) -> tuple[Float[Tensor, "n k+1"], Float[Tensor, "n k 4"]]:
        """Class logits, background last, and box deltas of regions.

        Args:
            images: A batch (B, 3, H, W), RGB 0..255.
            boxes: Regions, xyxy, pixels of the images.
            numbers: Index in the batch of each region's image.
        """
        maps = self.backbone(self.normalize(images))
        fine, coarse = self.fine(maps[-1]), self.coarse(self.tail(maps[-1]))
        size = fine.shape[2:]
        merged = fine + F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        cut = roi_align(F.relu(merged).float(), boxes, numbers, self.bins, STRIDE)
        hidden = self.layers(cut)
        return self.scores(hidden), self.boxes(hidden).unflatten(1, (-1, 4))

    @torch.inference_mode()
    def classify(
        self, image: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"]
    ) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k 4"]]:
        """Probability and refined box (xyxy) of each region for each category.

        The net reads as in eval mode, and is left in the mode it was in.
        """
        scaled, scale = scale_photo(Image.fromarray(image), self.image_size)
        device = self.normalize.mean.device
        batch = torch.from_numpy(scaled).to(device).permute(2, 0, 1)[None].float()
        regions = torch.from_numpy(boxes * scale).float().to(device)
        was_training = self.training
        self.eval()
        logits, deltas = self(batch, regions, torch.zeros(len(boxes), device=device).long())
        self.train(was_training)
        scores = logits.softmax(1)[:, :-1].float().cpu().numpy()
        moves = deltas.float().cpu().numpy() * BOX_DEVIATIONS
        return scores, decode_boxes(boxes[:, None], moves, (image.shape[0], image.shape[1]))


def scale_photo(
    photo: Image.Image, longer_side: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "4"]]:
    """A photo brought to a size, and the factors of boxes (x, y, x, y)."""
    factor = longer_side / max(photo.size)
    width, height = (max(1, round(side * factor)) for side in photo.size)
    scaled = photo.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(scaled), np.tile(np.divide(scaled.size, photo.size), 2)


class RegionBatch(NamedTuple):
    """What a training step reads.

    Attributes:
        images: RGB, padded on the right and below to a common size.
        boxes: Regions, xyxy, pixels of the images.
        numbers: Index in the batch of each region's image.
        labels: Category of each region; the number of categories stands for background.
        deltas: What moves a region to its object, in ``BOX_DEVIATIONS``.
    """

    images: UInt8[Tensor, "b 3 h w"]
    boxes: Float[Tensor, "n 4"]
    numbers: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    deltas: Float[Tensor, "n 4"]


def detection_loss(model: nn.Module, batch: RegionBatch) -> dict[str, Tensor]:
    """Cross entropy over all regions, smooth L1 of the true category's box (section 2.3).

    Both are means over all regions; background has no box.
    """
    logits, deltas = model(batch.images.float(), batch.boxes, batch.numbers)
    classes = F.cross_entropy(logits.float(), batch.labels)
    shown = torch.nonzero(batch.labels < deltas.shape[1]).squeeze(1)
    moved = deltas[shown, batch.labels[shown]].float()
    error = F.smooth_l1_loss(moved, batch.deltas[shown], reduction="sum")
    return {"class_loss": classes, "box_loss": error / max(1, len(batch.labels))}
