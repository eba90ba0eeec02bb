"""Fast R-CNN (Girshick 2015): two fully connected layers, class and box of each region.

The features of regions stay as the proposer made them, so the layers learn in minutes on a CPU.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.detection.detections import Category
from sharpmask.detection.examples import Examples
from sharpmask.detection.heads import RegionHead
from sharpmask.inference.batch import Progress, unshown
from sharpmask.shapes import Float, Int

BOX_DEVIATIONS = np.array([0.1, 0.1, 0.2, 0.2])
"""Regression targets are divided by these, so that they are about as large as the class loss."""
FOREGROUND_SHARE = 0.25
FOREGROUND_IOU = 0.5
"""A region whose IoU with an object reaches this shows the object; others are background."""
HIDDEN = 512
STEPS = 1000
BATCH = 256
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2


class Layers(nn.Module):
    """Two hidden layers, class logits with background last, box deltas of each category.

    Args:
        channels: Length of the vectors.
        categories: How many are told apart.
    """

    def __init__(self, channels: int, categories: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(channels, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.scores = nn.Linear(HIDDEN, categories + 1)
        self.boxes = nn.Linear(HIDDEN, 4 * categories)
        # As the paper: neither class nor shift is preferred at the start.
        for layer, deviation in ((self.scores, 0.01), (self.boxes, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(
        self, vectors: Float[Tensor, "n c"]
    ) -> tuple[Float[Tensor, "n k+1"], Float[Tensor, "n k 4"]]:
        """Class logits and box deltas of regions."""
        x = vectors
        for layer in self.hidden:
            x = F.dropout(F.relu(layer(x)), 0.5, self.training)
        return self.scores(x), self.boxes(x).unflatten(1, (-1, 4))


def detection_loss(
    logits: Float[Tensor, "n k+1"],
    moves: Float[Tensor, "n k 4"],
    labels: Int[Tensor, " n"],
    deltas: Float[Tensor, "n 4"],
) -> Tensor:
    """Cross entropy over all regions, smooth L1 of the true category's box (section 2.3).

    Both are means over all regions; background has no box.

    Args:
        logits: Of the classes, background last.
        moves: Of each category's box.
        labels: Category of each region; the number of categories stands for background.
        deltas: What moves a region to its object, in ``BOX_DEVIATIONS``.
    """
    shown = torch.nonzero(labels < moves.shape[1]).squeeze(1)
    moved = moves[shown, labels[shown]]
    error = F.smooth_l1_loss(moved, deltas[shown], reduction="sum")
    return F.cross_entropy(logits, labels) + error / len(labels)


def train_fast_rcnn(
    examples: Examples,
    categories: Sequence[Category],
    *,
    seed: int = 0,
    progress: Progress = unshown,
) -> RegionHead:
    """Learn the layers.

    Args:
        examples: Regions of training photos.
        categories: In the order of the examples' columns.
        seed: Of the first weights and of the draws.
        progress: Shows how many steps are done.

    Raises:
        ValueError: There is no object, or no background, to learn from.
    """
    best = examples.overlaps.max(axis=1)
    foreground = np.flatnonzero(best >= FOREGROUND_IOU)
    background = np.flatnonzero((best < FOREGROUND_IOU) & ~examples.unsure)
    if not len(foreground) or not len(background):
        raise ValueError("no region shows an object, or none is background: nothing to learn from")
    labels = examples.overlaps.argmax(axis=1)
    labels[background] = len(categories)
    deltas = examples.deltas / BOX_DEVIATIONS
    mean, deviation = spread(examples.vectors)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layers = Layers(examples.vectors.shape[1], len(categories))
    optimizer = torch.optim.AdamW(layers.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    objects = round(FOREGROUND_SHARE * BATCH)
    for _ in progress(range(STEPS), STEPS, "steps"):
        rows = np.concatenate(
            [rng.choice(foreground, objects), rng.choice(background, BATCH - objects)]
        )
        vectors = (examples.vectors[rows] - mean) / deviation
        logits, moves = layers(torch.from_numpy(vectors))
        loss = detection_loss(
            logits, moves, torch.from_numpy(labels[rows]), torch.from_numpy(deltas[rows]).float()
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return RegionHead("fast-rcnn", tuple(categories), arrays_of(layers, mean, deviation))


def spread(
    vectors: Float[np.ndarray, "n c"],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean and standard deviation of each number of vectors, from some of them."""
    some = vectors[:: max(1, len(vectors) // 4096)].astype(np.float32)
    return some.mean(0), some.std(0) + 1e-3


def arrays_of(
    layers: Layers, mean: Float[np.ndarray, " c"], deviation: Float[np.ndarray, " c"]
) -> Mapping[str, Float[np.ndarray, "..."]]:
    """The layers as a ``RegionHead`` has them, for vectors and deltas as they are."""
    arrays = {
        name.replace(".weight", "").replace(".bias", "_bias").replace("hidden.", "hidden"): (
            value.numpy().copy()
        )
        for name, value in layers.state_dict().items()
    }
    arrays["hidden0"] /= deviation
    arrays["hidden0_bias"] -= arrays["hidden0"] @ mean
    moves = np.tile(BOX_DEVIATIONS, len(arrays["boxes"]) // 4).astype(np.float32)
    arrays["boxes"] *= moves[:, None]
    arrays["boxes_bias"] *= moves
    return arrays
