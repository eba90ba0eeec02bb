"""Make scores mean what they say: refit them on photos that nothing learned from.

A score is the IoU to expect of a mask. Its logit gets a factor and a shift, the same on all levels,
which the head's own ``gain`` and ``bias`` take in: the network stays as it was. Half of the photos
kept back from training (named in the model's metadata; those with all objects labelled) choose the
two numbers, the other half draw the diagram; every photo counts alike.

Writes OUTPUT, docs/calibration.png and benchmarks/results/calibration.json.

    python benchmarks/calibrate.py MODEL ANN.json IMAGES OUTPUT
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import hotcoco.mask
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from machine import store
from sharpmask import defaults
from sharpmask.coco.annotations import CocoImage, load_coco
from sharpmask.inference.batch import map_ordered
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.reading import mask_quality
from sharpmask.models.pretrained import load, read_metadata, save
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.shapes import Float

FIGURE = Path(__file__).parents[1] / "docs" / "calibration.png"
BINS = np.linspace(0, 1, 11)
POOL = 150
"""Proposals of a photo among which the distinct ones are looked for."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    model, metadata = load(arguments.model), read_metadata(arguments.model)
    assert isinstance(model, SharpMaskPyramid)
    kept = set(metadata["kept_back"])
    photos = [
        image
        for image in load_coco(arguments.annotations, arguments.images).images
        if image.complete and image.instances and image.path.name in kept
    ]
    proposer = Proposer(arguments.model, suppression=1, num_proposals=POOL, engine="openvino")
    found = [call.result() for call in map_ordered(lambda p: measure(proposer, p), photos, 2)]
    chosen, shown = (torch.from_numpy(np.concatenate(found[k::2])) for k in (0, 1))
    factor, shift = fit(chosen)
    with torch.no_grad():
        model.head.gain.copy_(model.head.gain * factor)
        model.head.bias.copy_(model.head.bias * factor + shift)
    save(
        model, arguments.output, metadata=metadata | {"calibrated": "scores, on half of kept_back"}
    )
    rows = {
        "as trained": (shown[:, 0].numpy(), shown[:, 2].numpy()),
        "calibrated": (scores(shown, factor, shift).numpy(), shown[:, 2].numpy()),
    }
    draw(rows)
    store(
        "calibration",
        {
            "photos": {"fitted": len(found[::2]), "shown": len(found[1::2])},
            "factor": factor,
            "shift": shift,
            "error": {name: calibration_error(*row) for name, row in rows.items()},
        },
    )


def measure(proposer: Proposer, photo: CocoImage) -> Float[np.ndarray, "n 4"]:
    """Score, quality, best IoU and weight of each distinct proposal of a photo."""
    ranked, distinct = proposer(photo.read()).distinct_first(
        defaults.SUPPRESSION, defaults.NUM_PROPOSALS
    )
    found = ranked[:distinct]
    truth = [dict(instance.rle) for instance in photo.instances]
    overlap = hotcoco.mask.iou([dict(rle) for rle in found.rles()], truth, [False] * len(truth))
    quality = mask_quality(found.patch_masks, found.mask_threshold)
    weight = np.full(len(found), 1 / len(found))
    return np.stack([found.scores, quality, np.asarray(overlap).max(axis=1), weight], axis=1)


def scores(found: Tensor, factor: float | Tensor, shift: float | Tensor) -> Tensor:
    """What users would see of ``measure``'s proposals."""
    score, quality, *_ = found.unbind(1)
    logits = torch.logit((score / quality).clamp(1e-6, 1 - 1e-6))
    return torch.sigmoid(logits * factor + shift) * quality


def fit(found: Tensor) -> tuple[float, float]:
    """Factor and shift of the logit for the least squared error of the score."""
    numbers = torch.tensor([1.0, 0.0], dtype=found.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = ((scores(found, *numbers) - found[:, 2]).square() * found[:, 3]).sum()
        error.backward()  # type: ignore[no-untyped-call]
        return error

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    factor, shift = numbers.tolist()
    return factor, shift


def binned(
    score: Float[np.ndarray, " n"], iou: Float[np.ndarray, " n"]
) -> list[tuple[float, float, int]]:
    """Mean score, mean IoU and number of the proposals of each bin that holds any."""
    index = np.digitize(score, BINS[1:-1])
    return [
        (float(score[mine].mean()), float(iou[mine].mean()), int(mine.sum()))
        for mine in (index == k for k in range(len(BINS) - 1))
        if mine.any()
    ]


def calibration_error(score: Float[np.ndarray, " n"], iou: Float[np.ndarray, " n"]) -> float:
    """Mean distance of a proposal's bin from the diagonal (expected calibration error)."""
    return sum(abs(s - i) * count for s, i, count in binned(score, iou)) / len(score)


def draw(rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Reliability diagram: score against what the masks are worth."""
    figure, (axes, counts) = plt.subplots(
        2, 1, figsize=(4.5, 5.5), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    for (name, (score, iou)), color in zip(rows.items(), ("tab:orange", "tab:blue"), strict=True):
        means: Sequence[tuple[float, float, int]] = binned(score, iou)
        axes.plot([m[0] for m in means], [m[1] for m in means], "o-", color=color, label=name)
        counts.hist(score, BINS, histtype="step", color=color, log=True)
    axes.set(ylabel="mean IoU with the best labelled object", xlim=(0, 1), ylim=(0, 1))
    counts.set(xlabel="score", ylabel="proposals")
    axes.legend(loc="upper left")
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
