"""The papers' comparisons, at small scale: heads, refinement, ablations, all at one budget.

Trained rows have the MobileNetV2 trunk, start from its ImageNet file and see the same number of
scenes with the same seed; refinements stand on the head C trained here. The concatenated form is
the refactored row's model, its weights rewritten. Rows with the published trunks (VGG-A, ResNet-50)
have random weights: they show size, work and time. Ranking is the paper's: by score alone, masks
cut at .2. Runs resume where they were stopped.

    python benchmarks/paper_claims.py --train ANN.json --val ANN.json --images DIR --init FILE \
        --runs DIR
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from machine import store
from sharpmask.coco.annotations import CocoDataset, load_coco
from sharpmask.coco.reader import CocoFile, load_ground_truth
from sharpmask.evaluation.run import evaluate_model
from sharpmask.files import write_json
from sharpmask.geometry import OCTAVES, SHARPMASK_GEOMETRY
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import PatchModel, build, load_backbone
from sharpmask.models.sharpmask import SharpMask, convert_form
from sharpmask.training.recipes import RECIPES
from sharpmask.training.stages import train_stage, validator

TIMED_PROPOSALS = 500
TIMED_ROUNDS = 2
REFERENCE = "VGG-A, original head"


@dataclass(frozen=True)
class Row:
    """One line of the table; ``trained`` rows share the budget, others have random weights."""

    name: str
    architecture: dict[str, Any]
    trained: bool


def deepmask(backbone: str, head: str) -> dict[str, Any]:
    bottleneck = 64 if backbone == "mobilenet_v2" else 128
    options = {"backbone": backbone, "head": head, "bottleneck_channels": bottleneck}
    return {"model": "deepmask", **options}


def sharpmask(backbone: str, **options: Any) -> dict[str, Any]:
    return {"model": "sharpmask", "deepmask": deepmask(backbone, "c"), **options}


FIRST = "MobileNetV2, head C"
REFACTORED = "MobileNetV2, SharpMask, k = 32"
REFINEMENTS: dict[str, dict[str, Any]] = {
    "SharpMask, k = 32": {},
    "SharpMask, k = 16": {"mask_channels": 16, "skip_channels": 16},
    "SharpMask, k = 32, concatenated": {"form": "concatenated"},
    "SharpMask, k = 32 in every module (U-Net-like)": {"schedule": "constant"},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no lateral convolutions (deconvolution)": {"lateral": False},
    "no vertical convolutions (skip net)": {"vertical": False},
}

ROWS = (
    Row(REFERENCE, deepmask("vgg11", "original"), trained=False),
    *(Row(f"ResNet-50, head {h.upper()}", deepmask("resnet50", h), trained=False) for h in "abc"),
    *(
        Row(f"ResNet-50, {name}", sharpmask("resnet50", **options), trained=False)
        for name, options in (REFINEMENTS | ABLATIONS).items()
    ),
    Row("MobileNetV2, original head", deepmask("mobilenet_v2", "original"), trained=True),
    *(
        Row(f"MobileNetV2, head {h.upper()}", deepmask("mobilenet_v2", h), trained=True)
        for h in "abc"
    ),
    *(
        Row(f"MobileNetV2, {name}", sharpmask("mobilenet_v2", **options), trained=True)
        for name, options in (REFINEMENTS | ABLATIONS).items()
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=Path, action="append", required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150, help="of each stage")
    parser.add_argument("--photos", type=int, default=30, help="of --val, spread evenly by id")
    arguments = parser.parse_args()
    data = load_coco(arguments.train, arguments.images)
    validation = load_coco(arguments.val, arguments.images)
    truth = load_ground_truth(arguments.val, photos=True)
    images = sorted(truth.images, key=lambda image: image.id)
    spread = np.linspace(0, len(images) - 1, arguments.photos).astype(int)
    truth = replace(truth, images=tuple(images[k] for k in spread))
    models: dict[str, PatchModel] = {}
    table: dict[str, dict[str, Any]] = {row.name: {} for row in ROWS}
    for row in ROWS:
        if row.trained:
            models[row.name] = model = trained(row, models, data, arguments)
            measured = run_folder(row, arguments.runs) / "measured.json"
            if not measured.exists():
                write_json(measured, measure(model, validation, truth, arguments.images))
            table[row.name] |= json.loads(measured.read_text())
            print(row.name, table[row.name], flush=True)
    for row in ROWS:
        table[row.name] |= describe(untrained(row))
    for name, ratio in relative_times().items():
        table[name]["relative_time"] = ratio
    store(
        "paper_claims",
        {
            "config": {
                "steps_of_each_stage": arguments.steps,
                "scenes_in_a_step": RECIPES["deepmask"]().batch_size,
                "photos": len(truth.images),
                "train": [path.name for path in arguments.train],
                "val": arguments.val.name,
                "timed": f"640x480, 7 scales, {TIMED_PROPOSALS} proposals, float32",
            },
            "rows": table,
        },
    )


def run_folder(row: Row, runs: Path) -> Path:
    """Where a row's training and its figures are kept."""
    return runs / row.name.replace(" ", "_")


def untrained(row: Row) -> PatchModel:
    """The row's model with random weights."""
    model = build(row.architecture)
    assert isinstance(model, PatchModel)
    return model


def proposer(model: PatchModel, num_proposals: int) -> Proposer:
    """Ranked and cut as the paper does, at scales that show objects of the same sizes to all."""
    shift = math.log2(model.geometry.object_size / SHARPMASK_GEOMETRY.object_size)
    return Proposer(
        model,
        num_proposals=num_proposals,
        scales=[octave + shift for octave in OCTAVES],
        mask_threshold=0.2,
        quality_exponent=0,
        suppression=1,
        clean=False,
    )


def describe(model: PatchModel) -> dict[str, Any]:
    """Parameters, and the work for one image."""
    with FlopCounterMode(display=False) as counter:
        proposer(model, TIMED_PROPOSALS)(PHOTO)
    parameters = list(model.parameters())
    if isinstance(model, SharpMask):  # its DeepMask's own mask head is not used
        unused = {id(p) for p in model.deepmask.mask_head.parameters()}
        parameters = [p for p in parameters if id(p) not in unused]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "gflop": counter.get_total_flops() / 1e9,
    }


def relative_times() -> dict[str, float]:
    """Seconds for one image over those of the reference, all rows in turns."""
    seconds: dict[str, list[float]] = {row.name: [] for row in ROWS}
    for row in ROWS * (TIMED_ROUNDS + 1):
        run = proposer(untrained(row), TIMED_PROPOSALS)
        run(PHOTO[:160, :160])
        start = time.perf_counter()
        run(PHOTO)
        seconds[row.name].append(time.perf_counter() - start)
    # The first round warms up.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {name: median / medians[REFERENCE] for name, median in medians.items()}


def trained(
    row: Row, models: dict[str, PatchModel], data: CocoDataset, arguments: argparse.Namespace
) -> PatchModel:
    """The row's model after its budget."""
    torch.manual_seed(0)
    model = untrained(row)
    if row.architecture.get("form") == "concatenated":
        model.load_state_dict(convert_form(models[REFACTORED].state_dict(), "concatenated"))
        return model
    if isinstance(model, SharpMask):
        model.deepmask.load_state_dict(models[FIRST].state_dict())
        recipe = RECIPES["sharpmask"]()
    else:
        load_backbone(model.backbone, arguments.init)
        recipe = RECIPES["deepmask"]()
    steps = arguments.steps
    train_stage(
        model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        data=data,
        validation=None,
        recipe=replace(
            recipe, steps=steps, warmup_steps=steps // 10, epoch_steps=max(1, steps // 4)
        ),
        output=run_folder(row, arguments.runs),
        fabric=Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"),
    )
    return model


def measure(
    model: PatchModel, validation: CocoDataset, truth: CocoFile, images: Path
) -> dict[str, Any]:
    """Per-patch IoU, box and mask AR."""
    fabric = Fabric(accelerator="cpu", devices=1)
    evaluation = evaluate_model(truth, images, proposer(model, 1000))
    assert evaluation.masks is not None
    return {
        "patch_iou": validator(validation, model.geometry, 400, fabric)(model)["mean_iou"],
        "box_AR": evaluation.boxes.figures(),
        "mask_AR": evaluation.masks.figures(),
    }


PHOTO = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)

if __name__ == "__main__":
    main()
