"""Choose threshold, ranking and suppression on every third validation photo, by id.

At most ten candidates, so that the choice fits the photos as little as can be; the other photos,
on which nothing is chosen, are reported as "held_out" by release.py. Windows are read once.

    python benchmarks/ranking.py WEIGHTS ANN.json IMAGES
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from machine import store
from sharpmask.coco.annotations import photo_of
from sharpmask.coco.reader import load_ground_truth
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.evaluation.evaluator import ProposalEvaluator
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import load

CANDIDATES: tuple[dict[str, Any], ...] = (
    {"mask_threshold": 0.2, "quality_exponent": 0, "suppression": 1},
    {"mask_threshold": 0.35, "quality_exponent": 0, "suppression": 0.7},
    {"mask_threshold": 0.35, "quality_exponent": 1, "suppression": 0.7},
    {"mask_threshold": 0.35, "quality_exponent": 2, "suppression": 0.7},
    {"mask_threshold": 0.35, "quality_exponent": 2, "suppression": 0.6},
    {"mask_threshold": 0.35, "quality_exponent": 2, "suppression": 0.8},
    {"mask_threshold": 0.5, "quality_exponent": 1, "suppression": 0.7},
    {"mask_threshold": 0.5, "quality_exponent": 2, "suppression": 0.7},
    {"mask_threshold": 0.35, "quality_exponent": 2, "suppression": 0.7, "num_candidates": 2000},
)


class RememberingEngine(TorchEngine):
    """Does nothing twice for the photo at hand."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.forget()

    def forget(self) -> None:
        self.read: dict[tuple[int, ...], Any] = {}
        self.masks: dict[tuple[int, bytes], Any] = {}

    def encode(self, image: np.ndarray) -> Any:
        if image.shape not in self.read:
            self.read[image.shape] = super().encode(image)
        return self.read[image.shape]

    def decode(self, features: Any, cells: np.ndarray) -> np.ndarray:
        key = id(features), cells.tobytes()
        if key not in self.masks:
            self.masks[key] = super().decode(features, cells)
        decoded: np.ndarray = self.masks[key]
        return decoded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    arguments = parser.parse_args()
    truth = load_ground_truth(arguments.annotations, photos=True)
    engine = RememberingEngine(load(arguments.weights), torch.device("cpu"))
    proposers = [Proposer(engine, num_proposals=1000, **settings) for settings in CANDIDATES]
    evaluators = [ProposalEvaluator(boundary=False) for _ in CANDIDATES]
    chosen = sorted(truth.images, key=lambda image: image.id)[::3]
    for image in track(chosen, "ranking"):
        engine.forget()
        for proposer, evaluator in zip(proposers, evaluators, strict=True):
            photo = photo_of(image, arguments.images)
            evaluator.add(image, proposer(photo.path).to_coco(int(image.id)))
    rows = []
    for settings, evaluator in zip(CANDIDATES, evaluators, strict=True):
        recall = evaluator.summarize().masks
        assert recall is not None
        rows.append({**settings, "mask_AR": recall.figures()})
    store("ranking", {"weights": Path(arguments.weights).name, "photos": len(chosen), "rows": rows})


if __name__ == "__main__":
    main()
